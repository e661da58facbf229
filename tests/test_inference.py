from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from PIL import Image

from basicsr_sassid import Denoiser
from basicsr_sassid.cli import main as cli
from basicsr_sassid.inference.files import denoise_files
from basicsr_sassid.io.photo import Photo, read_photo, write_photo
from basicsr_sassid.ops.tiling import tiles
from basicsr_sassid.utils.errors import UserError

from helpers import ROOT


def scene(height, width, dtype=np.uint8, channels=3):
    rng = np.random.default_rng(0)
    white = np.iinfo(dtype).max
    smooth = cv2.resize(rng.uniform(0.1, 0.9, (9, 11, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
    noisy = smooth + rng.normal(0, 0.08, smooth.shape)
    return (noisy[..., :channels].clip(0, 1) * white).astype(dtype)


@pytest.fixture
def weights(tmp_path):
    """A student that has learnt a little: to reproduce smooth scenes."""
    torch.manual_seed(0)
    net = build_network({'type': 'DenoisingUNet', 'dim': 4})
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    image = torch.from_numpy(scene(96, 96)).permute(2, 0, 1)[None].float()
    for _ in range(60):
        optimizer.zero_grad()
        (net(image) - image).abs().mean().backward()
        optimizer.step()
    path = tmp_path / 'net_g.pth'
    torch.save({'params': net.state_dict()}, path)
    return path


@pytest.mark.parametrize('size', [(1, 1), (64, 64), (200, 131), (97, 400)])
def test_tiles_cover_every_pixel_once(size):
    covered = np.zeros(size, int)
    for seen, inner, kept in tiles(*size, tile=64, overlap=32, multiple=32):
        covered[kept] += 1
        read = np.indices(size)[(slice(None), *seen)][(slice(None), *inner)]
        assert np.array_equal(read, np.indices(size)[(slice(None), *kept)])
        assert seen[0].start % 32 == seen[1].start % 32 == 0
    assert (covered == 1).all()


def test_tiled_is_whole(weights):
    """With the default overlap they are one function; without any there are seams."""
    image = scene(611, 530).astype(np.float32) / 255
    whole, tiled, seams = (Denoiser(weights, precision='fp32', **options)(image) * 255 for options in (
        {'tile': 0}, {'tile': 128}, {'tile': 128, 'overlap': 0}))
    assert np.abs(whole - tiled).max() < 2e-3
    assert np.abs(whole - seams).max() > 1


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize('shape', [(70, 45), (70, 45, 1), (70, 45, 3), (1, 1, 3), (33, 2, 3)])
def test_any_shape_and_depth(weights, dtype, shape):
    base = scene(*shape[:2], np.uint16, channels=1 if len(shape) == 2 else shape[2]).reshape(shape)
    image = base if dtype == np.uint16 else (base >> 8).astype(dtype) if dtype == np.uint8 else (base / 65535).astype(
        dtype)
    before = image.copy()
    denoise = Denoiser(weights, precision='fp32')
    result = denoise(image)
    assert result.shape == shape and result.dtype == dtype and np.array_equal(image, before)
    expected = denoise((base / 65535).astype(np.float32))
    white = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    # 8-bit input is coarser than 16-bit, nothing else differs
    assert np.abs(result / white - expected).max() < (3 / 255 if dtype == np.uint8 else 1e-4)


def test_self_ensemble_turns_with_the_image(weights):
    denoise = Denoiser(weights, self_ensemble=True, precision='fp32')
    image = scene(64, 64).astype(np.float32) / 255
    expected = denoise(image)
    np.testing.assert_allclose(denoise(np.rot90(image).copy()), np.rot90(expected), atol=1e-5)
    np.testing.assert_allclose(denoise(image[:, ::-1].copy()), expected[:, ::-1], atol=1e-5)
    assert np.abs(Denoiser(weights, precision='fp32')(image) - expected).max() > 1e-4


def test_what_cannot_be_denoised_is_said(weights, tmp_path):
    denoise = Denoiser(weights)
    with pytest.raises(UserError, match=r'expected an image of shape .*, got \(4, 4, 2\)'):
        denoise(np.zeros((4, 4, 2), np.uint8))
    with pytest.raises(UserError, match='expected uint8, uint16 or float'):
        denoise(np.zeros((4, 4), np.int64))
    with pytest.raises(UserError, match='not finite'):
        denoise(np.full((40, 40, 3), np.nan))
    with pytest.raises(UserError, match='expected multiples of 32'):
        Denoiser(weights, tile=100)
    torch.save({'params': {'weight': torch.zeros(2)}}, tmp_path / 'other.pth')
    with pytest.raises(UserError, match='not of a network known here'):
        Denoiser(tmp_path / 'other.pth')
    with pytest.raises(UserError, match="device 'cuda'"):
        Denoiser(weights, device='cuda')


def test_files_keep_name_place_depth_and_metadata(weights, tmp_path):
    folder = tmp_path / 'in'
    exif = Image.Exif()
    exif[274] = 8
    photos = {'a.jpg': Photo(scene(40, 50), exif=exif.tobytes()), 'deep/b.png': Photo(scene(50, 40, np.uint16)),
              'deep/grey.tif': Photo(scene(40, 40, np.uint16, 1)),
              'alpha.png': Photo(scene(40, 50), alpha=np.arange(2000, dtype=np.uint8).reshape(40, 50))}
    for name, photo in photos.items():
        write_photo(photo, folder / name)
    (folder / 'broken.png').write_bytes(b'\x89PNG')
    (folder / 'notes.txt').write_text('not for us')
    failed = denoise_files([folder], tmp_path / 'out', weights)
    assert list(failed) == [str(folder / 'broken.png')]
    written = sorted(str(path.relative_to(tmp_path / 'out')) for path in (tmp_path / 'out').rglob('*')
                     if path.is_file())
    assert written == sorted(photos)
    for name, photo in photos.items():
        back = read_photo(tmp_path / 'out' / name)
        assert back.pixels.shape == photo.pixels.shape and back.pixels.dtype == photo.pixels.dtype
        assert not np.array_equal(back.pixels, photo.pixels)
    assert np.array_equal(read_photo(tmp_path / 'out/alpha.png').alpha, photos['alpha.png'].alpha)
    tags = Image.Exif()
    tags.load(read_photo(tmp_path / 'out/a.jpg').exif)
    assert tags[274] == 8


def test_an_input_is_never_overwritten(weights, tmp_path):
    write_photo(Photo(scene(40, 40)), tmp_path / 'one' / 'a.png')
    write_photo(Photo(scene(40, 40)), tmp_path / 'two' / 'a.png')
    before = (tmp_path / 'one' / 'a.png').read_bytes()
    for inputs, output in (([tmp_path / 'one'], tmp_path / 'one'),
                           ([tmp_path / 'one/a.png'], tmp_path / 'one' / '..' / 'one' / 'a.png'),
                           ([tmp_path / 'one/a.png', tmp_path / 'two/a.png'], tmp_path / 'two')):
        with pytest.raises(UserError, match='is an input and would be overwritten'):
            denoise_files(inputs, output, weights)
    with pytest.raises(UserError, match='would both be written to'):
        denoise_files([tmp_path / 'one', tmp_path / 'two'], tmp_path / 'out', weights)
    assert (tmp_path / 'one' / 'a.png').read_bytes() == before and not (tmp_path / 'out').exists()
    denoise_files([tmp_path / 'one/a.png'], tmp_path / 'new.png', weights)
    assert (tmp_path / 'new.png').is_file()


def test_a_large_photograph_stays_under_two_gib(tmp_path):
    """3680x2456 through the command line, network and libraries included.

    VmHWM is of this program alone; ru_maxrss would begin with the peak of the process that started it, the suite's.
    """
    if not Path('/proc/self/status').exists():
        pytest.skip('this system does not tell the peak of a process')
    cv2.imwrite(str(tmp_path / 'large.jpg'), np.tile(scene(307, 460), (8, 8, 1)))
    torch.save({'params': build_network({'type': 'DenoisingUNet', 'dim': 8}).state_dict()}, tmp_path / 'g.pth')
    code = ('import re; from basicsr_sassid.cli import main; '
            "main(['denoise', 'large.jpg', '-o', 'out.jpg', '--weights', 'g.pth']); "
            "print('peak', re.search(r'VmHWM:\\s*(\\d+) kB', open('/proc/self/status').read())[1])")
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, check=False,
                          env={**os.environ, 'PYTHONPATH': str(ROOT)}, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert read_photo(tmp_path / 'out.jpg').pixels.shape == (2456, 3680, 3)
    assert int(done.stdout.split('peak ')[1]) < 2 * 2 ** 20  # KiB


# ---- precision and export ----

def test_half_precision_is_near_and_full_precision_exact(weights):
    image = scene(90, 70)
    exact = Denoiser(weights, 'cpu', precision='fp32')
    with torch.no_grad():
        plain = exact.net(torch.from_numpy(image).permute(2, 0, 1)[None].float())[0].permute(1, 2, 0)
    # scaled to [0, 1] and back: what lies within a float's last bits of a half may round the other way
    off = np.abs(exact(image) - plain.clamp(0, 255).numpy())
    assert off.max() < 0.5 + 1e-3
    off = np.abs(Denoiser(weights, 'cpu', precision='bf16')(image).astype(int) - exact(image))
    assert 0 < off.mean() < 1.5
    with pytest.raises(UserError, match='precision: expected one of auto, fp32, bf16, fp16'):
        Denoiser(weights, 'cpu', precision='int8')


def test_onnx_of_any_size_gives_what_torch_gives(weights, tmp_path):
    import onnxruntime
    cli(['export', '--weights', str(weights), '--onnx', str(tmp_path / 'x.onnx')])
    session = onnxruntime.InferenceSession(str(tmp_path / 'x.onnx'), providers=['CPUExecutionProvider'])
    net = Denoiser(weights, 'cpu').net
    for shape in ((1, 3, 64, 64), (2, 3, 70, 101), (1, 3, 33, 200), (3, 3, 9, 10), (1, 3, 1, 40)):
        x = torch.rand(shape)
        with torch.no_grad():
            expected = net(x * 255).numpy()
        np.testing.assert_allclose(session.run(None, {'lq': x.numpy()})[0] * 255, expected, rtol=0, atol=1e-3)
    assert [path.name for path in tmp_path.glob('*.onnx*')] == ['x.onnx']
