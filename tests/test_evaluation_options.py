"""Options of an evaluation, and its datasets."""

from __future__ import annotations

from pathlib import Path

import pytest

from basicsr_sassid.evaluation.iqa_schema import is_iqa, parse_iqa
from basicsr_sassid.evaluation.pairs import read_pairs
from basicsr_sassid.evaluation.runner import check_benchmark, run_benchmark
from basicsr_sassid.evaluation.schema import DatasetOptions
from basicsr_sassid.training.options import read_options
from basicsr_sassid.utils.errors import UserError

from evaluation_scenes import options
from helpers import ROOT, tree

OPTION_FILES = sorted((ROOT / 'options/evaluation').glob('*.yml'))
SIZE = (128, 144)  # pixels: no smaller image is used for the blend


@pytest.mark.parametrize('path', OPTION_FILES, ids=lambda path: path.name)
def test_option_file_of_the_package_is_valid(path):
    opt = read_options(path)
    if is_iqa(opt):
        parse_iqa(opt)
    else:
        check_benchmark(opt)


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
            "^methods.a.sigma: expected a number > 0, or {best_of: .numbers.}, got 'x'",
        ),
        (
            {'methods': {'a': {'type': 'gaussian', 'sigma': {'best_of': []}}}},
            '^methods.a.sigma: expected a number > 0, or',
        ),
        ({'methods': {'a': {'type': 'opencv_nlm', 'h': 'auto'}}}, '^methods.a.h: expected a number > 0, sigma, or'),
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


# ---- what is tried before the first image ----


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'name': '../x'}, '^name: expected the name of a file or folder'),
        ({'protocols': ['pyiqa:nothing']}, '^protocols.pyiqa:nothing: metric nothing|pyiqa knows'),
        ({'protocols': ['pyiqa:']}, '^protocols: expected some of'),
        ({'device': 'cuda:7'}, "^device 'cuda:7'"),
        ({'trainings': {'t': {'opt': 'sassid/train_cpu.yml', 'minutes': float('nan')}}}, 'minutes: .*finite'),
        (
            {'trainings': {'t': {'opt': 'sassid/train_cpu.yml', 'minutes': 1, 'force_yml': ['train:grad_clip=-1']}}},
            '^trainings.t: train.grad_clip: expected a number > 0, got -1',
        ),
        ({'trainings': {'../t': {'opt': 'sassid/train_cpu.yml', 'minutes': 1}}}, 'expected the name of a file'),
        ({'methods': {'a': {'type': 'gaussian', 'sigma': -1}}}, '^methods.a.sigma: expected a number > 0'),
        ({'methods': {'a': {'type': 'skimage_tv', 'weights': []}}}, '^methods.a.weights'),
    ],
)
def test_run_benchmark_unusable_option_is_refused_before_anything_is_written(pairs, tmp_path, changes, message):
    before = tree(tmp_path)
    with pytest.raises(UserError, match=message):
        run_benchmark({**options(pairs, a={'type': 'noisy'}), **changes}, tmp_path)
    assert tree(tmp_path) == before


def test_run_benchmark_dataset_name_with_a_separator_is_refused(pairs, tmp_path):
    opt = options(pairs, a={'type': 'noisy'})
    opt['datasets'] = {'../set': opt['datasets']['set']}
    with pytest.raises(UserError, match='^datasets.*expected the name of a file or folder'):
        run_benchmark(opt, tmp_path)


def test_run_benchmark_announces_methods_that_will_fail(pairs, tmp_path, capsys):
    broken = {'type': 'denoiser', 'weights': 'nowhere.pth'}
    run_benchmark(options(pairs, a={'type': 'noisy'}, b=broken), tmp_path)
    first, *_ = capsys.readouterr().err.splitlines()
    assert first.startswith('methods.b will fail: weights: no such file or folder: nowhere.pth')
