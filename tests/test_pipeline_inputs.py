"""`sassid clean`: photographs of all kinds, and those that cannot be denoised."""

from __future__ import annotations

import shutil
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from PIL import Image

from basicsr_sassid import SpectralDenoiser, estimate_noise
from basicsr_sassid.io.photo import Photo, read_photo, write_photo
from basicsr_sassid.pipeline.api import clean_photos
from basicsr_sassid.utils.errors import UserError

from clean_runs import noisy_cat, scenes, write_scenes


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_scenes(tmp_path / 'photos', 128, 160)


def written_files(output: Path) -> set[str]:
    paths = [path.relative_to(output) for path in output.rglob('*') if path.is_file()]
    return {str(path) for path in paths if path.parts[0] != '.sassid'}


# ---- photographs of all kinds ----

LONG_NAME = 'ü' * 100 + '名.png'


@pytest.fixture(scope='module')
def mixed(tmp_path_factory):
    """Folder with an output inside, the files that were left out, and a second call's outputs."""
    photos = tmp_path_factory.mktemp('mixed')
    noisy = noisy_cat()[:128, :160]
    write_photo(Photo(noisy), photos / LONG_NAME)
    write_photo(Photo(noisy[..., :1].astype(np.uint16) * 257), photos / 'grey' / 'deep.tif')
    write_photo(Photo(noisy[:9, :7]), photos / 'tiny.png')
    (photos / 'empty.jpg').touch()
    (photos / 'photo.NEF').write_bytes(b'II*\0')
    (photos / 'clip.mp4').write_bytes(b'x')
    (photos / 'cut.png').write_bytes((photos / LONG_NAME).read_bytes()[:9000])
    failed = clean_photos([photos], photos / 'out', effort='instant')
    return photos, failed


def test_clean_photos_unreadable_files_are_left_out(mixed):
    assert sorted(Path(file).name for file in mixed[1]) == ['clip.mp4', 'cut.png', 'empty.jpg', 'photo.NEF']


@pytest.mark.parametrize(
    ('file', 'hint'), [('photo.NEF', 'darktable-cli photo.NEF'), ('clip.mp4', 'ffmpeg -i clip.mp4')]
)
def test_clean_photos_foreign_format_has_a_conversion(mixed, file, hint):
    assert hint in mixed[1][str(mixed[0] / file)]


def test_clean_photos_readable_files_are_written_under_their_names(mixed):
    assert written_files(mixed[0] / 'out') == {LONG_NAME, 'grey/deep.tif', 'tiny.png', 'report.html'}


def test_clean_photos_16_bit_file_stays_16_bit(mixed):
    assert read_photo(mixed[0] / 'out' / 'grey' / 'deep.tif').pixels.dtype == np.uint16


def test_clean_photos_output_inside_the_input_is_not_taken_for_an_input(mixed):
    before = written_files(mixed[0] / 'out')
    clean_photos([mixed[0]], mixed[0] / 'out', effort='instant')
    assert written_files(mixed[0] / 'out') == before


def test_clean_photos_grey_among_colour_is_printed(folder, tmp_path, capsys):
    write_photo(Photo(noisy_cat()[:128, :160, :1]), folder / 'grey.png')
    clean_photos([folder], tmp_path / 'out', effort='instant')
    assert '1 of 3 are grey' in capsys.readouterr().out


@pytest.mark.parametrize(('num_colour', 'num_grey'), [(4, 1), (1, 4)])
def test_spectral_denoiser_grey_among_colour_is_denoised_as_alone(num_colour, num_grey):
    rng = np.random.default_rng(0)

    def noise_image(channels: int) -> np.ndarray:
        return np.round(128 + rng.normal(0, 15, (192, 192, channels))).clip(0, 255).astype(np.uint8)

    colour, grey = [noise_image(3) for _ in range(num_colour)], [noise_image(1) for _ in range(num_grey)]
    denoise = SpectralDenoiser(estimate_noise([*colour, *grey]))
    assert max(denoise(colour[0]).std(), denoise(grey[0]).std()) < 1.5


def test_clean_photos_all_smaller_than_a_crop_are_written(tmp_path):
    write_photo(Photo(noisy_cat()[:100, :200]), tmp_path / 'photos' / 'small.png')
    clean_photos([tmp_path / 'photos'], tmp_path / 'out', effort='instant')
    assert written_files(tmp_path / 'out') == {'small.png', 'report.html'}


