"""D2SMModel and the loss in BasicSR's SRModel: training, files, resume, several processes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torchvision
from basicsr.models import build_model

from basicsr_sassid.training.options import resolve_options
from basicsr_sassid.utils.errors import UserError
from sassid import main

from helpers import ROOT, assert_same, latest_params, log_of, train_in_two_processes, trained, write_yml
from synthetic_scenes import synthetic_options


@pytest.fixture(scope='session')
def classifier(tmp_path_factory) -> Path:
    """Weights of a classifier, the same for every run and process."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('classifier') / 'squeezenet.pth'
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), path)
    return path


@pytest.fixture
def loss(classifier) -> dict:
    """Block of the loss."""
    return {
        'backbone': 'squeezenet1_1',
        'layer': 'features.5',
        'weights': str(classifier),
        'temperature': 0.05,
        'queue_size': 12,
        'patch_size': 24,
        'stride': 8,
    }


def options(photographs: Path, loss: dict, **changes) -> dict:
    """A training of milliseconds an iteration."""
    opt = synthetic_options(photographs)
    opt.pop('val', None)
    opt['datasets'] = {'train': {**opt['datasets']['train'], 'noise_map': True, 'patch_size': 32}}
    opt.update(name='tiny', model_type='D2SMModel', network_g={'type': 'FFDNet', 'num_feat': 8, 'num_conv': 3})
    opt['train'].update(total_iter=8, d2sm_opt=loss, **changes)
    opt['logger'] = {'print_freq': 1, 'save_checkpoint_freq': 2}
    return opt


def states(folder: Path) -> Path:
    return folder / 'experiments/tiny/training_states'


def one_batch(model, steps: int) -> list[dict[str, float]]:
    """The losses of steps on one batch."""
    torch.manual_seed(0)
    gt = torch.nn.functional.interpolate(torch.rand(4, 3, 8, 8), size=(32, 32), mode='bicubic').clamp(0, 1)
    level = torch.full((4, 1, 32, 32), 0.1)
    model.feed_data({'lq': torch.cat([gt + 0.1 * torch.randn_like(gt), level], dim=1), 'gt': gt})
    logs = []
    for iteration in range(1, steps + 1):
        model.optimize_parameters(iteration)
        logs.append(model.get_current_log())
    return logs


def built(opt: dict, folder: Path):
    torch.manual_seed(0)
    return build_model(resolve_options(opt, folder, True))


def test_d2sm_model_lowers_both_losses(photographs, loss, tmp_path):
    logs = one_batch(built(options(photographs, loss), tmp_path), 150)
    assert list(logs[0]) == ['l_pix', 'l_d2sm']
    for name in logs[0]:
        assert logs[-1][name] < 0.7 * max(logs[0][name], logs[1][name])


def test_d2sm_model_takes_another_step_than_sr_model(photographs, loss, tmp_path):
    opt = options(photographs, loss)
    first = built(opt, tmp_path)
    stock = copy.deepcopy(opt)
    del stock['train']['d2sm_opt']
    second = built({**stock, 'model_type': 'SRModel'}, tmp_path)
    assert_same(first.net_g.state_dict(), second.net_g.state_dict())
    for model in (first, second):
        one_batch(model, 1)
    gradients = [torch.cat([p.grad.flatten() for p in model.net_g.parameters()]) for model in (first, second)]
    assert (gradients[0] - gradients[1]).norm() > 0.01 * gradients[1].norm()


def test_d2sm_loss_is_a_perceptual_loss_of_sr_model(photographs, loss, tmp_path):
    opt = options(photographs, loss)
    del opt['train']['d2sm_opt']
    opt['train']['perceptual_opt'] = {'type': 'D2SMLoss', **loss}
    logs = one_batch(built({**opt, 'model_type': 'SRModel'}, tmp_path), 2)
    reference = one_batch(built(options(photographs, loss), tmp_path), 2)
    assert [log['l_percep'] for log in logs] == [log['l_d2sm'] for log in reference]


def test_d2sm_model_takes_a_perceptual_loss_beside(photographs, loss, tmp_path):
    opt = options(photographs, loss, perceptual_opt={'type': 'D2SMLoss', **loss})
    assert list(one_batch(built(opt, tmp_path), 1)[0]) == ['l_pix', 'l_percep', 'l_d2sm']


def test_d2sm_model_optimises_and_saves_the_network_alone(photographs, loss, tmp_path):
    model = trained(options(photographs, loss), tmp_path)
    optimised = [p for group in model.optimizers[0].param_groups for p in group['params']]
    assert len(optimised) == len(list(model.net_g.parameters()))
    assert latest_params(tmp_path, 'tiny', 'g').keys() == model.net_g.state_dict().keys()
    state = torch.load(states(tmp_path) / '8.state', weights_only=True)
    assert sorted(state) == ['epoch', 'iter', 'optimizers', 'schedulers']


def test_d2sm_model_any_network_without_a_map_trains(photographs, loss, tmp_path):
    opt = options(photographs, loss, ema_decay=0.9)
    opt['network_g'] = {'type': 'DenoisingUNet', 'dim': 4, 'img_range': 255}
    opt['datasets']['train']['noise_map'] = False
    trained(opt, tmp_path)
    assert torch.isfinite(latest_params(tmp_path, 'tiny', 'g')['head.weight']).all()


# ---- resume ----


