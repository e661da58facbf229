"""Methods of an evaluation: trainings, networks, blends, classical ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from basicsr.metrics import calculate_psnr

from basicsr_sassid import Denoiser
from basicsr_sassid._compat import numpy_with_trapz
from basicsr_sassid.evaluation import trainings
from basicsr_sassid.evaluation.context import MethodContext
from basicsr_sassid.evaluation.methods import build_method
from basicsr_sassid.evaluation.runner import run_benchmark
from basicsr_sassid.evaluation.schema import BlendOptions, DenoiserOptions
from basicsr_sassid.io.checkpoint import build_network
from basicsr_sassid.utils.errors import UserError

from evaluation_scenes import arrays, options, parsed, write_pairs
from helpers import ANY_NETWORK, ROOT, tiny_options, write_yml

OPTION_FILES = sorted((ROOT / 'options/evaluation').glob('*.yml'))
SIZE = (128, 144)  # pixels: no smaller image is used for the blend


class Trained(NamedTuple):
    """An evaluation with a training, run twice: its dataset, its folder, its cells, the options of each training."""

    pairs: Path
    folder: Path
    cells: dict
    runs: list[dict]


@pytest.fixture(scope='module')
def trained(tmp_path_factory) -> Trained:
    root, runs, train = tmp_path_factory.mktemp('trained'), [], trainings.train
    pairs = write_pairs(root / 'set')
    opt = options(
        pairs,
        bnn={'type': 'denoiser', 'training': 's', 'net': 'bnn'},
        student={'type': 'denoiser', 'training': 's'},
        blend={'type': 'blend', 'training': 's'},
        spectral={'type': 'spectral'},
    )
    opt['trainings'] = {
        's': {
            'opt': write_yml(tiny_options(pairs), root / 'tiny.yml'),
            'minutes': 0.01,
            'force_yml': ['train:ema_decay=0.9'],
        }
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainings, 'train', lambda opt, **kwargs: runs.append(opt) or train(opt, **kwargs))
        for _ in range(2):
            cells = run_benchmark(opt, root)['cells']['set']
    return Trained(pairs, root, cells, runs)


def test_training_of_several_methods_runs_once(trained):
    assert len(trained.runs) == 1


def test_training_has_the_changes_of_force_yml(trained):
    assert trained.runs[0]['train']['ema_decay'] == 0.9


def test_training_reads_no_clean_reference(trained):
    assert 'clean' not in json.dumps(trained.runs[0]['datasets'])


def test_training_with_a_student_delivers_network_g(trained):
    noisy, clean = arrays(trained.pairs)[2]
    weights = next(trained.folder.rglob('net_g_latest.pth'))
    assert trained.cells['student']['images']['2']['psnr'] == pytest.approx(
        calculate_psnr(Denoiser(weights, 'cpu')(noisy), clean, 0)
    )


def test_training_net_bnn_is_another_network(trained):
    assert trained.cells['bnn']['params'] > trained.cells['student']['params'] > 0


def test_blend_notes_the_weight_of_the_student(trained):
    assert trained.cells['blend']['note'].endswith('% student')


def test_blend_with_a_poor_student_is_no_worse_than_spectral(trained):
    assert trained.cells['blend']['psnr'] > trained.cells['spectral']['psnr'] - 0.1


def test_training_without_a_student_delivers_network_bsn(pairs, tmp_path):
    opt = tiny_options(pairs)
    opt.update(
        model_type='APBSNModel',
        network_bsn={'type': 'DBSNl', 'dim': 4, 'num_module': 1},
        train={'precision': 'fp32', 'pd_a': 2, 'stages': {'bsn': opt['train']['stages']['bnn']}},
    )
    for name in ('network_bnn', 'network_lan', 'network_g'):
        del opt[name]
    evaluation = options(pairs, method={'type': 'denoiser', 'training': 'a', 'inference': {'pd_b': 2}})
    evaluation['trainings'] = {'a': {'opt': write_yml(opt, tmp_path / 'tiny.yml'), 'minutes': 0.01}}
    cell = run_benchmark(evaluation, tmp_path)['cells']['set']['method']
    assert cell['psnr'] > 5 and list((tmp_path / 'results').rglob('net_bsn_latest.pth'))


def test_denoiser_any_network_of_the_registry(pairs, tmp_path):
    block = {'type': 'SRVGGNetCompact', 'num_feat': 8, 'num_conv': 1, 'upscale': 1}
    net = build_network(block, 'x')
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()  # what is left is its skip from input to output
    torch.save({'params': net.state_dict()}, tmp_path / 'net.pth')
    opt = options(
        pairs,
        net={'type': 'denoiser', 'weights': str(tmp_path / 'net.pth'), 'network': block},
        unknown={'type': 'denoiser', 'weights': str(tmp_path / 'net.pth')},
    )
    cells = run_benchmark(opt, tmp_path)['cells']['set']
    assert cells['net']['psnr'] == pytest.approx(np.mean([calculate_psnr(*pair, 0) for pair in arrays(pairs)]))
    assert 'not of a network known here' in cells['unknown']['error']


@pytest.mark.parametrize(('kind', 'block'), [('denoiser', DenoiserOptions), ('blend', BlendOptions)])
def test_training_of_a_network_of_the_registry_is_built_as_its_options_named_it(pairs, tmp_path, kind, block):
    torch.save({'params': build_network(ANY_NETWORK, 'x').state_dict(), 'network': ANY_NETWORK}, tmp_path / 'net.pth')
    context = MethodContext(arrays(pairs), 'cpu', lambda training, network: tmp_path / 'net.pth')
    assert type(build_method(block(type=kind, training='a'), context).net).__name__ == 'EDSR'
    with pytest.raises(UserError, match='not built on the word of a file'):
        build_method(parsed({'type': kind, 'weights': str(tmp_path / 'net.pth')}), context)


def test_blend_of_images_too_small_for_crops_is_the_student(pairs, network):
    images = [(noisy[:64, :64].copy(), clean[:64, :64].copy()) for noisy, clean in arrays(pairs)]
    method = build_method(parsed({'type': 'blend', 'weights': str(network)}), MethodContext(images, 'cpu'))
    assert method.note == '100% student'


@pytest.mark.parametrize(
    'block',
    [
        {'type': 'opencv_nlm', 'h': 'sigma'},
        {'type': 'skimage_tv', 'weights': [0.02, 0.2]},
        {'type': 'skimage_wavelet', 'sigmas': [0.05, 0.1]},
        {'type': 'skimage_nlm', 'h': [0.05, 0.2]},
        {'type': 'bm3d', 'noise': 'sigma'},
    ],
    ids=lambda block: block['type'],
)
def test_classical_method_removes_noise(block, pairs):
    if block['type'] == 'bm3d':
        pytest.importorskip('bm3d')
    images = arrays(pairs)
    run = build_method(parsed(block), MethodContext(images, 'cpu')).run
    noisy, clean = (image[:64, :64].copy() for image in images[0])
    result = run(noisy)
    assert result.shape == noisy.shape and result.dtype == np.uint8
    # those that take the noise for white leave nearly all of it
    gain = 0.0 if block['type'] in ('bm3d', 'opencv_nlm') else 0.3
    assert calculate_psnr(result, clean, 0) > calculate_psnr(noisy, clean, 0) + gain


def test_bm3d_gains_by_measured_spectrum(pairs):
    pytest.importorskip('bm3d')
    images = arrays(pairs)
    context = MethodContext(images, 'cpu')
    noisy, clean = (image[:64, :64].copy() for image in images[1])
    white, measured = (
        calculate_psnr(build_method(parsed({'type': 'bm3d', 'noise': kind}), context).run(noisy), clean, 0)
        for kind in ('sigma', 'spectrum')
    )
    assert measured > white + 1


def test_numpy_with_trapz_restores_numpy():
    had = hasattr(np, 'trapz')
    with numpy_with_trapz():
        assert getattr(np, 'trapz')([1, 3]) == 2  # noqa: B009
    assert hasattr(np, 'trapz') == had
