"""One no-reference metric on one dataset of images with scores: every value is kept."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from basicsr_sassid.data.prepare.writer import key_of
from basicsr_sassid.evaluation.cell import checked_state
from basicsr_sassid.evaluation.correlation import correlate
from basicsr_sassid.evaluation.iqa_metrics import error_line, evaluate_metric, read_bgr
from basicsr_sassid.evaluation.iqa_schema import IQAMetricOptions
from basicsr_sassid.evaluation.scored_images import ScoredImage
from basicsr_sassid.io.atomic import content_digest, json_digest, write_json
from basicsr_sassid.utils.errors import UserError
from basicsr_sassid.utils.version import __version__

_SAVE_SECONDS = 5.0  # what a kill costs at most; the file of 23,200 images takes 0.1 s


class IQACell:
    """A metric on a dataset: a JSON file with the value of each image, whatever the scores are.

    Args:
        folder: of the dataset's cells.
        name: of the metric in the table.
        options: of the metric; other options have another cell.
    """

    def __init__(self, folder: Path, name: str, options: IQAMetricOptions) -> None:
        self.options = options
        settings = {'version': __version__, 'type': options.type, **options.arguments(), 'files': _files(options)}
        self.path = folder / f'{key_of(name)}_{json_digest(settings, 12)}.json'
        self.state: dict[str, Any] = {'images': {}}
        with contextlib.suppress(FileNotFoundError, ValueError):
            self.state = checked_state(json.loads(self.path.read_bytes()))

    def run(self, images: list[ScoredImage], sign: int) -> dict[str, Any]:
        """Compute the values that are missing, and correlate all with the scores.

        Args:
            images: files and scores.
            sign: 1, or -1 where a higher value means a lower score.

        Returns:
            ``images``: number of images with a value; ``srocc``, ``plcc`` and ``krocc``, or ``reason`` why there are
            none; ``megapixels_per_second`` where there is a value; ``skipped``: image -> why it has no value;
            ``is_fitted`` of :class:`Correlation`; ``values``: the file.
        """
        self._evaluate(images)
        records = self.state['images']
        known = [(records[image.name], image.score) for image in images if 'value' in records[image.name]]
        skipped = {image.name: records[image.name]['error'] for image in images if 'error' in records[image.name]}
        summary: dict[str, Any] = {'images': len(known), 'skipped': skipped, 'values': str(self.path)}
        if known:
            seconds = sum(record['seconds'] for record, _ in known)
            pixels = sum(record['pixels'] for record, _ in known)
            summary['megapixels_per_second'] = pixels / 1e6 / max(seconds, 1e-9)
        try:
            found = correlate(
                sign * np.array([record['value'] for record, _ in known]), np.array([score for _, score in known])
            )
        except UserError as error:
            return {**summary, 'reason': str(error)}
        return {**summary, 'srocc': found.srocc, 'plcc': found.plcc, 'krocc': found.krocc, 'is_fitted': found.is_fitted}

    def _evaluate(self, images: list[ScoredImage]) -> None:
        """The value of each image, or the error; an image that failed is tried again by the next run."""
        stamps = {image.name: _stamp(image.path) for image in images}
        known = self.state['images']
        missing = [image for image in images if not _is_complete(known.get(image.name), stamps[image.name])]
        if not missing:
            return
        saved = time.monotonic()
        try:
            for image in tqdm(missing, unit='image', file=sys.stderr, leave=False):
                known[image.name] = {'stamp': stamps[image.name], **self._record(image.path)}
                if time.monotonic() - saved > _SAVE_SECONDS:
                    write_json(self.state, self.path)
                    saved = time.monotonic()
        finally:
            write_json(self.state, self.path)

    def _record(self, path: Path) -> dict[str, Any]:
        try:
            image = read_bgr(path)
            started = time.perf_counter()
            value = evaluate_metric(image, self.options)
        except (Exception, SystemExit) as error:  # whatever it is, the other images go on
            return {'error': error_line(error)}
        seconds = time.perf_counter() - started
        return {'value': value, 'seconds': seconds, 'pixels': image.shape[0] * image.shape[1]}


def _is_complete(record: Any, stamp: list[int]) -> bool:
    return isinstance(record, dict) and record.get('stamp') == stamp and {'value', 'seconds', 'pixels'} <= set(record)


def _stamp(path: Path) -> list[int]:
    """Size in bytes and modification time in ns."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _files(options: IQAMetricOptions) -> dict[str, str]:
    """Digests of the files, such as weights, that the metric's arguments name."""
    return {
        key: content_digest(value)
        for key, value in options.arguments().items()
        if isinstance(value, str) and os.path.isfile(os.path.expanduser(value))
    }
