"""Which weight of a student in its mean with the spectral denoiser can be found without clean references?

    python ablations/blend_weight.py --data DATA --students sidd=net_g.pth polyu=net_g.pth -o results/blend_weight.json
    python ablations/blend_weight.py --data DATA --students NAME=student.safetensors --sets sidd wide

DATA: a folder with sidd_val/ and polyu/, each with noisy/ and clean/. Sets: `sidd` (40 blocks), `polyu` (17 pairs),
`simulated` (the demo's five photographs), and the same clean photographs with noise that was added after the encoding:
`white`, `wide` (blurred by a Gaussian of 1.5 pixels), `rows` (correlated along rows). Each student is tried on each
set.

Prints for each set and student the PSNR in dB of both denoisers, and of their mean with the best weight. A row for each
candidate follows: the dB of its mean against the better denoiser and against the best weight, and the weight. At the
end, for each candidate, the worst of the former and the mean of the latter. The candidates are in blend_candidates.py.
The clean references serve the comparison alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from blend_candidates import CANDIDATES, NOT_ALIGNED, SHIPPED, Remembered  # isort: skip
from blend_candidates import local_texture, measure_terms, texture_edges  # isort: skip
from common import Pairs, demo  # isort: skip

from basicsr_sassid import Denoiser, NoiseModel, SpectralDenoiser, estimate_noise
from basicsr_sassid.inference.blend import coarse_colour_shift
from basicsr_sassid.inference.sure import optimal_blend_weight
from basicsr_sassid.io.atomic import write_json
from basicsr_sassid.io.photo import list_images, read_photo
from basicsr_sassid.ops.arrays import centre_crop
from basicsr_sassid.pipeline.blending import CROP, MOST_CROPS
from basicsr_sassid.utils.sequences import evenly_spaced

FOLDERS = {'sidd': ('sidd_val', 40), 'polyu': ('polyu', 17)}  # set -> folder, number of pairs
ADDED = {'wide': (0.9, 30.0), 'rows': (0.5, 10.0), 'white': (1.6, 40.0)}  # variance = slope * intensity + offset
GRID = np.linspace(0, 1, 21)  # of weights


# ---- photographs ----


def unit_noise(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3), standard deviation 1; a third of the variance is common to the channels or more."""
    noise = rng.standard_normal(shape)
    if kind == 'wide':
        noise = cv2.GaussianBlur(noise, (0, 0), 1.5)
    if kind == 'rows':
        noise = 0.75 * cv2.blur(noise, (7, 1)) * np.sqrt(7) + 0.66 * rng.standard_normal(shape)
    noise = noise / noise.std()
    noise = noise + 0.5 * noise.mean(axis=2, keepdims=True)
    return noise / noise.std()


def add_noise(kind: str, clean: np.ndarray, seed: int) -> np.ndarray:
    """Noise whose variance grows with the intensity, added to (H, W, 3) uint8."""
    slope, offset = ADDED[kind]
    noise = unit_noise(kind, clean.shape, np.random.default_rng(100 + seed))
    noise = noise * np.sqrt(slope * clean.astype(np.float32) + offset)
    return (clean + noise).clip(0, 255).round().astype(np.uint8)


def read_set(name: str, data: Path) -> tuple[Pairs, NoiseModel]:
    """The pairs of a set, at most 512 pixels a side, and their noise."""
    if name in FOLDERS:
        folder, most = FOLDERS[name]
        pairs = demo.read_pairs(data / folder / 'noisy', data / folder / 'clean', most)
        return pairs, estimate_noise(noisy for noisy, _ in pairs)
    with tempfile.TemporaryDirectory() as simulated:
        folders = demo.simulate_photographs(Path(simulated))
        if name == 'simulated':
            pairs = demo.read_pairs(*folders)
            return pairs, estimate_noise(noisy for noisy, _ in pairs)
        references = [read_photo(path).pixels for path in list_images(folders[1])]
    pairs = [(add_noise(name, clean, seed), clean) for seed, clean in enumerate(references)]
    noise = estimate_noise(noisy for noisy, _ in pairs)
    return [(centre_crop(noisy, 512), centre_crop(clean, 512)) for noisy, clean in pairs], noise


# ---- comparison ----


@dataclasses.dataclass(frozen=True)
class Result:
    """Both results for one noisy image, in grey levels.

    Attributes:
        classical: (H, W, 3).
        own_colour, aligned: (H, W, 3), student - classical denoiser, its colour of large areas as it is and aligned.
        clean: (H, W, 3) uint8.
        bins: (H, W), of the local texture.
    """

    classical: np.ndarray
    own_colour: np.ndarray
    aligned: np.ndarray
    clean: np.ndarray
    bins: np.ndarray

    def psnr(self, weight: float | np.ndarray, aligned: bool = True) -> float:
        """PSNR in dB of the mean with a weight of the student, or with one for each bin of texture."""
        if isinstance(weight, np.ndarray):
            weight = weight.astype(np.float32)[self.bins][..., None]
        mean = self.classical + weight * (self.aligned if aligned else self.own_colour)
        return float(cv2.PSNR(mean.clip(0, 255).round().astype(np.uint8), self.clean))


