"""DBSNl, and what AP-BSN, SDAP and AMSNet share: blindness, exact partitions and round trips."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from basicsr.archs import build_network

from basicsr_sassid import Denoiser, load_weights
from basicsr_sassid.inference.subsampled import subsampled_inference
from basicsr_sassid.ops.subsampling import (
    from_mosaic,
    masked_inference,
    pd_down,
    pd_forward,
    pd_up,
    random_partition,
    random_replacing_refinement,
    random_sub_images,
    to_mosaic,
)


def small_dbsnl(**changes):
    return build_network({'type': 'DBSNl', 'dim': 8, 'num_module': 3, **changes})


def test_dbsnl_has_the_published_parameters_and_names():
    net = build_network({'type': 'DBSNl'})
    assert sum(parameter.numel() for parameter in net.parameters()) == 3_656_131
    names = set(net.state_dict())
    assert {'head.0.weight', 'branch1.body.0.weight', 'branch2.body.6.body.2.bias', 'tail.6.weight'} <= names
    assert not any('mask' in name for name in names)


def test_dbsnl_has_the_published_multiply_adds():
    from torch.utils.flop_counter import FlopCounterMode
    net, image = build_network({'type': 'DBSNl'}), torch.rand(1, 3, 32, 32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(image)
    assert counter.get_total_flops() / 2 / 32 ** 2 == 3_650_112


@pytest.mark.parametrize(('passes', 'published'), [
    ({'stride': 2, 'mosaic_pad': 2}, 254.4), ({'stride': 2, 'mosaic_pad': 2, 'refine': 'replace'}, 2228.4),
    ({'stride': 2}, 239.2), ({'stride': 2, 'refine': 'again'}, 478.4)])
def test_all_passes_have_the_published_multiply_adds(passes, published):
    """AP-BSN, AP-BSN + R3, SDAP and SDAP (E) on 256x256: of DBSNl, every pixel costs the same."""
    assert sliding_window_cost(passes) * 3_650_112 / 1e9 == pytest.approx(published, abs=0.05)


def test_amsnet_asks_twice_and_with_refinement_eighteen_times():
    assert sliding_window_cost({'stride': 2, 'parts': 2}) == 2 * 256 ** 2
    assert sliding_window_cost({'stride': 2, 'parts': 2, 'refine': 'replace'}) == 18 * 256 ** 2


def sliding_window_cost(passes):
    seen = []
    subsampled_inference(lambda y: seen.append(y[:, 0].numel()) or y, torch.zeros(1, 3, 256, 256), **passes)
    return sum(seen)


def test_dbsnl_does_not_see_the_pixel_it_predicts():
    net, image = small_dbsnl().double(), torch.rand(1, 3, 40, 37, dtype=torch.float64)
    with torch.no_grad():
        before = net(image)
    for y, x in [(0, 0), (0, 36), (39, 0), (39, 36), (20, 18), (1, 30), (33, 2)]:
        other = image.clone()
        other[..., y, x] = 1000  # not NaN: the masked tap multiplies it with zero
        with torch.no_grad():
            changed = ((net(other) - before).abs() > 1e-9).any(dim=1)[0]  # of values around 1
        assert not changed[y, x] and changed.sum() > 50, 'its neighbours see it'


class TapByTap(torch.nn.Module):
    """A masked convolution as a sum over its taps, the masked one left out: what is not read may be NaN."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        conv, side = self.conv, self.conv.kernel_size[0]
        padded = torch.nn.functional.pad(x, (side // 2,) * 4)
        total = conv.bias.view(1, -1, 1, 1).expand(len(x), -1, *x.shape[2:])
        for row in range(side):
            for column in range(side):
                if (row, column) != (side // 2, side // 2):
                    seen = padded[..., row:row + x.shape[2], column:column + x.shape[3]]
                    total = total + torch.einsum('oi,nihw->nohw', conv.weight[..., row, column], seen)
        return total


@pytest.mark.parametrize('place', [(0, 0), (0, 29), (31, 0), (31, 29), (15, 14), (1, 20)])
def test_nan_in_a_pixel_does_not_reach_its_own_prediction(place):
    net, image = small_dbsnl().double(), torch.rand(1, 3, 32, 30, dtype=torch.float64)
    with torch.no_grad():
        as_it_is = net(image)
        for branch in (net.branch1, net.branch2):
            branch.body[0] = TapByTap(branch.body[0])
        # no ReLU in place on what a padded view looks at, and max(0, NaN) is NaN: nothing hides it
        assert torch.allclose(net(image), as_it_is, rtol=0, atol=1e-12), 'the same network'
        image[..., place[0], place[1]] = float('nan')
        lost = net(image).isnan().any(dim=1)[0]
    assert not lost[place] and lost.sum() > 50


def test_dbsnl_sees_59_pixels_and_leaves_its_weights_alone():
    net = build_network({'type': 'DBSNl', 'dim': 4}).double()
    for parameter in net.parameters():
        torch.nn.init.constant_(parameter, 0.05)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    image = torch.rand(1, 3, 71, 71, dtype=torch.float64, requires_grad=True)
    net(image)[0, 0, 35, 35].backward()
    seen = image.grad[0].abs().sum(0).nonzero() - 35
    assert seen.abs().max() == 29 and image.grad[0, :, 35, 35].abs().max() == 0
    assert len(seen) == 3240
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize('stride', [1, 2, 5])
def test_shuffling_is_slicing_and_comes_back(stride):
    x = torch.rand(2, 3, 4 * stride, 7 * stride)
    down = pd_down(x, stride)
    for n in range(2):
        for i in range(stride):
            for j in range(stride):
                assert torch.equal(down[n * stride ** 2 + i * stride + j], x[n, :, i::stride, j::stride])
    assert torch.equal(pd_up(down, stride), x)
    mosaic = to_mosaic(down, stride, 2)
    assert mosaic.shape == (2, 3, stride * 8, stride * 11) and torch.equal(from_mosaic(mosaic, stride, 2), down)
    assert torch.equal(mosaic[0, :, 2:6, 2:9], x[0, :, ::stride, ::stride])
    assert mosaic[..., :2, :].abs().max() == 0


@pytest.mark.parametrize('size', [(1, 1), (2, 9), (10, 10), (13, 7)])
def test_any_size_in_sub_images(size):
    x = torch.rand(2, 3, *size)
    assert torch.equal(pd_forward(lambda y: y, x, 5), x)


@pytest.mark.parametrize('size', [(1, 1), (2, 9), (10, 10), (13, 7)])
def test_a_mosaic_is_the_batch_where_nothing_reaches_across(size):
    x = torch.rand(2, 3, *size)
    assert torch.equal(pd_forward(lambda y: y, x, 5, mosaic_pad=2), x)
    blurred = torch.nn.AvgPool2d(3, 1, 1)  # reaches 1 pixel, the gap is 4
    assert torch.allclose(pd_forward(blurred, x, 2, mosaic_pad=2), pd_forward(blurred, x, 2), atol=1e-6)


def test_passes_of_a_network_that_wants_multiples():
    seen = []

    def net(y):
        assert y.shape[-2] % 8 == 0 and y.shape[-1] % 8 == 0
        seen.append(y.shape)
        return y
    x = torch.rand(1, 3, 21, 35)
    for passes in ({}, {'refine': 'again'}, {'refine': 'replace', 'mosaic_pad': 2}):
        assert torch.allclose(subsampled_inference(net, x, 2, multiple_of=8, **passes), x)
    assert len(seen) == 1 + 2 + 9


def test_random_sub_images_hold_every_pixel_of_their_cell_once():
    torch.manual_seed(0)
    x = torch.arange(2 * 10 * 15.).reshape(2, 1, 10, 15).repeat(1, 3, 1, 1)
    parts = random_sub_images(x, 5)
    assert parts.shape == (25, 2, 3, 2, 3)
    assert torch.equal(parts[:, :, 0], parts[:, :, 2]), 'the channels go together'
    plain = x.reshape(2, 3, 2, 5, 3, 5).permute(3, 5, 0, 1, 2, 4).reshape(25, 2, 3, 2, 3)
    assert torch.equal(parts.sort(0).values, plain.sort(0).values), 'each cell keeps its pixels'
    assert not torch.equal(parts[:, 0, 0, 0, 0] - parts[:, 0, 0, 0, 0].min(),
                           parts[:, 0, 0, 1, 1] - parts[:, 0, 0, 1, 1].min()), 'each cell has its own order'


def test_every_place_of_a_cell_is_as_likely():
    x = torch.arange(4.).reshape(1, 1, 2, 2).repeat(1, 1, 100, 100)
    first = random_sub_images(x, 2, torch.Generator().manual_seed(0))[0]
    assert torch.bincount(first.flatten().long()) / first.numel() == pytest.approx([0.25] * 4, abs=0.015)


def test_parts_are_a_partition():
    parts = random_partition(torch.rand(2, 3, 30, 40), 3, torch.Generator().manual_seed(0))
    assert torch.equal(parts.sum(0), torch.ones(2, 1, 30, 40, dtype=torch.long))
    assert parts.float().mean(dim=(1, 2, 3, 4)) == pytest.approx([1 / 3] * 3, abs=0.03)


def test_masked_pixels_are_predicted_unseen():
    x = torch.rand(1, 3, 8, 8) + 1
    assert masked_inference(lambda y: y, x, 2).abs().max() == 0, 'what is hidden is zero'
    assert torch.equal(masked_inference(lambda y: torch.full_like(y, 7), x, 4), torch.full_like(x, 7)), 'all are filled'
    image = x.clone().requires_grad_()
    masked_inference(lambda y: y.cumsum(3), image, 2, torch.Generator().manual_seed(0))[0, 0, 4, 5].backward()
    assert image.grad[0, 0, 4, 5] == 0 and image.grad[0, 0, 4, :5].sum() > 0


def test_refinement_is_the_mean_of_its_draws():
    noisy, denoised = torch.rand(2, 2, 3, 64, 64)
    generator = torch.Generator().manual_seed(0)
    result = random_replacing_refinement(lambda y: y, noisy, denoised, 0.16, 8, by_channel=True, generator=generator)
    taken = ((result - denoised) / (noisy - denoised))
    assert taken.mean() == pytest.approx(0.16, abs=0.005)
    assert torch.allclose((taken * 8).round() / 8, taken, atol=1e-2)
    together = random_replacing_refinement(lambda y: y, noisy, denoised, 0.5, 1)
    assert (((together == noisy).all(1)) | ((together == denoised).all(1))).all(), 'all channels of a pixel'


@pytest.mark.parametrize(('method', 'img_range', 'passes'), [
    ('apbsn', 255, {'stride': 2, 'mosaic_pad': 2, 'refine': 'replace', 'by_channel': True}),
    ('sdap', 1, {'stride': 2, 'refine': 'again'}),
    ('amsnet', 1, {'stride': 2, 'parts': 2, 'refine': 'replace'})])
def test_checkpoints_with_the_peers_keys(method, img_range, passes, tmp_path):
    """As the facts give the keys: the network, its range and its passes follow from the file alone."""
    torch.manual_seed(1)
    net = small_dbsnl()
    state = net.state_dict()
    masked = {**state, **{f'{branch}.body.0.mask': torch.ones_like(state[f'{branch}.body.0.weight'])
                          for branch in ('branch1', 'branch2')}}
    content = {'apbsn': {'epoch': 20, 'model_weight': {'denoiser': {f'bsn.{key}': value for key, value
                                                                    in masked.items()}}, 'optimizer_weight': {}},
               'sdap': masked,
               'amsnet': {'epoch': 1, 'state_dict': {**{f'net.dn.branches.0.{key}': value for key, value
                                                        in masked.items()}, 'net.other': torch.zeros(1)}}}[method]
    torch.save(content, tmp_path / 'theirs.pth')
    loaded = small_dbsnl()
    load_weights(loaded, tmp_path / 'theirs.pth')
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())
    denoise = Denoiser(tmp_path / 'theirs.pth', 'cpu', precision='fp32')
    assert (denoise.img_range, denoise.passes) == (img_range, passes)
    image = np.random.default_rng(0).random((20, 27, 3)).astype(np.float32)
    with torch.no_grad():
        x = torch.from_numpy(image).permute(2, 0, 1)[None] * img_range
        expected = (subsampled_inference(net, x, **passes) / img_range).clamp(0, 1)[0].permute(1, 2, 0).numpy()
    assert np.abs(denoise(image) - expected).max() < 1e-5


def test_the_last_layer_is_never_in_half_precision():
    net, image = small_dbsnl(), torch.rand(1, 3, 16, 16) * 255
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        assert net(image).dtype == torch.float32
