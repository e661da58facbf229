"""Damaged LMDBs: found before they are mapped, in every reader; a bus error would end the test's subprocess."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import lmdb
import numpy as np
import pytest

from basicsr_sassid.data.lmdb_meta import read_lmdb_meta
from basicsr_sassid.data.prepare.folder import prepare_folder
from basicsr_sassid.data.teacher_cache import TeacherCache, unpack
from basicsr_sassid.io.lmdb_environments import first_missing_key, open_for_writing, open_shared
from basicsr_sassid.io.lmdb_file import DamagedLMDBError, check_whole
from basicsr_sassid.training.datasets import complete_dataset, open_dataset
from basicsr_sassid.utils.errors import UserError

from helpers import run_code


def write_randomly(folder: Path, rng: random.Random) -> None:
    """A transaction of random writes and deletions, some of values that fill pages of their own."""
    with lmdb.open(str(folder), map_size=2**28) as environment:
        for _ in range(rng.randint(1, 4)):
            with environment.begin(write=True) as transaction:
                for _ in range(rng.randint(1, 60)):
                    key = b'%04d' % rng.randint(0, 200)
                    if rng.random() < 0.6:
                        transaction.put(key, rng.randbytes(rng.choice([10, 1000, 5000, 100_000])))
                    else:
                        transaction.delete(key)


@pytest.mark.parametrize('seed', range(8))
def test_check_whole_takes_every_sound_lmdb(tmp_path, seed):
    rng = random.Random(seed)
    for _ in range(4):
        write_randomly(tmp_path, rng)
        check_whole(tmp_path)


def test_check_whole_takes_a_file_that_ends_before_the_last_page_of_its_header(tmp_path):
    with lmdb.open(str(tmp_path), map_size=2**24) as environment, environment.begin(write=True) as transaction:
        transaction.put(b'a', b'1')
        transaction.put(b'b', bytes(200_000))
        transaction.delete(b'b')  # its pages are never written
    check_whole(tmp_path)
    assert first_missing_key(tmp_path, ['a']) is None


@pytest.fixture(scope='module')
def whole(tmp_path_factory, noisy_folder) -> Path:
    path = tmp_path_factory.mktemp('lmdb') / 'x.lmdb'
    prepare_folder([noisy_folder], path, size=40, quiet=True)
    return path


def damaged(whole: Path, folder: Path, change) -> Path:
    target = folder / 'cut.lmdb'
    shutil.copytree(whole, target)
    content = (target / 'data.mdb').read_bytes()
    (target / 'data.mdb').write_bytes(change(content))
    return target


READ_CUT_FILES = """
import os, random, shutil
from basicsr_sassid.io.lmdb_environments import open_shared
from basicsr_sassid.io.lmdb_file import DamagedLMDBError
whole = {whole!r}
with open_shared(whole).begin() as transaction:
    expected = [bytes(value) for _, value in transaction.cursor()]
