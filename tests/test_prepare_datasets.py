"""The published datasets: miniatures of exactly their layouts, through `sassid prepare` and `sassid submit`."""
from __future__ import annotations

import csv
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import scipy.io
import torch
from basicsr.data import build_dataset
from PIL import Image

from basicsr_sassid import Denoiser
from basicsr_sassid.cli import main
from basicsr_sassid.data.prepare import dnd, sidd
from basicsr_sassid.data.prepare.cc import prepare_cc
from basicsr_sassid.data.prepare.dnd import prepare_dnd
from basicsr_sassid.data.prepare.polyu import prepare_polyu
from basicsr_sassid.data.prepare.sidd import prepare_sidd
from basicsr_sassid.evaluation import submission
from basicsr_sassid.evaluation.submission import check_submission, submit_dnd, submit_sidd
from basicsr_sassid.io.checkpoint import build_network
from basicsr_sassid.utils.errors import UserError


def picture(*shape: int) -> np.ndarray:
    return np.random.randint(0, 256, (*shape, 3)).astype(np.uint8)  # seeded for each test: the same in any order


def pairs(folder: Path) -> list[dict]:
    """As stock BasicSR reads them."""
    return list(build_dataset({'type': 'PairedImageDataset', 'name': 'x', 'phase': 'val', 'scale': 1,
                               'dataroot_lq': str(folder / 'noisy.lmdb'), 'dataroot_gt': str(folder / 'clean.lmdb'),
                               'io_backend': {'type': 'lmdb'}}))


def pixels(tensor: torch.Tensor) -> np.ndarray:
    return (tensor.permute(1, 2, 0) * 255).round().byte().numpy()


@pytest.fixture
def weights(tmp_path) -> Path:
    torch.manual_seed(0)
    block = {'type': 'DenoisingUNet', 'num_in_ch': 3, 'num_out_ch': 3, 'dim': 4}
    path = tmp_path / 'net.pth'
    torch.save({'params': build_network(block, 'x').state_dict(), 'network': block, 'img_range': 255}, path)
    return path


# ---- SIDD ----

@pytest.fixture
def sidd_downloads(tmp_path) -> Path:
    folder = tmp_path / 'downloads'
    for scene, shot in (('0001_001_S6_00100_00060_3200_L', 10), ('0001_001_S6_00100_00060_3200_L', 11),
                        ('0002_001_S6_00100_00020_3200_N', 10)):
        below = folder / 'SIDD_Medium_Srgb' / 'Data' / scene
        below.mkdir(parents=True, exist_ok=True)
        for side in ('NOISY', 'GT'):
            Image.fromarray(picture(100, 130)).save(below / f'{scene[:4]}_{side}_SRGB_{shot:03d}.PNG')
    for name in ('ValidationNoisyBlocksSrgb', 'ValidationGtBlocksSrgb', 'BenchmarkNoisyBlocksSrgb'):
        scipy.io.savemat(folder / f'{name}.mat', {name: picture(2, 3, 256, 256)}, do_compression=True)
    return folder


def test_sidd_as_downloaded(sidd_downloads, tmp_path, capsys):
    main(['prepare', 'sidd', str(sidd_downloads), '-o', str(tmp_path / 'out'), '--size', '64', '--incomplete'])
    assert 'SIDD_val/clean.lmdb: 6 sub-images of 6 photographs' in capsys.readouterr().out
    blocks = scipy.io.loadmat(sidd_downloads / 'ValidationGtBlocksSrgb.mat')['ValidationGtBlocksSrgb']
    validation = pairs(tmp_path / 'out/SIDD_val')
    assert [sample['lq_path'] for sample in validation] == [f'{i:02d}_{b:02d}' for i in range(2) for b in range(3)]
    assert all(np.array_equal(pixels(sample['gt']), block) for sample, block in zip(validation, blocks.reshape(
        -1, 256, 256, 3)))
    medium = pairs(tmp_path / 'out/SIDD_Medium')
    assert len(medium) == 3 * 2 * 3
    assert medium[0]['lq_path'] == '0001_001_S6_00100_00060_3200_L_010_y00000_x00000'
    assert (tmp_path / 'out/SIDD_benchmark/noisy.lmdb/meta_info.txt').read_text().count('(256,256,3)') == 6


