"""`sassid denoise`: outputs that cannot be written, output names, inputs and outputs inside each other."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from basicsr_sassid.inference import files
from basicsr_sassid.inference.files import denoise_files, plan_outputs
from basicsr_sassid.io import atomic
from basicsr_sassid.io.photo import Photo, read_photo, write_photo
from basicsr_sassid.utils.errors import NoSpaceError, UserError

from photo_scenes import scene, write_student


@pytest.fixture(scope='module')
def weights(tmp_path_factory) -> Path:
    return write_student(tmp_path_factory.mktemp('weights') / 'net_g.pth')


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """a.png, b.png and raw/c.png below photos/, with the working directory above it."""
    monkeypatch.chdir(tmp_path)
    for name in ('a.png', 'b.png', 'raw/c.png'):
        write_photo(Photo(scene(40, 40)), tmp_path / 'photos' / name)
    return Path('photos')


def written(folder: str | Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob('*') if path.is_file())


def test_denoise_files_unwritable_format_is_returned_and_the_rest_written(photos, weights):
    write_photo(Photo(scene(40, 40, np.uint16)), photos / 'deep.tif')
    (photos / 'deep.tif').rename(photos / 'a_deep.jpg')
    failed = denoise_files([photos], 'out', weights)
    assert list(failed) == ['photos/a_deep.jpg'] and 'has no 16 bits a sample' in failed['photos/a_deep.jpg']
    assert written('out') == ['a.png', 'b.png', 'raw/c.png']


def test_denoise_files_unwritable_folder_is_returned_and_the_rest_written(photos, weights):
    Path('out').mkdir()
    Path('out/raw').write_text('a file')
    failed = denoise_files([photos], 'out', weights)
    assert list(failed) == ['photos/raw/c.png'] and 'A file is where a folder is needed' in failed['photos/raw/c.png']
    assert written('out') == ['a.png', 'b.png', 'raw'] and Path('out/raw').read_text() == 'a file'


def test_denoise_files_that_cannot_be_written_are_not_denoised(photos, weights, monkeypatch):
    Path('out/a.png').mkdir(parents=True)
    calls = []

    class CountingDenoiser(files.Denoiser):
        def __call__(self, image, progress=None):
            calls.append(image.shape)
            return super().__call__(image, progress)

    monkeypatch.setattr(files, 'Denoiser', CountingDenoiser)
    failed = denoise_files([photos], 'out', weights)
    assert list(failed) == ['photos/a.png'] and len(calls) == 2


def test_denoise_files_on_a_full_disk_is_one_error(photos, weights, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.os, 'fsync', full)
    with pytest.raises(NoSpaceError, match='cannot write out/a.png: No space left on device. Free some space'):
        denoise_files([photos], 'out', weights)
    assert written('out') == []


@pytest.mark.parametrize(
    ('name', 'message'), [('x.jpg', 'no 16 bits a sample'), ('photos/a.png/x.tif', 'A file is where a folder is')]
)
def test_denoise_files_one_file_is_checked_before_the_network_is_loaded(photos, name, message):
    write_photo(Photo(scene(40, 40, np.uint16)), photos / 'deep.tif')
    with pytest.raises(UserError, match=message):
        denoise_files([photos / 'deep.tif'], name, 'no weights')


def test_denoise_files_output_that_is_a_file_raises_user_error(photos):
    Path('notes.txt').write_text('kept')
    with pytest.raises(UserError, match='cannot make notes.txt: File exists. A file is where a folder is needed'):
        denoise_files([photos], 'notes.txt', 'no weights')


@pytest.mark.parametrize(
    ('inputs', 'output', 'message'),
    [
        (['photos'], 'x.png', '-o x.png: the name of one image file, but photos is a folder'),
        (['photos/a.png', 'photos/b.png'], 'x.png', '-o x.png: the name of one image file, but there are several'),
        (['photos/a.png'], 'x.gif', '-o x.gif: the name of one image file, but this format is not written'),
        (['photos'], '', '-o: the path is empty'),
        ([''], 'out', 'input: the path is empty'),
        (['photos'], '~nosuchuser/x', '-o: ~nosuchuser/x: no such user'),
        (['photos'], 'x' * 300, '-o: .* longer than the system allows'),
        (['photos/raw'], 'photos/raw', 'is an input and would be overwritten'),
        (['photos'], 'photos/../photos', 'is an input and would be overwritten'),
        (['photos/raw'], 'photos/raw/circle', 'no image|circle'),
    ],
)
def test_denoise_files_impossible_output_raises_user_error_and_writes_nothing(photos, inputs, output, message):
    before = written('.')
    if 'circle' in output:
        Path(output).symlink_to('circle')
    with pytest.raises(UserError, match=message):
        denoise_files(inputs, output, 'no weights')
    assert written('.') == before


def test_denoise_files_existing_folder_with_the_name_of_an_image_is_a_folder(photos, weights):
    Path('x.png').mkdir()
    assert denoise_files([photos], 'x.png', weights) == {}
    assert written('x.png') == ['a.png', 'b.png', 'raw/c.png']


@pytest.mark.parametrize('output', ['.', '..', 'photos', 'photos/raw/..', 'photos/raw/out', 'photos/rawer'])
def test_plan_outputs_input_folder_anywhere_around_the_output_is_read(photos, monkeypatch, output):
    if output == '..':
        monkeypatch.chdir(photos)
        photos = Path()
    assert plan_outputs([photos / 'raw'], Path(output)) == {photos / 'raw/c.png': Path(output) / 'c.png'}


def test_plan_outputs_is_the_same_for_a_second_call(photos, weights):
    first = plan_outputs([photos], photos / 'out')
    denoise_files([photos], photos / 'out', weights)
    assert plan_outputs([photos], photos / 'out') == first and len(first) == 3


def test_plan_outputs_all_images_in_the_output_folder_raises_user_error(photos):
    for name in ('a.png', 'b.png'):
        (photos / name).unlink()
    with pytest.raises(UserError, match='all images of photos are in .*photos/raw, where the results go'):
        plan_outputs([photos], photos / 'raw')


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='special files of Unix')
@pytest.mark.timeout(60)
def test_denoise_files_named_pipe_is_refused_or_skipped(photos, weights):
    os.mkfifo(photos / 'pipe.png')
    with pytest.raises(UserError, match='photos/pipe.png is a named pipe'):
        denoise_files([photos / 'pipe.png'], 'out', weights)
    assert denoise_files([photos], 'out', weights) == {} and len(written('out')) == 3


def test_denoise_files_names_that_are_no_text_reach_the_terminal_as_escapes(photos, weights, capsys):
    name = os.fsdecode(b'\x1b[31m\xff.png')
    write_photo(Photo(scene(40, 40, np.uint16)), photos / name)
    assert denoise_files([photos], 'out', weights) == {}
    assert read_photo(Path('out') / name).white == 65535
    progress = capsys.readouterr().err
    assert '\\x1b[31m\\xff.png' in progress and '\x1b[31m' not in progress


def test_denoise_files_keeps_resolution_and_kind_of_alpha(photos, weights):
    alpha = scene(40, 40, np.uint16)[..., 0]
    photo = Photo(scene(40, 40, np.uint16), alpha=alpha, alpha_kind='associated', dpi=(300, 300))
    write_photo(photo, photos / 'alpha.tif')
    denoise_files([photos / 'alpha.tif'], 'out', weights)
    result = read_photo('out/alpha.tif')
    assert (result.alpha_kind, result.dpi) == ('associated', (300, 300)) and np.array_equal(result.alpha, alpha)
