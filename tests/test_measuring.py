"""The times that the plan of a run is made of, and the correction of the plan in a run that may be stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from basicsr_sassid.ops.tiling import tiled_pixels
from basicsr_sassid.pipeline import measuring, run, student
from basicsr_sassid.pipeline.measuring import measure_denoising, plan_run, setup_seconds
from basicsr_sassid.pipeline.options import CleanOptions
from basicsr_sassid.pipeline.planning import Budget, StageClock
from basicsr_sassid.pipeline.run import PhotoRun
from basicsr_sassid.pipeline.student import ChosenBNN, StudentTraining, selection_seconds, student_options
from basicsr_sassid.training.budget import REPEATS, Plan, StepTimes

from noise_scenes import white_noise

PLAN = Plan({'bnn': 100, 'unet': 400}, {'bnn': 0.5, 'unet': 0.1}, 'lmdb', 10.0)
TIMES = StepTimes({'bnn': 0.3, 'unet': 0.1}, {'bnn': 0.1}, {'bnn': 0.1}, {'bnn': (), 'unet': ('bnn',)}, 0)


# ---- measured times ----


@pytest.mark.parametrize(
    ('tile', 'overlap', 'pixels'), [(0, 64, 200 * 300), (512, 64, 200 * 300), (100, 10, 230 * 340)]
)
def test_tiled_pixels_counts_the_context_of_the_tiles(tile, overlap, pixels):
    assert tiled_pixels([(200, 300)], tile, overlap) == pytest.approx(pixels, rel=0.1)


def test_setup_seconds_are_those_of_building_without_the_steps():
    steps = REPEATS * (0.3 + 0.1 + 0.1)
    assert setup_seconds(TIMES, steps + 1) == pytest.approx(0.5) and setup_seconds(TIMES, steps - 1) == 0


def test_selection_seconds_grow_with_the_step_of_the_bnn(tmp_path):
    opt = student_options(tmp_path, 9, torch.device('cpu'), 0, white_noise(15))
    assert selection_seconds(2.0, opt, 8) == pytest.approx(2 * selection_seconds(1.0, opt, 8))


OPT = {'network_g': {'type': 'DenoisingUNet', 'dim': 4}}


@pytest.fixture
def pretended(monkeypatch) -> list[float]:
    """Each measured step takes a second."""
    calls = []

    def second(step):
        step()  # it can be taken
        calls.append(1.0)
        return 1.0

    monkeypatch.setattr(measuring, 'timed', second)
    return calls


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.tif'])
def test_measure_denoising_counts_all_steps_after_the_training(tmp_path, pretended, suffix):
    crops = [np.random.default_rng(0).random((200, 256, 3), np.float32)]
    sizes = {Path(f'{number}{suffix}'): (200, 256) for number in range(10)}
    seconds = measure_denoising(sizes, crops, white_noise(15), OPT, tmp_path, 'cpu')
    # two denoisers for 10 photographs and 3 passes over the crop, reading, writing, and the report's 5 reads
    assert seconds == pytest.approx(2 * 13 + 2 * 10 + 5 * 10)
    assert len(pretended) == 4 and not list(tmp_path.iterdir())


def test_measure_denoising_large_photographs_cost_the_context_of_their_tiles(tmp_path, pretended):
    crops = [np.random.default_rng(0).random((256, 256, 3), np.float32)]
    seconds = measure_denoising({Path('a.png'): (2048, 2048)}, crops, white_noise(15), OPT, tmp_path, 'cpu')
    assert seconds > 2 * 16 + 7 * 16 + 3 * 2 * 0.25 + 8


def test_plan_run_leaves_out_what_was_spent(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, 'measure_step_times', lambda *_: TIMES)
    monkeypatch.setattr(measuring.time, 'time', lambda: 1060.0)
    opt = student_options(tmp_path, 9, torch.device('cpu'), 0, white_noise(15))
    budget, plan = plan_run(opt, tmp_path, 20, started=1000.0, denoising=240.0, num_crops=8)
    assert (budget.spent, budget.training) == (60, 900)
    assert plan.total_seconds() + budget.overhead == pytest.approx(900, abs=1)


# ---- the correction in a run ----


class FakeTraining:
    """In place of the training loop: takes seconds of a fake clock, and may be killed at an iteration."""

    def __init__(self, step: float) -> None:
        self.now, self.step, self.lengths, self.killed_at = 0.0, step, [], None

    def __call__(self, opt, on_iteration) -> None:
        stages = {name: block['iter'] for name, block in opt['train']['stages'].items()}
        stage = 'unet' if opt['name'] == 'student' else 'bnn'
        if stage == 'unet':
            self.lengths.append(stages['unet'])
        for iteration in range(1, stages[stage] + 1):
            self.now += self.step
            on_iteration(FakeModel(stage), iteration)
            if (stage, iteration) == self.killed_at:
                raise KeyboardInterrupt
        (opt['folder'] / 'experiments' / opt['name'] / 'models').mkdir(parents=True)


class FakeModel:
    def __init__(self, name: str) -> None:
        self.stage = type('Stage', (), {'name': name})
        self.choice = type('Choice', (), {'to_dict': staticmethod(dict)})

    def get_current_log(self) -> dict[str, float]:
        return {'l_bnn': 1.0, 'l_unet': 1.0}


@pytest.fixture
def corrected_run(tmp_path, monkeypatch):
    """A function that trains in the run of a folder, as far as the fake training goes, and returns the run's state."""
    chosen = ChosenBNN('net_bnn.pth', 3, {})
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'net_bnn.pth').touch()

    def train(training: FakeTraining, seconds: float | None = None):
        monkeypatch.setattr(student, 'train', training)
        monkeypatch.setattr(student, 'StageClock', lambda: StageClock(lambda: training.now))
        monkeypatch.setattr(student, 'resolve_options', lambda opt, folder, *_, **__: {**opt, 'folder': folder})
        monkeypatch.setattr(StudentTraining, '_bnn_risks', lambda *_: {'net_bnn.pth': 1.0})
        monkeypatch.setattr(StudentTraining, '_denoiser', lambda *_: None)
        monkeypatch.setattr(student, 'diagnose', lambda *_: [])
        monkeypatch.setattr(
            StudentTraining, '_chosen_bnn', lambda self: chosen if self.clock.iterations or done else None
        )
        photo_run = PhotoRun({}, tmp_path / 'out', CleanOptions(minutes=1, device='cpu'))
        done = photo_run.state.plan is not None and photo_run.state.training_seconds is None
        if photo_run.state.plan is None:
            photo_run.state.plan, photo_run.state.training_seconds = PLAN, seconds
            photo_run.save_state()
        opt = {
            'name': '',
            'num_gpu': 0,
            'logger': {},
            'network_bnn': {'blind_size': 3},
            'train': {'stages': {'bnn': {}, 'unet': {}}},
            'datasets': {'train': {'dataroot_lq': str(tmp_path)}},
        }
        (tmp_path / 'meta_info.txt').touch()
        assert photo_run.state.plan is not None
        StudentTraining(
            photo_run.folder, opt, photo_run.state.plan, [], white_noise(9), lambda *_: None, photo_run._correct_plan
        ).run()
        return photo_run.state

    return train


