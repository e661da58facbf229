"""Which checkpoint to deliver, told without clean images: how far each rule ends from the best one.

    python benchmarks/stopping.py                                                        # the demo's simulated noise
    python benchmarks/stopping.py --noisy sidd_val/noisy --clean sidd_val/clean
    python benchmarks/stopping.py --annealed                                             # as our option files train

Trains two teachers once, then students of other seeds, at a constant learning rate, where PSNR swings from checkpoint
to checkpoint. Then the PSNR of every checkpoint of the second half, against the clean images, and of what each rule
delivers without them:

last           the last checkpoint
risk           the one of the least Stein's estimate (noise/risk.py) on crops of the noisy images
ema            the running average of the weights (train.ema_decay 0.99) at the end
ema by risk    the running average of the least Stein's estimate
average        the mean of the weights of the second half's checkpoints
"""
from __future__ import annotations

import argparse
import math
import statistics
import sys
from pathlib import Path

import numpy as np
import torch
from quality import Pairs, cpu_options, mean_psnr  # the scripts beside this one
from speed import write_json

from basicsr_sassid import Denoiser, NoiseModel, demo, estimate_noise
from basicsr_sassid.data.prepare.folder import prepare_folder
from basicsr_sassid.inference.sure import monte_carlo_sure
from basicsr_sassid.training.loop import train
from basicsr_sassid.training.options import resolve_options

MOST_JUDGED = 16
CROP = 256


def train_runs(database: Path, folder: Path, networks: dict[str, dict], count: int, scale: float, annealed: bool
               ) -> list[Path]:
    """Students of one pair of teachers. Returns the folders of their runs; those that are there are not run again."""
    runs, teachers = [], folder / 'experiments' / 'teachers' / 'models'
    for number in range(-1, count):
        opt = cpu_options(database, 'teachers' if number < 0 else f'student_{number}', max(number, 0))
        for network, changes in networks.items():
            opt[network].update(changes)
        stages = opt['train']['stages']
        for block in stages.values():
            block['iter'] = max(round(block['iter'] * scale), 1)
        if number < 0:
            stages['unet']['iter'] = 1
        else:
            stages['bnn']['iter'] = stages['lan']['iter'] = 0
            opt['path'] = {f'pretrain_network_{name}': str(teachers / f'net_{name}_latest.pth')
                           for name in ('bnn', 'lan')}
            opt['train']['ema_decay'] = 0.99
            opt['logger']['save_checkpoint_freq'] = stages['unet']['iter'] // 16
            if not annealed:
                stages['unet'].update(optim={**stages['unet']['optim'], 'lr': 1e-3},
                                      scheduler={'type': 'ConstantLR', 'factor': 1.})
            runs.append(folder / 'experiments' / opt['name'])
        if not (folder / 'experiments' / opt['name'] / 'models' / 'net_g_latest.pth').exists():
            train(resolve_options(opt, folder, True, auto_resume=True))
    return runs


def averaged(paths: list[Path], target: Path) -> Path:
    """The mean of the weights of several checkpoints, as a checkpoint."""
    contents = [torch.load(path, weights_only=True) for path in paths]
    mean = {name: sum(content['params'][name] for content in contents) / len(contents)
            for name in contents[0]['params']}
    torch.save({**contents[0], 'params': mean}, target)
    return target


def judge_run(run: Path, pairs: Pairs, crops: list[np.ndarray], noise: NoiseModel, folder: Path) -> dict:
    paths = sorted((run / 'models').glob('net_g_[0-9]*.pth'), key=lambda path: int(path.stem.split('_')[-1]))
    paths = paths[len(paths) // 2:]

    def judged(path: Path, key: str) -> dict[str, float]:
        denoise = Denoiser(path, 'cpu', key=key)
        return {'psnr': mean_psnr(denoise, pairs),
                'risk': monte_carlo_sure(denoise, crops, noise)}
    raw, ema = ([judged(path, key) for path in paths] for key in ('params', 'params_ema'))
    rules = {'last': raw[-1], 'risk': min(raw, key=lambda one: one['risk']), 'ema': ema[-1],
             'ema by risk': min(ema, key=lambda one: one['risk']),
             'average': judged(averaged(paths, folder / 'average.pth'), 'params')}
    best = max(one['psnr'] for one in raw)
    return {'run': run.name, 'best': best, 'raw': raw, 'ema': ema, 'rules': rules,
            'distance': {rule: best - one['psnr'] for rule, one in rules.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--noisy', help='folder of noisy photographs; default: the simulated ones of the demo')
    parser.add_argument('--clean', help='folder of their clean versions, for the PSNR alone')
    parser.add_argument('--annealed', action='store_true', help="the option file's schedule, which ends at rate 0")
    parser.add_argument('--runs', type=int, default=5)
    parser.add_argument('--scale', type=float, default=0.2, help="of train_cpu.yml's iterations")
    parser.add_argument('--folder', default='results/stopping', help='of the trainings; finished ones are kept')
    parser.add_argument('-o', '--output', help='JSON file for the figures')
    args = parser.parse_args()
    folder = Path(args.folder)
    noisy, clean = ((Path(args.noisy), Path(args.clean)) if args.noisy else demo._simulate(folder / 'photographs'))
    if not (folder / 'noisy.lmdb').exists():
        prepare_folder([noisy], folder / 'noisy.lmdb')
    runs = train_runs(folder / 'noisy.lmdb', folder, {} if args.noisy else demo.SIMULATED_NETWORKS, args.runs,
                      args.scale, args.annealed)
    pairs = demo._pairs(noisy, clean)
    noise = estimate_noise(image for image, _ in pairs)
    pairs = pairs[::math.ceil(len(pairs) / MOST_JUDGED)]
    crops = [np.ascontiguousarray(image[:CROP, :CROP]).astype(np.float32) / 255 for image, _ in pairs]
    results = []
    for run in runs:
        results.append(judge_run(run, pairs, crops, noise, folder))
        print(f'{run.name}: best {results[-1]["best"]:.2f} dB; distance ' + ', '.join(
            f'{rule} {value:+.3f}' for rule, value in results[-1]['distance'].items()), flush=True)
    print('\nmean distance from the best checkpoint, dB (below 0: better than every checkpoint):')
    for rule in results[0]['distance']:
        print(f'  {rule:14}{statistics.mean(result["distance"][rule] for result in results):+.3f}')
    if args.output:
        write_json(results, Path(args.output))


if __name__ == '__main__':
    sys.exit(main())
