"""LMDB cache of a frozen teacher's predictions, computed once per training image before the stage starts."""

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
from basicsr.utils import get_root_logger
from torch import Tensor

from basicsr_sassid.io.atomic import make_folder
from basicsr_sassid.io.checkpoint import check_format
from basicsr_sassid.io.lmdb_environments import open_for_writing, open_shared
from basicsr_sassid.io.lmdb_file import DamagedLMDBError
from basicsr_sassid.utils.errors import UserError

FORMAT = 2  # stored under the key __format__, which format 1 lacks; predictions are stored alike in both
_FORMAT_KEY = b'__format__'
_LOWEST, _STEP = -0.25, 1.5 / 65535  # uint16 holds [-0.25, 1.25] in steps of 0.006 grey levels


class TeacherCache:
    """The predictions of one teacher for the images of one dataset, by the image's index.

    A prediction is a float image like the dataset's, (H, W, C), nominally in [0, 1]. It is stored as uint16 in steps of
    0.006 grey levels, clipped to [-0.25, 1.25]. Each prediction is one LMDB transaction, so a run that was killed
    continues from the last complete one.

    Args:
        folder: the LMDB, named by its fingerprint; None keeps the predictions in memory.
        shapes: (H, W) of every image of the dataset, in its order.
        channels: C of a prediction; a multiple of 3 where it holds several, of the blind sizes of a BNN.

    Raises:
        UserError: too little space for the missing predictions, or the cache cannot be written or read.
    """

    def __init__(self, folder: Path | None, shapes: Sequence[tuple[int, int]], channels: int = 3) -> None:
        self.folder, self.shapes, self.channels = folder, shapes, channels
        self._in_memory: dict[int, np.ndarray] = {}

    def missing(self) -> list[int]:
        """Indices of the images without a prediction: all of a damaged cache, which is removed.

        Raises:
            UserError: a newer version wrote the cache.
        """
        if self.folder is None:
            return [index for index in range(len(self.shapes)) if index not in self._in_memory]
        try:
            with open_shared(self.folder).begin() as transaction:
                check_format(int(transaction.get(_FORMAT_KEY, b'1')), FORMAT, f'the teacher cache {self.folder}')
                return [index for index in range(len(self.shapes)) if transaction.get(_key(index)) is None]
        except FileNotFoundError:  # none yet
            return list(range(len(self.shapes)))
        except (DamagedLMDBError, lmdb.Error) as error:  # its content can be computed anew
            get_root_logger().warning(f'The teacher cache {self.folder} is damaged and computed anew: {error}')
            shutil.rmtree(self.folder, ignore_errors=True)
            return list(range(len(self.shapes)))

    def num_bytes(self, indices: Iterable[int]) -> int:
        """Bytes that the predictions for these images take."""
        return sum(2 * self.channels * self.shapes[index][0] * self.shapes[index][1] for index in indices)

    def check_space(self, indices: Sequence[int]) -> None:
        """Raise UserError if the disk cannot hold the predictions for these images."""
        if self.folder is None:
            return
        needed, free = int(1.05 * self.num_bytes(indices)), shutil.disk_usage(make_folder(self.folder)).free
        if needed > free:
            raise UserError(
                f'train.teacher_cache: {self.folder} needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are '
                'free. Free some space, start from another disk, or set train.teacher_cache to off.'
            )

    def write(self, predictions: Iterable[tuple[int, np.ndarray]]) -> None:
        """Store (index, prediction) pairs, one at a time. Several processes may write different images at once."""
        if self.folder is None:
            self._in_memory.update((index, _pack(prediction)) for index, prediction in predictions)
            return
        # room for what all processes write, pages and keys included; the file grows only as it is filled
        map_size = 2 * self.num_bytes(range(len(self.shapes))) + len(self.shapes) * 16384 + 2**24
        make_folder(self.folder)
        try:
            with open_for_writing(self.folder, map_size) as environment:
                with environment.begin(write=True) as transaction:
                    if transaction.stat()['entries'] == 0:
                        transaction.put(_FORMAT_KEY, str(FORMAT).encode())
                for index, prediction in predictions:
                    with environment.begin(write=True) as transaction:
                        transaction.put(_key(index), _pack(prediction).tobytes())
        except (lmdb.Error, OSError) as error:
            raise UserError(
                f'cannot write the teacher cache {self.folder}: {error}. Free some space and start again '
                'with --auto_resume, or set train.teacher_cache to off.'
            ) from error

    def share(self) -> None:
        """Give every process the predictions that the others hold in memory."""
        if self.folder is None:
            gathered: list[dict[int, np.ndarray]] = [{}] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(gathered, self._in_memory)
            self._in_memory = {index: packed for by_index in gathered for index, packed in by_index.items()}

    def read(self, index: int) -> np.ndarray:
        """The packed prediction for an image: (H, W, C), uint16; :func:`unpack` a part of it."""
        if self.folder is None:
            return self._in_memory[index]
        with open_shared(self.folder).begin() as transaction:
            content = transaction.get(_key(index))
        assert content is not None, f'no prediction for image {index}: missing() lists it'
        return np.frombuffer(content, np.uint16).reshape(*self.shapes[index], -1)


def unpack(packed: np.ndarray) -> np.ndarray:
    """uint16 -> float32, nominally in [0, 1]."""
    return packed.astype(np.float32) * np.float32(_STEP) + np.float32(_LOWEST)


def fingerprint(state: dict[str, Tensor], dataset: dict[str, Any], settings: dict[str, Any]) -> str:
    """16 hexadecimal digits that change with any weight, image or setting.

    Args:
        state: the teacher's weights.
        dataset: the dataset's ``content_key()``, of JSON's types.
        settings: how the teacher is applied, of JSON's types.
    """
    digest = hashlib.sha256(json.dumps([dataset, settings], sort_keys=True).encode())
    for name, value in sorted(state.items()):
        digest.update(f'{name} {value.dtype} {tuple(value.shape)}'.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _pack(prediction: np.ndarray) -> np.ndarray:
    return np.round((prediction.astype(np.float64) - _LOWEST) / _STEP).clip(0, 65535).astype(np.uint16)


def _key(index: int) -> bytes:
    return f'{index:09d}'.encode()
