"""Options of an evaluation of no-reference metrics."""

from __future__ import annotations

import sys

import pytest

from basicsr_sassid.evaluation.runner import run_benchmark
from basicsr_sassid.utils.errors import UserError

from helpers import tree
from iqa_scenes import iqa_options, mean_grey, register, write_scored


@pytest.fixture
def opt(tmp_path, monkeypatch) -> dict:
    register(monkeypatch, mean_grey)
    return iqa_options(write_scored(tmp_path / 'set'))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'methods': {}}, '^options: expected methods .* or metrics .*, got both'),
        ({'metric': {}}, "^options: unknown key 'metric'. Did you mean 'metrics'"),
        ({'name': '../x'}, '^name: expected the name of a file or folder'),
        ({'metrics': {}}, '^metrics: expected one block or more, got none'),
        ({'metrics': None}, '^metrics: expected a block of keys, got None'),
        ({'datasets': {}}, '^datasets: expected one block or more, got none'),
        ({'datasets': {'../d': {'images': 'a', 'scores': 'b'}}}, '^datasets.*expected the name of a file or folder'),
        ({'datasets': {'d': {'images': 'a'}}}, "^datasets.d: key 'scores' is missing"),
        ({'datasets': {'d': {'images': 'a', 'scores': 'b', 'every': 0}}}, '^datasets.d.every: expected .* >= 1, got 0'),
        (
            {'datasets': {'d': {'images': 'a', 'scores': 'b', 'better': 'up'}}},
            "^datasets.d.better: expected one of higher, lower, got 'up'",
        ),
        (
            {'datasets': {'d': {'images': 'a', 'scores': 'b', 'mos_column': 'MOS'}}},
            "^datasets.d: unknown key 'mos_column'. Did you mean",
        ),
        ({'datasets': {'d': {'images': 'a', 'scores': 3}}}, '^datasets.d.scores: expected a text, got 3'),
        ({'metrics': {'a': {}}}, "^metrics.a: key 'type' is missing"),
        ({'metrics': {'a': {'type': 'calculate_nothing'}}}, "^metrics.a.type: nothing is registered as 'calculate_not"),
        (
            {'metrics': {'a': {'type': 'calculate_test', 'better': 'low'}}},
            '^metrics.a.better: expected one of higher, ',
        ),
        (
            {'metrics': {'a': {'type': 'calculate_psnr', 'crop_border': 0}}},
            '^metrics.a: calculate_psnr compares with a ',
        ),
        (
            {'metrics': {'a': {'type': 'calculate_niqe', 'crop_border': 0}}},
            "^metrics.a: a lower NIQE is better: expected 'better: lower'",
        ),
        (
            {'metrics': {'a': {'type': 'calculate_niqe', 'better': 'lower', 'crop_bordr': 0}}},
            "^metrics.a: unknown key 'crop_bordr'. Did you mean 'crop_border'",
        ),
        (
            {'metrics': {'a': {'type': 'calculate_niqe', 'better': 'lower'}}},
            "^metrics.a: calculate_niqe fails on an image of 224x224: TypeError: .*'crop_border'",
        ),
        ({'metrics': {'a': {'type': 'calculate_test', 'gain': float('nan')}}}, '^metrics.a.gain: .*finite'),
        ({'metrics': {'a': {'type': 'calculate_test', 'gain': 'x'}}}, '^metrics.a: calculate_test fails on an image'),
    ],
)
def test_run_benchmark_wrong_option_is_refused_before_anything_is_written(opt, tmp_path, changes, message):
    before = tree(tmp_path)
    with pytest.raises(UserError, match=message):
        run_benchmark({**opt, **changes}, tmp_path)
    assert tree(tmp_path) == before


def test_run_benchmark_pyiqa_that_is_missing_is_named(opt, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyiqa', None)
    opt['metrics'] = {'MUSIQ': {'type': 'calculate_pyiqa', 'metric': 'musiq'}}
    with pytest.raises(UserError, match='^metrics.MUSIQ: metric musiq: pyiqa is not installed'):
        run_benchmark(opt, tmp_path)
