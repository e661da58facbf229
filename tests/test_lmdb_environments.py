"""One LMDB environment per process, and the format of teacher caches."""

from __future__ import annotations

import os
import sys

import lmdb
import numpy as np
import pytest
from basicsr.utils import FileClient

from basicsr_sassid.data.teacher_cache import FORMAT, TeacherCache, unpack
from basicsr_sassid.io.lmdb_environments import open_for_writing, open_shared
from basicsr_sassid.training.loop import train
from basicsr_sassid.training.options import resolve_options
from basicsr_sassid.utils.errors import UserError

from helpers import assert_same, tiny_options, weights_of

PREDICTION = np.random.default_rng(0).random((5, 7, 3)).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    with open_for_writing(tmp_path / 'x.lmdb', 2**20) as environment, environment.begin(write=True) as transaction:
        transaction.put(b'key', b'value')
    return tmp_path / 'x.lmdb'


def test_open_shared_twice_is_one_environment(folder):
    assert open_shared(folder) is open_shared(str(folder))


def test_open_shared_through_a_link_is_the_same_environment(folder, tmp_path):
    (tmp_path / 'link.lmdb').symlink_to(folder)
    assert open_shared(tmp_path / 'link.lmdb') is open_shared(folder)


@pytest.mark.skipif(sys.platform != 'linux', reason='names are bytes on Linux')
def test_open_shared_below_a_name_that_is_not_utf_8_is_opened(tmp_path):
    path = tmp_path / os.fsdecode(b'\xff.lmdb')
    with open_for_writing(path, 2**20) as environment, environment.begin(write=True) as transaction:
        transaction.put(b'key', b'value')
    with open_shared(path).begin() as transaction:
        assert transaction.get(b'key') == b'value'


def test_open_shared_and_file_client_read_side_by_side(folder):
    client = FileClient('lmdb', db_paths=str(folder), client_keys='x')
    with open_shared(folder).begin() as transaction:
        assert bytes(client.get('key', 'x')) == transaction.get(b'key') == b'value'


def test_open_for_writing_after_reading_writes_and_is_read(folder):
    assert open_shared(folder).stat()['entries'] == 1
    with open_for_writing(folder, 2**20) as environment, environment.begin(write=True) as transaction:
        transaction.put(b'other', b'value')
    assert open_shared(folder).stat()['entries'] == 2


def test_open_shared_of_a_replaced_file_is_the_new_file(folder):
    assert open_shared(folder).stat()['entries'] == 1
    for name in ('data.mdb', 'lock.mdb'):
        (folder / name).unlink()
    with open_for_writing(folder, 2**20):
        pass
    assert open_shared(folder).stat()['entries'] == 0


def test_open_shared_missing_folder_raises_os_error(tmp_path):
    with pytest.raises(OSError, match='data.mdb'):
        open_shared(tmp_path / 'nowhere.lmdb')


# ---- teacher cache ----


def stored_format(folder) -> bytes | None:
    with open_shared(folder).begin() as transaction:
        return transaction.get(b'__format__')


def rewrite_format(folder, number: bytes | None) -> None:
    with open_for_writing(folder, 2**25) as environment, environment.begin(write=True) as transaction:
        if number is None:
            transaction.delete(b'__format__')
        else:
            transaction.put(b'__format__', number)


@pytest.fixture
def cache(tmp_path) -> TeacherCache:
    """A cache of two images, of which the first has its prediction."""
    cache = TeacherCache(tmp_path / 'bnn.lmdb', [(5, 7), (5, 7)])
    cache.write([(0, PREDICTION)])
    return cache


def test_teacher_cache_new_folder_has_the_format(cache):
    assert stored_format(cache.folder) == str(FORMAT).encode()


def test_teacher_cache_of_format_1_is_read(cache):
    rewrite_format(cache.folder, None)
    again = TeacherCache(cache.folder, cache.shapes)
    assert again.missing() == [1]
    assert np.abs(unpack(again.read(0)) - PREDICTION).max() * 255 < 0.01


def test_teacher_cache_of_format_1_that_is_completed_stays_format_1(cache):
    rewrite_format(cache.folder, None)
    cache.write([(1, PREDICTION)])
    assert cache.missing() == [] and stored_format(cache.folder) is None


def test_teacher_cache_of_a_newer_format_is_refused(cache):
    rewrite_format(cache.folder, b'3')
    with pytest.raises(UserError, match=r'^the teacher cache \S+ has format 3; this version reads up to 2. Upgrade'):
        cache.missing()


def test_teacher_cache_read_then_written_then_read_in_one_process(cache):
    before = cache.read(0).copy()
    cache.write([(1, PREDICTION)])
    assert np.array_equal(cache.read(0), before) and np.array_equal(cache.read(1), before)


def test_teacher_cache_full_disk_raises_user_error(cache, monkeypatch):
    def full(*_, **__):
        raise lmdb.DiskError('no space')

    monkeypatch.setattr('basicsr_sassid.data.teacher_cache.open_for_writing', full)
    with pytest.raises(UserError, match='cannot write the teacher cache .*Free some space'):
        cache.write([(1, PREDICTION)])


@pytest.mark.filterwarnings('ignore:Detected call of .lr_scheduler')  # BasicSR's order, after any resume
@pytest.mark.parametrize('workers', [0, 2])
def test_training_with_an_lmdb_cache_resumed_in_the_same_process_ends_the_same(photographs, tmp_path, workers):
    opt = tiny_options(photographs, teacher_cache='lmdb')
    opt['datasets']['train']['num_worker_per_gpu'] = workers

    class StopError(Exception):
        pass

    def stop_at_10(model, current_iter):
        if current_iter == 10:  # of 12: in the last stage, whose teachers are cached
            raise StopError

    train(resolve_options(opt, tmp_path / 'once', True))
    with pytest.raises(StopError):
        train(resolve_options(opt, tmp_path / 'resumed', True), on_iteration=stop_at_10)
    train(resolve_options(opt, tmp_path / 'resumed', True, auto_resume=True))
    assert_same(weights_of(tmp_path / 'once'), weights_of(tmp_path / 'resumed'))
