"""`sassid prepare cityscapes, skimage`: clean images for synthetic noise."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from basicsr.data import build_dataset
from basicsr.utils.matlab_functions import imresize
from PIL import Image

from basicsr_sassid.data.prepare import cityscapes, skimage_photos, writer
from basicsr_sassid.data.prepare.cityscapes import prepare_cityscapes
from basicsr_sassid.data.prepare.skimage_photos import prepare_skimage
from basicsr_sassid.utils.errors import UserError
from sassid import main

from download_miniatures import CITYSCAPES, picture, write_cityscapes

SIZE = 24, 48  # of the miniature; a test of its own has the published size
TRAIN_KEYS = ['aachen_000000_000019', 'aachen_000001_000019', 'zurich_000000_000019']


def images(lmdb: Path) -> dict[str, np.ndarray]:
    """Key -> (H, W, 3) uint8 RGB, as stock BasicSR reads them."""
    dataset = build_dataset(
        {
            'type': 'SingleImageDataset',
            'name': 'x',
            'phase': 'val',
            'dataroot_lq': str(lmdb),
            'io_backend': {'type': 'lmdb'},
        }
    )
    return {sample['lq_path']: (sample['lq'].permute(1, 2, 0) * 255).round().byte().numpy() for sample in dataset}


def read_rgb(path: Path) -> np.ndarray:
    return np.array(Image.open(path).convert('RGB'))


# ---- Cityscapes ----


@pytest.fixture
def downloads(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(cityscapes, 'SIZE', SIZE)
    return write_cityscapes(tmp_path / 'downloads', SIZE)


def prepare(downloads: Path, incomplete: bool = True) -> dict[str, writer.Prepared | None]:
    return prepare_cityscapes([downloads], downloads.parent / 'out', incomplete=incomplete, quiet=True)


def test_prepare_cityscapes_pixels_are_those_of_the_files(downloads, tmp_path, capsys):
    main(['prepare', 'cityscapes', str(downloads), '-o', str(tmp_path / 'out'), '--incomplete'])
    written = {split: images(tmp_path / f'out/Cityscapes/{split}.lmdb') for split in ('train', 'val')}
    for name in CITYSCAPES[:4]:
        split, _, key = name.split('/')
        expected = read_rgb(downloads / 'leftImg8bit' / f'{name}_leftImg8bit.png')
        assert np.array_equal(written[split][key], expected)
    assert 'Cityscapes/train.lmdb: 3 sub-images of 3 photographs' in capsys.readouterr().out


def test_prepare_cityscapes_keys_are_city_sequence_and_frame_in_order(downloads, tmp_path):
    prepare(downloads)
    assert list(images(tmp_path / 'out/Cityscapes/train.lmdb')) == TRAIN_KEYS
    assert list(images(tmp_path / 'out/Cityscapes/val.lmdb')) == ['munster_000000_000019']


def test_prepare_cityscapes_writes_no_other_split(downloads, tmp_path):
    prepare(downloads)
    assert sorted(path.name for path in (tmp_path / 'out/Cityscapes').iterdir()) == ['train.lmdb', 'val.lmdb']


@pytest.mark.parametrize('given', ['leftImg8bit', '.'])
def test_prepare_cityscapes_folder_or_its_parent_gives_the_same(downloads, given):
    assert {name: done.photos for name, done in prepare(downloads / given).items() if done} == {
        'Cityscapes/train.lmdb': 3,
        'Cityscapes/val.lmdb': 1,
    }


def test_prepare_cityscapes_in_the_folder_itself_finds_the_splits(downloads, tmp_path, monkeypatch):
    monkeypatch.chdir(downloads / 'leftImg8bit')
    assert len(prepare_cityscapes(['.'], tmp_path / 'out', incomplete=True, quiet=True)) == 2


def test_prepare_cityscapes_linked_folder_is_found(downloads):
    (downloads / 'leftImg8bit').rename(downloads / 'elsewhere')
    (downloads / 'leftImg8bit').symlink_to('elsewhere')
    assert len(prepare(downloads)) == 2


def test_prepare_cityscapes_given_twice_counts_once(downloads, tmp_path):
    done = prepare_cityscapes([downloads, downloads / 'leftImg8bit'], tmp_path / 'out', incomplete=True, quiet=True)
    assert done['Cityscapes/train.lmdb'].photos == 3


def test_prepare_cityscapes_missing_split_is_left_out(downloads):
    shutil.rmtree(downloads / 'leftImg8bit/train')
    assert list(prepare(downloads)) == ['Cityscapes/val.lmdb']


def test_prepare_cityscapes_existing_lmdb_is_kept(downloads):
    prepare(downloads / 'leftImg8bit')
    assert set(prepare(downloads / 'leftImg8bit').values()) == {None}


def test_prepare_cityscapes_stopped_run_continues(downloads, tmp_path, monkeypatch):
    commit, numbers = writer._commit, []

    def stop_at_the_third(environment, number, encoded):
        if number == 2 and 2 not in numbers:
            numbers.append(2)
            raise KeyboardInterrupt
        numbers.append(number)
        return commit(environment, number, encoded)

    monkeypatch.setattr(writer, '_commit', stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        prepare(downloads)
    prepare(downloads)
    assert numbers == [0, 1, 2, 2, 0]  # the last: of val
    assert list(images(tmp_path / 'out/Cityscapes/train.lmdb')) == TRAIN_KEYS


def test_prepare_cityscapes_published_counts_need_no_flag(downloads, monkeypatch):
    monkeypatch.setattr(cityscapes, 'SPLITS', {'train': 3, 'val': 1})
    assert len(prepare(downloads, incomplete=False)) == 2


def test_prepare_cityscapes_fewer_images_than_published_raise_user_error(downloads, tmp_path):
    with pytest.raises(UserError, match='leftImg8bit/train: expected 2975, found 3.*--incomplete'):
        prepare(downloads, incomplete=False)
    assert not (tmp_path / 'out').exists()


def test_prepare_cityscapes_more_images_than_published_raise_user_error(downloads, monkeypatch):
    monkeypatch.setattr(cityscapes, 'SPLITS', {'train': 3, 'val': 0})
    with pytest.raises(UserError, match='leftImg8bit/val: 0 were published, found 1. Give one copy alone'):
        prepare(downloads)


def test_prepare_cityscapes_second_copy_raises_user_error(downloads):
    shutil.copytree(downloads / 'leftImg8bit', downloads / 'copy/leftImg8bit')
    with pytest.raises(UserError, match=r'another image has its name \(aachen_000000_000019\)'):
        prepare(downloads)


@pytest.mark.parametrize('length', [2000, 10, 0])
def test_prepare_cityscapes_damaged_file_raises_user_error(downloads, tmp_path, length):
    path = downloads / 'leftImg8bit' / f'{CITYSCAPES[1]}_leftImg8bit.png'
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=f'cannot read {path}'):
        prepare(downloads)
    assert not list((tmp_path / 'out/Cityscapes').iterdir())


def test_prepare_cityscapes_another_size_raises_user_error(downloads):
    Image.fromarray(picture(*SIZE[::-1])).save(downloads / 'leftImg8bit' / f'{CITYSCAPES[3]}_leftImg8bit.png')
    with pytest.raises(UserError, match='munster_000000_000019_leftImg8bit.png: expected 24x48 pixels, got 48x24'):
        prepare(downloads)


def test_prepare_cityscapes_published_size_is_1024_by_2048(tmp_path):
    path = tmp_path / 'leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit.png'
    path.parent.mkdir(parents=True)
    Image.fromarray(np.zeros((1024, 2048, 3), np.uint8)).save(path)
    done = prepare_cityscapes([tmp_path], tmp_path / 'out', incomplete=True, quiet=True)
    assert done['Cityscapes/val.lmdb'].photos == 1


def test_prepare_cityscapes_folder_of_something_else_raises_user_error(downloads):
    with pytest.raises(
        UserError, match=r'no leftImg8bit/\{train,val\}/<city>/\*_leftImg8bit.png in .*gtFine or below\.$'
    ):
        prepare(downloads / 'gtFine')


@pytest.mark.parametrize('given', ['.', 'leftImg8bit_trainvaltest.zip'])
def test_prepare_cityscapes_archive_names_the_unpacking(tmp_path, given):
    (tmp_path / 'leftImg8bit_trainvaltest.zip').write_bytes(b'PK')
    with pytest.raises(UserError, match=r'leftImg8bit_trainvaltest\.zip is an archive: unpack it first'):
        prepare_cityscapes([tmp_path / given], tmp_path / 'out')


# ---- scikit-image ----


@pytest.fixture
def prepared(tmp_path, monkeypatch) -> dict[str, dict[str, np.ndarray]]:
    def refuse(*_: object) -> None:
        raise AssertionError('a connection to the internet')

    monkeypatch.setattr(socket.socket, 'connect', refuse)
    monkeypatch.setattr(skimage.data._fetchers, '_fetch', refuse)
    main(['prepare', 'skimage', '-o', str(tmp_path)])
    return {split: images(tmp_path / f'skimage/{split}.lmdb') for split in ('train', 'val')}


def test_prepare_skimage_splits_share_no_photograph(prepared):
    train, val = prepared['train'], prepared['val']
    assert list(train) == sorted(skimage_photos.SPLITS['train']) and list(val) == ['cat', 'coffee']
    files = [file for split in skimage_photos.SPLITS.values() for file in split.values()]
    assert len(files) == len(set(files)) == len(train) + len(val)


def test_prepare_skimage_stereo_pair_is_in_one_split(prepared):
    assert {'motorcycle_left', 'motorcycle_right'} <= prepared['train'].keys()


def test_prepare_skimage_every_photograph_is_stored_as_rgb(tmp_path):
    prepare_skimage(tmp_path, quiet=True)
    meta = ''.join((tmp_path / f'skimage/{split}.lmdb/meta_info.txt').read_text() for split in ('train', 'val'))
    assert meta.count('\n') == meta.count(',3) 1\n') == 10


def test_prepare_skimage_pixels_are_those_of_the_files(prepared):
    for split, files in skimage_photos.SPLITS.items():
        for key, file in files.items():
            height, width = prepared[split][key].shape[:2]
            assert height % 4 == width % 4 == 0
            assert np.array_equal(prepared[split][key], read_rgb(skimage_photos._FOLDER / file)[:height, :width])


def test_prepare_skimage_reduced_photographs_are_pairs_of_basicsr(tmp_path):
    prepare_skimage(tmp_path, quiet=True)
    for split in skimage_photos.SPLITS:
        large, small = (images(tmp_path / f'skimage/{split}{suffix}.lmdb') for suffix in ('', '_x4'))
        assert list(large) == list(small)
        for key, image in large.items():
            reduced = imresize(image.astype(np.float32) / 255, 0.25) * 255
            assert np.abs(reduced.clip(0, 255) - small[key]).max() <= 0.51


def test_prepare_skimage_existing_lmdb_is_kept(tmp_path):
    prepare_skimage(tmp_path, quiet=True)
    names = ('train', 'train_x4', 'val', 'val_x4')
    assert prepare_skimage(tmp_path, quiet=True) == {f'skimage/{name}.lmdb': None for name in names}


def test_prepare_skimage_missing_file_raises_user_error(tmp_path, monkeypatch):
    monkeypatch.setattr(skimage_photos, '_FOLDER', tmp_path)
    with pytest.raises(UserError, match='the installed scikit-image .* has no .*astronaut.png. Install it again'):
        prepare_skimage(tmp_path / 'out')
    assert not (tmp_path / 'out').exists()
