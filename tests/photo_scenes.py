"""Images and a tiny trained network that tests of inference share."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from basicsr.archs import build_network


def scene(height: int, width: int, dtype: type = np.uint8, channels: int = 3) -> np.ndarray:
    """(height, width, channels): smooth colours with noise."""
    rng = np.random.default_rng(0)
    white = np.iinfo(dtype).max
    smooth = cv2.resize(rng.uniform(0.1, 0.9, (9, 11, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
    noisy = smooth + rng.normal(0, 0.08, smooth.shape)
    return (noisy[..., :channels].clip(0, 1) * white).astype(dtype)


def write_student(path: Path, residual: bool = False) -> Path:
    """Weights of a DenoisingUNet that was trained for a moment to reproduce smooth scenes."""
    torch.manual_seed(0)
    net = build_network({'type': 'DenoisingUNet', 'dim': 4, 'residual': residual})
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    image = torch.from_numpy(scene(96, 96)).permute(2, 0, 1)[None].float()
    for _ in range(60):
        optimizer.zero_grad()
        (net(image) - image).abs().mean().backward()
        optimizer.step()
    torch.save({'params': net.state_dict()}, path)
    return path
