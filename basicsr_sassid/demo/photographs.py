"""The photographs of `sassid demo`: simulated or real, with their clean references."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import skimage.data

from basicsr_sassid.evaluation.protocols import evaluate_image
from basicsr_sassid.io.photo import Photo, image_size, list_images, read_photo, write_photo
from basicsr_sassid.noise.estimate import estimate_noise
from basicsr_sassid.noise.model import NoiseModel
from basicsr_sassid.noise.synthetic import simulate_camera
from basicsr_sassid.ops.arrays import centre_crop
from basicsr_sassid.pipeline.blending import LEAST_SIDE
from basicsr_sassid.utils.errors import UserError
from basicsr_sassid.utils.sequences import evenly_spaced

FIRST_SCENE = 'cat'  # of the first picture
MAX_PAIRS = 40  # in the table, evenly spaced
MAX_SIDE = 512  # pixels: of each pair at most the central square of that side
_SCENES: dict[str, tuple[Callable[[], np.ndarray], float]] = {  # name -> photograph, photons: each at its own ISO
    'astronaut': (skimage.data.astronaut, 40),
    'cat': (skimage.data.chelsea, 80),
    'coffee': (skimage.data.coffee, 160),
    'motorcycle': (lambda: skimage.data.stereo_motorcycle()[0], 56),
    'rocket': (skimage.data.rocket, 112),
}

Denoise = Callable[[np.ndarray], np.ndarray]
Pairs = list[tuple[np.ndarray, np.ndarray]]  # (noisy image, clean reference), (H, W, 3) uint8 RGB


def simulate_photographs(folder: Path, only: str | None = None) -> tuple[Path, Path]:
    """Write five simulated photographs, or only the one of a name. Those that are there already are kept.

    Returns:
        The folders of the noisy images and of their clean references.
    """
    noisy_folder, clean_folder = folder / 'noisy', folder / 'clean'
    for seed, (name, (photograph, photons)) in enumerate(_SCENES.items()):
        noisy_file, clean_file = noisy_folder / f'{name}.png', clean_folder / f'{name}.png'
        if only not in (None, name) or (noisy_file.exists() and clean_file.exists()):
            continue
        # three times as large: a sensor's pixels are never as sharp as those of a small picture for the screen
        scene = centre_crop(cv2.resize(photograph(), None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC), 1024)
        # no perfect black: where the camera clips the noise, the mean of a thousand shots is not the clean image
        scene = np.round(31 + 0.76 * scene).astype(np.uint8)
        noisy, reference = simulate_camera(scene, np.random.default_rng(seed), photons, read_noise=2)
        write_photo(Photo(noisy), noisy_file)
        write_photo(Photo(reference), clean_file)
    return noisy_folder, clean_folder


def match_names(noisy: Path, reference: Path) -> list[tuple[Path, Path]]:
    """(noisy image, clean reference) of each common name: at most 40, evenly spaced. Raises UserError without any."""
    others = {path.relative_to(reference).with_suffix(''): path for path in list_images(reference)}
    both = [
        (path, others[path.relative_to(noisy).with_suffix('')])
        for path in list_images(noisy)
        if path.relative_to(noisy).with_suffix('') in others
    ]
    if not both:
        raise UserError(f'--reference {reference}: no image there has the name of one in {noisy}')
    return evenly_spaced(both, MAX_PAIRS)


def check_sizes(paths: Sequence[tuple[Path, Path]]) -> None:
    """Raise UserError for a clean reference of another size than its noisy image; only the files' headers are read."""
    for noisy, reference in paths:
        sizes = image_size(noisy), image_size(reference)
        if sizes[0] != sizes[1]:
            raise UserError(f'{reference}: expected the size of {noisy}, {sizes[0]}, got {sizes[1]}')


def read_pairs(noisy: Path, reference: Path, most: int = MAX_PAIRS) -> Pairs:
    """Read at most ``most`` of the pairs of :func:`match_names`, of each image at most the central 512x512 pixels.

    Raises:
        UserError: no common name, an image that cannot be read, sizes that differ.
    """
    paths = evenly_spaced(match_names(noisy, reference), most)
    check_sizes(paths)
    return [(read_centre(first), read_centre(second)) for first, second in paths]


def read_centre(path: Path) -> np.ndarray:
    """At most the central 512x512 pixels of a photograph, (H, W, 3) uint8 RGB. Raises UserError."""
    return centre_crop(np.round(read_photo(path).as_rgb_float() * 255).astype(np.uint8), MAX_SIDE)


def read_some(folder: Path, most: int = MAX_PAIRS) -> list[np.ndarray]:
    """:func:`read_centre` of photographs of at least 128x128 pixels, evenly spaced; damaged files are skipped.

    Raises:
        UserError: there is none.
    """
    images: list[np.ndarray] = []
    for path in list_images(folder) if most == 1 else evenly_spaced(list_images(folder), most):
        with contextlib.suppress(UserError):
            if min(image_size(path)) >= LEAST_SIDE:
                images.append(read_centre(path))
        if len(images) == most:
            break
    if not images:
        raise UserError(f'--noisy {folder}: no readable photograph of {LEAST_SIDE} pixels a side or more')
    return images


def measure_noise(folder: Path) -> NoiseModel:
    """Noise of at most 40 photographs of a folder together. Raises UserError."""
    return estimate_noise(read_some(folder))


def mean_psnr(denoise: Denoise, pairs: Pairs) -> float:
    """Mean PSNR in dB over pairs."""
    return float(np.mean([evaluate_image(denoise(noisy), clean, 'psnr') for noisy, clean in pairs]))
