"""Losses and vectors for the tests of D2SM, and its equations in plain Python."""

from __future__ import annotations

import math

import torch
from basicsr.losses import build_loss
from torch import Tensor, nn

from basicsr_sassid.losses.d2sm_loss import D2SMLoss

NETWORK = {'backbone': 'squeezenet1_1', 'layer': 'features.5', 'weights': 'random'}


def with_features(**options) -> D2SMLoss:
    """The loss on features of a network with random weights."""
    torch.manual_seed(0)
    return build_loss({'type': 'D2SMLoss', **NETWORK, 'patch_size': None, **options})


def on_vectors(**options) -> D2SMLoss:
    """The loss on vectors: an image (N, 3, 1, 1) is its own feature."""
    loss = with_features(**options)
    loss.features = nn.Identity()
    return loss


def vectors(*rows: tuple[float, float, float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32)[..., None, None]


RESTORED = vectors((1, 0, 0), (1, 1, 0), (0, 1, 2))
CLEAN = vectors((1, 0, 0), (0, 1, 0), (0, 1, 1))


def kernel(a: Tensor, b: Tensor, kind: str = 'cosine') -> float:
    cosine = float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))
    return (cosine + 1) / 2 if kind == 'cosine' else math.exp(cosine - 1)


def distribution(
    rows: Tensor, i: int, exclude_self: bool = True, kind: str = 'cosine', power: float = 1
) -> list[float]:
    """p_{j|i} for all j, eq. 2 in plain Python."""
    values = [0.0 if exclude_self and j == i else kernel(rows[j], rows[i], kind) ** power for j in range(len(rows))]
    return [value / sum(values) for value in values]


def kl(q: list[float], p: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(q, p) if a > 0)


def expected(divergence=kl, anchors=range(3), **options) -> float:
    """Eq. 1 in plain Python."""
    return sum(divergence(distribution(RESTORED, i, **options), distribution(CLEAN, i, **options)) for i in anchors)


def jensen_shannon(q: list[float], p: list[float]) -> float:
    mean = [(a + b) / 2 for a, b in zip(q, p)]
    return (kl(q, mean) + kl(p, mean)) / 2
