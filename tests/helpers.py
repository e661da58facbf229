"""What tests of several packages share: tiny trainings, and programs run as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from basicsr_sassid.models.staged_model import StagedModel
from basicsr_sassid.training.loop import train
from basicsr_sassid.training.options import resolve_options
from basicsr_sassid.utils.errors import UserError

ROOT = Path(__file__).parents[1]
# folder of real noisy photographs with clean references; without it the tests marked real_data are skipped
REAL_DATA = Path(os.environ['SASSID_TEST_DATA']) if os.environ.get('SASSID_TEST_DATA') else None


def tiny_options(photographs: Path, **train) -> dict:
    """A three-stage training that takes milliseconds an iteration."""
    stage = {'iter': 4, 'optim': {'type': 'Adam', 'lr': 1e-3}, 'scheduler': {'type': 'CosineAnnealingLR'}}
    return {
        'name': 'tiny',
        'model_type': 'ThreeStageModel',
        'num_gpu': 0,
        'manual_seed': 3,
        'datasets': {
            'train': {
                'name': 'noisy',
                'type': 'NoisyImageDataset',
                'dataroot_lq': str(photographs),
                'patch_size': 32,
                'batch_size_per_gpu': 2,
                'num_worker_per_gpu': 0,
            }
        },
        'network_bnn': {'type': 'BNN', 'dim': 4},
        'network_lan': {'type': 'LAN', 'dim': 8, 'num_block': 2},
        'network_g': {'type': 'DenoisingUNet', 'dim': 4},
        'path': {},
        'train': {'precision': 'fp32', 'stages': {name: {**stage} for name in ('bnn', 'lan', 'unet')}, **train},
        'logger': {'print_freq': 2, 'save_checkpoint_freq': 3},
    }


def run_module(
    module: str, *arguments: str, cwd: Path, check: bool = True, launcher: tuple[str, ...] = (), **kwargs
) -> subprocess.CompletedProcess:
    """``python -m module`` as a user would, from another folder than the clone."""
    done = run_python('-m', *launcher, module, *arguments, cwd=cwd, **kwargs)
    if check and done.returncode:
        raise AssertionError(f'{module} {arguments} ended with {done.returncode}:\n{done.stdout[-5000:]}')
    return done


def train_in_two_processes(yml: str, cwd: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Train in two processes on the CPU, as torchrun starts them."""
    return run_module(
        'basicsr_sassid.train',
        '-opt',
        yml,
        '--launcher',
        'pytorch',
        *arguments,
        cwd=cwd,
        launcher=('torch.distributed.run', '--nproc_per_node=2', '--standalone', '-m'),
    )


def run_code(code: str, cwd: Path) -> subprocess.CompletedProcess:
    """Python lines in a process group of their own, which they may kill."""
    return run_python('-c', code, cwd=cwd, start_new_session=True)


def run_python(*arguments: str, cwd: Path, **kwargs) -> subprocess.CompletedProcess:
    """Python on this clone, one thread; what it prints is in ``stdout``."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
        **kwargs,
    )


def weights_of(folder: Path, name: str = 'tiny', label: str = 'latest') -> dict[str, torch.Tensor]:
    return {
        f'{network}.{key}': value
        for network in ('bnn', 'lan', 'g')
        for key, value in torch.load(
            folder / 'experiments' / name / 'models' / f'net_{network}_{label}.pth', weights_only=True
        )['params'].items()
    }


def assert_same(first: dict, second: dict, **tolerance) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        if tolerance:
            torch.testing.assert_close(value, second[key], **tolerance)
        else:
            assert torch.equal(value, second[key]), key


def write_yml(opt: dict, path: Path) -> str:
    path.write_text(yaml.safe_dump(opt, sort_keys=False))
    return str(path)


def with_validation(opt: dict, noisy: Path, freq: int = 5) -> dict:
    opt['datasets']['val'] = {
        'name': 'pairs',
        'type': 'PairedImageDataset',
        'dataroot_lq': str(noisy),
        'dataroot_gt': str(noisy),
    }
    opt['val'] = {
        'val_freq': freq,
        'save_img': False,
        'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}},
    }
    return opt


SUBSAMPLED_METHODS = ('APBSNModel', 'SDAPModel', 'AMSNetModel')
ANY_NETWORK = {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 1, 'upscale': 1}


def subsampled_options(photographs: Path, model: str, **train_keys) -> dict:
    """A training of AP-BSN, SDAP or AMSNet that takes milliseconds an iteration."""
    opt = tiny_options(photographs)
    opt['name'], opt['model_type'] = model, model
    opt['datasets']['train']['patch_size'] = 30
    del opt['network_bnn'], opt['network_lan'], opt['network_g']
    opt['network_bsn'] = {**ANY_NETWORK} if model == 'AMSNetModel' else {'type': 'DBSNl', 'dim': 8, 'num_module': 2}
    opt['train']['stages'] = {
        'bsn': {'iter': 6, 'optim': {'type': 'Adam', 'lr': 1e-3}, 'scheduler': {'type': 'CosineAnnealingLR'}}
    }
    opt['train'].update(train_keys)
    return opt


def paired_dataset(lq: Path, gt: Path, gt_size: int, batch: int) -> dict:
    """Block ``datasets.train`` of BasicSR's PairedImageDataset."""
    return {
        'name': 'pairs',
        'type': 'PairedImageDataset',
        'dataroot_lq': str(lq),
        'dataroot_gt': str(gt),
        'gt_size': gt_size,
        'use_hflip': True,
        'use_rot': True,
        'batch_size_per_gpu': batch,
        'num_worker_per_gpu': 0,
    }


