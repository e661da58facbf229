"""Digests by which a weights file or a training state that changed on its way is found."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from basicsr_sassid.utils.errors import UserError

WEIGHTS = ('params', 'params_ema')
SETTINGS = ('format', 'role', 'network', 'img_range', 'inference')  # read from a file beside its weights


def tree_digest(content: object) -> str:
    """SHA-256 of nested mappings, lists, tensors and plain values; of a state dict: of the sorted names, dtypes, shapes
    and bytes of its tensors. It does not depend on devices, strides, or the order of a mapping."""
    digest = hashlib.sha256()
    _update(digest, content)
    return digest.hexdigest()


def _update(digest: Any, content: object) -> None:
    if isinstance(content, Tensor):
        digest.update(f'{content.dtype}{tuple(content.shape)}'.encode())
        digest.update(content.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(content, Mapping):
        entries = cast('Mapping[object, object]', content)
        digest.update(f'{{{len(entries)}'.encode())
        for key in sorted(entries, key=repr):
            digest.update(repr(key).encode())
            _update(digest, entries[key])
    elif isinstance(content, (list, tuple)):
        values = cast('list[object]', content)
        digest.update(f'[{len(values)}'.encode())
        for value in values:
            _update(digest, value)
    else:
        digest.update(repr(content).encode())


def weights_digests(content: Mapping[str, Any]) -> dict[str, str]:
    """Entry ``digest`` of a weights file: the digest of each state dict, and of the settings that are read with it."""
    return {
        **{key: tree_digest(content[key]) for key in WEIGHTS if key in content},
        'settings': tree_digest({key: content[key] for key in SETTINGS if key in content}),
    }


def check_digests(content: Mapping[str, Any], name: str) -> None:
    """Compare a weights file's content with its ``digest``; a file that has none passes.

    Raises:
        UserError: they differ.
    """
    if isinstance(content.get('digest'), Mapping) and content['digest'] != weights_digests(content):
        raise UserError(
            f'{name} is damaged, or another program changed it: its content does not match the digest in it. Copy or '
            'download it again.'
        )
