"""Whatever file is among the photographs: `sassid clean` writes it with its size and mode, or prints one sentence why
not; it never shows a traceback, and never touches an input."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, UnidentifiedImageError

from basicsr_sassid.io.photo import Photo, read_photo, write_photo
from sassid import main

from clean_runs import noisy_cat

_SOME = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
_MANY = settings(_SOME, max_examples=150)
# mode of the file -> mode of what is written: bits and palettes become samples of 8 bits
_WRITTEN_MODE = {'1': 'L', 'P': 'RGB', 'I;16': 'I;16', 'L': 'L', 'LA': 'LA', 'RGB': 'RGB', 'RGBA': 'RGBA'}


@st.composite
def photo_files(draw: st.DrawFn) -> tuple[str, bytes]:
    """(extension, content) of an image file: any format, mode, depth and size, whole, cut off or changed."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    seed, kind = draw(st.integers(0, 99)), draw(st.sampled_from(sorted(_WRITERS)))
    rng = np.random.default_rng(seed)
    content = _WRITERS[kind](rng, height, width, draw)
    damage = draw(st.sampled_from(['none', 'none', 'cut', 'changed', 'padded']))
    if damage == 'cut':
        content = content[: draw(st.integers(0, len(content) - 1))]
    elif damage == 'changed':
        place = draw(st.integers(0, len(content) - 1))
        content = content[:place] + bytes([draw(st.integers(0, 255))]) + content[place + 1 :]
    elif damage == 'padded':
        content += bytes(draw(st.integers(1, 50)))
    extension = draw(st.sampled_from(_EXTENSIONS)) if draw(st.integers(0, 9)) == 0 else kind.split()[0]
    return extension, content


_EXTENSIONS = ['.png', '.jpg', '.tif', '.bmp', '.webp']


def _pillow(extension: str, modes: list[str], **options: Any):
    def write(rng: np.random.Generator, height: int, width: int, draw: st.DrawFn) -> bytes:
        pixels = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
        image, file = Image.fromarray(pixels), io.BytesIO()
        if draw(st.booleans()):
            image = Image.fromarray(np.full((height, width, 4), draw(st.integers(0, 255)), np.uint8))
        image.convert(draw(st.sampled_from(modes))).save(file, Image.registered_extensions()[extension], **options)
        return file.getvalue()

    return write


def _tiff(rng: np.random.Generator, height: int, width: int, draw: st.DrawFn) -> bytes:
    channels, dtype = draw(st.integers(1, 5)), draw(st.sampled_from(['uint8', 'uint16', 'float32', 'int16', 'uint32']))
    pixels = rng.integers(0, 99, (height, width, channels)).astype(dtype)
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        pixels[..., 0] if channels == 1 else pixels,
        photometric='rgb' if channels >= 3 else 'minisblack',
        compression=draw(st.sampled_from([None, 'deflate', 'lzw', 'packbits'])),
        planarconfig=draw(st.sampled_from(['contig', 'separate'])) if channels >= 3 else None,
    )
    return file.getvalue()


def _deep_png(rng: np.random.Generator, height: int, width: int, draw: st.DrawFn) -> bytes:
    channels = draw(st.sampled_from([1, 3, 4]))
    return cv2.imencode('.png', rng.integers(0, 65536, (height, width, channels), dtype=np.uint16))[1].tobytes()


_WRITERS = {
    '.png': _pillow('.png', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA']),
    '.png 16 bit': _deep_png,
    '.jpg': _pillow('.jpg', ['L', 'RGB', 'CMYK', 'YCbCr']),
    '.bmp': _pillow('.bmp', ['1', 'L', 'P', 'RGB']),
    '.webp': _pillow('.webp', ['RGB', 'RGBA', 'L'], lossless=True),
    '.tif': _tiff,
    '.tif of Pillow': _pillow('.tif', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'F', 'I'], compression='tiff_lzw'),
}


def clean(folder: Path, out: Path) -> tuple[int, str]:
    """Exit status and what was printed of `sassid clean --effort instant`."""
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
        try:
            main(['clean', str(folder), '-o', str(out), '--effort', 'instant'])
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
    return status, printed.getvalue()


