"""`sassid demo`: simulate noisy photographs or take real ones, train two networks on a small machine, compare."""

from __future__ import annotations

import functools
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data

from basicsr_sassid.data.prepare.folder import prepare_folder
from basicsr_sassid.evaluation.context import MethodContext
from basicsr_sassid.evaluation.crop_grid import crop_box, draw_crop_grid
from basicsr_sassid.evaluation.methods import build_blend, build_method
from basicsr_sassid.evaluation.protocols import evaluate_image
from basicsr_sassid.evaluation.schema import BestOf, GaussianOptions, OpenCVNLMOptions
from basicsr_sassid.inference.denoiser import Denoiser
from basicsr_sassid.inference.spectral import SpectralDenoiser
from basicsr_sassid.io.atomic import write_json
from basicsr_sassid.io.demo_files import DemoFiles
from basicsr_sassid.io.photo import Photo, image_size, list_images, read_photo, write_photo
from basicsr_sassid.noise.synthetic import simulate_camera
from basicsr_sassid.ops.arrays import centre_crop
from basicsr_sassid.training.loop import train
from basicsr_sassid.training.options import customize, options_file, resolve_options
from basicsr_sassid.utils.errors import UserError, expand_path, require_path
from basicsr_sassid.utils.option_checks import check_range
from basicsr_sassid.utils.sequences import count_noun, evenly_spaced

RECIPE = 'sassid/train_cpu.yml'
SIMULATED_SCALE = 0.25  # of the recipe's iterations: enough for the simulated set
# the simulated noise is correlated over 2 pixels, not over 4 as the paper's default assumes
SIMULATED_NETWORKS = {'network_bnn': {'blind_size': 5}}
# of the same BNN in prediction, as AT-BSN: 29.8 dB against 29.2 dB on the simulated set, where 1 gives 29.2 dB and 0
# 27.8 dB, since the noise is correlated; on SIDD 34.0 dB against 33.9 dB with 9
SMALLER_BLIND_SIZE = 3
MAX_PAIRS = 40  # in the table, evenly spaced
MAX_SIDE = 512  # pixels: of each pair at most the central square of that side
BLUR_SIGMAS = (0.8, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)  # pixels
NLM_STRENGTHS = (3.0, 5.0, 10.0, 15.0, 20.0, 30.0)  # grey levels
_PROTOCOLS = {'psnr': 'psnr', 'ssim': 'ssim_gaussian'}
_MAX_ROWS = 3  # of the picture
MAX_SCALE = 1000  # of the iterations

Denoise = Callable[[np.ndarray], np.ndarray]
Pairs = list[tuple[np.ndarray, np.ndarray]]  # (noisy image, clean reference), (H, W, 3) uint8 RGB


