"""Training states and networks on disk: saved atomically, resumed exactly."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from basicsr.models.base_model import BaseModel
from basicsr.utils import check_resume

from basicsr_sassid.io.checkpoint import check_format
from basicsr_sassid.io.weights_digest import tree_digest
from basicsr_sassid.utils.errors import UserError

STATE_FORMAT = 2  # of <iteration>.state; format 1 has no such key


def find_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
    """The state that ``path.resume_state`` names, or with --auto_resume the newest complete one of this run.

    Raises:
        UserError: the named file is no complete training state.
    """
    if opt['path'].get('resume_state'):
        return load_training_state(Path(opt['path']['resume_state']), opt)
    if not opt['auto_resume']:
        return None
    folder = Path(opt['path']['training_states'])
    states = [path for path in folder.glob('*.state') if path.stem.isascii() and path.stem.isdecimal()]
    for path in sorted(states, key=lambda path: int(path.stem), reverse=True):
        try:
            return load_training_state(path, opt)
        except UserError as error:
            print(f'{error} Trying the one before.', file=sys.stderr, flush=True)
    return None


def load_training_state(path: Path, opt: dict[str, Any]) -> dict[str, Any]:
    """Read a training state. Raises UserError if it is damaged or of a newer format."""
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
        digest = state.pop('digest', None)  # none in format 1 and in those of stock models
        state = {**state, 'iter': int(state['iter'])}
        if digest not in (None, tree_digest(state)):
            raise ValueError('its content does not match the digest in it')
    except Exception as error:  # whatever torch raises on a partial file
        raise UserError(f'{path} is no complete training state, or damaged.') from error
    check_format(state.get('format'), STATE_FORMAT, str(path))
    if 'networks' not in state:  # of a stock model, whose networks lie in files of their own
        opt['path']['resume_state'] = str(path)
        check_resume(opt, state['iter'])
    return state


def save_model(model: BaseModel, epoch: int, current_iter: int) -> None:
    """Call model.save, and raise UserError if a stock model has written nothing (it continues without an error)."""
    model.save(epoch, current_iter)
    opt = model.opt
    if opt['rank'] == 0 and current_iter != -1:
        path = Path(opt['path']['training_states']) / f'{current_iter}.state'
        if not path.is_file():
            raise UserError(f'cannot write {path}. Free some space, then continue with --auto_resume.')
