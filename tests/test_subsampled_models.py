"""AP-BSN, SDAP, AMSNet: each loss by hand, training, resuming, inference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from basicsr.models import build_model
from torch.nn import functional as F

from basicsr_sassid import Denoiser
from basicsr_sassid.inference.subsampled import InferenceConfig
from basicsr_sassid.ops.subsampling import (
    from_mosaic,
    masked_inference,
    pd_down,
    pd_forward,
    pd_up,
    random_replacing_refinement,
    to_mosaic,
)
from basicsr_sassid.training.loop import train
from basicsr_sassid.training.options import resolve_options
from basicsr_sassid.utils.errors import UserError

from helpers import ANY_NETWORK, SUBSAMPLED_METHODS, latest_params, subsampled_options


def model_of(photographs, tmp_path, name: str, **train_keys):
    torch.manual_seed(0)
    model = build_model(resolve_options(subsampled_options(photographs, name, **train_keys), tmp_path, True))
    model.update_learning_rate(1)
    return model


# ---- losses ----


def test_apbsn_loss_without_padding_is_the_mean_over_all_phases(photographs, tmp_path):
    model = model_of(photographs, tmp_path, 'APBSNModel', pd_pad=None)
    lq = torch.rand(2, 3, 30, 30) * 255
    errors = []
    for n in range(2):
        for i in range(5):
            for j in range(5):
                phase = lq[n : n + 1, :, i::5, j::5]
                errors.append((model.net(phase) - phase).abs().mean())
    assert model.training_loss(lq).item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)


def test_apbsn_loss_with_padding_predicts_the_phases_in_one_image(photographs, tmp_path):
    model = model_of(photographs, tmp_path, 'APBSNModel', pd_pad=2)
    lq = torch.rand(2, 3, 30, 30) * 255
    # the phases lie side by side, 4 zeros apart, within each other's receptive field
    prediction = pd_up(from_mosaic(model.net(to_mosaic(pd_down(lq, 5), 5, 2)), 5, 2), 5)
    assert model.training_loss(lq).item() == pytest.approx((prediction - lq).abs().mean().item(), rel=1e-6)


def test_sdap_loss_targets_the_next_sub_image(photographs, tmp_path, monkeypatch):
    model = model_of(photographs, tmp_path, 'SDAPModel')
    sub_images = torch.rand(25, 2, 3, 6, 6)
    monkeypatch.setattr('basicsr_sassid.models.sdap_model.random_sub_images', lambda lq, stride: sub_images)
    by_hand = sum((model.net(sub_images[j]) - sub_images[(j + 1) % 25]).abs().mean() for j in range(25))
    assert model.training_loss(torch.zeros(2, 3, 30, 30)).item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_amsnet_loss_is_taken_on_the_hidden_pixels(photographs, tmp_path, monkeypatch):
    model = model_of(photographs, tmp_path, 'AMSNetModel')
    inputs = []
    monkeypatch.setattr(model, 'net', lambda x: inputs.append(x) or torch.zeros_like(x))
    lq = torch.rand(2, 3, 30, 30) + 1
    loss = model.training_loss(lq)
    hidden = inputs[0] == 0
    assert inputs[0].shape == (50, 3, 6, 6) and hidden.float().mean() == pytest.approx(0.5, abs=0.05)
    assert (hidden[:, 0] == hidden[:, 2]).all()
    images = torch.stack([lq[n, :, i::5, j::5] for n in range(2) for i in range(5) for j in range(5)])
    assert loss.item() == pytest.approx(images[hidden].mean().item(), rel=1e-6)


# ---- training ----


@pytest.mark.parametrize('name', SUBSAMPLED_METHODS)
def test_training_lowers_the_loss(photographs, tmp_path, name):
    opt = subsampled_options(photographs, name)
    opt['train']['stages']['bsn'].update(iter=120, optim={'type': 'Adam', 'lr': 3e-3})
    opt['train']['grad_clip'] = 100
    losses = []
    train(
        resolve_options(opt, tmp_path, True),
        on_iteration=lambda model, number: losses.append(model.get_current_log()['l_bsn']) and None,
    )
    assert np.mean(losses[-20:]) < 0.7 * np.mean(losses[:5])


@pytest.mark.parametrize('name', SUBSAMPLED_METHODS)
def test_training_resumed_equals_the_uninterrupted_one(photographs, tmp_path, name):
    opt = subsampled_options(photographs, name)
    train(resolve_options(opt, tmp_path / 'whole', True), on_iteration=lambda *_: None)
    train(resolve_options(opt, tmp_path / 'stopped', True), on_iteration=lambda model, number: number == 4)
    train(resolve_options(opt, tmp_path / 'stopped', True, auto_resume=True), on_iteration=lambda *_: None)
    one, other = (latest_params(tmp_path / run, name, 'bsn') for run in ('whole', 'stopped'))
    assert all(torch.equal(one[key], other[key]) for key in one)


# ---- inference ----


@pytest.fixture(scope='module')
def trained(tmp_path_factory, noisy_folder):
    """method -> (model after a few iterations, its weights file)."""
    result = {}
    for name in SUBSAMPLED_METHODS:
        folder = tmp_path_factory.mktemp(name)
        model = train(
            resolve_options(subsampled_options(noisy_folder, name), folder, True), on_iteration=lambda *_: None
        )
        result[name] = model, folder / f'experiments/{name}/models/net_bsn_latest.pth'
    return result


def network_of(name: str) -> dict:
    """The network, not of this package, that the user names."""
    return {'network': ANY_NETWORK} if name == 'AMSNetModel' else {}


@pytest.mark.parametrize('name', SUBSAMPLED_METHODS)
@pytest.mark.parametrize('size', [(33, 47), (1, 9), (64, 64)])
def test_denoiser_gives_what_the_model_gives(trained, name, size):
    model, weights = trained[name]
    image = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    model.lq = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    model.test()
    expected = (model.output[0].permute(1, 2, 0).clamp(0, 1) * 255).round().numpy()
    denoise = Denoiser(weights, 'cpu', precision='fp32', **network_of(name))
    assert np.abs(denoise(image) - expected).max() <= 1


@pytest.mark.parametrize('name', SUBSAMPLED_METHODS)
def test_denoiser_takes_the_inference_from_the_file(trained, name):
    model, weights = trained[name]
    assert Denoiser(weights, 'cpu', **network_of(name)).inference == model.inference


@pytest.mark.parametrize('name', SUBSAMPLED_METHODS)
def test_denoiser_draws_are_seeded(trained, name):
    denoise = Denoiser(trained[name][1], 'cpu', precision='fp32', **network_of(name))
    image = np.random.default_rng(0).integers(0, 255, (33, 47, 3)).astype(np.uint8)
    assert np.array_equal(denoise(image), denoise(image))


@pytest.fixture
def image_and_net():
    return torch.rand(1, 3, 14, 10) * 255, build_network({'type': 'DBSNl', 'dim': 4, 'num_module': 1})


def test_sdap_inference_is_pd_and_a_second_pass(photographs, tmp_path, image_and_net):
    x, net = image_and_net
    with torch.no_grad():
        assert torch.equal(model_of(photographs, tmp_path, 'SDAPModel').denoise(net, x), net(pd_forward(net, x, 2)))


def test_apbsn_inference_is_padded_pd_and_r3_by_channel(photographs, tmp_path, image_and_net):
    x, net = image_and_net
    with torch.no_grad():
        expected = random_replacing_refinement(
            lambda y: net(F.pad(y, (2,) * 4, mode='reflect'))[..., 2:-2, 2:-2],
            x,
            pd_forward(net, x, 2, 2),
            0.16,
            8,
            True,
            torch.Generator().manual_seed(0),
        )
        assert torch.equal(model_of(photographs, tmp_path, 'APBSNModel').denoise(net, x), expected)


def test_amsnet_inference_is_masked_pd_and_masked_r3(photographs, tmp_path, image_and_net):
    x, net = image_and_net
    generator = torch.Generator().manual_seed(0)

    def masked(y):
        return masked_inference(net, y, 2, generator)

    with torch.no_grad():
        expected = random_replacing_refinement(masked, x, pd_forward(masked, x, 2), generator=generator)
        assert torch.equal(model_of(photographs, tmp_path, 'AMSNetModel').denoise(net, x), expected)


def test_inference_of_a_training_follows_its_pd_pad(photographs, tmp_path):
    assert model_of(photographs, tmp_path, 'APBSNModel', pd_pad=3).inference.pd_pad == 3


def test_denoiser_tiled_equals_untiled_in_sub_images(tmp_path):
    """In every sub-image a tile starts on the network's grid and has the same context."""
    torch.manual_seed(2)
    net = build_network({'type': 'DenoisingUNet', 'dim': 4})
    torch.save(
        {'params': net.state_dict(), 'network': {'type': 'DenoisingUNet', 'dim': 4}, 'img_range': 255},
        tmp_path / 'net.pth',
    )
    image = np.random.default_rng(0).random((340, 500, 3)).astype(np.float32)
    tiled, untiled = (
        Denoiser(tmp_path / 'net.pth', 'cpu', tile=tile, precision='fp32', inference={'pd_b': 2}) for tile in (64, 0)
    )
    assert (tiled.tile, tiled.overlap) == (64, 256)
    assert np.abs(tiled(image) - untiled(image)).max() < 1e-3