def run_demo(
    output: str | os.PathLike[str],
    noisy: str | os.PathLike[str] | None = None,
    reference: str | os.PathLike[str] | None = None,
    scale: float | None = None,
) -> dict[str, dict[str, float]]:
    """Train a BNN and its student on noisy photographs alone, then compare with classical denoisers.

    Args:
        output: folder for ``table.json`` and ``comparison.png``, and for the data and the training in ``demo_files``.
        noisy: folder of real noisy photographs; by default simulated camera noise on scikit-image's photographs.
        reference: folder of their clean references, of the same names. They are opened after the training.
        scale: multiple of train_cpu.yml's iterations, above 0 and below 1000; default: 1 for real photographs, 0.25
            for the simulated ones.

    Returns:
        Method -> psnr (dB) and ssim, means over images, also in ``output/table.json``; empty without references.

    Raises:
        UserError: a scale out of range, no such folder, references of other names or sizes, files in ``output`` that
            no demo wrote: before anything is written. A training that fails.
    """
    started = time.time()
    output = expand_path(output, '-o')
    if scale is not None:
        check_range(scale, '--scale', above=0, below=MAX_SCALE)
    if noisy is None and reference is not None:
        raise UserError('--reference: give the noisy photographs too, --noisy FOLDER')
    is_simulated = noisy is None
    noisy_folder = None if noisy is None else require_path(noisy, '--noisy')
    reference_folder = None if reference is None else require_path(reference, '--reference')
    if noisy_folder is not None and reference_folder is not None:
        check_sizes(match_names(noisy_folder, reference_folder))
    files = DemoFiles(output)
    files.claim()
    if noisy_folder is None:
        noisy_folder, reference_folder = simulate_photographs(files.folder / 'photographs')
    if scale is None:
        scale = SIMULATED_SCALE if is_simulated else 1.0
    models = _train(noisy_folder, files.folder, scale, SIMULATED_NETWORKS if is_simulated else {})
    trained = time.time()
    print(f'\nTrained in {(trained - started) / 60:.1f} minutes. Comparing ...', flush=True)
    weights = models / 'net_g_latest.pth'
    if reference_folder is None:
        print(
            f'No clean references, no table. Denoise your photographs with:\n'
            f'  sassid denoise {noisy_folder} -o OUT --weights {weights}'
        )
        return {}
    pairs = read_pairs(noisy_folder, reference_folder)
    table, pictures = _compare(pairs, _methods(pairs, models))
    _print_table(table, len(pairs), is_simulated)
    content = {
        'pairs': len(pairs),
        'iterations_scale': scale,
        'training_seconds': round(trained - started),
        'seconds': round(time.time() - started),
        'methods': table,
    }
    files.publish('table.json', lambda path: write_json(content, path, indent=2))
    grid = Photo(draw_crop_grid([_crops(picture) for picture in pictures]))
    picture = files.publish('comparison.png', lambda path: write_photo(grid, path))
    print(
        f'\nPicture: {picture}\nDenoise other photographs with this noise:\n'
        f'  sassid denoise PHOTOS -o OUT --weights {weights}'
    )
    return table


def simulate_photographs(folder: Path) -> tuple[Path, Path]:
    """Write five simulated photographs. Returns the folders of the noisy images and of their clean references."""
    print('Simulating camera noise on photographs of scikit-image ...', flush=True)
    photographs = {
        'astronaut': skimage.data.astronaut(),
        'cat': skimage.data.chelsea(),
        'coffee': skimage.data.coffee(),
        'motorcycle': skimage.data.stereo_motorcycle()[0],
        'rocket': skimage.data.rocket(),
    }
    photons = 40, 80, 160, 56, 112  # each at its own ISO
    for seed, (name, photograph) in enumerate(photographs.items()):
        # three times as large: a sensor's pixels are never as sharp as those of a small picture for the screen
        scene = centre_crop(cv2.resize(photograph, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC), 1024)
        # no perfect black: where the camera clips the noise, the mean of a thousand shots is not the clean image
        scene = np.round(31 + 0.76 * scene).astype(np.uint8)
        noisy, reference = simulate_camera(scene, np.random.default_rng(seed), photons[seed], read_noise=2)
        write_photo(Photo(noisy), folder / 'noisy' / f'{name}.png')
        write_photo(Photo(reference), folder / 'clean' / f'{name}.png')
    return folder / 'noisy', folder / 'clean'


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


def read_pairs(noisy: Path, reference: Path) -> Pairs:
    """Read the pairs of :func:`match_names`, of each image at most the central 512x512 pixels.

    Raises:
        UserError: no common name, an image that cannot be read, sizes that differ.
    """
    paths = match_names(noisy, reference)
    check_sizes(paths)
    return [(_read_centre(first), _read_centre(second)) for first, second in paths]


def _read_centre(path: Path) -> np.ndarray:
    return centre_crop(np.round(read_photo(path).as_rgb_float() * 255).astype(np.uint8), MAX_SIDE)


def mean_psnr(denoise: Denoise, pairs: Pairs) -> float:
    """Mean PSNR in dB over pairs."""
    return float(np.mean([evaluate_image(denoise(noisy), clean, 'psnr') for noisy, clean in pairs]))


