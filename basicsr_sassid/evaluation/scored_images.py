"""Images with opinion scores: a CSV, PIPAL's label files, or the MATLAB files of LIVE In the Wild."""

from __future__ import annotations

import csv
import functools
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from basicsr_sassid.evaluation.correlation import LEAST_IMAGES, is_constant
from basicsr_sassid.evaluation.iqa_schema import ScoredDatasetOptions
from basicsr_sassid.io.mat import read_mat
from basicsr_sassid.io.photo import list_images
from basicsr_sassid.utils.errors import UserError, require_path
from basicsr_sassid.utils.names import stays_inside

_LIVE_NAMES, _LIVE_SCORES = 'AllImages_release', 'AllMOS_release'
_LIVE_TRAINING = 'trainingImages'  # folder of the images that the observers practised on
_LIVE_PUBLISHED, _LIVE_PRACTICE = 1169, 7  # images in the list; those of practice are the first


class ScoredImage(NamedTuple):
    """An image file, its name among the scores, and its score as published."""

    name: str
    path: Path
    score: float


class _Row(NamedTuple):
    """A line of a score file: where it is, for errors; the image's name; the score's text."""

    where: str
    name: str
    score: str


def read_scored_images(name: str, options: ScoredDatasetOptions) -> list[ScoredImage]:
    """Read the scores of ``datasets.<name>`` and find its images: the first of every ``every``. Images are not opened.

    Raises:
        UserError: names the option, the file and the row: a column, an image or a number is missing, an image has two
            scores, or the scores have no correlation with anything.
    """
    where = f'datasets.{name}'
    folder = require_path(options.images, f'{where}.images')
    if not folder.is_dir():
        raise UserError(f'{where}.images: expected a folder, got the file {folder}')
    rows = _read_rows(where, options, folder)
    finder = _Finder(folder)
    found: dict[Path, tuple[str, ScoredImage]] = {}
    missing = []
    for row in rows:
        path = finder.find(row)
        if path is None:
            missing.append(row)
        elif path in found:
            raise UserError(f'{row.where}: {row.name} has a score already, in {found[path][0]}. Remove one of them.')
        else:
            found[path] = (row.where, ScoredImage(row.name, path, _number(row)))
    if missing:
        raise UserError(
            f'{missing[0].where}: {len(missing)} of {len(rows)} images are not in {folder}, {missing[0].name!r} first. '
            f'Correct {where}.images, or remove their rows.'
        )
    images = [image for _, image in found.values()][:: options.every]
    if len(images) < LEAST_IMAGES:
        raise UserError(f'{where}: expected {LEAST_IMAGES} images or more, got {len(images)} in {options.scores}')
    if is_constant(np.array([image.score for image in images])):
        raise UserError(f'{where}: all {len(images)} scores are {images[0].score:g}: a constant has no correlation')
    return images


def _read_rows(where: str, options: ScoredDatasetOptions, images: Path) -> list[_Row]:
    path = require_path(options.scores, f'{where}.scores')
    if path.suffix.lower() == '.csv' and path.is_file():
        return list(_csv_rows(path, options, where))
    if options.names_columns:
        raise UserError(f'{where}: file_column and score_column are of a .csv, and scores is {path}')
    if path.suffix == '.mat':
        return _live_rows(path.parent, images)
    if any((path / f'{stem}.mat').exists() for stem in (_LIVE_NAMES, _LIVE_SCORES)):
        return _live_rows(path, images)
    if path.is_dir():
        labels = sorted(file for file in path.glob('*.txt') if not file.name.startswith('.'))
    else:
        labels = [path] if path.suffix.lower() == '.txt' else []
    if not labels:
        raise UserError(
            f'{where}.scores: expected a .csv, a .txt of lines NAME,SCORE, a folder of such .txt (PIPAL), or one with '
            f'{_LIVE_NAMES}.mat and {_LIVE_SCORES}.mat (LIVE In the Wild), got {path}'
        )
    return [row for label in labels for row in _label_rows(label)]


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and stripped values of each line that is not empty. Raises UserError for a file that is no text."""
    try:
        with open(path, newline='', encoding='utf-8-sig') as file:  # Excel begins UTF-8 with a byte-order mark
            reader = csv.reader(file)
            for values in reader:
                if any(value.strip() for value in values):
                    yield reader.line_num, [value.strip() for value in values]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f'cannot read {path}: {error}. Expected a text file in UTF-8 with commas.') from error


def _csv_rows(path: Path, options: ScoredDatasetOptions, where: str) -> Iterator[_Row]:
    lines = _lines(path)
    _, header = next(lines, (0, []))
    columns = []
    for key, column in (('file_column', options.file_column), ('score_column', options.score_column)):
        if header.count(column) != 1:
            found = 'two of that name' if column in header else ', '.join(header) or 'an empty file'
            raise UserError(f'{where}.{key}: expected one column {column!r} in {path}, found {found}')
        columns.append(header.index(column))
    for number, values in lines:
        if len(values) <= max(columns):
            raise UserError(f'{path}, line {number}: expected {len(header)} values, got {len(values)}')
        yield _Row(f'{path}, line {number}', *(values[column] for column in columns))


def _label_rows(path: Path) -> Iterator[_Row]:
    for number, values in _lines(path):
        if len(values) != 2:
            raise UserError(f'{path}, line {number}: expected NAME,SCORE, got {",".join(values)[:80]!r}')
        yield _Row(f'{path}, line {number}', *values)


def _live_rows(folder: Path, images: Path) -> list[_Row]:
    """The rows of LIVE In the Wild, without the images that the observers practised on."""
    names_path, scores_path = (folder / f'{stem}.mat' for stem in (_LIVE_NAMES, _LIVE_SCORES))
    cells, scores = read_mat(names_path, _LIVE_NAMES).ravel(), read_mat(scores_path, _LIVE_SCORES).ravel()
    if len(cells) != len(scores):
        raise UserError(f'{scores_path}: expected a score for each of {len(cells)} images, got {len(scores)}')
    first = _LIVE_PRACTICE if len(cells) == _LIVE_PUBLISHED else 0
    if any(np.size(cell) != 1 for cell in cells):
        raise UserError(f'{names_path}: expected a cell array of names. Download it again.')
    rows = [
        _Row(f'{names_path}, image {number}', str(np.asarray(cell).item()), str(score))
        for number, (cell, score) in enumerate(zip(cells, scores), 1)
        if number > first
    ]
    return [row for row in rows if (images / row.name).exists() or not (images / _LIVE_TRAINING / row.name).exists()]


def _number(row: _Row) -> float:
    try:
        score = float(row.score)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise UserError(f'{row.where}: expected a finite number as the score of {row.name}, got {row.score!r}')
    return score


class _Finder:
    """Finds images by path below a folder, or by a name that one of them has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, row: _Row) -> Path | None:
        """The file; None if there is none. Raises UserError if several folders have a file of the name."""
        if not stays_inside(row.name):
            return None
        path = self.folder / row.name
        if path.is_file():
            return path
        paths = self._by_name[row.name]
        if len(paths) > 1:
            raise UserError(
                f'{row.where}: {row.name} is in several folders: {paths[0]}, {paths[1]}. Name its path below '
                f'{self.folder}, or a folder that has it once.'
            )
        return paths[0] if paths else None

    @functools.cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        paths = defaultdict(list)
        for path in list_images(self.folder):
            paths[path.name].append(path)
        return paths
