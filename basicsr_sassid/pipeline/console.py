"""What `sassid clean` prints: the survey and the result on stdout, progress and skipped files on stderr."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from basicsr_sassid.noise.model import NoiseModel
from basicsr_sassid.noise.survey import Survey, describe_groups
from basicsr_sassid.pipeline.diagnostics import Finding
from basicsr_sassid.pipeline.planning import TOLERANCE, Budget
from basicsr_sassid.training.budget import Plan
from basicsr_sassid.utils.errors import printable
from basicsr_sassid.utils.sequences import count_noun

_BAR = '{desc} {percentage:3.0f}%|{bar}| {elapsed}'
_BAR_WITH_TIME_LEFT = _BAR + ', {remaining} left'


def print_survey(survey: Survey, noise: NoiseModel, megapixels: float) -> None:
    """Print what was measured, and whether the photographs belong together."""
    print(
        f'{count_noun(len(survey.photos), "photograph")}, {megapixels:.1f} megapixels; noise of '
        f'{noise.describe_sigma()}, correlated over {count_noun(noise.correlation_length(), "pixel")}',
        flush=True,
    )
    if 0 < survey.num_grey < survey.num_measured:
        print(
            f'{survey.num_grey} of {survey.num_measured} are grey, the others in colour: one network is trained on '
            'all of them.'
        )
    if len(survey.groups) > 1:
        print(
            'Their noise differs; denoised group by group the results would be better:\n'
            + printable('\n'.join(describe_groups(survey.groups)), newlines=True),
            flush=True,
        )


def print_plan(budget: Budget, plan: Plan, megapixels: float) -> None:
    """Print what is planned; on stderr where the run takes longer than its minutes."""
    fits = budget.total(plan) <= TOLERANCE * 60 * budget.minutes
    print(budget.describe(plan, megapixels), file=sys.stdout if fits else sys.stderr, flush=True)


def print_findings(findings: Sequence[Finding]) -> None:
    """Print the problems that were detected, each with what to do."""
    for finding in findings:
        print(f'note: {finding.text} {finding.action[0].upper()}{finding.action[1:]}.', file=sys.stderr)


def print_result(failed: Mapping[str, str], num_done: int, output: Path, report: Path) -> None:
    """Print the skipped files with the reason, the number of denoised photographs and the report."""
    for file, reason in failed.items():
        print(printable(f'left out: {file}: {reason}'), file=sys.stderr)
    print(f'{count_noun(num_done, "photograph")} in {printable(output)}\nReport: {printable(report)}')


class ProgressBar:
    """A progress bar on stderr over the steps of a run. It appears with the first step.

    Args:
        telling: fraction of a step after which its speed tells the time left.
        smoothing: tqdm's: 0 is the mean speed of the step, 1 the speed of the moment.
    """

    def __init__(self, telling: float = 0.1, smoothing: float = 0.3) -> None:
        self.telling, self.smoothing = telling, smoothing
        self.bar: tqdm | None = None
        self._is_first = True  # call of show in the step

    def step(self, text: str, total: float | None = None) -> None:
        """Start a step; with ``total`` the bar starts again from 0."""
        if self.bar is None:
            seconds = 0.5 if sys.stderr.isatty() else 30
            self.bar = tqdm(total=1, file=sys.stderr, mininterval=seconds, bar_format=_BAR, smoothing=self.smoothing)
        self.bar.set_description(text, refresh=total is None)
        if total is not None:
            self.bar.bar_format, self.bar.initial, self._is_first = _BAR, 0, True
            self.bar.reset(total=total)

    def show(self, done: float, text: str = '') -> None:
        """Show how much of the total is done; the time left, once a tenth of the step tells it."""
        if self.bar is not None:
            if text:
                self.bar.set_description(text, refresh=False)
            if self._is_first:  # of a run that continues: no time was spent on what is done
                self.bar.initial, self._is_first = done, False
            elif self.bar.total and done - self.bar.initial > self.telling * self.bar.total:
                self.bar.bar_format = _BAR_WITH_TIME_LEFT
            self.bar.update(done - self.bar.n)

    def change_total(self, total: float) -> None:
        """Correct the total of the step."""
        if self.bar is not None:
            self.bar.total = total

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()
