"""Agreement of a metric with opinion scores: rank correlations, and Pearson's after a logistic fit.

Protocol of Sheikh, Sabir and Bovik, "A Statistical Evaluation of Recent Full Reference Image Quality Assessment
Algorithms", IEEE TIP 2006, with the monotonic logistic function of the VQEG (final report of phase II, 2003).
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
from scipy import optimize, special, stats

from basicsr_sassid.utils.errors import UserError

LEAST_IMAGES = 5  # one more than the logistic function has parameters
COEFFICIENTS = {
    'srocc': "Spearman's rank correlation of the metric with the scores",
    'plcc': "Pearson's correlation after a fit of the metric to the scores by a logistic function of four parameters",
    'krocc': "Kendall's rank correlation (tau-b)",
}
_STARTS = (1.0, 0.25)  # widths of the curve, in standard deviations of the metric
_MOST_CALLS = 10_000  # of the function, for each start


@dataclasses.dataclass(frozen=True)
class Correlation:
    """Coefficients in [-1, 1]; positive: both rise together.

    Attributes:
        srocc, krocc: Spearman's coefficient, and Kendall's tau-b.
        plcc: Pearson's coefficient after the logistic fit, negative where the fitted curve falls; without the fit where
            it does not converge.
        is_fitted: whether the fit converged.
    """

    srocc: float
    plcc: float
    krocc: float
    is_fitted: bool


def correlate(values: np.ndarray, scores: np.ndarray) -> Correlation:
    """Correlate a metric with opinion scores, (N,) each, in any units; higher is better in both.

    Raises:
        UserError: fewer than LEAST_IMAGES images, values that are not finite, or all equal.
    """
    if len(values) < LEAST_IMAGES:
        raise UserError(f'expected {LEAST_IMAGES} images or more, got {len(values)}')
    for name, array in (('value', values), ('score', scores)):
        if not np.isfinite(array).all():
            raise UserError(f'{np.count_nonzero(~np.isfinite(array))} of {len(array)} {name}s are not finite')
        if is_constant(array):
            raise UserError(f'all {len(array)} {name}s are {array[0]:g}: a constant has no correlation')
    parameters = fit_logistic(values, scores)
    if parameters is None:
        plcc = _pearson(values, scores)
    else:
        # the fit absorbs the direction: a metric that contradicts the scores is fitted by a falling curve
        plcc = np.sign(parameters[0] - parameters[1]) * _pearson(logistic(values, *parameters), scores)
    spearman: Any = stats.spearmanr(values, scores)
    kendall: Any = stats.kendalltau(values, scores)
    return Correlation(
        float(spearman.statistic), float(plcc), float(kendall.statistic), is_fitted=parameters is not None
    )


def logistic(x: np.ndarray, b1: float, b2: float, b3: float, b4: float) -> np.ndarray:
    """``b2 + (b1 - b2) / (1 + exp(-(x - b3) / |b4|))``: from ``b2`` to ``b1``, the middle at ``b3``; ``b4`` not 0."""
    return b2 + (b1 - b2) * special.expit((x - b3) / np.abs(b4))


def fit_logistic(values: np.ndarray, scores: np.ndarray) -> np.ndarray | None:
    """Fit :func:`logistic` to scores by least squares.

    Args:
        values, scores: (N,) each, N >= 4, finite, not constant.

    Returns:
        (4,): ``b1`` to ``b4``, in the units of ``scores`` and ``values``; None where no start converges.
    """
    # standardised: the solver's tolerances are relative
    x, y = (values - values.mean()) / values.std(), (scores - scores.mean()) / scores.std()
    ends = (y.max(), y.min()) if np.dot(x, y) >= 0 else (y.min(), y.max())
    fits = []
    for width in _STARTS:
        with warnings.catch_warnings(), np.errstate(all='ignore'):
            warnings.simplefilter('ignore', optimize.OptimizeWarning)  # no covariance, which nobody reads
            try:
                fit, _ = optimize.curve_fit(logistic, x, y, p0=(*ends, 0.0, width), maxfev=_MOST_CALLS)
            except (RuntimeError, ValueError):  # not converged
                continue
            curve = logistic(x, *fit)
        if np.isfinite(curve).all() and not is_constant(curve):
            fits.append((np.sum((curve - y) ** 2), tuple(fit)))
    if not fits:
        return None
    b1, b2, b3, b4 = min(fits)[1]
    spread, width = scores.std(), values.std()
    return np.array(
        [b1 * spread + scores.mean(), b2 * spread + scores.mean(), b3 * width + values.mean(), abs(b4) * width]
    )


def _pearson(values: np.ndarray, scores: np.ndarray) -> float:
    return float(np.corrcoef(values, scores)[0, 1])


def is_constant(array: np.ndarray) -> bool:
    """Whether finite values differ by no more than rounding errors."""
    return bool(np.ptp(array) <= 1e-12 * np.abs(array).max())
