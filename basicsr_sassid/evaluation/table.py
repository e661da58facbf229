"""One table in four forms, and one figure a dataset."""
from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from basicsr_sassid.evaluation.crop_grid import CROP, busiest, draw_crop_grid
from basicsr_sassid.evaluation.methods import is_oracle
from basicsr_sassid.io.atomic import atomic_write
from basicsr_sassid.io.photo import Photo, read_photo, write_photo

_ORACLE = '*'
_COSTS = {'params': ('params M', 1e-6, 2), 'macs': ('GMAC 256x256', 1e-9, 1),
          'megapixels_per_second': ('MP/s', 1, 3), 'bytes': ('peak MiB', 2 ** -20, 0)}


def rows(result: dict[str, Any]) -> list[list[str]]:
    """The header, then a row a method. Memory is the most over the datasets, MP/s their mean."""
    datasets, protocols = list(result['cells']), list(result['protocols'])
    lines = [['method', *(f'{dataset} {protocol}' for dataset in datasets for protocol in protocols),
              *(title for title, _, _ in _COSTS.values())]]
    for method, block in result['options']['methods'].items():
        cells = [result['cells'][dataset].get(method, {}) for dataset in datasets]
        line = [method + (f' {_ORACLE}' if is_oracle(block) else '')]
        for cell in cells:
            line += _figures(cell, protocols)
        for key, (_, factor, digits) in _COSTS.items():
            known = [cell[key] for cell in cells if key in cell and block['type'] != 'noisy']
            value = max(known) if known and key != 'megapixels_per_second' else sum(known) / max(len(known), 1)
            line.append(f'{value * factor:.{digits}f}' if known else '-')
        lines.append(line)
    return lines


def _figures(cell: dict[str, Any], protocols: list[str]) -> list[str]:
    if 'error' in cell:
        return [f'error: {cell["error"]}'[:60]] + [''] * (len(protocols) - 1)
    return [f'{cell[name]:.2f}' if name == 'psnr' else f'{cell[name]:.4f}' if name in cell else '' for name in protocols
            ] if cell else [''] * len(protocols)


def notes(result: dict[str, Any]) -> list[str]:
    """What a reader must know of the columns and rows."""
    lines = [f'{name}: {text}.' for name, text in result['protocols'].items()]
    found = [f'{method}, {dataset}: {cell["note"]}' for dataset, cells in result['cells'].items()
             for method, cell in cells.items() if cell.get('note')]
    if any(is_oracle(block) for block in result['options']['methods'].values()):
        lines.append(f'{_ORACLE}: its setting is the one that suits the clean images best, which no user could know.')
    if found:
        lines.append('Settings: ' + '; '.join(found) + '.')
    images = ', '.join(f'{count} images of {name}' for name, count in result['images'].items())
    where = result['gpu'] or f'{result["threads"]} thread(s) of {result["cpu"]}'
    lines.append(f'{images}. MP/s and peak memory: {where}; parameters and multiply-adds of all passes.')
    return lines


def terminal(result: dict[str, Any]) -> str:
    """Aligned columns."""
    lines = rows(result)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = ['  '.join(cell.ljust(width) if column == 0 else cell.rjust(width)
                      for column, (cell, width) in enumerate(zip(line, widths))) for line in lines]
    return '\n'.join([*text, '', *notes(result)])


def markdown(result: dict[str, Any]) -> str:
    header, *body = rows(result)
    lines = [header, ['---'] * len(header), *body]
    return '\n'.join('| ' + ' | '.join(cell.replace('|', '/') for cell in line) + ' |' for line in lines) + '\n\n' + (
        '\n'.join(f'- {note}' for note in notes(result)) + '\n')


def write(result: dict[str, Any], folder: Path) -> None:
    """``table.json``, ``.md``, ``.csv``. Raises UserError if they can't be written."""
    text = io.StringIO()
    csv.writer(text).writerows(rows(result))
    for name, content in (('table.json', json.dumps(result, indent=1, default=str)), ('table.md', markdown(result)),
                          ('table.csv', text.getvalue())):
        with atomic_write(folder / name) as partial:
            partial.write_text(content, encoding='utf-8')


def write_sheet(result: dict[str, Any], dataset: str, pairs: list, opt: dict[str, Any], folder: Path) -> None:
    """``<dataset>.png`` of the methods that have crops: all, or those of ``sheet.methods``."""
    cells = result['cells'][dataset]
    chosen = (opt.get('sheet') or {}).get('methods') or list(opt['methods'])
    chosen = [name for name in chosen if 'crops' in cells[name]]
    if not chosen:
        return
    sheet = []
    for name, noisy, clean in pairs:
        if name not in cells[chosen[0]]['crops']:
            continue
        top, left = busiest(clean)
        place = slice(top, top + CROP), slice(left, left + CROP)
        row = {'noisy': (noisy[place], '')}
        for method in chosen:
            psnr = cells[method]['images'][name].get('psnr')
            row[method] = read_photo(cells[method]['crops'][name]).pixels, '' if psnr is None else f'{psnr:.2f} dB'
        sheet.append({**row, 'clean': (clean[place], '')})
    if not sheet:
        return
    write_photo(Photo(draw_crop_grid(sheet, residuals=True)), folder / f'{dataset}.png')
