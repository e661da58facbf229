"""CLIP's text tower behind context vectors, with the small models of clip_models."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from basicsr_sassid.losses.clip_text import ClipTextTower
from basicsr_sassid.utils.errors import UserError

from clip_models import NAME, PLAIN, as_torchscript

open_clip = pytest.importorskip('open_clip')
pytestmark = pytest.mark.usefixtures('clip_registry')


@pytest.fixture
def tower(clip_weights) -> ClipTextTower:
    return ClipTextTower(f'clip/{NAME}', clip_weights)


@pytest.mark.parametrize('num_ctx', [0, 1, 3])
def test_clip_text_context_of_a_texts_words_gives_encode_text(num_ctx, tower, clip_model):
    texts = ['a good photo of a cat.', 'bad, blurred photo']
    tokens = [tower.tokenize(text) for text in texts]
    context = torch.stack([tower.embed(each[:num_ctx]) for each in tokens])
    with torch.no_grad():
        features = tower(context, [each[num_ctx:] for each in tokens])
        expected = clip_model.encode_text(open_clip.tokenize(texts))
    assert features.shape == (2, 24)
    torch.testing.assert_close(features, expected, rtol=0, atol=0)


def test_clip_text_without_words_is_the_text_of_the_context(tower, clip_model):
    context = tower.embed(tower.tokenize('good photo'))[None]
    torch.testing.assert_close(tower(context), clip_model.encode_text(open_clip.tokenize(['good photo'])))


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


def test_clip_text_openai_archive_without_quickgelu_raises_user_error(clip_model, tmp_path):
    as_torchscript(clip_model, tmp_path / 'clip.pt')
    with pytest.raises(UserError, match=rf'Use clip/{NAME}$'):
        ClipTextTower(PLAIN, str(tmp_path / 'clip.pt'))
