"""BlindSizesModel: teacher cache of several predictions, its budget, blind neighbourhoods of unlike sides."""

from __future__ import annotations

import copy
import shutil

import cv2
import numpy as np
import pytest

from basicsr_sassid.models.blind_sizes_model import BlindSizesModel
from basicsr_sassid.models.staged_model import StagedModel
from basicsr_sassid.noise.model import NoiseModel
from basicsr_sassid.training.budget import StepTimes, allocate_budget, measure_step_times
from basicsr_sassid.training.options import resolve_options
from basicsr_sassid.utils.errors import UserError

from helpers import blind_sizes_options, caches_of, log_of, trained

# ---- teacher cache ----


@pytest.mark.parametrize('posterior', [False, True])
def test_blind_sizes_model_cached_targets_equal_those_on_the_fly(photographs, tmp_path, monkeypatch, posterior):
    """A patch as large as the image is one window, in the first symmetry."""
    opt = blind_sizes_options(photographs, teacher_cache='lmdb', posterior=posterior)
    opt['datasets']['train'].update(patch_size=64, use_hflip=False, use_rot=False)
    for path in photographs.iterdir():
        cv2.imwrite(str(path), cv2.imread(str(path))[:, :64])
    differences = []
    step = StagedModel.optimize_parameters

    def compare(self, i):
        if self.stage.name == 'unet' and 'bnn' in self.cached_targets:
            lq = self.lq * 255
            live = self.postprocess_target('bnn', self.teacher_forward('bnn', lq), lq) / 255
            assert live.shape == (2, 3 * len(self.choice.sizes), 64, 64)
            differences.append((live.clamp(-0.25, 1.25) - self.cached_targets['bnn']).abs().max().item() * 255)
        return step(self, i)

    monkeypatch.setattr(StagedModel, 'optimize_parameters', compare)
    trained(opt, tmp_path)
    assert len(differences) == 4 and max(differences) < 0.01


def test_blind_sizes_model_cache_holds_six_bytes_a_pixel_and_size(noisy_folder, tmp_path):
    opt = blind_sizes_options(noisy_folder, 'ATBSNModel', teacher_cache='lmdb', teacher_blind_sizes=[1, 3, 5, 9])
    model = trained(opt, tmp_path)
    cache = model.caches['bnn']
    assert cache.num_bytes([0]) == 2 * 3 * 4 * 64 * 80
    assert cache.read(0).shape == (64, 80, 12) and cache.read(0).nbytes == cache.num_bytes([0])
    assert caches_of(tmp_path)[0].joinpath('data.mdb').stat().st_size > cache.num_bytes(range(6))


def test_blind_sizes_model_cache_without_space_for_all_sizes_is_an_error_before_it_is_written(
    noisy_folder, tmp_path, monkeypatch
):
    needed = 2 * 3 * 4 * 64 * 80 * 6
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=needed // 2))
    opt = blind_sizes_options(noisy_folder, 'ATBSNModel', teacher_cache='lmdb', teacher_blind_sizes=[1, 3, 5, 9])
    with pytest.raises(UserError, match=r'^train.teacher_cache: .* are free. Free some space'):
        trained(opt, tmp_path)
    assert not any(folder.joinpath('data.mdb').exists() for folder in caches_of(tmp_path))


def test_blind_sizes_model_cache_of_other_sizes_is_another(noisy_folder, tmp_path):
    for number, sizes in enumerate(([1, 9], [1, 9], [1, [1, 9], 9], [1, [9, 1], 9])):
        opt = blind_sizes_options(noisy_folder, 'ATBSNModel', teacher_cache='lmdb', teacher_blind_sizes=sizes)
        trained(opt, tmp_path / str(number))
    names = [caches_of(tmp_path / str(number))[0].name for number in range(4)]
    assert names[0] == names[1] and len(set(names)) == 3


def test_blind_sizes_model_cache_auto_logs_its_reason_once(noisy_folder, tmp_path):
    trained(blind_sizes_options(noisy_folder, teacher_cache='auto'), tmp_path)
    assert log_of(tmp_path).count('Teacher cache off') == 1


def test_blind_sizes_model_cache_cost_is_that_of_the_further_sizes(noisy_folder, tmp_path):
    def cost(**keys) -> float:
        opt = blind_sizes_options(noisy_folder, 'ATBSNModel', teacher_blind_sizes=[1, 5, 9], **keys)
        return BlindSizesModel(resolve_options(opt, tmp_path, True)).cache_cost('bnn')

    assert cost() == cost(teacher_draw='all') == 1
    assert 1 < cost(teacher_draw='one') == cost(teacher_draw='auto') < 1.5


