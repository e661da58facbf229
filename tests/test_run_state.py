"""The state of a run on disk: this version's format and the one before."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from basicsr_sassid import estimate_noise
from basicsr_sassid.pipeline.diagnostics import Finding
from basicsr_sassid.pipeline.state import RunState
from basicsr_sassid.pipeline.student import TEACHER, StudentTraining
from basicsr_sassid.training.blind_sizes import BlindSizeChoice
from basicsr_sassid.training.budget import Plan
from basicsr_sassid.training.target_weights import RiskWeights
from basicsr_sassid.utils.errors import UserError

FORMAT_1 = Path(__file__).parent / 'fixtures' / 'format1' / 'state.json'  # a run of 30 iterations a stage
WEIGHTS = RiskWeights(torch.tensor([2.5, 4.1]), torch.tensor([[0.1, 1.9], [1.0, 1.0], [1.3, 0.7]]))
TEACHER_DICT = {
    'sizes': ['1', '3x5'],
    'dropped': {'0': 0.97},
    'noise_kept': [0.25, -0.01],
    'weights': {'edges': [2.5], 'table': [[0.5, 1.5], [1.25, 0.75]]},
}


@pytest.fixture
def state() -> RunState:
    return RunState(
        photos=2,
        megapixels=0.3,
        noise=estimate_noise([np.random.default_rng(0).normal(0.5, 0.1, (96, 96, 3))]),
        groups=['2 with sigma 4'],
        plan=Plan({'bnn': 3}, {'bnn': 0.5}, 'off', 0.0),
        blind_size=5,
        teacher=BlindSizeChoice([1, (3, 5)], {0: 0.97}, [0.2, 0.0], WEIGHTS),
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


# ---- blind sizes and weights of the teacher ----


@pytest.mark.parametrize(
    'choice',
    [
        BlindSizeChoice([5]),
        BlindSizeChoice([0, (1, 3), (3, 3)], {}, [0.1, 0.0, -0.01]),
        BlindSizeChoice([3, (3, 5)], {0: 0.98, (1, 3): 0.6}, [0.4, 0.0], WEIGHTS),
        BlindSizeChoice([1, 3], {}, None, RiskWeights(torch.empty(0), torch.tensor([[0.3, 1.7]]))),
    ],
    ids=['one size', 'pairs', 'dropped and weights', 'one bin'],
)
def test_blind_size_choice_from_its_dict_is_the_same(choice):
    read = BlindSizeChoice.from_dict(json.loads(json.dumps(choice.to_dict())))
    assert (read.sizes, read.dropped, read.noise_kept) == (choice.sizes, choice.dropped, choice.noise_kept)
    assert read.to_dict() == choice.to_dict()


def test_risk_weights_from_their_dict_give_the_same_weights():
    targets = torch.from_numpy(np.random.default_rng(0).normal(100, 8, (1, 2, 3, 16, 16))).float()
    assert torch.equal(RiskWeights.from_dict(WEIGHTS.to_dict())(targets), WEIGHTS(targets))


DAMAGED = {
    'none': None,
    'list': [],
    'empty': {},
    'no sizes': {**TEACHER_DICT, 'sizes': []},
    'even size': {**TEACHER_DICT, 'sizes': ['1', '4']},
    'number as size': {**TEACHER_DICT, 'sizes': [1, 3]},
    'dropped as list': {**TEACHER_DICT, 'dropped': ['0']},
    'noise kept of another size': {**TEACHER_DICT, 'noise_kept': [0.1]},
    'weights of another size': {**TEACHER_DICT, 'weights': {'edges': [], 'table': [[1.0]]}},
    'rows without edges': {**TEACHER_DICT, 'weights': {'edges': [], 'table': [[1, 1], [1, 1]]}},
    'descending edges': {**TEACHER_DICT, 'weights': {'edges': [3, 2], 'table': [[1, 1], [1, 1], [1, 1]]}},
    'ragged table': {**TEACHER_DICT, 'weights': {'edges': [3], 'table': [[1, 1], [1]]}},
    'negative weight': {**TEACHER_DICT, 'weights': {'edges': [3], 'table': [[1, 1], [2, -1]]}},
    'weights of zero': {**TEACHER_DICT, 'weights': {'edges': [3], 'table': [[1, 1], [0, 0]]}},
    'weights without number': {**TEACHER_DICT, 'weights': {'edges': [3], 'table': [[1, 1], [1, None]]}},
}


@pytest.mark.parametrize('teacher', DAMAGED.values(), ids=DAMAGED.keys())
def test_run_state_damaged_teacher_is_none_and_the_rest_is_kept(teacher):
    loaded = RunState.from_dict({'format': 2, 'photos': 3, 'teacher': teacher})
    assert (loaded.teacher, loaded.photos) == (None, 3)


def test_run_state_of_an_older_version_has_no_teacher(state):
    content = state.to_dict()
    del content['teacher']
    assert RunState.from_dict(content).to_dict() == {**state.to_dict(), 'teacher': None}


def teacher_in(folder: Path) -> BlindSizeChoice | None:
    return StudentTraining(folder, {}, Plan({}, {}, 'off', 0.0), [], None, lambda *_: None).teacher


def test_student_training_teacher_is_that_of_its_file(tmp_path):
    (tmp_path / TEACHER).write_text(json.dumps(TEACHER_DICT))
    assert teacher_in(tmp_path).to_dict() == TEACHER_DICT


@pytest.mark.parametrize('content', [None, b'', b'{"sizes": ["1"', b'7', b'\xff\xfe', b'{"sizes": ["1"]}'])
def test_student_training_missing_or_damaged_file_has_no_teacher(tmp_path, content):
    if content is not None:
        (tmp_path / TEACHER).write_bytes(content)
    assert teacher_in(tmp_path) is None
