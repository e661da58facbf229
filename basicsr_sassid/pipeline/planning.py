"""The minutes of a run divided among its steps, from times measured on the machine.

The minutes bound the whole run: survey, training set, measurements, training, blend, photographs, report. The training
gets what the other steps leave, and never less than :data:`LEAST_TRAINING` of the minutes: a run of many photographs
takes longer than its minutes, which is printed beforehand. The first stage shows how fast the training is in fact; the
length of the second stage follows from that once, before it starts.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from basicsr_sassid.training.budget import MIN_ITERATIONS, Plan, StepTimes, allocate_budget

STAGES = ('bnn', 'unet')
RATIO = {'bnn': 1, 'unet': 4}  # of the stages' iterations, as in train_cpu.yml
LEAST_TRAINING = 0.5  # of the minutes, however long the photographs take
TOLERANCE = 1.05  # times the minutes: a plan above it is announced as longer
_LEAST_STEPS = 10  # iterations that tell the speed of a stage


@dataclasses.dataclass(frozen=True)
class Budget:
    """Seconds of a run around the iterations of its training.

    Attributes:
        minutes: of the run.
        spent: until the plan is made: survey, training set, measurements.
        setup: at the start of each stage: its networks and data are built and tried.
        selection: between the stages: the BNN's checkpoint is chosen and diagnosed, its blind sizes are measured.
        denoising: blend, photographs and report; 0 where no photograph is written.
    """

    minutes: float
    spent: float
    setup: float
    selection: float
    denoising: float

    @property
    def overhead(self) -> float:
        """Seconds of the training outside of its iterations and its teacher cache."""
        return len(STAGES) * self.setup + self.selection

    @property
    def training(self) -> float:
        """Seconds for the training with its overhead."""
        return max(60 * self.minutes - self.spent - self.denoising, LEAST_TRAINING * 60 * self.minutes)

    def plan(self, times: StepTimes) -> Plan:
        """Lengths of the stages that fit; where the BNN has its least length, the student has what is left."""
        seconds = self.training - self.overhead
        plan = allocate_budget(times, RATIO, seconds / 60)
        if plan.iters['bnn'] > MIN_ITERATIONS:
            return plan
        return correct_plan(plan, seconds - plan.iters['bnn'] * plan.seconds['bnn'], 1.0)

    def total(self, plan: Plan) -> float:
        """Expected seconds of the whole run."""
        return self.spent + self.overhead + plan.total_seconds() + self.denoising

    def describe(self, plan: Plan, megapixels: float) -> str:
        """What is planned, in one line.

        Args:
            plan: of the training.
            megapixels: of all photographs.
        """
        training = (plan.total_seconds() + self.overhead) / 60
        denoising, total = self.denoising / 60, self.total(plan) / 60
        photographs = f'denoising {megapixels:.{0 if megapixels >= 9.5 else 1}f} megapixels and the report'
        if total <= TOLERANCE * self.minutes:
            return f'{self.minutes:g} minutes: {training:.1f} of training' + (
                f', {denoising:.1f} of {photographs}' if denoising else ''
            )
        if training * 60 > TOLERANCE * self.training:
            return (
                f'--minutes {self.minutes:g} is less than the shortest training on this machine ({MIN_ITERATIONS} '
                f'iterations of each stage: about {training:.1f} minutes) and the other steps take: about {total:.1f} '
                'minutes in all' + (f', {denoising:.1f} of {photographs}' if denoising else '') + '. --effort instant '
                'trains nothing.'
            )
        return (
            f'{self.minutes:g} minutes are too few for these photographs: {photographs} take about {denoising:.1f} '
            f'minutes on this machine, after {training:.1f} of training; about {total:.1f} minutes in all. '
            '--effort instant trains nothing.'
        )


def seconds_done(plan: Plan, stage: str, iteration: int) -> float:
    """Planned seconds up to an iteration of a stage. The teacher cache is built before the student's stage."""
    done = {**plan.iters, **dict.fromkeys(STAGES[STAGES.index(stage) :], 0), stage: iteration}
    cache_seconds = plan.cache_seconds if stage != STAGES[0] else 0.0
    return sum(done[name] * plan.seconds[name] for name in STAGES) + cache_seconds


def correct_plan(plan: Plan, left: float, slowdown: float) -> Plan:
    """The plan with the length of the student's stage that fits into the seconds that are left.

    Args:
        plan: whose first stage is done.
        left: seconds for the teacher cache and the student's iterations.
        slowdown: seconds of an iteration of the first stage, as a multiple of the planned ones.

    Returns:
        The plan with the times that are expected now. The student's stage is at least as long as the BNN's: a training
        that became much slower takes longer than planned.
    """
    seconds = {stage: slowdown * step for stage, step in plan.seconds.items()}
    cache_seconds = slowdown * plan.cache_seconds
    length = int((left - cache_seconds) / seconds['unet'])
    iters = {**plan.iters, 'unet': max(length, plan.iters['bnn'], MIN_ITERATIONS)}
    return dataclasses.replace(plan, iters=iters, seconds=seconds, cache_seconds=cache_seconds)


class StageClock:
    """Time that a training takes, and the speed of its iterations.

    Args:
        clock: seconds that only increase.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._last: float | None = None
        self._steps, self._seconds = 0, 0.0
        self.iterations = 0  # made in this call

    def start_stage(self) -> None:
        """Leave the time between two stages out of the iterations' speed."""
        self._last = None

    def tick(self) -> None:
        """Count an iteration, after it."""
        now = self._clock()
        self.iterations += 1
        if self._last is not None:
            self._steps, self._seconds = self._steps + 1, self._seconds + now - self._last
        self._last = now

    def slowdown(self, planned: float) -> float:
        """Seconds of an iteration as a multiple of the planned ones; 1 where too few were made to tell."""
        return self._seconds / self._steps / planned if self._steps >= _LEAST_STEPS and planned > 0 else 1.0

    def spent(self, planned: float, iterations: int) -> float:
        """Seconds of the training so far.

        Args:
            planned: seconds of an iteration.
            iterations: that the training has made; those of earlier calls count with the speed of this one's.
        """
        earlier = max(iterations - self.iterations, 0)
        return self._clock() - self._started + earlier * planned * self.slowdown(planned)
