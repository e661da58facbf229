"""Paths that a user gives, and what the command line prints of an error."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from basicsr_sassid.utils.errors import UserError, check_path, cli_errors, expand_path, printable, require_path


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('photo 1.png', 'photo 1.png'),
        ('Фото é 写真\u3000.png', 'Фото é 写真\u3000.png'),
        ('\x1b[31mred\x1b]0;title\x07.png', r'\x1b[31mred\x1b]0;title\x07.png'),
        ('a\rb\nc\td\x9b\x7f', r'a\rb\nc\td\x9b\x7f'),
        ('\u202egnp.exe', r'\u202egnp.exe'),
        (os.fsdecode(b'f\xff\xfe.png'), r'f\xff\xfe.png'),
        ('\ud800', r'\ud800'),
        (Path('a\x1b'), r'a\x1b'),
    ],
)
def test_printable_escapes_what_moves_the_cursor(text, expected):
    assert printable(text) == expected
    assert printable(text).encode('utf-8') and printable(printable(text)) == expected


def test_printable_message_keeps_its_lines():
    assert printable('two\nlines\x1b', newlines=True) == 'two\nlines\\x1b'


@pytest.mark.parametrize(
    ('path', 'message'),
    [
        ('', 'photos: the path is empty'),
        ('~nosuchuser/x.png', 'photos: ~nosuchuser/x.png: no such user. For a file of this name write ./~nosuchuser'),
        ('x' * 300, r'photos: .*longer than the system allows \(300 bytes\)'),
        ('x/' * 3000, r'photos: .*longer than the system allows \(6000 bytes\)'),
        ('a\0b', 'photos: .* cannot be the name of a file'),
        ('\ud800', 'photos: .* cannot be the name of a file'),
    ],
)
@pytest.mark.parametrize('check', [expand_path, require_path])
def test_path_that_is_none_raises_user_error(path, message, check):
    with pytest.raises(UserError, match=message):
        check(path, 'photos')


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('missing', 'photos: no such file or folder: missing'),
        ('file/below', 'photos: no such file or folder: file/below'),
        ('circle', 'photos: cannot open circle'),
        ('pipe', 'photos: pipe is a named pipe; expected a file or a folder'),
        (os.devnull, 'photos: /dev/null is a device'),
    ],
)
@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='special files of Unix')
def test_require_path_that_is_no_file_raises_user_error(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    Path('file').touch()
    Path('circle').symlink_to('circle')
    os.mkfifo('pipe')
    with pytest.raises(UserError, match=message):
        require_path(name, 'photos')


def test_expand_path_expands_a_home_and_no_other_tilde(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path))
    Path('~draft.png').touch()
    assert expand_path('~/new.png', '-o') == tmp_path / 'new.png'
    assert require_path('./~draft.png', 'photos') == require_path('~draft.png', 'photos') == Path('~draft.png')
    assert check_path('~/new.png', '-o') == Path('~/new.png')


def test_cli_errors_prints_names_as_escapes_and_exits_with_2(capsys):
    @cli_errors
    def fail() -> None:
        raise UserError(f'cannot read \x1b[2J{os.fsdecode(bytes([255]))}.png\nsecond line')

    with pytest.raises(SystemExit) as stopped:
        fail()
    assert stopped.value.code == 2
    assert capsys.readouterr().err == 'error: cannot read \\x1b[2J\\xff.png\nsecond line\n'


def test_cli_errors_output_never_fails_for_its_encoding(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
    monkeypatch.setattr(sys, 'stdout', stream)
    cli_errors(lambda: print('é', os.fsdecode(b'\xff')))()
    stream.flush()
    assert stream.buffer.getvalue() == b'\\xe9 \\udcff\n'


@pytest.mark.parametrize('arguments', [{}, {'interrupted': 'a training goes on'}])
def test_cli_errors_interrupted_speaks_of_a_training_where_there_is_one(capsys, arguments):
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stopped:
        cli_errors(stop, **arguments)()
    error = capsys.readouterr().err
    assert stopped.value.code == 130 and ('training' in error) == bool(arguments)
