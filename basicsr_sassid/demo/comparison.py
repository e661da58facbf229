"""The comparison of a demo: the methods, their table, and the pictures."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from basicsr_sassid.demo.photographs import Denoise, Pairs
from basicsr_sassid.demo.plan import NUM_NLM_STRENGTHS, TUNING_SIDE
from basicsr_sassid.evaluation.context import MethodContext
from basicsr_sassid.evaluation.crop_grid import crop_box, draw_crop_grid
from basicsr_sassid.evaluation.methods import build_blend, build_method
from basicsr_sassid.evaluation.protocols import evaluate_image
from basicsr_sassid.evaluation.schema import BestOf, GaussianOptions, OpenCVNLMOptions
from basicsr_sassid.inference.denoiser import Denoiser
from basicsr_sassid.inference.spectral import SpectralDenoiser
from basicsr_sassid.noise.model import NoiseModel
from basicsr_sassid.ops.arrays import centre_crop
from basicsr_sassid.utils.sequences import Progress, count_noun, scaled

# of the same BNN in prediction, as AT-BSN: 29.8 dB against 29.2 dB on the simulated set, where 1 gives 29.2 dB and 0
# 27.8 dB, since the noise is correlated; on SIDD 34.0 dB against 33.9 dB with 9
SMALLER_BLIND_SIZE = 3
BLUR_SIGMAS = (0.8, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)  # pixels
NLM_STRENGTHS = (3.0, 5.0, 10.0, 15.0, 20.0, 30.0)[:NUM_NLM_STRENGTHS]  # grey levels
EXPECTED_GAIN = 2.0  # dB, of the blend over the best classical peer after five minutes on two cores without AVX-512
_PROTOCOLS = {'psnr': 'psnr', 'ssim': 'ssim_gaussian'}
_MAX_ROWS = 3  # of the picture
_PEERS = ('Gaussian blur', 'non-local means')
# columns of the picture: beginnings of the methods' names, the delivered result first
_COLUMNS = ('noisy', 'blend', 'spectral', 'U-Net', f'BNN, blind size {SMALLER_BLIND_SIZE}', 'clean')
_MANY_ITERATIONS, _LITTLE_NOISE = 2000, 30.0  # of the student; dB of the noisy images

Table = dict[str, dict[str, float]]  # method -> psnr (dB) and ssim


def build_methods(pairs: Pairs, models: Path) -> dict[str, Denoise]:
    """The methods of the table. The setting of the first two is the one that suits the clean references best, which no
    user could know; the networks and the blend see no reference."""
    context = MethodContext(pairs, 'cpu')
    crops = [(centre_crop(noisy, TUNING_SIDE), centre_crop(clean, TUNING_SIDE)) for noisy, clean in pairs]
    tuning = MethodContext(crops, 'cpu')
    blur = build_method(GaussianOptions(type='gaussian', sigma=BestOf(best_of=list(BLUR_SIGMAS))), tuning)
    nlm = build_method(OpenCVNLMOptions(type='opencv_nlm', h=BestOf(best_of=list(NLM_STRENGTHS))), tuning)
    # in tiles of the training's patch, as the teacher is applied: far from all borders it does worse
    build_bnn = functools.partial(Denoiser, models / 'net_bnn_latest.pth', 'cpu', tile=64, overlap=32)
    bnn = build_bnn()
    student = Denoiser(models / 'net_g_latest.pth', 'cpu')
    blend = build_blend(student, context)
    return {
        'noisy': lambda image: image,
        f'{_PEERS[0]}, {blur.note}': blur.run,
        f'{_PEERS[1]}, {nlm.note}': nlm.run,
        f'BNN, blind size {bnn.net.blind_size}': bnn,
        f'BNN, blind size {SMALLER_BLIND_SIZE}': build_bnn(blind_size=SMALLER_BLIND_SIZE),
        'U-Net (the student)': student,
        'spectral (classical, no training)': SpectralDenoiser(context.noise),
        f'blend, {blend.note}': blend.run,
    }


def compare(
    pairs: Pairs, methods: Mapping[str, Denoise], progress: Progress | None = None
) -> tuple[Table, list[dict[str, np.ndarray]]]:
    """The mean figures of each method, and the results for the first pairs.

    Args:
        pairs: (noisy image, clean reference).
        methods: of :func:`build_methods`.
        progress: called with the fraction done, 0 to 1.
    """
    figures: dict[str, list[list[float]]] = {name: [] for name in methods}
    pictures = []
    for number, (noisy, clean) in enumerate(pairs):
        results = {name: method(noisy) for name, method in methods.items()}
        for name, image in results.items():
            figures[name].append([evaluate_image(image, clean, protocol) for protocol in _PROTOCOLS.values()])
        if len(pictures) < _MAX_ROWS:
            pictures.append({**results, 'clean': clean})
        scaled(progress, number / len(pairs), 1 / len(pairs))(1.0)
    return {
        name: dict(zip(_PROTOCOLS, map(float, np.mean(values, axis=0)))) for name, values in figures.items()
    }, pictures


# ---- what is printed ----


def describe_table(table: Table, count: int, is_simulated: bool) -> str:
    """The table as text, and below it the gain of the last method over each of the others."""
    images = count_noun(count, 'simulated photograph' if is_simulated else 'real photograph')
    *others, last = table
    return '\n'.join(
        [
            f'\nMean of {images}; no network has seen a clean reference. SSIM: each channel, Gaussian 11x11\n',
            f'{"":34}{"PSNR dB":>8}{"SSIM":>8}',
            *(f'{name:34}{figures["psnr"]:8.2f}{figures["ssim"]:8.4f}' for name, figures in table.items()),
            f'\n{last[0].upper()}{last[1:]}: '
            + ', '.join(f'{table[last]["psnr"] - table[name]["psnr"]:+.2f} dB against {name}' for name in others)
            + '.',
        ]
    )


def explain_gain(table: Table, iterations: int) -> str:
    """Why the delivered result is less than 2 dB above the best classical peer; empty where it is not.

    Args:
        table: of :func:`compare`; the last row is the delivered result.
        iterations: of the student.
    """
    peers = {name: figures['psnr'] for name, figures in table.items() if name.startswith(_PEERS)}
    if not peers:
        return ''
    best = max(peers, key=peers.__getitem__)
    gain = list(table.values())[-1]['psnr'] - peers[best]
    if gain >= EXPECTED_GAIN:
        return ''
    if iterations < _MANY_ITERATIONS:
        reason = f'The student was trained for {iterations} iterations only: give more --minutes.'
    elif table['noisy']['psnr'] > _LITTLE_NOISE:
        reason = f'The photographs have little noise ({table["noisy"]["psnr"]:.1f} dB), which leaves less to remove.'
    else:
        reason = "The peer's setting was chosen by the clean references; more --minutes may help."
    return f'note: {gain:+.2f} dB against {best}, less than {EXPECTED_GAIN:g} dB. {reason}'


# ---- pictures ----


def draw_comparison(pictures: Sequence[Mapping[str, np.ndarray]], footer: str) -> np.ndarray:
    """The same square of the noisy image, of the delivered result, of what it consists of, and of the reference.

    Args:
        pictures: for each photograph, method -> result, (H, W, 3) uint8; ``clean`` among them.
        footer: line below the crops.
    """
    names = [name for column in _COLUMNS for name in pictures[0] if name.startswith(column)]
    return draw_crop_grid([_crops({name: picture[name] for name in names}) for picture in pictures], footer=footer)


def draw_first_look(noisy: np.ndarray, clean: np.ndarray | None, noise: NoiseModel) -> np.ndarray:
    """A noisy image beside the result of the spectral denoiser, which needs no training, and the reference if any."""
    result = SpectralDenoiser(noise)(noisy)
    pictures = {'noisy': noisy, 'spectral (classical, no training)': result}
    return draw_crop_grid([_crops({**pictures, **({} if clean is None else {'clean': clean})})])


def _crops(picture: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, str]]:
    """The same square of every result, with the PSNR of the whole."""
    clean = picture.get('clean')
    box = crop_box(list(picture.values())[1] if clean is None else clean)

    def caption(name: str, image: np.ndarray) -> str:
        if clean is None or name == 'clean':
            return ''
        return f'{evaluate_image(image, clean, "psnr"):.2f} dB'

    return {name: (image[box], caption(name, image)) for name, image in picture.items()}
