"""CLIP (Radford et al., ICML 2021) of open_clip_torch: its image tower as a backbone, and files of its weights.

Facts on the networks are those of open_clip's documentation; the code is ours. Licence: Apache-2.0.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from basicsr_sassid.io.checkpoint import load_state
from basicsr_sassid.io.raw_weights import is_torchscript, read_torchscript
from basicsr_sassid.losses.semantic_backbones import (
    LOGITS,
    PRETRAINED,
    RANDOM,
    Backbone,
    Norm,
    downloads,
    find_submodule,
    read_file,
    require_package,
)
from basicsr_sassid.utils.errors import UserError, require_path

CLIP, EMBEDDING = 'clip/', 'embedding'
_OPENAI = 'openai'  # open_clip's tag of the weights that `imagenet` stands for
_QUICK = '-quickgelu'  # ends the names of open_clip's models with QuickGELU
_VISUAL = 'visual.'  # starts the names of the image tower's tensors
# in TorchScript archives, beside the weights: numbers of the configuration, and the causal mask of the text tower
_NO_WEIGHTS = ('input_resolution', 'context_length', 'vocab_size', 'attn_mask')
# the smallest towers that open_clip builds: one takes the place of the tower that is not wanted
NO_TEXT = {'context_length': 1, 'vocab_size': 1, 'width': 8, 'heads': 1, 'layers': 1}
NO_IMAGES = {'image_size': 1, 'patch_size': 1, 'width': 64, 'head_width': 64, 'layers': 1}


class AnySizeAttentionPool(nn.Module):
    """Attention pool of CLIP's ResNets for feature maps of any size.

    The grid of the positional embedding, 7 x 7 for images of 224 pixels, is interpolated (bicubic, with antialiasing,
    as open_clip resizes the grids of its transformers). At its own size the output is open_clip's, bit for bit.

    Args:
        pool: ``AttentionPool2d`` of open_clip.

    Shape:
        (N, C, H, W) -> (N, D)
    """

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        embedding = self.pool.get_parameter('positional_embedding')  # (1 + side * side, C); the mean's comes first
        side = round((len(embedding) - 1) ** 0.5)
        if x.shape[2:] == (side, side):
            return self.pool(x)
        grid = embedding[1:].T.reshape(1, -1, side, side)
        grid = F.interpolate(grid, x.shape[2:], mode='bicubic', align_corners=False, antialias=True)
        resized = torch.cat([embedding[:1], grid[0].flatten(1).T])
        return functional_call(self.pool, {'positional_embedding': resized}, (x,))


def clip_backbone(name: str, layer: str | None, weights: str) -> Backbone:
    """Image tower of a model of open_clip.

    Args:
        name: model, as in ``open_clip.list_models()``.
        layer: module of the tower; ``logits`` or ``embedding``: its output, (N, D), not normalised. Default of the
            ResNets: ``layer3``, (N, 1024, H / 16, W / 16) of RN50.
        weights: see :func:`read_clip_weights`.

    Raises:
        UserError: open_clip_torch is missing, an unknown model or layer, and those of :func:`read_clip_weights`.
    """
    config = clip_config(name)
    state = read_clip_weights(name, config, weights)
    vision = {**config['vision_cfg'], 'output_tokens': False, 'timm_model_pretrained': False}
    visual: Any = build_clip(config, vision_cfg=vision, text_cfg=NO_TEXT).visual
    if state is not None:
        tower = {key.removeprefix(_VISUAL): value for key, value in state.items() if key.startswith(_VISUAL)}
        load_state(visual, tower, f'weights: {weights}')
    if hasattr(visual, 'attnpool'):
        visual.attnpool = AnySizeAttentionPool(visual.attnpool)
        layer = layer or 'layer3'
    elif hasattr(visual, 'positional_embedding'):
        visual.register_forward_pre_hook(_check_size)
    if layer in (LOGITS, EMBEDDING):
        return Backbone(visual, None, _norm(name, weights))
    find_submodule(visual, layer, CLIP + name)
    return Backbone(visual, layer, _norm(name, weights))


def _check_size(tower: Any, inputs: tuple[Tensor, ...]) -> None:
    if tuple(inputs[0].shape[2:]) != tuple(tower.image_size):
        raise ValueError(
            f'SemanticFeatures: this vision transformer takes images of {tower.image_size[0]} x {tower.image_size[1]} '
            f'pixels, got {inputs[0].shape[2]} x {inputs[0].shape[3]}'
        )


def clip_config(name: str) -> dict[str, Any]:
    """Configuration of a model of open_clip. Raises UserError: no such package, no such model."""
    models = _open_clip().list_models()
    if name not in models:
        near = ', '.join(difflib.get_close_matches(name, models, n=3) or ['RN50-quickgelu', '...'])
        raise UserError(
            f'backbone: open_clip has no model {name!r} ({near}); open_clip.list_models() lists them, and they are '
            f'written {CLIP}NAME'
        )
    return _open_clip().get_model_config(name)


def build_clip(config: Mapping[str, Any], *, vision_cfg: Mapping[str, Any], text_cfg: Mapping[str, Any]) -> Any:
    """``open_clip.CLIP`` with random weights. ``create_model`` would set up Python's root logger."""
    quick_gelu = config.get('quick_gelu', False)
    return _open_clip().CLIP(config['embed_dim'], dict(vision_cfg), dict(text_cfg), quick_gelu=quick_gelu)


