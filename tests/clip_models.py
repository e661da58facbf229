"""Small models of the same kind as CLIP's RN50, registered with open_clip, and files as OpenAI's."""

from __future__ import annotations

import importlib
import json
import warnings

import pytest
import torch
from torch import nn

NAME, PLAIN, TRANSFORMER = 'SassidTiny-quickgelu', 'SassidTiny', 'SassidTinyViT-quickgelu'
TEXT = {'context_length': 77, 'vocab_size': 49408, 'width': 32, 'heads': 2, 'layers': 2}
RESNET = {'image_size': 224, 'layers': [1, 1, 1, 1], 'width': 8, 'patch_size': None}
CONFIG = {'embed_dim': 24, 'quick_gelu': True, 'vision_cfg': RESNET, 'text_cfg': TEXT}
VIT = {'image_size': 64, 'patch_size': 16, 'width': 64, 'head_width': 64, 'layers': 2}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope='session')
def clip_registry(tmp_path_factory) -> None:
    """Skip the test without open_clip."""
    open_clip = pytest.importorskip('open_clip')
    folder = tmp_path_factory.mktemp('models')
    for name, config in (
        (NAME, CONFIG),
        (PLAIN, {**CONFIG, 'quick_gelu': False}),
        (TRANSFORMER, {**CONFIG, 'vision_cfg': VIT}),
    ):
        (folder / f'{name}.json').write_text(json.dumps(config))
    open_clip.add_model_config(folder)


@pytest.fixture(scope='session')
def clip_model(clip_registry) -> nn.Module:
    """A whole small model. Statistics and the last layers of its blocks, zero in open_clip, are random too."""
    return randomised(importlib.import_module('open_clip').CLIP(**CONFIG))


@pytest.fixture
def clip_weights(clip_model, tmp_path) -> str:
    """Its state dict."""
    torch.save(clip_model.state_dict(), tmp_path / 'clip.pt')
    return str(tmp_path / 'clip.pt')


def randomised(net: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for name, value in net.state_dict().items():
        if ('bn' in name or 'downsample.1' in name) and value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    # torch's attention has another rounding where parameters need a gradient
    return net.eval().requires_grad_(False)


def normalised(x: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (x - mean) / std


def as_torchscript(model: nn.Module, path) -> None:
    """An archive as OpenAI's: a traced module in half precision, with three numbers beside its weights."""
    half = importlib.import_module('open_clip').CLIP(**CONFIG)
    half.load_state_dict(model.state_dict())
    for name, value in (('input_resolution', 224), ('context_length', 77), ('vocab_size', 49408)):
        if hasattr(half, name):
            delattr(half, name)
        half.register_buffer(name, torch.tensor(value))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of comparisons in the attention pool, and of torch.jit's age
        traced = torch.jit.trace_module(half.half().eval(), {'encode_image': torch.rand(1, 3, 224, 224).half()})
    traced.save(str(path))
