"""Timing in turns: two functions are called alternately within one run, and medians and ratios are reported."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]  # this clone, and the reference implementation of its tests

Functions = dict[str, Callable[[], object]]


def median_seconds(functions: Functions, rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each function, called in turns; the first round does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds + 1):
        for name, function in functions.items():
            if device.type == 'cuda':
                torch.cuda.synchronize()
            started = time.perf_counter()
            function()
            if device.type == 'cuda':
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def compare(
    reference: Callable[[], object], ours: Callable[[], object], rounds: int, device: torch.device
) -> dict[str, float]:
    """Median seconds of the reference implementation and of ours, and their ratio."""
    seconds = median_seconds({'reference': reference, 'ours': ours}, rounds, device)
    return {
        **{f'{name}_seconds': value for name, value in seconds.items()},
        'ratio': seconds['reference'] / seconds['ours'],
    }


_PEAK = """
import re
def peak():  # in MiB; not getrusage's, which a process inherits from the one that started it
    return int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024
"""


def has_peak_memory() -> bool:
    """Whether the system reports it: Linux alone does."""
    return Path('/proc/self/status').is_file()


def run_fresh(script: str, *arguments: object) -> list[float]:
    """The numbers that a script prints last, run in a fresh process; ``peak()`` there is its peak memory in MiB."""
    done = subprocess.run(
        [sys.executable, '-c', _PEAK + script, *map(str, arguments)],
        text=True,
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), str(ROOT / 'tests')])},
    )
    return [float(word) for word in done.stdout.splitlines()[-1].split()]


def print_table(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Print a row a line."""
    print(f'\n{title}')
    for name, row in rows.items():
        print(f'  {name:30}' + '  '.join(f'{key} {value:.4g}' for key, value in row.items()), flush=True)
