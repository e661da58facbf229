"""Cost of a method: parameters, multiply-adds, time, memory; and the machine that it was measured on."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from basicsr_sassid.evaluation.context import Method
from basicsr_sassid.utils.versions import versions

SIDE = 256  # pixels, of the image for which multiply-adds are counted


def network_cost(method: Method) -> dict[str, float]:
    """``params``, and ``macs`` of all passes over a 256x256 image, as torch counts them; empty without a network."""
    if method.net is None:
        return {}
    with FlopCounterMode(display=False) as counter:
        method.run(np.full((SIDE, SIDE, 3), 127, np.uint8))
    return {
        'params': sum(parameter.numel() for parameter in method.net.parameters()),
        'macs': counter.get_total_flops() / 2,
    }


class ResourceMeter:
    """Seconds and peak memory of calls.

    Args:
        device: torch's name of the device.

    Attributes:
        seconds: duration of the last :meth:`measure`.
        bytes: peak memory above that in use before, the maximum over all calls; None where the system does not state
            it. On a GPU its memory, else the process's.
    """

    def __init__(self, device: str) -> None:
        self.gpu = torch.device(device) if device.startswith('cuda') else None
        self.seconds = 0.0
        self.bytes: int | None = None

    @contextlib.contextmanager
    def measure(self) -> Iterator[None]:
        """Measure the block."""
        before = self._start()
        started = time.perf_counter()
        yield
        if self.gpu:
            torch.cuda.synchronize(self.gpu)
        self.seconds = time.perf_counter() - started
        peak = torch.cuda.max_memory_allocated(self.gpu) if self.gpu else _resident_bytes('VmHWM')
        if before is not None and peak is not None:
            self.bytes = max(self.bytes or 0, peak - before)

    def _start(self) -> int | None:
        if self.gpu:
            torch.cuda.synchronize(self.gpu)
            torch.cuda.reset_peak_memory_stats(self.gpu)
            return torch.cuda.memory_allocated(self.gpu)
        _release_freed_memory()
        try:
            Path('/proc/self/clear_refs').write_text('5')  # Linux: the peak begins anew
        except OSError:
            return None
        return _resident_bytes('VmRSS')


def _release_freed_memory() -> None:
    """Memory that is freed but still held by the allocator would hide as much of the next method's peak."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc


def _resident_bytes(key: str) -> int | None:
    with contextlib.suppress(OSError):
        for line in Path('/proc/self/status').read_text().splitlines():
            if line.startswith(f'{key}:'):
                return int(line.split()[1]) * 1024
    return None


def machine(device: str) -> dict[str, Any]:
    """Versions and hardware, for the JSON."""
    return {
        'versions': versions(),
        'system': platform.platform(),
        'cpu': _processor(),
        'cores': len(os.sched_getaffinity(0)) if sys.platform == 'linux' else os.cpu_count(),
        'threads': torch.get_num_threads(),
        'gpu': torch.cuda.get_device_name(device) if device.startswith('cuda') else None,
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                return line.split(':', 1)[1].strip()
    return platform.processor() or platform.machine()
