"""Miniatures of the published datasets in exactly the layouts of their downloads."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import scipy.io
from PIL import Image

SCENES = (
    ('0001_001_S6_00100_00060_3200_L', 10),
    ('0001_001_S6_00100_00060_3200_L', 11),
    ('0002_001_S6_00100_00020_3200_N', 10),
)

CITYSCAPES = (
    'train/zurich/zurich_000000_000019',
    'train/aachen/aachen_000001_000019',
    'train/aachen/aachen_000000_000019',
    'val/munster/munster_000000_000019',
    'test/bonn/bonn_000000_000019',
)


def picture(*shape: int) -> np.ndarray:
    return np.random.randint(0, 256, (*shape, 3)).astype(np.uint8)  # seeded for each test: the same in any order


def write_sidd(folder: Path) -> Path:
    """Three photographs of SIDD-Medium, and the blocks of two images of validation and benchmark."""
    for scene, shot in SCENES:
        data = folder / 'SIDD_Medium_Srgb' / 'Data' / scene
        data.mkdir(parents=True, exist_ok=True)
        for side in ('NOISY', 'GT'):
            Image.fromarray(picture(100, 130)).save(data / f'{scene[:4]}_{side}_SRGB_{shot:03d}.PNG')
    for name in ('ValidationNoisyBlocksSrgb', 'ValidationGtBlocksSrgb', 'BenchmarkNoisyBlocksSrgb'):
        scipy.io.savemat(folder / f'{name}.mat', {name: picture(2, 3, 256, 256)}, do_compression=True)
    return folder


def write_dnd(folder: Path) -> list[np.ndarray]:
    """Two photographs with two boxes each, as MATLAB writes version 7.3: HDF5, axes reversed, cells of references."""
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
    return photos


def write_cityscapes(folder: Path, size: tuple[int, int]) -> Path:
    """``leftImg8bit`` with three images of train, one of val and one of test, and files that are none of its images."""
    for name in CITYSCAPES:
        split, city, _ = name.split('/')
        path = folder / 'leftImg8bit' / f'{name}_leftImg8bit.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(*size)).save(path)
        labels = folder / 'gtFine' / split / city / f'{path.name.replace("leftImg8bit", "gtFine_color")}'
        labels.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(*size)).save(labels)
    path = folder / 'leftImg8bit' / f'{CITYSCAPES[0]}_leftImg8bit.png'
    path.with_name(f'._{path.name}').write_bytes(b'of macOS')
    sequence = folder / 'leftImg8bit_sequence' / 'train' / 'zurich' / path.name
    sequence.parent.mkdir(parents=True)
    Image.fromarray(picture(*size)).save(sequence)
    return folder


def move_box_outside(folder: Path) -> None:
    """Give the second photograph of DND boxes that end beyond its last column."""
    with h5py.File(folder / 'info.mat', 'r+') as file:
        file['#refs#/1'][...] = np.array([[1, 200, 512, 711]] * 2, float).T