size, rng, refused = os.path.getsize(whole + '/data.mdb'), random.Random(0), 0
cuts = [0, 1, 4095, 4096, 8191, 8192, size - 1, size // 4096 * 4096 - 4096, *(rng.randrange(size) for _ in range(60))]
for number, cut in enumerate(cuts):
    folder = f'cut{{number}}.lmdb'
    os.mkdir(folder)
    with open(whole + '/data.mdb', 'rb') as file, open(folder + '/data.mdb', 'wb') as target:
        target.write(file.read(cut))
    try:
        with open_shared(folder).begin() as transaction:
            assert [bytes(value) for _, value in transaction.cursor()] == expected, cut
    except DamagedLMDBError:
        refused += 1
    shutil.rmtree(folder)
print('refused', refused, 'of', len(cuts))
"""


@pytest.mark.slow
def test_lmdb_cut_at_any_byte_is_refused_or_complete(whole, tmp_path):
    done = run_code(READ_CUT_FILES.format(whole=str(whole)), tmp_path)
    assert done.returncode == 0, done.stdout
    refused, count = (int(word) for word in done.stdout.split()[-3::2])
    assert refused >= count - 2


DAMAGES = {
    'half': lambda content: content[: len(content) // 2],
    'empty': lambda content: b'',
    'zeros': lambda content: bytes(len(content)),
    'text': lambda content: b'this is no database' * 1000,
    'one meta page': lambda content: content[:4096],
    'second meta page zero': lambda content: content[:4096] + bytes(4096) + content[8192:],
}


@pytest.mark.parametrize('kind', DAMAGES)
def test_damaged_lmdb_is_one_sentence_in_every_reader(whole, noisy_folder, tmp_path, kind):
    path = damaged(whole, tmp_path, DAMAGES[kind])
    noisy = {'name': 'x', 'type': 'NoisyImageDataset', 'dataroot_lq': str(path), 'phase': 'val'}
    paired = {**noisy, 'type': 'PairedImageDataset', 'dataroot_gt': str(path), 'io_backend': {'type': 'lmdb'}}
    for read in (
        lambda: open_shared(path),
        lambda: read_lmdb_meta(path),
        lambda: open_dataset(noisy, 'datasets.val'),
        lambda: complete_dataset(paired, 'datasets.val', []),
        lambda: open_dataset({**paired, 'scale': 1}, 'datasets.val')[0],
    ):
        with pytest.raises(UserError, match=r'data.mdb is no LMDB, or damaged') as error:
            read()
        assert '\n' not in str(error.value)


@pytest.mark.parametrize('kind', [kind for kind in DAMAGES if kind != 'empty'])
def test_open_for_writing_damaged_lmdb_is_refused(whole, tmp_path, kind):
    path = damaged(whole, tmp_path, DAMAGES[kind])
    with pytest.raises(DamagedLMDBError), open_for_writing(path, 2**28):
        pass


def test_lmdb_with_a_hole_is_refused_or_reads_as_before(whole, tmp_path):
    path = damaged(whole, tmp_path, lambda content: content[:8192] + bytes(len(content) - 8192))
    with pytest.raises(UserError):
        read_lmdb_meta(path)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda text: text.replace(b'000000_0', b'../../\xe9'), 'meta_info.txt is no text in UTF-8'),
        (lambda text: text.replace(b'000000_0', b'../../x'), r'line 1: expected a name without \.\..*\.\./\.\./x'),
        (lambda text: text.replace(b'000000_0', b'/tmp/x'), 'line 1: expected a name without'),
        (lambda text: text.replace(b'000000_0', b'a\x1b[2J'), r'line 1: expected a name without .*x1b'),
        (lambda text: text.replace(b'(40,40,3)', b'(40,40)'), 'line 1: expected "name.png'),
        (
            lambda text: text.replace(b'000000_0', b'other'),
            "meta_info.txt names 'other_y00000_x00000', data.mdb does not",
        ),
        (lambda text: text.replace(b'000000_0', b'x' * 600), 'data.mdb does not hold it'),
        (lambda text: b'', 'names no image'),
    ],
    ids=['no UTF-8', 'parent', 'absolute', 'escape', 'malformed', 'unknown', 'long', 'empty'],
)
def test_meta_info_that_cannot_be_used_is_one_sentence(whole, tmp_path, change, message):
    path = damaged(whole, tmp_path, lambda content: content)
    meta = path / 'meta_info.txt'
    meta.write_bytes(change(meta.read_bytes()))
    with pytest.raises(UserError, match=message) as error:
        complete_dataset({'name': 'x', 'type': 'SingleImageDataset', 'dataroot_lq': str(path)}, 'datasets.test', [])
    assert str(error.value).isprintable()


def test_list_of_files_that_leaves_the_folder_is_refused(noisy_folder, tmp_path):
    (tmp_path / 'list.txt').write_text(f'0.png (1,1,3)\n{noisy_folder}/1.png\n../noisy/2.png\n')
    block = {
        'name': 'x',
        'type': 'SingleImageDataset',
        'dataroot_lq': str(noisy_folder),
        'meta_info_file': str(tmp_path / 'list.txt'),
        'phase': 'test',
        'io_backend': {'type': 'disk'},
    }
    with pytest.raises(UserError, match=r'datasets.test: the image .*\.\./noisy/2.* lies outside of'):
        open_dataset(block, 'datasets.test')


# ---- our own intermediates are made anew ----


def test_teacher_cache_that_is_damaged_is_computed_anew(tmp_path, caplog):
    prediction = np.random.default_rng(0).random((50, 70, 3)).astype(np.float32)
    cache = TeacherCache(tmp_path / 'bnn.lmdb', [(50, 70), (50, 70)])
    cache.write([(0, prediction), (1, prediction)])
    (tmp_path / 'other.lmdb').mkdir()
    content = (cache.folder / 'data.mdb').read_bytes()
    cut = TeacherCache(tmp_path / 'other.lmdb', cache.shapes)
    (cut.folder / 'data.mdb').write_bytes(content[: len(content) // 2])
    assert cut.missing() == [0, 1]
    cut.write([(0, prediction), (1, prediction)])
    assert cut.missing() == [] and np.abs(unpack(cut.read(1)) - prediction).max() < 1e-4


@pytest.mark.parametrize('kind', DAMAGES)
def test_prepare_folder_damaged_partial_lmdb_is_written_anew(noisy_folder, whole, tmp_path, kind, capsys):
    partial = tmp_path / '.partial_x.lmdb'
    shutil.copytree(whole, partial)
    os.truncate(partial / 'data.mdb', 0)
    (partial / 'data.mdb').write_bytes(DAMAGES[kind]((whole / 'data.mdb').read_bytes()))
    assert prepare_folder([noisy_folder], tmp_path / 'x.lmdb', size=40, quiet=True).sub_images == 24
    assert 'written anew' in capsys.readouterr().err
    assert read_lmdb_meta(tmp_path / 'x.lmdb') == read_lmdb_meta(whole)
