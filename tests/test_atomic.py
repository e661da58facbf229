"""Atomic writes: names of temporary files, errors with advice that fits, full disks."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest
import torch

from basicsr_sassid.io.atomic import (
    PARTIAL_PREFIX,
    atomic_write,
    cannot_write,
    make_folder,
    make_writable_folder,
    remove_partial_files,
    require_writable,
    save_torch,
)
from basicsr_sassid.utils.errors import NoSpaceError, UserError

from helpers import run_code


@pytest.mark.parametrize('name', ['a.png', 'x' * 251 + '.png', 'a.' + 'x' * 253, '.hidden', '~a.json', 'a'])
def test_atomic_write_replaces_the_file_by_one_of_our_own_names(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(name).write_text('old')
    with atomic_write(name) as partial:
        partial.write_text('new')
        assert partial.name.startswith(PARTIAL_PREFIX) and len(partial.name) < 50
        assert partial.suffix == (Path(name).suffix if len(Path(name).suffix) < 9 else '')
    assert Path(name).read_text() == 'new' and os.listdir() == [name]


def test_atomic_write_that_fails_leaves_the_file_alone(tmp_path):
    (tmp_path / 'a').write_text('old')
    with pytest.raises(RuntimeError), atomic_write(tmp_path / 'a') as partial:
        partial.write_text('half')
        raise RuntimeError
    assert (tmp_path / 'a').read_text() == 'old' and os.listdir(tmp_path) == ['a']


def test_remove_partial_files_removes_no_other_file(tmp_path):
    names = ['.tmp_a.png', 'a.png', f'x{PARTIAL_PREFIX}', '.sassid']
    for name in [*names, f'{PARTIAL_PREFIX}1.png', f'{PARTIAL_PREFIX}2']:
        (tmp_path / name).touch()
    (tmp_path / f'{PARTIAL_PREFIX}folder').mkdir()
    remove_partial_files(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([*names, f'{PARTIAL_PREFIX}folder'])


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('file/a.png', 'A file is where a folder is needed: choose another name'),
        ('file/deep/a.png', 'A file is where a folder is needed: choose another name'),
        ('folder', 'Is a directory. A folder has this name: choose another one'),
        ('x' * 300, 'longer than the system allows .* Choose a shorter one'),
        ('', 'the path is empty'),
        ('zero\0', 'cannot be the name of a file'),
    ],
)
@pytest.mark.parametrize('write', [require_writable, lambda path: atomic_write(path).__enter__()])
def test_atomic_write_impossible_name_raises_user_error_before_the_work(tmp_path, monkeypatch, name, message, write):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file').write_text('kept')
    (tmp_path / 'folder').mkdir()
    with pytest.raises(UserError, match=message):
        write(name)
    assert sorted(os.listdir()) == ['file', 'folder'] and (tmp_path / 'file').read_text() == 'kept'


def test_require_writable_leaves_nothing_behind(tmp_path):
    require_writable(tmp_path / 'new' / 'a.png')
    assert list((tmp_path / 'new').iterdir()) == [] and make_writable_folder(tmp_path / 'new') == tmp_path / 'new'
    assert list((tmp_path / 'new').iterdir()) == []


def test_make_folder_on_a_file_raises_user_error(tmp_path):
    (tmp_path / 'file').touch()
    for name in ('file', 'file/deep'):
        with pytest.raises(UserError, match='cannot make .* A file is where a folder is needed'):
            make_folder(tmp_path / name)


@pytest.mark.parametrize(
    ('code', 'kind', 'advice'),
    [
        (errno.ENOSPC, NoSpaceError, 'Free some space'),
        (errno.EDQUOT, NoSpaceError, 'Free some space'),
        (errno.EACCES, UserError, 'change its permissions'),
        (errno.EROFS, UserError, 'a disk that can be written'),
        (errno.EIO, UserError, 'Choose another folder'),
        (errno.ENAMETOOLONG, UserError, 'a shorter name'),
    ],
)
def test_cannot_write_advice_fits_the_cause(code, kind, advice):
    error = cannot_write('a.png', OSError(code, os.strerror(code)))
    assert type(error) is kind and advice in str(error)
    assert str(error).startswith(f'cannot write a.png: {os.strerror(code)}. ')
    assert ('space' in str(error).split('. ', 1)[1]) == (kind is NoSpaceError)


@pytest.mark.parametrize('size', [100, 3_000_000])
def test_save_torch_on_a_full_disk_raises_no_space_error(tmp_path, monkeypatch, size):
    """As the system reports it: from a write of the file, of which torch's zip writer makes another error."""
    real = open

    def open_full(file, mode='r', *args, **kwargs):
        opened = real('/dev/full', mode) if mode == 'wb' and PARTIAL_PREFIX in str(file) else real(file, mode)
        return opened

    if not Path('/dev/full').exists():
        pytest.skip('/dev/full is of Linux')
    monkeypatch.setattr('builtins.open', open_full)
    with pytest.raises(NoSpaceError, match='No space left on device. Free some space'):
        save_torch({'params': {'weight': torch.zeros(size)}}, tmp_path / 'net.pth')
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == 'win32', reason='limits of Unix')
def test_save_torch_at_a_limit_of_size_raises_user_error(tmp_path):
    done = run_code(
        'import resource, signal, torch\n'
        'from basicsr_sassid.io.atomic import save_torch\n'
        'from basicsr_sassid.utils.errors import UserError\n'
        'signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n'
        'resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))\n'
        'try:\n'
        '    save_torch({"a": torch.zeros(300_000)}, "net.pth")\n'
        'except UserError as error:\n'
        '    print(error)\n',
        tmp_path,
    )
    assert 'cannot write net.pth: File too large. Choose another folder' in done.stdout and not os.listdir(tmp_path)


def test_save_torch_written_file_is_the_same_each_time(tmp_path):
    contents = []
    for name in ('a.pth', 'b.pth'):
        save_torch({'params': {'weight': torch.arange(9.0)}}, tmp_path / name)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
    assert torch.equal(torch.load(tmp_path / 'a.pth', weights_only=True)['params']['weight'], torch.arange(9.0))
