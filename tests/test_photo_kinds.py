"""Photographs: transparency, kinds of alpha, resolution, animations, size limits."""

from __future__ import annotations

import struct
import warnings
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from basicsr_sassid.io import photo_data
from basicsr_sassid.io.photo import Photo, check_writable, image_size, read_header, read_photo, write_photo
from basicsr_sassid.utils.errors import UserError

SIZE = (12, 17)


def random_pixels(channels: int, dtype=np.uint8, size: tuple[int, int] = SIZE) -> np.ndarray:
    rng = np.random.default_rng(channels)
    return rng.integers(0, np.iinfo(dtype).max + 1, (*size, channels)).astype(dtype)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))


def png(pixels: np.ndarray, colour: int, *chunks: bytes) -> bytes:
    """A PNG written by hand: tRNS with 16 bits is more than the encoders offer."""
    height, width = pixels.shape[:2]
    rows = b''.join(b'\0' + row.astype(pixels.dtype.newbyteorder('>')).tobytes() for row in pixels)
    header = struct.pack('>IIBBBBB', width, height, 8 * pixels.itemsize, colour, 0, 0, 0)
    body = (png_chunk(b'IHDR', header), *chunks, png_chunk(b'IDAT', zlib.compress(rows)), png_chunk(b'IEND', b''))
    return b'\x89PNG\r\n\x1a\n' + b''.join(body)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize(('channels', 'colour'), [(1, 0), (3, 2)])
def test_read_photo_transparent_colour_becomes_alpha(tmp_path, dtype, channels, colour):
    pixels = random_pixels(channels, dtype)
    key = pixels[3, 4]
    (tmp_path / 'a.png').write_bytes(png(pixels, colour, png_chunk(b'tRNS', struct.pack(f'>{channels}H', *key))))
    photo = read_photo(tmp_path / 'a.png')
    assert np.array_equal(photo.pixels, pixels) and photo.alpha is not None
    assert np.array_equal(photo.alpha, np.where((pixels == key).all(axis=2), 0, photo.white))
    assert read_header(tmp_path / 'a.png') == photo.header
    write_photo(photo, tmp_path / 'b.png')
    assert np.array_equal(read_photo(tmp_path / 'b.png').alpha, photo.alpha)