def step_times(cached_teacher: float) -> StepTimes:
    """A step of 1 s; on the fly the teacher takes 1 s more; the set is worth 60 batches."""
    return StepTimes({'unet': 1.0}, {'bnn': 1.0}, {'bnn': cached_teacher}, {'unet': ('bnn',)}, 60)


@pytest.mark.parametrize(
    ('cached_teacher', 'cache', 'length'), [(1.0, 'lmdb', 540), (4.0, 'lmdb', 360), (6.0, 'off', 300)]
)
def test_allocate_budget_cache_costs_the_predictions_with_all_sizes(cached_teacher, cache, length):
    plan = allocate_budget(step_times(cached_teacher), {'unet': 1}, minutes=10)
    assert (plan.teacher_cache, plan.iters) == (cache, {'unet': length})
    assert plan.total_seconds() == pytest.approx(600)


def test_measure_step_times_teacher_on_the_fly_predicts_with_one_drawn_size(noisy_folder, tmp_path):
    opt = blind_sizes_options(noisy_folder, 'ATBSNModel', teacher_blind_sizes=[1, 5, 9], teacher_draw='one')
    times = measure_step_times(opt, tmp_path, ['bnn', 'unet'])
    assert times.cached_teacher['bnn'] / times.teacher['bnn'] == pytest.approx((1 + 3 * 0.17) / (1 + 0.17))
    assert set(times.step) == {'bnn', 'unet'} and not (tmp_path / 'experiments').exists()


# ---- height and width apart ----


@pytest.mark.parametrize(
    ('cache', 'use_rot', 'has_rectangles'),
    [('memory', True, True), ('off', False, True), ('off', True, False), ('off', None, False)],
)
def test_blind_sizes_model_noise_of_unlike_sides_gives_rectangles_where_images_are_upright(
    noisy_folder, tmp_path, monkeypatch, cache, use_rot, has_rectangles
):
    monkeypatch.setattr(NoiseModel, 'correlation_sides', lambda self: (3, 9))
    opt = blind_sizes_options(noisy_folder, teacher_cache=cache)
    if use_rot is not None:  # by default patches are turned
        opt['datasets']['train']['use_rot'] = use_rot
    sizes = trained(opt, tmp_path).choice.sizes
    assert sizes == ([0, (3, 5), (3, 9)] if has_rectangles else [0, 5, 9])


def test_blind_sizes_model_listed_rectangle_for_turned_patches_is_refused(noisy_folder, tmp_path):
    opt = blind_sizes_options(noisy_folder, 'ATBSNModel', teacher_blind_sizes=[1, [3, 9]])
    with pytest.raises(UserError, match=r'turned by 90 degrees, got \(3, 9\). Set datasets.train.use_rot: false'):
        trained(copy.deepcopy(opt), tmp_path)
    assert not (tmp_path / 'experiments').exists()
    opt['datasets']['train']['use_rot'] = False
    assert trained(opt, tmp_path).choice.sizes == [1, (3, 9)]


@pytest.mark.parametrize('ensemble', [False, True])
def test_blind_sizes_model_cached_prediction_of_a_turned_window_has_the_turned_pair(
    noisy_folder, tmp_path, monkeypatch, ensemble
):
    """Whatever the window's symmetry: within 1x5 pixels nothing reaches a target, and the next pixel does."""
    keys = {'teacher_blind_sizes': [[1, 5]], 'teacher_cache': 'memory', 'teacher_ensemble': ensemble}
    opt = resolve_options(blind_sizes_options(noisy_folder, 'ATBSNModel', **keys), tmp_path, True)
    model = BlindSizesModel(opt)
    image = np.full((64, 80, 3), 0.4, np.float32)
    image[30, 40] = np.nan

    class Images:  # one image, of which the cache asks
        sizes, patch_size, teachers, paths = [(64, 80)], 32, {}, ['a']

        def image(self, index):
            return image

        def content_key(self):
            return {}

        def __len__(self):
            return 1

    seen = {}
    build = 'basicsr_sassid.training.pseudo_targets.build_teacher_cache'
    monkeypatch.setattr(build, lambda name, predict, dataset, *_: seen.update(target=predict(dataset.image(0))))
    model.teacher_cache('bnn', Images())
    is_nan = np.isnan(seen['target']).any(axis=2)
    assert not is_nan[30, 38:43].any()
    reached = [(30 + dy, 40 + dx) for dy, dx in ((1, 0), (-1, 0), (0, 3), (0, -3))]
    assert all(is_nan[place] for place in reached)
