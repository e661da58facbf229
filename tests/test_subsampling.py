"""Pixel-shuffle downsampling, random sub-images, masks and R3: exact partitions and round trips."""

from __future__ import annotations

import pytest
import torch

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

SIZES = [(1, 1), (2, 9), (10, 10), (13, 7)]


@pytest.mark.parametrize('stride', [1, 2, 5])
def test_pd_down_phases_are_slices(stride):
    x = torch.rand(2, 3, 4 * stride, 7 * stride)
    down = pd_down(x, stride)
    for n in range(2):
        for i in range(stride):
            for j in range(stride):
                assert torch.equal(down[n * stride**2 + i * stride + j], x[n, :, i::stride, j::stride])


@pytest.mark.parametrize('stride', [1, 2, 5])
def test_pd_up_is_the_inverse_of_pd_down(stride):
    x = torch.rand(2, 3, 4 * stride, 7 * stride)
    assert torch.equal(pd_up(pd_down(x, stride), stride), x)


@pytest.mark.parametrize('stride', [1, 2, 5])
def test_from_mosaic_is_the_inverse_of_to_mosaic(stride):
    phases = pd_down(torch.rand(2, 3, 4 * stride, 7 * stride), stride)
    assert torch.equal(from_mosaic(to_mosaic(phases, stride, 2), stride, 2), phases)


def test_to_mosaic_phases_have_zeros_around_them():
    x = torch.rand(2, 3, 8, 14)
    mosaic = to_mosaic(pd_down(x, 2), 2, 2)
    assert mosaic.shape == (2, 3, 16, 22)
    assert torch.equal(mosaic[0, :, 2:6, 2:9], x[0, :, ::2, ::2])
    assert mosaic[..., :2, :].abs().max() == 0


@pytest.mark.parametrize('pad', [None, 2])
@pytest.mark.parametrize('size', SIZES)
def test_pd_forward_identity_of_any_size_returns_the_image(size, pad):
    x = torch.rand(2, 3, *size)
    assert torch.equal(pd_forward(lambda y: y, x, 5, pad), x)


@pytest.mark.parametrize('size', SIZES)
def test_pd_forward_in_a_mosaic_is_the_batch_if_no_phase_reaches_another(size):
    x = torch.rand(2, 3, *size)
    blur = torch.nn.AvgPool2d(3, 1, 1)  # reaches 1 pixel, the gap is 4
    assert torch.allclose(pd_forward(blur, x, 2, pad=2), pd_forward(blur, x, 2), atol=1e-6)


@pytest.fixture
def cells() -> tuple[torch.Tensor, torch.Tensor]:
    """An image of cells of 5x5 pixels with values of their own, and its random sub-images."""
    x = torch.arange(2 * 10 * 15.0).reshape(2, 1, 10, 15).repeat(1, 3, 1, 1)
    return x, random_sub_images(x, 5)


def test_random_sub_images_contain_every_pixel_of_a_cell_once(cells):
    x, sub_images = cells
    in_order = x.reshape(2, 3, 2, 5, 3, 5).permute(3, 5, 0, 1, 2, 4).reshape(25, 2, 3, 2, 3)
    assert torch.equal(sub_images.sort(0).values, in_order.sort(0).values)


def test_random_sub_images_channels_stay_together(cells):
    assert torch.equal(cells[1][:, :, 0], cells[1][:, :, 2])


def test_random_sub_images_each_cell_has_its_own_order(cells):
    first, second = (cells[1][:, 0, 0, place, place] for place in (0, 1))
    assert not torch.equal(first - first.min(), second - second.min())


def test_random_sub_images_places_of_a_cell_are_equally_likely():
    x = torch.arange(4.0).reshape(1, 1, 2, 2).repeat(1, 1, 100, 100)
    first = random_sub_images(x, 2, torch.Generator().manual_seed(0))[0]
    assert torch.bincount(first.flatten().long()) / first.numel() == pytest.approx([0.25] * 4, abs=0.015)


def test_random_partition_has_every_pixel_in_one_mask():
    masks = random_partition(torch.rand(2, 3, 30, 40), 3, torch.Generator().manual_seed(0))
    assert torch.equal(masks.sum(0), torch.ones(2, 1, 30, 40, dtype=torch.long))


def test_random_partition_masks_are_equally_large():
    masks = random_partition(torch.rand(2, 3, 30, 40), 3, torch.Generator().manual_seed(0))
    assert masks.float().mean(dim=(1, 2, 3, 4)) == pytest.approx([1 / 3] * 3, abs=0.03)


def test_masked_inference_hidden_pixels_are_zero_in_the_input():
    assert masked_inference(lambda y: y, torch.rand(1, 3, 8, 8) + 1, 2).abs().max() == 0


def test_masked_inference_predicts_every_pixel():
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(masked_inference(lambda y: torch.full_like(y, 7), x, 4), torch.full_like(x, 7))


def test_masked_inference_prediction_does_not_depend_on_its_own_pixel():
    image = torch.rand(1, 3, 8, 8).requires_grad_()
    masked_inference(lambda y: y.cumsum(3), image, 2, torch.Generator().manual_seed(0))[0, 0, 4, 5].backward()
    assert image.grad[0, 0, 4, 5] == 0 and image.grad[0, 0, 4, :5].sum() > 0


def test_random_replacing_refinement_is_the_mean_of_its_draws():
    noisy, denoised = torch.rand(2, 2, 3, 64, 64)
    result = random_replacing_refinement(
        lambda y: y, noisy, denoised, 0.16, 8, per_channel=True, generator=torch.Generator().manual_seed(0)
    )
    fraction = (result - denoised) / (noisy - denoised)
    assert fraction.mean() == pytest.approx(0.16, abs=0.005)
    assert torch.allclose((fraction * 8).round() / 8, fraction, atol=1e-2)


def test_random_replacing_refinement_replaces_all_channels_of_a_pixel():
    noisy, denoised = torch.rand(2, 2, 3, 64, 64)
    result = random_replacing_refinement(lambda y: y, noisy, denoised, 0.5, 1)
    assert ((result == noisy).all(1) | (result == denoised).all(1)).all()
