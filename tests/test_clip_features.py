"""CLIP of open_clip: image towers as backbones, and files of weights.

Most tests take the small models of clip_models.
"""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from basicsr_sassid.io.raw_weights import is_torchscript
from basicsr_sassid.losses.clip_text import ClipTextTower
from basicsr_sassid.losses.semantic_features import SemanticFeatures
from basicsr_sassid.utils.errors import UserError

from clip_models import CONFIG, MEAN, NAME, STD, TRANSFORMER, VIT, as_torchscript, normalised

open_clip = pytest.importorskip('open_clip')
pytestmark = pytest.mark.usefixtures('clip_registry')


# ---- image tower ----


@pytest.mark.parametrize(('layer', 'shape'), [(None, (1, 1024, 4, 6)), ('embedding', (1, 1024))])
def test_clip_features_rn50_has_the_published_sizes(layer, shape):
    features = SemanticFeatures('clip/RN50-quickgelu', layer, 'random')
    assert sum(parameter.numel() for parameter in features.parameters()) == 38_316_896
    assert features(torch.rand(1, 3, 64, 96)).shape == shape


def test_clip_features_default_layer_is_layer3(clip_model, clip_weights):
    features, x = SemanticFeatures(f'clip/{NAME}', weights=clip_weights), torch.rand(2, 3, 64, 97)
    visual = clip_model.visual
    expected = visual.layer3(visual.layer2(visual.layer1(visual.stem(normalised(x)))))
    assert features.layer == 'layer3'
    assert expected.shape == (2, 128, 4, 6)
    torch.testing.assert_close(features(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize('layer', ['logits', 'embedding', 'attnpool'])
def test_clip_features_embedding_at_224_is_that_of_open_clip(layer, clip_model, clip_weights):
    features, x = SemanticFeatures(f'clip/{NAME}', layer, clip_weights), torch.rand(2, 3, 224, 224)
    torch.testing.assert_close(features(x), clip_model.encode_image(normalised(x)), rtol=0, atol=0)


def test_clip_features_embedding_of_another_size_is_that_of_an_interpolated_grid(clip_model, clip_weights):
    """A pool of open_clip with the grid of this size; its own sizes are squares, and only their number is used."""
    features, x = SemanticFeatures(f'clip/{NAME}', 'embedding', clip_weights), torch.rand(2, 3, 64, 160)
    visual, pool = clip_model.visual, clip_model.visual.attnpool
    maps = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(normalised(x))))))
    assert maps.shape[2:] == (2, 5)
    other = type(pool)(7, 256, pool.num_heads, 24)
    other.load_state_dict(pool.state_dict())
    grid = pool.positional_embedding[1:].reshape(7, 7, 256).permute(2, 0, 1)
    grid = F.interpolate(grid[None], (2, 5), mode='bicubic', antialias=True)[0]
    rows = torch.stack([grid[:, y, x] for y in range(2) for x in range(5)])
    other.positional_embedding = nn.Parameter(torch.cat([pool.positional_embedding[:1], rows]))
    torch.testing.assert_close(features(x), other.eval()(maps))


def test_clip_features_gradient_of_an_interpolated_embedding_reaches_the_image(clip_weights):
    features = SemanticFeatures(f'clip/{NAME}', 'embedding', clip_weights)
    x = torch.rand(1, 3, 96, 64, requires_grad=True)
    features(x).square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in features.parameters())


def test_clip_features_are_in_no_state_dict_and_stay_in_eval_mode():
    parent = nn.ModuleDict({'conv': nn.Conv2d(1, 1, 1), 'clip': SemanticFeatures(f'clip/{NAME}', weights='random')})
    parent.train().load_state_dict(parent.state_dict(), strict=True)
    assert sorted(parent.state_dict()) == ['conv.bias', 'conv.weight']
    assert not any(module.training for module in parent['clip'].modules())


