"""SROCC, PLCC after the logistic fit, and KROCC."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from basicsr_sassid.evaluation.correlation import correlate, fit_logistic, logistic
from basicsr_sassid.utils.errors import UserError


@pytest.fixture
def noisy_curve() -> tuple[np.ndarray, np.ndarray]:
    """A metric, and scores that are a logistic function of it with noise."""
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 100, 300)
    return values, logistic(values, 5, 1, 40, 12) + rng.normal(0, 0.3, 300)


def test_correlate_rank_coefficients_equal_hand_computed_ones():
    found = correlate(np.array([1.0, 2, 3, 4, 5]), np.array([1.0, 3, 2, 5, 4]))
    # sum of squared rank differences 4: 1 - 6 * 4 / (5 * 24); two of ten pairs are discordant: (8 - 2) / 10
    assert (found.srocc, found.krocc) == (pytest.approx(0.8), pytest.approx(0.6))


def test_correlate_equals_scipy_with_a_fit_of_its_own(noisy_curve):
    values, scores = noisy_curve
    parameters, _ = optimize.curve_fit(
        lambda x, b1, b2, b3, b4: b2 + (b1 - b2) / (1 + np.exp(-(x - b3) / np.abs(b4))), values, scores, (5, 1, 50, 20)
    )
    found = correlate(values, scores)
    assert found.plcc == pytest.approx(stats.pearsonr(logistic(values, *parameters), scores)[0], abs=1e-6)
    assert found.srocc == pytest.approx(stats.spearmanr(values, scores)[0])
    assert found.krocc == pytest.approx(stats.kendalltau(values, scores)[0])


def test_correlate_ties_have_tau_b_and_mean_ranks():
    values, scores = np.array([1.0, 1, 2, 2, 3, 3]), np.array([1.0, 2, 2, 3, 3, 3])
    found = correlate(values, scores)
    assert found.krocc == pytest.approx(stats.kendalltau(values, scores, variant='b')[0])
    assert found.srocc == pytest.approx(np.corrcoef(stats.rankdata(values), stats.rankdata(scores))[0, 1])


@pytest.mark.parametrize(('b1', 'b2', 'expected'), [(5.0, 1.0, 1.0), (1.0, 5.0, -1.0)])
@pytest.mark.parametrize('scale', [1e-6, 1.0, 1e6])
def test_correlate_scores_that_are_a_logistic_function_have_plcc_1(b1, b2, expected, scale):
    values = np.random.default_rng(1).uniform(0, 100, 50) * scale
    found = correlate(values, logistic(values, b1, b2, 30 * scale, 6 * scale))
    assert found.plcc == pytest.approx(expected, abs=1e-9) and found.is_fitted


def test_fit_logistic_recovers_the_parameters():
    values = np.linspace(0, 100, 60)
    assert fit_logistic(values, logistic(values, 5, 1, 30, 6)) == pytest.approx([5, 1, 30, 6], rel=1e-5)


def test_correlate_straight_line_is_fitted_closely():
    values = np.linspace(0, 1, 40)
    assert correlate(values, 3 + 2 * values).plcc > 0.9999


def test_correlate_plcc_is_no_less_than_without_a_fit(noisy_curve):
    assert correlate(*noisy_curve).plcc > stats.pearsonr(*noisy_curve)[0]


def test_correlate_reversed_metric_has_the_opposite_sign(noisy_curve):
    values, scores = noisy_curve
    agree, contradict = correlate(values, scores), correlate(-values, scores)
    for name in ('srocc', 'plcc', 'krocc'):
        assert getattr(contradict, name) == pytest.approx(-getattr(agree, name), abs=1e-6)


def test_correlate_fit_that_does_not_converge_leaves_plcc_without_a_fit(noisy_curve, monkeypatch):
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError('Optimal parameters not found')

    monkeypatch.setattr(optimize, 'curve_fit', fail)
    found = correlate(*noisy_curve)
    assert not found.is_fitted and found.plcc == pytest.approx(stats.pearsonr(*noisy_curve)[0])


@pytest.mark.parametrize(
    ('values', 'scores', 'message'),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], '^expected 5 images or more, got 4$'),
        ([2, 2, 2, 2, 2], [1, 2, 3, 4, 5], '^all 5 values are 2: a constant has no correlation$'),
        ([1, 2, 3, 4, 5], [0, 0, 0, 0, 0], '^all 5 scores are 0: a constant'),
        ([1, 2, np.nan, np.inf, 5], [1, 2, 3, 4, 5], '^2 of 5 values are not finite$'),
    ],
)
def test_correlate_values_without_a_correlation_are_an_error(values, scores, message):
    with pytest.raises(UserError, match=message):
        correlate(np.array(values, float), np.array(scores, float))
