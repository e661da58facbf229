"""The training of a student within a plan: its options, the choice of the BNN, stops and continuations."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from basicsr_sassid import Denoiser, fit_denoiser
from basicsr_sassid.data.prepare.folder import prepare_folder
from basicsr_sassid.io.photo import read_photo
from basicsr_sassid.pipeline import run, student
from basicsr_sassid.pipeline.api import clean_photos
from basicsr_sassid.pipeline.diagnostics import diagnose
from basicsr_sassid.pipeline.planning import RATIO, STAGES
from basicsr_sassid.pipeline.student import StudentTraining, student_options
from basicsr_sassid.training import budget
from basicsr_sassid.training.budget import plan_training
from basicsr_sassid.utils.errors import UserError

from clean_runs import PLAN, forbid_training, noisy_cat, shrink_networks, shrink_training, state_of, write_scenes
from noise_scenes import white_noise

NOISE = white_noise(15)

CPU = torch.device('cpu')


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_scenes(tmp_path / 'photos')


@pytest.fixture
def small_training(monkeypatch):
    shrink_training(monkeypatch)


# ---- options and plan ----


@pytest.mark.parametrize('blind_size', [3, 15])
def test_student_options_bnn_has_the_blind_size(tmp_path, blind_size):
    assert student_options(tmp_path, blind_size, CPU, 0, NOISE)['network_bnn']['blind_size'] == blind_size


@pytest.mark.parametrize(('sigma', 'is_residual'), [(3, False), (20, True)])
def test_student_options_strong_noise_has_a_residual_student(tmp_path, sigma, is_residual):
    assert student_options(tmp_path, 9, CPU, 0, white_noise(sigma))['network_g']['residual'] is is_residual


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
def test_student_options_stages_have_the_ratio(tmp_path, device):
    stages = student_options(tmp_path, 9, torch.device(device), 0, NOISE)['train']['stages']
    assert tuple(stages) == STAGES
    assert len({block['iter'] / RATIO[name] for name, block in stages.items()}) == 1


@pytest.mark.parametrize(('device', 'dim'), [('cpu', 16), ('cuda', 48)])
def test_student_options_device_chooses_the_recipe(tmp_path, device, dim):
    assert student_options(tmp_path, 9, torch.device(device), 0, NOISE)['network_bnn']['dim'] == dim


@pytest.fixture(params=[pytest.param((0.5, 'lmdb'), id='fast teacher'), pytest.param((2.0, 'off'), id='slow teacher')])
def measured_plan(request, folder, tmp_path, monkeypatch):
    """The plan of one minute where steps take known seconds, its teacher's seconds, and the expected cache.

    The training set has 48 windows: a minute has time for a cache if the teacher needs half a second for each.
    """
    teacher_seconds, cache = request.param
    shrink_networks(monkeypatch)
    prepare_folder([folder], tmp_path / 'noisy.lmdb', quiet=True)
    seconds = iter([0.02, 0.015, teacher_seconds])  # bnn, unet

    def median_seconds(step):
        step()  # it can be taken
        return next(seconds)

    monkeypatch.setattr(budget, 'median_seconds', median_seconds)
    monkeypatch.setattr(budget, 'MIN_ITERATIONS', 4)
    plan = plan_training(student_options(tmp_path / 'noisy.lmdb', 3, CPU, 0, NOISE), tmp_path, 1, RATIO)
    return plan, teacher_seconds, cache


def test_plan_training_cache_is_used_where_it_pays(measured_plan):
    plan, _, cache = measured_plan
    assert plan.teacher_cache == cache


def test_plan_training_cache_seconds_are_one_prediction_a_window(measured_plan):
    plan, teacher_seconds, cache = measured_plan
    assert plan.cache_seconds == pytest.approx(48 * teacher_seconds if cache == 'lmdb' else 0)


def test_plan_training_without_cache_steps_include_the_teacher(measured_plan):
    plan, teacher_seconds, cache = measured_plan
    # the teacher's seconds are those of all three sizes; on the fly it predicts with one, at 1.17 of the trunk's cost
    extra = teacher_seconds * 1.17 / 1.51 if cache == 'off' else 0
    assert plan.seconds == pytest.approx({'bnn': 0.02, 'unet': 0.015 + extra})


def test_plan_training_takes_the_minutes_to_within_a_step_of_each_stage(measured_plan):
    plan, _, _ = measured_plan
    assert 60 - sum(plan.seconds.values()) < plan.total_seconds() <= 60


def test_plan_training_iterations_have_the_ratio(measured_plan):
    iters = measured_plan[0].iters
    assert iters['bnn'] * RATIO['unet'] == pytest.approx(iters['unet'] * RATIO['bnn'], abs=4)


# ---- the choice of the BNN ----


@pytest.fixture(scope='module')
def retrained(tmp_path_factory) -> tuple[list[int], Path]:
    """Blind sizes that were diagnosed, and the output: a BNN of blind size 1 copies its input."""
    root = tmp_path_factory.mktemp('retrained')
    blind_sizes = []

    def copying(stage, denoise, crops, noise):
        assert denoise.net.blind_size == denoise.inference.blind_size
        blind_sizes.append(denoise.inference.blind_size)
        return diagnose(stage, (lambda crop: crop) if blind_sizes[-1] == 1 else denoise, crops, noise)

    with pytest.MonkeyPatch.context() as patch:
        shrink_training(patch)
        patch.setattr(student, 'diagnose', copying)
        clean_photos([write_scenes(root / 'photos')], root / 'out', minutes=1, blind_size=1)
    return blind_sizes, root / 'out'


@pytest.mark.slow
def test_student_training_bnn_that_copies_is_trained_with_a_larger_blind_size(retrained):
    assert retrained[0] == [1, 5]


@pytest.mark.slow
def test_student_training_larger_blind_size_is_in_the_state(retrained):
    assert state_of(retrained[1]).blind_size == 5


@pytest.mark.slow
def test_student_training_larger_blind_size_is_in_the_report(retrained):
    assert 'Trained again with blind size 5' in (retrained[1] / 'report.html').read_text()


# ---- stops ----


class Killed(BaseException):
    pass


def killed_at(stage: str, iteration: int):
    """A StudentTraining that is killed after an iteration."""

    class KilledTraining(StudentTraining):
        def __init__(self, *arguments) -> None:
            *others, progress, correct = arguments

            def kill(*now):
                progress(*now)
                if now == (stage, iteration):
                    raise Killed

            super().__init__(*others, kill, correct)

    return KilledTraining


@pytest.fixture(scope='module')
def whole_and_killed(tmp_path_factory) -> tuple[Path, Path]:
    """Outputs of a run that was never stopped and of one that was killed in the middle of stages and at the end."""
    root = tmp_path_factory.mktemp('killed')
    folder = write_scenes(root / 'photos')

    def clean(name: str) -> None:
        clean_photos([folder], root / name, minutes=1, save_weights=root / name / 'student.pth')

    with pytest.MonkeyPatch.context() as patch:
        shrink_training(patch)
        clean('whole')
        for stage, iteration in (('bnn', 7), ('unet', 6), ('unet', PLAN.iters['unet'])):
            with patch.context() as inner, pytest.raises(Killed):
                inner.setattr(run, 'StudentTraining', killed_at(stage, iteration))
                clean('killed')
            assert not list((root / 'killed').glob('*.png'))
        clean('killed')
    return root / 'whole', root / 'killed'


@pytest.mark.slow
def test_student_training_killed_and_continued_has_the_weights_of_a_whole_run(whole_and_killed):
    whole, killed = (torch.load(output / 'student.pth', weights_only=True)['params'] for output in whole_and_killed)
    assert all(torch.equal(value, killed[key]) for key, value in whole.items())


@pytest.mark.slow
@pytest.mark.parametrize('name', ['cat', 'coffee'])
def test_student_training_killed_and_continued_has_the_pictures_of_a_whole_run(whole_and_killed, name):
    whole, killed = (read_photo(output / f'{name}.png').pixels for output in whole_and_killed)
    assert (whole == killed).all()


# ---- the exported student ----


@pytest.fixture
def exported(trained_run) -> Path:
    """student.safetensors of a short training."""
    return trained_run / 'student.safetensors'


@pytest.fixture
def card(exported) -> dict:
    with safe_open(exported, 'pt') as file:
        return {key: json.loads(value) for key, value in file.metadata().items()}


def test_export_student_safetensors_loads_without_this_package(exported):
    state = load_file(exported)
    assert all(torch.equal(value, state[key]) for key, value in Denoiser(exported).net.state_dict().items())


@pytest.mark.parametrize(
    ('key', 'value'),
    [('library', 'basicsr_sassid'), ('format', 2), ('blind_size', 3), ('psnr', None), ('iterations', PLAN.iters)],
)
def test_model_card_states_the_training(card, key, value):
    assert card[key] == value


def test_model_card_names_the_network(card):
    assert card['network']['type'] == 'DenoisingUNet'


def test_model_card_counts_the_photographs(card):
    assert card['trained_on'] == {'photographs': 2, 'megapixels': 0.26}


def test_model_card_has_versions(card):
    assert re.match(r'\d+\.\d+', card['versions']['torch'])


def test_clean_photos_given_weights_trains_nothing(exported, folder, tmp_path, monkeypatch):
    forbid_training(monkeypatch)
    clean_photos([folder], tmp_path / 'out', weights=exported)
    assert (tmp_path / 'out' / 'cat.png').exists()


# ---- fit_denoiser ----


def test_fit_denoiser_returns_a_denoiser(folder, tmp_path, small_training):
    assert fit_denoiser(folder, minutes=1)(noisy_cat()).shape == noisy_cat().shape


def test_fit_denoiser_keeps_the_student_in_its_folder(folder, tmp_path, small_training):
    fit_denoiser([folder], minutes=1, folder=tmp_path / 'work')
    assert (tmp_path / 'work' / 'student.safetensors').exists()


def test_fit_denoiser_without_minutes_raises_user_error(folder):
    with pytest.raises(UserError, match='minutes: expected a number above 0, got 0'):
        fit_denoiser(folder, minutes=0)


@pytest.mark.parametrize(
    'content', ['', '[]', '{"weights": 3}', '{"weights": "gone.pth", "blind_size": 5, "risks": {}}']
)
def test_student_training_damaged_choice_of_the_bnn_is_made_again(tmp_path, content):
    (tmp_path / 'bnn.json').write_text(content)
    (tmp_path / 'findings.json').write_text(content)
    training = StudentTraining(tmp_path, {}, PLAN, [], None, lambda *_: None)
    assert training._chosen_bnn() is None and training.findings == []
