"""`sassid submit`: files for the servers of SIDD and DND, and their checks."""

from __future__ import annotations

import base64
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import torch

from basicsr_sassid import Denoiser
from basicsr_sassid.data.prepare import dnd, sidd
from basicsr_sassid.evaluation import submission
from basicsr_sassid.evaluation.submission import check_submission, submit_dnd, submit_sidd
from basicsr_sassid.io.checkpoint import build_network
from basicsr_sassid.utils.errors import UserError
from sassid import main

from download_miniatures import move_box_outside, picture, write_dnd, write_sidd


@pytest.fixture
def weights(tmp_path) -> Path:
    block = {'type': 'DenoisingUNet', 'num_in_ch': 3, 'num_out_ch': 3, 'dim': 4}
    torch.save(
        {'params': build_network(block, 'x').state_dict(), 'network': block, 'img_range': 255}, tmp_path / 'net.pth'
    )
    return tmp_path / 'net.pth'


# ---- SIDD ----


@pytest.fixture
def sidd_downloads(tmp_path, monkeypatch) -> Path:
    for module in (sidd, submission):
        monkeypatch.setattr(module, 'BLOCKS', (2, 3, 256, 256, 3))
    return write_sidd(tmp_path / 'downloads')


def submit(sidd_downloads: Path, weights: Path, output: Path, *flags: str) -> Path:
    main(
        ['submit', 'sidd', str(sidd_downloads), '--weights', str(weights), '-o', str(output), '--device', 'cpu', *flags]
    )
    return output


def expected_block(sidd_downloads: Path, weights: Path, **options) -> np.ndarray:
    noisy = scipy.io.loadmat(sidd_downloads / 'BenchmarkNoisyBlocksSrgb.mat')['BenchmarkNoisyBlocksSrgb']
    return Denoiser(weights, 'cpu', **options)(noisy[1, 2])


@pytest.mark.parametrize('self_ensemble', [False, True])
def test_submit_sidd_mat_has_the_denoised_blocks(sidd_downloads, weights, tmp_path, self_ensemble):
    path = submit(sidd_downloads, weights, tmp_path / 'SubmitSrgb.mat', *['--self-ensemble'] * self_ensemble)
    content = scipy.io.loadmat(path)
    expected = expected_block(sidd_downloads, weights, self_ensemble=self_ensemble)
    assert np.array_equal(content['DenoisedBlocksSrgb'][1, 2], expected)


def test_submit_sidd_mat_has_time_and_method(sidd_downloads, weights, tmp_path):
    content = scipy.io.loadmat(submit(sidd_downloads, weights, tmp_path / 'SubmitSrgb.mat'))
    assert content['TimeMPSrgb'].item() > 0 and 'MethodName' in content['OptionalData'].dtype.names


def test_submit_sidd_csv_has_the_denoised_blocks(sidd_downloads, weights, tmp_path):
    rows = submit(sidd_downloads, weights, tmp_path / 'SubmitSrgb.csv').read_text().splitlines()
    number, content = rows[6].split(',')
    block = np.frombuffer(base64.b64decode(content), np.uint8).reshape(256, 256, 3)
    assert number == '5'
    assert np.array_equal(block, expected_block(sidd_downloads, weights))


@pytest.mark.parametrize('name', ['SubmitSrgb.mat', 'SubmitSrgb.csv'])
def test_check_submission_of_a_written_file_passes(sidd_downloads, weights, tmp_path, name):
    assert '2 images of 3 blocks, 256x256' in check_submission(submit(sidd_downloads, weights, tmp_path / name))


def test_submit_sidd_other_extension_raises_user_error(sidd_downloads, weights, tmp_path):
    with pytest.raises(UserError, match=r'ends in .mat .* or .csv'):
        submit_sidd(sidd_downloads, weights, tmp_path / 'a.txt')


@pytest.mark.parametrize(
    ('convert', 'message'),
    [
        (lambda blocks: blocks.astype(np.float32) / 255, 'uint8, got .* float32'),
        (lambda blocks: blocks[:1], r'got \(1, 3, 256, 256, 3\)'),
        (
            lambda blocks: np.where(np.arange(6).reshape(2, 3, 1, 1, 1) == 4, 0, blocks).astype(np.uint8),
            'image 2, block 2: it is all black',
        ),
    ],
)
def test_check_submission_wrong_mat_raises_user_error(sidd_downloads, tmp_path, convert, message):
    scipy.io.savemat(tmp_path / 'SubmitSrgb.mat', {'DenoisedBlocksSrgb': convert(picture(2, 3, 256, 256))})
    with pytest.raises(UserError, match=message):
        check_submission(tmp_path / 'SubmitSrgb.mat')


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'ID,BLOCK\n' + b''.join(b'%d,AAAA\n' % number for number in range(6)), 'not 256x256x3 bytes'),
        (b'', 'no table of values'),
        (b'ID,BLOCK\n\n', 'rows of two columns'),
        (b'\xff\xfe\x00', 'no table of values'),
    ],
)
def test_check_submission_wrong_csv_raises_user_error(sidd_downloads, tmp_path, content, message):
    (tmp_path / 'a.csv').write_bytes(content)
    with pytest.raises(UserError, match=message):
        check_submission(tmp_path / 'a.csv')


