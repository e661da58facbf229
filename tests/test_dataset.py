"""NoisyImageDataset: crops, sources, and errors that name the key or file."""

from __future__ import annotations

import cv2
import lmdb
import numpy as np
import pytest
import tifffile
import torch
from basicsr.data import build_dataset
from PIL import Image
from torch.utils.data import DataLoader

from basicsr_sassid.data.prepare.folder import prepare_folder
from basicsr_sassid.data.teacher_cache import TeacherCache, unpack
from basicsr_sassid.utils.errors import UserError


def noisy(root, **options):
    return build_dataset(
        {
            'name': 'noisy',
            'type': 'NoisyImageDataset',
            'dataroot_lq': str(root),
            'phase': 'train',
            'patch_size': 32,
            **options,
        }
    )


def as_bytes(sample) -> bytes:
    return (sample['lq'] * 255).round().byte().permute(1, 2, 0).numpy().tobytes()


@pytest.fixture
def square(tmp_path) -> np.ndarray:
    """The pixels of the one image of a folder, 32x32."""
    image = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
    cv2.imwrite(str(tmp_path / 'a.png'), image[..., ::-1])
    return image


# ---- crops ----


def test_dataset_draws_all_eight_symmetries(tmp_path, square):
    expected = {np.rot90(view, turns).tobytes() for turns in range(4) for view in (square, square[:, ::-1])}
    dataset = noisy(tmp_path)
    assert len(expected) == 8
    assert {as_bytes(dataset[0]) for _ in range(200)} == expected


@pytest.mark.parametrize(
    ('options', 'count'),
    [({'use_hflip': False, 'use_rot': False}, 1), ({'use_rot': False}, 2), ({'use_hflip': False}, 4)],
)
def test_dataset_without_flip_or_turn_draws_fewer(tmp_path, square, options, count):
    dataset = noisy(tmp_path, **options)
    views = {as_bytes(dataset[0]) for _ in range(100)}
    assert len(views) == count and square.tobytes() in views


def test_dataset_teacher_prediction_is_cropped_as_the_image(photographs):
    dataset = noisy(photographs)
    dataset.teachers['bnn'] = TeacherCache(None, dataset.sizes)
    dataset.teachers['bnn'].write((index, dataset.image(index)) for index in range(len(dataset)))
    for index in range(len(dataset)):
        sample = dataset[index]
        torch.testing.assert_close(sample['teacher_bnn'], sample['lq'], rtol=0, atol=2e-5)


def test_unpack_of_a_cached_prediction_is_within_a_hundredth_grey_level():
    cache = TeacherCache(None, [(5, 7)])
    prediction = np.random.default_rng(0).random((5, 7, 3)).astype(np.float32)
    cache.write([(0, prediction)])
    assert np.abs(unpack(cache.read(0)) - prediction).max() * 255 < 0.01


# ---- sources ----


def test_dataset_lmdb_has_the_pixels_of_the_folder(photographs, tmp_path):
    prepare_folder([photographs], tmp_path / 'x.lmdb', size=1000, quiet=True)
    folder, database = noisy(photographs, phase='val'), noisy(tmp_path / 'x.lmdb', phase='val')
    assert all(torch.equal(folder[index]['lq'], database[index]['lq']) for index in range(6))


def test_dataset_sample_has_image_and_path_alone(photographs):
    assert noisy(photographs)[0].keys() == {'lq', 'lq_path'}


def test_dataset_paths_are_sorted(photographs):
    dataset = noisy(photographs)
    assert dataset.paths == sorted(dataset.paths)


@pytest.fixture
def database(photographs, tmp_path):
    prepare_folder([photographs], tmp_path / 'x.lmdb', size=64, quiet=True)
    return tmp_path / 'x.lmdb'


def test_dataset_lmdb_of_a_stock_dataset_in_the_same_process_is_shared(database):
    """lmdb refuses to open an environment twice, which stock BasicSR does here."""
    train = noisy(database)
    paired = build_dataset(
        {
            'name': 'pairs',
            'type': 'PairedImageDataset',
            'dataroot_lq': str(database),
            'scale': 1,
            'dataroot_gt': str(database),
            'io_backend': {'type': 'lmdb'},
            'phase': 'val',
        }
    )
    assert train[0]['lq'].shape == (3, 32, 32)
    assert torch.equal(paired[0]['lq'], paired[0]['gt'])


def test_dataset_lmdb_in_forked_workers_is_read(database):
    train = noisy(database)
    expected = train[0]['lq'].shape
    assert all(batch['lq'].shape[1:] == expected for batch in DataLoader(train, batch_size=3, num_workers=2))


GREY = (np.arange(40 * 50).reshape(40, 50) * 30 % 65536).astype(np.uint16)
RGB = np.dstack((GREY, GREY[::-1], GREY[:, ::-1]))
AS_GREY, AS_RGB = np.broadcast_to(GREY / 65535, (3, 40, 50)), RGB.transpose(2, 0, 1) / 65535
AS_RGB8 = (RGB >> 8).transpose(2, 0, 1) / 255
SMALL_RGB = (RGB >> 8).astype(np.uint8)


