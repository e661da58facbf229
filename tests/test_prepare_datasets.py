"""`sassid prepare sidd, dnd, polyu, cc` on miniatures of the downloads."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
import torch
from basicsr.data import build_dataset
from PIL import Image

from basicsr_sassid.data.prepare import sidd
from basicsr_sassid.data.prepare.cc import prepare_cc
from basicsr_sassid.data.prepare.dnd import prepare_dnd
from basicsr_sassid.data.prepare.polyu import prepare_polyu
from basicsr_sassid.data.prepare.sidd import prepare_sidd
from basicsr_sassid.utils.errors import UserError
from sassid import main

from download_miniatures import move_box_outside, picture, write_dnd, write_sidd

POLYU = ('Canon5D2_5_160_3200_chair_11', 'Sony_4-5_125_3200_plant_1')


def pairs(folder: Path) -> list[dict]:
    """As stock BasicSR reads them."""
    return list(
        build_dataset(
            {
                'type': 'PairedImageDataset',
                'name': 'x',
                'phase': 'val',
                'scale': 1,
                'dataroot_lq': str(folder / 'noisy.lmdb'),
                'dataroot_gt': str(folder / 'clean.lmdb'),
                'io_backend': {'type': 'lmdb'},
            }
        )
    )


def pixels(tensor: torch.Tensor) -> np.ndarray:
    return (tensor.permute(1, 2, 0) * 255).round().byte().numpy()


# ---- SIDD ----


@pytest.fixture
def sidd_downloads(tmp_path) -> Path:
    return write_sidd(tmp_path / 'downloads')


@pytest.fixture
def sidd_prepared(sidd_downloads, tmp_path, capsys) -> Path:
    main(['prepare', 'sidd', str(sidd_downloads), '-o', str(tmp_path / 'out'), '--size', '64', '--incomplete'])
    return tmp_path / 'out'


def test_prepare_sidd_reports_each_lmdb(sidd_prepared, capsys):
    assert 'SIDD_val/clean.lmdb: 6 sub-images of 6 photographs' in capsys.readouterr().out


def test_prepare_sidd_validation_keys_are_image_and_block(sidd_prepared):
    keys = [sample['lq_path'] for sample in pairs(sidd_prepared / 'SIDD_val')]
    assert keys == [f'{image:02d}_{block:02d}' for image in range(2) for block in range(3)]


def test_prepare_sidd_validation_pixels_are_the_blocks(sidd_prepared, sidd_downloads):
    blocks = scipy.io.loadmat(sidd_downloads / 'ValidationGtBlocksSrgb.mat')['ValidationGtBlocksSrgb']
    for sample, block in zip(pairs(sidd_prepared / 'SIDD_val'), blocks.reshape(-1, 256, 256, 3), strict=True):
        assert np.array_equal(pixels(sample['gt']), block)


def test_prepare_sidd_medium_is_cut_into_pairs_of_sub_images(sidd_prepared):
    medium = pairs(sidd_prepared / 'SIDD_Medium')
    assert len(medium) == 3 * 2 * 3
    assert medium[0]['lq_path'] == '0001_001_S6_00100_00060_3200_L_010_y00000_x00000'


def test_prepare_sidd_benchmark_blocks_are_not_cut(sidd_prepared):
    meta = (sidd_prepared / 'SIDD_benchmark/noisy.lmdb/meta_info.txt').read_text()
    assert meta.count('(256,256,3)') == 6


def test_prepare_sidd_existing_lmdb_is_kept(sidd_downloads, tmp_path):
    validation = sidd_downloads / 'ValidationNoisyBlocksSrgb.mat'
    first = prepare_sidd([validation], tmp_path / 'out', incomplete=True, quiet=True)
    assert first['SIDD_val/noisy.lmdb'].photos == 6
    second = prepare_sidd([sidd_downloads], tmp_path / 'out', size=64, incomplete=True, quiet=True)
    assert second.pop('SIDD_val/noisy.lmdb') is None and all(second.values()) and len(second) == 4


def test_prepare_sidd_fewer_photographs_than_published_raise_user_error(sidd_downloads, tmp_path):
    with pytest.raises(UserError, match='SIDD-Medium, noisy photographs: expected 320, found 3.*--incomplete'):
        prepare_sidd([sidd_downloads], tmp_path / 'out', quiet=True)


def test_prepare_sidd_more_photographs_than_published_raise_user_error(sidd_downloads, tmp_path, monkeypatch):
    monkeypatch.setattr(sidd, 'MEDIUM', 2)
    with pytest.raises(UserError, match='2 were published, found 3. Give one copy alone'):
        prepare_sidd([sidd_downloads], tmp_path / 'out', incomplete=True, quiet=True)


def test_prepare_sidd_second_copy_of_a_scene_raises_user_error(sidd_downloads, tmp_path):
    again = sidd_downloads / 'again/0002_001_S6_00100_00020_3200_N'
    again.mkdir(parents=True)
    for side in ('NOISY', 'GT'):
        Image.fromarray(picture(100, 130)).save(again / f'0002_{side}_SRGB_010.PNG')
    with pytest.raises(UserError, match='another image has its name'):
        prepare_sidd([sidd_downloads], tmp_path / 'out', incomplete=True, quiet=True)


def test_prepare_sidd_blocks_of_another_number_raise_user_error(sidd_downloads, tmp_path):
    with pytest.raises(UserError, match=r'expected \(40, 32, 256, 256, 3\) uint8, got \(2, 3, 256, 256, 3\) uint8'):
        prepare_sidd([sidd_downloads / 'ValidationNoisyBlocksSrgb.mat'], tmp_path / 'out', quiet=True)


@pytest.mark.parametrize('length', [5000, 0])
def test_prepare_sidd_damaged_blocks_raise_user_error(sidd_downloads, tmp_path, length):
    path = sidd_downloads / 'ValidationNoisyBlocksSrgb.mat'
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match='cannot read .*Validation.*Download it again'):
        prepare_sidd([path], tmp_path / 'out', incomplete=True, quiet=True)


def test_prepare_sidd_blocks_under_another_name_raise_user_error(sidd_downloads, tmp_path):
    scipy.io.savemat(sidd_downloads / 'ValidationNoisyBlocksSrgb.mat', {'blocks': np.zeros(3)})
    with pytest.raises(UserError, match='expected the variable ValidationNoisyBlocksSrgb, found blocks'):
        prepare_sidd([sidd_downloads], tmp_path / 'out', incomplete=True, quiet=True)


def test_prepare_sidd_missing_reference_raises_user_error(sidd_downloads, tmp_path):
    next(sidd_downloads.rglob('*GT_SRGB_010.PNG')).unlink()
    with pytest.raises(UserError, match='3 noisy and 2 clean photographs, and 0001_001.*_010 is on one side alone'):
        prepare_sidd([sidd_downloads], tmp_path / 'out', incomplete=True, quiet=True)


def test_prepare_sidd_folder_of_something_else_raises_user_error(tmp_path):
    with pytest.raises(UserError, match='there is neither .*NOISY_SRGB'):
        prepare_sidd([tmp_path], tmp_path / 'out')


# ---- DND ----


@pytest.fixture
def dnd_downloads(tmp_path) -> tuple[Path, list[np.ndarray]]:
    return tmp_path / 'dnd', write_dnd(tmp_path / 'dnd')


def test_prepare_dnd_sub_images_are_the_photographs_rounded(dnd_downloads, tmp_path):
    folder, photos = dnd_downloads
    main(['prepare', 'dnd', str(folder), '-o', str(tmp_path / 'out'), '--incomplete', '--size', '300'])
    noisy = build_dataset(
        {'type': 'NoisyImageDataset', 'name': 'x', 'phase': 'val', 'dataroot_lq': str(tmp_path / 'out/DND/noisy.lmdb')}
    )
    assert len(noisy) == 2 * 3 + 2 * 3
    for sample in noisy:
        number, top, left = (int(part.strip('yx')) for part in sample['lq_path'].split('_'))
        expected = photos[number - 1][top : top + 300, left : left + 300]
        assert np.abs(sample['lq'].permute(1, 2, 0).numpy() - expected).max() <= 0.5001 / 255


def test_prepare_dnd_fewer_photographs_than_published_raise_user_error(dnd_downloads, tmp_path):
    with pytest.raises(UserError, match='images_srgb/.*expected 50, found 2'):
        prepare_dnd([dnd_downloads[0]], tmp_path / 'out', quiet=True)


def test_prepare_dnd_box_outside_its_photograph_raises_user_error(dnd_downloads, tmp_path):
    move_box_outside(dnd_downloads[0])
    with pytest.raises(UserError, match='512x640 pixels, but info.mat has a box at rows 0 to 512, columns 199 to 711'):
        prepare_dnd([dnd_downloads[0]], tmp_path / 'out', incomplete=True, quiet=True)


def test_prepare_dnd_without_boxes_raises_user_error(dnd_downloads, tmp_path):
    (dnd_downloads[0] / 'info.mat').unlink()
    with pytest.raises(UserError, match='no info.mat'):
        prepare_dnd([dnd_downloads[0]], tmp_path / 'out', incomplete=True, quiet=True)


# ---- PolyU, CC ----


@pytest.fixture
def polyu_downloads(tmp_path) -> Path:
    folder = tmp_path / 'PolyU'
    for name in ('CroppedImages', 'OriginalImages'):
        (folder / name).mkdir(parents=True)
    for name in POLYU:
        for ending in ('real', 'mean'):
            Image.fromarray(picture(512, 512)).save(folder / 'CroppedImages' / f'{name}_{ending}.JPG')
    for ending in ('Real', 'mean'):
        Image.fromarray(picture(200, 300)).save(folder / 'OriginalImages' / f'Canon_{ending}.JPG')
    return folder


@pytest.fixture
def cc_downloads(tmp_path) -> Path:
    (tmp_path / 'cc').mkdir()
    for name in POLYU:
        for ending in ('real', 'mean'):
            Image.fromarray(picture(512, 512)).save(tmp_path / 'cc' / f'{name}_{ending}.png')
    return tmp_path / 'cc'


def test_prepare_polyu_crops_are_pairs_of_the_files(polyu_downloads, tmp_path):
    main(['prepare', 'polyu', str(polyu_downloads), '-o', str(tmp_path / 'out'), '--size', '150', '--incomplete'])
    polyu = pairs(tmp_path / 'out/PolyU')
    assert [sample['lq_path'] for sample in polyu] == list(POLYU)
    decoded = cv2.imread(str(polyu_downloads / 'CroppedImages' / f'{POLYU[1]}_mean.JPG'))[..., ::-1]
    assert np.abs(pixels(polyu[1]['gt']).astype(int) - decoded).max() <= 1  # two JPEG decoders


def test_prepare_polyu_originals_are_cut(polyu_downloads, tmp_path):
    prepare_polyu([polyu_downloads], tmp_path / 'out', size=150, incomplete=True, quiet=True)
    assert len(pairs(tmp_path / 'out/PolyU_full')) == 2 * 2


def test_prepare_cc_writes_pairs(cc_downloads, tmp_path):
    main(['prepare', 'cc', str(cc_downloads), '-o', str(tmp_path / 'out'), '--incomplete'])
    assert len(pairs(tmp_path / 'out/CC')) == 2


def test_prepare_polyu_fewer_crops_than_published_raise_user_error(polyu_downloads, tmp_path):
    with pytest.raises(UserError, match='PolyU, CroppedImages: expected 100, found 2'):
        prepare_polyu([polyu_downloads / 'CroppedImages'], tmp_path / 'out', quiet=True)


def test_prepare_polyu_folder_of_something_else_raises_user_error(cc_downloads, tmp_path):
    with pytest.raises(UserError, match='no folder CroppedImages or OriginalImages'):
        prepare_polyu([cc_downloads], tmp_path / 'out')


def test_prepare_cc_missing_mean_raises_user_error(cc_downloads, tmp_path):
    (cc_downloads / f'{POLYU[1]}_mean.png').unlink()
    with pytest.raises(UserError, match=r'plant_1_real.png has no \*_mean beside it'):
        prepare_cc([cc_downloads], tmp_path / 'out', incomplete=True, quiet=True)


def test_prepare_cc_crop_of_another_size_raises_user_error(cc_downloads, tmp_path):
    Image.fromarray(picture(500, 512)).save(cc_downloads / f'{POLYU[1]}_mean.png')
    with pytest.raises(UserError, match='expected 512x512 pixels'):
        prepare_cc([cc_downloads], tmp_path / 'out', incomplete=True, quiet=True)
