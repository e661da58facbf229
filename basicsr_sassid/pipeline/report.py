"""report.html: what was done to the photographs, in one file that needs nothing else."""
from __future__ import annotations

import base64
import contextlib
import datetime
import io
import math
import platform
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
import torch
from PIL import Image

from basicsr_sassid.inference.blend import BlendedDenoiser
from basicsr_sassid.inference.denoiser import Denoiser
from basicsr_sassid.io.atomic import atomic_write
from basicsr_sassid.io.photo import Photo, read_photo
from basicsr_sassid.losses.selective_loss import texture_map
from basicsr_sassid.noise.model import MAX_LAG, NoiseModel

MOST_SHOWN = 24  # photographs, evenly spaced
_WIDTH, _HEIGHT = 480, 360  # pixels of a photograph that are shown
_STAGE_NAMES = {'bnn': 'BNN, the teacher for flat areas', 'lan': 'LAN, the teacher for textured areas',
                'unet': 'U-Net, the student'}
# how to turn stored pixels for the eye: EXIF orientation -> (flipped, quarter turns)
_TURNS = {2: (True, 0), 3: (False, 2), 4: (True, 2), 5: (True, 1), 6: (False, 3), 7: (True, 3), 8: (False, 1)}


def write_report(path: Path, done: dict[Path, Path], state: dict[str, Any], work: Path, mixture: BlendedDenoiser,
                 failed: dict[str, str], command: str) -> Path:
    """Write the report of a run.

    Args:
        path: of the file.
        done: photograph -> its denoised version.
        state: what the run knows: noise, plan, findings, risks ...
        work: folder of the run, with ``curve.csv`` and ``net_bnn.pth`` if there was a training.
        mixture: what has denoised them.
        failed: files left out, with the reason.
        command: that repeats it.
    """
    noise = state['noise'] and NoiseModel.from_dict(state['noise'])
    bnn = Denoiser(work / 'net_bnn.pth', 'cpu', tile=64, overlap=32) if (work / 'net_bnn.pth').exists() else None
    some = list(done.items())[::max(math.ceil(len(done) / MOST_SHOWN), 1)]
    environment = jinja2.Environment(loader=jinja2.PackageLoader('basicsr_sassid.pipeline', '.'), autoescape=True,
                                     trim_blocks=True, lstrip_blocks=True)
    html = environment.get_template('report.html').render(
        shown=[_shown(source, target, bnn) for source, target in some], count=len(done), state=state, noise=noise,
        noise_map=noise and _noise_map(noise), noise_curves=noise and _noise_curves(noise),
        curves=_curves(work / 'curve.csv'), mixture=mixture, failed=failed, command=command, versions=versions(),
        risks={name: math.sqrt(max(value, 0)) for name, value in state.get('risks', {}).items()},
        date=datetime.date.today().isoformat(), stage_names=_STAGE_NAMES, radii=range(1, MAX_LAG + 1))
    with atomic_write(path) as partial:
        partial.write_text(html, encoding='utf-8', errors='replace')  # a file's name can be any bytes
    return path


def versions() -> dict[str, str]:
    """Of what the result depends on."""
    import basicsr

    import basicsr_sassid
    return {'basicsr_sassid': basicsr_sassid.__version__, 'basicsr': basicsr.__version__, 'torch': torch.__version__,
            'numpy': np.__version__, 'python': platform.python_version(),
            'machine': f'{platform.system()} {platform.machine()}'}


def _shown(source: Path, target: Path, bnn: Denoiser | None) -> dict[str, Any]:
    """A part of one photograph, before and after, pixel for pixel."""
    before, after = read_photo(source), read_photo(target)
    height, width = before.pixels.shape[:2]
    top, left = _corner(after.pixels)
    part = (slice(top, top + _HEIGHT), slice(left, left + _WIDTH))
    images = {'before': before.as_rgb_float()[part], 'after': after.as_rgb_float()[part]}
    images['removed'] = 0.5 + 4 * (images['before'] - images['after'])
    if bnn is not None and min(images['before'].shape[:2]) > 8:
        answer = torch.from_numpy(bnn(np.ascontiguousarray(images['before']))).permute(2, 0, 1)[None] * 255
        images['alpha'] = texture_map(answer)[0].permute(1, 2, 0).numpy().repeat(3, 2)
    orientation = _orientation(before)
    images = {name: _turned(image, orientation) for name, image in images.items()}
    shape = images['before'].shape
    return {'name': source.name, 'size': f'{width} x {height}', 'width': shape[1], 'height': shape[0],
            **{name: _inline(image, before.icc if name in ('before', 'after') else None)
               for name, image in images.items()}}


