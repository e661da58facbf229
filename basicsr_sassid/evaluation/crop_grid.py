"""The figure of crops: a method a column, its PSNR under it, and the noise that it removed."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from basicsr_sassid.ops.arrays import detail_crop_corner

CROP = 160  # pixels a side
_CORNER_STEP = 32  # pixels between candidate corners
_ZOOM, _GAP, _HEAD, _FOOT = 2, 6, 52, 26
_LINE, _LETTER = 26, 10  # pixels of the footer's lines and, at most, of a letter in the mean
_AMPLIFIED = 4  # residuals, around grey


def crop_box(image: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the crop that represents a clean reference, (H, W, C)."""
    top, left = detail_crop_corner(image, CROP, CROP, _CORNER_STEP)
    return slice(top, top + CROP), slice(left, left + CROP)


def draw_crop_grid(
    rows: Sequence[Mapping[str, tuple[np.ndarray, str]]], residuals: bool = False, footer: str = ''
) -> np.ndarray:
    """(H, W, 3) uint8.

    Args:
        rows: for each photograph, method -> (crop, caption), crops (h, w, 3) uint8; all with the same methods.
        residuals: below each row the removed noise, four times amplified: the first column minus each.
        footer: line below all rows.
    """
    names = list(rows[0])
    side = CROP * _ZOOM
    height = side * 2 if residuals else side
    width, bottom = len(names) * (side + _GAP) + _GAP, _HEAD + len(rows) * (height + _FOOT)
    lines = textwrap.wrap(footer, width // _LETTER)
    grid = Image.new('RGB', (width, bottom + len(lines) * _LINE + (_GAP if lines else 0)), 'white')
    draw = ImageDraw.Draw(grid)
    font = ImageFont.load_default(17)
    for number, row in enumerate(rows):
        first = row[names[0]][0].astype(float)
        for column, name in enumerate(names):
            crop, caption = row[name]
            left, top = _GAP + column * (side + _GAP), _HEAD + number * (height + _FOOT)
            _paste(grid, crop, (left, top))
            if residuals:
                removed = (128 + _AMPLIFIED * (first - crop)).clip(0, 255).astype(np.uint8)
                _paste(grid, removed, (left, top + side))
            if number == 0:
                draw.multiline_text(
                    (left + side / 2, _HEAD / 2), _wrapped(name), 'black', font, anchor='mm', align='center'
                )
            draw.text((left + side / 2, top + height + _FOOT / 2), caption, 'black', font, anchor='mm')
    for number, line in enumerate(lines):
        draw.text((width / 2, bottom + (number + 0.5) * _LINE), line, 'black', font, anchor='mm')
    return np.array(grid)


def _paste(grid: Image.Image, crop: np.ndarray, corner: tuple[int, int]) -> None:
    size = crop.shape[1] * _ZOOM, crop.shape[0] * _ZOOM
    grid.paste(Image.fromarray(crop).resize(size, Image.Resampling.NEAREST), corner)


def _wrapped(name: str, width: int = 34) -> str:
    if len(name) <= width:
        return name
    cut = name.rfind(' ', 0, width)
    return name[:cut] + '\n' + name[cut + 1 :] if cut > 0 else name
