"""`sassid benchmark` on images with scores: how every no-reference metric agrees with the scores of every dataset."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from basicsr_sassid.evaluation import table
from basicsr_sassid.evaluation.correlation import COEFFICIENTS
from basicsr_sassid.evaluation.cost import machine
from basicsr_sassid.evaluation.iqa_cell import IQACell
from basicsr_sassid.evaluation.iqa_metrics import check_iqa_metrics
from basicsr_sassid.evaluation.iqa_schema import parse_iqa
from basicsr_sassid.evaluation.scored_images import read_scored_images
from basicsr_sassid.io.atomic import make_folder
from basicsr_sassid.training.runtime import silence
from basicsr_sassid.utils.sequences import count_noun


def run_iqa(opt: dict[str, Any], root: str | os.PathLike[str] = '.') -> dict[str, Any]:
    """Correlate every metric with the scores of every dataset.

    Args:
        opt: of an option file such as ``options/evaluation/iqa.yml``, where each key is explained.
        root: results land below it in ``results/benchmark/<name>``. A run that was stopped continues; images whose
            values are known are not evaluated again.

    Returns:
        The content of ``table.json``: ``cells[dataset][metric]``, see :meth:`IQACell.run`. Beside it are ``table.md``
        and ``table.csv``.

    Raises:
        UserError: an option is wrong, a score file or an image is missing, or a metric cannot be computed, before
            anything is run.
    """
    options = parse_iqa(opt)
    silence()
    datasets = {name: read_scored_images(name, block) for name, block in options.datasets.items()}
    check_iqa_metrics(options.metrics)
    folder = make_folder(Path(root).expanduser() / 'results' / 'benchmark' / options.name)
    result: dict[str, Any] = {
        'name': options.name,
        'protocols': COEFFICIENTS,
        **machine('cpu'),
        'options': opt,
        'images': {name: len(images) for name, images in datasets.items()},
        'cells': {name: {} for name in datasets},
    }
    for dataset, images in datasets.items():
        for name, metric in options.metrics.items():
            print(f'{dataset}: {name}', file=sys.stderr, flush=True)
            sign = 1 if metric.better == options.datasets[dataset].better else -1
            result['cells'][dataset][name] = IQACell(folder / 'cells' / dataset, name, metric).run(images, sign)
            table.write_table(result, rows(result), notes(result), folder)
    print(table.align(rows(result), notes(result)))
    return result


def rows(result: dict[str, Any]) -> list[list[str]]:
    """The header, then a row a metric. MP/s is the mean over the datasets."""
    header = ['metric']
    for dataset in result['cells']:
        header += [f'{dataset} {name}' for name in (*COEFFICIENTS, 'images')]
    lines = [[*header, 'MP/s']]
    for metric in result['options']['metrics']:
        cells = [cells.get(metric, {}) for cells in result['cells'].values()]
        line = [metric]
        for cell in cells:
            line += [f'{cell[name]:.4f}' if name in cell else '-' for name in COEFFICIENTS]
            line.append(str(cell.get('images', '-')))
        speeds = [cell['megapixels_per_second'] for cell in cells if 'megapixels_per_second' in cell]
        lines.append([*line, f'{sum(speeds) / len(speeds):.3f}' if speeds else '-'])
    return lines


def notes(result: dict[str, Any]) -> list[str]:
    """What a reader must know of the columns, and why a metric has no coefficients or no value of an image."""
    lines = [f'{name}: {text}.' for name, text in result['protocols'].items()]
    lines.append('Positive: the metric agrees with the scores.' + _directions(result['options']))
    for dataset, cells in result['cells'].items():
        for metric, cell in cells.items():
            lines += [f'{metric}, {dataset}: {text}.' for text in _remarks(cell, result['images'][dataset])]
    images = ', '.join(f'{count_noun(count, "image")} of {name}' for name, count in result['images'].items())
    lines.append(f'{images}. MP/s: {result["threads"]} thread(s) of {result["cpu"]}.')
    return lines


def _directions(options: dict[str, Any]) -> str:
    lower = [
        name
        for blocks in (options['metrics'], options['datasets'])
        for name, block in blocks.items()
        if block.get('better') == 'lower'
    ]
    return f' Lower is better for {", ".join(lower)}.' if lower else ''


def _remarks(cell: dict[str, Any], count: int) -> list[str]:
    remarks = []
    if cell['skipped']:
        name, reason = next(iter(cell['skipped'].items()))
        remarks.append(f'{len(cell["skipped"])} of {count_noun(count, "image")} left out, {name} first: {reason}')
    if 'reason' in cell:
        remarks.append(f'no coefficients: {cell["reason"]}')
    elif not cell['is_fitted']:
        remarks.append('the logistic fit did not converge, and plcc is of the values without a fit')
    return remarks
