"""The noise as a picture: its correlation map with the recommended blind square, and its level by intensity."""
from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from basicsr_sassid.io.photo import Photo, write_photo
from basicsr_sassid.noise.model import MAX_LAG, NoiseModel

_CELL = 24
_COLOURS = {'R': '#c0392b', 'G': '#1e8449', 'B': '#2e5fa3'}


def draw(noise: NoiseModel, output: str | os.PathLike) -> None:
    """Write the figure. Raises UserError if it can't be written."""
    side = (2 * MAX_LAG + 1) * _CELL
    sheet = Image.new('RGB', (2 * side + 170, side + 110), 'white')
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    _draw_map(sheet, pen, font, noise, (30, 50), side)
    _draw_levels(pen, font, noise, (side + 120, 50), side)
    write_photo(Photo(np.array(sheet)), output)


def _draw_map(sheet: Image.Image, pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, noise: NoiseModel,
              corner: tuple[int, int], side: int) -> None:
    left, top = corner
    strength = np.sqrt(np.abs(noise.correlation).clip(0, 1))  # small correlations are what matters
    shade = (255 * (1 - strength)).astype(np.uint8)
    sheet.paste(Image.fromarray(shade).resize((side, side), Image.Resampling.NEAREST).convert('RGB'), corner)
    pen.rectangle((left, top, left + side - 1, top + side - 1), outline='#888888')
    k = noise.blind_size()
    inset = (side - k * _CELL) // 2
    pen.rectangle((left + inset, top + inset, left + side - inset, top + side - inset), outline='#e67e22', width=3)
    pen.text((left + side / 2, 25), f'Correlation (square root of it), blind_size {k}', 'black', font, anchor='mm')
    for lag in range(-MAX_LAG, MAX_LAG + 1, 4):
        pen.text((left + (lag + MAX_LAG + 0.5) * _CELL, top + side + 15), str(lag), 'black', font, anchor='mm')
    pen.text((left + side / 2, top + side + 40), 'distance, pixels', 'black', font, anchor='mm')


def _draw_levels(pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, noise: NoiseModel, corner: tuple[int, int],
                 side: int) -> None:
    left, top = corner
    highest = 1.15 * max([1., *(points[:, 1].max() for points in noise.sigma_curve.values() if len(points))])

    def place(intensity: float, sigma: float) -> tuple[float, float]:
        return left + intensity / 255 * side, top + side * (1 - sigma / highest)
    pen.rectangle((left, top, left + side, top + side), outline='#888888')
    for share in (0, 0.5, 1):
        pen.text((left - 8, place(0, share * highest)[1]), f'{share * highest:.1f}', 'black', font, anchor='rm')
        pen.text((place(share * 255, 0)[0], top + side + 15), f'{share * 255:.0f}', 'black', font, anchor='mm')
    pen.text((left + side / 2, 25), 'Noise level (sigma) by intensity, grey levels', 'black', font, anchor='mm')
    pen.text((left + side / 2, top + side + 40), 'intensity', 'black', font, anchor='mm')
    for name, points in noise.sigma_curve.items():
        for intensity, sigma in points:
            x, y = place(intensity, sigma)
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=_COLOURS[name])
        if len(points) > 1:
            curve = _fitted(noise.variance_fit[name])
            span = np.linspace(points[0, 0], points[-1, 0], 50)
            pen.line([place(value, min(curve(value), highest)) for value in span], fill=_COLOURS[name], width=2)


def _fitted(line: tuple[float, float]) -> Callable[[float], float]:
    return lambda intensity: float(np.sqrt(max(line[0] * intensity + line[1], 0.)))
