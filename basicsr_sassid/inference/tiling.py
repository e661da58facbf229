"""Any image size in bounded memory, without seams."""
from __future__ import annotations

from collections.abc import Iterator

Box = tuple[slice, slice]


def tiles(height: int, width: int, tile: int, overlap: int, multiple: int) -> Iterator[tuple[Box, Box, Box]]:
    """Cut an image into tiles that know their surroundings.

    Args:
        height, width: of the image.
        tile: side of what one tile gives to the output, a multiple of ``multiple``.
        overlap: how far a tile sees beyond that, likewise. As far as the network's receptive field: tiled and whole
            are the same function.
        multiple: grid that the network pools on; tiles start on it, as the whole image does.

    Yields:
        (seen, inner, kept): what the tile reads of the image, which part of its result is good, where that goes.
    """
    if tile < 1 or overlap < 0 or tile % multiple or overlap % multiple:
        raise ValueError(f'tile and overlap: expected multiples of {multiple}, got {tile} and {overlap}')
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            rows, columns = (_spans(start, side, tile, overlap) for start, side in ((top, height), (left, width)))
            yield (rows[0], columns[0]), (rows[1], columns[1]), (rows[2], columns[2])


def _spans(start: int, side: int, tile: int, overlap: int) -> tuple[slice, slice, slice]:
    stop = min(start + tile, side)
    first, last = max(start - overlap, 0), min(stop + overlap, side)
    return slice(first, last), slice(start - first, stop - first), slice(start, stop)
