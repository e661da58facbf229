"""Which checkpoint to deliver, chosen without clean images: how far each rule ends from the best one.

    python ablations/stopping.py                                                        # the demo's simulated noise
    python ablations/stopping.py --noisy sidd_val/noisy --reference sidd_val/clean
    python ablations/stopping.py --annealed                                             # as our option files train

Trains two teachers once, then students of other seeds, at a constant learning rate, where PSNR swings from checkpoint
to checkpoint. Then the PSNR of every checkpoint of the second half, against the clean references, and of the checkpoint
that each rule chooses without them:

last           the last checkpoint
risk           the one of the least Stein's estimate (inference/sure.py) on crops of the noisy images
ema            the running average of the weights (train.ema_decay 0.99) at the end
ema by risk    the running average of the least Stein's estimate
average        the mean of the weights of the second half's checkpoints
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import numpy as np
import torch

from common import Photographs, add_photograph_arguments, mean_psnr, read_photographs, small_training  # isort: skip

from basicsr_sassid import Denoiser
from basicsr_sassid.inference.sure import monte_carlo_sure
from basicsr_sassid.io.atomic import write_json
from basicsr_sassid.io.checkpoint import save_weights
from basicsr_sassid.training.loop import train
from basicsr_sassid.training.options import resolve_options

CROP = 256  # pixels a side, for Stein's estimate
CHECKPOINTS = 16  # of a student


def train_students(photographs: Photographs, folder: Path, count: int, scale: float, annealed: bool) -> list[Path]:
    """Students of one pair of teachers. Returns the folders of their runs; those that are there are not run again."""
    teachers = folder / 'experiments' / 'teachers'
    opt = small_training('sassid/three_stages_cpu.yml', 'teachers', photographs, 0, scale)
    opt['train']['stages']['unet']['iter'] = 1
    _train_once(opt, folder)
    runs = []
    for number in range(count):
        opt = small_training('sassid/three_stages_cpu.yml', f'student_{number}', photographs, number, scale)
        stages = opt['train']['stages']
        stages['bnn']['iter'] = stages['lan']['iter'] = 0
        opt['path'] = {
            f'pretrain_network_{name}': str(teachers / 'models' / f'net_{name}_latest.pth') for name in ('bnn', 'lan')
        }
        opt['train']['ema_decay'] = 0.99
        opt['logger']['save_checkpoint_freq'] = max(stages['unet']['iter'] // CHECKPOINTS, 1)
        if not annealed:
            stages['unet'].update(
                optim={**stages['unet']['optim'], 'lr': 1e-3}, scheduler={'type': 'ConstantLR', 'factor': 1.0}
            )
        _train_once(opt, folder)
        runs.append(folder / 'experiments' / opt['name'])
    return runs


def _train_once(opt: dict, folder: Path) -> None:
    if not (folder / 'experiments' / opt['name'] / 'models' / 'net_g_latest.pth').exists():
        train(resolve_options(opt, folder, True, auto_resume=True))


def averaged(paths: list[Path], target: Path) -> Path:
    """The mean of the weights of several checkpoints, as a checkpoint."""
    contents = [torch.load(path, weights_only=True) for path in paths]
    mean = {
        name: sum(content['params'][name] for content in contents) / len(contents) for name in contents[0]['params']
    }
    save_weights({**contents[0], 'params': mean}, target)
    return target


def evaluate_run(run: Path, photographs: Photographs, folder: Path) -> dict:
    """PSNR and risk of the checkpoints of a run, and the distance in dB of each rule's choice from the best one."""
    paths = sorted((run / 'models').glob('net_g_[0-9]*.pth'), key=lambda path: int(path.stem.split('_')[-1]))
    paths = paths[len(paths) // 2 :]
    crops = [np.ascontiguousarray(image[:CROP, :CROP]).astype(np.float32) / 255 for image, _ in photographs.pairs]

    def evaluate(path: Path, key: str) -> dict[str, float]:
        denoise = Denoiser(path, 'cpu', key=key)
        return {
            'psnr': mean_psnr(denoise, photographs.pairs),
            'risk': monte_carlo_sure(denoise, crops, photographs.noise),
        }

    raw, ema = ([evaluate(path, key) for path in paths] for key in ('params', 'params_ema'))
    rules = {
        'last': raw[-1],
        'risk': min(raw, key=lambda figures: figures['risk']),
        'ema': ema[-1],
        'ema by risk': min(ema, key=lambda figures: figures['risk']),
        'average': evaluate(averaged(paths, folder / 'average.pth'), 'params'),
    }
    best = max(figures['psnr'] for figures in raw)
    return {
        'run': run.name,
        'best': best,
        'raw': raw,
        'ema': ema,
        'rules': rules,
        'distance': {rule: best - figures['psnr'] for rule, figures in rules.items()},
    }


def main() -> None:
    """Parse the command line, train, print; write JSON where a file is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_photograph_arguments(parser)
    parser.add_argument('--annealed', action='store_true', help="the option file's schedule, which ends at rate 0")
    parser.add_argument('--runs', type=int, default=5)
    parser.add_argument('--scale', type=float, default=0.2, help="of three_stages_cpu.yml's iterations")
    parser.add_argument('--folder', default='results/stopping', help='of the trainings; finished ones are kept')
    parser.add_argument('-o', '--output', help='JSON file for the figures')
    args = parser.parse_args()
    folder = Path(args.folder)
    photographs = read_photographs(args, folder)
    results = []
    for run in train_students(photographs, folder, args.runs, args.scale, args.annealed):
        results.append(evaluate_run(run, photographs, folder))
        print(
            f'{run.name}: best {results[-1]["best"]:.2f} dB; distance '
            + ', '.join(f'{rule} {value:+.3f}' for rule, value in results[-1]['distance'].items()),
            flush=True,
        )
    print('\nmean distance from the best checkpoint, dB (below 0: better than every checkpoint):')
    for rule in results[0]['distance']:
        print(f'  {rule:14}{statistics.mean(result["distance"][rule] for result in results):+.3f}')
    if args.output:
        write_json(results, args.output, indent=2)


if __name__ == '__main__':
    sys.exit(main())
