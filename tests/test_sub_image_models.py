"""AP-BSN, SDAP, AMSNet: each loss by hand, training, resume, use."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from basicsr.models import build_model
from basicsr.utils.registry import ARCH_REGISTRY
from torch.nn import functional as F

from basicsr_sassid import Denoiser
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

from helpers import tiny_options

METHODS = ('APBSNModel', 'SDAPModel', 'AMSNetModel')
ANY_NETWORK = {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 1, 'upscale': 1}


def options(photographs, model: str, **changes) -> dict:
    opt = tiny_options(photographs)
    opt['name'], opt['model_type'] = model, model
    opt['datasets']['train']['patch_size'] = 30
    del opt['network_bnn'], opt['network_lan']
    opt['network_g'] = {**ANY_NETWORK} if model == 'AMSNetModel' else {'type': 'DBSNl', 'dim': 8, 'num_module': 2}
    opt['train']['stages'] = {'bsn': {'iter': 6, 'optim': {'type': 'Adam', 'lr': 1e-3},
                                      'scheduler': {'type': 'CosineAnnealingLR'}}}
    opt['train'].update(changes)
    return opt


def model_of(photographs, tmp_path, name: str, **changes):
    torch.manual_seed(0)
    model = build_model(resolve_options(options(photographs, name, **changes), tmp_path, True))
    model.update_learning_rate(1)
    return model


@pytest.mark.parametrize('pad', [None, 2])
def test_apbsn_learns_every_phase_of_the_image(photographs, tmp_path, pad):
    model = model_of(photographs, tmp_path, 'APBSNModel', mosaic_pad=pad)
    lq = torch.rand(2, 3, 30, 30) * 255
    loss = model.training_loss(lq)
    if pad:  # the phases lie side by side, 4 zeros apart, within reach of one another
        answer = from_mosaic(model.net(to_mosaic(pd_down(lq, 5), 5, 2)), 5, 2)
        assert loss.item() == pytest.approx((pd_up(answer, 5) - lq).abs().mean().item(), rel=1e-6)
        return
    errors = []
    for n in range(2):
        for i in range(5):
            for j in range(5):
                phase = lq[n:n + 1, :, i::5, j::5]
                errors.append((model.net(phase) - phase).abs().mean())
    assert loss.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)


def test_sdap_learns_the_next_sub_image(photographs, tmp_path, monkeypatch):
    model = model_of(photographs, tmp_path, 'SDAPModel')
    parts = torch.rand(25, 2, 3, 6, 6)
    monkeypatch.setattr('basicsr_sassid.models.sdap_model.random_sub_images', lambda lq, stride: parts)
    by_hand = sum((model.net(parts[j]) - parts[(j + 1) % 25]).abs().mean() for j in range(25))
    assert model.training_loss(torch.zeros(2, 3, 30, 30)).item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_amsnet_learns_what_is_hidden(photographs, tmp_path, monkeypatch):
    model = model_of(photographs, tmp_path, 'AMSNetModel')
    seen = []
    monkeypatch.setattr(model, 'net', lambda x: seen.append(x) or torch.zeros_like(x))
    lq = torch.rand(2, 3, 30, 30) + 1
    loss = model.training_loss(lq)
    hidden = seen[0] == 0
    assert seen[0].shape == (50, 3, 6, 6) and hidden.float().mean() == pytest.approx(0.5, abs=0.05)
    assert (hidden[:, 0] == hidden[:, 2]).all()
    images = torch.stack([lq[n, :, i::5, j::5] for n in range(2) for i in range(5) for j in range(5)])
    assert loss.item() == pytest.approx(images[hidden].mean().item(), rel=1e-6)


@pytest.mark.parametrize('name', METHODS)
def test_training_lowers_the_loss(photographs, tmp_path, name):
    opt = options(photographs, name)
    opt['train']['stages']['bsn'].update(iter=120, optim={'type': 'Adam', 'lr': 3e-3})
    opt['train']['grad_clip'] = 100
    losses = []
    train(resolve_options(opt, tmp_path, True),
          on_iteration=lambda model, number: losses.append(model.get_current_log()['l_bsn']) and None)
    assert np.mean(losses[-20:]) < 0.7 * np.mean(losses[:5])


@pytest.mark.parametrize('name', METHODS)
def test_resumed_is_as_never_stopped(photographs, tmp_path, name):
    opt = options(photographs, name)
    train(resolve_options(opt, tmp_path / 'whole', True), on_iteration=lambda *_: None)
    train(resolve_options(opt, tmp_path / 'stopped', True), on_iteration=lambda model, number: number == 4)
    train(resolve_options(opt, tmp_path / 'stopped', True, auto_resume=True), on_iteration=lambda *_: None)
    one, other = (torch.load(tmp_path / run / f'experiments/{name}/models/net_g_latest.pth')['params']
                  for run in ('whole', 'stopped'))
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize('name', METHODS)
@pytest.mark.parametrize('size', [(33, 47), (1, 9), (64, 64)])
def test_denoiser_uses_the_network_as_its_model_does(photographs, tmp_path, name, size):
    opt = resolve_options(options(photographs, name), tmp_path, True)
    model = train(opt, on_iteration=lambda *_: None)
    image = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    model.lq = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    model.test()
    expected = (model.output[0].permute(1, 2, 0).clamp(0, 1) * 255).round().numpy()
    denoise = Denoiser(tmp_path / f'experiments/{name}/models/net_g_latest.pth', 'cpu', precision='fp32')
    assert denoise.passes == model.inference
    assert np.abs(denoise(image) - expected).max() <= 1
    assert np.array_equal(denoise(image), denoise(image)), 'the draws are seeded'


def test_what_each_does_in_use(photographs, tmp_path):
    x = torch.rand(1, 3, 14, 10) * 255
    net = build_network({'type': 'DBSNl', 'dim': 4, 'num_module': 1})
    with torch.no_grad():
        models = {name: model_of(photographs, tmp_path, name) for name in METHODS}
        halves = pd_forward(net, x, 2)
        assert torch.equal(models['SDAPModel'].denoise(net, x), net(halves))
        generator = torch.Generator().manual_seed(0)
        mosaic = pd_forward(net, x, 2, mosaic_pad=2)
        assert torch.equal(models['APBSNModel'].denoise(net, x), random_replacing_refinement(
            lambda y: net(F.pad(y, (2,) * 4, mode='reflect'))[..., 2:-2, 2:-2], x, mosaic, 0.16, 8, True, generator))
        generator = torch.Generator().manual_seed(0)

        def filled(y):
            return masked_inference(net, y, 2, generator)
        assert torch.equal(models['AMSNetModel'].denoise(net, x),
                           random_replacing_refinement(filled, x, pd_forward(filled, x, 2), generator=generator))


@pytest.mark.parametrize('block', [
    ANY_NETWORK,
    {'type': 'RIDNet', 'in_channels': 3, 'mid_channels': 16, 'out_channels': 3, 'num_block': 1, 'img_range': 1},
    {'type': 'SwinIR', 'img_size': 8, 'window_size': 2, 'embed_dim': 6, 'depths': [2], 'num_heads': [2]},
    {'type': 'SRVGGNetCompact', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_conv': 1, 'upscale': 1}],
    ids=lambda block: block['type'])
@pytest.mark.filterwarnings('ignore:torch.meshgrid')  # of SwinIR
def test_amsnet_takes_any_network(photographs, tmp_path, block):
    """BasicSR's own, of any kind: a file of them says how it is used."""
    opt = options(photographs, 'AMSNetModel')
    opt['network_g'] = block
    if block['type'] == 'SwinIR':
        opt['inference'] = {'multiple_of': block['window_size']}
    train(resolve_options(opt, tmp_path, True), on_iteration=lambda *_: None)
    denoise = Denoiser(tmp_path / 'experiments/AMSNetModel/models/net_g_latest.pth', 'cpu', precision='fp32')
    image = np.random.default_rng(0).random((21, 14, 3)).astype(np.float32)
    assert denoise(image).shape == image.shape and denoise.passes['parts'] == 2