def latest_params(folder: Path, name: str, network: str, label: str = 'latest') -> dict[str, torch.Tensor]:
    """Weights of a network of run ``name`` below ``folder``."""
    return torch.load(folder / f'experiments/{name}/models/net_{network}_{label}.pth', weights_only=True)['params']


def trained(opt: dict, folder: Path, **flags) -> StagedModel:
    """Train below ``folder``; ``flags`` are those of resolve_options."""
    return train(resolve_options(opt, folder, True, **flags))


def without_dry_run(monkeypatch) -> None:
    """For tests that count or compare the calls of the training itself."""
    monkeypatch.setattr('basicsr_sassid.training.loop.dry_run_training', lambda *_: None)


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder below ``folder``: its size and time of change."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size if path.is_file() else 0, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob('*'))
    }


def write_weights(path: Path, state: dict[str, Tensor], **card) -> Path:
    """A weights file without digests, as other programs and earlier versions write it."""
    if path.suffix == '.safetensors':
        save_file(state, path, {key: json.dumps(value) for key, value in card.items()})
    else:
        torch.save({'params': state, **card}, path)
    return path


def blind_sizes_options(photographs: Path, model: str = 'BlindSizesModel', **train) -> dict:
    """A student trained on a BNN's predictions with several blind sizes, in milliseconds an iteration."""
    opt = tiny_options(photographs, **({'teacher_weights': 'risk', **train} if model == 'BlindSizesModel' else train))
    opt['model_type'] = model
    del opt['network_lan'], opt['train']['stages']['lan']
    return opt


def log_of(folder: Path) -> str:
    """Logs of run ``tiny`` below ``folder``."""
    return '\n'.join(path.read_text() for path in sorted((folder / 'experiments/tiny').glob('train_*.log')))


def caches_of(folder: Path) -> list[Path]:
    """Teacher caches of run ``tiny`` below ``folder``."""
    return sorted((folder / 'experiments/tiny/teacher_cache').glob('*.lmdb'))


# ---- option values ----

NAN, INF = float('nan'), float('inf')
TEXT, LIST, BLOCK, NEGATIVE, ZERO, HUGE = 'abc', [1, 'a'], {'a': 1}, -1, 0, 10**25
ANYTHING = (TEXT, LIST, BLOCK, NEGATIVE, ZERO, HUGE, -INF, INF, NAN, None, 1.5, True, '')


def with_value(opt: dict, key: str, value: object) -> dict:
    """Options with another value for a key such as ``train.ema_decay``."""
    opt = json.loads(json.dumps(opt))  # a copy whose stages share no block
    *parents, last = key.split('.')
    block = opt
    for parent in parents:
        block = block.setdefault(parent, {})
    block[last] = value
    return opt


def error_of(opt: dict, folder: Path) -> str | None:
    """The message of a training that is refused; None for one that begins. Folders are unchanged in both cases."""

    class Begun(Exception):  # noqa: N818
        pass

    def begin(*_, **__):
        raise Begun

    before = tree(folder)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        patch.setattr('basicsr_sassid.training.loop.prepare_folders', begin)
        try:
            train(resolve_options(opt, folder, True))
        except UserError as error:
            assert tree(folder) == before
            return str(error)
        except Begun:
            assert tree(folder) == before
            return None
    raise AssertionError('the training neither began nor was refused')
