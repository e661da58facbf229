"""Inference in passes: published cost, sizes, the authors' checkpoints, and InferenceConfig."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from basicsr.archs import build_network

from basicsr_sassid import Denoiser, load_weights
from basicsr_sassid.inference.subsampled import SINGLE_PASS, InferenceConfig, subsampled_inference
from basicsr_sassid.utils.errors import UserError

APBSN = {'pd_b': 2, 'pd_pad': 2, 'refinement': 'r3', 'per_channel': True}
SDAP = {'pd_b': 2, 'refinement': 'second_pass'}
AMSNET = {'pd_b': 2, 'num_masks': 2, 'refinement': 'r3'}


def num_pixels(**keys) -> int:
    """Pixels that the network is applied to for an image of 256x256."""
    counts = []
    subsampled_inference(
        lambda y: counts.append(y[:, 0].numel()) or y, torch.zeros(1, 3, 256, 256), InferenceConfig(**keys)
    )
    return sum(counts)


@pytest.mark.parametrize(
    ('keys', 'published'),
    [({'pd_b': 2, 'pd_pad': 2}, 254.4), (APBSN, 2228.4), ({'pd_b': 2}, 239.2), (SDAP, 478.4)],
    ids=['AP-BSN', 'AP-BSN + R3', 'SDAP', 'SDAP (E)'],
)
def test_subsampled_inference_of_dbsnl_has_the_published_multiply_adds(keys, published):
    """On 256x256; every pixel costs the same."""
    assert num_pixels(**keys) * 3_650_112 / 1e9 == pytest.approx(published, abs=0.05)


@pytest.mark.parametrize(('keys', 'passes'), [({'pd_b': 2, 'num_masks': 2}, 2), (AMSNET, 18)])
def test_subsampled_inference_of_amsnet_has_the_published_passes(keys, passes):
    assert num_pixels(**keys) == passes * 256**2


@pytest.mark.parametrize(
    ('keys', 'passes'), [({}, 1), ({'refinement': 'second_pass'}, 2), ({'refinement': 'r3', 'pd_pad': 2}, 9)]
)
def test_subsampled_inference_pads_to_the_networks_multiple(keys, passes):
    shapes = []

    def net(y):
        assert y.shape[-2] % 8 == 0 and y.shape[-1] % 8 == 0
        shapes.append(y.shape)
        return y

    x = torch.rand(1, 3, 21, 35)
    assert torch.allclose(subsampled_inference(net, x, InferenceConfig(pd_b=2, multiple_of=8, **keys)), x)
    assert len(shapes) == passes


def test_subsampled_inference_single_pass_is_the_network():
    x = torch.rand(1, 3, 5, 7)
    assert subsampled_inference(lambda y: y, x) is x


def test_subsampled_inference_same_seed_gives_the_same_result():
    x = torch.rand(1, 3, 12, 12)
    results = [
        subsampled_inference(lambda y: y.cumsum(3), x, InferenceConfig(num_masks=2, seed=seed)) for seed in (0, 0, 1)
    ]
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


# ---- InferenceConfig ----


@pytest.mark.parametrize(
    ('block', 'message'),
    [
        ({'stride': 2}, "net: key 'stride' was renamed: pd_b"),
        ({'parts': 2}, "'parts' was renamed: num_masks"),
        ({'refine': 'again'}, "'refine' was renamed: refinement, with the values none, second_pass"),
        ({'refinement': 'replace'}, "net.refinement: expected one of none, second_pass, r3, got 'replace'"),
        ({'num_masks': 1}, 'net.num_masks: 1 would hide the whole image'),
        ({'pd_b': 0}, 'net.pd_b: expected a number >= 1'),
        ({'r3_p': 2.0}, 'net.r3_p: expected a number <= 1'),
        ({'pd_bb': 2}, "unknown key 'pd_bb'. Did you mean 'pd_b'"),
    ],
)
def test_inference_config_bad_block_raises_user_error(block, message):
    with pytest.raises(UserError, match=message):
        InferenceConfig.parse(block, 'net')


@pytest.mark.parametrize(
    ('block', 'expected'),
    [
        ({'stride': 2, 'mosaic_pad': 2, 'refine': 'replace', 'by_channel': True}, APBSN),
        ({'stride': 2, 'refine': 'again'}, SDAP),
        ({'stride': 2, 'parts': 2, 'refine': 'replace'}, AMSNET),
        ({'stride': 2, 'share': 0.2, 'times': 4}, {'pd_b': 2, 'r3_p': 0.2, 'r3_t': 4}),
        (AMSNET, AMSNET),
    ],
)
def test_inference_config_from_file_reads_both_formats(block, expected):
    assert InferenceConfig.from_file(block, 'net.pth') == InferenceConfig(**expected)


@pytest.mark.parametrize('block', [None, {}])
def test_inference_config_from_file_without_keys_is_a_single_pass(block):
    assert InferenceConfig.from_file(block, 'net.pth') == SINGLE_PASS


# ---- checkpoints of AP-BSN, SDAP, AMSNet ----


def author_content(method: str, state: dict[str, torch.Tensor]) -> dict:
    """A checkpoint under the names that the method's authors give."""
    masked = {
        **state,
        **{
            f'{branch}.body.0.mask': torch.ones_like(state[f'{branch}.body.0.weight'])
            for branch in ('branch1', 'branch2')
        },
    }
    if method == 'apbsn':
        return {
            'epoch': 20,
            'model_weight': {'denoiser': {f'bsn.{key}': value for key, value in masked.items()}},
            'optimizer_weight': {},
        }
    if method == 'amsnet':
        return {
            'epoch': 1,
            'state_dict': {
                **{f'net.dn.branches.0.{key}': value for key, value in masked.items()},
                'net.other': torch.zeros(1),
            },
        }
    return masked


@pytest.fixture
def net():
    return build_network({'type': 'DBSNl', 'dim': 8, 'num_module': 3})


@pytest.mark.parametrize('method', ['apbsn', 'sdap', 'amsnet'])
def test_load_weights_of_the_peers_checkpoint_reads_every_tensor(tmp_path, net, method):
    torch.save(author_content(method, net.state_dict()), tmp_path / 'theirs.pth')
    loaded = build_network({'type': 'DBSNl', 'dim': 8, 'num_module': 3})
    load_weights(loaded, tmp_path / 'theirs.pth')
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize(
    ('method', 'img_range', 'keys'), [('apbsn', 255, APBSN), ('sdap', 1, SDAP), ('amsnet', 1, AMSNET)]
)
def test_denoiser_of_the_peers_checkpoint_applies_the_methods_inference(tmp_path, net, method, img_range, keys):
    torch.save(author_content(method, net.state_dict()), tmp_path / 'theirs.pth')
    denoise = Denoiser(tmp_path / 'theirs.pth', 'cpu', precision='fp32')
    assert (denoise.img_range, denoise.inference) == (img_range, InferenceConfig(**keys))
    image = np.random.default_rng(0).random((20, 27, 3)).astype(np.float32)
    with torch.no_grad():
        x = torch.from_numpy(image).permute(2, 0, 1)[None] * img_range
        expected = (subsampled_inference(net, x, InferenceConfig(**keys)) / img_range).clamp(0, 1)
    assert np.abs(denoise(image) - expected[0].permute(1, 2, 0).numpy()).max() < 1e-5
