"""Methods x datasets -> table: figures, errors in their cells, nothing done twice."""
from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from basicsr.metrics import calculate_psnr

from basicsr_sassid import Denoiser, SpectralDenoiser, estimate_noise
from basicsr_sassid._compat import numpy_with_trapz
from basicsr_sassid.cli import main
from basicsr_sassid.evaluation import methods, run_benchmark, runner
from basicsr_sassid.evaluation.cost import ResourceMeter, network_cost
from basicsr_sassid.evaluation.crop_grid import CROP, draw_crop_grid
from basicsr_sassid.evaluation.methods import MethodContext, build_method
from basicsr_sassid.evaluation.runner import check_benchmark, read_pairs
from basicsr_sassid.io.checkpoint import build_network
from basicsr_sassid.training.options import read_options
from basicsr_sassid.utils.errors import UserError

from helpers import ROOT, tiny_options

OPTION_FILES = sorted((ROOT / 'options/benchmark').glob('*.yml'))


@pytest.fixture
def pairs(tmp_path) -> Path:
    """Five noisy scenes of 96x112 and their clean sides; the noise is correlated."""
    rng = np.random.default_rng(0)
    for number in range(5):
        scene = cv2.resize(rng.uniform(60, 190, (4, 5, 3)), (112, 96), interpolation=cv2.INTER_CUBIC)
        noise = cv2.GaussianBlur(rng.normal(0, 30, scene.shape), (0, 0), 0.9)
        for side, image in (('noisy', scene + noise), ('clean', scene)):
            (tmp_path / 'set' / side).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / 'set' / side / f'{number}.png'), image.clip(0, 255).round().astype(np.uint8))
    return tmp_path / 'set'


def options(pairs: Path, **blocks: dict) -> dict:
    return {'name': 'x', 'device': 'cpu', 'methods': blocks,
            'datasets': {'set': {'dataroot_lq': str(pairs / 'noisy'), 'dataroot_gt': str(pairs / 'clean')}}}


