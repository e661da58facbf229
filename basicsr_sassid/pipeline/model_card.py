"""student.safetensors: the student of a run, with a card that states how it was trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from basicsr_sassid.io.checkpoint import read_weights, state_dict_of, write_safetensors
from basicsr_sassid.noise.model import NoiseModel
from basicsr_sassid.pipeline.state import RunState
from basicsr_sassid.training.budget import Plan
from basicsr_sassid.utils.versions import versions


def write_student(weights: Path, state: RunState, target: Path) -> None:
    """Write the student of a run.

    Args:
        weights: ``net_g_latest.pth`` of the training.
        state: of the run, with its plan, noise and blind size.
        target: ``.safetensors`` file.
    """
    content = read_weights(weights)
    assert state.plan is not None and state.noise is not None and state.blind_size is not None
    photographs = {'photographs': state.photos, 'megapixels': round(state.megapixels, 2)}
    card = model_card(content, state.plan, state.blind_size, state.noise, photographs)
    write_safetensors(state_dict_of(content, weights), card, target)


def model_card(
    content: Mapping[str, Any], plan: Plan, blind_size: int, noise: NoiseModel, photographs: Mapping[str, float]
) -> dict[str, Any]:
    """What student.safetensors states about its network.

    Args:
        content: of ``net_g_latest.pth``.
        plan: of the training.
        blind_size: of the BNN in pixels.
        noise: of the photographs.
        photographs: ``photographs`` (their number) and ``megapixels``.
    """
    return {
        'library': 'basicsr_sassid',
        'network': content['network'],
        'img_range': content['img_range'],
        'method': 'U-Net trained on the predictions of a BNN with several blind sizes, after SASSID (Li et al., CVPR '
        '2023) and AT-BSN (Chen et al., CVPR 2024); trained on noisy photographs alone',
        'trained_on': dict(photographs),
        'iterations': plan.iters,
        'blind_size': blind_size,
        'noise': {
            'sigma': noise.sigma.round(2).tolist(),
            'correlation': [round(noise.correlation_at(radius), 3) for radius in range(1, 8)],
        },
        'psnr': None,  # there are no clean references
        'versions': versions(),
    }