def _train(noisy: Path, output: Path, scale: float, networks: Mapping[str, Mapping[str, Any]]) -> Path:
    """Train, or continue a training that was stopped. Returns the folder of the networks."""
    database = output / 'noisy.lmdb'
    shutil.rmtree(database, ignore_errors=True)
    prepare_folder([noisy], database, size=512)
    opt = customize(RECIPE, 'demo', database, seed=0)
    for network, changes in networks.items():
        opt[network].update(changes)
    for block in opt['train']['stages'].values():
        block['iter'] = max(round(block['iter'] * scale), 1)
    models = output / 'experiments' / 'demo' / 'models'
    opt = resolve_options(opt, output, True, auto_resume=not (models / 'net_g_latest.pth').exists())
    train(opt, str(options_file(RECIPE)))
    return models


def _methods(pairs: Pairs, models: Path) -> dict[str, Denoise]:
    """The methods of the table. The setting of the first two is the one that suits the clean references best, which no
    user could know; the networks and the blend see no reference."""
    context = MethodContext(pairs, 'cpu')
    blur = build_method(GaussianOptions(type='gaussian', sigma=BestOf(best_of=list(BLUR_SIGMAS))), context)
    nlm = build_method(OpenCVNLMOptions(type='opencv_nlm', h=BestOf(best_of=list(NLM_STRENGTHS))), context)
    # in tiles of the training's patch, as the teacher is applied: far from all borders it does worse
    build_bnn = functools.partial(Denoiser, models / 'net_bnn_latest.pth', 'cpu', tile=64, overlap=32)
    bnn = build_bnn()
    student = Denoiser(models / 'net_g_latest.pth', 'cpu')
    blend = build_blend(student, context)
    return {
        'noisy': lambda image: image,
        f'Gaussian blur, {blur.note}': blur.run,
        f'non-local means, {nlm.note}': nlm.run,
        f'BNN, blind size {bnn.net.blind_size}': bnn,
        f'BNN, blind size {SMALLER_BLIND_SIZE}': build_bnn(blind_size=SMALLER_BLIND_SIZE),
        'U-Net (the student)': student,
        'spectral (classical, no training)': SpectralDenoiser(context.noise),
        f'blend, {blend.note}': blend.run,
    }


def _compare(
    pairs: Pairs, methods: Mapping[str, Denoise]
) -> tuple[dict[str, dict[str, float]], list[dict[str, np.ndarray]]]:
    """The mean figures of each method, and the results for the first pairs."""
    figures: dict[str, list[list[float]]] = {name: [] for name in methods}
    pictures = []
    for noisy, clean in pairs:
        results = {name: method(noisy) for name, method in methods.items()}
        for name, image in results.items():
            figures[name].append([evaluate_image(image, clean, protocol) for protocol in _PROTOCOLS.values()])
        if len(pictures) < _MAX_ROWS:
            pictures.append({**results, 'clean': clean})
    return {
        name: dict(zip(_PROTOCOLS, map(float, np.mean(values, axis=0)))) for name, values in figures.items()
    }, pictures


def _print_table(table: Mapping[str, Mapping[str, float]], count: int, is_simulated: bool) -> None:
    images = count_noun(count, 'simulated photograph' if is_simulated else 'real photograph')
    print(f'\nMean of {images}; no network has seen a clean reference. SSIM: each channel, Gaussian 11x11\n')
    print(f'{"":34}{"PSNR dB":>8}{"SSIM":>8}')
    for name, figures in table.items():
        print(f'{name:34}{figures["psnr"]:8.2f}{figures["ssim"]:8.4f}')
    *others, last = table
    print(
        f'\n{last[0].upper()}{last[1:]}: '
        + ', '.join(f'{table[last]["psnr"] - table[name]["psnr"]:+.2f} dB against {name}' for name in others)
        + '.'
    )


def _crops(picture: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, str]]:
    """The same square of every result, with the PSNR of the whole; the blur is left out."""
    clean = picture['clean']
    box = crop_box(clean)
    captions = {
        name: '' if name == 'clean' else f'{evaluate_image(image, clean, "psnr"):.2f} dB'
        for name, image in picture.items()
    }
    return {name: (image[box], captions[name]) for name, image in picture.items() if not name.startswith('Gaussian')}
