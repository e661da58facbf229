"""Trainings that are killed, as by the system, at an iteration."""

from __future__ import annotations

import signal
from pathlib import Path

from helpers import run_code


def train_until_killed(yml: str, cwd: Path, place: str, iteration: int, model: str = 'staged_model.StagedModel') -> str:
    """Start or continue a training in a process that dies by its own hand, as no clock hits the iteration.

    Args:
        yml: option file.
        cwd: folder in which the training runs.
        place: ``step``: behind a step of the networks; ``save``: behind a checkpoint.
        iteration: number of the iteration in which it dies.
        model: module and class in basicsr_sassid.models whose steps count.

    Returns:
        What it printed.
    """
    module, name = model.split('.')
    code = (
        'import os, signal, basicsr_sassid.train as t\n'
        'import basicsr_sassid.training.loop as loop\n'
        f'from basicsr_sassid.models.{module} import {name} as Model\n'
        'def dying(call, place):\n'
        '    def called(*args):\n'
        '        result = call(*args)\n'
        f'        if (place, args[-1]) == {(place, iteration)!r}:\n'
        '            os.killpg(0, signal.SIGKILL)\n'
        '        return result\n'
        '    return called\n'
        'loop.save_model = dying(loop.save_model, "save")\n'
        'Model.optimize_parameters = dying(Model.optimize_parameters, "step")\n'
        f't.main(["-opt", {yml!r}, "--auto_resume"])'
    )
    killed = run_code(code, cwd)
    assert killed.returncode == -signal.SIGKILL, killed.stdout[-3000:]
    return killed.stdout
