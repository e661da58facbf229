"""Iterations that fit into a budget of minutes, from step times measured on the machine at hand."""

from __future__ import annotations

import copy
import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from basicsr.models import build_model

from basicsr_sassid.ops.sliding_window import sliding_window_cost
from basicsr_sassid.training.datasets import open_dataset
from basicsr_sassid.training.options import resolve_options
from basicsr_sassid.training.runtime import silence
from basicsr_sassid.utils.sequences import Progress, scaled

MIN_ITERATIONS = 30  # of a stage, whatever the budget
_WARM_UP, _MEASURED = 3, 7  # steps
REPEATS = _WARM_UP + _MEASURED


@dataclasses.dataclass(frozen=True)
class StepTimes:
    """Measured times of a training, in seconds.

    Attributes:
        step: stage -> one iteration, its cached teachers' predictions being given.
        teacher: teacher -> its prediction of one batch on the fly.
        cached_teacher: the same for the cache, which may hold predictions with several blind sizes.
        cached: stage -> the teachers whose predictions can be cached.
        cache_batches: batches that one pass of a teacher over the whole set is worth.
    """

    step: dict[str, float]
    teacher: dict[str, float]
    cached_teacher: dict[str, float]
    cached: dict[str, tuple[str, ...]]
    cache_batches: float

    def building(self, measuring: float) -> float:
        """Seconds in which networks and data were built, of the ``measuring`` seconds that the measurement took."""
        return max(measuring - REPEATS * (sum(self.step.values()) + sum(self.cached_teacher.values())), 0.0)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Lengths of the stages.

    Attributes:
        iters: stage -> iterations.
        seconds: stage -> seconds of one iteration.
        teacher_cache: ``lmdb`` or ``off``.
        cache_seconds: time to build the cache.
    """

    iters: dict[str, int]
    seconds: dict[str, float]
    teacher_cache: str
    cache_seconds: float

    def total_seconds(self) -> float:
        """Expected time of the whole training."""
        return sum(length * self.seconds.get(stage, 0.0) for stage, length in self.iters.items()) + self.cache_seconds

    def to_dict(self) -> dict[str, Any]:
        """The plan as values that JSON has."""
        return {
            'iter': self.iters,
            'seconds': self.seconds,
            'teacher_cache': self.teacher_cache,
            'cache_seconds': self.cache_seconds,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Plan:
        """Inverse of :meth:`to_dict`."""
        return cls(dict(content['iter']), dict(content['seconds']), content['teacher_cache'], content['cache_seconds'])

    def apply(self, opt: dict[str, Any]) -> None:
        """Set the lengths, and the teacher cache where the options name one."""
        for stage, length in self.iters.items():
            opt['train']['stages'][stage]['iter'] = length
        if 'teacher_cache' in opt['train']:
            opt['train']['teacher_cache'] = self.teacher_cache


def plan_training(
    opt: Mapping[str, Any],
    folder: str | os.PathLike[str],
    minutes: float,
    ratio: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Measure a step of each stage, and divide the minutes among them.

    Args:
        opt: options of a StagedModel, not resolved; not changed.
        folder: where the training would run; nothing is written.
        minutes: for all stages.
        ratio: of the stages' iterations; by default the options' own.
        progress: called with the fraction of the measurement that is done, 0 to 1.
    """
    ratio = ratio or {stage: block['iter'] for stage, block in opt['train']['stages'].items()}
    return allocate_budget(
        measure_step_times(opt, folder, [stage for stage, share in ratio.items() if share], progress), ratio, minutes
    )


def allocate_budget(times: StepTimes, ratio: Mapping[str, int], minutes: float) -> Plan:
    """Divide minutes among stages in a ratio of iterations, with a teacher cache where that gives more of them."""
    budget = 60 * minutes
    stages = [stage for stage, share in ratio.items() if share]
    cache_seconds = times.cache_batches * sum(times.cached_teacher.values())
    rounds_cached = (budget - cache_seconds) / sum(ratio[stage] * times.step[stage] for stage in stages)
    live = {stage: times.step[stage] + sum(times.teacher[name] for name in times.cached[stage]) for stage in stages}
    rounds_live = budget / sum(ratio[stage] * live[stage] for stage in stages)
    use_cache = rounds_cached > rounds_live and bool(times.teacher)
    rounds = max(rounds_cached, rounds_live)
    return Plan(
        {stage: max(int(rounds * share), MIN_ITERATIONS) if share else 0 for stage, share in ratio.items()},
        times.step if use_cache else live,
        'lmdb' if use_cache else 'off',
        cache_seconds if use_cache else 0.0,
    )


def measure_step_times(
    opt: Mapping[str, Any], folder: str | os.PathLike[str], stages: list[str], progress: Progress | None = None
) -> StepTimes:
    """Build the model and time some steps of the given stages and of their teachers."""
    opt = copy.deepcopy(dict(opt))
    for stage, block in opt['train']['stages'].items():
        block['iter'] = 10 if stage in stages else 0
    if 'teacher_cache' in opt['train']:
        opt['train']['teacher_cache'] = 'off'  # the cost and the saving are computed from the times
    opt = resolve_options(opt, folder, True)
    silence()
    dataset = open_dataset(opt['datasets']['train'], 'datasets.train')
    model = build_model(opt)
    batch = opt['datasets']['train']['batch_size_per_gpu']
    patches = torch.stack([dataset[index % len(dataset)]['lq'] for index in range(batch)])
    rows = {row.name: row for row in model.stages if row.name in stages}
    step = {}
    for index, (name, row) in enumerate(rows.items()):
        model.prepare_stage(10 * index + 1, dataset)
        sample = {
            'lq': patches,
            **{f'teacher_{name}': patches.repeat(1, model.num_targets(name), 1, 1) for name in row.cached},
        }
        model.update_learning_rate(10 * index + 1)
        step[name] = median_seconds(lambda sample=sample: (model.feed_data(sample), model.optimize_parameters(1)))
        scaled(progress, index / len(rows), 1 / len(rows))(1.0)
    model.cached_targets = {}

    def teacher_step(teacher: str) -> None:
        with model.autocast():
            model.pseudo_target(teacher, patches.to(model.device) * model.img_range)

    cached_teacher = {
        name: median_seconds(lambda name=name: teacher_step(name))
        for name in sorted({name for row in rows.values() for name in row.cached})
    }
    teacher = {name: seconds / model.cache_cost(name) for name, seconds in cached_teacher.items()}
    windows = sum(sliding_window_cost(size, dataset.patch_size) for size in dataset.sizes)
    return StepTimes(
        step,
        teacher,
        cached_teacher,
        {name: row.cached for name, row in rows.items()},
        windows / (dataset.patch_size**2 * batch),
    )


def median_seconds(step: Callable[[], object]) -> float:
    """Median wall-clock time of a call, after a warm-up."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return float(np.median(times[_WARM_UP:]))
