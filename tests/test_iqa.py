"""No-reference metrics x images with scores -> table: coefficients, signs, images left out, nothing computed twice."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from basicsr.metrics import calculate_niqe
from PIL import Image

from basicsr_sassid.evaluation import iqa_cell
from basicsr_sassid.evaluation.iqa_metrics import read_bgr
from basicsr_sassid.evaluation.runner import run_benchmark
from sassid import main

from helpers import write_yml
from iqa_scenes import (
    KROCC,
    SROCC,
    iqa_options,
    mean_grey,
    register,
    write_image,
    write_koniq,
    write_live,
    write_pipal,
    write_scored,
)


@pytest.fixture(autouse=True)
def _metric(monkeypatch) -> None:
    register(monkeypatch, mean_grey)


@pytest.fixture
def opt(tmp_path) -> dict:
    return iqa_options(write_scored(tmp_path / 'set'))


def change_score(path: Path) -> None:
    path.write_text(path.read_text().replace('1.7', '2.5'))


def cell_of(opt: dict, root: Path) -> dict:
    return run_benchmark(opt, root)['cells']['set']['grey']


class Counter:
    """A metric that counts its images, stops the run before image number ``limit``, and fails on a grey of ``bad``."""

    def __init__(self, limit: int = 10**6, bad: float | None = None) -> None:
        self.calls, self.limit, self.bad = 0, limit, bad

    def __call__(self, img: np.ndarray, **kwargs: object) -> float:
        if img.shape[0] < 100:  # the dry run aside
            if self.calls == self.limit:
                raise KeyboardInterrupt
            self.calls += 1
        if img.mean() == self.bad:
            raise ValueError('too dark\nreally')
        return float(img.mean())


# ---- coefficients ----


def test_run_benchmark_metrics_give_the_coefficients(opt, tmp_path):
    cell = cell_of(opt, tmp_path)
    assert (cell['srocc'], cell['krocc'], cell['images']) == (pytest.approx(SROCC), pytest.approx(KROCC), 6)
    assert cell['plcc'] > 0.95 and cell['is_fitted']


@pytest.mark.parametrize(
    ('metric', 'scores', 'sign'), [('lower', 'higher', -1), ('higher', 'lower', -1), ('lower',) * 2 + (1,)]
)
def test_run_benchmark_better_lower_turns_the_signs(opt, tmp_path, metric, scores, sign):
    opt['metrics']['grey']['better'] = metric
    opt['datasets']['set']['better'] = scores
    cell = cell_of(opt, tmp_path)
    assert [np.sign(cell[name]) for name in ('srocc', 'plcc', 'krocc')] == [sign] * 3


def test_run_benchmark_metric_gets_its_arguments(opt, tmp_path):
    opt['metrics']['grey']['gain'] = -1
    assert cell_of(opt, tmp_path)['srocc'] == pytest.approx(-SROCC)


@pytest.mark.parametrize('write', [write_koniq, write_live, write_pipal])
def test_run_benchmark_layout_of_a_published_dataset(opt, tmp_path, write):
    opt['datasets'] = {'set': write(tmp_path / 'published')}
    cell = cell_of(opt, tmp_path)
    assert (cell['srocc'], cell['images']) == (pytest.approx(SROCC), 6)


def test_run_benchmark_niqe_is_basicsrs_of_bgr(opt, tmp_path):
    rng = np.random.default_rng(0)
    images = tmp_path / 'set/images'
    for number in range(6):
        pixels = rng.normal(128, 10 + 8 * number, (96, 200, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(images / f'{number}.png')
    opt['metrics'] = {'grey': {'type': 'calculate_niqe', 'crop_border': 0, 'better': 'lower'}}
    values = json.loads(Path(cell_of(opt, tmp_path)['values']).read_text())['images']
    assert values['5.png']['value'] == pytest.approx(calculate_niqe(pixels[..., ::-1], 0))


@pytest.mark.parametrize(
    ('image', 'expected'),
    [
        (Image.new('RGB', (4, 3), (1, 2, 3)), (3, 2, 1)),
        (Image.new('L', (4, 3), 7), (7, 7, 7)),
        (Image.new('RGBA', (4, 3), (1, 2, 3, 4)), (3, 2, 1)),
        (Image.new('I;16', (4, 3), 257 * 9 + 100), (9, 9, 9)),
    ],
    ids=['rgb', 'grey', 'alpha', '16 bits'],
)
def test_read_bgr_gives_8_bit_bgr(tmp_path, image, expected):
    image.save(tmp_path / 'a.png')
    pixels = read_bgr(tmp_path / 'a.png')
    assert pixels.shape == (3, 4, 3) and pixels.dtype == np.uint8 and tuple(pixels[0, 0]) == expected


# ---- files ----


def test_run_benchmark_metrics_write_the_tables(opt, tmp_path, capsys):
    opt['metrics']['dark'] = {'type': 'calculate_test', 'better': 'lower'}
    run_benchmark(opt, tmp_path)
    folder = tmp_path / 'results/benchmark/x'
    with open(folder / 'table.csv', newline='') as file:
        header, *lines = csv.reader(file)
    assert header == ['metric', 'set srocc', 'set plcc', 'set krocc', 'set images', 'MP/s']
    assert [line[:2] + line[3:5] for line in lines] == [
        ['grey', '0.9429', '0.8667', '6'],
        ['dark', '-0.9429', '-0.8667', '6'],
    ]
    for text in (capsys.readouterr().out, (folder / 'table.md').read_text()):
        assert 'Positive: the metric agrees with the scores. Lower is better for dark.' in text
        assert '6 images of set. MP/s: ' in text


def test_benchmark_command_evaluates_metrics(opt, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(['benchmark', '-opt', write_yml(opt, tmp_path / 'iqa.yml')])
    assert re.search(r'^grey +0.9429 ', capsys.readouterr().out, re.MULTILINE)


# ---- images without a value ----


def test_run_benchmark_image_that_fails_is_left_out_and_named(opt, tmp_path, monkeypatch, capsys):
    register(monkeypatch, Counter(bad=100))
    cell = cell_of(opt, tmp_path)
    assert cell['images'] == 5 and cell['skipped'] == {'2.png': 'ValueError: too dark'}
    assert 'grey, set: 1 of 6 images left out, 2.png first: ValueError: too dark.' in capsys.readouterr().out


def test_run_benchmark_damaged_image_is_left_out(opt, tmp_path):
    (tmp_path / 'set/images/3.png').write_bytes(b'none')
    cell = cell_of(opt, tmp_path)
    assert cell['images'] == 5 and 'it is no image' in cell['skipped']['3.png']


def test_run_benchmark_value_that_is_not_finite_is_left_out(opt, tmp_path, monkeypatch):
    register(monkeypatch, lambda img: float('nan') if img.mean() == 60 else float(img.mean()))
    assert cell_of(opt, tmp_path)['skipped'] == {'1.png': 'calculate_test gives nan for an image of 16x24 pixels'}


def test_run_benchmark_too_small_for_niqe_has_no_coefficients(opt, tmp_path):
    opt['metrics'] = {'grey': {'type': 'calculate_niqe', 'crop_border': 0, 'better': 'lower'}}
    cell = cell_of(opt, tmp_path)
    assert cell['reason'] == 'expected 5 images or more, got 0' and len(cell['skipped']) == 6
    text = (tmp_path / 'results/benchmark/x/table.md').read_text()
    assert '| grey | - | - | - | 0 | - |' in text and 'two blocks of 96x96 pixels, got 16x24' in text


def test_run_benchmark_constant_metric_has_no_coefficients(opt, tmp_path, monkeypatch, capsys):
    register(monkeypatch, lambda img: 3.2)
    run_benchmark(opt, tmp_path)
    out = capsys.readouterr().out
    assert 'no coefficients: all 6 values are 3.2: a constant has no correlation' in out and 'nan' not in out


def test_run_benchmark_fit_that_does_not_converge_is_noted(opt, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr('basicsr_sassid.evaluation.correlation.fit_logistic', lambda values, scores: None)
    run_benchmark(opt, tmp_path)
    assert 'grey, set: the logistic fit did not converge, and plcc is of the values' in capsys.readouterr().out


# ---- continuation ----


def test_run_benchmark_stopped_continues_with_the_next_image(opt, tmp_path, monkeypatch):
    counter = Counter(limit=4)
    register(monkeypatch, counter)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(opt, tmp_path)
    counter.limit = 100
    assert cell_of(opt, tmp_path)['images'] == 6 and counter.calls == 6


def test_run_benchmark_killed_keeps_what_was_saved(opt, tmp_path, monkeypatch):
    monkeypatch.setattr(iqa_cell, '_SAVE_SECONDS', 0.0)
    counter, write, saved = Counter(), iqa_cell.write_json, []

    def write_and_count(state: dict, path: Path) -> None:
        write(state, path)
        saved.append(len(json.loads(path.read_text())['images']))

    monkeypatch.setattr(iqa_cell, 'write_json', write_and_count)
    register(monkeypatch, counter)
    run_benchmark(opt, tmp_path)
    assert saved == [1, 2, 3, 4, 5, 6, 6]


def test_run_benchmark_damaged_cell_is_evaluated_anew(opt, tmp_path):
    path = Path(cell_of(opt, tmp_path)['values'])
    for content in ('{"images": {"0.png": 3, "1.png": {"value": 1}}}', '[', '{"images": []}'):
        path.write_text(content)
        assert cell_of(opt, tmp_path)['srocc'] == pytest.approx(SROCC)


@pytest.mark.parametrize(
    ('change', 'calls'),
    [
        (lambda opt, folder: None, 6),
        (lambda opt, folder: opt['metrics']['grey'].update(better='lower'), 6),
        (lambda opt, folder: opt['datasets']['set'].update(better='lower'), 6),
        (
            lambda opt, folder: (folder / 'scores.csv').write_text(
                (folder / 'scores.csv').read_text().replace('1.7', '2.5')
            ),
            6,
        ),
        (lambda opt, folder: write_image(folder / 'images/0.png', 25, (30, 30)), 7),
        (lambda opt, folder: opt['metrics']['grey'].update(other=2), 12),
        (lambda opt, folder: (folder / 'weights').write_text('second'), 12),
    ],
    ids=['nothing', 'direction', 'direction of scores', 'scores', 'an image', 'arguments', 'weights'],
)
def test_run_benchmark_again_evaluates_what_changed(opt, tmp_path, monkeypatch, change, calls):
    counter = Counter()
    register(monkeypatch, counter)
    (tmp_path / 'set/weights').write_text('first')
    opt['metrics']['grey']['weights'] = str(tmp_path / 'set/weights')
    run_benchmark(opt, tmp_path)
    change(opt, tmp_path / 'set')
    run_benchmark(opt, tmp_path)
    assert counter.calls == calls


def test_run_benchmark_image_that_failed_is_tried_again(opt, tmp_path, monkeypatch):
    counter = Counter(bad=100)
    register(monkeypatch, counter)
    run_benchmark(opt, tmp_path)
    counter.bad = None
    assert cell_of(opt, tmp_path)['images'] == 6 and counter.calls == 7
