"""Fast students: one more stage of any method, or distilled from trained teachers."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from basicsr.models import build_model

from basicsr_sassid import Denoiser
from basicsr_sassid.inference.subsampled import SINGLE_PASS, InferenceConfig
from basicsr_sassid.io.checkpoint import read_weights
from basicsr_sassid.losses.selective_loss import TwoTeacherL1Loss
from basicsr_sassid.training.loop import train
from basicsr_sassid.training.options import resolve_options
from basicsr_sassid.utils.errors import UserError

from helpers import ANY_NETWORK, SUBSAMPLED_METHODS, latest_params, subsampled_options, tiny_options


def student_options(folder, name: str, **train_keys) -> dict:
    opt = subsampled_options(folder, name, **train_keys)
    opt['network_g'] = {'type': 'DenoisingUNet', 'dim': 4}
    opt['train']['stages']['unet'] = opt['train']['stages']['bsn']
    opt['datasets']['train']['patch_size'] = 40
    return opt


@pytest.fixture(scope='module', params=SUBSAMPLED_METHODS)
def run(request, tmp_path_factory, noisy_folder):
    """A method and its student, trained: options, folder, model, models folder."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    opt = student_options(noisy_folder, name, teacher_cache='memory')
    model = train(resolve_options(opt, folder, True), on_iteration=lambda *_: None)
    return opt, folder, model, folder / f'experiments/{name}/models'


def as_batch(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None]


def as_image(batch: torch.Tensor) -> np.ndarray:
    return batch[0].permute(1, 2, 0).clamp(0, 1).numpy()


IMAGE = np.random.default_rng(0).random((40, 40, 3)).astype(np.float32)


def test_student_file_is_applied_in_one_pass(run):
    assert Denoiser(run[3] / 'net_g_latest.pth', 'cpu').inference == SINGLE_PASS


def test_teacher_file_is_applied_in_all_passes(run):
    teacher = Denoiser(run[3] / 'net_bsn_latest.pth', 'cpu', network=run[0]['network_bsn'])
    assert teacher.inference == run[2].inference != SINGLE_PASS


def test_student_validation_equals_its_denoiser(run):
    model = run[2]
    model.lq = as_batch(IMAGE)
    model.test()
    assert (
        np.abs(as_image(model.output) - Denoiser(run[3] / 'net_g_latest.pth', 'cpu', precision='fp32')(IMAGE)).max()
        < 1e-5
    )


def test_student_target_is_the_teachers_denoiser(run):
    model = run[2]
    with torch.no_grad():
        target = as_image(model.teacher_forward('bsn', as_batch(IMAGE) * model.img_range) / model.img_range)
    teacher = Denoiser(run[3] / 'net_bsn_latest.pth', 'cpu', precision='fp32', network=run[0]['network_bsn'])
    assert np.abs(target - teacher(IMAGE)).max() < 1e-5


@pytest.mark.parametrize('network', ['g', 'bsn'])
def test_test_run_takes_the_inference_of_its_file(run, network, noisy_folder, tmp_path):
    opt, _, model, models = run
    tested = {
        'name': 'test',
        'model_type': opt['model_type'],
        'num_gpu': 0,
        'img_range': 255,
        'network_g': opt[f'network_{network}'],
        'datasets': {'test': {'name': 'noisy', 'type': 'NoisyImageDataset', 'dataroot_lq': str(noisy_folder)}},
        'path': {'pretrain_network_g': str(models / f'net_{network}_latest.pth')},
        'val': {},
    }
    expected = SINGLE_PASS if network == 'g' else model.inference
    assert build_model(resolve_options(tested, tmp_path, False)).inference == expected
    tested['inference'] = {'pd_b': 3}
    changed = SINGLE_PASS if network == 'g' else model.inference.model_copy(update={'pd_b': 3})
    assert build_model(resolve_options(tested, tmp_path, False)).inference == changed


def test_student_stage_resumed_equals_the_uninterrupted_one(run, tmp_path):
    opt, folder, _, _ = run
    train(resolve_options(opt, tmp_path, True), on_iteration=lambda model, number: number == 9)
    train(resolve_options(opt, tmp_path, True, auto_resume=True), on_iteration=lambda *_: None)
    for network in ('bsn', 'g'):
        one, other = (latest_params(run_folder, opt['name'], network) for run_folder in (folder, tmp_path))
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_student_that_changes_the_size_is_refused_before_training(photographs, tmp_path):
    opt = student_options(photographs, 'SDAPModel')
    opt['network_g'] = {'type': 'SRVGGNetCompact', 'num_feat': 4, 'num_conv': 1}
    with pytest.raises(UserError, match='network_g: SRVGGNetCompact makes .* upscale: 1'):
        resolve_options(opt, tmp_path, True)


# ---- distilled from files ----


