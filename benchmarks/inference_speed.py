"""Inference: whole photographs in tiles, the exported network, peak memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from basicsr_sassid import Denoiser
from basicsr_sassid.inference.export import export_onnx
from basicsr_sassid.io.atomic import save_torch

import reference
from timing import compare, has_peak_memory, run_fresh

_MEMORY = """
import sys, numpy as np, torch
from basicsr_sassid import Denoiser
denoise = Denoiser(sys.argv[1], sys.argv[2])
side = int(sys.argv[3])
image = np.zeros((side, side, 3), np.uint8)
image[::2, ::3] = 200
before = peak()
denoise(image)
print(before, peak(),
      torch.cuda.max_memory_allocated() / 2 ** 20 if sys.argv[2] != 'cpu' else 0)
"""


def time_inference(device: torch.device, rounds: int, dim: int = 48) -> dict[str, dict[str, float]]:
    """A whole photograph in tiles against the reference forward of the whole image in float32."""
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / 'net_g.pth'
        state = reference.random_state(reference.official_unet_shapes(dim))
        save_torch(state, weights)
        state = {key: value.to(device) for key, value in state.items()}
        denoise = Denoiser(weights, str(device))
        for height, width in ((512, 512), (1024, 1024), (1536, 2048)):
            image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)

            def whole(image: np.ndarray = image) -> None:
                with torch.no_grad():
                    x = torch.from_numpy(image).permute(2, 0, 1)[None].float().to(device)
                    reference.unet(state, x).clamp(0, 255).round().byte().cpu()

            row = compare(whole, lambda image=image: denoise(image), max(rounds // 3, 2), device)
            row['megapixels_a_second'] = height * width / 1e6 / row['ours_seconds']
            rows[f'{width}x{height}'] = row
        if device.type == 'cpu':
            rows['onnxruntime 1024x1024'] = _time_onnx(weights, state, rounds)
        rows.update(_measure_memory(weights, str(device)))
    return rows


def _time_onnx(weights: Path, state: dict[str, torch.Tensor], rounds: int) -> dict[str, float]:
    """The exported student in onnxruntime, a whole image in float32."""
    import onnxruntime  # an extra

    path = weights.with_suffix('.onnx')
    export_onnx(weights, path)
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    x = torch.rand(1, 3, 1024, 1024)

    def whole() -> torch.Tensor:
        with torch.no_grad():
            return reference.unet(state, x * 255)

    def exported() -> np.ndarray:
        return session.run(None, {'lq': x.numpy()})[0]

    row = compare(whole, exported, max(rounds // 3, 2), torch.device('cpu'))
    row['megapixels_a_second'] = 1.048576 / row['ours_seconds']
    row['largest_difference'] = float(np.abs(exported() * 255 - whole().numpy()).max())
    return row


def _measure_memory(weights: Path, device: str) -> dict[str, dict[str, float]]:
    """Peak resident memory of a fresh process, for photographs of 1, 9 and 36 megapixels. Linux alone."""
    rows: dict[str, dict[str, float]] = {}
    if not has_peak_memory():
        return rows
    for side in (1000, 3000, 6000):
        loaded, peak, on_gpu = run_fresh(_MEMORY, weights, device, side)
        rows[f'memory, {side * side / 1e6:.0f} megapixels'] = {
            'loaded_mib': loaded,
            'peak_mib': peak,
            'above_loaded_mib': peak - loaded,
            'gpu_mib': on_gpu,
        }
    return rows
