"""What a frozen teacher answers on each training image: asked once, written down, read as often as patches are cut."""
from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import torch
from basicsr.utils import FileClient
from torch import Tensor

from basicsr_sassid.io.atomic import make_folder
from basicsr_sassid.utils.errors import UserError

_LOWEST, _STEP = -0.25, 1.5 / 65535  # uint16 holds [-0.25, 1.25] in steps of 0.006 grey levels


class TeacherCache:
    """The answers of one teacher on the images of one dataset, by the image's index.

    An answer is a float image like the dataset's, (H, W, C), nominally in [0, 1]; it is kept as uint16 in steps of
    0.006 grey levels, clipped to [-0.25, 1.25]. In an LMDB each answer is whole or not there, so a cache that was
    killed goes on where it stopped.

    Args:
        folder: the LMDB, named by its fingerprint; None keeps the answers in memory.
        shapes: (H, W) of every image of the dataset, in its order.

    Raises:
        UserError: not enough space for what is missing; it cannot be written.
    """

    def __init__(self, folder: Path | None, shapes: Sequence[tuple[int, int]]) -> None:
        self.folder = folder
        self.shapes = shapes
        self._held: dict[int, np.ndarray] = {}
        self._client: FileClient | None = None  # opened on first use, by each worker for itself

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_client': None}

    def missing(self) -> list[int]:
        """Indices of the images without an answer."""
        if self.folder is None:
            return [index for index in range(len(self.shapes)) if index not in self._held]
        if not (self.folder / 'data.mdb').is_file():
            return list(range(len(self.shapes)))
        with lmdb.open(str(self.folder), readonly=True, lock=False) as env, env.begin() as read:
            return [index for index in range(len(self.shapes)) if read.get(_key(index)) is None]

    def num_bytes(self, indices: Iterable[int]) -> int:
        """What the answers on these images take."""
        return sum(6 * self.shapes[index][0] * self.shapes[index][1] for index in indices)

    def check_space(self, indices: Sequence[int]) -> None:
        """Raise UserError if the disk cannot hold the answers on these images."""
        if self.folder is None:
            return
        needed, free = int(1.05 * self.num_bytes(indices)), shutil.disk_usage(make_folder(self.folder)).free
        if needed > free:
            raise UserError(f'train.teacher_cache: {self.folder} needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are '
                            'free. Free some space, start from another disk, or set train.teacher_cache to off.')

    def write(self, answers: Iterable[tuple[int, np.ndarray]]) -> None:
        """Take (index, answer) pairs, an answer at a time. Several processes may write different images at once."""
        if self.folder is None:
            self._held.update((index, _pack(answer)) for index, answer in answers)
            return
        # room for what all processes write, pages and keys included; the file grows only as it is filled
        map_size = 2 * self.num_bytes(range(len(self.shapes))) + len(self.shapes) * 16384 + 2 ** 24
        make_folder(self.folder)
        try:
            with lmdb.open(str(self.folder), map_size=map_size) as env:
                for index, answer in answers:
                    with env.begin(write=True) as transaction:
                        transaction.put(_key(index), _pack(answer).tobytes())
        except (lmdb.Error, OSError) as error:
            raise UserError(f'cannot write the teacher cache {self.folder}: {error}. Free some space and start again '
                            'with --auto_resume, or set train.teacher_cache to off.') from error

    def share(self) -> None:
        """Give every process the answers that the others hold in memory."""
        if self.folder is None:
            shares: list[dict[int, np.ndarray]] = [{}] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(shares, self._held)
            self._held = {index: answer for share in shares for index, answer in share.items()}

    def read(self, index: int) -> np.ndarray:
        """The packed answer on an image: (H, W, C), uint16; :func:`unpack` a part of it."""
        if self.folder is None:
            return self._held[index]
        if self._client is None:
            self._client = FileClient('lmdb', db_paths=str(self.folder), client_keys='answer')
        content = self._client.get(_key(index).decode(), 'answer')
        return np.frombuffer(content, np.uint16).reshape(*self.shapes[index], -1)


def unpack(answer: np.ndarray) -> np.ndarray:
    """uint16 -> float32, nominally in [0, 1]."""
    return answer.astype(np.float32) * np.float32(_STEP) + np.float32(_LOWEST)


def fingerprint(state: dict[str, Tensor], dataset: dict[str, Any], settings: dict[str, Any]) -> str:
    """A name that is another one as soon as a weight, an image or a setting is another.

    Args:
        state: the teacher's weights.
        dataset: what tells the training images from others, of JSON's types.
        settings: how the teacher is asked, of JSON's types.
    """
    digest = hashlib.sha256(json.dumps([dataset, settings], sort_keys=True).encode())
    for name, value in sorted(state.items()):
        digest.update(f'{name} {value.dtype} {tuple(value.shape)}'.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _pack(answer: np.ndarray) -> np.ndarray:
    return np.round((answer.astype(np.float64) - _LOWEST) / _STEP).clip(0, 65535).astype(np.uint16)


def _key(index: int) -> bytes:
    return f'{index:09d}'.encode()
