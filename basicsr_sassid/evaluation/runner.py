"""`sassid benchmark`: every method on every dataset, cell by cell."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from basicsr_sassid.evaluation import table
from basicsr_sassid.evaluation.cell import Cell
from basicsr_sassid.evaluation.context import MethodContext
from basicsr_sassid.evaluation.cost import machine
from basicsr_sassid.evaluation.iqa_runner import run_iqa
from basicsr_sassid.evaluation.iqa_schema import is_iqa
from basicsr_sassid.evaluation.methods import METHODS, build_method
from basicsr_sassid.evaluation.pairs import content_key, read_pairs
from basicsr_sassid.evaluation.protocols import describe_protocol, metric_block
from basicsr_sassid.evaluation.schema import EvaluationOptions, MethodOptions, NetworkOptions, parse_evaluation
from basicsr_sassid.evaluation.trainings import Trainings, training_options
from basicsr_sassid.io.atomic import content_digest, make_folder
from basicsr_sassid.training.dry_run import check_metrics
from basicsr_sassid.training.options import resolve_options
from basicsr_sassid.training.runtime import silence
from basicsr_sassid.utils.device import choose_device
from basicsr_sassid.utils.errors import UserError
from basicsr_sassid.utils.version import __version__

_TRIAL_SIDE = 64  # pixels


def run_benchmark(opt: dict[str, Any], root: str | os.PathLike[str] = '.') -> dict[str, Any]:
    """Evaluate every method on every dataset; options with ``metrics`` are evaluated by :func:`run_iqa`.

    Args:
        opt: of an option file such as ``options/evaluation/classical.yml``, where each key is explained.
        root: results land below it in ``results/benchmark/<name>``. A run that was stopped continues; cells whose
            options are the same are not run again.

    Returns:
        The content of ``table.json``: ``cells[dataset][method]`` with the mean of each protocol, or ``error``.
        Beside it are ``table.md``, ``table.csv``, and ``<dataset>.png``: crops, the PSNR of each, the removed noise.

    Raises:
        UserError: an option is wrong, or a dataset cannot be read, before anything is run. An error in one method
            is written to its cell.
    """
    if is_iqa(opt):
        return run_iqa(opt, root)
    options = check_benchmark(opt)
    device = str(choose_device(options.device))
    silence()
    folder = Path(root).expanduser() / 'results' / 'benchmark' / options.name
    datasets = {name: read_pairs(name, block) for name, block in options.datasets.items()}
    dry_run(options, device, folder)
    make_folder(folder)
    result: dict[str, Any] = {
        'name': options.name,
        'protocols': {name: describe_protocol(name) for name in options.protocols},
        **machine(device),
        'seed': options.seed,
        'options': opt,
        'images': {name: len(pairs) for name, pairs in datasets.items()},
        'cells': {name: {} for name in datasets},
    }
    for dataset, pairs in datasets.items():
        trainings = Trainings(folder, options, dataset)
        context = MethodContext([(pair.noisy, pair.clean) for pair in pairs], device, trainings.weights_of)
        common = {
            'version': __version__,
            'images': content_key(pairs),
            'protocols': options.protocols,
            'device': device,
            'seed': options.seed,
        }
        for name, method in options.methods.items():
            cell = Cell(
                folder / 'cells' / dataset,
                name,
                {**common, **_method_settings(method, trainings)},
                shown_images(len(pairs), options.crop_grid.images),
            )
            print(f'{dataset}: {name}', file=sys.stderr, flush=True)
            result['cells'][dataset][name] = cell.run(method, pairs, context, options.protocols)
            table.write(result, folder)
        table.write_crop_grid(result, dataset, pairs, options.crop_grid.methods or list(options.methods), folder)
    print(table.terminal(result))
    return result


def check_benchmark(opt: dict[str, Any]) -> EvaluationOptions:
    """Check all options, before anything is run. Raises UserError for anything wrong in them."""
    options = parse_evaluation(opt, {name: kind.options for name, kind in METHODS.items()})
    for name, block in options.trainings.items():
        training_options(name, block, Path('.'), options.seed)
    return options


def dry_run(options: EvaluationOptions, device: str, folder: Path) -> None:
    """Try every protocol, training and method before hours of work; nothing is written.

    A method that fails is announced: its cells will hold the error, the others are run.

    Raises:
        UserError: a protocol cannot be computed, or the options of a training are wrong.
    """
    check_metrics({name: metric_block(name) for name in options.protocols}, 'protocols')
    for name, block in options.trainings.items():
        for dataset in options.datasets.values():
            try:
                images = Path(dataset.dataroot_lq)
                resolve_options(training_options(name, block, images, options.seed), folder, True)
            except UserError as error:
                raise UserError(f'trainings.{name}: {error}') from error
    image = np.random.default_rng(0).integers(0, 256, (_TRIAL_SIDE, _TRIAL_SIDE, 3), np.uint8)
    for name, method in options.methods.items():
        if isinstance(method, NetworkOptions) and method.training is not None:
            continue  # its network does not exist yet
        try:
            build_method(method, MethodContext([(image, image)], device)).run(image)
        except (Exception, SystemExit) as error:  # whatever it is, the other methods go on
            print(f'methods.{name} will fail: {str(error).strip() or type(error).__name__}', file=sys.stderr)


def shown_images(count: int, rows: int) -> set[int]:
    """Numbers of the images in the crop grid: the middles of ``rows`` equal parts of ``count`` images."""
    rows = min(rows, count)
    return {round((number + 0.5) * count / rows - 0.5) for number in range(rows)}


def _method_settings(method: MethodOptions, trainings: Trainings) -> dict[str, Any]:
    """What the results of a method depend on beside the images."""
    weights = training = None
    if isinstance(method, NetworkOptions):
        if method.weights is not None:
            with contextlib.suppress(OSError):  # a file that is missing, which the cell reports
                weights = content_digest(method.weights)
        if method.training is not None:
            training = trainings.settings(method.training)
    return {'method': method.model_dump(exclude_unset=True), 'weights': weights, 'training': training}