def test_frozen_backbone_does_not_hide_missing_entries_of_other_modules():
    parent = nn.ModuleDict({'backbone': nn.Conv2d(1, 1, 1), 'clip': SemanticFeatures(f'clip/{NAME}', weights='random')})
    with pytest.raises(RuntimeError, match='Missing key'):
        parent.load_state_dict({}, strict=True)


def test_clip_features_normalisation_is_that_of_clip():
    features = SemanticFeatures(f'clip/{NAME}', weights='random')
    assert features.mean.flatten().tolist() == pytest.approx(MEAN)
    assert features.std.flatten().tolist() == pytest.approx(STD)


def test_clip_features_transformer_is_that_of_open_clip_at_its_size(tmp_path):
    model = open_clip.CLIP(**{**CONFIG, 'vision_cfg': VIT}).eval()
    torch.save(model.state_dict(), tmp_path / 'vit.pth')
    features, x = (
        SemanticFeatures(f'clip/{TRANSFORMER}', 'embedding', str(tmp_path / 'vit.pth')),
        torch.rand(1, 3, 64, 64),
    )
    torch.testing.assert_close(features(x), model.encode_image(normalised(x)))
    with pytest.raises(ValueError, match='takes images of 64 x 64 pixels, got 96 x 64'):
        features(torch.rand(1, 3, 96, 64))


# ---- weights ----


@pytest.mark.parametrize('kind', ['.pt', '.pth', '.safetensors', 'wrapped', 'torchscript'])
def test_clip_features_file_gives_its_weights(kind, clip_model, tmp_path):
    path, state = tmp_path / f'clip{kind if kind[0] == "." else ".pt"}', clip_model.state_dict()
    if kind == '.safetensors':
        save_file(state, path)
    elif kind == 'torchscript':
        as_torchscript(clip_model, path)
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    else:
        torch.save({'state_dict': {f'module.{k}': v for k, v in state.items()}} if kind == 'wrapped' else state, path)
    features = SemanticFeatures(f'clip/{NAME}', 'layer4', str(path))
    loaded = features.backbone.layer3.state_dict()
    assert all(torch.equal(value, state[f'visual.layer3.{name}'].to(value.dtype)) for name, value in loaded.items())
    text = ClipTextTower(NAME, str(path))
    assert torch.equal(text.backbone.ln_final.weight, state['ln_final.weight'].float())
    assert torch.equal(text.embed([7]), state['token_embedding.weight'][7:8].float())


def test_clip_features_archive_that_runs_a_program_raises_user_error(tmp_path):
    class Runs(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

        @torch.jit.export
        def __getstate__(self) -> tuple[torch.Tensor, bool]:
            return torch.zeros(1), self.training

        @torch.jit.export
        def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
            self.training = state[1]

    torch.jit.script(Runs()).save(str(tmp_path / 'runs.pt'))
    assert is_torchscript(tmp_path / 'runs.pt')
    with pytest.raises(UserError, match=r'runs.pt is a TorchScript archive with a program that runs'):
        SemanticFeatures(f'clip/{NAME}', weights=str(tmp_path / 'runs.pt'))


@pytest.mark.parametrize(('name', 'content'), [('a.pt', b'PK\x03\x04'), ('a.safetensors', b'no tensors')])
def test_clip_features_damaged_file_raises_user_error(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf'weights: .*{name} is no file of weights, or damaged'):
        SemanticFeatures(f'clip/{NAME}', weights=str(tmp_path / name))


def test_clip_features_cut_off_archive_raises_user_error(clip_model, tmp_path):
    as_torchscript(clip_model, tmp_path / 'clip.pt')
    content = (tmp_path / 'clip.pt').read_bytes()
    (tmp_path / 'clip.pt').write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r'clip.pt is no file of weights, or damaged'):
        SemanticFeatures(f'clip/{NAME}', weights=str(tmp_path / 'clip.pt'))


