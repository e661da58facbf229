"""Paths of photographs: names that are not UTF-8, long names, special files."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

from basicsr_sassid.io.photo import Photo, image_size, list_images, read_header, read_photo, write_photo
from basicsr_sassid.utils.errors import UserError

from photo_scenes import scene

needs_bytes_in_names = pytest.mark.skipif(sys.platform != 'linux', reason='names are bytes on Linux')
FILES = [
    ('a.png', np.uint8, 3),
    ('a.png', np.uint16, 3),
    ('a.png', np.uint16, 1),
    ('a.jpg', np.uint8, 3),
    ('a.tif', np.uint16, 3),
    ('a.webp', np.uint8, 3),
    ('a.bmp', np.uint8, 3),
]


@needs_bytes_in_names
@pytest.mark.parametrize(('name', 'dtype', 'channels'), FILES)
def test_photo_below_a_folder_that_is_not_utf_8_is_written_and_read(tmp_path, name, dtype, channels):
    folder = os.fsencode(tmp_path) + b'/f\xff\xfe \x1b[31m'
    os.mkdir(folder)
    path = Path(os.fsdecode(folder)) / name
    photo = Photo(scene(32, 48, dtype, channels))  # for 1 channel a view that is not contiguous
    write_photo(photo, path)
    assert os.listdir(folder) == [name.encode()]
    assert read_photo(path).header == read_header(path) == photo.header and image_size(path) == (32, 48)
    if name != 'a.jpg':
        assert np.array_equal(read_photo(path).pixels, photo.pixels)


def test_photo_with_a_name_of_255_bytes_is_written_and_read(tmp_path):
    path = tmp_path / ('é' * 125 + 'x.png')
    assert len(os.fsencode(path.name)) == 255
    write_photo(Photo(scene(8, 9)), path)
    assert read_photo(path).pixels.shape == (8, 9, 3)


def special_files(folder: Path) -> dict[Path, str]:
    os.mkfifo(folder / 'pipe.png')
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(folder / 's.png'))
    server.close()
    (folder / 'device.png').symlink_to('/dev/zero')
    return {folder / 'pipe.png': 'a named pipe', folder / 's.png': 'a socket', folder / 'device.png': 'a device'}


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='special files of Unix')
@pytest.mark.timeout(20)
def test_read_photo_special_file_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    for path, kind in special_files(Path()).items():
        for read in (read_photo, image_size):
            with pytest.raises(UserError, match=f'cannot read {path}: it is {kind}; a photograph must be'):
                read(path)
    assert list_images(tmp_path) == []


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('missing.png', 'No such file or directory'),
        ('folder.png', 'Is a directory'),
        ('file/a.png', 'Not a directory'),
        ('circle.png', 'symbolic links'),
        ('x' * 300 + '.png', 'longer than the system allows'),
        ('zero\0.png', 'cannot be the name of a file'),
    ],
)
def test_read_photo_that_cannot_be_opened_raises_user_error(tmp_path, name, message):
    (tmp_path / 'folder.png').mkdir()
    (tmp_path / 'file').touch()
    (tmp_path / 'circle.png').symlink_to('circle.png')
    for read in (read_photo, image_size):
        with pytest.raises(UserError, match=message):
            read(tmp_path / name)
