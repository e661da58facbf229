"""Weights of a student's targets: SASSID's alpha for many targets, and the least estimated risk against true errors."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from basicsr_sassid.losses.selective_loss import TwoTeacherL1Loss, texture_map
from basicsr_sassid.losses.weighted_targets_loss import WeightedTargetsL1Loss
from basicsr_sassid.training.target_weights import RiskWeights, TargetRisks, measure_risks, texture_weights

from noise_scenes import white_noise

SIGMA = 20.0
# Sides below 32 pixels: noise is not measured in the crop, so that sigma is the true one.
SHAPE = (30, 400, 3)
NUM_CROPS = 4
# 144,000 draws: the standard error of their variance is 0.4 % of it, and an estimate sums three such means
TOLERANCE = 0.03 * SIGMA**2

# ---- alpha for many targets ----


def images(count: int, size: int = 24) -> Tensor:
    """(2, K, 3, H, W): flat on the left, textured on the right."""
    return 100 + torch.randn(2, count, 3, size, size) * torch.linspace(0, 25, size)


def test_texture_weights_of_two_targets_are_twice_alpha_and_the_rest():
    targets = images(2)
    alpha = texture_map(targets.mean(dim=1))
    expected = torch.stack((2 * alpha, 2 * (1 - alpha)), dim=1)
    torch.testing.assert_close(texture_weights(targets), expected)


def test_texture_weights_of_two_targets_are_those_of_the_two_teacher_loss():
    """Where both targets have the same texture: the small blind size is the teacher of textured areas."""
    flat = images(1)[:, 0]
    textured, prediction = flat + 3, flat - 5
    targets = torch.stack((textured, flat), dim=1)
    loss = WeightedTargetsL1Loss()(prediction, targets, texture_weights(targets))
    torch.testing.assert_close(loss, TwoTeacherL1Loss()(prediction, flat, textured))


@pytest.mark.parametrize('count', [1, 2, 3, 7])
def test_texture_weights_have_mean_1_and_no_negative_value(count):
    weights = texture_weights(images(count))
    assert weights.shape == (2, count, 1, 24, 24) and weights.min() >= 0
    torch.testing.assert_close(weights.mean(dim=1), torch.ones(2, 1, 24, 24))


@pytest.mark.parametrize('count', [2, 3, 6])
def test_texture_weights_move_to_the_first_target_where_texture_grows(count):
    checks = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(8, 8)
    places = []
    for std in (0.0, 0.5, 5.5, 8.0, 20.0):
        targets = (100 + std * checks).expand(1, count, 3, -1, -1)
        weights = texture_weights(targets)[0, :, 0, 8, 8]
        places.append((weights * torch.arange(count)).sum().item() / count)
    assert places == sorted(places, reverse=True) and places[0] > places[-1] + 0.5 * (count - 1)


# ---- estimated risks ----


def scenes() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Clean and noisy crops, in grey levels."""
    rng = np.random.default_rng(0)
    clean = [
        cv2.resize(rng.uniform(70, 180, (4, 30, 3)), SHAPE[1::-1], interpolation=cv2.INTER_CUBIC).astype(np.float32)
        for _ in range(NUM_CROPS)
    ]
    return clean, [scene + rng.normal(0, SIGMA, SHAPE).astype(np.float32) for scene in clean]


def to_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None]


def blurred(noisy: Tensor, sigma: float) -> Tensor:
    image = np.ascontiguousarray(noisy[0].permute(1, 2, 0).numpy())
    return to_tensor(cv2.GaussianBlur(image, (0, 0), sigma))


@pytest.fixture(scope='module')
def measured() -> tuple[TargetRisks, np.ndarray]:
    """Estimated risks of five predictors, and the true (5, 5) mean products of their errors."""
    clean, noisy = scenes()
    rng = np.random.default_rng(1)
    independent = [to_tensor(scene + rng.normal(0, 14, SHAPE).astype(np.float32)) for scene in clean]

    def predict(y: Tensor, number: int) -> Tensor:
        return torch.stack((y, 0.9 * y, blurred(y, 1.0), independent[number], torch.full_like(y, 120.0)), dim=1)

    # each crop is predicted as it is, and moved along the probe
    numbers = iter(np.repeat(range(NUM_CROPS), 2))
    crops = [image / np.float32(255) for image in noisy]
    risks = measure_risks(lambda y: predict(y, next(numbers)), crops, white_noise(SIGMA))
    errors = [
        (predict(to_tensor(image), number) - to_tensor(scene)[:, None])[0].flatten(1)
        for number, (scene, image) in enumerate(zip(clean, noisy))
    ]
    error = torch.cat(errors, dim=1).double().numpy()
    return risks, error @ error.T / error.shape[1]


def test_measure_risks_covariance_is_that_of_the_true_errors(measured):
    risks, true = measured
    estimated = np.einsum('b,bij->ij', risks.pixels, risks.covariance)
    np.testing.assert_allclose(estimated, true, rtol=0.02, atol=TOLERANCE)
    np.testing.assert_allclose(risks.risks, np.diag(estimated))


