"""Errors that a user can act on, paths that a user gives, and how the command line prints both."""

from __future__ import annotations

import errno
import functools
import io
import os
import stat
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec('P')
R = TypeVar('R')

INTERRUPTED = 'files that were written before are complete'
_SPECIAL = (
    (stat.S_ISFIFO, 'a named pipe'),
    (stat.S_ISSOCK, 'a socket'),
    (stat.S_ISCHR, 'a device'),
    (stat.S_ISBLK, 'a device'),
)


class UserError(ValueError):
    """An error that the user can correct: the message names the option or file, what was found, and what to do.

    Command lines print it without a traceback.
    """


class NoSpaceError(UserError):
    """The disk is full: later files cannot be written either."""


def printable(text: object, newlines: bool = False) -> str:
    r"""``str(text)`` for a terminal: control characters and the bytes of a name that is not UTF-8 as ``\x..``.

    Args:
        text: a file's name, or a message that may hold one.
        newlines: keep line breaks, as a message of several lines needs.
    """

    def escape(character: str) -> str:
        if character.isprintable() or unicodedata.category(character) == 'Zs' or (newlines and character == '\n'):
            return character
        code = ord(character)
        if 0xDC80 <= code <= 0xDCFF:  # os.fsdecode's form of a byte that is no UTF-8
            return f'\\x{code - 0xDC00:02x}'
        return character.encode('unicode_escape').decode()

    return ''.join(map(escape, str(text)))


def expand_path(path: str | os.PathLike[str], where: str) -> Path:
    """A path that the user gave, with ~ expanded; the file itself need not exist.

    Args:
        path: as given: once expanded, a leading ~ is part of a name.
        where: option or argument, for the error.

    Raises:
        UserError: the path names an unknown user, or :func:`check_path` refuses it.
    """
    text = os.fspath(path)
    expanded = os.path.expanduser(text)
    if expanded == text and text.startswith('~') and not os.path.lexists(text):
        raise UserError(f'{where}: {text}: no such user. For a file of this name write ./{text}')
    return check_path(expanded, where)


def check_path(path: str | os.PathLike[str], where: str) -> Path:
    """The path. Raises UserError if it is empty, too long, or holds characters that no path can have."""
    text = os.fspath(path)
    if not text:
        raise UserError(f'{where}: the path is empty. Name a file or a folder (. is the working directory).')
    try:
        os.lstat(text)
    except ValueError as error:  # a zero byte, or characters that the system cannot encode
        raise UserError(f'{where}: {text!r} cannot be the name of a file ({error}).') from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(
                f'{where}: a path or name longer than the system allows ({len(os.fsencode(text))} bytes): '
                f'{text[:60]}... Choose a shorter one.'
            ) from error
    return Path(text)


def require_path(path: str | os.PathLike[str], where: str) -> Path:
    """``path`` with ~ expanded. Raises UserError if it is no existing file or folder that can be reached."""
    expanded = expand_path(path, where)
    try:
        mode = expanded.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f'{where}: no such file or folder: {expanded} (looked from {os.getcwd()})') from error
    except OSError as error:
        raise UserError(f'{where}: cannot open {expanded}: {error.strerror}.') from error
    kind = special_file(mode)
    if kind:
        raise UserError(f'{where}: {expanded} is {kind}; expected a file or a folder.')
    return expanded


def special_file(mode: int) -> str | None:
    """What a file that is neither regular nor a folder is (reading it could wait for ever); None for others.

    Args:
        mode: ``st_mode`` of :func:`os.stat`.
    """
    return next((name for is_kind, name in _SPECIAL if is_kind(mode)), None)


def cli_errors(function: Callable[P, R], interrupted: str = INTERRUPTED) -> Callable[P, R]:
    """Decorator: print a UserError as one paragraph without a traceback and exit with 2.

    Ctrl-C prints ``interrupted`` and exits with 130. Characters that the terminal's encoding lacks are printed as
    escapes from here on.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # not where a notebook took its place
                stream.reconfigure(errors='backslashreplace')
        try:
            return function(*args, **kwargs)
        except UserError as error:
            sys.exit(_print_error(f'error: {printable(error, newlines=True)}', 2))
        except KeyboardInterrupt:
            sys.exit(_print_error(f'\nstopped; {interrupted}', 130))

    return wrapper


def _print_error(text: str, status: int) -> int:
    print(text, file=sys.stderr, flush=True)
    return status