def test_d2sm_model_resumed_equals_the_uninterrupted_run(photographs, loss, tmp_path):
    opt = options(photographs, loss)
    whole = trained(opt, tmp_path).net_g.state_dict()
    (states(tmp_path) / '8.state').unlink()
    resumed = trained(opt, tmp_path, auto_resume=True)
    assert_same(whole, resumed.net_g.state_dict())


def test_d2sm_model_keeps_the_queues_of_the_newest_two_states(photographs, loss, tmp_path):
    model = trained(options(photographs, loss), tmp_path)
    assert sorted(path.name for path in states(tmp_path).glob('*queues*')) == ['6_queues_0.pth', '8_queues_0.pth']
    queues = torch.load(states(tmp_path) / '8_queues_0.pth', weights_only=True)
    torch.testing.assert_close(queues['clean'], model.cri_d2sm.clean_queue, rtol=0, atol=0)


@pytest.mark.parametrize(
    ('change', 'reason'),
    [('missing', 'missing or damaged'), ('damaged', 'missing or damaged'), ('layer', 'they are of another layer')],
)
def test_d2sm_model_without_its_queues_resumes_with_empty_ones(photographs, loss, tmp_path, change, reason):
    opt = options(photographs, loss)
    trained(opt, tmp_path)
    (states(tmp_path) / '8.state').unlink()
    queues = states(tmp_path) / '6_queues_0.pth'
    if change == 'missing':
        queues.unlink()
    elif change == 'damaged':
        queues.write_bytes(queues.read_bytes()[:100])
    else:
        loss['layer'] = 'features.4'
    model = trained(options(photographs, loss), tmp_path, auto_resume=True)
    assert f'6_queues_0.pth: the queues of D2SM start empty ({reason}' in log_of(tmp_path)
    assert model.cri_d2sm.filled == 12  # of the two iterations since


def test_d2sm_model_loss_that_is_not_finite_raises_user_error(photographs, loss, tmp_path):
    model = built(options(photographs, loss), tmp_path)
    model.feed_data({'lq': torch.full((2, 4, 32, 32), torch.nan), 'gt': torch.rand(2, 3, 32, 32)})
    model.optimize_parameters(1)
    with pytest.raises(UserError, match='train: l_pix is nan. Lower the learning rate'):
        model.get_current_log()


def test_d2sm_model_average_has_the_statistics_of_batch_normalisation(photographs, loss, tmp_path):
    model = built(options(photographs, loss, ema_decay=0.9), tmp_path)
    model.net_g.register_buffer('statistics', torch.zeros(1))
    model.net_g_ema.register_buffer('statistics', torch.zeros(1))
    model.net_g.statistics.fill_(3)
    model.model_ema(0.9)
    assert float(model.net_g_ema.statistics) == 3


@pytest.mark.multiprocess
def test_d2sm_model_in_two_processes_has_a_queue_each_and_resumes(photographs, loss, tmp_path):
    opt = options(photographs, loss)
    yml = write_yml(opt, tmp_path / 'd2sm.yml')
    train_in_two_processes(yml, tmp_path)
    first, second = (torch.load(states(tmp_path) / f'8_queues_{rank}.pth', weights_only=True) for rank in (0, 1))
    assert first['clean'].shape == second['clean'].shape
    assert not torch.equal(first['clean'], second['clean'])
    whole = latest_params(tmp_path, 'tiny', 'g')
    (states(tmp_path) / '8.state').unlink()
    train_in_two_processes(yml, tmp_path, '--auto_resume')
    assert_same(whole, latest_params(tmp_path, 'tiny', 'g'))


# ---- errors ----


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'d2sm_opt': None}, r'train.d2sm_opt: D2SMModel needs this block'),
        ({'d2sm_opt': True}, r'train.d2sm_opt: expected a block of type D2SMLoss, got True'),
        ({'d2sm_opt': {'type': 'L1Loss'}}, r'train.d2sm_opt: expected a block of type D2SMLoss'),
        ({'pixel_opt': None}, r'train: D2SMModel needs pixel_opt or perceptual_opt too'),
        ({'d2sm_opt': {'temprature': 1}}, r"train.d2sm_opt: D2SMLoss: unknown key 'temprature'. Did you mean"),
        ({'d2sm_opt': {'backbone': 'vgg20'}}, r"train.d2sm_opt: backbone: 'vgg20' is no classifier of torchvision"),
    ],
)
def test_d2sm_model_bad_option_raises_user_error_before_anything_is_written(
    photographs, loss, tmp_path, changes, message
):
    opt = options(photographs, loss)
    opt['train'].update(changes)
    with pytest.raises(UserError, match=message):
        trained(opt, tmp_path)
    assert not (tmp_path / 'experiments').exists()


def test_option_file_for_the_cpu_trains_and_validates(tmp_path, monkeypatch):
    """As its first lines have it, for two iterations."""
    pytest.importorskip('efficientnet_lite_pytorch')
    monkeypatch.chdir(tmp_path)
    main(['prepare', 'skimage', '-o', 'datasets'])
    changes = [
        'train:total_iter=2',
        'val:val_freq=2',
        'datasets:train:num_worker_per_gpu=0',
        'logger:use_tb_logger=false',
    ]
    main(['train', '-opt', str(ROOT / 'options/d2sm/train_cpu.yml'), '--force_yml', *changes])
    log = next((tmp_path / 'experiments/d2sm_ffdnet_cpu').glob('train_*.log')).read_text()
    assert '# psnr' in log
    assert (tmp_path / 'experiments/d2sm_ffdnet_cpu/models/net_g_latest.pth').exists()
