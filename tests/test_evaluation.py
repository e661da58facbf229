"""Methods x datasets -> table: figures, errors in their cells, nothing computed twice."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from basicsr.metrics import calculate_psnr

from basicsr_sassid import SpectralDenoiser, estimate_noise
from basicsr_sassid.evaluation.crop_grid import CROP
from basicsr_sassid.evaluation.runner import run_benchmark, shown_images
from basicsr_sassid.utils.errors import UserError

from evaluation_scenes import arrays, options, replace_method, save_network, write_pairs
from helpers import ROOT

OPTION_FILES = sorted((ROOT / 'options/evaluation').glob('*.yml'))
SIZE = (128, 144)  # pixels: no smaller image is used for the blend


class Evaluated(NamedTuple):
    """An evaluation that has run: its dataset, its folder, and the printed table."""

    pairs: Path
    folder: Path
    printed: str


@pytest.fixture(scope='module')
def table(tmp_path_factory) -> Evaluated:
    """Four methods, one of them broken."""
    root = tmp_path_factory.mktemp('table')
    pairs = write_pairs(root / 'set')
    opt = options(
        pairs,
        noisy={'type': 'noisy'},
        blur={'type': 'gaussian', 'sigma': {'best_of': [0.5, 2, 9]}},
        ours={'type': 'spectral'},
        broken={'type': 'denoiser', 'weights': 'nowhere.pth'},
    )
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        run_benchmark({**opt, 'protocols': ['psnr', 'ssim_matlab'], 'crop_grid': {'images': 2}}, root)
    return Evaluated(pairs, root / 'results/benchmark/x', printed.getvalue())


def test_table_json_holds_basicsr_metrics(table):
    cells = json.loads((table.folder / 'table.json').read_text())['cells']['set']
    images = arrays(table.pairs)
    ours = SpectralDenoiser(estimate_noise(noisy for noisy, _ in images))
    for name, method in (('noisy', lambda image: image), ('ours', ours)):
        expected = np.mean([calculate_psnr(method(noisy), clean, 0) for noisy, clean in images])
        assert cells[name]['psnr'] == pytest.approx(expected, abs=1e-9)


def test_table_json_holds_chosen_setting_error_and_machine(table):
    result = json.loads((table.folder / 'table.json').read_text())
    cells = result['cells']['set']
    assert cells['blur']['note'] == 'best sigma 2'
    assert 'no such file or folder: nowhere.pth' in cells['broken']['error']
    assert {'torch', 'numpy', 'basicsr', 'basicsr_sassid'} <= result['versions'].keys() and result['cpu']


@pytest.mark.parametrize('text', ['blur *', 'which no user could know', "MATLAB's", 'error: weights: no such file'])
def test_table_printed_and_markdown_explain_themselves(table, text):
    assert text in table.printed and text in (table.folder / 'table.md').read_text()


def test_table_csv_has_a_row_a_method(table):
    with open(table.folder / 'table.csv', newline='') as file:
        header, *lines = csv.reader(file)
    assert header[:3] == ['method', 'set psnr', 'set ssim_matlab']
    assert [line[0] for line in lines] == ['noisy', 'blur *', 'ours', 'broken']


def test_crop_grid_holds_methods_that_ran(table):
    assert cv2.imread(str(table.folder / 'set.png')).shape[1] == 4 * (2 * CROP + 6) + 6  # noisy, blur, ours, clean


@pytest.mark.parametrize(('count', 'rows', 'expected'), [(5, 1, {2}), (5, 9, {0, 1, 2, 3, 4}), (9, 3, {1, 4, 7})])
def test_shown_images_are_evenly_spaced(count, rows, expected):
    assert shown_images(count, rows) == expected


class Counter:
    """A method that counts its images and stops the run after ``limit`` of them."""

    def __init__(self, limit: int) -> None:
        self.calls, self.limit = 0, limit

    def __call__(self, image: np.ndarray) -> np.ndarray:
        if image.shape[0] > 64:  # the warm-up aside
            if self.calls == self.limit:
                raise KeyboardInterrupt
            self.calls += 1
        return image


def test_run_benchmark_killed_continues_with_the_next_image(pairs, tmp_path, monkeypatch):
    counter = Counter(limit=3)
    replace_method(monkeypatch, 'noisy', counter)
    opt = options(pairs, a={'type': 'noisy'})
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(opt, tmp_path)
    counter.limit = 100
    run_benchmark(opt, tmp_path)
    assert counter.calls == 5


def test_run_benchmark_new_method_leaves_other_cells(pairs, tmp_path, monkeypatch):
    counter = Counter(limit=100)
    replace_method(monkeypatch, 'noisy', counter)
    opt = options(pairs, a={'type': 'noisy'})
    first = run_benchmark(opt, tmp_path)
    again = run_benchmark({**opt, 'methods': {'b': {'type': 'gaussian'}, **opt['methods']}}, tmp_path)
    assert counter.calls == 5 and again['cells']['set']['a'] == first['cells']['set']['a']


def test_run_benchmark_other_protocols_are_another_cell(pairs, tmp_path, monkeypatch):
    counter = Counter(limit=100)
    replace_method(monkeypatch, 'noisy', counter)
    opt = options(pairs, a={'type': 'noisy'})
    for protocols in (['psnr', 'ssim_gaussian'], ['psnr']):
        run_benchmark({**opt, 'protocols': protocols}, tmp_path)
    assert counter.calls == 10


def test_run_benchmark_changed_weights_or_images_are_evaluated_anew(pairs, tmp_path, network):
    opt = options(pairs, net={'type': 'denoiser', 'weights': str(network)})
    changes = (
        lambda: None,
        lambda: save_network(network, 2),
        lambda: (pairs / 'noisy/4.png').write_bytes((pairs / 'noisy/3.png').read_bytes()),
    )
    figures = []
    for change in changes:
        change()
        figures.append(run_benchmark(opt, tmp_path)['cells']['set']['net']['psnr'])
    assert len(set(figures)) == 3


def test_run_benchmark_other_crop_grid_of_a_finished_run(pairs, tmp_path):
    heights = []
    for images in (1, 3, 2):
        run_benchmark({**options(pairs, a={'type': 'noisy'}), 'crop_grid': {'images': images}}, tmp_path)
        heights.append(cv2.imread(str(tmp_path / 'results/benchmark/x/set.png')).shape[0])
    assert heights == [52 + images * (4 * CROP + 26) for images in (1, 3, 2)]


@pytest.mark.parametrize(
    ('run', 'message'),
    [
        (lambda image: 1 / 0, '^ZeroDivisionError: division by zero$'),
        (lambda image: exit('gone'), 'gone'),
        (lambda image: image / 255.0, r'expected a result of \(128, 144, 3\) uint8, got \(128, 144, 3\) float64'),
        (lambda image: image[1:], r'got \(127, 144, 3\)'),
    ],
    ids=['raises', 'exits', 'floats', 'smaller'],
)
def test_run_benchmark_broken_method_leaves_the_others(pairs, tmp_path, monkeypatch, run, message):
    replace_method(monkeypatch, 'broken', run)
    cells = run_benchmark(options(pairs, a={'type': 'broken'}, b={'type': 'noisy'}), tmp_path)['cells']['set']
    with pytest.raises(UserError, match=message):
        raise UserError(cells['a']['error'])
    assert cells['b']['psnr'] > 10


def test_run_benchmark_mended_method_is_evaluated(pairs, tmp_path, monkeypatch):
    opt = options(pairs, a={'type': 'mended'})
    for run in (lambda image: 1 / 0, lambda image: image):
        replace_method(monkeypatch, 'mended', run)
        cell = run_benchmark(opt, tmp_path)['cells']['set']['a']
    assert cell['psnr'] > 10