def _corner(pixels: np.ndarray) -> tuple[int, int]:
    """Of the part whose detail is at the upper quartile: something to see, and not only texture."""
    height, width = (max(side - part + 1, 1) for side, part in zip(pixels.shape[:2], (_HEIGHT, _WIDTH)))
    grey = pixels.astype(np.float32).mean(axis=2)
    detail = cv2.boxFilter((grey - cv2.GaussianBlur(grey, (0, 0), 3)) ** 2, -1, (_WIDTH, _HEIGHT),
                           anchor=(0, 0))[:height, :width]
    step = max(min(height, width) // 16, 1)
    corners = [(top, left) for top in range(0, height, step) for left in range(0, width, step)]
    order = np.argsort([detail[corner] for corner in corners])
    return corners[int(order[int(0.75 * (len(order) - 1))])]


def _orientation(photo: Photo) -> int:
    if not photo.exif:
        return 1
    exif = Image.Exif()
    try:
        exif.load(photo.exif)
        return int(exif.get(274, 1))
    except Exception:  # whatever Pillow raises on a damaged block
        return 1


def _turned(image: np.ndarray, orientation: int) -> np.ndarray:
    flip, turns = _TURNS.get(orientation, (False, 0))
    return np.rot90(image[:, ::-1] if flip else image, turns)


def _inline(image: np.ndarray, icc: bytes | None) -> str:
    file = io.BytesIO()
    pixels = np.ascontiguousarray((image * 255).round().clip(0, 255).astype(np.uint8))
    grey_profile = icc is not None and icc[16:20] == b'GRAY'  # the part is shown as RGB
    Image.fromarray(pixels).save(file, 'JPEG', quality=92, subsampling=0,
                                 **({'icc_profile': icc} if icc and not grey_profile else {}))
    return 'data:image/jpeg;base64,' + base64.b64encode(file.getvalue()).decode()


def _curves(path: Path) -> list[dict[str, Any]]:
    """Of each stage the points of its loss, for an SVG of 300 x 120."""
    if not path.exists():
        return []
    stages: dict[str, dict[int, float]] = {}
    for line in path.read_text().splitlines():
        with contextlib.suppress(ValueError):  # half a line, of a full disk
            stage, iteration, loss = line.split(',')
            stages.setdefault(stage, {})[int(iteration)] = float(loss)  # gone over again after a stop: the last counts
    curves = []
    for stage, points in stages.items():
        iterations, losses = np.array(sorted(points)), np.array([points[number] for number in sorted(points)])
        smooth = np.convolve(np.pad(losses, 4, 'edge'), np.ones(9) / 9, 'valid')
        top = float(np.quantile(losses, 0.98)) * 1.1
        x = 300 * (iterations - iterations[0]) / max(iterations[-1] - iterations[0], 1)
        curves.append({'stage': stage, 'top': top, 'iterations': int(iterations[-1] - iterations[0]) + 1,
                       'raw': _points(x, losses, top, 120), 'smooth': _points(x, smooth, top, 120)})
    return curves


def _points(x: np.ndarray, y: np.ndarray, top: float, height: float) -> str:
    return ' '.join(f'{a:.1f},{height * (1 - min(b / top, 1)):.1f}' for a, b in zip(x, y))


def _noise_map(noise: NoiseModel) -> dict[str, Any]:
    """Cells of the correlation map, for an SVG of 17 x 17, and the blind square on it."""
    strength = np.sqrt(np.abs(noise.correlation).clip(0, 1))
    return {'cells': [(column, row, f'{strength[row, column]:.2f}') for row in range(len(strength))
                      for column in range(len(strength)) if strength[row, column] > 0.02],
            'inset': MAX_LAG - noise.blind_size() // 2, 'side': noise.blind_size()}


def _noise_curves(noise: NoiseModel) -> dict[str, Any]:
    """Of each channel the level by intensity, for an SVG of 300 x 170."""
    top = 1.15 * max([1., *(points[:, 1].max() for points in noise.sigma_curve.values() if len(points))])
    channels = {}
    for name, points in noise.sigma_curve.items():
        slope, offset = noise.variance_fit[name]
        span = np.linspace(*points[[0, -1], 0], 40) if len(points) > 1 else np.empty(0)
        line = np.sqrt(np.maximum(slope * span + offset, 0))
        channels[name] = {'dots': [(f'{x / 255 * 300:.1f}', f'{170 * (1 - y / top):.1f}') for x, y in points],
                          'line': _points(span / 255 * 300, line, top, 170)}
    return {'top': top, 'channels': channels}
