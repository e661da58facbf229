"""Photographs denoised one by one by the spectral denoiser: is the noise of a single small photograph measured safely?

    python ablations/single_photograph.py --noisy sidd_val/noisy --reference sidd_val/clean         # in colour
    python ablations/single_photograph.py --noisy sidd_val/noisy --reference sidd_val/clean --grey

Prints a table of the photographs with the least noise removed, then the minimum and the median of

removed        standard deviation of the removed part, as a fraction of the true noise's
PSNR           of the noisy photograph and of the denoised one, dB
sigma          as measured, with its error, and as it is, grey levels

and of how many photographs sigma is within its error. --crop cuts the photographs to their centre first. The clean
references serve the comparison alone.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from common import mean_psnr  # isort: skip

from basicsr_sassid import SpectralDenoiser, estimate_noise
from basicsr_sassid.io.atomic import write_json
from basicsr_sassid.io.photo import list_images, read_photo
from basicsr_sassid.ops.arrays import centre_crop

Pair = tuple[np.ndarray, np.ndarray]
SHOWN = 8  # photographs in the table


def read_singles(noisy: Path, reference: Path, crop: int | None, grey: bool) -> dict[str, Pair]:
    """Name -> (noisy image, clean reference), as they are denoised."""

    def read(path: Path) -> np.ndarray:
        image = np.round(read_photo(path).as_rgb_float() * 255).astype(np.uint8)
        image = centre_crop(image, crop) if crop else image
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] if grey else image

    references = {path.stem: path for path in list_images(reference)}
    return {path.stem: (read(path), read(references[path.stem])) for path in list_images(noisy)}


def evaluate_singles(pairs: Mapping[str, Pair]) -> Iterator[dict[str, Any]]:
    """The figures of each photograph, whose noise is measured in it alone."""
    for name, (noisy, clean) in pairs.items():
        noise = estimate_noise([noisy])
        denoised = SpectralDenoiser(noise)(noisy)
        error = noisy.astype(float) - clean
        assert noise.sigma_error is not None
        yield {
            'name': name,
            'removed': float((noisy.astype(float) - denoised).std() / error.std()),
            'psnr_noisy': mean_psnr(lambda image: image, [(noisy, clean)]),
            'psnr': mean_psnr(lambda _, denoised=denoised: denoised, [(noisy, clean)]),
            'sigma': float(noise.sigma.mean()),
            'sigma_error': float(noise.sigma_error.mean()),
            'true_sigma': float(error.std(axis=(0, 1)).mean()),
        }


def main() -> None:
    """Parse the command line, denoise, print; write JSON where a file is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--noisy', type=Path, required=True, help='folder of noisy photographs')
    parser.add_argument('--reference', type=Path, required=True, help='folder of their clean references')
    parser.add_argument('--grey', action='store_true', help='convert the photographs to grey first')
    parser.add_argument('--crop', type=int, help='side of the centre that is used, pixels')
    parser.add_argument('-o', '--output', help='JSON file for the figures')
    args = parser.parse_args()
    pairs = read_singles(args.noisy, args.reference, args.crop, args.grey)
    results = list(evaluate_singles(pairs))
    print(f'{"photograph":30}  removed  PSNR noisy  denoised  sigma measured   true')
    for row in sorted(results, key=lambda row: row['removed'])[:SHOWN]:
        print(
            f'{row["name"]:30}{row["removed"]:9.2f}{row["psnr_noisy"]:12.2f}{row["psnr"]:10.2f}'
            f'{row["sigma"]:10.1f} ± {row["sigma_error"]:<4.1f}{row["true_sigma"]:6.1f}'
        )
    removed, psnr = ([row[name] for row in results] for name in ('removed', 'psnr'))
    covered = statistics.mean(abs(row['sigma'] - row['true_sigma']) < row['sigma_error'] for row in results)
    print(
        f'{len(results)} photographs: removed {min(removed):.2f} at least, {statistics.median(removed):.2f} in the '
        f'median; PSNR {min(psnr):.2f} at least, {statistics.median(psnr):.2f} in the median, '
        f'{statistics.mean(psnr):.2f} dB in the mean; sigma within its error in {100 * covered:.0f} %'
    )
    if args.output:
        write_json(results, args.output, indent=2)


if __name__ == '__main__':
    sys.exit(main())
