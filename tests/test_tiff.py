"""TIFF files: compressions, depths, colour kinds, pages and thumbnails."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from basicsr_sassid.io import tiff
from basicsr_sassid.io.photo import image_size, read_header, read_photo, write_photo
from basicsr_sassid.utils.errors import UserError

from photo_scenes import scene

older_libraries = pytest.mark.skipif(
    sys.version_info < (3, 11), reason='the last tifffile and Pillow for Python 3.10 do not read it'
)
PICTURE = scene(48, 64)
DEEP = scene(48, 64, np.uint16)


def with_pillow(pixels: np.ndarray, path: Path, **settings) -> None:
    Image.fromarray(pixels).save(path, 'TIFF', **settings)


def read_both(path: Path) -> np.ndarray:
    """Pixels of a file whose header agrees with them, and which is the same after writing."""
    photo = read_photo(path)
    assert read_header(path) == photo.header and image_size(path) == photo.pixels.shape[:2]
    write_photo(photo, path.with_name('again.tif'))
    assert np.array_equal(read_photo(path.with_name('again.tif')).interleaved(), photo.interleaved())
    return photo.pixels


@pytest.mark.parametrize('pixels', [PICTURE, DEEP, DEEP[..., :1]], ids=['rgb', 'rgb16', 'grey16'])
def test_read_photo_tiff_of_opencv_is_unchanged(tmp_path, pixels):
    cv2.imwrite(str(tmp_path / 'a.tif'), pixels[..., ::-1])  # LZW with a predictor
    assert np.array_equal(read_both(tmp_path / 'a.tif'), pixels)


@pytest.mark.parametrize('compression', ['none', 'lzw', 'packbits', 'deflate', 'zstd', 'lzma', 'png'])
@pytest.mark.parametrize('pixels', [PICTURE, DEEP], ids=['rgb', 'rgb16'])
def test_read_photo_lossless_compression_of_tiff_is_unchanged(tmp_path, compression, pixels):
    tifffile.imwrite(tmp_path / 'a.tif', pixels, photometric='rgb', compression=compression)
    assert np.array_equal(read_both(tmp_path / 'a.tif'), pixels)


@pytest.mark.parametrize('arguments', [{'tile': (16, 16)}, {'rowsperstrip': 5}, {'planarconfig': 'separate'}])
@pytest.mark.parametrize('byteorder', ['<', '>'])
def test_read_photo_layout_of_tiff_is_unchanged(tmp_path, arguments, byteorder):
    is_planar = 'planarconfig' in arguments
    stored = np.moveaxis(DEEP, 2, 0) if is_planar else DEEP
    tifffile.imwrite(tmp_path / 'a.tif', stored, photometric='rgb', compression='lzw', byteorder=byteorder, **arguments)
    assert np.array_equal(read_both(tmp_path / 'a.tif'), DEEP)


@pytest.mark.parametrize(
    'compression',
    [
        None,
        *(pytest.param(name, marks=older_libraries) for name in ('group3', 'group4', 'tiff_ccitt')),
        'packbits',
        'tiff_lzw',
    ],
)
def test_read_photo_bilevel_tiff_is_black_and_white(tmp_path, compression):
    bilevel = Image.fromarray(PICTURE).convert('1')
    bilevel.save(tmp_path / 'a.tif', compression=compression)
    assert np.array_equal(read_both(tmp_path / 'a.tif')[..., 0], np.array(bilevel) * np.uint8(255))


@pytest.mark.parametrize(('bits', 'white'), [(2, 255), (4, 255), (10, 65535), (12, 65535), (14, 65535)])
def test_read_photo_other_depths_are_scaled_to_white(tmp_path, bits, white):
    stored = np.arange(48 * 64).reshape(48, 64) % 2**bits
    stored[0, 0] = 2**bits - 1
    (tmp_path / 'a.tif').write_bytes(packed_tiff(stored, bits))
    assert np.array_equal(read_both(tmp_path / 'a.tif')[..., 0], np.round(stored * (white / (2**bits - 1))))


def packed_tiff(values: np.ndarray, bits: int) -> bytes:
    """A grey TIFF with any number of bits a sample."""
    rows = np.unpackbits(values.astype('>u2').view(np.uint8).reshape(*values.shape, 2), axis=2)[..., 16 - bits :]
    return tiff_of(np.packbits(rows.reshape(len(values), -1), axis=1).tobytes(), values.shape, bits=bits)


def tiff_of(data: bytes, shape: tuple[int, int], bits: int = 8, **tags: int) -> bytes:
    """A grey TIFF with one strip, its header written by hand."""
    values = {256: shape[1], 257: shape[0], 258: bits, 259: 1, 262: 1, 277: 1, 278: shape[0], 279: len(data)}
    values.update({int(key[1:]): value for key, value in tags.items()})
    values[273] = 8 + 2 + 12 * (len(values) + 1) + 4
    entries = b''.join(struct.pack('<HHII', key, 4, 1, values[key]) for key in sorted(values))
    return b'II*\0' + struct.pack('<IH', 8, len(values)) + entries + struct.pack('<I', 0) + data


@pytest.mark.parametrize(('channels', 'photometric'), [(1, 1), (3, 6)])
def test_read_photo_old_style_jpeg_tiff_is_read(tmp_path, channels, photometric):
    buffer = io.BytesIO()
    Image.fromarray(PICTURE if channels == 3 else PICTURE[..., 0]).save(buffer, 'JPEG', quality=95)
    length = len(buffer.getvalue())
    tags = {'t259': 6, 't262': photometric, 't277': channels, 't512': 1, 't513': 0, 't514': length}
    tags['t513'] = tiff_of(buffer.getvalue(), (48, 64), **tags).index(b'\xff\xd8')
    (tmp_path / 'a.tif').write_bytes(tiff_of(buffer.getvalue(), (48, 64), **tags))
    with Image.open(buffer) as expected:
        assert np.array_equal(read_both(tmp_path / 'a.tif').squeeze(), np.array(expected))


@pytest.mark.parametrize('subsampling', [(1, 1), (2, 2)])
def test_read_photo_jpeg_tiff_is_close(tmp_path, subsampling):
    smooth = cv2.GaussianBlur(PICTURE, (0, 0), 3)
    tifffile.imwrite(tmp_path / 'a.tif', smooth, photometric='rgb', compression='jpeg', subsampling=subsampling)
    with_pillow(smooth, tmp_path / 'b.tif', compression='jpeg', quality=95)
    for name in ('a.tif', 'b.tif'):
        assert np.abs(read_both(tmp_path / name).astype(int) - smooth).mean() < 3


@pytest.mark.parametrize('compression', [pytest.param(None, marks=older_libraries), 'tiff_lzw'])
def test_read_photo_uncompressed_ycbcr_tiff_is_rgb(tmp_path, compression):
    picture = Image.fromarray(PICTURE)
    picture.convert('YCbCr').save(tmp_path / 'a.tif', compression=compression)
    assert np.abs(read_both(tmp_path / 'a.tif').astype(int) - PICTURE).max() <= 4


def test_read_photo_compression_that_the_library_lacks_is_named(tmp_path, monkeypatch):
    def read_tiff(_):
        raise ValueError('<COMPRESSION.CCITT_T4: 3> not supported')

    monkeypatch.setattr(tiff, 'read_tiff', read_tiff)
    with_pillow(PICTURE, tmp_path / 'a.tif')
    with pytest.raises(UserError, match='CCITT_T4: 3> not supported by the installed tifffile, and a newer one'):
        read_photo(tmp_path / 'a.tif')


def test_read_photo_palette_tiff_is_rgb(tmp_path):
    picture = Image.fromarray(PICTURE).quantize(32)
    picture.save(tmp_path / 'a.tif')
    assert np.array_equal(read_both(tmp_path / 'a.tif'), np.array(picture.convert('RGB')))


@pytest.mark.parametrize('with_alpha', [False, True])
def test_read_photo_white_is_zero_tiff_inverts_the_grey_alone(tmp_path, with_alpha):
    stored = np.dstack((PICTURE[..., 0], PICTURE[..., 1])) if with_alpha else PICTURE[..., 0]
    arguments = {'extrasamples': ['unassalpha'], 'planarconfig': 'contig'} if with_alpha else {}
    tifffile.imwrite(tmp_path / 'a.tif', stored, photometric='miniswhite', **arguments)
    assert np.array_equal(read_both(tmp_path / 'a.tif')[..., 0], 255 - PICTURE[..., 0])
    if with_alpha:
        assert np.array_equal(read_photo(tmp_path / 'a.tif').alpha, PICTURE[..., 1])


@pytest.mark.parametrize(
    ('pixels', 'arguments', 'message'),
    [
        (np.zeros((9, 9, 3), np.float32), {'photometric': 'rgb'}, 'expected 8 or 16 bits a sample, got float32'),
        (np.zeros((9, 9), np.int16), {'photometric': 'minisblack'}, 'expected 8 or 16 bits a sample, got int16'),
        (np.zeros((9, 9, 4), np.uint8), {'photometric': 'separated'}, 'colour mode SEPARATED is not supported'),
        (np.zeros((9, 9, 5), np.uint8), {'photometric': 'rgb', 'planarconfig': 'contig'}, '5 channels of kind RGB'),
        (np.zeros((9, 9, 4), np.uint8), {'photometric': 'minisblack', 'planarconfig': 'contig'}, '4 channels of kind'),
        (np.zeros((9, 9), np.uint16), {'photometric': 'cfa'}, 'colour mode CFA is not supported'),
    ],
)
def test_read_photo_unsupported_tiff_raises_user_error(tmp_path, pixels, arguments, message):
    tifffile.imwrite(tmp_path / 'a.tif', pixels, **arguments)
    for read in (read_photo, image_size):
        with pytest.raises(UserError, match=message):
            read(tmp_path / 'a.tif')


def write_pages(path: Path, *pages: tuple[np.ndarray, dict]) -> None:
    with tifffile.TiffWriter(path) as tiff:
        for pixels, arguments in pages:
            tiff.write(pixels, photometric='rgb', metadata=None, **arguments)


SMALL = PICTURE[::4, ::4]
HALF = PICTURE[::2, ::2]


@pytest.mark.parametrize(
    'pages',
    [
        [(PICTURE, {}), (PICTURE, {})],
        [(PICTURE, {}), (HALF, {})],
        [(HALF, {}), (PICTURE, {}), (PICTURE[:, ::4], {})],
        [(PICTURE, {'subfiletype': 2}), (PICTURE, {'subfiletype': 2})],
        [(PICTURE, {'subfiletype': 1}), (PICTURE, {'subfiletype': 1})],
        [(PICTURE, {'subifds': 1}), (PICTURE, {})],
    ],
)
def test_read_photo_tiff_of_several_pages_is_refused(tmp_path, pages):
    write_pages(tmp_path / 'a.tif', *pages)
    for read in (read_photo, image_size):
        with pytest.raises(UserError, match=f'it has {len(pages)} pages or frames.* Split it first .magick FILE'):
            read(tmp_path / 'a.tif')


@pytest.mark.parametrize('arguments', [{'photometric': 'minisblack'}, {'imagej': True}])
def test_read_photo_tiff_of_several_pages_under_one_header_is_refused(tmp_path, arguments):
    tifffile.imwrite(tmp_path / 'a.tif', np.zeros((3, 40, 50), np.uint8), truncate=True, **arguments)
    for read in (read_photo, image_size):
        with pytest.raises(UserError, match='it has 3 pages'):
            read(tmp_path / 'a.tif')


@pytest.mark.parametrize(
    'pages',
    [
        [(SMALL, {'subfiletype': 1}), (PICTURE, {})],
        [(SMALL, {}), (PICTURE, {})],
        [(PICTURE, {}), (SMALL, {})],
        [(PICTURE, {}), (HALF, {'subfiletype': 1}), (SMALL, {'subfiletype': 1})],
        [(SMALL, {'subfiletype': 1, 'subifds': 1}), (PICTURE, {})],
        [(PICTURE, {'subifds': 2}), (HALF, {'subfiletype': 1}), (SMALL, {'subfiletype': 1})],
        [(PICTURE, {'subfiletype': 1})],
    ],
)
def test_read_photo_tiff_with_thumbnails_is_the_photograph(tmp_path, pages):
    write_pages(tmp_path / 'a.tif', *pages)
    assert np.array_equal(read_both(tmp_path / 'a.tif'), PICTURE)


def test_read_photo_palette_behind_a_thumbnail_is_the_photograph(tmp_path):
    picture = Image.fromarray(PICTURE).quantize(32)
    thumbnail = Image.fromarray(SMALL)
    thumbnail.save(tmp_path / 'a.tif', save_all=True, append_images=[picture])
    assert np.array_equal(read_both(tmp_path / 'a.tif'), np.array(picture.convert('RGB')))


def test_read_photo_tiff_with_another_extension_agrees_with_its_size(tmp_path):
    tifffile.imwrite(tmp_path / 'a.png', DEEP, photometric='rgb')
    assert image_size(tmp_path / 'a.png') == (48, 64) and np.array_equal(read_photo(tmp_path / 'a.png').pixels, DEEP)


@pytest.mark.parametrize('compression', ['none', 'lzw', 'packbits', 'zstd', 'jpeg', 'png'])
@pytest.mark.parametrize('fraction', [0.2, 0.6, 0.98])
def test_read_photo_tiff_cut_off_is_refused_silently(tmp_path, compression, fraction, capfd):
    tifffile.imwrite(tmp_path / 'a.tif', PICTURE, photometric='rgb', compression=compression, rowsperstrip=16)
    content = (tmp_path / 'a.tif').read_bytes()
    (tmp_path / 'a.tif').write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(UserError, match='it is damaged or cut off'):
        read_photo(tmp_path / 'a.tif')
    assert capfd.readouterr() == ('', '')


def test_read_photo_tiff_with_a_missing_strip_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / 'a.tif', PICTURE, photometric='rgb', rowsperstrip=16)
    with tifffile.TiffFile(tmp_path / 'a.tif', mode='r+b') as tiff:
        tiff.pages[0].tags['StripByteCounts'].overwrite((16 * 64 * 3, 0, 16 * 64 * 3))
    with pytest.raises(UserError, match='parts of its pixels are missing'):
        read_photo(tmp_path / 'a.tif')