def arrays(pairs: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    return [tuple(cv2.imread(str(pairs / side / f'{number}.png'))[..., ::-1].copy() for side in ('noisy', 'clean'))
            for number in range(5)]


@pytest.mark.parametrize('path', OPTION_FILES, ids=lambda path: path.name)
def test_every_benchmark_file_is_complete(path):
    opt = read_options(path)
    check_benchmark(opt)
    assert f'options/benchmark/{path.name}' in path.read_text()
    for block in (opt.get('trainings') or {}).values():
        assert (ROOT / block['opt']).is_file()


def test_one_table_in_four_forms(pairs, tmp_path, capsys):
    opt = options(pairs, noisy={'type': 'noisy'}, blur={'type': 'gaussian', 'sigma': {'best_of': [0.5, 2, 9]}},
                  ours={'type': 'spectral'}, broken={'type': 'denoiser', 'weights': 'nowhere.pth'})
    (tmp_path / 'b.yml').write_text(yaml.safe_dump({**opt, 'protocols': ['psnr', 'ssim_matlab']}, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        main(['benchmark', '-opt', 'b.yml', '--force_yml', 'sheet:images=2'])
    folder = tmp_path / 'results/benchmark/x'
    result = json.loads((folder / 'table.json').read_text())
    cells = result['cells']['set']
    images = arrays(pairs)
    ours = SpectralDenoiser(estimate_noise(noisy for noisy, _ in images))
    for name, method in (('noisy', lambda image: image), ('ours', ours)):
        expected = np.mean([calculate_psnr(method(noisy), clean, 0) for noisy, clean in images])
        assert cells[name]['psnr'] == pytest.approx(expected, abs=1e-9)
    assert cells['blur']['note'] == 'best sigma 2' and cells['ours']['psnr'] > cells['noisy']['psnr'] + 5
    assert 'no such file or folder: nowhere.pth' in cells['broken']['error']
    assert {'torch', 'numpy', 'basicsr', 'basicsr_sassid'} <= result['versions'].keys() and result['cpu']
    printed, markdown = capsys.readouterr().out, (folder / 'table.md').read_text()
    for text in (printed, markdown):
        assert 'blur *' in text and 'which no user could know' in text and "MATLAB's" in text
        assert f'{cells["ours"]["psnr"]:.2f}' in text and 'error: weights: no such file' in text
    with open(folder / 'table.csv', newline='') as file:
        header, *lines = csv.reader(file)
    assert header[:3] == ['method', 'set psnr', 'set ssim_matlab'] and [line[0] for line in lines] == [
        'noisy', 'blur *', 'ours', 'broken']
    sheet = cv2.imread(str(folder / 'set.png'))
    assert sheet.shape[1] == 4 * (2 * CROP + 6) + 6  # the three methods that ran, clean


def test_nothing_is_done_twice_and_a_kill_loses_no_image(pairs, tmp_path, monkeypatch):
    calls, limit = [], 3

    def counted(block, given):
        def run(image):
            if image.shape[0] > 64:  # the warm-up aside
                if len(calls) == limit:
                    raise KeyboardInterrupt
                calls.append(image)
            return image
        return methods.Method(run)
    monkeypatch.setitem(methods.METHODS, 'noisy', (counted, ()))
    opt = options(pairs, a={'type': 'noisy'})
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(opt, tmp_path)
    limit = 100
    whole = run_benchmark(opt, tmp_path)
    assert len(calls) == 5
    again = run_benchmark({**opt, 'methods': {'b': {'type': 'gaussian'}, **opt['methods']}}, tmp_path)
    assert len(calls) == 5 and again['cells']['set']['a'] == whole['cells']['set']['a']
    run_benchmark({**opt, 'protocols': ['psnr']}, tmp_path)  # other settings: another cell
    assert len(calls) == 10


def test_what_has_changed_is_judged_anew(pairs, tmp_path):
    block = {'type': 'DenoisingUNet', 'num_in_ch': 3, 'num_out_ch': 3, 'dim': 4}

    def save(seed):
        torch.manual_seed(seed)
        torch.save({'params': build_network(block, 'x').state_dict(), 'network': block}, tmp_path / 'net.pth')
    opt = options(pairs, net={'type': 'denoiser', 'weights': str(tmp_path / 'net.pth')})
    figures = []
    for change in (lambda: save(1), lambda: save(2), lambda: (pairs / 'noisy/4.png').write_bytes(
            (pairs / 'noisy/3.png').read_bytes())):
        change()
        figures.append(run_benchmark(opt, tmp_path)['cells']['set']['net']['psnr'])
    assert len(set(figures)) == 3


def test_another_sheet_of_a_finished_run(pairs, tmp_path):
    for images in (1, 3, 2):
        opt = {**options(pairs, a={'type': 'noisy'}), 'sheet': {'images': images}}
        run_benchmark(opt, tmp_path)
        assert cv2.imread(str(tmp_path / 'results/benchmark/x/set.png')).shape[0] == 52 + images * (4 * CROP + 26)


def test_what_goes_wrong_stays_in_its_cell(pairs, tmp_path, monkeypatch):
    def builder(answer):
        return lambda block, given: methods.Method(answer)
    for kind, answer in (('raises', lambda image: 1 / 0), ('exits', lambda image: exit('gone')),
                         ('floats', lambda image: image / 255.), ('smaller', lambda image: image[1:])):
        monkeypatch.setitem(methods.METHODS, kind, (builder(answer), ()))
    opt = options(pairs, **{kind: {'type': kind} for kind in ('raises', 'exits', 'floats', 'smaller', 'noisy')})
    cells = run_benchmark(opt, tmp_path)['cells']['set']
    assert cells['raises']['error'] == 'ZeroDivisionError: division by zero' and 'gone' in cells['exits']['error']
    assert 'expected a result of (96, 112, 3) uint8, got (96, 112, 3) float64' in cells['floats']['error']
    assert 'got (95, 112, 3)' in cells['smaller']['error'] and cells['noisy']['psnr'] > 10
    monkeypatch.setitem(methods.METHODS, 'raises', (builder(lambda image: image), ()))  # mended
    assert run_benchmark(opt, tmp_path)['cells']['set']['raises']['psnr'] == cells['noisy']['psnr']


def test_trained_once_on_the_noisy_side_and_used_by_all(pairs, tmp_path, monkeypatch):
    (tmp_path / 'tiny.yml').write_text(yaml.safe_dump(tiny_options(pairs), sort_keys=False))
    opt = options(pairs, bnn={'type': 'denoiser', 'training': 's', 'net': 'bnn'},
                  student={'type': 'denoiser', 'training': 's'}, mixture={'type': 'mixture', 'training': 's'},
                  instant={'type': 'spectral'})
    opt['trainings'] = {'s': {'opt': str(tmp_path / 'tiny.yml'), 'minutes': 0.02, 'force_yml': ['train:ema_decay=0.9']}}
    trained, train = [], runner.train
    monkeypatch.setattr(runner, 'train', lambda opt, **kwargs: trained.append(opt) or train(opt, **kwargs))
    for _ in range(2):
        cells = run_benchmark(opt, tmp_path)['cells']['set']
    assert len(trained) == 1 and trained[0]['train']['ema_decay'] == 0.9
    assert 'clean' not in json.dumps(trained[0]['datasets'])
    assert cells['mixture']['note'].endswith('% student')
    assert cells['mixture']['psnr'] > cells['instant']['psnr'] - 0.1
    weights = next((tmp_path / 'results').rglob('net_g_latest.pth'))
    noisy, clean = arrays(pairs)[2]
    assert cells['student']['images']['2']['psnr'] == pytest.approx(
        calculate_psnr(Denoiser(weights, 'cpu')(noisy), clean, 0))
    assert cells['bnn']['params'] > cells['student']['params'] > 0


def test_any_network_of_the_registry(pairs, tmp_path):
    block = {'type': 'SRVGGNetCompact', 'num_feat': 8, 'num_conv': 1, 'upscale': 1}
    net = build_network(block, 'x')
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()  # what is left is its skip from input to output
    torch.save({'params': net.state_dict()}, tmp_path / 'net.pth')
    opt = options(pairs, net={'type': 'denoiser', 'weights': str(tmp_path / 'net.pth'), 'network': block},
                  unknown={'type': 'denoiser', 'weights': str(tmp_path / 'net.pth')})
    cells = run_benchmark(opt, tmp_path)['cells']['set']
    assert cells['net']['psnr'] == pytest.approx(np.mean([calculate_psnr(*pair, 0) for pair in arrays(pairs)]))
    assert 'not of a network known here' in cells['unknown']['error']


@pytest.mark.parametrize(('block', 'params', 'gmacs'), [
    ({'type': 'DenoisingUNet', 'num_in_ch': 3, 'num_out_ch': 3, 'dim': 48}, 1_083_747, 17.46),
    ({'type': 'LAN', 'num_in_ch': 3, 'num_out_ch': 3, 'receptive_size': 3}, 94_939, 5.93)])
def test_parameters_and_multiply_adds_are_the_published_ones(block, params, gmacs, tmp_path):
    torch.save({'params': build_network(block, 'x').state_dict(), 'network': block}, tmp_path / 'net.pth')
    denoise = Denoiser(tmp_path / 'net.pth', 'cpu', precision='fp32')
    cost = network_cost(methods.Method(denoise, denoise.net))
    assert cost['params'] == params and cost['macs'] / 1e9 == pytest.approx(gmacs, abs=0.01)


def test_memory_is_what_a_call_takes():
    meter = ResourceMeter('cpu')
    with meter.measure():
        np.ones(50 * 2 ** 20, np.uint8)
    if meter.bytes is None:
        pytest.skip('this system does not tell the peak of a process')
    assert 45 * 2 ** 20 < meter.bytes < 80 * 2 ** 20
    first = meter.bytes
    with meter.measure():
        np.ones(2 ** 20, np.uint8)
    assert meter.bytes == first and meter.seconds > 0


@pytest.mark.parametrize('block', [
    {'type': 'opencv_nlm', 'h': 'sigma'}, {'type': 'skimage_tv', 'weights': [0.02, 0.2]},
    {'type': 'skimage_wavelet', 'sigmas': [0.05, 0.1]}, {'type': 'skimage_nlm', 'h': [0.05, 0.2]},
    {'type': 'bm3d', 'noise': 'sigma'}], ids=lambda block: block['type'])
def test_classical_peers_denoise(block, pairs):
    images = arrays(pairs)
    run = build_method(block, MethodContext(images, 'cpu', None)).run
    noisy, clean = (image[:64, :64].copy() for image in images[0])
    result = run(noisy)
    assert result.shape == noisy.shape and result.dtype == np.uint8
    # those that take the noise for white leave nearly all of it
    gain = 0. if block['type'] in ('bm3d', 'opencv_nlm') else 0.3
    assert calculate_psnr(result, clean, 0) > calculate_psnr(noisy, clean, 0) + gain


def test_bm3d_gains_by_our_spectrum(pairs):
    pytest.importorskip('bm3d')
    images = arrays(pairs)
    given = MethodContext(images, 'cpu', None)
    noisy, clean = (image[:64, :64].copy() for image in images[1])
    blind, ours = (calculate_psnr(build_method({'type': 'bm3d', 'noise': kind}, given).run(noisy), clean, 0)
                   for kind in ('sigma', 'spectrum'))
    assert ours > blind + 1


def test_trapz_is_there_for_bm3d_alone():
    had = hasattr(np, 'trapz')
    with numpy_with_trapz():
        assert getattr(np, 'trapz')([1, 3]) == 2  # noqa: B009
    assert hasattr(np, 'trapz') == had


def test_a_sheet_shows_what_was_removed():
    crop = np.full((CROP, CROP, 3), 100, np.uint8)
    sheet = draw_crop_grid([{'noisy': (crop + np.uint8(10), ''), 'method': (crop, '20.00 dB')}], residuals=True)
    middle = 6 + 2 * CROP + 6 + CROP
    assert (sheet[52 + CROP, middle] == 100).all() and (sheet[52 + 3 * CROP, middle] == 128 + 40).all()


@pytest.mark.parametrize(('changes', 'message'), [
    ({'method': {}}, "options: unknown key 'method'. Did you mean 'methods'"),
    ({'protocols': ['ssim']}, 'protocols: expected some of psnr, ssim_gaussian, ssim_uniform, ssim_matlab'),
    ({'methods': {'a': {'type': 'bm4d'}}}, 'methods.a.type: expected one of noisy, .*bm3d'),
    ({'methods': {'a': {'type': 'gaussian', 'sigmas': 1}}}, "methods.a: unknown key 'sigmas'. Did you mean 'sigma'"),
    ({'methods': {'a': {'type': 'denoiser', 'training': 't'}}}, "methods.a.training: expected one of , got 't'"),
    ({'methods': {'a': {'type': 'denoiser'}}}, r'methods.a: expected weights \(a file\) or training'),
    ({'sheet': {'methods': ['b']}}, 'sheet.methods: expected one of a'),
    ({'sheet': {'images': 0}}, 'sheet.images: expected a number >= 1, got 0'),
    ({'datasets': {'d': {'dataroot_lq': 'x', 'dataroot_gt': 'y', 'every': 0}}}, 'datasets.d.every: expected .* got 0'),
    ({'trainings': {'t': {'opt': 'nowhere.yml', 'minutes': 1}}}, 'options/nowhere.yml is not beside the package'),
    ({'trainings': {'t': {'opt': 'x.yml'}}}, "trainings.t: key 'minutes' is missing"),
    ({'datasets': {'d': {'dataroot_lq': 'x'}}}, "datasets.d: key 'dataroot_gt' is missing")])
def test_wrong_options_are_named(pairs, changes, message):
    with pytest.raises(UserError, match=message):
        check_benchmark({**options(pairs, a={'type': 'noisy'}), **changes})


def test_wrong_datasets_are_named(pairs):
    block = {'dataroot_lq': str(pairs / 'noisy'), 'dataroot_gt': str(pairs / 'clean')}
    assert [name for name, _, _ in read_pairs('set', {**block, 'every': 2})] == ['0', '2', '4']
    with pytest.raises(UserError, match='datasets.set.dataroot_gt: no such file or folder: /nowhere'):
        read_pairs('set', {**block, 'dataroot_gt': '/nowhere'})
    (pairs / 'noisy/2.png').write_bytes(b'')
    with pytest.raises(UserError, match='datasets.set: image 3 of .*noisy or its clean side cannot be read'):
        read_pairs('set', block)
    (pairs / 'clean/4.png').unlink()
    with pytest.raises(UserError, match='datasets.set: .*different number of images'):
        read_pairs('set', block)
