"""A pretrained network inside a loss: frozen, in eval mode, and absent from every state dict. Licence: Apache-2.0."""

from __future__ import annotations

from typing import Any

from torch import nn


class FrozenBackbone(nn.Module):
    """Base of modules that hold one pretrained network, ``backbone``.

    Its parameters have no gradient, it stays in eval mode, no state dict holds it, and ``load_state_dict`` of a parent
    needs no entry for it.

    Args:
        net: the network.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.backbone = net.requires_grad_(False).eval()
        self.register_state_dict_post_hook(_leave_out)
        self.register_load_state_dict_pre_hook(_keep_own)

    def train(self, mode: bool = True) -> FrozenBackbone:
        """Stay in eval mode: batch normalisation keeps its statistics."""
        return super().train(False)


def _leave_out(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for key in [key for key in state if key.startswith(f'{prefix}backbone.')]:
        del state[key]


def _keep_own(module: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
    # the network's own tensors take the place of the missing ones. torch copies the state dict before this
    assert isinstance(module, FrozenBackbone)
    state.update(module.backbone.state_dict(prefix=f'{prefix}backbone.'))