def test_sidd_is_checked_and_goes_on(sidd_downloads, tmp_path):
    with pytest.raises(UserError, match='SIDD-Medium, noisy photographs: expected 320, found 3.*--incomplete'):
        prepare_sidd([sidd_downloads], tmp_path / 'out')
    validation = sidd_downloads / 'ValidationNoisyBlocksSrgb.mat'
    with pytest.raises(UserError, match=r'expected \(40, 32, 256, 256, 3\) uint8, got \(2, 3, 256, 256, 3\) uint8'):
        prepare_sidd([validation], tmp_path / 'out', quiet=True)
    assert prepare_sidd([validation], tmp_path / 'out', incomplete=True, quiet=True)['SIDD_val/noisy.lmdb'].photos == 6
    done = prepare_sidd([sidd_downloads], tmp_path / 'out', size=64, incomplete=True, quiet=True)
    assert done.pop('SIDD_val/noisy.lmdb') is None and all(done.values()) and len(done) == 4
    for damage, message in ((validation.read_bytes()[:5000], 'cannot read'), (b'', 'cannot read')):
        validation.write_bytes(damage)
        with pytest.raises(UserError, match=f'{message} .*Validation.*Download it again'):
            prepare_sidd([validation], tmp_path / 'other', incomplete=True, quiet=True)
    scipy.io.savemat(validation, {'blocks': np.zeros(3)})
    with pytest.raises(UserError, match='expected the variable ValidationNoisyBlocksSrgb, found blocks'):
        prepare_sidd([validation], tmp_path / 'other', incomplete=True, quiet=True)
    next(sidd_downloads.rglob('*GT_SRGB_010.PNG')).unlink()
    with pytest.raises(UserError, match='3 noisy and 2 clean photographs, and 0001_001.*_010 is on one side alone'):
        prepare_sidd([sidd_downloads], tmp_path / 'other', incomplete=True, quiet=True)
    with pytest.raises(UserError, match='there is neither .*NOISY_SRGB'):
        prepare_sidd([tmp_path / 'out'], tmp_path / 'other')


def test_more_than_was_published_is_refused(sidd_downloads, tmp_path, monkeypatch):
    monkeypatch.setattr(sidd, 'MEDIUM', 2)
    with pytest.raises(UserError, match='2 were published, found 3. Give one copy alone'):
        prepare_sidd([sidd_downloads], tmp_path / 'out', incomplete=True, quiet=True)
    monkeypatch.undo()
    again = tmp_path / 'downloads/again/0002_001_S6_00100_00020_3200_N'
    again.mkdir(parents=True)
    for side in ('NOISY', 'GT'):
        Image.fromarray(picture(100, 130)).save(again / f'0002_{side}_SRGB_010.PNG')
    with pytest.raises(UserError, match='another image has its name'):
        prepare_sidd([sidd_downloads], tmp_path / 'out', incomplete=True, quiet=True)


def test_sidd_submission_is_what_the_network_says(sidd_downloads, weights, tmp_path, monkeypatch):
    for module in (sidd, submission):
        monkeypatch.setattr(module, 'BLOCKS', (2, 3, 256, 256, 3))
    noisy = scipy.io.loadmat(sidd_downloads / 'BenchmarkNoisyBlocksSrgb.mat')['BenchmarkNoisyBlocksSrgb']
    for self_ensemble in (False, True):
        words = ['--self-ensemble'] if self_ensemble else []
        for name in ('SubmitSrgb.mat', 'SubmitSrgb.csv'):
            main(['submit', 'sidd', str(sidd_downloads), '--weights', str(weights), '-o', str(tmp_path / name),
                  '--device', 'cpu', *words])
            assert '2 images of 3 blocks, 256x256' in check_submission(tmp_path / name)
        content = scipy.io.loadmat(tmp_path / 'SubmitSrgb.mat')
        expected = Denoiser(weights, 'cpu', self_ensemble=self_ensemble)(noisy[1, 2])
        assert np.array_equal(content['DenoisedBlocksSrgb'][1, 2], expected)
        assert content['TimeMPSrgb'].item() > 0 and 'MethodName' in content['OptionalData'].dtype.names
        assert np.array_equal(submission._read_csv(tmp_path / 'SubmitSrgb.csv')[1, 2], expected)


