"""Miniatures of the published datasets of images with opinion scores, and metrics for tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.io
from basicsr.utils.registry import METRIC_REGISTRY
from PIL import Image

GREYS = (20, 60, 100, 140, 180, 220)  # of the images, in the order of their names
SCORES = (1.1, 2.0, 1.7, 3.4, 4.0, 4.8)
SROCC, KROCC = 33 / 35, 13 / 15  # of GREYS and SCORES: 1 - 6 * 2 / (6 * 35), and one of 15 pairs is discordant


def mean_grey(img: np.ndarray, gain: float = 1, **kwargs: object) -> float:
    return float(img.mean()) * gain


def register(monkeypatch, function: Callable[..., float]) -> None:
    """Register a metric as ``calculate_test``."""
    monkeypatch.setitem(METRIC_REGISTRY._obj_map, 'calculate_test', function)


def iqa_options(scored: Path) -> dict:
    """One metric, ``grey``, on one dataset, ``set``, that :func:`write_scored` wrote."""
    return {
        'name': 'x',
        'datasets': {'set': {'images': str(scored / 'images'), 'scores': str(scored / 'scores.csv')}},
        'metrics': {'grey': {'type': 'calculate_test'}},
    }


def write_image(path: Path, grey: int, size: tuple[int, int] = (24, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size, (grey,) * 3).save(path)


def write_scored(folder: Path) -> Path:
    """``images/0.png`` to ``5.png``, and ``scores.csv`` with the columns ``file`` and ``MOS``."""
    lines = ['file,MOS']
    for number, (grey, score) in enumerate(zip(GREYS, SCORES)):
        write_image(folder / 'images' / f'{number}.png', grey)
        lines.append(f'{number}.png,{score}')
    (folder / 'scores.csv').write_text('\n'.join(lines) + '\n')
    return folder


def write_koniq(folder: Path) -> dict:
    """KonIQ-10k: a CSV with quoted names and columns that nobody reads, JPEGs in ``1024x768``."""
    lines = ['"image_name","c1","c2","c3","c4","c5","c_total","MOS","SD","MOS_zscore"']
    for grey, score in zip(GREYS, SCORES):
        write_image(folder / '1024x768' / f'{grey}04973.jpg', grey)
        lines.append(f'"{grey}04973.jpg",0,0,25,73,7,105,{score},0.55,77.4')
    (folder / 'koniq10k_scores_and_distributions.csv').write_text('\r\n'.join(lines) + '\r\n')
    return {
        'images': str(folder / '1024x768'),
        'scores': str(folder / 'koniq10k_scores_and_distributions.csv'),
        'file_column': 'image_name',
        'score_column': 'MOS',
    }


def write_live(folder: Path) -> dict:
    """LIVE In the Wild: two images of practice first, BMP and JPG, cells of names (N, 1), scores (1, N)."""
    names = ['t1.bmp', 't2.bmp', *(f'{grey}.{"JPG" if grey == 60 else "bmp"}' for grey in GREYS)]
    for name, grey in zip(names, (5, 250, *GREYS)):
        write_image(folder / 'Images' / ('trainingImages' if name[0] == 't' else '.') / name, grey)
    cells = np.empty((len(names), 1), object)
    cells[:, 0] = [np.array([name]) for name in names]
    (folder / 'Data').mkdir()
    scipy.io.savemat(folder / 'Data/AllImages_release.mat', {'AllImages_release': cells})
    scores = np.array([[90.0, 5.0, *(20 * score for score in SCORES)]])
    scipy.io.savemat(folder / 'Data/AllMOS_release.mat', {'AllMOS_release': scores})
    return {'images': str(folder / 'Images'), 'scores': str(folder / 'Data')}


def write_pipal(folder: Path, images: tuple[str, ...] = ('Distortion_1', 'Distortion_2')) -> dict:
    """PIPAL: two references with three distortions each, a label file for each reference."""
    (folder / 'Train_Label').mkdir(parents=True)
    for number, reference in enumerate(('A0000', 'A0001')):
        write_image(folder / 'Train_Ref' / f'{reference}.bmp', 128)
        lines = []
        for distortion in range(3):
            index, name = 3 * number + distortion, f'{reference}_0{distortion}_00.bmp'
            write_image(folder / images[index % len(images)] / name, GREYS[index])
            lines.append(f'{name},{1400 + 100 * SCORES[index]:.4f}')
        (folder / 'Train_Label' / f'{reference}.txt').write_text('\n'.join(lines) + '\n')
    return {'images': str(folder), 'scores': str(folder / 'Train_Label')}
