"""What SFD-IQA measures: its rank correlation with the strength of synthetic degradations, beside NIQE and others.

    python ablations/sfd_iqa.py -o results/sfd_iqa --test photographs --train datasets/skimage/train.lmdb
    python -m basicsr_sassid.train -opt options/sfd/train_iqa_cpu.yml
    python ablations/sfd_iqa.py -o results/sfd_iqa --test photographs --patch-size 128 \\
        --weights experiments/sfd_iqa_cpu/models/sfd_latest.pth

Each clean photograph, none of which any training has read, is degraded by blur, correlated noise, JPEG and downscaling
(reduced, then enlarged again), with five strengths each. SROCC is Spearman's correlation of a measure with the negative
strength, 0 for the clean photograph: over all photographs, and within each (mean). Needs the extra `semantic`. Measures
whose values are in the folder are not computed again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

import common  # noqa: F401  # isort: skip

from basicsr.metrics.niqe import calculate_niqe
from skimage.restoration import estimate_sigma
from torch import Tensor

from basicsr_sassid.evaluation.correlation import correlate
from basicsr_sassid.io.atomic import content_digest, write_json
from basicsr_sassid.io.photo import list_images, read_photo
from basicsr_sassid.losses.semantic_features import SemanticFeatures
from basicsr_sassid.metrics.sfd_quality import SFDQuality
from basicsr_sassid.training.datasets import complete_dataset, open_dataset

STRENGTHS = {
    'blur': (0.6, 1.0, 1.6, 2.4, 3.6),  # sigma of a Gaussian, pixels
    'noise': (4, 8, 14, 22, 32),  # sigma in grey levels, correlated over about two pixels
    'jpeg': (70, 45, 28, 16, 8),  # quality
    'downscaling': (1.5, 2, 3, 4, 6),  # factor
}
LAYER, NOISE_BLUR = '_blocks.10', 0.7

PARTS = {'Feat-D': 1.0, 'prompts': 0.0}  # and the value of feature_fraction

Measure = Callable[[np.ndarray], float]


def degrade(image: np.ndarray, kind: str, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Degrade an image, (H, W, 3) uint8."""
    if kind == 'blur':
        return cv2.GaussianBlur(image, (0, 0), strength)
    if kind == 'noise':
        noise = cv2.GaussianBlur(rng.standard_normal(image.shape), (0, 0), NOISE_BLUR)
        return (image + strength * noise / noise.std()).round().clip(0, 255).astype(np.uint8)
    if kind == 'jpeg':
        content = cv2.imencode('.jpg', image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, strength])[1]
        return cv2.imdecode(content, cv2.IMREAD_COLOR)[..., ::-1]
    height, width = image.shape[:2]
    small = cv2.resize(image, (round(width / strength), round(height / strength)), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def versions(path: Path, number: int) -> Iterator[tuple[str, np.ndarray]]:
    """The photograph, and its degraded versions: name, (H, W, 3) uint8."""
    clean = np.ascontiguousarray((read_photo(path).as_rgb_float() * 255).round().astype(np.uint8))
    yield 'clean', clean
    for kind, strengths in STRENGTHS.items():
        for level, strength in enumerate(strengths, start=1):
            rng = np.random.default_rng((number, level))
            yield f'{kind} {level}', np.ascontiguousarray(degrade(clean, kind, strength, rng))


class FeatureNIQE:
    """NIQE's distance on semantic features: that of their mean and covariance from those of clean images."""

    def __init__(self, database: Path) -> None:
        self.features = SemanticFeatures('efficientnet-lite0', LAYER)
        block = {'name': 'train', 'type': 'SingleImageDataset', 'dataroot_lq': str(database)}
        dataset = open_dataset(complete_dataset(block, '--train', ['name']), '--train')
        self.mean, self.covariance = self._statistics(*(dataset[index]['lq'] for index in range(len(dataset))))

    @torch.no_grad()
    def _statistics(self, *images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        pixels = np.concatenate([self.features(image[None])[0].flatten(1).T.double().numpy() for image in images])
        return pixels.mean(0), np.cov(pixels.T)

    def __call__(self, image: np.ndarray) -> float:
        mean, covariance = self._statistics(torch.from_numpy(image).permute(2, 0, 1) / 255)
        difference = mean - self.mean
        return -float(np.sqrt(difference @ np.linalg.pinv((covariance + self.covariance) / 2) @ difference))


def sharpness(image: np.ndarray) -> float:
    """Variance of the Laplacian."""
    return float(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


def noiselessness(image: np.ndarray) -> float:
    """Negative sigma of the finest wavelet coefficients (scikit-image)."""
    return -float(estimate_sigma(image.astype(np.float64), average_sigmas=True, channel_axis=-1))


def measures(args: argparse.Namespace) -> dict[str, Callable[[], Measure]]:
    """Name -> what makes the measure; higher is better."""
    table: dict[str, Callable[[], Measure]] = {}
    if args.train:
        table = {
            'NIQE': lambda: lambda image: -float(calculate_niqe(image[..., ::-1], 0)),
            'variance of the Laplacian': lambda: sharpness,
            'negative noise sigma': lambda: noiselessness,
            "NIQE's distance on the features": lambda: FeatureNIQE(Path(args.train)),
        }
    for file, name in weights_names(args).items():
        for part, fraction in PARTS.items():
            table[f'{name}, {part}'] = lambda file=file, fraction=fraction: SFDQuality(file, fraction, args.patch_size)
    return table


def weights_names(args: argparse.Namespace) -> dict[str, str]:
    """File -> name of its training, and how it is used."""
    suffix = f', patches of {args.patch_size}' if args.patch_size else ''
    return {file: f'{Path(file).parents[1].name} {content_digest(file)[:6]}{suffix}' for file in args.weights}


def evaluate(measure: Measure, photographs: list[Path]) -> dict[str, dict[str, float]]:
    """Photograph -> version -> value."""
    return {
        path.name: {name: measure(image) for name, image in versions(path, number)}
        for number, path in enumerate(photographs)
    }


def mean_of(*files: Path) -> dict[str, dict[str, float]]:
    """The mean of measures: SFD-IQA with its default, feature_fraction 0.5."""
    first, second = (json.loads(file.read_text()) for file in files)
    return {name: {key: (row[key] + second[name][key]) / 2 for key in row} for name, row in first.items()}


def correlations(values: dict[str, dict[str, float]], kinds: tuple[str, ...]) -> tuple[float, float]:
    """SROCC with the negative strength: over all photographs, and the mean of each one's."""
    levels = range(1, 1 + len(STRENGTHS['blur']))
    names = [('clean', 0), *((f'{kind} {level}', level) for kind in kinds for level in levels)]
    strengths = -np.array([level for _, level in names], float)
    table = np.array([[versions[name] for name, _ in names] for versions in values.values()])
    pooled = correlate(table.ravel(), np.tile(strengths, len(table))).srocc
    return pooled, statistics.mean(correlate(row, strengths).srocc for row in table)


def main() -> None:
    """Parse the command line, compute the values that are not there, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('-o', '--output', required=True, help='folder of the values')
    parser.add_argument('--test', required=True, help='folder of clean photographs')
    parser.add_argument('--train', help='LMDB of clean images, for the measures without weights')
    parser.add_argument('--weights', nargs='*', default=[], help='sfd_*.pth')
    parser.add_argument('--patch-size', type=int, help='of SFD-IQA; default: whole images')
    args = parser.parse_args()
    folder, photographs = Path(args.output), list_images(args.test)
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in measures(args).items():
        file = folder / f'{name}.json'
        if not file.exists():
            write_json(evaluate(make(), photographs), file)
    for name in weights_names(args).values():
        write_json(mean_of(*(folder / f'{name}, {part}.json' for part in PARTS)), folder / f'{name}, mean.json')
    print(f'{"SROCC: all photographs (within each)":42}' + ''.join(f'{kind:>16}' for kind in (*STRENGTHS, 'overall')))
    for file in sorted(folder.glob('*.json')):
        values = json.loads(file.read_text())
        cells = [correlations(values, kinds) for kinds in (*((kind,) for kind in STRENGTHS), tuple(STRENGTHS))]
        print(f'{file.stem:42}' + ''.join(f'{pooled:8.3f} ({each:.3f})' for pooled, each in cells))


if __name__ == '__main__':
    sys.exit(main())