def test_photo_run_slow_bnn_shortens_the_student(corrected_run):
    training = FakeTraining(step=0.75)  # planned: 0.5
    state = corrected_run(training, seconds=120.1)
    assert training.lengths == [200] and state.plan.iters == {'bnn': 100, 'unet': 200}  # (45.1 - 15) / 0.15


def test_photo_run_stopped_in_the_student_keeps_its_corrected_length(corrected_run):
    first = FakeTraining(step=0.75)
    first.killed_at = ('unet', 9)
    with pytest.raises(KeyboardInterrupt):
        corrected_run(first, seconds=120.1)
    second = FakeTraining(step=0.01)
    corrected_run(second)
    assert first.lengths == second.lengths == [200]


def test_photo_run_plan_of_an_earlier_version_is_not_corrected(corrected_run):
    training = FakeTraining(step=0.75)
    assert corrected_run(training, seconds=None).plan == PLAN


def test_photo_run_plans_with_the_time_of_its_photographs(tmp_path, monkeypatch):
    given = {}

    def plan(opt, folder, minutes, started, denoising, *_):
        given.update(minutes=minutes, denoising=denoising)
        return Budget(minutes, 10.0, 2.0, 3.0, denoising), PLAN

    monkeypatch.setattr(run, 'plan_run', plan)
    monkeypatch.setattr(run, 'measure_denoising', lambda *_: 240.0)
    with PhotoRun({}, tmp_path, CleanOptions(minutes=20, device='cpu')) as photo_run:
        photo_run._plan_training({}, white_noise(9), writes=True)
        assert given == {'minutes': 20, 'denoising': 240.0}
        assert photo_run.state.training_seconds == 20 * 60 - 10 - 240 - 2
        photo_run._plan_training({}, white_noise(9), writes=False)
        assert given == {'minutes': 20, 'denoising': 0.0}