@pytest.fixture(scope='module')
def teachers(tmp_path_factory):
    """A trained AMSNet and a trained BNN, a few iterations each: name -> file."""
    folder = tmp_path_factory.mktemp('teachers')
    (folder / 'noisy').mkdir()
    for number in range(3):
        image = np.random.default_rng(number).integers(90, 160, (64, 80, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f'noisy/{number}.png'), image)
    train(
        resolve_options(subsampled_options(folder / 'noisy', 'AMSNetModel'), folder, True), on_iteration=lambda *_: None
    )
    train(resolve_options(tiny_options(folder / 'noisy'), folder, True), on_iteration=lambda *_: None)
    return {
        'amsnet': folder / 'experiments/AMSNetModel/models/net_bsn_latest.pth',
        'bnn': folder / 'experiments/tiny/models/net_bnn_latest.pth',
        'noisy': folder / 'noisy',
    }


def distillation_options(teachers, model: str, **networks) -> dict:
    opt = tiny_options(teachers['noisy'])
    blocks = {'bnn': opt.pop('network_bnn'), 'amsnet': {**ANY_NETWORK}}
    del opt['network_lan']
    opt.update(name=model, model_type=model)
    opt['train']['stages'] = {'unet': opt['train']['stages']['unet']}
    for role, method in networks.items():
        opt[f'network_{role}'] = blocks[method]
        opt['path'][f'pretrain_network_{role}'] = str(teachers[method])
    return opt


@pytest.mark.parametrize('cache', ['off', 'memory'])
def test_distilled_target_is_the_teachers_denoiser(teachers, tmp_path, cache):
    opt = distillation_options(teachers, 'DistilledModel', teacher='amsnet')
    opt['train']['teacher_cache'] = cache
    model = train(resolve_options(opt, tmp_path, True), on_iteration=lambda *_: None)
    image = np.random.default_rng(5).uniform(0.3, 0.6, (32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        target = as_image(model.teacher_forward('teacher', as_batch(image) * 255) / 255)
    denoise = Denoiser(teachers['amsnet'], 'cpu', precision='fp32', network=ANY_NETWORK)
    np.testing.assert_allclose(target, denoise(image), atol=1e-4)
    assert Denoiser(tmp_path / 'experiments/DistilledModel/models/net_g_latest.pth').inference == SINGLE_PASS


def test_two_teachers_are_weighted_by_texture(teachers, tmp_path):
    opt = distillation_options(teachers, 'TwoTeacherModel', flat='bnn', texture='amsnet')
    model = build_model(resolve_options(opt, tmp_path, True))
    model.update_learning_rate(1)
    lq = torch.rand(2, 3, 32, 32) * 255
    with torch.no_grad():
        flat, texture = (model.teacher_forward(name, lq) for name in ('flat', 'texture'))
    expected = TwoTeacherL1Loss()(model.net(lq), flat, texture)
    assert model.distillation_loss(lq).item() == pytest.approx(expected.item(), rel=1e-5)


def test_distilled_without_a_teacher_is_refused(teachers, tmp_path):
    opt = distillation_options(teachers, 'TwoTeacherModel', flat='bnn', texture='amsnet')
    del opt['path']['pretrain_network_texture']
    with pytest.raises(UserError, match='TwoTeacherModel learns from a trained network_texture'):
        resolve_options(opt, tmp_path, True)


def test_distilled_with_the_old_name_of_its_teacher_is_named(teachers, tmp_path):
    opt = distillation_options(teachers, 'DistilledModel', flat='amsnet')
    with pytest.raises(UserError, match="key 'network_flat' was renamed: network_teacher"):
        resolve_options(opt, tmp_path, True)


# ---- a given method's network, and its student ----


@pytest.fixture
def given(teachers, tmp_path):
    """Options that take network_bsn from a file, and that file's content."""
    opt = student_options(teachers['noisy'], 'AMSNetModel', num_masks=3)
    content = read_weights(teachers['amsnet'])  # without the digest, which the changes would break
    opt['train']['stages']['bsn'] = {'iter': 0}
    opt['path'] = {'pretrain_network_bsn': str(tmp_path / 'given.pth')}
    return opt, content, tmp_path


def test_given_network_brings_its_inference(given):
    opt, content, folder = given
    torch.save({**content, 'inference': {'pd_b': 3, 'num_masks': 4}}, folder / 'given.pth')
    model = build_model(resolve_options(opt, folder, True))
    assert model.inference == InferenceConfig(pd_b=3, num_masks=4)


def test_given_network_of_another_range_is_refused(given):
    opt, content, folder = given
    torch.save({**content, 'img_range': 1}, folder / 'given.pth')
    with pytest.raises(UserError, match='network_bsn: these weights take white as 1, and img_range is 255'):
        resolve_options(opt, folder, True)


def test_given_network_is_read_once(given, monkeypatch):
    opt, content, folder = given
    torch.save(content, folder / 'given.pth')
    reads, load = [], torch.load
    monkeypatch.setattr(
        torch, 'load', lambda path, *args, **kwargs: (reads.append(path), load(path, *args, **kwargs))[1]
    )
    build_model(resolve_options(opt, folder, True))
    assert len(reads) == 1