class Halving(torch.nn.Module):
    """Like Restormer and NAFNet: works at half the size too, and wants sides that can be halved twice."""

    def __init__(self):
        super().__init__()
        self.down, self.up = torch.nn.Conv2d(3, 8, 4, stride=4), torch.nn.ConvTranspose2d(8, 3, 4, stride=4)

    def forward(self, x):
        return x + self.up(self.down(x))


def test_amsnet_takes_a_network_that_wants_multiples(photographs, tmp_path):
    if 'Halving' not in ARCH_REGISTRY:
        ARCH_REGISTRY.register(Halving)
    opt = options(photographs, 'AMSNetModel')
    opt['network_g'] = {'type': 'Halving'}
    with pytest.raises(UserError, match=r'Halving does not take images of 6x6 pixels \(datasets.train.patch'):
        resolve_options(opt, tmp_path, True)
    opt['datasets']['train']['patch_size'] = 40
    with pytest.raises(UserError, match='9x9 pixels .photographs have any size: set inference.multiple_of'):
        resolve_options(opt, tmp_path, True)
    opt['inference'] = {'multiple_of': 4}
    train(resolve_options(opt, tmp_path, True), on_iteration=lambda *_: None)
    denoise = Denoiser(tmp_path / 'experiments/AMSNetModel/models/net_g_latest.pth', 'cpu')
    assert denoise(np.zeros((13, 22, 3), np.uint8)).shape == (13, 22, 3)