# ---- DND ----


@pytest.fixture
def dnd_downloads(tmp_path, monkeypatch) -> tuple[Path, list[np.ndarray]]:
    for module in (dnd, submission):
        monkeypatch.setattr(module, 'IMAGES', 2)
        monkeypatch.setattr(module, 'BOXES', 2)
    return tmp_path / 'dnd', write_dnd(tmp_path / 'dnd')


@pytest.fixture
def bundle(dnd_downloads, weights, tmp_path) -> Path:
    submit_dnd(dnd_downloads[0], weights, tmp_path / 'bundle', device='cpu')
    return tmp_path / 'bundle'


def test_check_submission_of_a_written_bundle_passes(bundle):
    assert '2 photographs of 2 boxes' in check_submission(bundle)


def test_submit_dnd_boxes_are_denoised_with_their_context(bundle, dnd_downloads, weights):
    photo = dnd_downloads[1][0]
    boxes = scipy.io.loadmat(bundle / '0001.mat')['Idenoised']
    denoise = Denoiser(weights, 'cpu', tile=0)  # as there: in tiles the last bits may differ
    # the first box has 88 pixels below it and 188 beside it: 64 of them are read
    assert boxes.shape == (1, 2)
    assert np.array_equal(boxes[0, 0], denoise(photo[:576, :576])[:512, :512])
    assert np.array_equal(boxes[0, 1], denoise(photo[24:, 124:])[64:, 64:])


def test_submit_dnd_values_are_not_rounded(bundle):
    content = scipy.io.loadmat(bundle / '0001.mat')
    assert not content['israw'].item()
    assert not np.array_equal(content['Idenoised'][0, 0] * 255, (content['Idenoised'][0, 0] * 255).round())


def test_check_submission_missing_file_raises_user_error(bundle):
    (bundle / '0002.mat').unlink()
    with pytest.raises(UserError, match='1 of 2 files are missing, 0002.mat'):
        check_submission(bundle)


def test_submit_dnd_stopped_bundle_is_continued(bundle, dnd_downloads, weights):
    before = (bundle / '0001.mat').stat().st_mtime_ns
    (bundle / '0002.mat').unlink()
    submit_dnd(dnd_downloads[0], weights, bundle, device='cpu')
    assert (bundle / '0001.mat').stat().st_mtime_ns == before and check_submission(bundle)


def test_submit_dnd_bundle_of_another_network_raises_user_error(bundle, dnd_downloads, weights):
    with pytest.raises(UserError, match='bundle of another network'):
        submit_dnd(dnd_downloads[0], weights, bundle, self_ensemble=True, device='cpu')


def test_check_submission_value_that_is_not_finite_raises_user_error(bundle):
    content = scipy.io.loadmat(bundle / '0001.mat')
    content['Idenoised'][0, 1][3, 3, 1] = np.nan
    scipy.io.savemat(bundle / '0001.mat', {key: content[key] for key in ('Idenoised', 'israw', 'eval_version')})
    with pytest.raises(UserError, match=r'0001.mat, box 2: expected values in \[0, 1\]'):
        check_submission(bundle)


def test_submit_dnd_into_the_downloads_raises_user_error(dnd_downloads, weights):
    with pytest.raises(UserError, match='holds .mat files of something else'):
        submit_dnd(dnd_downloads[0], weights, dnd_downloads[0] / 'images_srgb', device='cpu')


def test_submit_dnd_box_outside_its_photograph_raises_user_error(dnd_downloads, weights, tmp_path):
    move_box_outside(dnd_downloads[0])
    with pytest.raises(UserError, match='0002.mat: 512x640 pixels, but info.mat has a box'):
        submit_dnd(dnd_downloads[0], weights, tmp_path / 'bundle', device='cpu')


def test_submit_dnd_damaged_photograph_raises_user_error(dnd_downloads, weights, tmp_path):
    path = dnd_downloads[0] / 'images_srgb/0001.mat'
    with h5py.File(path, 'w') as file:
        file.create_dataset('InoisySRGB', data=np.random.random((3, 700, 600)).astype(np.float32), compression='gzip')
    content = bytearray(path.read_bytes())
    content[-20000:-15000] = bytes(5000)
    path.write_bytes(content)
    with pytest.raises(UserError, match='cannot read .*0001.mat: .*Download it again'):
        submit_dnd(dnd_downloads[0], weights, tmp_path / 'bundle', device='cpu')
