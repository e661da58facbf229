"""Photographs: every format back and forth, damage, foreign formats."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from basicsr_sassid.io.photo import Photo, decode_photo, image_size, list_images, read_photo, write_photo
from basicsr_sassid.utils.errors import UserError

KINDS = [
    ('a.png', np.uint8, 1),
    ('a.png', np.uint8, 3),
    ('a.png', np.uint16, 1),
    ('a.png', np.uint16, 3),
    ('a.tif', np.uint8, 3),
    ('a.tif', np.uint16, 1),
    ('a.tiff', np.uint16, 3),
    ('a.bmp', np.uint8, 3),
    ('a.webp', np.uint8, 3),
]
NO_ALPHA = [('a.bmp', np.uint8, 3)]


def random_photo(dtype, channels, with_alpha: bool = False) -> Photo:
    rng = np.random.default_rng(0)
    white = np.iinfo(dtype).max
    return Photo(
        rng.integers(0, white + 1, (21, 34, channels)).astype(dtype),
        alpha=rng.integers(1, white + 1, (21, 34)).astype(dtype) if with_alpha else None,
    )


@pytest.mark.parametrize(('name', 'dtype', 'channels'), KINDS)
def test_photo_written_and_read_is_unchanged(tmp_path, name, dtype, channels):
    photo = random_photo(dtype, channels)
    write_photo(photo, tmp_path / name)
    again = read_photo(tmp_path / name)
    assert again.pixels.dtype == dtype and np.array_equal(again.pixels, photo.pixels) and again.alpha is None


@pytest.mark.parametrize(('name', 'dtype', 'channels'), [kind for kind in KINDS if kind not in NO_ALPHA])
def test_photo_with_alpha_written_and_read_is_unchanged(tmp_path, name, dtype, channels):
    photo = random_photo(dtype, channels, with_alpha=True)
    write_photo(photo, tmp_path / name)
    again = read_photo(tmp_path / name)
    assert np.array_equal(again.pixels, photo.pixels) and np.array_equal(again.alpha, photo.alpha)


@pytest.mark.parametrize(
    ('name', 'dtype', 'channels', 'with_alpha'),
    [*((*kind, True) for kind in NO_ALPHA), ('a.jpg', np.uint8, 3, True), ('a.jpg', np.uint16, 3, False)],
)
def test_write_photo_unsupported_by_the_format_raises_user_error(tmp_path, name, dtype, channels, with_alpha):
    with pytest.raises(UserError, match='choose'):
        write_photo(random_photo(dtype, channels, with_alpha), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('name', 'dtype'),
    [
        ('a.png', np.uint8),
        ('a.png', np.uint16),
        ('a.jpg', np.uint8),
        ('a.tif', np.uint8),
        ('a.tif', np.uint16),
        ('a.webp', np.uint8),
    ],
)
def test_photo_profile_and_orientation_are_kept(tmp_path, name, dtype):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    exif = Image.Exif()
    exif[274], exif[271] = 6, 'camera maker'
    write_photo(Photo(np.zeros((8, 9, 3), dtype), icc=profile, exif=exif.tobytes()), tmp_path / name)
    again = read_photo(tmp_path / name)
    tags = Image.Exif()
    tags.load(again.exif)
    assert again.icc == profile and again.pixels.shape == (8, 9, 3) and tags[274] == 6
    assert name.endswith('.tif') or tags[271] == 'camera maker'


@pytest.mark.parametrize(('name', 'dtype'), [('a.png', np.uint8), ('a.tif', np.uint16), ('a.jpg', np.uint8)])
def test_image_size_is_height_and_width(tmp_path, name, dtype):
    write_photo(random_photo(dtype, 3), tmp_path / name)
    assert image_size(tmp_path / name) == (21, 34)


def test_list_images_leaves_out_hidden_and_other_files(tmp_path):
    for name in ('b.PNG', 'deep/a.jpg', '.hidden/c.png', '.d.png', 'notes.txt'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b'')
    assert [str(path.relative_to(tmp_path)) for path in list_images(tmp_path)] == ['b.PNG', 'deep/a.jpg']


@pytest.mark.parametrize('fraction', [0.3, 0.9])
@pytest.mark.parametrize('name', ['a.png', 'a.jpg', 'a.tif', 'deep.png'])
def test_decode_photo_cut_off_file_raises_user_error(tmp_path, name, fraction):
    image = np.random.default_rng(0).integers(0, 255, (90, 90, 3))
    image = image.astype(np.uint16) * 257 if name == 'deep.png' else image.astype(np.uint8)
    cv2.imwrite(str(tmp_path / name), image)
    content = (tmp_path / name).read_bytes()
    with pytest.raises(UserError, match=f'cannot read {name}'):
        decode_photo(content[: int(len(content) * fraction)], name)


def test_decode_photo_empty_file_raises_user_error():
    with pytest.raises(UserError, match='the file is empty'):
        decode_photo(b'', 'a.png')


def test_decode_photo_damaged_16_bit_png_raises_user_error(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.random.default_rng(0).integers(0, 65535, (60, 60, 3)).astype(np.uint16))
    content = bytearray((tmp_path / 'a.png').read_bytes())
    content[len(content) // 2] ^= 255
    with pytest.raises(UserError, match='damaged'):
        decode_photo(bytes(content), 'a.png')


@pytest.mark.parametrize(
    ('name', 'message'),
    [('a.CR2', 'is a RAW file. Develop it'), ('a.mp4', 'is a video'), ('a.heic', 'of a format that is not read here')],
)
def test_read_photo_foreign_format_raises_user_error(tmp_path, name, message):
    (tmp_path / name).write_bytes(b'II*\0')
    with pytest.raises(UserError, match=message):
        read_photo(tmp_path / name)
