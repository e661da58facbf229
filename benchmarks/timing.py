"""Timing in turns: two functions are called alternately within one run, and medians and ratios are reported."""

from __future__ import annotations

import statistics
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


def print_table(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Print a row a line."""
    print(f'\n{title}')
    for name, row in rows.items():
        print(f'  {name:30}' + '  '.join(f'{key} {value:.4g}' for key, value in row.items()), flush=True)
