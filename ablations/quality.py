"""What speed is worth: PSNR against wall-clock time, and what the fast paths cost in PSNR.

    python benchmarks/quality.py --minutes 10 --noisy sidd_val/noisy --clean sidd_val/clean -o results/race.json
    python benchmarks/quality.py --compare teacher_cache --noisy sidd_val/noisy --clean sidd_val/clean
    python benchmarks/quality.py --compare precision                 # the demo's simulated photographs
    python benchmarks/quality.py --compare blind_size --noisy ... --clean ...    # the paper's 9 or as measured

--minutes: the plain formulation (tests/reference.py, float32, teachers asked at every step) and ours train in turn for the
same minutes on the same patches with the same learning rates. --compare: equal seeds and iterations, a fast path on and
off, three seeds; the teachers are the same, where the path is not theirs.
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

import numpy as np
import torch
from speed import ROOT, STAGES, plain_steps, write_json  # the script beside this one

import basicsr_sassid  # noqa: F401
from basicsr_sassid import Denoiser, demo, estimate_noise
from basicsr_sassid.data.noisy_image_dataset import NoisyImageDataset
from basicsr_sassid.data.prepare.folder import prepare_folder
from basicsr_sassid.data.sampler import RunSampler, SeededDataset
from basicsr_sassid.models.three_stage_model import ThreeStageModel
from basicsr_sassid.pipeline.student import RATIO, plan_iterations
from basicsr_sassid.training.loop import train
from basicsr_sassid.training.options import read_options, resolve_options

import reference  # isort: skip

SHARES = {'bnn': 0.4, 'lan': 0.25, 'unet': 0.35}  # of the minutes
RATES = {'bnn': 2e-3, 'lan': 2e-3, 'unet': 2e-3}
WARM_UP = 0.03  # of a stage
MOST_JUDGED = 16
Pairs = list[tuple[np.ndarray, np.ndarray]]


def mean_psnr(method: Callable[[np.ndarray], np.ndarray], pairs: Pairs) -> float:
    return float(np.mean([demo._psnr(method(noisy), clean) for noisy, clean in pairs]))


def network_psnr(network: Callable[[torch.Tensor], torch.Tensor], pairs: Pairs) -> float:
    """``network``: (1, 3, H, W) in grey levels to the same."""
    def method(noisy: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            result = network(torch.from_numpy(noisy).permute(2, 0, 1)[None].float())[0].permute(1, 2, 0)
        return result.float().clamp(0, 255).round().byte().cpu().numpy()
    return mean_psnr(method, pairs)


# ---- a race over minutes ----

def cpu_options(database: Path, name: str, seed: int) -> dict:
    """train_cpu.yml on a database, without tensorboard."""
    opt = read_options(ROOT / 'options/sassid/train_cpu.yml')
    opt['name'], opt['manual_seed'] = name, seed
    opt['datasets'] = {'train': {**opt['datasets']['train'], 'dataroot_lq': str(database), 'num_worker_per_gpu': 0}}
    opt['logger'].update(use_tb_logger=False, save_checkpoint_freq=10 ** 9)
    return opt


def patches(dataset: NoisyImageDataset, batch: int, start: int) -> Iterator[dict]:
    return iter(torch.utils.data.DataLoader(
        SeededDataset(dataset, 0), batch_sampler=RunSampler(len(dataset), batch, start, start + 10 ** 6, 0)))


def race(step: Callable[[str, dict], None], begin: Callable[[str], None], asked: Callable[[str], Callable],
         dataset: NoisyImageDataset, pairs: Pairs, minutes: float, points: int = 12) -> list[dict]:
    """Train for minutes by the clock, which stands still while the running network is judged."""
    curve, clock = [], 0.
    every = minutes * 60 / points
    due = every
    for stage in STAGES:
        end = clock + SHARES[stage] * minutes * 60
        first, started = clock, time.perf_counter()
        begin(stage)
        source, count = patches(dataset, 2, 0), 0
        clock += time.perf_counter() - started
        while clock < end:
            started = time.perf_counter()
            progress = (clock - first) / (end - first)
            warm = min(progress / WARM_UP, 1)
            step(stage, next(source), warm * RATES[stage] * (1 + math.cos(math.pi * progress)) / 2)
            count += 1
            clock += time.perf_counter() - started
            if clock >= due:
                curve.append({'seconds': round(clock), 'stage': stage, 'iterations': count,
                              'psnr': network_psnr(asked(stage), pairs)})
                print(f'  {curve[-1]}', flush=True)
                due += every
        curve.append({'seconds': round(clock), 'stage': stage, 'iterations': count, 'end': True,
                      'psnr': network_psnr(asked(stage), pairs)})
        print(f'  {curve[-1]}', flush=True)
    return curve


def race_ours(database: Path, folder: Path, pairs: Pairs, minutes: float) -> list[dict]:
    opt = cpu_options(database, 'race', 0)
    # the teacher is asked once where that takes little of the LAN's time, from which it is taken here
    plan = plan_iterations(opt, folder, minutes, RATIO)
    cheap = 0 < plan['cache_seconds'] < 0.1 * 60 * minutes * SHARES['lan']
    opt['train']['teacher_cache'] = 'memory' if cheap else 'off'
    model = ThreeStageModel(resolve_options(opt, folder, True))
    dataset = NoisyImageDataset(model.opt['datasets']['train'])
    starts = dict(zip(STAGES, np.cumsum([1, *model.stage_iters]).tolist()))

    def begin(stage: str) -> None:
        model.prepare_stage(starts[stage], dataset)
        model.start_stage(STAGES.index(stage))

    def step(stage: str, sample: dict, rate: float) -> None:
        model.optimizers[0].param_groups[0]['lr'] = rate
        model.feed_data(sample)
        model.optimize_parameters(1)

    def asked(stage: str) -> Callable:
        return model.nets[model.stage.network].eval()
    return race(step, begin, asked, dataset, pairs, minutes)


def race_plain(database: Path, pairs: Pairs, minutes: float, width: dict, blind_size: int) -> list[dict]:
    dataset = NoisyImageDataset({'phase': 'train', 'dataroot_lq': str(database), 'patch_size': 128})
    steps, states, optimizers = plain_steps(width, torch.device('cpu'), blind_size, clip=100.)

    def step(stage: str, sample: dict, rate: float) -> None:
        optimizers[stage].param_groups[0]['lr'] = rate
        steps[stage](sample['lq'] * 255)

    def asked(stage: str) -> Callable:
        return {'bnn': lambda x: reference.bnn(states['bnn'], x, blind_size),
                'lan': lambda x: reference.lan(states['lan'], x, width['receptive_size']),
                'unet': lambda x: reference.unet(states['unet'], x)}[stage]
    return race(step, lambda stage: None, asked, dataset, pairs, minutes)


# ---- a fast path on and off ----

def compare(key: str, database: Path, folder: Path, pairs: Pairs, scale: float, seeds: int,
            networks: dict[str, dict], measured: int) -> dict[str, list[float]]:
    """The student's PSNR for each value of ``train.<key>`` or ``network_bnn.blind_size``, a figure a seed."""
    values = {'teacher_cache': ('off', 'memory'), 'posterior': (False, True), 'precision': ('fp32', 'bf16'),
              'blind_size': (9, measured)}[key]
    figures: dict[str, list[float]] = {str(value): [] for value in values}
    for seed in range(seeds):
        base = cpu_options(database, f'{key}_{seed}', seed)
        for network, changes in networks.items():
            base[network].update(changes)
        for block in base['train']['stages'].values():
            block['iter'] = max(round(block['iter'] * scale), 1)
        base['train']['teacher_cache'] = 'memory'
        bnn = None
        for value in values:
            opt = copy.deepcopy(base)
            opt['name'] = f'{key}_{value}_{seed}'
            if key == 'blind_size':
                opt['network_bnn'][key] = value
                opt['network_lan']['receptive_size'] = min(opt['network_lan']['receptive_size'], value)
            else:
                opt['train'][key] = value
            opt['logger']['save_checkpoint_freq'] = max(opt['train']['stages']['unet']['iter'] // 10, 1)
            if bnn and key in ('teacher_cache', 'posterior'):  # the BNN does not know of it: the same for both
                opt['train']['stages']['bnn']['iter'] = 0
                opt['path'] = {'pretrain_network_bnn': str(bnn)}
            train(resolve_options(opt, folder, True))
            models = folder / 'experiments' / opt['name'] / 'models'
            bnn = bnn or models / 'net_bnn_latest.pth'
            student = Denoiser(models / 'net_g_latest.pth', 'cpu')
            figures[str(value)].append(mean_psnr(student, pairs))
            print(f'{key} {value}, seed {seed}: {figures[str(value)][-1]:.3f} dB', flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('--minutes', type=float, help='of training, for each of the two')
    what.add_argument('--compare', choices=['teacher_cache', 'posterior', 'precision', 'blind_size'])
    parser.add_argument('--noisy', help='folder of noisy photographs; default: the simulated ones of the demo')
    parser.add_argument('--clean', help='folder of their clean versions, for the PSNR alone')
    parser.add_argument('--scale', type=float, default=0.1, help="of train_cpu.yml's iterations, for --compare")
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('-o', '--output', help='JSON file for the figures')
    parser.add_argument('--keep', metavar='FOLDER', help='leave the trainings and their checkpoints there')
    args = parser.parse_args()
    with contextlib.nullcontext(args.keep) if args.keep else tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulated = args.noisy is None
        noisy, clean = demo._simulate(folder / 'photographs') if simulated else (Path(args.noisy), Path(args.clean))
        networks = demo.SIMULATED_NETWORKS if simulated else {}
        prepare_folder([noisy], folder / 'noisy.lmdb', size=512)
        pairs = demo._pairs(noisy, clean)
        pairs = pairs[::math.ceil(len(pairs) / MOST_JUDGED)]
        if args.compare:
            result = compare(args.compare, folder / 'noisy.lmdb', folder, pairs, args.scale, args.seeds, networks,
                             max(estimate_noise(image for image, _ in pairs).blind_size(), 3))
            off, on = (statistics.mean(values) for values in result.values())
            first, second = result
            print(f'\n{args.compare}: {first} {off:.3f} dB, {second} {on:.3f} dB, difference {on - off:+.3f} dB '
                  f'(means of {args.seeds} seeds)')
        else:
            width = {'dim': 16, 'lan_dim': 32, 'receptive_size': 7}
            print('plain')
            result = {'plain': race_plain(folder / 'noisy.lmdb', pairs, args.minutes, width, 9)}
            print('ours')
            result['ours'] = race_ours(folder / 'noisy.lmdb', folder, pairs, args.minutes)
            print(f'\n{"seconds":>8} {"stage":>6} {"plain":>7} {"ours":>7}   PSNR of the running network, dB')
            for slow, fast in zip(*result.values()):
                print(f'{slow["seconds"]:8} {slow["stage"]:>6} {slow["psnr"]:7.2f} {fast["psnr"]:7.2f}'
                      f'   iterations {slow["iterations"]}, {fast["iterations"]}')
    if args.output:
        write_json(result, Path(args.output))


if __name__ == '__main__':
    sys.exit(main())
