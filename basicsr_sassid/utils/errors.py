"""Errors that a user can act on, and how the command line prints them."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec('P')
R = TypeVar('R')


class UserError(ValueError):
    """An error that the user can correct: the message names the option or file, what was found, and what to do.

    Command lines print it without a traceback.
    """


def require_path(path: str | os.PathLike[str], where: str) -> Path:
    """``path`` with ~ expanded. Raises UserError if it does not exist."""
    expanded = Path(path).expanduser()
    if not expanded.exists():
        raise UserError(f'{where}: no such file or folder: {expanded} (looked from {os.getcwd()})')
    return expanded


def cli_errors(
    function: Callable[P, R], interrupted: str = 'a training goes on from its last state with --auto_resume'
) -> Callable[P, R]:
    """Decorator: print a UserError as one paragraph without a traceback and exit with 2.

    Ctrl-C prints ``interrupted`` and exits with 130.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except UserError as error:
            sys.exit(_print_error(f'error: {error}', 2))
        except KeyboardInterrupt:
            sys.exit(_print_error(f'\nstopped; {interrupted}', 130))

    return wrapper


def _print_error(text: str, status: int) -> int:
    print(text, file=sys.stderr, flush=True)
    return status
