"""CLIP of open_clip: image towers as backbones, files of weights, and the text tower behind context vectors.

Most tests take small models of the same kind as RN50, which are registered with open_clip here.
"""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from basicsr_sassid.io.raw_weights import is_torchscript
from basicsr_sassid.losses.clip_text import ClipTextTower
from basicsr_sassid.losses.semantic_features import SemanticFeatures
from basicsr_sassid.utils.errors import UserError

open_clip = pytest.importorskip('open_clip')

NAME, PLAIN, TRANSFORMER = 'SassidTiny-quickgelu', 'SassidTiny', 'SassidTinyViT-quickgelu'
TEXT = {'context_length': 77, 'vocab_size': 49408, 'width': 32, 'heads': 2, 'layers': 2}
RESNET = {'image_size': 224, 'layers': [1, 1, 1, 1], 'width': 8, 'patch_size': None}
CONFIG = {'embed_dim': 24, 'quick_gelu': True, 'vision_cfg': RESNET, 'text_cfg': TEXT}
VIT = {'image_size': 64, 'patch_size': 16, 'width': 64, 'head_width': 64, 'layers': 2}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope='module', autouse=True)
def models(tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp('models')
    for name, config in (
        (NAME, CONFIG),
        (PLAIN, {**CONFIG, 'quick_gelu': False}),
        (TRANSFORMER, {**CONFIG, 'vision_cfg': VIT}),
    ):
        (folder / f'{name}.json').write_text(json.dumps(config))
    open_clip.add_model_config(folder)


@pytest.fixture(scope='module')
def model(models) -> nn.Module:
    """A whole small model. Statistics and the last layers of its blocks, zero in open_clip, are random too."""
    return randomised(open_clip.CLIP(**CONFIG))


@pytest.fixture
def weights(model, tmp_path) -> str:
    """Its state dict."""
    torch.save(model.state_dict(), tmp_path / 'clip.pt')
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


# ---- image tower ----


@pytest.mark.parametrize(('layer', 'shape'), [(None, (1, 1024, 4, 6)), ('embedding', (1, 1024))])
def test_clip_features_rn50_has_the_published_sizes(layer, shape):
    features = SemanticFeatures('clip/RN50-quickgelu', layer, 'random')
    assert sum(parameter.numel() for parameter in features.parameters()) == 38_316_896
    assert features(torch.rand(1, 3, 64, 96)).shape == shape


def test_clip_features_default_layer_is_layer3(model, weights):
    features, x = SemanticFeatures(f'clip/{NAME}', weights=weights), torch.rand(2, 3, 64, 97)
    visual = model.visual
    expected = visual.layer3(visual.layer2(visual.layer1(visual.stem(normalised(x)))))
    assert features.layer == 'layer3'
    assert expected.shape == (2, 128, 4, 6)
    torch.testing.assert_close(features(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize('layer', ['logits', 'embedding', 'attnpool'])
def test_clip_features_embedding_at_224_is_that_of_open_clip(layer, model, weights):
    features, x = SemanticFeatures(f'clip/{NAME}', layer, weights), torch.rand(2, 3, 224, 224)
    torch.testing.assert_close(features(x), model.encode_image(normalised(x)), rtol=0, atol=0)


def test_clip_features_embedding_of_another_size_is_that_of_an_interpolated_grid(model, weights):
    """A pool of open_clip with the grid of this size; its own sizes are squares, and only their number is used."""
    features, x = SemanticFeatures(f'clip/{NAME}', 'embedding', weights), torch.rand(2, 3, 64, 160)
    visual, pool = model.visual, model.visual.attnpool
    maps = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(normalised(x))))))
    assert maps.shape[2:] == (2, 5)
    other = type(pool)(7, 256, pool.num_heads, 24)
    other.load_state_dict(pool.state_dict())
    grid = pool.positional_embedding[1:].reshape(7, 7, 256).permute(2, 0, 1)
    grid = F.interpolate(grid[None], (2, 5), mode='bicubic', antialias=True)[0]
    rows = torch.stack([grid[:, y, x] for y in range(2) for x in range(5)])
    other.positional_embedding = nn.Parameter(torch.cat([pool.positional_embedding[:1], rows]))
    torch.testing.assert_close(features(x), other.eval()(maps))


def test_clip_features_gradient_of_an_interpolated_embedding_reaches_the_image(weights):
    features = SemanticFeatures(f'clip/{NAME}', 'embedding', weights)
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


def as_torchscript(model: nn.Module, path) -> None:
    """An archive as OpenAI's: a traced module in half precision, with three numbers beside its weights."""
    half = open_clip.CLIP(**CONFIG)
    half.load_state_dict(model.state_dict())
    for name, value in (('input_resolution', 224), ('context_length', 77), ('vocab_size', 49408)):
        if hasattr(half, name):
            delattr(half, name)
        half.register_buffer(name, torch.tensor(value))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of comparisons in the attention pool, and of torch.jit's age
        traced = torch.jit.trace_module(half.half().eval(), {'encode_image': torch.rand(1, 3, 224, 224).half()})
    traced.save(str(path))


