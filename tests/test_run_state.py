"""The state of a run on disk: this version's format and the one before."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from basicsr_sassid import estimate_noise
from basicsr_sassid.pipeline.diagnostics import Finding
from basicsr_sassid.pipeline.state import RunState
from basicsr_sassid.training.budget import Plan
from basicsr_sassid.utils.errors import UserError

FORMAT_1 = Path(__file__).parent / 'fixtures' / 'format1' / 'state.json'  # a run of 30 iterations a stage


@pytest.fixture
def state() -> RunState:
    return RunState(
        photos=2,
        megapixels=0.3,
        noise=estimate_noise([np.random.default_rng(0).normal(0.5, 0.1, (96, 96, 3))]),
        groups=['2 with sigma 4'],
        plan=Plan({'bnn': 3}, {'bnn': 0.5}, 'off', 0.0),
        blind_size=5,
        bnn_risks={'net_bnn_3.pth': 4.0},
        findings=[Finding('bnn', 'smooth', 'text', 'action')],
        timings={'training': 2.0},
        student_weight=0.25,
        risks={'noisy': 3.0},
        seconds=5.0,
    )


def test_run_state_saved_and_loaded_is_the_same(state, tmp_path):
    state.save(tmp_path / 'state.json')
    assert RunState.load(tmp_path / 'state.json').to_dict() == state.to_dict()


def test_run_state_loaded_has_typed_fields(state, tmp_path):
    state.save(tmp_path / 'state.json')
    loaded = RunState.load(tmp_path / 'state.json')
    assert (loaded.plan, loaded.findings) == (state.plan, state.findings)


def test_run_state_saved_file_has_a_format_number(state, tmp_path):
    state.save(tmp_path / 'state.json')
    assert json.loads((tmp_path / 'state.json').read_text())['format'] == 2


@pytest.mark.parametrize(
    'content',
    [
        None,
        '',
        '{"photos": 2',
        '[]',
        '7',
        '{"format": 2, "photos": "many"}',
        '{"format": 2, "timings": [1]}',
        '{"format": 2, "noise": {"format": 2}}',
        '{"format": 2, "noise": 3}',
        '{"format": 2, "plan": {"iter": {"bnn": "x"}, "seconds": {}, "teacher_cache": "off", "cache_seconds": 0}}',
        '{"format": 2, "findings": [{"stage": "bnn"}]}',
        '{"format": 2, "findings": "none"}',
        '{"format": "2", "risks": {"noisy": null}}',
    ],
)
def test_run_state_missing_or_damaged_file_is_empty(tmp_path, content):
    if content is not None:
        (tmp_path / 'state.json').write_text(content)
    assert RunState.load(tmp_path / 'state.json') == RunState()


def test_run_state_newer_format_raises_user_error(tmp_path):
    (tmp_path / 'state.json').write_text('{"format": 3}')
    with pytest.raises(UserError, match='state.json has format 3; this version reads up to 2'):
        RunState.load(tmp_path / 'state.json')


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('photos', 3),
        ('blind_size', 9),
        ('student_weight', pytest.approx(0.0205, abs=1e-4)),
        ('findings', []),
        ('risks', pytest.approx({'noisy': 187.79, 'classical': 12.76, 'student': 2112.74, 'blend': 13.41}, abs=0.01)),
        ('timings', pytest.approx({'training': 16.9, 'blending': 0.54, 'denoising': 0.14}, abs=0.01)),
    ],
)
def test_run_state_format_1_has_the_field(field, value):
    assert getattr(RunState.load(FORMAT_1), field) == value


def test_run_state_format_1_has_the_plan():
    assert RunState.load(FORMAT_1).plan.iters == {'bnn': 30, 'lan': 30, 'unet': 30}


def test_run_state_format_1_has_the_noise():
    assert RunState.load(FORMAT_1).noise.sigma.mean() == pytest.approx(12.13, abs=0.01)


def test_run_state_format_1_finding_has_its_action():
    content = {'findings': [{'stage': 'bnn', 'kind': 'smooth', 'text': 'x', 'answer': 'y'}]}
    assert RunState.from_dict(content).findings == [Finding('bnn', 'smooth', 'x', 'y')]
