"""What a method costs: parameters, multiply-adds, time, memory; and on what it was measured."""
from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from basicsr_sassid.evaluation.methods import Method
from basicsr_sassid.utils.version import __version__

SIDE = 256  # pixels, of the image for which multiply-adds are counted
_PACKAGES = ('basicsr', 'torch', 'torchvision', 'numpy', 'scipy', 'scikit-image', 'opencv-python', 'PyWavelets', 'bm3d',
             'pyiqa')


def network_cost(method: Method) -> dict[str, float]:
    """``params``, and ``macs`` of all passes over a 256x256 image, as torch counts them; nothing without a network."""
    if method.net is None:
        return {}
    with FlopCounterMode(display=False) as counter:
        method.run(np.full((SIDE, SIDE, 3), 127, np.uint8))
    return {'params': sum(parameter.numel() for parameter in method.net.parameters()),
            'macs': counter.get_total_flops() / 2}


class ResourceMeter:
    """Seconds and peak memory of calls.

    Attributes:
        seconds: of the last :meth:`measure`.
        bytes: most memory above what was in use before, over all of them; None where the system does not tell. On a GPU
            its memory, else the process's.
    """

    def __init__(self, device: str) -> None:
        self.gpu = torch.device(device) if device.startswith('cuda') else None
        self.seconds = 0.
        self.bytes: int | None = None

    @contextlib.contextmanager
    def measure(self) -> Iterator[None]:
        before = self._start()
        started = time.perf_counter()
        yield
        if self.gpu:
            torch.cuda.synchronize(self.gpu)
        self.seconds = time.perf_counter() - started
        peak = torch.cuda.max_memory_allocated(self.gpu) if self.gpu else _resident('VmHWM')
        if before is not None and peak is not None:
            self.bytes = max(self.bytes or 0, peak - before)

    def _start(self) -> int | None:
        if self.gpu:
            torch.cuda.synchronize(self.gpu)
            torch.cuda.reset_peak_memory_stats(self.gpu)
            return torch.cuda.memory_allocated(self.gpu)
        _give_back()
        try:
            Path('/proc/self/clear_refs').write_text('5')  # Linux: the peak begins anew
        except OSError:
            return None
        return _resident('VmRSS')


def _give_back() -> None:
    """What was freed but is kept for later would hide as much of the next method's peak."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc


def _resident(key: str) -> int | None:
    with contextlib.suppress(OSError):
        for line in Path('/proc/self/status').read_text().splitlines():
            if line.startswith(f'{key}:'):
                return int(line.split()[1]) * 1024
    return None


def machine(device: str) -> dict[str, Any]:
    """Versions and hardware, for the JSON."""
    versions = {'basicsr_sassid': __version__, 'python': platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {'versions': versions, 'system': platform.platform(), 'cpu': _processor(),
            'cores': len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count(),
            'threads': torch.get_num_threads(),
            'gpu': torch.cuda.get_device_name(device) if device.startswith('cuda') else None}


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                return line.split(':', 1)[1].strip()
    return platform.processor() or platform.machine()
