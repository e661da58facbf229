"""What each process of a training of BasicSR's models must keep beside the training state, to resume exactly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from basicsr.utils import get_root_logger
from torch import distributed

from basicsr_sassid.io.atomic import save_torch

_KEPT = 2  # newest files of a process


class ProcessStateMixin:
    """Placed before SRModel, or a subclass of it, in a class's bases.

    The state of each process lies in ``training_states/<iter>_<state_name>_<rank>.pth``, of which the newest two stay.
    No network file holds it.
    """

    state_name: str
    state_text: str  # what it is, for the warning
    opt: dict[str, Any]

    def process_state(self) -> dict[str, Any]:
        """What is kept: tensors and plain values."""
        raise NotImplementedError

    def load_process_state(self, state: dict[str, Any]) -> None:
        """Restore it. Raises ValueError: it is that of other options."""
        raise NotImplementedError

    def save(self, epoch: int, current_iter: int) -> None:
        """The model's, and the state of this process."""
        if current_iter != -1:
            save_torch(self.process_state(), self._state_file(current_iter))
            if self.opt['dist']:
                distributed.barrier()  # the training state is complete when the files of all processes are there
        parent: Any = super()
        parent.save(epoch, current_iter)
        files = self._state_file(0).parent.glob(self._state_file('*').name)
        # a run that was resumed from an older state stands before files of later iterations
        for path in sorted((path for path in files if _iteration(path) <= current_iter), key=_iteration)[:-_KEPT]:
            path.unlink()

    def resume_training(self, resume_state: Mapping[str, Any]) -> None:
        """The model's, and the state of this process."""
        parent: Any = super()
        parent.resume_training(resume_state)
        path = Path(self.opt['path']['resume_state']).with_name(self._state_file(resume_state['iter']).name)
        try:
            self.load_process_state(torch.load(path, map_location='cpu', weights_only=True))
        except Exception as error:  # of a file that is missing, damaged or of other options: whatever torch raises
            reason = str(error).splitlines()[0][:150] if isinstance(error, ValueError) else 'missing or damaged'
            get_root_logger().warning(f'{path}: {self.state_text} ({reason}).')

    def _state_file(self, iteration: int | str) -> Path:
        return Path(self.opt['path']['training_states']) / f'{iteration}_{self.state_name}_{self.opt["rank"]}.pth'


def _iteration(path: Path) -> int:
    return int(path.name.partition('_')[0])
