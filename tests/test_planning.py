"""The minutes of a run of `sassid clean`: plans on simulated machines, corrected by the time that the BNN takes."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from basicsr_sassid.pipeline.console import print_plan
from basicsr_sassid.pipeline.options import EFFORTS
from basicsr_sassid.pipeline.planning import Budget, StageClock, correct_plan, seconds_done
from basicsr_sassid.training.budget import REPEATS, Plan, StepTimes

MINUTES = [minutes for minutes in EFFORTS.values() if minutes]


@dataclasses.dataclass(frozen=True)
class Machine:
    """Seconds on a simulated machine.

    Attributes:
        bnn, unet, teacher: an iteration of the BNN, one of the student with a cache, and a prediction of the BNN.
        setup: the networks of a stage are built and tried.
        megapixel: of a photograph that is denoised.
    """

    bnn: float
    unet: float
    teacher: float
    setup: float
    megapixel: float

    def scaled(self, factor: float) -> Machine:
        return Machine(**{name: factor * seconds for name, seconds in dataclasses.asdict(self).items()})

    def step_times(self, batches: float) -> StepTimes:
        return StepTimes(
            {'bnn': self.bnn, 'unet': self.unet},
            {'bnn': 0.8 * self.teacher},
            {'bnn': self.teacher},
            {'bnn': (), 'unet': ('bnn',)},
            batches,
        )


# two cores; without AVX-512 the steps are in float32, and those of the BNN are slower by more than the student's
MACHINES = {
    'avx512': Machine(bnn=0.11, unet=0.035, teacher=0.03, setup=2.0, megapixel=2.5),
    'avx2': Machine(bnn=0.33, unet=0.07, teacher=0.11, setup=3.0, megapixel=3.5),
}
SPEEDS = {'five times slower': 5.0, 'as measured': 1.0, 'five times faster': 0.2}
# photographs in megapixels, seconds of survey and training set for each
SMALL, LARGE = 3.0, 34.0
_SURVEY = 0.3


def planned(machine: Machine, minutes: float, megapixels: float) -> tuple[Budget, Plan]:
    """The plan on a machine whose measured times are its own."""
    batches = 4 * megapixels * 1e6 / (2 * 128**2)
    survey = 5 + _SURVEY * megapixels + REPEATS * (machine.bnn + machine.unet + machine.teacher)
    budget = Budget(minutes, survey, machine.setup, 70 * machine.bnn, machine.megapixel * megapixels)
    return budget, budget.plan(machine.step_times(batches))


def simulate(machine: Machine, budget: Budget, plan: Plan, megapixels: float) -> float:
    """Seconds of a whole run on a machine, whose plan may be that of another one."""
    now = 0.0
    clock = StageClock(lambda: now)
    now += machine.setup
    for _ in range(plan.iters['bnn']):
        now += machine.bnn
        clock.tick()
    now += 70 * machine.bnn
    spent, slowdown = clock.spent(plan.seconds['bnn'], plan.iters['bnn']), clock.slowdown(plan.seconds['bnn'])
    plan = correct_plan(plan, budget.training - budget.setup - spent, slowdown)
    batches = 4 * megapixels * 1e6 / (2 * 128**2)
    is_cached = plan.teacher_cache == 'lmdb'
    now += machine.setup + (batches * machine.teacher if is_cached else 0)
    now += plan.iters['unet'] * (machine.unet + (0 if is_cached else 0.8 * machine.teacher))
    return budget.spent + now + machine.megapixel * megapixels


@pytest.mark.parametrize('minutes', MINUTES)
@pytest.mark.parametrize('megapixels', [SMALL, LARGE])
@pytest.mark.parametrize('factor', SPEEDS.values(), ids=SPEEDS.keys())
@pytest.mark.parametrize('machine', MACHINES.values(), ids=MACHINES.keys())
def test_budget_whole_run_keeps_its_minutes_or_says_that_it_cannot(machine, factor, megapixels, minutes):
    machine = machine.scaled(factor)
    budget, plan = planned(machine, minutes, megapixels)
    seconds = simulate(machine, budget, plan, megapixels)
    assert seconds < 1.05 * budget.total(plan)
    said = budget.describe(plan, megapixels)
    if budget.spent + budget.denoising <= 30 * minutes and min(plan.iters.values()) > 30:  # half of the minutes
        assert seconds == pytest.approx(60 * minutes, rel=0.15) and said.startswith(f'{minutes:g} minutes: ')
    else:
        assert seconds < 1.15 * 60 * minutes or 'minutes in all' in said or 'shortest training' in said


@pytest.mark.parametrize('drift', [0.7, 1.3, 1.5])
@pytest.mark.parametrize('machine', MACHINES.values(), ids=MACHINES.keys())
def test_budget_training_slower_or_faster_than_measured_keeps_its_minutes(machine, drift):
    budget, plan = planned(machine, 20, SMALL)
    assert simulate(machine.scaled(drift), budget, plan, SMALL) == pytest.approx(20 * 60, rel=0.15)


@pytest.mark.parametrize('machine', MACHINES.values(), ids=MACHINES.keys())
def test_budget_without_correction_would_not_keep_them(machine, monkeypatch):
    monkeypatch.setitem(globals(), 'correct_plan', lambda plan, *_: plan)
    budget, plan = planned(machine, 20, SMALL)
    assert simulate(machine.scaled(1.5), budget, plan, SMALL) > 1.3 * 20 * 60


@pytest.mark.parametrize('megapixels', [100, 1000])
def test_budget_many_photographs_leave_half_of_the_minutes_to_the_training(megapixels):
    budget, plan = planned(MACHINES['avx2'], 5, megapixels)
    assert plan.total_seconds() + budget.overhead == pytest.approx(150, abs=2)


def test_budget_bnn_of_least_length_leaves_the_rest_to_the_student():
    budget = Budget(5, spent=50, setup=3, selection=30, denoising=40)
    plan = budget.plan(StepTimes({'bnn': 4.0, 'unet': 0.5}, {}, {}, {'bnn': (), 'unet': ()}, 0))
    assert plan.iters == {'bnn': 30, 'unet': 108} and budget.total(plan) <= 300


# ---- what is said ----


def test_budget_describe_names_all_parts():
    budget = Budget(20, spent=42, setup=3, selection=6, denoising=4.1 * 60)
    plan = Plan({'bnn': 1000, 'unet': 4000}, {'bnn': 0.3, 'unet': 0.15}, 'off', 0.0)
    assert budget.describe(plan, 34) == '20 minutes: 15.2 of training, 4.1 of denoising 34 megapixels and the report'


def test_budget_describe_without_photographs_names_the_training_alone():
    plan = Plan({'bnn': 1000, 'unet': 4000}, {'bnn': 0.3, 'unet': 0.15}, 'off', 0.0)
    assert Budget(16, 42, 3, 6, 0.0).describe(plan, 34) == '16 minutes: 15.2 of training'


def test_budget_describe_many_photographs_tells_the_minutes_of_all_steps():
    budget, plan = planned(MACHINES['avx2'], 5, 340.0)
    assert budget.describe(plan, 340.0) == (
        '5 minutes are too few for these photographs: denoising 340 megapixels and the report take about 19.8 minutes '
        'on this machine, after 2.5 of training; about 24.2 minutes in all. --effort instant trains nothing.'
    )


@pytest.mark.parametrize(('minutes', 'is_said'), [(0.1, True), (3, False), (1.3, False)])
def test_print_plan_shortest_training_is_said_where_the_minutes_are_too_few(minutes, is_said, capsys):
    budget = Budget(minutes, spent=0, setup=3, selection=6, denoising=0)
    print_plan(budget, Plan({'bnn': 30, 'unet': 30}, {'bnn': 1.0, 'unet': 1.2}, 'off', 0.0), 1.0)
    captured = capsys.readouterr()
    assert ('less than the shortest training on this machine (30' in captured.err) == is_said
    assert ('about 1.3 minutes' in captured.err) == is_said == (not captured.out)


# ---- the parts of a plan ----


@pytest.mark.parametrize(
    ('stage', 'iteration', 'seconds'), [('bnn', 6, 3), ('unet', 0, 15), ('unet', 2, 21), ('unet', 4, 27)]
)
def test_seconds_done_counts_the_cache_after_the_first_stage(stage, iteration, seconds):
    plan = Plan({'bnn': 10, 'unet': 4}, {'bnn': 0.5, 'unet': 3.0}, 'lmdb', 10.0)
    assert seconds_done(plan, stage, iteration) == seconds


PLAN = Plan({'bnn': 100, 'unet': 400}, {'bnn': 0.5, 'unet': 0.1}, 'lmdb', 10.0)


@pytest.mark.parametrize(
    ('left', 'slowdown', 'length'), [(50, 1, 400), (70, 1, 600), (70, 2, 250), (5, 1, 100), (-9, 1, 100)]
)
def test_correct_plan_student_fits_into_what_is_left_and_is_as_long_as_the_bnn(left, slowdown, length):
    assert correct_plan(PLAN, left, slowdown).iters == {'bnn': 100, 'unet': length}


def test_correct_plan_has_the_times_of_the_bnn():
    corrected = correct_plan(PLAN, 70, 2.0)
    assert (corrected.seconds, corrected.cache_seconds) == ({'bnn': 1.0, 'unet': 0.2}, 20.0)


def clock_after(steps: int, seconds: float, pause: float = 0.0) -> StageClock:
    times = itertools.chain([0.0], (pause + seconds * number for number in range(steps)), itertools.repeat(100.0))
    clock = StageClock(lambda: next(times))
    for _ in range(steps):
        clock.tick()
    return clock


@pytest.mark.parametrize(('steps', 'slowdown'), [(5, 1.0), (50, 3.0)])
def test_stage_clock_slowdown_needs_a_few_iterations(steps, slowdown):
    assert clock_after(steps, 0.3, pause=20).slowdown(0.1) == pytest.approx(slowdown)


@pytest.mark.parametrize(('iterations', 'spent'), [(50, 100), (70, 106)])
def test_stage_clock_spent_counts_the_iterations_of_earlier_calls(iterations, spent):
    assert clock_after(50, 0.3).spent(0.1, iterations) == pytest.approx(spent)


def test_stage_clock_time_between_stages_is_no_iteration():
    now = 0.0
    clock = StageClock(lambda: now)
    for _stage in range(2):
        clock.start_stage()
        now += 60
        for _ in range(20):
            now += 0.1
            clock.tick()
    assert clock.slowdown(0.1) == pytest.approx(1) and clock.iterations == 40
