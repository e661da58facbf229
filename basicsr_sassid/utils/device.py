"""Choice of the device and of the floating-point type."""

from __future__ import annotations

import torch

from basicsr_sassid.utils.errors import UserError

PRECISIONS = ('auto', 'fp32', 'bf16', 'fp16')


def choose_device(name: str) -> torch.device:
    """``'auto'``: a CUDA device if there is one, else the CPU. Raises UserError if there is no such device."""
    if name == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f'device {name!r}: {str(error).splitlines()[0]} Use auto or cpu.') from error
    return device


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Floating-point type of forward passes: ``auto`` is bfloat16 where the hardware multiplies it natively."""
    if precision == 'auto':
        native = device.type == 'cuda' and torch.cuda.is_bf16_supported(including_emulation=False)
        if device.type == 'cpu':
            # the processor's instructions, where the kernels in use are not limited to fewer (ATEN_CPU_CAPABILITY):
            # those would emulate bfloat16, which is ten times slower than float32
            native = torch.backends.cpu.get_cpu_capability() == 'AVX512' and (
                torch.cpu._is_avx512_bf16_supported()  # pyright: ignore[reportPrivateUsage]
                or torch.cpu._is_amx_tile_supported()  # pyright: ignore[reportPrivateUsage]
            )
        precision = 'bf16' if native else 'fp32'
    return {'bf16': torch.bfloat16, 'fp16': torch.float16, 'fp32': torch.float32}[precision]
