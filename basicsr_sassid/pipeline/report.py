"""report.html: the result of a run in one self-contained file."""

from __future__ import annotations

import base64
import contextlib
import datetime
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image, ImageOps

from basicsr_sassid.inference.blend import BlendedDenoiser
from basicsr_sassid.io.atomic import atomic_write
from basicsr_sassid.io.photo import read_photo
from basicsr_sassid.noise.model import MAX_LAG
from basicsr_sassid.ops.arrays import detail_crop_corner
from basicsr_sassid.pipeline.report_charts import correlation_map, loss_curves, sigma_curves, weight_bars
from basicsr_sassid.pipeline.state import RunState
from basicsr_sassid.pipeline.weight_map import TeacherView, size_span
from basicsr_sassid.training.blind_sizes import BlindSizeChoice, size_text
from basicsr_sassid.utils.sequences import evenly_spaced
from basicsr_sassid.utils.versions import versions

MOST_SHOWN = 24  # photographs, evenly spaced
CROP_WIDTH, CROP_HEIGHT = 480, 360  # pixels of a photograph that are shown
REMOVED_GAIN = 4  # contrast of the removed part
_CORNERS = 16  # candidate crops along the shorter side
_ORIENTATION = 274  # EXIF tag
_STAGE_NAMES = {
    'bnn': 'BNN, the teacher',
    'lan': 'LAN, the second teacher of earlier versions',  # in the folders of their runs
    'unet': 'U-Net, the student',
}


def write_report(
    path: Path,
    done: Mapping[Path, Path],
    state: RunState,
    folder: Path,
    blend: BlendedDenoiser,
    failed: Mapping[str, str],
    command: str,
) -> Path:
    """Write the report of a run.

    Args:
        path: output file.
        done: photograph -> its denoised version.
        state: of the run.
        folder: of the run, with ``curve.csv`` and ``net_bnn.pth`` if there was a training.
        blend: denoiser of the outputs.
        failed: files that were left out, with the reason.
        command: command that repeats the run.

    Returns:
        ``path``.

    Raises:
        UserError: the report cannot be written, or a photograph cannot be read any more.
    """
    weights, teacher = folder / 'net_bnn.pth', state.teacher
    view = TeacherView(weights, teacher) if teacher and teacher.weights and weights.exists() else None
    shown = evenly_spaced(list(done.items()), MOST_SHOWN)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader('basicsr_sassid.pipeline', '.'),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template('report.html').render(
        shown=[_photo_views(source, target, view) for source, target in shown],
        count=len(done),
        state=state,
        noise=state.noise,
        correlation_map=state.noise and correlation_map(state.noise),
        sigma_curves=state.noise and sigma_curves(state.noise),
        loss_curves=loss_curves(folder / 'curve.csv'),
        teacher=teacher and _teacher_values(teacher),
        blend=blend,
        failed=failed,
        command=command,
        versions=versions(),
        rmse={name: math.sqrt(max(risk, 0)) for name, risk in state.risks.items()},
        date=datetime.date.today().isoformat(),
        stage_names=_STAGE_NAMES,
        radii=range(1, MAX_LAG + 1),
        removed_gain=REMOVED_GAIN,
    )
    with atomic_write(path) as partial:
        partial.write_text(html, encoding='utf-8', errors='replace')  # a file name can be any bytes
    return path


def _photo_views(source: Path, target: Path, teacher: TeacherView | None) -> dict[str, Any]:
    """One crop of a photograph before and after, the removed part, and the weight map, as data URLs."""
    before, after = read_photo(source), read_photo(target)
    height, width = before.pixels.shape[:2]
    crop = _detail_crop(after.pixels)
    images = {'before': before.as_rgb_float()[crop], 'after': after.as_rgb_float()[crop]}
    images['removed'] = 0.5 + REMOVED_GAIN * (images['before'] - images['after'])
    weights = teacher and teacher.weight_map(images['before'])
    if weights is not None:
        images['weights'] = weights[..., None].repeat(3, 2)
    upright = {name: to_upright(image, before.exif) for name, image in images.items()}
    shown_width, shown_height = upright['before'].size
    return {
        'name': source.name,
        'size': f'{width} x {height}',
        'width': shown_width,
        'height': shown_height,
        **{
            name: _data_url(image, before.icc if name in ('before', 'after') else None)
            for name, image in upright.items()
        },
    }


def _detail_crop(pixels: np.ndarray) -> tuple[slice, slice]:
    height, width = (max(side - crop + 1, 1) for side, crop in zip(pixels.shape[:2], (CROP_HEIGHT, CROP_WIDTH)))
    top, left = detail_crop_corner(pixels, CROP_HEIGHT, CROP_WIDTH, max(min(height, width) // _CORNERS, 1))
    return slice(top, top + CROP_HEIGHT), slice(left, left + CROP_WIDTH)


def _teacher_values(choice: BlindSizeChoice) -> dict[str, Any]:
    """Texts of the blind sizes, and the chart of their weights; None where there is nothing to compare."""
    sizes = list(map(size_text, choice.sizes))
    return {
        'sizes': sizes,
        'span': tuple(map(size_text, size_span(choice.sizes))),
        'dropped': {size_text(size): f'{100 * kept:.0f} %' for size, kept in choice.dropped.items()},
        'chart': weight_bars(choice.weights, sizes) if choice.weights and len(sizes) > 1 else None,
    }


def to_upright(image: np.ndarray, exif: bytes | None) -> Image.Image:
    """(H, W, 3) float in [0, 1] as an 8-bit picture, turned by its EXIF orientation; a damaged block is ignored."""
    picture = Image.fromarray(np.ascontiguousarray((image * 255).round().clip(0, 255).astype(np.uint8)))
    if exif:
        block = Image.Exif()
        with contextlib.suppress(Exception):  # Pillow raises errors of many types on a damaged block
            block.load(exif)
            picture.getexif()[_ORIENTATION] = int(block.get(_ORIENTATION, 1))
    return ImageOps.exif_transpose(picture)


def _data_url(picture: Image.Image, icc: bytes | None) -> str:
    file = io.BytesIO()
    is_grey_profile = icc is not None and icc[16:20] == b'GRAY'  # grey photographs are shown as RGB
    picture.save(
        file, 'JPEG', quality=92, subsampling=0, **({'icc_profile': icc} if icc and not is_grey_profile else {})
    )
    return 'data:image/jpeg;base64,' + base64.b64encode(file.getvalue()).decode()
