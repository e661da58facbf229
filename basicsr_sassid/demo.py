"""The whole way on a small machine: noisy photographs, three stages, one table, one picture."""
from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import skimage.data
from basicsr.metrics import calculate_psnr, calculate_ssim

from basicsr_sassid.data.prepare.folder import prepare_folder
from basicsr_sassid.evaluation.crop_grid import CROP, busiest, draw_crop_grid
from basicsr_sassid.evaluation.methods import MethodContext, build_method
from basicsr_sassid.inference.blend import BlendedDenoiser
from basicsr_sassid.inference.denoiser import Denoiser
from basicsr_sassid.inference.spectral import SpectralDenoiser
from basicsr_sassid.inference.sure import optimal_blend_weight
from basicsr_sassid.io.photo import Photo, list_images, read_photo, write_photo
from basicsr_sassid.noise.estimate import estimate_noise
from basicsr_sassid.noise.synthetic import simulate_camera
from basicsr_sassid.training.loop import train
from basicsr_sassid.training.options import options_file, read_options, resolve_options
from basicsr_sassid.utils.errors import UserError, require_path

SIMULATED_SCALE = 0.25  # of train_cpu.yml's iterations: enough for the simulated set
# the simulated noise is correlated over 2 pixels, not over 4 as the paper's default assumes; and what the LAN sees
# beyond the blind square, the BNN has seen too: it would learn to repeat the BNN's errors
SIMULATED_NETWORKS = {'network_bnn': {'blind_size': 5}, 'network_lan': {'receptive_size': 5}}
MOST_JUDGED = 40  # pairs in the table, evenly spaced
JUDGED_SIDE = 512  # of each at most the central square of that many pixels a side
_SIGMAS = (0.8, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
_STRENGTHS = (3, 5, 10, 15, 20, 30)

Method = Callable[[np.ndarray], np.ndarray]


def run_demo(output: str | os.PathLike, noisy: str | None = None, clean: str | None = None,
             scale: float | None = None) -> dict[str, dict[str, float]]:
    """Train the three stages on noisy photographs alone, then compare with classical denoisers.

    Args:
        output: folder for the data, the training and the results.
        noisy: folder of real noisy photographs; by default simulated camera noise on scikit-image's photographs.
        clean: folder of their clean versions, of the same names. They are opened after the training.
        scale: multiple of train_cpu.yml's iterations; 1 for real photographs, 0.25 for the simulated ones.

    Returns:
        Method -> psnr and ssim (means over images), also in ``output/table.json``; empty without clean images.
    """
    started = time.time()
    output = Path(output).expanduser()
    if noisy is None:
        noisy_folder, clean_folder = _simulate(output / 'photographs')
    else:
        noisy_folder, clean_folder = require_path(noisy, '--noisy'), clean and require_path(clean, '--clean')
    scale = scale if scale is not None else (SIMULATED_SCALE if noisy is None else 1.)
    models = _train(noisy_folder, output, scale, SIMULATED_NETWORKS if noisy is None else {})
    trained = time.time()
    print(f'\nTrained in {(trained - started) / 60:.1f} minutes. Comparing ...', flush=True)
    pairs = _pairs(noisy_folder, clean_folder)
    if not pairs:
        print(f'No clean images, no table. Denoise your photographs with:\n'
              f'  sassid denoise {noisy_folder} -o OUT --weights {models / "net_g_latest.pth"}')
        return {}
    methods = _methods(pairs, models)
    table, pictures = _judge(pairs, methods)
    _print_table(table, len(pairs), noisy is None)
    (output / 'table.json').write_text(json.dumps(
        {'pairs': len(pairs), 'iterations_scale': scale, 'training_seconds': round(trained - started),
         'seconds': round(time.time() - started), 'methods': table}, indent=2))
    write_photo(Photo(draw_crop_grid([_crops(picture) for picture in pictures])), output / 'comparison.png')
    print(f'\nPicture: {output / "comparison.png"}\nDenoise other photographs with this noise:\n'
          f'  sassid denoise PHOTOS -o OUT --weights {models / "net_g_latest.pth"}')
    return table


def _simulate(folder: Path) -> tuple[Path, Path]:
    print('Simulating camera noise on photographs of scikit-image ...', flush=True)
    photographs = {'astronaut': skimage.data.astronaut(), 'cat': skimage.data.chelsea(),
                   'coffee': skimage.data.coffee(), 'motorcycle': skimage.data.stereo_motorcycle()[0],
                   'rocket': skimage.data.rocket()}
    photons = 40, 80, 160, 56, 112  # each at its own ISO
    for seed, (name, photograph) in enumerate(photographs.items()):
        # three times as large: a sensor's pixels are never as sharp as those of a small picture for the screen
        scene = _centre(cv2.resize(photograph, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC), 1024)
        # no perfect black: where the camera clips the noise, the mean of a thousand shots is not the clean image
        scene = np.round(31 + 0.76 * scene).astype(np.uint8)
        noisy, reference = simulate_camera(scene, np.random.default_rng(seed), photons[seed], read_noise=2)
        write_photo(Photo(noisy), folder / 'noisy' / f'{name}.png')
        write_photo(Photo(reference), folder / 'clean' / f'{name}.png')
    return folder / 'noisy', folder / 'clean'


def _train(noisy: Path, output: Path, scale: float, networks: dict[str, dict]) -> Path:
    """Train, or go on with a training that was stopped. Returns the folder of the networks."""
    database = output / 'noisy.lmdb'
    shutil.rmtree(database, ignore_errors=True)
    prepare_folder([noisy], database, size=512)
    opt_file = options_file('sassid/train_cpu.yml')
    opt = read_options(opt_file)
    opt['name'] = 'demo'
    opt['datasets'] = {'train': {**opt['datasets']['train'], 'dataroot_lq': str(database)}}
    for network, changes in networks.items():
        opt[network].update(changes)
    for block in opt['train']['stages'].values():
        block['iter'] = max(round(block['iter'] * scale), 1)
    models = output / 'experiments' / 'demo' / 'models'
    opt = resolve_options(opt, output, True, auto_resume=not (models / 'net_g_latest.pth').exists())
    train(opt, str(opt_file))
    return models


def _pairs(noisy: Path, clean: Path | None) -> list[tuple[np.ndarray, np.ndarray]]:
    """(noisy, clean) uint8 RGB of the images that are in both folders."""
    if clean is None:
        return []
    others = {path.relative_to(clean).with_suffix(''): path for path in list_images(clean)}
    both = [(path, others[path.relative_to(noisy).with_suffix('')]) for path in list_images(noisy)
            if path.relative_to(noisy).with_suffix('') in others]
    if not both:
        raise UserError(f'--clean {clean}: no image there has the name of one in {noisy}')
    pairs = []
    for paths in both[::math.ceil(len(both) / MOST_JUDGED)]:
        pair = [np.round(read_photo(path).as_rgb_float() * 255).astype(np.uint8) for path in paths]
        if pair[0].shape != pair[1].shape:
            raise UserError(f'{paths[1]}: expected the size of {paths[0]}, {pair[0].shape}, got {pair[1].shape}')
        pairs.append(tuple(_centre(image, JUDGED_SIDE) for image in pair))
    return pairs


def _centre(image: np.ndarray, side: int) -> np.ndarray:
    top, left = (max(length - side, 0) // 2 for length in image.shape[:2])
    return np.ascontiguousarray(image[top:top + side, left:left + side])


def _methods(pairs: list[tuple[np.ndarray, np.ndarray]], models: Path) -> dict[str, Method]:
    """The peers get the setting that suits the clean images best, which no user could know; the networks nothing."""
    some = pairs[::math.ceil(len(pairs) / 5)]
    noise = estimate_noise(noisy for noisy, _ in pairs)
    instant, student = SpectralDenoiser(noise), Denoiser(models / 'net_g_latest.pth', 'cpu')
    crops = [_centre(noisy, 256).astype(np.float32) / 255 for noisy, _ in some]
    share = optimal_blend_weight(instant, student, crops, noise)[0]

    given = MethodContext(pairs, 'cpu')
    blur, non_local = (build_method(block, given) for block in (
        {'type': 'gaussian', 'sigma': {'best_of': list(_SIGMAS)}},
        {'type': 'opencv_nlm', 'h': {'best_of': list(_STRENGTHS)}}))
    return {'noisy': lambda image: image, f'Gaussian blur, {blur.note}': blur.run,
            f'non-local means, {non_local.note}': non_local.run,
            # asked in pieces of the training's patch, as it teaches: far from all borders it does worse
            'BNN': Denoiser(models / 'net_bnn_latest.pth', 'cpu', tile=64, overlap=32),
            'LAN': Denoiser(models / 'net_lan_latest.pth', 'cpu'),
            'U-Net (the student)': student, 'instant (measured spectrum)': instant,
            f'mixture, {share:.0%} student': BlendedDenoiser(instant, student, share)}


def _psnr(image: np.ndarray, clean: np.ndarray) -> float:
    return calculate_psnr(image, clean, crop_border=0)


def _judge(pairs: list[tuple[np.ndarray, np.ndarray]], methods: dict[str, Method]
           ) -> tuple[dict[str, dict[str, float]], list[dict[str, np.ndarray]]]:
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    pictures = []
    for noisy, clean in pairs:
        results = {name: method(noisy) for name, method in methods.items()}
        for name, image in results.items():
            figures[name].append((_psnr(image, clean), calculate_ssim(image, clean, crop_border=0)))
        if len(pictures) < 3:
            pictures.append({**results, 'clean': clean})
    return {name: dict(zip(('psnr', 'ssim'), map(float, np.mean(values, axis=0)))) for name, values in figures.items()
            }, pictures


def _print_table(table: dict[str, dict[str, float]], count: int, simulated: bool) -> None:
    print(f'\nMean of {count} {"simulated" if simulated else "real"} photographs; clean ones seen by no network. SSIM: '
          'each channel, Gaussian 11x11\n')
    print(f'{"":34}{"PSNR dB":>8}{"SSIM":>8}')
    for name, figures in table.items():
        print(f'{name:34}{figures["psnr"]:8.2f}{figures["ssim"]:8.4f}')
    *others, last = table
    print(f'\n{last[0].upper()}{last[1:]}: ' + ', '.join(
        f'{table[last]["psnr"] - table[name]["psnr"]:+.2f} dB against {name}' for name in others) + '.')


def _crops(picture: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, str]]:
    """The same square of every result, with the PSNR of the whole; the blur is left out."""
    top, left = busiest(picture['clean'])
    return {name: (image[top:top + CROP, left:left + CROP],
                   '' if name == 'clean' else f'{_psnr(image, picture["clean"]):.2f} dB')
            for name, image in picture.items() if not name.startswith('Gaussian')}
