"""The output folder of `sassid clean`: which files in it are ours, and one run at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import json
import os
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Literal

import filelock

from basicsr_sassid.io.atomic import atomic_write, cannot_write, content_digest, copy_file, make_folder
from basicsr_sassid.io.photo import EXTENSIONS, read_photo
from basicsr_sassid.utils.errors import UserError

WORK_FOLDER = '.sassid'  # below the output: from it a stopped run continues
_SECONDS_TO_END = 8.0  # in which the data loader's workers of a killed run end, and let the lock go
_MOST_NAMED = 3  # files in a message

FileStatus = Literal['missing', 'current', 'ours', 'foreign']


@dataclasses.dataclass(frozen=True)
class _Written:
    """One time that a file was written; a file of a version without this record has no digest."""

    run: str
    digest: str


class OutputRecord:
    """The files that runs wrote into an output folder, in ``OUT/.sassid/outputs.jsonl``: one line each time.

    A line is written before the file takes its name: a run that is killed in between has recorded a file that does not
    exist, never the reverse.

    Args:
        output: the folder.

    Raises:
        UserError: the record cannot be read.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self._path = output / WORK_FOLDER / 'outputs.jsonl'
        self._history: dict[str, list[_Written]] = {}
        try:
            lines = self._path.read_text(encoding='utf-8').splitlines()
        except FileNotFoundError:
            self._read_states()
            return
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f'cannot read {self._path}: {error}. Choose another folder.') from error
        for line in lines:
            with contextlib.suppress(ValueError, TypeError, KeyError):  # a line that a kill cut off
                content = json.loads(line)
                self._history.setdefault(content['file'], []).append(_Written(content['run'], content['sha256']))

    def _read_states(self) -> None:
        """The files in the states of runs of a version without this record."""
        for state in self._path.parent.glob('*/state.json'):
            with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, KeyError):
                written = [Path(target) for target in json.loads(state.read_text(encoding='utf-8'))['written']]
                for target in [*written, self.output / 'report.html']:
                    self._history[self._name(target)] = [_Written('', '')]

    def _name(self, target: Path) -> str:
        return os.path.relpath(target.absolute(), self.output.absolute())

    def status(self, target: Path, run: str) -> FileStatus:
        """What a file is: not there, this run's, of another run or damaged, or not ours.

        A file that we wrote and that cannot be read any more is damaged, and ours. One that was changed and can be read
        is the user's.
        """
        if not os.path.lexists(target):
            return 'missing'
        history = self._history.get(self._name(target), [])
        if not history or not target.is_file():
            return 'foreign'
        stat = target.stat()
        digest = _digest(target, stat.st_size, stat.st_mtime_ns)
        if history[-1] == _Written(run, digest):
            return 'current'
        if any(written.digest in ('', digest) for written in history) or _is_damaged(target):
            return 'ours'
        return 'foreign'

    def check_free(self, targets: Iterable[Path]) -> None:
        """Raise UserError if one of the files exists and is not ours."""
        foreign = [target for target in targets if self.status(target, '') == 'foreign']
        if foreign:
            names = ', '.join(self._name(target) for target in foreign[:_MOST_NAMED])
            rest = f' and {len(foreign) - _MOST_NAMED} more' if len(foreign) > _MOST_NAMED else ''
            raise UserError(
                f'-o {self.output}: {names}{rest} would be overwritten, which sassid clean has not written, or which '
                'was changed since. Choose another folder, or give --overwrite.'
            )

    def publish(self, finished: Path, target: Path, run: str) -> None:
        """Give a finished file, in the work folder, its name in the output folder. Raises UserError if that fails."""
        name, digest = self._name(target), content_digest(finished)
        line = json.dumps({'file': name, 'run': run, 'sha256': digest})
        try:
            with open(self._path, 'a', encoding='utf-8') as file:
                file.write(f'\n{line}')  # the newline ends a line that a kill cut off
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(self._path, error) from error
        self._history.setdefault(name, []).append(_Written(run, digest))
        make_folder(target.parent)
        try:
            os.replace(finished, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise cannot_write(target, error) from error
            copy_file(finished, target)  # a folder of the output lies on another disk
            finished.unlink()


@functools.lru_cache(maxsize=2**16)
def _digest(target: Path, size: int, modified: int) -> str:
    """``size`` and ``modified`` distinguish a file from an earlier one of the same name."""
    return content_digest(target)


def _is_damaged(target: Path) -> bool:
    """Whether an image cannot be read; of another file, the report, there is no telling: it is written again."""
    if target.suffix.lower() not in EXTENSIONS:
        return True
    try:
        read_photo(target)
    except UserError:
        return True
    return False


@contextlib.contextmanager
def lock_output(output: Path) -> Generator[Path, None, None]:
    """Yield the work folder below an output folder, in which no other run is writing meanwhile.

    Raises:
        UserError: another run is; the folder cannot be written.
    """
    work = make_folder(output / WORK_FOLDER)
    lock, holder = filelock.FileLock(work / 'lock'), work / 'pid'
    try:
        lock.acquire(timeout=_SECONDS_TO_END)
    except filelock.Timeout as error:
        raise UserError(
            f'-o {output}: another sassid clean{_process(holder)} is writing there. Wait until it has ended, or choose '
            'another folder.'
        ) from error
    except OSError as error:
        raise cannot_write(lock.lock_file, error) from error
    try:
        with atomic_write(holder) as partial:
            partial.write_text(str(os.getpid()))
        yield work
    finally:
        lock.release()


def _process(holder: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        return f' (process {int(holder.read_text())})'
    return ''