def test_a_network_that_would_learn_beside_padding_is_named(photographs, tmp_path):
    opt = options(photographs, 'AMSNetModel')
    opt['network_g'] = {'type': 'DenoisingUNet', 'dim': 4}
    with pytest.warns(UserWarning, match='DenoisingUNet pads the sub-images of 6 pixels to a multiple of 32.*of 160'):
        resolve_options(opt, tmp_path, True)


def test_a_super_resolution_network_is_refused(photographs, tmp_path):
    opt = options(photographs, 'AMSNetModel')
    opt['network_g'] = {'type': 'SRVGGNetCompact', 'num_feat': 8, 'num_conv': 1, 'upscale': 2}
    with pytest.raises(UserError, match='SRVGGNetCompact makes .*12, 12.*upscale: 1'):
        resolve_options(opt, tmp_path, True)


def test_amsnet_with_the_prior(photographs, tmp_path, monkeypatch):
    """AMSNet-P: all parts filled in, the distance from the noisy image, and total variation of the whole image."""
    opt = options(photographs, 'AMSNetModel', prior={'loss_weight': 0.5})
    opt['train']['stages']['prior'] = opt['train']['stages']['bsn']
    model = build_model(resolve_options(opt, tmp_path, True))
    model.update_learning_rate(7)
    assert model.stage.name == 'prior' and model.stage.network == 'g'
    lq = torch.rand(2, 3, 30, 30)
    monkeypatch.setattr('basicsr_sassid.models.amsnet_model.masked_inference', lambda net, x, parts: 2 * x)
    smooth = (lq.diff(dim=2).abs().mean() + lq.diff(dim=3).abs().mean()) * 2
    assert model.training_loss(lq).item() == pytest.approx((lq.mean() + 0.5 * smooth).item(), rel=1e-5)
    monkeypatch.undo()
    opt['train']['stages']['bsn']['iter'] = opt['train']['stages']['prior']['iter'] = 3
    train(resolve_options(opt, tmp_path / 'whole', True), on_iteration=lambda *_: None)
    train(resolve_options(opt, tmp_path / 'stopped', True), on_iteration=lambda model, number: number == 5)
    train(resolve_options(opt, tmp_path / 'stopped', True, auto_resume=True), on_iteration=lambda *_: None)
    one, other = (torch.load(tmp_path / run / 'experiments/AMSNetModel/models/net_g_latest.pth')['params']
                  for run in ('whole', 'stopped'))
    before = torch.load(tmp_path / 'whole/experiments/AMSNetModel/models/net_g_3.pth')['params']
    assert all(torch.equal(one[key], other[key]) for key in one), 'resumed as never stopped'
    assert any(not torch.equal(one[key], before[key]) for key in one), 'the prior changes the same network'


@pytest.mark.parametrize(('prior', 'message'), [
    ({'type': 'L1Loss'}, 'train.prior: expected a loss of one image'), (5, 'train.prior: expected a block of keys'),
    ({'reduction': 'none'}, 'train.prior: expected a loss'), ({'weight': 1}, "train.prior: unknown key 'weight'")])
def test_wrong_priors(photographs, tmp_path, prior, message):
    opt = options(photographs, 'AMSNetModel', prior=prior)
    with pytest.raises(UserError, match='train.prior: it is of the stage prior'):
        resolve_options(opt, tmp_path, True)
    opt['train']['stages']['prior'] = opt['train']['stages']['bsn']
    with pytest.raises(UserError, match=message):
        resolve_options(opt, tmp_path, True)