def test_a_wrong_sidd_submission_is_refused(weights, tmp_path, monkeypatch, sidd_downloads):
    monkeypatch.setattr(submission, 'BLOCKS', (2, 3, 256, 256, 3))
    blocks = picture(2, 3, 256, 256)
    for content, message in ((blocks.astype(np.float32) / 255, 'uint8, got .* float32'),
                             (blocks[:1], r'got \(1, 3, 256, 256, 3\)'),
                             (np.where(np.arange(6).reshape(2, 3, 1, 1, 1) == 4, 0, blocks).astype(np.uint8),
                              'image 2, block 2: it is all black')):
        scipy.io.savemat(tmp_path / 'SubmitSrgb.mat', {'DenoisedBlocksSrgb': content})
        with pytest.raises(UserError, match=message):
            check_submission(tmp_path / 'SubmitSrgb.mat')
    with open(tmp_path / 'a.csv', 'w', newline='') as file:
        csv.writer(file).writerows([['ID', 'BLOCK'], *([number, 'AAAA'] for number in range(6))])
    with pytest.raises(UserError, match='not 256x256x3 bytes'):
        check_submission(tmp_path / 'a.csv')
    for content, message in ((b'', 'no table of values'), (b'ID,BLOCK\n\n', 'rows of two columns'),
                             (b'\xff\xfe\x00', 'no table of values')):
        (tmp_path / 'a.csv').write_bytes(content)
        with pytest.raises(UserError, match=message):
            check_submission(tmp_path / 'a.csv')
    with pytest.raises(UserError, match=r'ends in .mat .* or .csv'):
        submit_sidd(sidd_downloads, weights, tmp_path / 'a.txt')


# ---- DND ----

@pytest.fixture
def dnd_downloads(tmp_path) -> tuple[Path, np.ndarray]:
    """Two photographs with two boxes each, as MATLAB writes version 7.3: HDF5, axes reversed, cells of references."""
    folder = tmp_path / 'dnd'
    (folder / 'images_srgb').mkdir(parents=True)
    photos = [np.random.random((600, 700, 3)).astype(np.float32), np.random.random((512, 640, 3)).astype(np.float32)]
    for number, photo in enumerate(photos, 1):
        with h5py.File(folder / 'images_srgb' / f'{number:04d}.mat', 'w') as file:
            file['InoisySRGB'] = photo.T
    boxes = [np.array([[1, 1, 512, 512], [89, 189, 600, 700]], float), np.array([[1, 100, 512, 611]] * 2, float)]
    with h5py.File(folder / 'info.mat', 'w') as file:
        references = []
        for number, box in enumerate(boxes):
            file[f'#refs#/{number}'] = box.T
            references.append(file[f'#refs#/{number}'].ref)
        file.create_group('info').create_dataset('boundingboxes', data=np.array([references], h5py.ref_dtype))
    return folder, photos


def test_dnd_as_downloaded(dnd_downloads, tmp_path):
    folder, photos = dnd_downloads
    with pytest.raises(UserError, match='images_srgb/.*expected 50, found 2'):
        prepare_dnd([folder], tmp_path / 'out', quiet=True)
    main(['prepare', 'dnd', str(folder), '-o', str(tmp_path / 'out'), '--incomplete', '--size', '300'])
    noisy = build_dataset({'type': 'NoisyImageDataset', 'name': 'x', 'phase': 'val',
                           'dataroot_lq': str(tmp_path / 'out/DND/noisy.lmdb')})
    assert len(noisy) == 2 * 3 + 2 * 3
    for sample in noisy:
        number, top, left = (int(part.strip('yx')) for part in sample['lq_path'].split('_'))
        piece = photos[number - 1][top:top + 300, left:left + 300]
        assert np.abs(sample['lq'].permute(1, 2, 0).numpy() - piece).max() <= 0.5001 / 255
    with h5py.File(folder / 'info.mat', 'r+') as file:
        file['#refs#/1'][...] = np.array([[1, 200, 512, 711]] * 2, float).T
    with pytest.raises(UserError, match='512x640 pixels, but info.mat has a box at rows 0 to 512, columns 199 to 711'):
        prepare_dnd([folder], tmp_path / 'other', incomplete=True, quiet=True)


def test_dnd_bundle(dnd_downloads, weights, tmp_path, monkeypatch):
    folder, photos = dnd_downloads
    out = tmp_path / 'bundle'
    for module in (dnd, submission):
        monkeypatch.setattr(module, 'IMAGES', 2)
        monkeypatch.setattr(module, 'BOXES', 2)
    submit_dnd(folder, weights, out, device='cpu')
    assert '2 photographs of 2 boxes' in check_submission(out)
    content = scipy.io.loadmat(out / '0001.mat')
    assert content['Idenoised'].shape == (1, 2) and not content['israw'].item()
    denoise = Denoiser(weights, 'cpu', tile=0)  # as there: in tiles the last bits may differ
    # the first box has 88 pixels below it and 188 beside it: 64 of them are seen
    assert np.array_equal(content['Idenoised'][0, 0], denoise(photos[0][:576, :576])[:512, :512])
    assert np.array_equal(content['Idenoised'][0, 1], denoise(photos[0][24:, 124:])[64:, 64:])
    assert not np.array_equal(content['Idenoised'][0, 0] * 255, (content['Idenoised'][0, 0] * 255).round())
    before = (out / '0001.mat').stat().st_mtime_ns
    (out / '0002.mat').unlink()
    with pytest.raises(UserError, match='1 of 2 files are missing, 0002.mat'):
        check_submission(out)
    submit_dnd(folder, weights, out, device='cpu')  # goes on
    assert (out / '0001.mat').stat().st_mtime_ns == before and check_submission(out)
    with pytest.raises(UserError, match='bundle of another network'):
        submit_dnd(folder, weights, out, self_ensemble=True, device='cpu')
    content['Idenoised'][0, 1][3, 3, 1] = np.nan
    scipy.io.savemat(out / '0001.mat', {key: content[key] for key in ('Idenoised', 'israw', 'eval_version')})
    with pytest.raises(UserError, match=r'0001.mat, box 2: expected values in \[0, 1\]'):
        check_submission(out)