@pytest.mark.parametrize('kind', ['.pt', '.pth', '.safetensors', 'wrapped', 'torchscript'])
def test_clip_features_file_gives_its_weights(kind, model, tmp_path):
    path, state = tmp_path / f'clip{kind if kind[0] == "." else ".pt"}', model.state_dict()
    if kind == '.safetensors':
        save_file(state, path)
    elif kind == 'torchscript':
        as_torchscript(model, path)
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


def test_clip_features_cut_off_archive_raises_user_error(model, tmp_path):
    as_torchscript(model, tmp_path / 'clip.pt')
    content = (tmp_path / 'clip.pt').read_bytes()
    (tmp_path / 'clip.pt').write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r'clip.pt is no file of weights, or damaged'):
        SemanticFeatures(f'clip/{NAME}', weights=str(tmp_path / 'clip.pt'))


def test_clip_features_file_without_image_tower_raises_user_error(model, tmp_path):
    torch.save({k: v for k, v in model.state_dict().items() if not k.startswith('visual.')}, tmp_path / 'text.pt')
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


def test_clip_text_openai_archive_without_quickgelu_raises_user_error(model, tmp_path):
    as_torchscript(model, tmp_path / 'clip.pt')
    with pytest.raises(UserError, match=rf'Use clip/{NAME}$'):
        ClipTextTower(PLAIN, str(tmp_path / 'clip.pt'))


@pytest.mark.parametrize('kind', ['imagenet', 'pretrained', 'openai'])
def test_clip_features_published_weights_are_openais(kind, model, weights, monkeypatch):
    requested = []

    def download(config):
        requested.append(config)
        return weights

    monkeypatch.setattr(open_clip, 'list_pretrained_tags_by_model', lambda name: ['openai', 'other'])
    published = open_clip.get_pretrained_cfg('RN50', 'openai')
    monkeypatch.setattr(open_clip, 'get_pretrained_cfg', lambda name, tag: published if tag == 'openai' else {})
    monkeypatch.setattr(open_clip, 'download_pretrained', download)
    features = SemanticFeatures(f'clip/{NAME}', 'layer1', kind)
    assert requested == [published]
    assert torch.equal(features.backbone.conv1.weight, model.visual.conv1.weight)


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


# ---- text tower ----


@pytest.fixture
def tower(weights) -> ClipTextTower:
    return ClipTextTower(f'clip/{NAME}', weights)


@pytest.mark.parametrize('num_ctx', [0, 1, 3])
def test_clip_text_context_of_a_texts_words_gives_encode_text(num_ctx, tower, model):
    texts = ['a good photo of a cat.', 'bad, blurred photo']
    tokens = [tower.tokenize(text) for text in texts]
    context = torch.stack([tower.embed(each[:num_ctx]) for each in tokens])
    with torch.no_grad():
        features = tower(context, [each[num_ctx:] for each in tokens])
        expected = model.encode_text(open_clip.tokenize(texts))
    assert features.shape == (2, 24)
    torch.testing.assert_close(features, expected, rtol=0, atol=0)


def test_clip_text_without_words_is_the_text_of_the_context(tower, model):
    context = tower.embed(tower.tokenize('good photo'))[None]
    torch.testing.assert_close(tower(context), model.encode_text(open_clip.tokenize(['good photo'])))


def test_clip_text_gradient_reaches_the_context_alone(tower):
    context = torch.randn(2, 16, 32, requires_grad=True)
    tower(context, [tower.tokenize('photo'), []]).square().sum().backward()
    assert (context.grad.flatten(2).abs().sum(2) > 0).all()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in tower.parameters())


def test_clip_text_is_float32_under_autocast_and_equal(tower):
    context = torch.randn(1, 4, 32)
    with torch.autocast('cpu', torch.bfloat16):
        inside = tower(context)
    torch.testing.assert_close(inside, tower(context), rtol=0, atol=0)


def test_clip_text_is_in_no_state_dict_and_needs_none(tower):
    parent = nn.ModuleDict({'conv': nn.Conv2d(1, 1, 1), 'text': tower})
    assert sorted(parent.state_dict()) == ['conv.bias', 'conv.weight']
    parent.train().load_state_dict(parent.state_dict(), strict=True)
    assert not any(module.training for module in tower.modules())


@pytest.mark.parametrize(
    ('shape', 'words', 'message'),
    [
        ((2, 4, 31), None, r'context: expected \(P, n_ctx, 32\), got \(2, 4, 31\)'),
        ((2, 4, 32), [[]], r'words: expected the tokens of 2 prompts, got 1'),
        ((1, 4, 32), [[49407]], r'words: expected tokens in \[0, 49405\]'),
        ((1, 76, 32), None, r'76 context vectors and 0 tokens do not fit into a text of 77 tokens'),
    ],
)
def test_clip_text_of_another_size_raises_value_error(tower, shape, words, message):
    with pytest.raises(ValueError, match=message):
        tower(torch.zeros(shape), words)


def test_clip_text_of_another_kind_of_tower_raises_user_error():
    with pytest.raises(UserError, match='clip/ViT-B-16-SigLIP has another text tower'):
        ClipTextTower('ViT-B-16-SigLIP', 'random')


def test_clip_text_rn50_has_the_published_sizes():
    tower = ClipTextTower(weights='random')
    assert (tower.width, tower.context_length) == (512, 77)
    assert sum(parameter.numel() for parameter in tower.parameters()) == 63_690_241
    assert tower(torch.zeros(2, 16, 512)).shape == (2, 1024)