def test_the_best_is_the_best_of_all_stages_of_a_network(photographs, tmp_path):
    opt = options(photographs, 'AMSNetModel')
    opt['train']['stages']['prior'] = opt['train']['stages']['bsn']
    model = build_model(resolve_options(opt, tmp_path, True))

    def judged(stage, value, iteration):
        record = model.best_metric_results.setdefault(f'noisy/{stage}', {})
        record.setdefault('psnr', {'better': 'higher', 'val': value, 'iter': iteration})
        model.update_learning_rate(iteration)
        return model._is_best('noisy', 'psnr', iteration)
    assert judged('bsn', 30., 3) and not judged('prior', 29., 8)
    model.best_metric_results['noisy/prior']['psnr'].update(val=31., iter=9)
    assert model._is_best('noisy', 'psnr', 9)


@pytest.mark.parametrize('name', METHODS)
def test_a_student_is_one_more_stage(photographs, tmp_path, name):
    """network_g learns in one pass what network_bsn says in all of its passes; stopped in it, it ends the same."""
    opt = options(photographs, name, teacher_cache='memory')
    opt['network_bsn'], opt['network_g'] = opt['network_g'], {'type': 'DenoisingUNet', 'dim': 4}
    opt['train']['stages']['unet'] = opt['train']['stages']['bsn']
    opt['datasets']['train']['patch_size'] = 40
    model = train(resolve_options(opt, tmp_path / 'whole', True), on_iteration=lambda *_: None)
    models = tmp_path / f'whole/experiments/{name}/models'
    teacher, student = (Denoiser(models / f'net_{network}_latest.pth', 'cpu', precision='fp32')
                        for network in ('bsn', 'g'))
    assert teacher.passes == model.inference and student.passes == {}
    image = np.random.default_rng(0).random((40, 40, 3)).astype(np.float32)
    model.lq = torch.from_numpy(image).permute(2, 0, 1)[None]
    model.test()
    assert np.abs(model.output[0].permute(1, 2, 0).clamp(0, 1).numpy() - student(image)).max() < 1e-5, 'validation'
    asked = model.teacher_forward('bsn', model.lq * model.img_range)[0].permute(1, 2, 0) / model.img_range
    assert np.abs(asked.clamp(0, 1).numpy() - teacher(image)).max() < 1e-5
    for network, block, passes in (('g', opt['network_g'], {}), ('bsn', opt['network_bsn'], model.inference)):
        tested = {'name': 'test', 'model_type': name, 'num_gpu': 0, 'network_g': block, 'img_range': 255,
                  'datasets': {'test': {'name': 'noisy', 'type': 'NoisyImageDataset', 'dataroot_lq': str(photographs)}},
                  'path': {'pretrain_network_g': str(models / f'net_{network}_latest.pth')}, 'val': {}}
        assert build_model(resolve_options({**tested}, tmp_path, False)).inference == passes, 'as its file says'
        tested['inference'] = {'stride': 3}
        assert build_model(resolve_options(tested, tmp_path, False)).inference == (passes and {**passes, 'stride': 3})
    train(resolve_options(opt, tmp_path / 'stopped', True), on_iteration=lambda model, number: number == 9)
    train(resolve_options(opt, tmp_path / 'stopped', True, auto_resume=True), on_iteration=lambda *_: None)
    for network in ('bsn', 'g'):
        one, other = (torch.load(tmp_path / run / f'experiments/{name}/models/net_{network}_latest.pth')['params']
                      for run in ('whole', 'stopped'))
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(('changes', 'message'), [
    ({'stride': 4}, 'datasets.train.patch_size: expected a multiple of train.stride 4, got 30'),
    ({'stride': 0}, 'train.stride: expected a number >= 1'),
    ({'stages': {'unett': {}}}, "train.stages: unknown key 'unett'. Did you mean 'unet'"),
    ({'stages': 5}, 'train.stages: expected a block'),
    ({'mosaic_pad': 2}, "train: unknown key 'mosaic_pad'")])