def read_clip_weights(name: str, config: Mapping[str, Any], weights: str) -> dict[str, Tensor] | None:
    """State dict of both towers, under open_clip's and OpenAI's names; None: random weights are wanted.

    Args:
        name: model of open_clip.
        config: its configuration.
        weights: ``imagenet``: OpenAI's; another tag of open_clip; a file: OpenAI's .pt, which is TorchScript, or a
            state dict, .pt, .pth or .safetensors; or ``random``.

    Raises:
        UserError: no such file or tag, a failed download, a file without weights, or weights that were trained with
            QuickGELU, which all of OpenAI's are, for a model without it.
    """
    if weights == RANDOM:
        return None
    tags = _open_clip().list_pretrained_tags_by_model(name)
    if weights == PRETRAINED and _OPENAI not in tags:
        others = f', or one of {", ".join(tags)}' if tags else ''
        raise UserError(f'weights: OpenAI published none for {CLIP}{name}. Name a file{others}')
    if weights == PRETRAINED or weights in tags:
        published = _open_clip().get_pretrained_cfg(name, _OPENAI if weights == PRETRAINED else weights)
        _check_activation(name, config, bool(published.get('quick_gelu')), f'the published weights of {CLIP}{name}')
        hub = published.get('hf_hub')  # where open_clip looks first
        source = f'https://huggingface.co/{hub}resolve/main/open_clip_model.safetensors' if hub else published['url']
        with downloads(source):
            path = Path(_open_clip().download_pretrained(published))
    else:
        path = require_path(weights, 'weights')
        all_quick = all(_open_clip().get_pretrained_cfg(name, tag).get('quick_gelu') for tag in tags)
        _check_activation(name, config, is_torchscript(path) or (bool(tags) and all_quick), f'the weights {path}')
    state = read_torchscript(path, f'weights: {path}') if is_torchscript(path) else read_file(path, 'CLIP')
    return {key: value for key, value in state.items() if key not in _NO_WEIGHTS}


def text_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a CLIP state dict that are not the image tower's."""
    return {key: value for key, value in state.items() if not key.startswith(_VISUAL)}


def _check_activation(name: str, config: Mapping[str, Any], is_quick: bool, weights: str) -> None:
    if is_quick and not config.get('quick_gelu') and name + _QUICK in _open_clip().list_models():
        raise UserError(
            f'backbone: {weights} were trained with QuickGELU, which {CLIP}{name} has not: the features would be wrong '
            f'without any sign. Use {CLIP}{name}{_QUICK}'
        )


def _norm(name: str, weights: str) -> Norm:
    """Mean and standard deviation with which the weights were trained: OpenAI's for CLIP, others for SigLIP ..."""
    tags = _open_clip().list_pretrained_tags_by_model(name)
    tag = weights if weights in tags else next(iter(tags), '')
    config = _open_clip().get_pretrained_cfg(name, tag)
    mean, std = _open_clip().OPENAI_DATASET_MEAN, _open_clip().OPENAI_DATASET_STD
    return tuple(config.get('mean', mean)), tuple(config.get('std', std))


def _open_clip() -> Any:
    return require_package('open_clip', 'open_clip_torch', 'clip')
