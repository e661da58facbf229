"""Loss traces, weights and pictures of an earlier version: a refactoring must not change them.

``python tests/test_golden.py`` writes tests/golden/ anew, for a change that is meant to change them.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from basicsr_sassid.io.photo import read_photo
from basicsr_sassid.training.loop import train
from basicsr_sassid.training.options import resolve_options
from sassid import main as cli

from helpers import ANY_NETWORK, latest_params

GOLDEN = Path(__file__).parent / 'golden'
FORMAT1 = Path(__file__).parent / 'fixtures' / 'format1'
THREADS = 2
DBSN = {'type': 'DBSNl', 'dim': 8, 'num_module': 2}


def options(name: str, model: str, patch_size: int, stages: dict[str, int], **train_keys) -> dict:
    return {
        'name': name,
        'model_type': model,
        'num_gpu': 0,
        'manual_seed': 3,
        'path': {},
        'datasets': {
            'train': {
                'name': 'noisy',
                'type': 'NoisyImageDataset',
                'dataroot_lq': str(GOLDEN / 'patches'),
                'patch_size': patch_size,
                'batch_size_per_gpu': 2,
                'num_worker_per_gpu': 0,
            }
        },
        'train': {
            'precision': 'fp32',
            **train_keys,
            'stages': {
                stage: {
                    'iter': length,
                    'optim': {'type': 'Adam', 'lr': 1e-3},
                    'scheduler': {'type': 'CosineAnnealingLR'},
                }
                for stage, length in stages.items()
            },
        },
        'logger': {'print_freq': 10, 'save_checkpoint_freq': 1000},
    }


SASSID = {
    'network_bnn': {'type': 'BNN', 'dim': 4},
    'network_lan': {'type': 'LAN', 'dim': 8, 'num_block': 2},
    'network_g': {'type': 'DenoisingUNet', 'dim': 4},
}
THREE = dict.fromkeys(('bnn', 'lan', 'unet'), 30)
TWO = dict.fromkeys(('bnn', 'unet'), 30)
RUNS = {
    'paper': {**options('paper', 'ThreeStageModel', 32, THREE), **SASSID},
    'sassid': {
        **options('sassid', 'ThreeStageModel', 32, THREE, teacher_cache='memory', posterior=True, ema_decay=0.9),
        **SASSID,
    },
    'many_sizes': {
        **options('many_sizes', 'BlindSizesModel', 32, TWO, teacher_cache='memory', teacher_weights='risk'),
        'network_bnn': SASSID['network_bnn'],
        'network_g': {**SASSID['network_g'], 'residual': True},
    },
    'atbsn': {
        **options('atbsn', 'ATBSNModel', 32, TWO),
        'network_bnn': SASSID['network_bnn'],
        'network_g': SASSID['network_g'],
    },
    'apbsn': {**options('apbsn', 'APBSNModel', 40, {'bsn': 30}), 'network_bsn': DBSN},
    'sdap': {**options('sdap', 'SDAPModel', 40, {'bsn': 30}), 'network_bsn': DBSN},
    'amsnet': {**options('amsnet', 'AMSNetModel', 40, {'bsn': 30}), 'network_bsn': ANY_NETWORK},
    'sdap_student': {
        **options('sdap_student', 'SDAPModel', 40, {'bsn': 10, 'unet': 10}),
        'network_bsn': DBSN,
        'network_g': SASSID['network_g'],
    },
}


def this_platform() -> dict[str, str]:
    """What float32 results depend on to the last bit."""
    return {
        'torch': torch.__version__,
        'numpy': np.__version__,
        'capability': torch.backends.cpu.get_cpu_capability(),
        'processor': processor_digest(),
        'limits': str([os.environ.get(name) for name in ('ONEDNN_MAX_CPU_ISA', 'NPY_DISABLE_CPU_FEATURES')]),
        'openblas': os.environ.get('OPENBLAS_CORETYPE', ''),
        'half': str(torch.cpu._is_avx512_bf16_supported()),
    }


def processor_digest() -> str:
    """Model, caches and instruction sets of the processor, by which libraries choose their kernels."""
    keys = ('vendor_id', 'cpu family', 'model', 'stepping', 'cache size', 'flags')
    cpuinfo = Path('/proc/cpuinfo')
    first = cpuinfo.read_text().partition('\n\n')[0] if cpuinfo.is_file() else platform.processor()
    lines = [line for line in first.splitlines() if line.partition(':')[0].strip() in keys]
    return hashlib.sha256('\n'.join(lines or [first]).encode()).hexdigest()[:16]


def digest(state: dict[str, torch.Tensor]) -> str:
    result = hashlib.sha256()
    for name, value in sorted(state.items()):
        result.update(name.encode() + value.contiguous().numpy().tobytes())
    return result.hexdigest()[:16]


def run_training(name: str, folder: Path) -> dict:
    losses: list[float] = []

    def record(model, iteration: int) -> None:
        losses.append(next(iter(model.get_current_log().values())))

    train(resolve_options(RUNS[name], folder, True), on_iteration=record)
    networks = sorted(
        path.name.split('_')[1] for path in (folder / f'experiments/{name}/models').glob('net_*_latest.pth')
    )
    return {'losses': losses, 'weights': {net: digest(latest_params(folder, name, net)) for net in networks}}


def run_clean(folder: Path, *arguments: str) -> dict[str, np.ndarray]:
    cli(['clean', str(GOLDEN / 'photographs'), '-o', str(folder), *arguments])
    return {path.name: read_photo(path).pixels for path in sorted(folder.glob('*.png'))}


@pytest.fixture(scope='module')
def golden() -> dict:
    return json.loads((GOLDEN / 'traces.json').read_text())


@pytest.fixture(autouse=True)
def _threads(golden) -> Iterator[None]:
    before = torch.get_num_threads()
    if golden['platform'] == this_platform():
        torch.set_num_threads(THREADS)  # sums are cut by threads; elsewhere the bits are not compared
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize('name', RUNS)
def test_training_repeats_the_golden_trace(name, golden, tmp_path):
    result, expected = run_training(name, tmp_path), golden['trainings'][name]
    if golden['platform'] == this_platform():
        assert result == expected
    else:  # another processor rounds and orders its sums in another way, and 90 Adam steps amplify that
        np.testing.assert_allclose(result['losses'], expected['losses'], rtol=2e-2)


@pytest.mark.parametrize(
    ('name', 'arguments'),
    [('instant', ['--effort', 'instant']), pytest.param('trained', ['--minutes', '0.0001'], marks=pytest.mark.slow)],
)
def test_clean_repeats_the_golden_pictures(name, arguments, golden, tmp_path):
    pictures = run_clean(tmp_path / 'out', *arguments)
    expected = {path.name: read_photo(path).pixels for path in sorted((GOLDEN / name).glob('*.png'))}
    assert list(pictures) == list(expected)
    for file, picture in pictures.items():
        difference = np.abs(picture.astype(float) - expected[file]) / (257 if picture.dtype == np.uint16 else 1)
        if golden['platform'] == this_platform():
            assert difference.max() == 0, file
        else:  # the trained student, in bf16 or float32 as the processor has it, is blended in at a few percent
            assert difference.max() <= 1 if name == 'instant' else difference.mean() < 0.5, file


@pytest.mark.slow
def test_clean_repeats_the_golden_student(golden, tmp_path):
    run_clean(tmp_path / 'out', '--minutes', '0.0001')
    student = load_file(next((tmp_path / 'out').rglob('student.safetensors')))
    assert sum(value.numel() for value in student.values()) == golden['student']['parameters']
    if golden['platform'] == this_platform():
        assert digest(student) == golden['student']['weights']


@pytest.mark.filterwarnings('ignore:Detected call of')  # the state is of its stage's first iteration
def test_training_state_of_format_1_resumes_as_it_went_on(golden, tmp_path):
    """Written by the version before format 2, at iteration 7 of 9; the weights are those of its uninterrupted run."""
    opt = {
        **options('v1', 'ThreeStageModel', 32, dict.fromkeys(THREE, 3), teacher_cache='memory', ema_decay=0.9),
        **SASSID,
    }
    states = tmp_path / 'experiments' / 'v1' / 'training_states'
    states.mkdir(parents=True)
    shutil.copy(FORMAT1 / '7.state', states)
    train(resolve_options(opt, tmp_path, True, auto_resume=True), on_iteration=lambda *_: None)
    expected = torch.load(FORMAT1 / 'resumed_net_g.pth', weights_only=True)['params']
    for name, value in latest_params(tmp_path, 'v1', 'g').items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-4, msg=name)


def main() -> None:
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trainings = {run: run_training(run, folder) for run in RUNS}
        for kind, arguments in (('instant', ['--effort', 'instant']), ('trained', ['--minutes', '0.0001'])):
            run_clean(folder / kind, *arguments)
            shutil.rmtree(GOLDEN / kind, ignore_errors=True)
            (GOLDEN / kind).mkdir()
            for path in (folder / kind).glob('*.png'):
                shutil.copy(path, GOLDEN / kind)
        student = load_file(next((folder / 'trained').rglob('student.safetensors')))
    content = {
        'platform': this_platform(),
        'trainings': trainings,
        'student': {'weights': digest(student), 'parameters': sum(value.numel() for value in student.values())},
    }
    (GOLDEN / 'traces.json').write_text(json.dumps(content, indent=1) + '\n')


if __name__ == '__main__':
    sys.exit(main())
