"""`sassid prepare folder` and the LMDB writer: coverage, damage, full disks, stopped runs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.data import build_dataset

from basicsr_sassid.data.prepare import folder, writer
from basicsr_sassid.data.prepare.folder import prepare_folder
from basicsr_sassid.utils.errors import UserError


def samples(lmdb_path: Path) -> list[dict]:
    return list(
        build_dataset({'name': 'x', 'type': 'NoisyImageDataset', 'dataroot_lq': str(lmdb_path), 'phase': 'val'})
    )


@pytest.fixture
def cut(tmp_path) -> tuple[np.ndarray, Path]:
    """An image of 100x130 pixels, and its LMDB of 48x48 sub-images at distances of 40 pixels."""
    image = np.random.default_rng(0).integers(0, 256, (100, 130, 3)).astype(np.uint8)
    (tmp_path / 'photos' / 'é sub.dir').mkdir(parents=True)
    cv2.imwrite(str(tmp_path / 'photos' / 'é sub.dir' / 'ünïcode.v1.png'), image[..., ::-1])
    assert prepare_folder([tmp_path / 'photos'], tmp_path / 'x.lmdb', size=48, step=40, quiet=True).sub_images == 12
    return image, tmp_path / 'x.lmdb'


def test_prepare_folder_sub_images_are_parts_of_the_image(cut):
    image, lmdb_path = cut
    for sample in samples(lmdb_path):
        top, left = (int(part[1:]) for part in sample['lq_path'].split('_')[-2:])
        pixels = (sample['lq'].permute(1, 2, 0) * 255).round().byte().numpy()
        assert np.array_equal(pixels, image[top : top + 48, left : left + 48])


def test_prepare_folder_sub_images_cover_every_pixel(cut):
    image, lmdb_path = cut
    covered = np.zeros(image.shape[:2], bool)
    for sample in samples(lmdb_path):
        top, left = (int(part[1:]) for part in sample['lq_path'].split('_')[-2:])
        covered[top : top + 48, left : left + 48] = True
    assert covered.all()


def test_prepare_folder_leaves_no_other_file(cut):
    assert sorted(path.name for path in cut[1].parent.iterdir()) == ['photos', 'x.lmdb']


def test_prepare_folder_reports_its_counts(photographs, tmp_path):
    prepared = prepare_folder([photographs], tmp_path / 'x.lmdb', size=1000)
    assert (prepared.photos, prepared.sub_images, prepared.skipped) == (6, 6, {})


def test_prepare_folder_after_opencv_ran_in_threads_does_not_hang(photographs, tmp_path):
    """Forked workers hang once the parent's OpenCV has started its threads."""
    cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (0, 0), 3)
    assert prepare_folder([photographs], tmp_path / 'x.lmdb', size=32, quiet=True).photos == 6


# ---- errors ----