@pytest.mark.parametrize(
    ('name', 'write', 'expected'),
    [
        (
            'grey8.png',
            lambda path: cv2.imwrite(path, (GREY >> 8).astype(np.uint8)),
            np.broadcast_to((GREY >> 8) / 255, (3, 40, 50)),
        ),
        ('grey16.png', lambda path: cv2.imwrite(path, GREY), AS_GREY),
        ('rgb16.png', lambda path: cv2.imwrite(path, RGB[..., ::-1]), AS_RGB),
        ('rgb16.tif', lambda path: tifffile.imwrite(path, RGB, photometric='rgb'), AS_RGB),
        ('grey16.tiff', lambda path: tifffile.imwrite(path, GREY), AS_GREY),
        (
            'rgba.png',
            lambda path: cv2.imwrite(path, np.dstack((SMALL_RGB[..., ::-1], (GREY >> 9).astype(np.uint8)))),
            AS_RGB8,
        ),
        ('palette.png', lambda path: Image.fromarray(SMALL_RGB).quantize(8).save(path), None),
        ('photo.jpg', lambda path: cv2.imwrite(path, SMALL_RGB), None),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
def test_dataset_any_kind_of_file_is_rgb_in_unit_range(tmp_path, name, write, expected):
    write(str(tmp_path / name))
    image = noisy(tmp_path, phase='val')[0]['lq'].numpy()
    assert image.shape == (3, 40, 50) and image.min() >= 0 and image.max() <= 1
    if expected is not None:
        np.testing.assert_allclose(image, expected, atol=1e-6)


# ---- hold_out ----


@pytest.mark.parametrize(('phase', 'names'), [('train', ['1', '2', '4', '5']), ('val', ['0', '3'])])
def test_dataset_hold_out_splits_the_images(photographs, phase, names):
    dataset = noisy(photographs, hold_out=3, phase=phase)
    assert [path.rsplit('/', 1)[1] for path in dataset.paths] == [f'{name}.png' for name in names]
    assert len(dataset.sizes) == len(names)


# ---- errors ----


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'patch_size': 65}, r'^datasets.train.patch_size: 65 is larger than .*0.png \(64x80 pixels'),
        ({'patch_size': None}, '^datasets.train.patch_size: expected a number of pixels >= 1, got None'),
        ({'patch_size': 0}, '^datasets.train.patch_size: expected a number >= 1, got 0'),
        ({'patch_size': True}, '^datasets.train.patch_size: expected a whole number, got True'),
        ({'patchsize': 32}, "^datasets.train: unknown key 'patchsize'. Did you mean 'patch_size'"),
        ({'pin_memory': True}, "^datasets.train: unknown key 'pin_memory'"),
        ({'use_rot': 1}, '^datasets.train.use_rot: expected true or false, got 1'),
        ({'hold_out': 1}, '^datasets.train.hold_out: expected 0 or a number >= 2, got 1'),
        ({'hold_out': -2}, '^datasets.train.hold_out: expected 0 or a number >= 2, got -2'),
        ({'hold_out': 2.5}, '^datasets.train.hold_out: expected a whole number, got 2.5'),
        ({'io_backend': {'type': 'hdf5'}}, "^datasets.train.io_backend.type: expected one of disk, lmdb, got 'hdf5'"),
        ({'batch_size_per_gpu': 0}, '^datasets.train.batch_size_per_gpu: expected a number >= 1, got 0'),
        ({'phase': 'val', 'hold_out': 'x'}, '^datasets.val.hold_out: expected a whole number'),
    ],
)
def test_dataset_bad_option_raises_user_error(photographs, options, message):
    with pytest.raises(UserError, match=message):
        noisy(photographs, **options)


def test_dataset_without_a_path_raises_user_error():
    with pytest.raises(UserError, match="^datasets.train: key 'dataroot_lq' is missing"):
        build_dataset({'name': 'noisy', 'type': 'NoisyImageDataset', 'phase': 'train', 'dataroot_lq': None})


def test_dataset_missing_folder_raises_user_error(tmp_path):
    with pytest.raises(UserError, match='^datasets.train.dataroot_lq: no such file or folder: .*nowhere'):
        noisy(tmp_path / 'nowhere')


def test_dataset_empty_folder_raises_user_error(tmp_path):
    with pytest.raises(UserError, match=f'no image in {tmp_path}'):
        noisy(tmp_path)


def test_dataset_unreadable_image_raises_user_error(photographs):
    (photographs / 'zz.jpg').write_text('this is no picture')
    with pytest.raises(UserError, match='zz.jpg: it is no image of a known format'):
        noisy(photographs)


@pytest.mark.parametrize(
    ('meta', 'message'),
    [
        (None, "other.lmdb is no LMDB in BasicSR's format"),
        ('0001\n', r'meta_info.txt, line 1: expected "name.png'),
        ('', 'meta_info.txt names no image'),
    ],
)
def test_dataset_folder_that_is_no_lmdb_of_basicsr_raises_user_error(tmp_path, meta, message):
    lmdb.open(str(tmp_path / 'other.lmdb')).close()
    if meta is not None:
        (tmp_path / 'other.lmdb' / 'meta_info.txt').write_text(meta)
    with pytest.raises(UserError, match=message):
        noisy(tmp_path / 'other.lmdb')


def test_dataset_clean_references_are_ignored_with_a_warning(photographs, tmp_path):
    with pytest.warns(UserWarning, match='datasets.train: dataroot_gt is not used'):
        dataset = noisy(photographs, dataroot_gt=str(tmp_path))
    assert 'gt' not in dataset[0]
