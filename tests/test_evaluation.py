"""Methods x datasets -> table: figures, errors in their cells, nothing computed twice."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
from basicsr.metrics import calculate_psnr

from basicsr_sassid import Denoiser, SpectralDenoiser, estimate_noise
from basicsr_sassid._compat import numpy_with_trapz
from basicsr_sassid.evaluation import methods, trainings
from basicsr_sassid.evaluation.context import Method, MethodContext, MethodType
from basicsr_sassid.evaluation.crop_grid import CROP
from basicsr_sassid.evaluation.methods import build_method
from basicsr_sassid.evaluation.pairs import read_pairs
from basicsr_sassid.evaluation.runner import check_benchmark, run_benchmark, shown_images
from basicsr_sassid.evaluation.schema import DatasetOptions, NoisyOptions
from basicsr_sassid.io.checkpoint import build_network
from basicsr_sassid.training.options import read_options
from basicsr_sassid.utils.errors import UserError

from helpers import ROOT, tiny_options, write_yml

OPTION_FILES = sorted((ROOT / 'options/evaluation').glob('*.yml'))
SIZE = (128, 144)  # pixels: no smaller image is used for the blend


@pytest.fixture
def pairs(tmp_path) -> Path:
    return write_pairs(tmp_path / 'set')


def write_pairs(folder: Path) -> Path:
    """Five noisy scenes of 128x144 and their clean references; the noise is correlated."""
    rng = np.random.default_rng(0)
    for number in range(5):
        scene = cv2.resize(rng.uniform(60, 190, (4, 5, 3)), SIZE[::-1], interpolation=cv2.INTER_CUBIC)
        noise = cv2.GaussianBlur(rng.normal(0, 30, scene.shape), (0, 0), 0.9)
        for name, image in (('noisy', scene + noise), ('clean', scene)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / name / f'{number}.png'), image.clip(0, 255).round().astype(np.uint8))
    return folder


@pytest.fixture
def network(tmp_path) -> Path:
    """Weights of a small U-Net."""
    save_network(tmp_path / 'net.pth', 0)
    return tmp_path / 'net.pth'


def save_network(path: Path, seed: int) -> None:
    block = {'type': 'DenoisingUNet', 'num_in_ch': 3, 'num_out_ch': 3, 'dim': 4}
    torch.manual_seed(seed)
    torch.save({'params': build_network(block, 'x').state_dict(), 'network': block}, path)


def options(pairs: Path, **blocks: dict) -> dict:
    return {
        'name': 'x',
        'device': 'cpu',
        'methods': blocks,
        'datasets': {'set': {'dataroot_lq': str(pairs / 'noisy'), 'dataroot_gt': str(pairs / 'clean')}},
    }


def arrays(pairs: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        tuple(cv2.imread(str(pairs / folder / f'{number}.png'))[..., ::-1].copy() for folder in ('noisy', 'clean'))
        for number in range(5)
    ]


def parsed(block: dict):
    """The typed options of one method."""
    return check_benchmark({'name': 'x', 'methods': {'a': block}, 'datasets': {}}).methods['a']


def replace_method(monkeypatch, name: str, run) -> None:
    """Register ``run`` as a method type without options."""
    monkeypatch.setitem(methods.METHODS, name, MethodType(NoisyOptions, lambda options, context: Method(run)))


# ---- options ----


@pytest.mark.parametrize('path', OPTION_FILES, ids=lambda path: path.name)
def test_option_file_of_the_package_is_valid(path):
    check_benchmark(read_options(path))


@pytest.mark.parametrize('path', OPTION_FILES, ids=lambda path: path.name)
def test_option_file_of_the_package_names_its_command_and_recipes(path):
    assert f'sassid benchmark -opt options/evaluation/{path.name}' in path.read_text()
    for block in (read_options(path).get('trainings') or {}).values():
        assert (ROOT / block['opt']).is_file()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'method': {}}, "^options: unknown key 'method'. Did you mean 'methods'"),
        ({'sheet': {}}, "^options: key 'sheet' was renamed: crop_grid"),
        ({'protocols': ['ssim']}, '^protocols: expected some of psnr, ssim_gaussian, ssim_uniform, ssim_matlab'),
        ({'seed': -1}, '^seed: expected a number >= 0, got -1'),
        ({'methods': {'a': {'type': 'bm4d'}}}, '^methods.a.type: expected one of noisy, .*bm3d'),
        ({'methods': {'a': {}}}, "^methods.a: key 'type' is missing"),
        ({'methods': {'a': 'noisy'}}, "^methods.a: expected a block of keys, got 'noisy'"),
        ({'methods': {'a': {'type': 'mixture'}}}, "^methods.a.type: 'mixture' was renamed: blend"),
        (
            {'methods': {'a': {'type': 'gaussian', 'sigmas': 1}}},
            "^methods.a: unknown key 'sigmas'. Did you mean 'sigma'",
        ),
        (
            {'methods': {'a': {'type': 'gaussian', 'sigma': 'x'}}},
            "^methods.a.sigma: expected a number, or {best_of: .numbers.}, got 'x'",
        ),
        ({'methods': {'a': {'type': 'gaussian', 'sigma': {'best_of': []}}}}, '^methods.a.sigma: expected a number, or'),
        ({'methods': {'a': {'type': 'opencv_nlm', 'h': 'auto'}}}, '^methods.a.h: expected a number, sigma, or'),
        (
            {'methods': {'a': {'type': 'bm3d', 'noise': 'white'}}},
            "^methods.a.noise: expected one of sigma, spectrum, got 'white'",
        ),
        ({'methods': {'a': {'type': 'denoiser', 'training': 't'}}}, "^methods.a.training: expected one of , got 't'"),
        ({'methods': {'a': {'type': 'denoiser'}}}, r'^methods.a: expected weights \(a file\) or training'),
        (
            {'methods': {'a': {'type': 'denoiser', 'weights': 'x', 'net': 'unet'}}},
            '^methods.a.net: expected one of g, bsn',
        ),
        (
            {'methods': {'a': {'type': 'denoiser', 'weights': 'x', 'passes': {}}}},
            "^methods.a: key 'passes' was renamed: inference",
        ),
        (
            {'methods': {'a': {'type': 'denoiser', 'weights': 'x', 'inference': {'stride': 2}}}},
            "^methods.a.inference: key 'stride' was renamed: pd_b",
        ),
        ({'crop_grid': {'methods': ['b']}}, '^crop_grid.methods: expected one of a'),
        ({'crop_grid': {'images': 0}}, '^crop_grid.images: expected a number >= 1, got 0'),
        (
            {'datasets': {'d': {'dataroot_lq': 'x', 'dataroot_gt': 'y', 'every': 0}}},
            '^datasets.d.every: expected .* got 0',
        ),
        ({'datasets': {'d': {'dataroot_lq': 'x'}}}, "^datasets.d: key 'dataroot_gt' is missing"),
        ({'trainings': {'t': {'opt': 'nowhere.yml', 'minutes': 1}}}, 'options/nowhere.yml is not beside the package'),
        ({'trainings': {'t': {'opt': 'x.yml', 'minutes': 0}}}, '^trainings.t.minutes: expected a number > 0, got 0'),
        ({'trainings': {'t': {'opt': 'x.yml'}}}, "^trainings.t: key 'minutes' is missing"),
    ],
)
def test_check_benchmark_wrong_option_is_named(pairs, changes, message):
    with pytest.raises(UserError, match=message):
        check_benchmark({**options(pairs, a={'type': 'noisy'}), **changes})


@pytest.mark.parametrize('key', ['trainings', 'crop_grid'])
def test_check_benchmark_empty_block_has_the_defaults(pairs, key):
    opt = options(pairs, a={'type': 'noisy'})
    assert check_benchmark({**opt, key: None}) == check_benchmark(opt)


# ---- datasets ----


def dataset(pairs: Path, **changes) -> DatasetOptions:
    return DatasetOptions(**{'dataroot_lq': str(pairs / 'noisy'), 'dataroot_gt': str(pairs / 'clean'), **changes})


def test_read_pairs_every_second_image(pairs):
    assert [pair.name for pair in read_pairs('set', dataset(pairs, every=2))] == ['0', '2', '4']


def test_read_pairs_missing_folder_is_named(pairs):
    with pytest.raises(UserError, match='datasets.set.dataroot_gt: no such file or folder: /nowhere'):
        read_pairs('set', dataset(pairs, dataroot_gt='/nowhere'))


def test_read_pairs_unknown_type_is_named(pairs):
    with pytest.raises(UserError, match="datasets.set.type: nothing is registered as 'Paired'"):
        read_pairs('set', dataset(pairs, type='Paired'))


def test_read_pairs_damaged_image_is_named(pairs):
    (pairs / 'noisy/2.png').write_bytes(b'')
    with pytest.raises(UserError, match='datasets.set: image 3 of .*noisy or its clean reference cannot be read'):
        read_pairs('set', dataset(pairs))


def test_read_pairs_missing_reference_is_named(pairs):
    (pairs / 'clean/4.png').unlink()
    with pytest.raises(UserError, match='datasets.set: .*different number of images'):
        read_pairs('set', dataset(pairs))


# ---- the table ----


class Evaluated(NamedTuple):
    """An evaluation that has run: its dataset, its folder, and the printed table."""

    pairs: Path
    folder: Path
    printed: str


@pytest.fixture(scope='module')
def table(tmp_path_factory) -> Evaluated:
    """Four methods, one of them broken."""
    root = tmp_path_factory.mktemp('table')
    pairs = write_pairs(root / 'set')
    opt = options(
        pairs,
        noisy={'type': 'noisy'},
        blur={'type': 'gaussian', 'sigma': {'best_of': [0.5, 2, 9]}},
        ours={'type': 'spectral'},
        broken={'type': 'denoiser', 'weights': 'nowhere.pth'},
    )
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        run_benchmark({**opt, 'protocols': ['psnr', 'ssim_matlab'], 'crop_grid': {'images': 2}}, root)
    return Evaluated(pairs, root / 'results/benchmark/x', printed.getvalue())


def test_table_json_holds_basicsr_metrics(table):
    cells = json.loads((table.folder / 'table.json').read_text())['cells']['set']
    images = arrays(table.pairs)
    ours = SpectralDenoiser(estimate_noise(noisy for noisy, _ in images))
    for name, method in (('noisy', lambda image: image), ('ours', ours)):
        expected = np.mean([calculate_psnr(method(noisy), clean, 0) for noisy, clean in images])
        assert cells[name]['psnr'] == pytest.approx(expected, abs=1e-9)


def test_table_json_holds_chosen_setting_error_and_machine(table):
    result = json.loads((table.folder / 'table.json').read_text())
    cells = result['cells']['set']
    assert cells['blur']['note'] == 'best sigma 2'
    assert 'no such file or folder: nowhere.pth' in cells['broken']['error']
    assert {'torch', 'numpy', 'basicsr', 'basicsr_sassid'} <= result['versions'].keys() and result['cpu']


@pytest.mark.parametrize('text', ['blur *', 'which no user could know', "MATLAB's", 'error: weights: no such file'])
def test_table_printed_and_markdown_explain_themselves(table, text):
    assert text in table.printed and text in (table.folder / 'table.md').read_text()


def test_table_csv_has_a_row_a_method(table):
    with open(table.folder / 'table.csv', newline='') as file:
        header, *lines = csv.reader(file)
    assert header[:3] == ['method', 'set psnr', 'set ssim_matlab']
    assert [line[0] for line in lines] == ['noisy', 'blur *', 'ours', 'broken']


def test_crop_grid_holds_methods_that_ran(table):
    assert cv2.imread(str(table.folder / 'set.png')).shape[1] == 4 * (2 * CROP + 6) + 6  # noisy, blur, ours, clean


@pytest.mark.parametrize(('count', 'rows', 'expected'), [(5, 1, {2}), (5, 9, {0, 1, 2, 3, 4}), (9, 3, {1, 4, 7})])
def test_shown_images_are_evenly_spaced(count, rows, expected):
    assert shown_images(count, rows) == expected


# ---- cells ----


class Counter:
    """A method that counts its images and stops the run after ``limit`` of them."""

    def __init__(self, limit: int) -> None:
        self.calls, self.limit = 0, limit

    def __call__(self, image: np.ndarray) -> np.ndarray:
        if image.shape[0] > 64:  # the warm-up aside
            if self.calls == self.limit:
                raise KeyboardInterrupt
            self.calls += 1
        return image


def test_run_benchmark_killed_continues_with_the_next_image(pairs, tmp_path, monkeypatch):
    counter = Counter(limit=3)
    replace_method(monkeypatch, 'noisy', counter)
    opt = options(pairs, a={'type': 'noisy'})
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(opt, tmp_path)
    counter.limit = 100
    run_benchmark(opt, tmp_path)
    assert counter.calls == 5


def test_run_benchmark_new_method_leaves_other_cells(pairs, tmp_path, monkeypatch):
    counter = Counter(limit=100)
    replace_method(monkeypatch, 'noisy', counter)
    opt = options(pairs, a={'type': 'noisy'})
    first = run_benchmark(opt, tmp_path)
    again = run_benchmark({**opt, 'methods': {'b': {'type': 'gaussian'}, **opt['methods']}}, tmp_path)
    assert counter.calls == 5 and again['cells']['set']['a'] == first['cells']['set']['a']


def test_run_benchmark_other_protocols_are_another_cell(pairs, tmp_path, monkeypatch):
    counter = Counter(limit=100)
    replace_method(monkeypatch, 'noisy', counter)
    opt = options(pairs, a={'type': 'noisy'})
    for protocols in (['psnr', 'ssim_gaussian'], ['psnr']):
        run_benchmark({**opt, 'protocols': protocols}, tmp_path)
    assert counter.calls == 10


def test_run_benchmark_changed_weights_or_images_are_evaluated_anew(pairs, tmp_path, network):
    opt = options(pairs, net={'type': 'denoiser', 'weights': str(network)})
    changes = (
        lambda: None,
        lambda: save_network(network, 2),
        lambda: (pairs / 'noisy/4.png').write_bytes((pairs / 'noisy/3.png').read_bytes()),
    )
    figures = []
    for change in changes:
        change()
        figures.append(run_benchmark(opt, tmp_path)['cells']['set']['net']['psnr'])
    assert len(set(figures)) == 3


def test_run_benchmark_other_crop_grid_of_a_finished_run(pairs, tmp_path):
    heights = []
    for images in (1, 3, 2):
        run_benchmark({**options(pairs, a={'type': 'noisy'}), 'crop_grid': {'images': images}}, tmp_path)
        heights.append(cv2.imread(str(tmp_path / 'results/benchmark/x/set.png')).shape[0])
    assert heights == [52 + images * (4 * CROP + 26) for images in (1, 3, 2)]


@pytest.mark.parametrize(
    ('run', 'message'),
    [
        (lambda image: 1 / 0, '^ZeroDivisionError: division by zero$'),
        (lambda image: exit('gone'), 'gone'),
        (lambda image: image / 255.0, r'expected a result of \(128, 144, 3\) uint8, got \(128, 144, 3\) float64'),
        (lambda image: image[1:], r'got \(127, 144, 3\)'),
    ],
    ids=['raises', 'exits', 'floats', 'smaller'],
)
def test_run_benchmark_broken_method_leaves_the_others(pairs, tmp_path, monkeypatch, run, message):
    replace_method(monkeypatch, 'broken', run)
    cells = run_benchmark(options(pairs, a={'type': 'broken'}, b={'type': 'noisy'}), tmp_path)['cells']['set']
    with pytest.raises(UserError, match=message):
        raise UserError(cells['a']['error'])
    assert cells['b']['psnr'] > 10


def test_run_benchmark_mended_method_is_evaluated(pairs, tmp_path, monkeypatch):
    opt = options(pairs, a={'type': 'mended'})
    for run in (lambda image: 1 / 0, lambda image: image):
        replace_method(monkeypatch, 'mended', run)
        cell = run_benchmark(opt, tmp_path)['cells']['set']['a']
    assert cell['psnr'] > 10


# ---- trainings ----


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


# ---- methods ----


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
