"""Training states: saving, resuming, kills."""

from __future__ import annotations

import copy

import pytest
import torch

from basicsr_sassid.io.atomic import PARTIAL_PREFIX
from basicsr_sassid.training.checkpoint import find_resume_state
from basicsr_sassid.training.loop import train
from basicsr_sassid.training.options import resolve_options
from basicsr_sassid.utils.errors import UserError

from helpers import (
    assert_same,
    paired_dataset,
    run_module,
    tiny_options,
    trained,
    weights_of,
    with_validation,
    write_yml,
)
from killed_runs import train_until_killed


def test_auto_resume_from_another_folder_finds_the_run(photographs, tmp_path, monkeypatch):
    """Stock looks in the working directory, finds nothing and moves the run aside."""
    trained(tiny_options(photographs), tmp_path)
    (tmp_path / 'elsewhere').mkdir()
    monkeypatch.chdir(tmp_path / 'elsewhere')
    opt = resolve_options(tiny_options(photographs), tmp_path, True, auto_resume=True)
    assert find_resume_state(opt)['iter'] == 12
    train(opt)
    assert [path.name for path in (tmp_path / 'experiments').iterdir()] == ['tiny']


def test_archive_of_earlier_runs_within_a_second_keeps_all(photographs, tmp_path):
    for _ in range(3):
        trained(tiny_options(photographs), tmp_path)
    names = sorted(path.name for path in (tmp_path / 'experiments').iterdir())
    assert len(names) == 3 and names[0] == 'tiny' and all('archived' in name for name in names[1:])


def test_auto_resume_with_partial_state_takes_the_one_before(photographs, tmp_path, capsys):
    trained(tiny_options(photographs), tmp_path)
    states = tmp_path / 'experiments/tiny/training_states'
    whole = (states / '12.state').read_bytes()
    (states / '12.state').write_bytes(whole[: len(whole) // 2])
    (states / f'{PARTIAL_PREFIX}x.state').write_bytes(whole[:100])
    opt = resolve_options(tiny_options(photographs), tmp_path, True, auto_resume=True)
    assert find_resume_state(opt)['iter'] == 9
    assert '12.state is no complete training state' in capsys.readouterr().err


def test_training_state_holds_the_best_metrics(photographs, tmp_path):
    opt = with_validation(tiny_options(photographs), photographs)
    model = trained(opt, tmp_path)
    state = torch.load(tmp_path / 'experiments/tiny/training_states/12.state', weights_only=True)
    assert state['best_metric_results'] == model.validator.best
    assert set(state['best_metric_results']) == {'pairs/bnn', 'pairs/lan', 'pairs/unet'}
    assert state['noisy_results'] == {'pairs': {'psnr': float('inf')}}
    assert (tmp_path / 'experiments/tiny/models/net_g_best.pth').is_file()


def test_save_on_full_disk_is_an_error_and_keeps_earlier_states(photographs, tmp_path, monkeypatch):
    save = torch.save

    def full(content, file):
        if isinstance(content, dict) and content.get('iter') == 6:
            file.write(b'half')
            raise OSError(28, 'No space left on device')
        save(content, file)

    monkeypatch.setattr(torch, 'save', full)
    with pytest.raises(UserError, match=r'cannot write .*6.state: No space left on device. Free some space'):
        trained(tiny_options(photographs), tmp_path)
    names = sorted(path.name for path in (tmp_path / 'experiments/tiny/training_states').iterdir())
    assert names == ['3.state', '4.state']


def test_find_resume_state_with_a_changed_value_is_the_one_before(photographs, tmp_path, capsys):
    trained(tiny_options(photographs), tmp_path)
    states = tmp_path / 'experiments/tiny/training_states'
    opt = {'path': {'training_states': str(states)}, 'auto_resume': True}
    assert find_resume_state(opt)['iter'] == 12
    state = torch.load(states / '12.state', weights_only=True)
    state['networks']['g']['head.bias'][0] += 1e-3
    torch.save(state, states / '12.state')
    assert find_resume_state(opt)['iter'] == 9
    assert '12.state is no complete training state, or damaged. Trying the one before.' in capsys.readouterr().err


def test_stock_model_resumed_equals_the_uninterrupted_run(photographs, tmp_path):
    """Stock: resuming needs CUDA, replays the epoch, and draws other crops."""
    opt = {
        'name': 'stock',
        'model_type': 'SRModel',
        'num_gpu': 0,
        'manual_seed': 1,
        'path': {},
        'datasets': {'train': paired_dataset(photographs, photographs, gt_size=32, batch=4)},
        'network_g': {'type': 'DenoisingUNet', 'dim': 4, 'img_range': 255},
        'train': {
            'total_iter': 9,
            'optim_g': {'type': 'Adam', 'lr': 1e-3},
            'pixel_opt': {'type': 'L1Loss'},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [4], 'gamma': 0.5},
        },
        'logger': {'print_freq': 3, 'save_checkpoint_freq': 5},
    }
    weights = tmp_path / 'experiments/stock/models/net_g_9.pth'
    trained(copy.deepcopy(opt), tmp_path)
    whole = torch.load(weights, weights_only=True)['params']
    weights.unlink()
    (tmp_path / 'experiments/stock/training_states/9.state').unlink()
    trained(copy.deepcopy(opt), tmp_path, auto_resume=True)
    assert_same(whole, torch.load(weights, weights_only=True)['params'])


@pytest.mark.slow
def test_training_killed_in_every_stage_equals_the_uninterrupted_run(photographs, tmp_path):
    opt = with_validation(tiny_options(photographs, ema_decay=0.9, posterior=True), photographs, freq=7)
    opt['datasets']['train']['num_worker_per_gpu'] = 1
    for block in opt['train']['stages'].values():
        block['iter'] = 12
    opt['logger'].update(print_freq=1, save_checkpoint_freq=5)
    yml = write_yml(opt, tmp_path / 'tiny.yml')
    (tmp_path / 'whole').mkdir()
    run_module('basicsr_sassid.train', '-opt', yml, cwd=tmp_path / 'whole')
    cwd = tmp_path / 'killed'
    cwd.mkdir()
    # in the first stage, at its end, in the second, in the third
    for place, number in (('step', 8), ('save', 12), ('step', 23), ('step', 33)):
        train_until_killed(yml, cwd, place, number)
    done = run_module('basicsr_sassid.train', '-opt', yml, '--auto_resume', cwd=cwd)
    assert 'Resuming from iteration' in done.stdout
    assert [path.name for path in (cwd / 'experiments').iterdir()] == ['tiny']
    assert_same(weights_of(tmp_path / 'whole'), weights_of(cwd))
    first, second = (
        torch.load(folder / 'experiments/tiny/training_states/36.state', weights_only=True)
        for folder in (tmp_path / 'whole', cwd)
    )
    assert first['best_metric_results'] == second['best_metric_results']
    for key, value in first['ema'].items():
        assert torch.equal(value, second['ema'][key])
