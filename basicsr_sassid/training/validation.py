"""Validation: denoise a dataset, take BasicSR's metrics where there are clean references, keep the best."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from basicsr.metrics import calculate_metric
from basicsr.utils import get_root_logger, tensor2img
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from basicsr_sassid.io.photo import Photo, write_photo
from basicsr_sassid.utils.errors import UserError
from basicsr_sassid.utils.names import stays_inside

Visuals = Mapping[str, Tensor]  # lq, result, and gt where there is a clean reference: (1, C, H, W) in [0, 1], CPU


@dataclasses.dataclass
class MetricSums:
    """Sums of metrics over images.

    Attributes:
        count: images with a clean reference.
        sums: ``result/<metric>``, and ``lq/<metric>`` where the noisy input is evaluated too.
    """

    count: int
    sums: dict[str, float]

    def reduce(self, device: torch.device) -> None:
        """Add those of all processes."""
        values = torch.tensor([self.count, *self.sums.values()], dtype=torch.float64, device=device)
        torch.distributed.all_reduce(values)
        self.count, self.sums = int(values[0]), dict(zip(self.sums, values[1:].tolist()))

    def means(self, kind: str) -> dict[str, float]:
        """metric -> mean, of ``result`` or ``lq``."""
        return {
            key.removeprefix(f'{kind}/'): value / self.count
            for key, value in self.sums.items()
            if key.startswith(f'{kind}/')
        }


def sum_metrics(
    dataset: Dataset,
    indices: Iterable[int],
    denoise: Callable[[dict[str, Any]], Visuals],
    metrics: Mapping[str, dict[str, Any]],
    with_noisy: bool,
    image_path: Callable[[int], Path] | None,
) -> MetricSums:
    """Denoise images and sum their metrics.

    Args:
        dataset: gives samples with ``lq`` and, where there is a clean reference, ``gt``.
        indices: of the images of this process.
        denoise: a collated sample to its visuals.
        metrics: name -> option block of a BasicSR metric.
        with_noisy: evaluate the noisy input too.
        image_path: index -> file of the denoised image; None writes none.
    """
    kinds = ('result', 'lq') if with_noisy else ('result',)
    total = MetricSums(0, {f'{kind}/{metric}': 0.0 for kind in kinds for metric in metrics})
    for index in indices:
        visuals = {
            name: tensor2img([image.clone()]) for name, image in denoise(default_collate([dataset[index]])).items()
        }
        if image_path:
            bgr = np.atleast_3d(visuals['result'])
            write_photo(Photo(bgr[..., ::-1]), image_path(index))
        if 'gt' in visuals:
            total.count += 1
            for metric, block in metrics.items():
                for kind in kinds:
                    value = calculate_metric({'img': visuals[kind], 'img2': visuals['gt']}, block)
                    total.sums[f'{kind}/{metric}'] += float(value)
    return total


class Validator:
    """The validations of a run, and the best results so far.

    Args:
        opt: the run's options.
        device: of the networks.

    Attributes:
        best: ``<dataset>/<network>`` -> metric -> ``{better, val, iter}``.
        noisy: dataset -> metric -> value of the noisy input.
    """

    def __init__(self, opt: Mapping[str, Any], device: torch.device) -> None:
        self.opt, self.device = opt, device
        self.best: dict[str, dict[str, dict[str, Any]]] = {}
        self.noisy: dict[str, dict[str, float]] = {}

    def validate(
        self,
        dataset: Any,
        denoise: Callable[[dict[str, Any]], Visuals],
        label: str,
        current_iter: int | str,
        tb_logger: Any,
        save_img: bool,
    ) -> dict[str, float] | None:
        """Denoise a dataset, shared among the processes, and log its metrics.

        Args:
            dataset: see :func:`sum_metrics`.
            denoise: a collated sample to its visuals.
            label: the network's name in the log.
            current_iter: of the training, or the run's name in a test.
            tb_logger: tensorboard's writer, or None.
            save_img: write the denoised images.

        Returns:
            metric -> mean; None where there is no clean reference.
        """
        name, opt = dataset.opt['name'], self.opt
        metrics = opt['val'].get('metrics') or {}
        names = output_names(dataset)
        suffix = None if opt['is_train'] else opt['val'].get('suffix') or opt['name']

        def image_path(index: int) -> Path:
            return output_path(Path(opt['path']['visualization']), (name, names[index]), current_iter, suffix)

        total = sum_metrics(
            dataset,
            range(opt['rank'], len(dataset), opt['world_size']),
            denoise,
            metrics,
            name not in self.noisy,
            image_path if save_img else None,
        )
        if opt['dist']:
            total.reduce(self.device)
        if not total.count:
            get_root_logger().info(f'Validation {name}: no clean references, no metric.')
            return None
        if name not in self.noisy:
            self.noisy[name] = total.means('lq')
            log_metrics((name, 'noisy input'), self.noisy[name], None, current_iter, tb_logger)
        results = total.means('result')
        self._update_best(f'{name}/{label}', results, current_iter)
        log_metrics(
            (name, label), results, self.best[f'{name}/{label}'] if opt['is_train'] else None, current_iter, tb_logger
        )
        return results

    def _update_best(self, record: str, results: Mapping[str, float], current_iter: int | str) -> None:
        """Ties count as new best results, as in BasicSR."""
        records = self.best.setdefault(record, {})
        for metric, value in results.items():
            better = self.opt['val']['metrics'][metric].get('better', 'higher')
            best = records.get(metric)
            if best is None or (value >= best['val'] if better == 'higher' else value <= best['val']):
                records[metric] = {'better': better, 'val': value, 'iter': current_iter}

    def is_best(self, dataset: str, labels: Iterable[str], current_iter: int) -> bool:
        """Whether this iteration holds the best first metric among the stages ``labels`` of one network."""
        metric = next(iter(self.opt['val'].get('metrics') or {}), '')
        return is_best((self.best.get(f'{dataset}/{label}', {}).get(metric) for label in labels), current_iter)


def log_metrics(
    where: tuple[str, str],
    results: Mapping[str, float],
    best: Mapping[str, Any] | None,
    current_iter: int | str,
    tb_logger: Any,
) -> None:
    """Write metrics to the log and to tensorboard. ``where``: names of the dataset and of the network."""
    lines = [f'Validation {", ".join(where)}']
    for metric, value in results.items():
        lines.append(f'\t # {metric}: {value:.4f}')
        if best:
            lines[-1] += f'\tBest: {best[metric]["val"]:.4f} @ {best[metric]["iter"]} iter'
        if tb_logger:
            tb_logger.add_scalar(f'metrics/{"/".join(where)}/{metric}', value, current_iter)
    get_root_logger().info('\n'.join(lines))


def is_best(records: Iterable[Mapping[str, Any] | None], iteration: int) -> bool:
    """Whether ``iteration`` holds the best value among records ``{better, val, iter}``; None: not evaluated yet."""
    known = [record for record in records if record]
    if not known:
        return False
    choose = max if known[0]['better'] == 'higher' else min
    return choose(known, key=lambda record: record['val'])['iter'] == iteration


def output_path(folder: Path, dataset: tuple[str, str], current_iter: int | str, suffix: str | None) -> Path:
    """File of a denoised image, as BasicSR names it.

    Args:
        folder: ``path.visualization``.
        dataset: names of the dataset and of the image.
        current_iter: of a validation in training.
        suffix: of a test; None: a validation in training.

    Raises:
        UserError: the file would lie outside of ``folder``.
    """
    dataset_name, name = dataset
    if not (stays_inside(name) and stays_inside(dataset_name)):
        raise UserError(f'the image {name!r} of {dataset_name!r} would be written outside of {folder}')
    if suffix is None:
        return folder / name / f'{Path(name).name}_{current_iter}.png'
    return folder / dataset_name / f'{name}_{suffix}.png'


def image_root(block: Mapping[str, Any]) -> str | None:
    """Path of a dataset's noisy images; of its clean images where there are only these; None: the block has neither."""
    return next((block[key] for key in ('dataroot_lq', 'dataroot_gt') if block.get(key) is not None), None)


def entry_path(entry: Any) -> str:
    """File or key of one entry of ``paths`` of BasicSR's datasets: the noisy image, or the only one."""
    return (entry.get('lq_path') or entry.get('gt_path', '')) if isinstance(entry, dict) else entry


def output_names(dataset: Any) -> list[str]:
    """One name for each image of a dataset, without extension: unique, with the sub-folders where there are some."""
    entries = getattr(dataset, 'paths', None)
    if entries is None:
        return [str(index) for index in range(len(dataset))]
    paths = [Path(entry_path(entry)) for entry in entries]
    root = Path(str(image_root(dataset.opt))).expanduser()
    paths = [path.relative_to(root) if path.is_relative_to(root) else path for path in paths]
    is_lmdb = root.suffix == '.lmdb'  # its keys have no extension
    stems = [str(path if is_lmdb else path.with_suffix('')) for path in paths]
    return [stem if stems.count(stem) == 1 else str(path).replace('.', '_') for stem, path in zip(stems, paths)]