def test_clip_features_file_without_image_tower_raises_user_error(clip_model, tmp_path):
    torch.save({k: v for k, v in clip_model.state_dict().items() if not k.startswith('visual.')}, tmp_path / 'text.pt')
    with pytest.raises(
        UserError, match=r'weights: .*text.pt does not fit ModifiedResNet.*Missing from the file: conv1'
    ):
        SemanticFeatures(f'clip/{NAME}', weights=str(tmp_path / 'text.pt'))
    torch.save({'epoch': 3}, tmp_path / 'other.pt')
    with pytest.raises(UserError, match=r'other.pt holds no state dict of CLIP'):
        SemanticFeatures(f'clip/{NAME}', weights=str(tmp_path / 'other.pt'))


@pytest.mark.parametrize('kind', ['file', 'imagenet', 'pretrained', 'openai'])
def test_clip_features_rn50_without_quickgelu_raises_user_error(kind, tmp_path):
    torch.save({}, tmp_path / 'RN50.pt')
    with pytest.raises(UserError, match=r'trained with QuickGELU, which clip/RN50 has not.*Use clip/RN50-quickgelu$'):
        SemanticFeatures('clip/RN50', weights=str(tmp_path / 'RN50.pt') if kind == 'file' else kind)


@pytest.mark.parametrize('kind', ['imagenet', 'pretrained', 'openai'])
def test_clip_features_published_weights_are_openais(kind, clip_model, clip_weights, monkeypatch):
    requested = []

    def download(config):
        requested.append(config)
        return clip_weights

    monkeypatch.setattr(open_clip, 'list_pretrained_tags_by_model', lambda name: ['openai', 'other'])
    published = open_clip.get_pretrained_cfg('RN50', 'openai')
    monkeypatch.setattr(open_clip, 'get_pretrained_cfg', lambda name, tag: published if tag == 'openai' else {})
    monkeypatch.setattr(open_clip, 'download_pretrained', download)
    features = SemanticFeatures(f'clip/{NAME}', 'layer1', kind)
    assert requested == [published]
    assert torch.equal(features.backbone.conv1.weight, clip_model.visual.conv1.weight)


def test_clip_features_failed_download_is_one_sentence(monkeypatch):
    def offline(config):
        raise FileNotFoundError('no route to host')

    monkeypatch.setattr(open_clip, 'download_pretrained', offline)
    with pytest.raises(UserError) as caught:
        SemanticFeatures('clip/RN50-quickgelu')
    assert str(caught.value) == (
        'weights: cannot download https://huggingface.co/timm/resnet50_clip.openai/resolve/main/'
        'open_clip_model.safetensors (no route to host). Download it elsewhere, and name the file with the option '
        'weights.'
    )


# ---- errors ----


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'backbone': 'clip/RN5O'}, r"open_clip has no model 'RN5O' \(RN50.*clip/NAME"),
        ({'backbone': f'clip/{NAME}', 'layer': 'layer9', 'weights': 'random'}, r"has no layer 'layer9'.*logits"),
        ({'backbone': f'clip/{TRANSFORMER}', 'weights': 'random'}, r'has no layer None'),
        ({'backbone': f'clip/{NAME}'}, rf'OpenAI published none for clip/{NAME}. Name a file$'),
        ({'backbone': 'clip/ViT-H-14'}, r'OpenAI published none for clip/ViT-H-14. Name a file, or one of laion2b'),
        ({'backbone': f'clip/{NAME}', 'weights': 'nowhere.pt'}, r'weights: no such file or folder: nowhere.pt'),
    ],
)
def test_clip_features_bad_option_raises_user_error(options, message):
    with pytest.raises(UserError, match=message):
        SemanticFeatures(**options)


@pytest.mark.parametrize('make', [lambda: SemanticFeatures('clip/RN50-quickgelu'), ClipTextTower])
def test_clip_missing_package_raises_user_error(make, monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(UserError, match=r"the package open_clip_torch is not installed. pip install .*'\.\[clip\]'"):
        make()