def test_measure_risks_true_errors_differ_by_more_than_the_tolerance(measured):
    """So that the comparison above means something."""
    assert np.diff(np.sort(np.diag(measured[1]))).min() > 2 * TOLERANCE


def test_measure_risks_noise_kept_is_the_part_that_a_target_keeps(measured):
    kept = measured[0].noise_kept
    assert kept[0] == pytest.approx(1, abs=0.02) and kept[1] == pytest.approx(0.9, abs=0.02)
    assert kept[2] == pytest.approx(1 / (2 * np.pi), abs=0.01)  # the middle of a Gaussian kernel of sigma 1
    assert abs(kept[3]) < 1e-6 and abs(kept[4]) < 1e-6


def test_measure_risks_bins_hold_as_many_pixels_each(measured):
    risks = measured[0]
    assert len(risks.covariance) == 8 == len(risks.edges) + 1
    np.testing.assert_allclose(risks.pixels, 1 / 8, atol=1e-3)


def test_measure_risks_of_equal_pixels_has_no_empty_bin():
    """Black areas: their local standard deviation is exactly 0, and quantiles of it are equal."""
    half = np.zeros((64, 400, 3), np.float32)
    half[:, 320:] = np.random.default_rng(0).uniform(0.2, 0.8, (64, 80, 3))
    for crop in (half, np.zeros_like(half)):
        risks = measure_risks(lambda y: torch.stack((y, blurred(y, 2)), dim=1), [crop], white_noise(SIGMA))
        assert risks.pixels.min() > 0 and risks.pixels.sum() == pytest.approx(1)
        assert np.isfinite(risks.covariance).all() and risks.weights().table.isfinite().all()


# ---- weights of the least risk ----


def weights_of(covariance: np.ndarray) -> np.ndarray:
    risks = TargetRisks(torch.empty(0), covariance[None], np.ones(1), np.zeros(len(covariance)))
    return risks.weights().table[0].double().numpy()


def regularised(covariance: np.ndarray) -> np.ndarray:
    return covariance + 0.1 * np.diag(covariance).mean() * np.eye(len(covariance))


@pytest.mark.parametrize('covariance', [[[4, 1], [1, 9]], [[4, 3.9], [3.9, 9]], [[25, -2], [-2, 16]]], ids=str)
def test_risk_weights_of_two_targets_minimise_the_risk_of_the_mean(covariance):
    covariance = np.array(covariance, float)
    grid = np.linspace(0, 1, 10001)
    means = np.stack((grid, 1 - grid), axis=1)
    values = np.einsum('ni,ij,nj->n', means, regularised(covariance), means)
    np.testing.assert_allclose(weights_of(covariance), 2 * means[np.argmin(values)], atol=5e-4)


@pytest.mark.parametrize('seed', range(4))
def test_risk_weights_of_three_targets_minimise_the_risk_of_the_mean(seed):
    root = np.random.default_rng(seed).normal(0, 5, (3, 3))
    covariance = root @ root.T
    found = minimize(
        lambda w: w @ regularised(covariance) @ w,
        np.full(3, 1 / 3),
        jac=lambda w: 2 * regularised(covariance) @ w,
        method='SLSQP',
        bounds=[(0, 1)] * 3,
        constraints={'type': 'eq', 'fun': lambda w: w.sum() - 1},
        options={'ftol': 1e-12},
    )
    np.testing.assert_allclose(weights_of(covariance), 3 * found.x, atol=1e-3)


@pytest.mark.parametrize(
    'covariance',
    [np.zeros((3, 3)), -np.eye(3), np.ones((3, 3)), np.array([[1.0, 2.0], [2.0, 1.0]]), np.diag([-5.0, 1.0, 2.0])],
    ids=['zero', 'negative', 'one target three times', 'negative eigenvalue', 'one negative risk'],
)
def test_risk_weights_of_a_degenerate_covariance_are_weights(covariance):
    weights = weights_of(covariance)
    assert np.isfinite(weights).all() and weights.min() >= 0 and weights.mean() == pytest.approx(1)


def test_risk_weights_of_equal_targets_are_equal():
    np.testing.assert_allclose(weights_of(np.ones((3, 3))), 1, atol=1e-3)


def test_risk_weights_are_those_of_the_local_standard_deviations_bin():
    weights = RiskWeights(torch.tensor([5.0]), torch.tensor([[0.0, 2.0], [2.0, 0.0]]))
    targets = torch.full((1, 2, 3, 20, 60), 100.0)
    targets[..., 30:] += 40 * (torch.arange(30) % 2)
    found = weights(targets)
    assert found.shape == (1, 2, 1, 20, 60)
    assert found[0, :, 0, 10, 10].tolist() == [0, 2] and found[0, :, 0, 10, 50].tolist() == [2, 0]


def test_risk_weights_to_dict_is_of_jsons_types():
    weights = RiskWeights(torch.tensor([5.0]), torch.tensor([[0.0, 2.0], [2.0, 0.0]]))
    assert json.loads(json.dumps(weights.to_dict())) == {'edges': [5.0], 'table': [[0, 2], [2, 0]]}
