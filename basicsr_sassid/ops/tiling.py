"""Tile loop of all denoisers: images of any size in bounded memory, without seams."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from basicsr_sassid.utils.sequences import Progress

Box = tuple[slice, slice]  # rows, columns
Size = tuple[int, int]  # height, width in pixels


class Tile(NamedTuple):
    """One tile: the box of the image that it reads, the valid box of its result, and that box in the image."""

    input_box: Box
    crop_box: Box
    output_box: Box


def tile_grid(height: int, width: int, tile: int, overlap: int, multiple: int) -> Iterator[Tile]:
    """Cut an image into tiles with context.

    Args:
        height, width: size of the image in pixels.
        tile: side of a tile's output in pixels, a multiple of ``multiple``.
        overlap: context pixels read on each side of a tile, likewise. With the network's receptive field or more, the
            tiled and the untiled result are the same function.
        multiple: grid of the network's pooling; tiles start on it, as the whole image does.

    Raises:
        ValueError: tile or overlap is no such multiple.
    """
    if tile < 1 or overlap < 0 or tile % multiple or overlap % multiple:
        raise ValueError(f'tile and overlap: expected multiples of {multiple}, got {tile} and {overlap}')
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            rows, columns = (_spans(start, side, tile, overlap) for start, side in ((top, height), (left, width)))
            yield Tile((rows[0], columns[0]), (rows[1], columns[1]), (rows[2], columns[2]))


def tiled_pixels(sizes: Iterable[Size], tile: int, overlap: int) -> int:
    """Pixels that a denoiser reads of images of these sizes, tile by tile with context; ``tile`` 0: untiled."""
    return sum(
        (rows.stop - rows.start) * (columns.stop - columns.start)
        for height, width in sizes
        for (rows, columns), *_ in tile_grid(height, width, tile or max(height, width), overlap if tile else 0, 1)
    )


def process_tiles(
    pixels: np.ndarray,
    function: Callable[[np.ndarray, Box], np.ndarray],
    tile: int,
    overlap: int,
    multiple: int = 1,
    progress: Progress | None = None,
) -> np.ndarray:
    """Apply a function tile by tile.

    Args:
        pixels: (H, W, C).
        function: (h, w, C) and its box in ``pixels`` to the same shape, in the value range of ``pixels``.
        tile, overlap, multiple: see :func:`tile_grid`.
        progress: called with the fraction done, 0 to 1.

    Returns:
        (H, W, C) in the dtype of ``pixels``.
    """
    result = np.empty_like(pixels)
    height, width = pixels.shape[:2]
    tiles = list(tile_grid(height, width, tile, overlap, multiple))
    for number, (input_box, crop_box, output_box) in enumerate(tiles, 1):
        result[output_box] = function(pixels[input_box], input_box)[crop_box]
        if progress:
            progress(number / len(tiles))
    return result


def _spans(start: int, side: int, tile: int, overlap: int) -> tuple[slice, slice, slice]:
    stop = min(start + tile, side)
    first, last = max(start - overlap, 0), min(stop + overlap, side)
    return slice(first, last), slice(start - first, stop - first), slice(start, stop)
