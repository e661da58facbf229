"""The display of a demo: one bar over all of it, with stage, time left and PSNR."""

from __future__ import annotations

import time

from tqdm import tqdm

from basicsr_sassid.pipeline.console import ProgressBar

_LEAST_DONE = 10.0  # seconds, after which the speed so far corrects the planned time


class DemoProgress:
    """A progress bar on stderr over the seconds of a demo.

    Args:
        started: ``time.time()`` at the start.
        seconds: of the demo.
    """

    def __init__(self, started: float, seconds: float) -> None:
        self.started = started
        self.bar = ProgressBar(telling=0.0, smoothing=0.0)  # the fractions that it gets are those of the time
        self._ends = started + seconds
        self._planned = seconds
        self._first: tuple[float, float] | None = None  # time and planned seconds done at the first call of show

    def __enter__(self) -> DemoProgress:
        self.bar.step('starting', total=1.0)
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def say(self, text: str) -> None:
        """Print a line on stdout, above the bar."""
        tqdm.write(text)

    def stage(self, text: str) -> None:
        """Show a stage by the time alone."""
        self._show(text, self._ends)
        if self.bar.bar is not None:  # at once: the next call may be far
            self.bar.bar.refresh()

    def follow(self, planned: float) -> None:
        """From now on the time left is that of a plan: seconds of all that follows."""
        self._planned, self._first = planned, None
        self._ends = time.time() + planned

    def show(self, text: str, done: float) -> None:
        """Show how many of the planned seconds are done; the speed since the first call corrects the time left."""
        now = time.time()
        if self._first is None:  # what an earlier call has done took no time in this one
            self._first = now, done
        since, before = self._first
        speed = (now - since) / (done - before) if done - before > _LEAST_DONE else 1.0
        self._ends = now + max(self._planned - done, 0.0) * speed
        self._show(text, self._ends)

    def _show(self, text: str, ends: float) -> None:
        elapsed = time.time() - self.started
        left = max(ends - time.time(), 0.0)
        self.bar.show(elapsed / max(elapsed + left, 1e-6), text)