def test_what_is_wrong_with_dnd_is_named(dnd_downloads, weights, tmp_path, monkeypatch):
    folder, _ = dnd_downloads
    monkeypatch.setattr(dnd, 'IMAGES', 2)
    monkeypatch.setattr(dnd, 'BOXES', 2)
    with pytest.raises(UserError, match='holds .mat files of something else'):
        submit_dnd(folder, weights, folder / 'images_srgb', device='cpu')
    with h5py.File(folder / 'info.mat', 'r+') as file:
        file['#refs#/1'][...] = np.array([[1, 200, 512, 711]] * 2, float).T
    with pytest.raises(UserError, match='0002.mat: 512x640 pixels, but info.mat has a box'):
        submit_dnd(folder, weights, tmp_path / 'bundle', device='cpu')
    path = folder / 'images_srgb/0001.mat'
    with h5py.File(path, 'w') as file:
        file.create_dataset('InoisySRGB', data=np.random.random((3, 700, 600)).astype(np.float32), compression='gzip')
    content = bytearray(path.read_bytes())
    content[-20000:-15000] = bytes(5000)
    path.write_bytes(content)
    with pytest.raises(UserError, match='cannot read .*0001.mat: .*Download it again'):
        submit_dnd(folder, weights, tmp_path / 'other', device='cpu')


# ---- PolyU, CC ----

def test_polyu_and_cc_as_downloaded(tmp_path):
    crops, whole, cc = (tmp_path / name for name in ('PolyU/CroppedImages', 'PolyU/OriginalImages', 'cc'))
    for folder in (crops, whole, cc):
        folder.mkdir(parents=True)
    for name in ('Canon5D2_5_160_3200_chair_11', 'Sony_4-5_125_3200_plant_1'):
        for ending in ('real', 'mean'):
            Image.fromarray(picture(512, 512)).save(crops / f'{name}_{ending}.JPG')
            Image.fromarray(picture(512, 512)).save(cc / f'{name}_{ending}.png')
    for ending in ('Real', 'mean'):
        Image.fromarray(picture(200, 300)).save(whole / f'Canon_{ending}.JPG')
    main(['prepare', 'polyu', str(tmp_path / 'PolyU'), '-o', str(tmp_path / 'out'), '--size', '150', '--incomplete'])
    main(['prepare', 'cc', str(cc), '-o', str(tmp_path / 'out'), '--incomplete'])
    polyu = pairs(tmp_path / 'out/PolyU')
    assert [sample['lq_path'] for sample in polyu] == ['Canon5D2_5_160_3200_chair_11', 'Sony_4-5_125_3200_plant_1']
    decoded = cv2.imread(str(crops / 'Sony_4-5_125_3200_plant_1_mean.JPG'))[..., ::-1]
    assert np.abs(pixels(polyu[1]['gt']).astype(int) - decoded).max() <= 1  # two JPEG decoders
    assert len(pairs(tmp_path / 'out/PolyU_full')) == 2 * 2 and len(pairs(tmp_path / 'out/CC')) == 2
    with pytest.raises(UserError, match='PolyU, CroppedImages: expected 100, found 2'):
        prepare_polyu([crops], tmp_path / 'other')
    (cc / 'Sony_4-5_125_3200_plant_1_mean.png').unlink()
    with pytest.raises(UserError, match=r'plant_1_real.png has no \*_mean beside it'):
        prepare_cc([cc], tmp_path / 'other', incomplete=True)
    Image.fromarray(picture(500, 512)).save(cc / 'Sony_4-5_125_3200_plant_1_mean.png')
    with pytest.raises(UserError, match='expected 512x512 pixels'):
        prepare_cc([cc], tmp_path / 'other', incomplete=True)
    with pytest.raises(UserError, match='no folder CroppedImages or OriginalImages'):
        prepare_polyu([cc], tmp_path / 'other')
