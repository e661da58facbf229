"""`sassid denoise` without --weights: the spectral denoiser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from basicsr.metrics import calculate_psnr

from basicsr_sassid import SpectralDenoiser, estimate_noise
from basicsr_sassid.cli import run
from basicsr_sassid.io.photo import Photo, read_photo, write_photo
from basicsr_sassid.pipeline.untrained import denoise_photographs
from basicsr_sassid.utils.errors import UserError
from sassid import build_parser

from noise_scenes import camera_pairs, unit_range


@pytest.fixture(scope='module')
def denoised(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """Two photographs, denoised; beside them a file that is no image."""
    folder = tmp_path_factory.mktemp('untrained')
    for number, (noisy, _) in enumerate(camera_pairs()[0][:2]):
        write_photo(Photo(noisy), folder / 'in' / f'{number}.png')
    (folder / 'in' / 'damaged.png').write_bytes(b'no image')
    return folder, denoise_photographs([folder / 'in'], folder / 'out')


def test_denoise_photographs_are_those_of_the_spectral_denoiser(denoised):
    folder, _ = denoised
    pairs = camera_pairs()[0][:2]
    spectral = SpectralDenoiser(estimate_noise(unit_range(noisy) for noisy, _ in pairs))
    for number, (noisy, _) in enumerate(pairs):
        result = read_photo(folder / 'out' / f'{number}.png').pixels
        assert np.abs(result.astype(int) - spectral(noisy)).max() <= 1


def test_denoise_photographs_gain_seven_decibels(denoised):
    folder, _ = denoised
    for number, (noisy, clean) in enumerate(camera_pairs()[0][:2]):
        result = read_photo(folder / 'out' / f'{number}.png').pixels
        assert calculate_psnr(result, clean, 0) > calculate_psnr(noisy, clean, 0) + 7


def test_denoise_photographs_names_what_cannot_be_read_and_writes_the_rest(denoised):
    folder, failed = denoised
    assert [Path(file).name for file in failed] == ['damaged.png']
    assert sorted(path.name for path in (folder / 'out').iterdir()) == ['0.png', '1.png']


def test_denoise_command_without_weights_denoises_one_file_to_a_file(denoised, tmp_path, capsys):
    folder, _ = denoised
    target = tmp_path / 'clean.png'
    run(build_parser().parse_args(['denoise', str(folder / 'in/0.png'), '-o', str(target), '--device', 'cpu']))
    assert read_photo(target).pixels.shape == (320, 400, 3)
    assert capsys.readouterr().err.startswith('noise of ')


@pytest.mark.parametrize(
    'option', [['--network', 'RRDBNet'], ['--blind-size', '3'], ['--tile', '64'], ['--precision', 'fp32']]
)
def test_denoise_command_option_of_other_weights_is_refused(tmp_path, capsys, option):
    write_photo(Photo(camera_pairs()[0][0][0]), tmp_path / 'a.png')
    with pytest.raises(SystemExit):
        run(build_parser().parse_args(['denoise', str(tmp_path / 'a.png'), '-o', str(tmp_path / 'out'), *option]))
    assert f'error: {" ".join(option)}: an option of networks' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('image', 'message'),
    [
        (np.full((20, 20, 3), 90, np.uint8), 'nothing to measure'),
        (np.full((64, 64, 3), 90, np.uint8), 'almost no noise'),
    ],
)
def test_denoise_photographs_nothing_to_remove_is_refused(tmp_path, image, message):
    write_photo(Photo(image), tmp_path / 'in/a.png')
    with pytest.raises(UserError, match=message):
        denoise_photographs([tmp_path / 'in'], tmp_path / 'out')
    assert list((tmp_path / 'out').iterdir()) == []


def test_denoise_photographs_without_a_readable_file_is_refused(tmp_path):
    (tmp_path / 'a.png').write_bytes(b'no image')
    with pytest.raises(UserError, match='none of the photographs can be read'):
        denoise_photographs([tmp_path / 'a.png'], tmp_path / 'out')