def test_wrong_training_options(photographs, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        resolve_options(options(photographs, 'SDAPModel', **changes), tmp_path, True)


@pytest.mark.parametrize(('block', 'message'), [
    ({'strid': 2}, "inference: unknown key 'strid'. Did you mean 'stride'"),
    ({'refine': 'twice'}, 'inference.refine: expected one of none, again, replace'),
    ({'parts': -1}, 'inference.parts: expected a number >= 0'), ({'parts': 1}, 'would hide the whole image'),
    ({'stride': None}, 'inference.stride: expected a number >= 1, got None'),
    ({'mosaic_pad': False}, 'inference.mosaic_pad: expected a number >= 0, got False'),
    ({'share': 16}, 'inference.share: expected a number between 0 and 1, got 16'),
    ({'by_channel': 'no'}, 'inference.by_channel: expected one of True, False')])
def test_wrong_inference_options(photographs, tmp_path, block, message):
    opt = options(photographs, 'SDAPModel')
    opt['inference'] = block
    with pytest.raises(UserError, match=message):
        resolve_options(opt, tmp_path, True)
    opt = tiny_options(photographs)
    opt['inference'] = {'stride': 2}
    with pytest.raises(UserError, match='ThreeStageModel knows no such block'):
        resolve_options(opt, tmp_path, True)


@pytest.fixture(scope='module')
def taught(tmp_path_factory):
    """A trained AMSNet and a trained BNN, a few iterations each: name -> file."""
    import cv2
    folder = tmp_path_factory.mktemp('taught')
    (folder / 'noisy').mkdir()
    for number in range(3):
        image = np.random.default_rng(number).integers(90, 160, (64, 80, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f'noisy/{number}.png'), image)
    train(resolve_options(options(folder / 'noisy', 'AMSNetModel'), folder, True), on_iteration=lambda *_: None)
    train(resolve_options(tiny_options(folder / 'noisy'), folder, True), on_iteration=lambda *_: None)
    return {'amsnet': folder / 'experiments/AMSNetModel/models/net_g_latest.pth',
            'bnn': folder / 'experiments/tiny/models/net_bnn_latest.pth', 'noisy': folder / 'noisy'}


def distilling(taught, model: str, **networks) -> dict:
    opt = tiny_options(taught['noisy'])
    blocks = {'bnn': opt.pop('network_bnn'), 'amsnet': {**ANY_NETWORK}}
    del opt['network_lan']
    opt.update(name=model, model_type=model)
    opt['train']['stages'] = {'unet': opt['train']['stages']['unet']}
    for role, method in networks.items():
        opt[f'network_{role}'] = blocks[method]
        opt['path'][f'pretrain_network_{role}'] = str(taught[method])
    return opt


@pytest.mark.parametrize('cache', ['off', 'memory'])
def test_a_student_of_any_method(taught, tmp_path, cache):
    """It learns what the teacher's own Denoiser says, passes and range included."""
    opt = distilling(taught, 'DistilledModel', flat='amsnet')
    opt['train']['teacher_cache'] = cache
    model = train(resolve_options(opt, tmp_path, True), on_iteration=lambda *_: None)
    image = np.random.default_rng(5).uniform(0.3, 0.6, (32, 32, 3)).astype(np.float32)
    answer = model.teacher_forward('flat', torch.from_numpy(image).permute(2, 0, 1)[None] * 255)[0].permute(1, 2, 0) / 255
    expected = Denoiser(taught['amsnet'], 'cpu', precision='fp32')(image)
    np.testing.assert_allclose(answer.clamp(0, 1).numpy(), expected, atol=1e-4)
    assert Denoiser(tmp_path / 'experiments/DistilledModel/models/net_g_latest.pth').passes == {}, 'one pass'


def test_two_teachers_of_two_methods(taught, tmp_path):
    opt = distilling(taught, 'TwoTeacherModel', flat='bnn', texture='amsnet')
    model = build_model(resolve_options(opt, tmp_path, True))
    model.update_learning_rate(1)
    model.answers = {}
    lq = torch.rand(2, 3, 32, 32) * 255
    from basicsr_sassid.losses.selective_loss import TwoTeacherL1Loss
    with torch.no_grad():
        flat, texture = (model.teacher_forward(name, lq) for name in ('flat', 'texture'))
    expected = TwoTeacherL1Loss()(model.net(lq), flat, texture)
    assert model.training_loss(lq).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_student_without_a_teacher_is_refused(taught, tmp_path):
    opt = distilling(taught, 'TwoTeacherModel', flat='bnn', texture='amsnet')
    del opt['path']['pretrain_network_texture']
    with pytest.raises(UserError, match='TwoTeacherModel learns from a trained network_texture'):
        resolve_options(opt, tmp_path, True)


def test_tiled_is_whole_in_sub_images_too(photographs, tmp_path):
    """In every sub-image a tile starts on the network's grid and sees as far."""
    torch.manual_seed(2)
    net = build_network({'type': 'DenoisingUNet', 'dim': 4})
    torch.save({'params': net.state_dict(), 'network': {'type': 'DenoisingUNet', 'dim': 4}, 'img_range': 255},
               tmp_path / 'net.pth')
    image = np.random.default_rng(0).random((340, 500, 3)).astype(np.float32)
    tiled, whole = (Denoiser(tmp_path / 'net.pth', 'cpu', tile=tile, precision='fp32', passes={'stride': 2})
                    for tile in (64, 0))
    assert (tiled.tile, tiled.overlap) == (64, 256)
    assert np.abs(tiled(image) - whole(image)).max() < 1e-3
    odd = Denoiser(tmp_path / 'net.pth', 'cpu', passes={'stride': 3, 'multiple_of': 24})
    assert odd.multiple_of == 3 * 96 and odd.tile == 2 * 288, 'the grid is met, whatever the tile asked for'


def test_what_belongs_to_the_network_is_kept(tmp_path):
    """The multiple that it wants, when its passes are replaced; and a foreign network stays in float32."""
    net = build_network(ANY_NETWORK)
    torch.save({'params': net.state_dict(), 'network': ANY_NETWORK, 'img_range': 1,
                'inference': {'stride': 2, 'parts': 2, 'multiple_of': 8}}, tmp_path / 'net.pth')
    assert Denoiser(tmp_path / 'net.pth', 'cpu', passes={'stride': 2}).passes == {'stride': 2, 'multiple_of': 8}
    assert Denoiser(tmp_path / 'net.pth', 'cpu').dtype == torch.float32
    assert Denoiser(tmp_path / 'net.pth', 'cpu', precision='bf16').dtype == torch.bfloat16
    with pytest.raises(UserError, match="passes: unknown key 'strid'"):
        Denoiser(tmp_path / 'net.pth', 'cpu', passes={'strid': 2})


def test_a_student_that_cannot_learn_is_refused_before_its_teacher_is_trained(photographs, tmp_path):
    opt = options(photographs, 'SDAPModel')
    opt['network_bsn'] = opt['network_g']
    with pytest.raises(UserError, match='network_bsn: it is trained where a stage unet'):
        resolve_options(opt, tmp_path, True)
    opt['train']['stages']['unet'] = opt['train']['stages']['bsn']
    opt['network_g'] = {'type': 'SRVGGNetCompact', 'num_feat': 4, 'num_conv': 1}
    with pytest.raises(UserError, match='network_g: SRVGGNetCompact makes .* upscale: 1'):
        resolve_options(opt, tmp_path, True)


def test_a_given_teacher_brings_its_passes_and_must_have_the_range(taught, tmp_path):
    opt = options(taught['noisy'], 'AMSNetModel', parts=3)
    opt['network_bsn'], opt['network_g'] = opt['network_g'], {'type': 'DenoisingUNet', 'dim': 4}
    content = torch.load(taught['amsnet'])
    content['inference'] = {'stride': 3, 'parts': 4}
    torch.save(content, tmp_path / 'given.pth')
    opt['train']['stages']['unet'], opt['train']['stages']['bsn'] = opt['train']['stages']['bsn'], {'iter': 0}
    opt['train']['stages'] = {name: opt['train']['stages'][name] for name in ('bsn', 'unet')}
    assert build_model(resolve_options({**opt, 'path': {'pretrain_network_bsn': str(tmp_path / 'given.pth')}},
                                        tmp_path, True)).inference == {'stride': 3, 'parts': 4}
    opt['train']['stages']['bsn'] = opt['train']['stages']['unet']
    opt['path'] = {}
    model = build_model(resolve_options(opt, tmp_path, True))
    assert model.inference['parts'] == 3, 'in use as in training'
    content['img_range'] = 1
    torch.save(content, tmp_path / 'given.pth')
    opt['path'] = {'pretrain_network_bsn': str(tmp_path / 'given.pth')}
    with pytest.raises(UserError, match='network_bsn: these weights take white as 1, and img_range is 255'):
        resolve_options(opt, tmp_path, True)
