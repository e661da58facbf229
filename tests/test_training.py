"""Training through the command line and through BasicSR: resuming, processes, and the host's silent traps."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import torch

from basicsr_sassid.models.staged_model import StagedModel
from basicsr_sassid.training.options import resolve_options
from basicsr_sassid.training.stages import stage_at
from basicsr_sassid.training.validation import output_names
from basicsr_sassid.utils.errors import UserError

from helpers import (
    ROOT,
    assert_same,
    run_module,
    tiny_options,
    train_in_two_processes,
    trained,
    weights_of,
    with_validation,
    without_dry_run,
    write_yml,
)

# ---- stages ----


def test_stage_at_boundaries_is_the_stage_of_the_iteration():
    assert [stage_at(i, [2, 3, 1]) for i in range(1, 8)] == [0, 0, 1, 1, 1, 2, 2]
    assert [stage_at(i, [0, 2, 0]) for i in (1, 2, 3)] == [1, 1, 1]


def test_stage_trains_its_network_alone(photographs, tmp_path):
    seen = []

    opt = tiny_options(photographs)
    opt['logger']['save_checkpoint_freq'] = 1
    trained(opt, tmp_path)
    folder = tmp_path / 'experiments' / 'tiny' / 'training_states'
    states = [torch.load(folder / f'{i}.state', weights_only=True)['networks'] for i in range(1, 13)]
    for before, after, iteration in zip(states, states[1:], range(2, 13)):
        changed = {
            name for name in before for key in before[name] if not torch.equal(before[name][key], after[name][key])
        }
        seen.append(changed)
        assert changed <= {('bnn', 'lan', 'g')[(iteration - 1) // 4]}, f'iteration {iteration}'
    assert {'bnn'} in seen and {'lan'} in seen and {'g'} in seen


def test_stage_schedule_starts_anew_in_each_stage(photographs, tmp_path, monkeypatch):
    rates = []
    without_dry_run(monkeypatch)
    step = StagedModel.optimize_parameters
    monkeypatch.setattr(
        StagedModel,
        'optimize_parameters',
        lambda self, i: (rates.append(self.get_current_learning_rate()[0]), step(self, i))[1],
    )
    trained(tiny_options(photographs), tmp_path)
    cosine = [1e-3 * (1 + torch.cos(torch.tensor(torch.pi * i / 4)).item()) / 2 for i in range(4)]
    assert rates == pytest.approx(cosine * 3)


def test_training_lowers_the_loss_of_each_stage(photographs, tmp_path):
    # default initial outputs are far off; 60 steps bring all three networks near
    opt = tiny_options(photographs)
    for block in opt['train']['stages'].values():
        block.update(iter=60, optim={'type': 'Adam', 'lr': 5e-3})
    opt['logger'].update(print_freq=1, save_checkpoint_freq=1000)
    trained(opt, tmp_path)
    log = next((tmp_path / 'experiments' / 'tiny').glob('train_*.log')).read_text()
    for stage in ('bnn', 'lan', 'unet'):
        losses = [float(value) for value in re.findall(rf'l_{stage}: (\S+)', log)]
        assert len(losses) == 60
        assert sum(losses[-5:]) < 0.6 * sum(losses[:5]), stage


def test_stage_with_given_network_and_iter_0_is_skipped(photographs, tmp_path):
    trained(tiny_options(photographs), tmp_path / 'first')
    models = tmp_path / 'first' / 'experiments' / 'tiny' / 'models'
    opt = tiny_options(photographs)
    opt['train']['stages']['bnn']['iter'] = 0
    with pytest.raises(UserError, match=r'stages.bnn.iter is 0, so network_bnn must be given'):
        resolve_options(opt, tmp_path, True)
    opt['path'] = {'pretrain_network_bnn': str(models / 'net_bnn_latest.pth')}
    model = trained(opt, tmp_path / 'second')
    assert model.stage_iters == [0, 4, 4]
    before, after = weights_of(tmp_path / 'first'), weights_of(tmp_path / 'second')
    assert_same(
        {k: v for k, v in before.items() if k.startswith('bnn')},
        {k: v for k, v in after.items() if k.startswith('bnn')},
    )


def test_ema_is_the_teacher_of_the_next_stage_and_is_saved(photographs, tmp_path):
    model = trained(tiny_options(photographs, ema_decay=0.9), tmp_path)
    saved = torch.load(tmp_path / 'experiments/tiny/models/net_bnn_4.pth', weights_only=True)
    assert not torch.equal(saved['params']['head.weight'], saved['params_ema']['head.weight'])
    assert torch.equal(model.nets['bnn'].head.weight, saved['params_ema']['head.weight'])
    student = torch.load(tmp_path / 'experiments/tiny/models/net_g_latest.pth', weights_only=True)
    assert not torch.equal(student['params']['head.weight'], student['params_ema']['head.weight'])


def test_ema_copies_buffers(photographs, tmp_path):
    from basicsr.utils.registry import ARCH_REGISTRY
    from torch import nn

    class Normed(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

    if 'Normed' not in ARCH_REGISTRY:
        ARCH_REGISTRY.register(Normed)
    opt = tiny_options(photographs, ema_decay=0.9)
    opt['network_g'] = {'type': 'Normed'}
    trained(opt, tmp_path)
    saved = torch.load(tmp_path / 'experiments/tiny/models/net_g_latest.pth', weights_only=True)
    assert saved['params_ema']['1.num_batches_tracked'] == 4  # stock BasicSR leaves it at 0
    assert saved['params_ema']['1.running_mean'].abs().max() > 0


def test_training_in_bf16_with_clipping_keeps_float32_weights(photographs, tmp_path):
    model = trained(tiny_options(photographs, precision='bf16', grad_clip=1.0), tmp_path)
    assert model.dtype == torch.bfloat16
    assert all(value.dtype == torch.float32 for value in model.nets['g'].state_dict().values())


def test_loss_not_finite_is_an_error_that_names_the_stage(photographs, tmp_path):
    opt = tiny_options(photographs)
    opt['train']['stages']['bnn']['optim']['lr'] = 1e30
    with pytest.raises(UserError, match=r'stage bnn: the loss is (nan|inf)'):
        trained(opt, tmp_path)


# ---- what stock BasicSR gets wrong ----


def test_train_runs_all_iterations_for_any_batch_size(photographs, tmp_path):
    for batch in (3, 4, 7, 20):  # of 6 images: stock stops early, or trains nothing and saves it
        opt = tiny_options(photographs)
        opt['datasets']['train']['batch_size_per_gpu'] = batch
        opt['logger']['save_checkpoint_freq'] = 100
        trained(opt, tmp_path / str(batch))
        assert (tmp_path / str(batch) / 'experiments/tiny/training_states/12.state').is_file()


def test_validation_at_the_end_runs_once(photographs, tmp_path):
    opt = with_validation(tiny_options(photographs), photographs, freq=4)
    calls = []
    validation = StagedModel.validation
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            StagedModel,
            'validation',
            lambda self, loader, i, *rest: (calls.append((self.stage.name, i)), validation(self, loader, i, *rest))[1],
        )
        trained(opt, tmp_path)
    assert calls == [('bnn', 4), ('lan', 8), ('unet', 12)]
    log = next((tmp_path / 'experiments' / 'tiny').glob('train_*.log')).read_text()
    assert log.count('noisy input') == 1
    assert '@ 12 iter' in log and '-1 day' not in log


def test_path_block_with_unknown_key_makes_no_folder(photographs, tmp_path):
    opt = tiny_options(photographs)
    opt['path'] = {'teacher': str(tmp_path / 'x' / 'teacher.pth')}  # stock: os.makedirs
    with pytest.raises(UserError, match="path: unknown key 'teacher'"):
        resolve_options(opt, tmp_path, True)
    assert not (tmp_path / 'x').exists()


def test_output_names_of_equal_file_names_differ(tmp_path):
    class Dataset:
        opt = {'dataroot_lq': str(tmp_path)}
        paths = [str(tmp_path / name) for name in ('s1/a.png', 's2/a.png', 'b.png', 'b.jpg')]

    assert output_names(Dataset()) == ['s1/a', 's2/a', 'b_png', 'b_jpg']


# ---- real processes ----


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_equal_one_with_the_doubled_batch(photographs, tmp_path):
    opt = with_validation(tiny_options(photographs), photographs, freq=6)
    yml = write_yml(opt, tmp_path / 'tiny.yml')
    for folder in ('one', 'two'):
        (tmp_path / folder).mkdir()
    train_in_two_processes(yml, tmp_path / 'two')
    opt['datasets']['train']['batch_size_per_gpu'] = 4
    run_module('basicsr_sassid.train', '-opt', write_yml(opt, tmp_path / 'doubled.yml'), cwd=tmp_path / 'one')
    assert_same(weights_of(tmp_path / 'one'), weights_of(tmp_path / 'two'), rtol=1e-3, atol=1e-4)
    # and resumes
    (tmp_path / 'two/experiments/tiny/training_states/12.state').unlink()
    (tmp_path / 'two/experiments/tiny/models/net_g_latest.pth').unlink()
    train_in_two_processes(yml, tmp_path / 'two', '--auto_resume')
    assert_same(weights_of(tmp_path / 'one'), weights_of(tmp_path / 'two'), rtol=1e-3, atol=1e-4)


def test_train_as_a_file_writes_a_student_that_stock_basicsr_reads(photographs, tmp_path):
    """`python basicsr_sassid/train.py`, then BasicSR's own SRModel tests the student; runs land in the cwd."""
    opt = tiny_options(photographs)
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': ''}
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / 'basicsr_sassid/train.py'),
            '-opt',
            write_yml(opt, tmp_path / 'tiny.yml'),
            '--force_yml',
            'train:ema_decay=0.9',
            'train:stages:unet:optim:lr=5e-4',
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    weights = tmp_path / 'experiments/tiny/models/net_g_latest.pth'
    outputs = []
    pairs = {
        'test': {
            'name': 'pairs',
            'type': 'PairedImageDataset',
            'dataroot_lq': str(photographs),
            'dataroot_gt': str(photographs),
        }
    }
    val = {'save_img': True, 'suffix': None, 'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}}
    for model, network in (('ThreeStageModel', {'dim': 4}), ('SRModel', {'dim': 4, 'img_range': 255})):
        test = {
            'name': model,
            'model_type': model,
            'num_gpu': 0,
            'datasets': pairs,
            'val': val,
            'network_g': {'type': 'DenoisingUNet', **network},
            'path': {'pretrain_network_g': str(weights), 'param_key_g': 'params_ema'},
        }
        done = run_module('basicsr_sassid.test', '-opt', write_yml(test, tmp_path / 'test.yml'), cwd=tmp_path)
        outputs.append(float(re.search(r'psnr: ([\d.]+)', done.stdout)[1]))
        assert len(list((tmp_path / 'results' / model / 'visualization/pairs').glob('*.png'))) == 6
    assert outputs[0] == pytest.approx(outputs[1], abs=1e-3)  # two models' layouts in memory: a pixel may round apart
