"""PSNR cost of each fast path, and PSNR against wall-clock time.

    python ablations/quality.py --minutes 10 --noisy sidd_val/noisy --reference sidd_val/clean -o results/race.json
    python ablations/quality.py --compare teacher_cache --noisy sidd_val/noisy --reference sidd_val/clean
    python ablations/quality.py --compare precision                  # the demo's simulated photographs
    python ablations/quality.py --compare blind_size --noisy ... --reference ...    # the paper's 9 or as measured

--minutes: the reference implementation (tests/reference.py, float32, teachers predict at every step) and ours train in
turn for the same minutes on the same patches with the same learning rates. --compare: equal seeds and iterations, a
fast path on and off, three seeds; the teachers are the same where the path does not change them.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from common import Pairs, Photographs, add_photograph_arguments, mean_psnr  # isort: skip
from common import network_psnr, read_photographs, small_training  # isort: skip

from basicsr_sassid import Denoiser
from basicsr_sassid.data.noisy_image_dataset import NoisyImageDataset
from basicsr_sassid.data.sampler import RunSampler, SeededDataset
from basicsr_sassid.io.atomic import write_json
from basicsr_sassid.models.three_stage_model import ThreeStageModel
from basicsr_sassid.pipeline.student import bnn_blind_size
from basicsr_sassid.training.budget import plan_training
from basicsr_sassid.training.loop import train
from basicsr_sassid.training.options import resolve_options

import reference  # isort: skip
from training_steps import STAGES, WIDTHS, reference_steps  # isort: skip

RECIPE = 'sassid/three_stages_cpu.yml'
FRACTIONS = {'bnn': 0.4, 'lan': 0.25, 'unet': 0.35}  # of the minutes
RATES = {'bnn': 2e-3, 'lan': 2e-3, 'unet': 2e-3}
WARM_UP = 0.03  # of a stage
POINTS = 12  # of a curve


# ---- a race over minutes ----


class Racer(Protocol):
    """A training that runs stage by stage."""

    dataset: NoisyImageDataset

    def start(self, stage: str) -> None:
        """Prepare a stage."""
        ...

    def step(self, stage: str, sample: dict, rate: float) -> None:
        """One iteration with a learning rate."""
        ...

    def network(self, stage: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """The network in training: (1, 3, H, W) in grey levels to the same."""
        ...


class OurRacer:
    """The model as a training builds it."""

    def __init__(self, photographs: Photographs, folder: Path, minutes: float) -> None:
        opt = small_training(RECIPE, 'race', photographs, 0)
        # a teacher cache where building it takes little of the LAN's time, from which it is taken here
        plan = plan_training(opt, folder, minutes)
        is_cheap = 0 < plan.cache_seconds < 0.1 * 60 * minutes * FRACTIONS['lan']
        opt['train']['teacher_cache'] = 'memory' if is_cheap else 'off'
        self.model = ThreeStageModel(resolve_options(opt, folder, True))
        self.dataset = NoisyImageDataset(self.model.opt['datasets']['train'])
        self.first_iters = dict(zip(STAGES, np.cumsum([1, *self.model.stage_iters]).tolist()))

    def start(self, stage: str) -> None:
        """Prepare a stage."""
        self.model.prepare_stage(self.first_iters[stage], self.dataset)
        self.model.start_stage(STAGES.index(stage))

    def step(self, stage: str, sample: dict, rate: float) -> None:
        """One iteration with a learning rate."""
        self.model.optimizers[0].param_groups[0]['lr'] = rate
        self.model.feed_data(sample)
        self.model.optimize_parameters(1)

    def network(self, stage: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """The network in training, in evaluation mode."""
        return self.model.nets[self.model.stage.network].eval()


class ReferenceRacer:
    """The reference implementation, with the widths and sizes of the recipe."""

    def __init__(self, photographs: Photographs, blind_size: int = 9) -> None:
        self.dataset = NoisyImageDataset(
            {'phase': 'train', 'dataroot_lq': str(photographs.database), 'patch_size': 128}
        )
        self.blind_size, self.receptive_size = blind_size, WIDTHS['cpu']['receptive_size']
        self.steps, self.states, self.optimizers = reference_steps(
            WIDTHS['cpu'], torch.device('cpu'), blind_size, clip=100.0
        )

    def start(self, stage: str) -> None:
        """Nothing to prepare."""

    def step(self, stage: str, sample: dict, rate: float) -> None:
        """One iteration with a learning rate."""
        self.optimizers[stage].param_groups[0]['lr'] = rate
        self.steps[stage](sample['lq'] * 255)

    def network(self, stage: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """The network in training."""
        state = self.states[stage]
        return {
            'bnn': lambda x: reference.bnn(state, x, self.blind_size),
            'lan': lambda x: reference.lan(state, x, self.receptive_size),
            'unet': lambda x: reference.unet(state, x),
        }[stage]


def patches(dataset: NoisyImageDataset, batch: int) -> Iterator[dict]:
    """Batches without end: the same for both racers."""
    return iter(
        torch.utils.data.DataLoader(
            SeededDataset(dataset, 0), batch_sampler=RunSampler(len(dataset), batch, 0, 10**6, 0)
        )
    )


def race(racer: Racer, pairs: Pairs, minutes: float) -> list[dict]:
    """Train for minutes by a clock that is stopped during evaluations. Returns the points of the curve."""
    curve, clock = [], 0.0
    interval = minutes * 60 / POINTS
    due = interval

    def add_point(stage: str, count: int, **more: bool) -> None:
        curve.append(
            {
                'seconds': round(clock),
                'stage': stage,
                'iterations': count,
                **more,
                'psnr': network_psnr(racer.network(stage), pairs),
            }
        )
        print(f'  {curve[-1]}', flush=True)

    for stage in STAGES:
        first, end = clock, clock + FRACTIONS[stage] * minutes * 60
        started = time.perf_counter()
        racer.start(stage)
        source, count = patches(racer.dataset, 2), 0
        clock += time.perf_counter() - started
        while clock < end:
            started = time.perf_counter()
            progress = (clock - first) / (end - first)
            warm = min(progress / WARM_UP, 1)
            racer.step(stage, next(source), warm * RATES[stage] * (1 + math.cos(math.pi * progress)) / 2)
            count += 1
            clock += time.perf_counter() - started
            if clock >= due:
                add_point(stage, count)
                due += interval
        add_point(stage, count, end=True)
    return curve


def run_race(photographs: Photographs, folder: Path, minutes: float) -> dict[str, list[dict]]:
    """Both curves, printed side by side."""
    print('reference implementation')
    curves = {'reference': race(ReferenceRacer(photographs), photographs.pairs, minutes)}
    print('ours')
    curves['ours'] = race(OurRacer(photographs, folder, minutes), photographs.pairs, minutes)
    print(f'\n{"seconds":>8} {"stage":>6} {"reference":>9} {"ours":>7}   PSNR of the running network, dB')
    for slow, fast in zip(*curves.values()):
        print(
            f'{slow["seconds"]:8} {slow["stage"]:>6} {slow["psnr"]:9.2f} {fast["psnr"]:7.2f}'
            f'   iterations {slow["iterations"]}, {fast["iterations"]}'
        )
    return curves


# ---- a fast path on and off ----


def choices_of(key: str, photographs: Photographs) -> tuple:
    """The two values that are compared."""
    return {
        'teacher_cache': ('off', 'memory'),
        'posterior': (False, True),
        'precision': ('fp32', 'bf16'),
        'blind_size': (9, bnn_blind_size(photographs.noise)),
    }[key]


def set_choice(opt: dict, key: str, value: object) -> None:
    """Set ``train.<key>`` or ``network_bnn.blind_size``."""
    if key == 'blind_size':
        opt['network_bnn'][key] = value
        opt['network_lan']['receptive_size'] = min(opt['network_lan']['receptive_size'], value)
    else:
        opt['train'][key] = value


def compare(key: str, photographs: Photographs, folder: Path, scale: float, seeds: int) -> dict[str, list[float]]:
    """The student's PSNR for each of two values of an option, a figure a seed."""
    choices = choices_of(key, photographs)
    figures: dict[str, list[float]] = {str(value): [] for value in choices}
    for seed in range(seeds):
        base = small_training(RECIPE, key, photographs, seed, scale)
        base['train']['teacher_cache'] = 'memory'
        bnn = None
        for value in choices:
            opt = copy.deepcopy(base)
            opt['name'] = f'{key}_{value}_{seed}'
            set_choice(opt, key, value)
            if bnn and key in ('teacher_cache', 'posterior'):  # neither changes the BNN: the same one for both
                opt['train']['stages']['bnn']['iter'] = 0
                opt['path'] = {'pretrain_network_bnn': str(bnn)}
            train(resolve_options(opt, folder, True))
            models = folder / 'experiments' / opt['name'] / 'models'
            bnn = bnn or models / 'net_bnn_latest.pth'
            figures[str(value)].append(mean_psnr(Denoiser(models / 'net_g_latest.pth', 'cpu'), photographs.pairs))
            print(f'{key} {value}, seed {seed}: {figures[str(value)][-1]:.3f} dB', flush=True)
    first, second = figures
    off, on = (statistics.mean(values) for values in figures.values())
    print(
        f'\n{key}: {first} {off:.3f} dB, {second} {on:.3f} dB, difference {on - off:+.3f} dB (means of {seeds} seeds)'
    )
    return figures


def main() -> None:
    """Parse the command line, run, print; write JSON where a file is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('--minutes', type=float, help='of training, for each of the two')
    what.add_argument('--compare', choices=['teacher_cache', 'posterior', 'precision', 'blind_size'])
    add_photograph_arguments(parser)
    parser.add_argument('--scale', type=float, default=0.1, help="of three_stages_cpu.yml's iterations, for --compare")
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('-o', '--output', help='JSON file for the figures')
    parser.add_argument('--keep', metavar='FOLDER', help='leave the trainings and their checkpoints there')
    args = parser.parse_args()
    with contextlib.nullcontext(args.keep) if args.keep else tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photographs = read_photographs(args, folder)
        if args.compare:
            result = compare(args.compare, photographs, folder, args.scale, args.seeds)
        else:
            result = run_race(photographs, folder, args.minutes)
    if args.output:
        write_json(result, args.output, indent=2)


if __name__ == '__main__':
    sys.exit(main())