def test_clean_photos_alpha_in_a_misnamed_jpeg_is_left_out(folder, tmp_path):
    noisy = noisy_cat()[:128, :160]
    Image.fromarray(np.dstack([noisy, noisy[..., :1]])).save(tmp_path / 'alpha.png')
    (tmp_path / 'alpha.png').rename(folder / 'alpha.jpg')
    failed = clean_photos([folder], tmp_path / 'out', effort='instant')
    assert 'has no alpha channel' in failed[str(folder / 'alpha.jpg')]


def test_clean_photos_output_among_the_inputs_is_left_out(folder, tmp_path):
    clean_photos([folder / 'cat.png', tmp_path / 'out'], tmp_path / 'out', effort='instant')  # of the shell's *
    assert written_files(tmp_path / 'out') == {'cat.png', 'report.html'}


def test_clean_photos_output_that_names_an_image_raises_user_error(folder, tmp_path):
    with pytest.raises(UserError, match='x.jpg: expected a folder'):
        clean_photos([folder], tmp_path / 'x.jpg', effort='instant')


def test_clean_photos_two_kinds_of_noise_are_printed(tmp_path, capsys):
    rng = np.random.default_rng(0)
    scene = scenes()['coffee'][1][:192, :256]
    for number, sigma in enumerate((4, 4, 4, 25, 25)):
        noisy = (scene + rng.normal(0, sigma, scene.shape)).clip(0, 255).astype(np.uint8)
        write_photo(Photo(noisy), tmp_path / 'photos' / f'{number}.png')
    clean_photos([tmp_path / 'photos'], tmp_path / 'out', effort='instant')
    assert 'Their noise differs' in capsys.readouterr().out


# ---- photographs that cannot be denoised ----


def almost_clean(folder: Path) -> None:
    smooth = cv2.GaussianBlur(cv2.resize(skimage.data.coffee(), None, fx=3, fy=3), (0, 0), 6)
    write_photo(Photo(smooth), folder / 'a.png')


def too_small_to_measure(folder: Path) -> None:
    write_photo(Photo(noisy_cat()[:20, :20]), folder / 'a.png')


def too_narrow_to_train_on(folder: Path) -> None:
    write_photo(Photo(noisy_cat()[:100, :300]), folder / 'a.png')


def raw_alone(folder: Path) -> None:
    folder.mkdir()
    (folder / 'a.CR2').write_bytes(b'II*\0')


def damaged_alone(folder: Path) -> None:
    folder.mkdir()
    (folder / 'a.png').touch()


@pytest.mark.parametrize(
    ('write', 'message'),
    [
        (almost_clean, 'almost no noise found: its standard deviation is 0'),
        (too_small_to_measure, 'nothing to measure or to train on'),
        (too_narrow_to_train_on, 'no photograph is 128 pixels a side'),
        (raw_alone, 'no image'),
        (damaged_alone, 'none of the photographs can be read'),
    ],
)
def test_clean_photos_unsuitable_photographs_raise_user_error(tmp_path, write, message):
    write(tmp_path / 'photos')
    with pytest.raises(UserError, match=message):
        clean_photos([tmp_path / 'photos'], tmp_path / 'out')


def test_clean_photos_raw_file_raises_user_error_with_a_conversion(tmp_path):
    raw_alone(tmp_path / 'raw')
    with pytest.raises(UserError, match='is a RAW file. Develop it to a 16-bit TIFF'):
        clean_photos([tmp_path / 'raw' / 'a.CR2'], tmp_path / 'out')


def test_clean_photos_two_inputs_of_one_name_raise_user_error(folder, tmp_path):
    shutil.copytree(folder, tmp_path / 'other')
    with pytest.raises(UserError, match='would both be written to'):
        clean_photos([folder / 'cat.png', tmp_path / 'other' / 'cat.png'], tmp_path / 'out')


def test_clean_photos_too_little_space_raises_user_error_before_training(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: types.SimpleNamespace(free=1000))
    with pytest.raises(UserError, match='GB are needed in .*0.0 GB are free'):
        clean_photos([folder], tmp_path / 'out')