def denoise_pairs(pairs: Pairs, classical: Remembered, student: Remembered, edges: np.ndarray) -> Iterator[Result]:
    """Both results of each pair."""
    for noisy, clean in pairs:
        image = as_float(noisy)
        first, second = 255 * classical(image), 255 * student(image)
        between = second - first + coarse_colour_shift(second, first)
        bins = np.digitize(local_texture(first + between / 2), edges)
        yield Result(first, second - first, between, clean, bins)


def as_float(image: np.ndarray) -> np.ndarray:
    """Uint8 as float32 in [0, 1]."""
    return image.astype(np.float32) / np.float32(255)


def compare(pairs: Pairs, noise: NoiseModel, classical: Remembered, student: Remembered) -> dict[str, Any]:
    """The figures of a set and a student: PSNR in dB, and for each candidate weight and differences in dB."""
    crops = [as_float(centre_crop(noisy, CROP)) for noisy, _ in evenly_spaced(pairs, MOST_CROPS)]
    terms = [measure_terms(crop, noise, classical, student, seed) for seed, crop in enumerate(crops)]
    results = list(denoise_pairs(pairs, classical, student, texture_edges(terms)))

    def mean_psnr(weight: float | np.ndarray, aligned: bool = True) -> float:
        return float(np.mean([result.psnr(weight, aligned) for result in results]))

    curve = [mean_psnr(weight) for weight in GRID.tolist()]
    own_colour = mean_psnr(1.0, aligned=False)
    better, best = max(curve[0], curve[-1], own_colour), max(curve)
    candidates = {}
    for name, find_weight in CANDIDATES.items():
        weight = find_weight(terms)
        psnr = mean_psnr(weight, name != NOT_ALIGNED)
        rounded = np.round(weight, 3).tolist()
        candidates[name] = {'weight': rounded, 'against_better': psnr - better, 'against_best': psnr - best}
    check_shipped(CANDIDATES[SHIPPED](terms), crops, noise, classical, student)
    return {
        'skewness': noise.skewness,
        'classical_psnr': curve[0],
        'student_psnr': own_colour,
        'student_aligned_psnr': curve[-1],
        'best_weight': float(GRID[int(np.argmax(curve))]),
        'best_psnr': best,
        'candidates': candidates,
    }


def check_shipped(
    weight: float | np.ndarray, crops: list[np.ndarray], noise: NoiseModel, classical: Remembered, student: Remembered
) -> None:
    """Assert that the candidate of one standard error is the rule of the package."""
    shipped, _ = optimal_blend_weight(classical, student, crops, noise)
    assert np.isclose(float(weight), shipped, atol=1e-3), f'{SHIPPED}: expected {shipped}, got {weight}'


def print_comparison(name: str, student: str, figures: dict[str, Any]) -> None:
    """A row a candidate."""
    psnr = {key.removesuffix('_psnr'): f'{figure:.2f}' for key, figure in figures.items() if key.endswith('_psnr')}
    print(
        f'\n{name}, student {student}: spectral {psnr["classical"]} dB, student {psnr["student"]} (aligned '
        f'{psnr["student_aligned"]}), best {psnr["best"]} with {figures["best_weight"]:.2f}'
    )
    for candidate, row in figures['candidates'].items():
        weights = ' '.join(f'{weight:.2f}' for weight in np.atleast_1d(row['weight']))
        print(f'{candidate:30}{row["against_better"]:+7.2f}{row["against_best"]:+7.2f}   {weights}', flush=True)


def print_summary(comparisons: list[dict[str, Any]]) -> None:
    """A row a candidate, over all sets and students."""
    print(f'\n{len(comparisons)} pairs of set and student{"":6}worst against better   mean against best')
    for candidate in CANDIDATES:
        rows = [figures['candidates'][candidate] for figures in comparisons]
        worst = min(row['against_better'] for row in rows)
        print(f'{candidate:30}{worst:+22.3f}{np.mean([row["against_best"] for row in rows]):+20.3f}')


def main() -> None:
    """Parse the command line, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path, required=True, help='folder with sidd_val/ and polyu/')
    parser.add_argument('--students', nargs='+', required=True, metavar='NAME=FILE', help='trained networks')
    names = [*FOLDERS, 'simulated', *ADDED]
    parser.add_argument('--sets', nargs='+', choices=names, default=names)
    parser.add_argument('-o', '--output', type=Path, help='JSON file')
    args = parser.parse_args()
    comparisons = []
    for name in args.sets:
        pairs, noise = read_set(name, args.data)
        classical = Remembered(SpectralDenoiser(noise))
        for student, path in (argument.split('=', 1) for argument in args.students):
            figures = compare(pairs, noise, classical, Remembered(Denoiser(path, 'cpu')))
            print_comparison(name, student, figures)
            comparisons.append({'set': name, 'student': student, **figures})
            if args.output:
                write_json(comparisons, args.output)
    print_summary(comparisons)


if __name__ == '__main__':
    main()
