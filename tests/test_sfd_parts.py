"""The parts of SFD: Feat-D, prompts, and both features of a frozen network in one pass."""

from __future__ import annotations

import pytest
import torch
from basicsr.archs import build_network
from basicsr.archs.discriminator_arch import UNetDiscriminatorSN
from torch.nn import functional as F

from basicsr_sassid.losses.clip_text import ClipTextTower
from basicsr_sassid.losses.semantic_features import SemanticFeatures
from basicsr_sassid.losses.semantic_pair import WORDS, SemanticPair
from basicsr_sassid.utils.errors import UserError

from clip_models import NAME

SMALL = {'backbone': 'squeezenet1_1', 'layer': 'features.5', 'final_layer': 'features.12', 'weights': 'random'}


# ---- Feat-D ----


@pytest.mark.parametrize('variant', ['unet', 'patch', 'pixel'])
@pytest.mark.parametrize('size', [(1, 1), (7, 7), (8, 16), (13, 9)])
def test_feature_discriminator_gives_a_logit_at_each_pixel(variant, size):
    net = build_network({'type': 'FeatureDiscriminator', 'num_in_ch': 6, 'num_feat': 4, 'variant': variant})
    assert net(torch.rand(2, 6, *size)).shape == (2, 1, *size)


def test_feature_discriminator_unet_is_basicsrs():
    net = build_network({'type': 'FeatureDiscriminator', 'num_in_ch': 1024})
    assert isinstance(net.body, UNetDiscriminatorSN)
    assert sum(parameter.numel() for parameter in net.parameters()) == 4_964_993


@pytest.mark.parametrize(('variant', 'seen'), [('pixel', 1), ('patch', 7)])
def test_feature_discriminator_sees_the_pixels_that_it_names(variant, seen):
    net = build_network({'type': 'FeatureDiscriminator', 'num_in_ch': 2, 'num_feat': 4, 'variant': variant}).eval()
    x = torch.rand(1, 2, 15, 15, requires_grad=True)
    net(x)[0, 0, 7, 7].backward()
    rows = x.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    assert int(rows[-1] - rows[0]) + 1 == seen


def test_feature_discriminator_unknown_variant_raises_value_error():
    with pytest.raises(ValueError, match="variant: expected one of unet, patch, pixel, got 'u'"):
        build_network({'type': 'FeatureDiscriminator', 'num_in_ch': 2, 'variant': 'u'})


# ---- prompts ----


def test_prompt_pair_of_class_vectors_gives_scaled_cosines():
    pair = build_network({'type': 'LearnablePromptPair', 'num_features': 5, 'logit_scale': 20})
    features = torch.rand(3, 5)
    expected = 20 * F.cosine_similarity(features[:, None], pair.prompts[None], dim=2)
    torch.testing.assert_close(pair(features), expected)


def test_prompt_pair_through_a_text_tower_has_the_published_size():
    pair = build_network({'type': 'LearnablePromptPair', 'num_features': 1024, 'num_context': 16})
    assert sum(parameter.numel() for parameter in pair.parameters()) == 2 * 16 * 512


def test_prompt_pair_gradient_reaches_the_context_through_the_tower_alone(clip_weights):
    tower = ClipTextTower(NAME, clip_weights)
    pair = build_network({'type': 'LearnablePromptPair', 'num_features': 24, 'num_context': 4, 'width': tower.width})
    pair(torch.rand(2, 24), tower).sum().backward()
    assert pair.prompts.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in tower.parameters())


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'num_features': 0}, 'expected num_features >= 1'),
        ({'num_features': 4, 'num_context': -1}, 'num_context >= 0'),
        ({'num_features': 4, 'logit_scale': 101}, 'logit_scale: expected a number above 0, up to 100, got 101'),
        ({'num_features': 4, 'logit_scale': 0}, 'logit_scale: expected a number above 0'),
    ],
)
def test_prompt_pair_bad_option_raises_value_error(options, message):
    with pytest.raises(ValueError, match=message):
        build_network({'type': 'LearnablePromptPair', **options})


# ---- both features ----


def test_semantic_pair_equals_two_passes():
    torch.manual_seed(0)
    pair = SemanticPair(**SMALL)
    x = torch.rand(2, 3, 70, 90)
    middle, final = pair(x)
    single = SemanticFeatures('squeezenet1_1', 'features.5', 'random')
    single.backbone.load_state_dict(pair.features.backbone.state_dict())
    torch.testing.assert_close(middle, single(x), rtol=0, atol=0)
    assert final.shape == (2, pair.features(x).flatten(1).shape[1])


def test_semantic_pair_gradient_reaches_the_image_through_both():
    pair = SemanticPair(**SMALL)
    for index in range(2):
        x = torch.rand(1, 3, 64, 64, requires_grad=True)
        pair(x)[index].sum().backward()
        assert x.grad.abs().sum() > 0


def test_semantic_pair_of_clip_encodes_context_vectors_with_the_words(clip_weights):
    pair = SemanticPair(f'clip/{NAME}', 'layer3', 'embedding', clip_weights)
    middle, final = pair(torch.rand(1, 3, 100, 130))
    assert middle.dim() == 4 and final.shape == (1, 24)
    context = torch.randn(2, 4, 32)
    expected = pair.text(context, [pair.text.tokenize(text) for text in WORDS])
    torch.testing.assert_close(pair.encode_text(context), expected, rtol=0, atol=0)


def test_semantic_pair_is_in_no_state_dict():
    assert SemanticPair(**SMALL).state_dict() == {}


def test_semantic_pair_layers_in_the_wrong_order_raise_value_error():
    pair = SemanticPair(**{**SMALL, 'layer': 'features.12', 'final_layer': 'features.5'})
    with pytest.raises(ValueError, match='final_layer lies before layer'):
        pair(torch.rand(1, 3, 64, 64))


def test_semantic_pair_unknown_layer_raises_user_error():
    with pytest.raises(UserError, match="squeezenet1_1 has no layer 'x'"):
        SemanticPair(**{**SMALL, 'layer': 'x'})