def test_denoiser_tile_meets_the_grid_of_network_and_sub_images(tmp_path):
    net = build_network({'type': 'DenoisingUNet', 'dim': 4})
    torch.save({'params': net.state_dict()}, tmp_path / 'net.pth')
    denoise = Denoiser(tmp_path / 'net.pth', 'cpu', inference={'pd_b': 3, 'multiple_of': 24})
    assert denoise.multiple_of == 3 * 96 and denoise.tile == 2 * 288


@pytest.fixture
def foreign_weights(tmp_path):
    net = build_network(ANY_NETWORK)
    torch.save(
        {
            'params': net.state_dict(),
            'network': ANY_NETWORK,
            'img_range': 1,
            'format': 2,
            'inference': {'pd_b': 2, 'num_masks': 2, 'multiple_of': 8},
        },
        tmp_path / 'net.pth',
    )
    return tmp_path / 'net.pth'


def test_denoiser_with_other_inference_keeps_the_networks_multiple(foreign_weights):
    denoise = Denoiser(foreign_weights, 'cpu', network=ANY_NETWORK, inference={'pd_b': 2})
    assert denoise.inference == InferenceConfig(pd_b=2, multiple_of=8)


def test_denoiser_runs_a_network_that_states_nothing_in_float32(foreign_weights):
    given = {'network': ANY_NETWORK}
    assert Denoiser(foreign_weights, 'cpu', **given).dtype == torch.float32
    assert Denoiser(foreign_weights, 'cpu', precision='bf16', **given).dtype == torch.bfloat16