@pytest.fixture
def with_broken(photographs) -> Path:
    content = (photographs / '0.png').read_bytes()
    (photographs / '3.png').write_bytes(content[: len(content) // 2])
    return photographs


def test_prepare_folder_broken_image_is_skipped(with_broken, tmp_path):
    prepared = prepare_folder([with_broken], tmp_path / 'x.lmdb', size=64, quiet=True)
    assert prepared.photos == 5 and list(prepared.skipped) == [str(with_broken / '3.png')]


def test_prepare_folder_strict_broken_image_raises_user_error(with_broken, tmp_path):
    with pytest.raises(UserError, match=r'3.png.*cut off'):
        prepare_folder([with_broken], tmp_path / 'y.lmdb', size=64, strict=True, quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ['noisy']


def test_prepare_folder_all_images_broken_raises_user_error(tmp_path):
    (tmp_path / 'a.png').write_bytes(b'x')
    with pytest.raises(UserError, match='none of the images could be read. First: cannot read'):
        prepare_folder([tmp_path / 'a.png'], tmp_path / 'x.lmdb', quiet=True)


@pytest.mark.parametrize(
    ('name', 'options', 'message'),
    [
        ('x.lmdb', {}, 'x.lmdb exists'),
        ('x', {}, 'ends in .lmdb'),
        ('y.lmdb', {'size': 0}, '^--size: expected a number from 1 to 65535, got 0'),
        ('y.lmdb', {'size': -5}, '^--size: expected a number from 1'),
        ('y.lmdb', {'step': 0}, '^--step: expected a number from 1 to 512, got 0'),
        ('y.lmdb', {'size': 64, 'step': 65}, '^--step: expected a number from 1 to 64, got 65'),
        ('y.lmdb', {'workers': -3}, '^--workers: expected a number from 1 to 256, got -3'),
        ('y.lmdb', {'workers': 0}, '^--workers: expected'),
    ],
)
def test_prepare_folder_unusable_output_or_size_raises_user_error(photographs, tmp_path, name, options, message):
    (tmp_path / 'x.lmdb').mkdir()
    with pytest.raises(UserError, match=message):
        prepare_folder([photographs], tmp_path / name, **options)


def test_prepare_folder_full_disk_leaves_no_lmdb(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, 'largest_size', lambda plan: 8 * 4096)
    with pytest.raises(UserError, match='cannot write .*x.lmdb: .*MDB_MAP_FULL.* Free some space'):
        prepare_folder([photographs], tmp_path / 'x.lmdb', quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ['noisy']


# ---- stopped runs ----


@pytest.fixture
def stopped_twice(photographs, tmp_path, monkeypatch) -> list[str]:
    """x.lmdb is written by three runs, two of which are stopped; the names of the files that they read."""
    read, names = folder.read_photo, []
    for allowed in (2, 3, None):
        end = len(names) + allowed if allowed else None

        def counted(file, end=end):
            if len(names) == end:
                raise RuntimeError('as a kill: nothing is removed')
            names.append(file.name)
            return read(file)

        monkeypatch.setattr(folder, 'read_photo', counted)
        if allowed:
            with pytest.raises(RuntimeError, match='kill'):
                prepare_folder([photographs], tmp_path / 'x.lmdb', size=40, workers=1, quiet=True)
            assert not (tmp_path / 'x.lmdb').exists()
        else:
            prepare_folder([photographs], tmp_path / 'x.lmdb', size=40, workers=1, quiet=True)
    monkeypatch.undo()
    return names


def test_prepare_folder_stopped_runs_read_every_file_once(stopped_twice):
    assert sorted(stopped_twice) == [f'{number}.png' for number in range(6)]


def test_prepare_folder_stopped_runs_write_the_lmdb_of_one_run(stopped_twice, photographs, tmp_path):
    prepare_folder([photographs], tmp_path / 'once.lmdb', size=40, quiet=True)
    once, resumed = samples(tmp_path / 'once.lmdb'), samples(tmp_path / 'x.lmdb')
    assert [sample['lq_path'] for sample in once] == [sample['lq_path'] for sample in resumed]
    assert all(torch.equal(a['lq'], b['lq']) for a, b in zip(once, resumed))


def test_prepare_folder_stopped_run_with_another_size_starts_over(photographs, tmp_path, monkeypatch):
    read = folder.read_photo
    monkeypatch.setattr(folder, 'read_photo', lambda file: read(file) if file.name < '3' else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare_folder([photographs], tmp_path / 'x.lmdb', size=40, workers=1, quiet=True)
    monkeypatch.undo()
    assert prepare_folder([photographs], tmp_path / 'x.lmdb', size=64, quiet=True).sub_images == 12
    assert {line.split()[1] for line in (tmp_path / 'x.lmdb/meta_info.txt').read_text().splitlines()} == {'(64,64,3)'}


def test_plan_digest_is_that_of_earlier_versions():
    """A run that an earlier version was stopped in continues."""
    source = writer.Source('a.png', '000000_a', lambda: np.zeros((4, 4, 3), np.uint8), (4, 4), (12, 34))
    assert writer.Plan([source], 48, 40).digest().hex() == (
        '920e02025744df03b0584568e6eaa82510af3036d23bac8c0090d80abe25d733'
    )
