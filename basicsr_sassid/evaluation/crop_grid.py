"""Crops side by side: a method a column, its PSNR under it, and what it removed."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CROP = 160  # pixels a side
_ZOOM, _GAP, _HEAD, _FOOT = 2, 6, 52, 26
_AMPLIFIED = 4  # residuals, around grey


def busiest(image: np.ndarray, crop: int = CROP) -> tuple[int, int]:
    """Corner of the square whose detail is at the upper quartile: something to see, and not only texture."""
    grey = image.astype(np.float32).mean(axis=2)
    height, width = (max(side - crop + 1, 1) for side in grey.shape)
    corners = [(top, left) for top in range(0, height, 32) for left in range(0, width, 32)]
    detail = [grey[top:top + crop, left:left + crop].std() for top, left in corners]
    return corners[int(np.argsort(detail)[int(0.75 * (len(corners) - 1))])]


def draw_crop_grid(rows: Sequence[Mapping[str, tuple[np.ndarray, str]]], residuals: bool = False) -> np.ndarray:
    """(H, W, 3) uint8.

    Args:
        rows: for each photograph, method -> (crop, what to write under it); all with the same methods.
        residuals: below each row what was removed, four times amplified: the first column minus each.
    """
    names = list(rows[0])
    side = CROP * _ZOOM
    height = side * 2 if residuals else side
    sheet = Image.new('RGB', (len(names) * (side + _GAP) + _GAP, _HEAD + len(rows) * (height + _FOOT)), 'white')
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(17)
    for number, row in enumerate(rows):
        first = row[names[0]][0].astype(float)
        for column, name in enumerate(names):
            crop, text = row[name]
            left, top = _GAP + column * (side + _GAP), _HEAD + number * (height + _FOOT)
            _paste(sheet, crop, (left, top))
            if residuals:
                removed = (128 + _AMPLIFIED * (first - crop)).clip(0, 255).astype(np.uint8)
                _paste(sheet, removed, (left, top + side))
            if number == 0:
                draw.multiline_text((left + side / 2, _HEAD / 2), _wrapped(name), 'black', font, anchor='mm',
                                    align='center')
            draw.text((left + side / 2, top + height + _FOOT / 2), text, 'black', font, anchor='mm')
    return np.array(sheet)


def _paste(sheet: Image.Image, crop: np.ndarray, corner: tuple[int, int]) -> None:
    size = crop.shape[1] * _ZOOM, crop.shape[0] * _ZOOM
    sheet.paste(Image.fromarray(crop).resize(size, Image.Resampling.NEAREST), corner)


def _wrapped(name: str, width: int = 34) -> str:
    if len(name) <= width:
        return name
    cut = name.rfind(' ', 0, width)
    return name[:cut] + '\n' + name[cut + 1:] if cut > 0 else name