@pytest.mark.parametrize('bits', [1, 2, 4])
def test_read_photo_transparent_grey_of_few_bits_becomes_alpha(tmp_path, bits):
    values = np.random.default_rng(0).integers(0, 2**bits, SIZE)
    rows = np.packbits(
        np.unpackbits(values.astype(np.uint8)[..., None], axis=2)[..., 8 - bits :].reshape(12, -1), axis=1
    )
    content = bytearray(png(rows, 0, png_chunk(b'tRNS', struct.pack('>H', 1))))
    header = png_chunk(b'IHDR', struct.pack('>IIBBBBB', 17, 12, bits, 0, 0, 0, 0))
    (tmp_path / 'a.png').write_bytes(content[:8] + header + content[33:])
    photo = read_photo(tmp_path / 'a.png')
    assert np.array_equal(photo.pixels[..., 0], values * 255 // (2**bits - 1))
    assert (
        np.array_equal(photo.alpha, np.where(values == 1, 0, 255)) and read_header(tmp_path / 'a.png') == photo.header
    )


@pytest.mark.parametrize('transparency', [7, bytes(range(64))])
def test_read_photo_transparent_palette_becomes_alpha(tmp_path, transparency):
    picture = Image.fromarray(random_pixels(3)).quantize(64)
    picture.save(tmp_path / 'a.png', transparency=transparency)
    photo = read_photo(tmp_path / 'a.png')
    index = np.array(picture)
    expected = np.where(index == 7, 0, 255) if isinstance(transparency, int) else index
    assert photo.pixels.shape == (*SIZE, 3) and np.array_equal(photo.alpha, expected)
    assert read_header(tmp_path / 'a.png') == photo.header


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('name', ['a.png', 'a.tif'])
def test_photo_grey_or_rgb_with_alpha_keeps_its_channels(tmp_path, name, channels, dtype):
    photo = Photo(random_pixels(channels, dtype), alpha=random_pixels(2, dtype)[..., 0])
    write_photo(photo, tmp_path / name)
    again = read_photo(tmp_path / name)
    assert np.array_equal(again.pixels, photo.pixels) and np.array_equal(again.alpha, photo.alpha)
    assert again.header == photo.header == read_header(tmp_path / name)
    if name == 'a.png':
        assert (tmp_path / name).read_bytes()[25] == {1: 4, 3: 6}[channels]  # colour type: with alpha


@pytest.mark.parametrize('kind', ['associated', 'unassociated', 'unspecified'])
@pytest.mark.parametrize(('channels', 'dtype'), [(1, np.uint8), (3, np.uint8), (3, np.uint16)])
def test_photo_kind_of_alpha_in_tiff_is_kept(tmp_path, kind, channels, dtype):
    code = {'unspecified': 0, 'associated': 1, 'unassociated': 2}[kind]
    stored = np.dstack((random_pixels(channels, dtype), random_pixels(2, dtype)[..., 0]))
    tifffile.imwrite(
        tmp_path / 'a.tif',
        stored,
        photometric='rgb' if channels == 3 else 'minisblack',
        planarconfig='contig',
        extrasamples=[code],
    )
    photo = read_photo(tmp_path / 'a.tif')
    assert photo.alpha_kind == kind and np.array_equal(photo.interleaved(), stored)
    write_photo(photo, tmp_path / 'b.tif')
    with tifffile.TiffFile(tmp_path / 'b.tif') as tiff:
        assert [int(value) for value in tiff.pages[0].extrasamples] == [code]
        assert np.array_equal(tiff.pages[0].asarray(), stored)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_photo_with_associated_alpha_as_png_is_divided_by_alpha(tmp_path, dtype):
    white = np.iinfo(dtype).max
    colours, alpha = random_pixels(3, dtype), random_pixels(2, dtype)[..., 0] // 2 + white // 2
    alpha[0] = 0
    premultiplied = np.round(colours / white * alpha[..., None]).astype(dtype)
    write_photo(Photo(premultiplied, alpha=alpha, alpha_kind='associated'), tmp_path / 'a.png')
    photo = read_photo(tmp_path / 'a.png')
    assert np.abs(photo.pixels[1:].astype(int) - colours[1:]).max() <= 2 and photo.alpha_kind == 'unassociated'
    assert not photo.pixels[0].any()


@pytest.mark.parametrize(
    ('name', 'dtype'),
    [
        ('a.png', np.uint8),
        ('a.png', np.uint16),
        ('a.jpg', np.uint8),
        ('a.tif', np.uint8),
        ('a.tif', np.uint16),
        ('a.bmp', np.uint8),
    ],
)
def test_photo_resolution_is_kept(tmp_path, name, dtype):
    write_photo(Photo(random_pixels(3, dtype), dpi=(300, 240)), tmp_path / name)
    assert read_photo(tmp_path / name).dpi == pytest.approx((300, 240), abs=0.02)
    if (name, dtype) != ('a.tif', np.uint16):  # Pillow has no such TIFF
        with Image.open(tmp_path / name) as image:
            assert image.info['dpi'] == pytest.approx((300, 240), abs=0.02)


@pytest.mark.parametrize('name', ['a.png', 'a.jpg', 'a.tif'])
def test_photo_without_resolution_gets_none(tmp_path, name):
    write_photo(Photo(random_pixels(3)), tmp_path / name)
    assert read_photo(tmp_path / name).dpi is None


@pytest.mark.parametrize(
    ('resolution', 'unit', 'dpi'),
    [((118, 118), 'CENTIMETER', (299.72, 299.72)), ((2, 1), 'NONE', None), ((1, 0), 'INCH', None)],
)
def test_read_photo_resolution_of_tiff_is_in_inches(tmp_path, resolution, unit, dpi):
    tifffile.imwrite(
        tmp_path / 'a.tif', random_pixels(3), photometric='rgb', resolution=resolution, resolutionunit=unit
    )
    found = read_photo(tmp_path / 'a.tif').dpi
    assert found == dpi if dpi is None else found == pytest.approx(dpi)


@pytest.mark.parametrize('suffix', ['.png', '.webp'])
def test_read_photo_animation_is_refused(tmp_path, suffix):
    frames = [Image.fromarray(random_pixels(channels)[..., :3]) for channels in (3, 4, 5)]
    path = tmp_path / f'a{suffix}'
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    for read in (read_photo, image_size):
        with pytest.raises(UserError, match='it has 3 pages or frames.* Split it first'):
            read(path)
    frames[0].save(path, save_all=True, lossless=True)  # of one frame
    assert read_photo(path).pixels.shape == (*SIZE, 3)


def test_read_photo_two_pictures_in_a_jpeg_are_refused(tmp_path):
    pictures = [Image.fromarray(random_pixels(3, size=(32, 48))) for _ in range(2)]
    pictures[0].save(tmp_path / 'a.jpg', format='MPO', save_all=True, append_images=pictures[1:])
    for read in (read_photo, image_size):
        with pytest.raises(UserError, match='it has 2 pages or frames'):
            read(tmp_path / 'a.jpg')


@pytest.mark.parametrize('is_cut', [False, True])
def test_read_photo_jpeg_with_a_preview_is_the_photograph(tmp_path, is_cut):
    picture = Image.fromarray(random_pixels(3, size=(64, 96)))
    picture.save(tmp_path / 'plain.jpg', quality=90)
    preview = picture.resize((24, 16))
    exif = Image.Exif()
    exif[274] = 6
    picture.save(tmp_path / 'a.jpg', format='MPO', save_all=True, append_images=[preview], quality=90, exif=exif)
    if is_cut:  # some programs drop the preview and keep its entry
        content = (tmp_path / 'a.jpg').read_bytes()
        (tmp_path / 'a.jpg').write_bytes(content[: content.rindex(b'\xff\xd8\xff')])
    photo = read_photo(tmp_path / 'a.jpg')
    assert np.array_equal(photo.pixels, read_photo(tmp_path / 'plain.jpg').pixels)
    tags = Image.Exif()
    tags.load(photo.exif)
    assert image_size(tmp_path / 'a.jpg') == (64, 96) and tags[274] == 6


def test_read_photo_exif_behind_the_pixels_is_kept(tmp_path):
    exif = Image.Exif()
    exif[274] = 8
    content = png(random_pixels(3), 2)
    end = content.index(b'IEND') - 4
    chunk = png_chunk(b'eXIf', exif.tobytes().removeprefix(b'Exif\0\0'))
    (tmp_path / 'a.png').write_bytes(content[:end] + chunk + content[end:])
    tags = Image.Exif()
    tags.load(read_photo(tmp_path / 'a.png').exif)
    assert tags[274] == 8


def test_read_photo_of_182_megapixels_is_read_without_a_warning(tmp_path):
    Image.new('1', (13500, 13500)).save(tmp_path / 'a.png')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert image_size(tmp_path / 'a.png') == (13500, 13500)
        assert read_photo(tmp_path / 'a.png').pixels.shape == (13500, 13500, 1)


@pytest.mark.parametrize('name', ['a.png', 'a.tif', 'a.jpg'])
def test_read_photo_above_the_limit_names_it(tmp_path, monkeypatch, name):
    monkeypatch.setattr(photo_data, 'MOST_MEGAPIXELS', 1)
    Image.new('L', (1001, 1001)).save(tmp_path / name)
    for read in (read_photo, image_size):
        with pytest.raises(UserError, match=r'megapixels, and up to 1 are read. Cut it into parts'):
            read(tmp_path / name)
    assert Image.MAX_IMAGE_PIXELS is not None  # Pillow's own setting is as it was


@pytest.mark.parametrize(('name', 'size'), [('a.webp', (1, 16384)), ('a.jpg', (65536, 1))])
def test_check_writable_too_many_pixels_a_side_raises_user_error(tmp_path, name, size):
    with pytest.raises(UserError, match='pixels a side'):
        check_writable(Photo(np.zeros((*size, 3), np.uint8)), tmp_path / name)


@pytest.mark.parametrize('alpha', [None, random_pixels(1)[..., 0]])
def test_check_writable_grey_webp_raises_user_error(tmp_path, alpha):
    photo = Photo(random_pixels(1), alpha)
    for kind in (photo, photo.header):
        with pytest.raises(UserError, match='a.webp: .webp has no grey; choose .png or .tif'):
            check_writable(kind, tmp_path / 'a.webp')
    check_writable(Photo(random_pixels(3)), tmp_path / 'a.webp')


def test_write_photo_metadata_that_the_format_cannot_hold_raises_user_error(tmp_path):
    photo = Photo(random_pixels(3), exif=b'Exif\0\0' + bytes(70000))
    with pytest.raises(UserError, match='a.jpg: .jpg does not support it'):
        write_photo(photo, tmp_path / 'a.jpg')
    write_photo(photo, tmp_path / 'a.png')
    assert list(tmp_path.iterdir()) == [tmp_path / 'a.png']
