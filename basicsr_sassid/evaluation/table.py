"""One table in four forms, and one figure a dataset."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from basicsr_sassid.evaluation.crop_grid import crop_box, draw_crop_grid
from basicsr_sassid.evaluation.pairs import Pair
from basicsr_sassid.evaluation.schema import is_oracle
from basicsr_sassid.io.atomic import atomic_write, write_json
from basicsr_sassid.io.photo import Photo, read_photo, write_photo
from basicsr_sassid.utils.sequences import count_noun

_ORACLE = '*'
_COSTS = {
    'params': ('params M', 1e-6, 2),
    'macs': ('GMAC 256x256', 1e-9, 1),
    'megapixels_per_second': ('MP/s', 1, 3),
    'bytes': ('peak MiB', 2**-20, 0),
}  # key: title, factor, digits


def rows(result: dict[str, Any]) -> list[list[str]]:
    """The header, then a row a method. Memory is the most over the datasets, MP/s their mean."""
    datasets, protocols = list(result['cells']), list(result['protocols'])
    lines = [
        [
            'method',
            *(f'{dataset} {protocol}' for dataset in datasets for protocol in protocols),
            *(title for title, _, _ in _COSTS.values()),
        ]
    ]
    for method, block in result['options']['methods'].items():
        cells = [result['cells'][dataset].get(method, {}) for dataset in datasets]
        line = [f'{method} {_ORACLE}' if is_oracle(block) else method]
        for cell in cells:
            line += _figures(cell, protocols)
        line += [_cost(cells, key) if block['type'] != 'noisy' else '-' for key in _COSTS]
        lines.append(line)
    return lines


def _figures(cell: dict[str, Any], protocols: list[str]) -> list[str]:
    if 'error' in cell:
        return [f'error: {cell["error"]}'[:60]] + [''] * (len(protocols) - 1)
    return [_figure(cell, name) for name in protocols]


def _figure(cell: dict[str, Any], protocol: str) -> str:
    if protocol not in cell:
        return ''
    return f'{cell[protocol]:.2f}' if protocol == 'psnr' else f'{cell[protocol]:.4f}'


def _cost(cells: list[dict[str, Any]], key: str) -> str:
    _, factor, digits = _COSTS[key]
    known = [cell[key] for cell in cells if key in cell]
    if not known:
        return '-'
    value = sum(known) / len(known) if key == 'megapixels_per_second' else max(known)
    return f'{value * factor:.{digits}f}'


def notes(result: dict[str, Any]) -> list[str]:
    """What a reader must know of the columns and rows."""
    lines = [f'{name}: {text}.' for name, text in result['protocols'].items()]
    if any(is_oracle(block) for block in result['options']['methods'].values()):
        lines.append(
            f'{_ORACLE}: its setting is the one that suits the clean references best, which no user could know.'
        )
    settings = [
        f'{method}, {dataset}: {cell["note"]}'
        for dataset, cells in result['cells'].items()
        for method, cell in cells.items()
        if cell.get('note')
    ]
    if settings:
        lines.append('Settings: ' + '; '.join(settings) + '.')
    images = ', '.join(f'{count_noun(count, "image")} of {name}' for name, count in result['images'].items())
    where = result['gpu'] or f'{result["threads"]} thread(s) of {result["cpu"]}'
    lines.append(f'{images}. MP/s and peak memory: {where}; parameters and multiply-adds of all passes.')
    return lines


def terminal(result: dict[str, Any]) -> str:
    """Aligned columns, and the notes."""
    return align(rows(result), notes(result))


def align(lines: list[list[str]], remarks: list[str]) -> str:
    """Rows, the header first, as aligned columns, and remarks below them."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = [
        '  '.join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths))
        )
        for line in lines
    ]
    return '\n'.join([*text, '', *remarks])


def markdown(lines: list[list[str]], remarks: list[str]) -> str:
    """Rows, the header first, as a Markdown table, and remarks as a list."""
    header, *body = lines
    lines = [header, ['---'] * len(header), *body]
    return (
        '\n'.join('| ' + ' | '.join(cell.replace('|', '/') for cell in line) + ' |' for line in lines)
        + '\n\n'
        + ('\n'.join(f'- {remark}' for remark in remarks) + '\n')
    )


def write(result: dict[str, Any], folder: Path) -> None:
    """Write ``table.json``, ``table.md`` and ``table.csv``. Raises UserError if they cannot be written."""
    write_table(result, rows(result), notes(result), folder)


def write_table(result: dict[str, Any], lines: list[list[str]], remarks: list[str], folder: Path) -> None:
    """:func:`write` of other rows, the header first, and remarks."""
    write_json(result, folder / 'table.json', indent=1)
    text = io.StringIO()
    csv.writer(text).writerows(lines)
    for name, content in (('table.md', markdown(lines, remarks)), ('table.csv', text.getvalue())):
        with atomic_write(folder / name) as partial:
            partial.write_text(content, encoding='utf-8')


def write_crop_grid(result: dict[str, Any], dataset: str, pairs: list[Pair], methods: list[str], folder: Path) -> None:
    """Write ``<dataset>.png`` of those of ``methods`` that have crops, between the noisy image and the reference."""
    cells = {name: result['cells'][dataset][name] for name in methods}
    cells = {name: cell for name, cell in cells.items() if 'crops' in cell}
    if not cells:
        return
    shown = set.intersection(*(set(cell['crops']) for cell in cells.values()))
    grid = []
    for pair in pairs:
        if pair.name in shown:
            box = crop_box(pair.clean)
            grid.append(
                {
                    'noisy': (pair.noisy[box], ''),
                    **{name: _labelled_crop(cell, pair.name) for name, cell in cells.items()},
                    'clean': (pair.clean[box], ''),
                }
            )
    if grid:
        write_photo(Photo(draw_crop_grid(grid, residuals=True)), folder / f'{dataset}.png')


def _labelled_crop(cell: dict[str, Any], image: str) -> tuple[Any, str]:
    psnr = cell['images'][image].get('psnr')
    return read_photo(cell['crops'][image]).pixels, '' if psnr is None else f'{psnr:.2f} dB'