# ---- options ----


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'pd_a': 4}, 'datasets.train.patch_size: expected a multiple of train.pd_a 4, got 30'),
        ({'pd_a': 0}, 'train.pd_a: expected a number >= 1, got 0'),
        ({'stride': 4}, "train: key 'stride' was renamed: pd_a"),
        ({'stages': {'unett': {'iter': 1}}}, "train.stages: unknown key 'unett'. Did you mean 'unet'"),
        ({'stages': 5}, 'train.stages: expected a block'),
        ({'pd_pad': 2}, "train: unknown key 'pd_pad'. Did you mean 'pd_a'"),
    ],
)
def test_train_options_wrong_are_named(photographs, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        resolve_options(subsampled_options(photographs, 'SDAPModel', **changes), tmp_path, True)


@pytest.mark.parametrize(
    ('block', 'message'),
    [
        ({'pd_bb': 2}, "inference: unknown key 'pd_bb'. Did you mean 'pd_b'"),
        ({'stride': 2}, "inference: key 'stride' was renamed: pd_b"),
        ({'refine': 'again'}, r"inference: key 'refine' was renamed: refinement, with the values none, second_pass"),
        ({'refinement': 'twice'}, "inference.refinement: expected one of none, second_pass, r3, got 'twice'"),
        ({'num_masks': -1}, 'inference.num_masks: expected a number >= 0'),
        ({'num_masks': 1}, 'would hide the whole image'),
        ({'pd_b': None}, 'inference.pd_b: expected a whole number, got None'),
        ({'pd_pad': False}, 'inference.pd_pad: expected a whole number, got False'),
        ({'r3_p': 16}, 'inference.r3_p: expected a number <= 1, got 16'),
        ({'per_channel': 'no'}, "inference.per_channel: expected true or false, got 'no'"),
    ],
)
def test_inference_options_wrong_are_named(photographs, tmp_path, block, message):
    opt = subsampled_options(photographs, 'SDAPModel')
    opt['inference'] = block
    with pytest.raises(UserError, match=message):
        resolve_options(opt, tmp_path, True)


def test_denoiser_inference_wrong_is_named(foreign_weights):
    with pytest.raises(UserError, match="inference: unknown key 'pdb'. Did you mean 'pd_b'"):
        Denoiser(foreign_weights, 'cpu', network=ANY_NETWORK, inference={'pdb': 2})


def test_network_g_without_a_student_stage_is_named(photographs, tmp_path):
    opt = subsampled_options(photographs, 'SDAPModel')
    opt['network_g'] = opt['network_bsn']
    with pytest.raises(UserError, match='network_g: it is the student, .* the network of stage bsn is network_bsn'):
        resolve_options(opt, tmp_path, True)
