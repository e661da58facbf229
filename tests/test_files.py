"""`sassid denoise`: image files to image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from basicsr_sassid.inference.files import denoise_files, plan_outputs
from basicsr_sassid.io.photo import Photo, read_photo, write_photo
from basicsr_sassid.utils.errors import UserError

from photo_scenes import scene, write_student

ALPHA = np.arange(2000, dtype=np.uint8).reshape(40, 50)


@pytest.fixture(scope='module')
def weights(tmp_path_factory) -> Path:
    return write_student(tmp_path_factory.mktemp('weights') / 'net_g.pth')


@pytest.fixture(scope='module')
def denoised(tmp_path_factory, weights) -> tuple[dict[str, Photo], Path, dict[str, str]]:
    """The photographs of a folder, the folder of their results, and the files that failed."""
    folder = tmp_path_factory.mktemp('files')
    exif = Image.Exif()
    exif[274] = 8
    photos = {
        'a.jpg': Photo(scene(40, 50), exif=exif.tobytes()),
        'deep/b.png': Photo(scene(50, 40, np.uint16)),
        'deep/grey.tif': Photo(scene(40, 40, np.uint16, 1)),
        'alpha.png': Photo(scene(40, 50), alpha=ALPHA),
    }
    for name, photo in photos.items():
        write_photo(photo, folder / 'in' / name)
    (folder / 'in' / 'broken.png').write_bytes(b'\x89PNG')
    (folder / 'in' / 'notes.txt').write_text('no image')
    failed = denoise_files([folder / 'in'], folder / 'out', weights)
    return photos, folder / 'out', failed


def test_denoise_files_keeps_names_and_folders(denoised):
    photos, output, _ = denoised
    written = sorted(str(path.relative_to(output)) for path in output.rglob('*') if path.is_file())
    assert written == sorted(photos)


def test_denoise_files_keeps_shape_and_depth(denoised):
    photos, output, _ = denoised
    for name, photo in photos.items():
        result = read_photo(output / name).pixels
        assert result.shape == photo.pixels.shape and result.dtype == photo.pixels.dtype
        assert not np.array_equal(result, photo.pixels)


def test_denoise_files_keeps_alpha(denoised):
    assert np.array_equal(read_photo(denoised[1] / 'alpha.png').alpha, ALPHA)


def test_denoise_files_keeps_the_orientation(denoised):
    tags = Image.Exif()
    tags.load(read_photo(denoised[1] / 'a.jpg').exif)
    assert tags[274] == 8


def test_denoise_files_unreadable_file_is_returned(denoised):
    assert [Path(file).name for file in denoised[2]] == ['broken.png']


@pytest.fixture
def two_folders(tmp_path) -> Path:
    for folder in ('one', 'two'):
        write_photo(Photo(scene(40, 40)), tmp_path / folder / 'a.png')
    return tmp_path


@pytest.mark.parametrize(
    ('inputs', 'output'), [(['one'], 'one'), (['one/a.png'], 'one/../one/a.png'), (['one/a.png', 'two/a.png'], 'two')]
)
def test_denoise_files_onto_an_input_raises_user_error(two_folders, weights, inputs, output):
    before = (two_folders / 'one' / 'a.png').read_bytes()
    with pytest.raises(UserError, match='is an input and would be overwritten'):
        denoise_files([two_folders / name for name in inputs], two_folders / output, weights)
    assert (two_folders / 'one' / 'a.png').read_bytes() == before


def test_denoise_files_two_inputs_for_one_output_raise_user_error(two_folders, weights):
    with pytest.raises(UserError, match='would both be written to'):
        denoise_files([two_folders / 'one', two_folders / 'two'], two_folders / 'out', weights)
    assert not (two_folders / 'out').exists()


def test_denoise_files_one_file_to_a_file_name_is_that_file(two_folders, weights):
    denoise_files([two_folders / 'one/a.png'], two_folders / 'new.png', weights)
    assert (two_folders / 'new.png').is_file()


def test_plan_outputs_skips_the_output_folder_inside_the_input(two_folders):
    write_photo(Photo(scene(40, 40)), two_folders / 'out' / 'old.png')
    assert two_folders / 'out' / 'old.png' not in plan_outputs([two_folders], two_folders / 'out')