def check_clean(files: list[tuple[str, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_photo(Photo(noisy_cat()[:96, :96]), root / 'in' / 'noisy.png')  # so that there is noise to measure
        for number, (extension, content) in enumerate(files):
            (root / 'in' / f'{number}{extension}').write_bytes(content)
        before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (root / 'in').iterdir()}
        status, printed = clean(root / 'in', root / 'out')
        assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (root / 'in').iterdir()} == before
        assert 'Traceback' not in printed, printed
        left_out = []
        for path in before:
            if (root / 'out' / path.name).exists():
                check_same_kind(path, root / 'out' / path.name)
            else:
                left_out.append(path.name)
                assert f'left out: {path}: ' in printed, printed
        assert status == (1 if left_out else 0), printed


def check_same_kind(source: Path, written: Path) -> None:
    before, after = read_photo(source), read_photo(written)
    assert after.pixels.shape == before.pixels.shape and after.pixels.dtype == before.pixels.dtype
    assert (after.alpha is None) == (before.alpha is None)
    if before.alpha is not None and after.alpha is not None:
        assert (after.alpha == before.alpha).all()
    with contextlib.suppress(UnidentifiedImageError), Image.open(source) as first, Image.open(written) as second:
        assert second.size == first.size
        assert second.format == Image.registered_extensions()[source.suffix]  # whatever the content was
        if 'transparency' not in first.info and first.mode in _WRITTEN_MODE:
            assert second.mode == _WRITTEN_MODE[first.mode]


@given(st.lists(photo_files(), min_size=1, max_size=6))
@_SOME
def test_clean_any_image_file_is_written_alike_or_left_out_with_a_sentence(files):
    check_clean(files)


@pytest.mark.slow
@given(st.lists(photo_files(), min_size=1, max_size=6))
@_MANY
def test_clean_many_image_files_are_written_alike_or_left_out_with_a_sentence(files):
    check_clean(files)


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=5), st.sampled_from(_EXTENSIONS))
@_SOME
def test_clean_files_of_random_bytes_are_left_out_with_a_sentence(contents, extension):
    check_clean([(extension, content) for content in contents])


# ---- values of the command line ----

_WRONG_VALUES = {
    '--minutes': ['-1', 'nan', 'inf', 'soon'],
    '--strength': ['-0.1', '1.01', 'nan', 'x'],
    '--chroma': ['-1', '2', 'nan'],
    '--seed': ['-1', '1.5', str(10**30)],
    '--blind-size': ['0', '-3', '4', '17', '1001', 'nan', ''],
    '--device': ['gpu', 'cuda:99', ''],
    '--effort': ['fast', ''],
    '--weights': ['', '/nowhere.pth', '.'],
    '--save-weights': ['', 'x.bin', '/nowhere/\0.pth', '/dev/null/x.pth'],
}


@pytest.mark.parametrize(
    ('flag', 'value'), [(flag, value) for flag, values in _WRONG_VALUES.items() for value in values]
)
def test_clean_wrong_value_is_one_sentence_and_nothing_is_written(tmp_path, capsys, flag, value):
    write_photo(Photo(noisy_cat()[:40, :40]), tmp_path / 'in' / 'noisy.png')
    with pytest.raises(SystemExit) as stop:
        main(['clean', str(tmp_path / 'in'), '-o', str(tmp_path / 'out'), f'{flag}={value}'])
    printed = capsys.readouterr().err
    assert stop.value.code == 2 and flag.removeprefix('--') in printed and 'Traceback' not in printed
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('output', ['', '\0', 'x' * 300, '~nosuchuser/x', '/dev/null/out', 'in', 'in/noisy.png'])
def test_clean_wrong_output_is_one_sentence_and_inputs_are_untouched(tmp_path, capsys, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    write_photo(Photo(noisy_cat()[:40, :40]), tmp_path / 'in' / 'noisy.png')
    content = (tmp_path / 'in' / 'noisy.png').read_bytes()
    with pytest.raises(SystemExit) as stop:
        main(['clean', 'in', '-o', output, '--effort', 'instant'])
    assert stop.value.code == 2 and 'error: ' in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob('*')] == ['in', 'noisy.png']
    assert (tmp_path / 'in' / 'noisy.png').read_bytes() == content


@pytest.mark.parametrize('photos', ['', '\0', 'nowhere', '~nosuchuser', 'x' * 300, '/dev/null'])
@pytest.mark.parametrize('command', ['clean', 'noise', 'denoise'])
def test_command_wrong_photographs_are_one_sentence(tmp_path, capsys, command, photos):
    output = [] if command == 'noise' else ['-o', str(tmp_path / 'out')]
    weights = ['--weights', '/nowhere.pth'] if command == 'denoise' else []
    with pytest.raises(SystemExit) as stop:
        main([command, photos, *output, *weights])
    assert stop.value.code == 2 and 'error: ' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()
