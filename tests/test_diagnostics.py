"""Diagnostics of denoisers from noisy data alone."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from basicsr_sassid import estimate_noise
from basicsr_sassid.pipeline.diagnostics import Finding, diagnose

from clean_runs import crops_and_references

CROPS, REFERENCES = crops_and_references()


def reference_of(crop: np.ndarray) -> np.ndarray:
    return next(reference for noisy, reference in zip(CROPS, REFERENCES) if noisy is crop)


@pytest.fixture(scope='module')
def noise():
    return estimate_noise(CROPS)


@pytest.mark.parametrize(
    ('denoise', 'kinds'),
    [
        pytest.param(reference_of, [], id='perfect'),
        pytest.param(lambda crop: 0.7 * crop + 0.3 * reference_of(crop), ['identity'], id='copies'),
        pytest.param(lambda crop: cv2.GaussianBlur(crop, (0, 0), 12), ['smooth'], id='blurs'),
        pytest.param(lambda crop: reference_of(crop) + np.float32([0.03, 0, 0]), ['colour'], id='tints'),
    ],
)
def test_diagnose_denoiser_has_the_findings_of_its_failure(noise, denoise, kinds):
    assert [finding.kind for finding in diagnose('result', denoise, CROPS, noise)] == kinds


def test_diagnose_shift_is_named_by_channel_and_grey_levels(noise):
    (finding,) = diagnose('result', lambda crop: reference_of(crop) + np.float32([0.03, 0, 0]), CROPS, noise)
    assert 'red moved by +7.' in finding.text


def test_diagnose_without_crops_has_no_findings(noise):
    assert diagnose('bnn', reference_of, [], noise) == []


def test_finding_from_dict_inverts_to_dict():
    finding = Finding('bnn', 'identity', 'The BNN copies its input.', 'use a larger --blind-size')
    assert Finding.from_dict(finding.to_dict()) == finding


def test_finding_from_dict_reads_format_1():
    assert Finding.from_dict({'stage': 'bnn', 'kind': 'smooth', 'text': 'x', 'answer': 'y'}).action == 'y'


# ---- clipped areas ----


@pytest.fixture(scope='module', params=[245, 255])
def saturated(request) -> tuple[np.ndarray, np.ndarray]:
    """Noisy and clean (256, 256, 3) float32: a ramp in its lower part, its upper part saturated at the given level."""
    rng = np.random.default_rng(0)
    clean = np.repeat(np.linspace(60, 330, 256)[::-1, None, None], 256, axis=1).repeat(3, axis=2)
    noisy = (clean + rng.normal(0, 25, clean.shape)).clip(0, request.param).round()
    return (noisy / 255).astype(np.float32), (clean.clip(0, request.param) / 255).astype(np.float32)


def test_diagnose_clipped_areas_are_no_colour_shift_and_no_copy(saturated):
    noisy, clean = saturated
    assert diagnose('result', lambda _: clean, [noisy], estimate_noise([noisy])) == []


def test_diagnose_copy_beside_clipped_areas_is_found(saturated):
    noisy, clean = saturated
    findings = diagnose('result', lambda _: 0.7 * noisy + 0.3 * clean, [noisy], estimate_noise([noisy]))
    assert [finding.kind for finding in findings] == ['identity']


def test_diagnose_wholly_clipped_crop_has_no_findings(noise):
    white = np.ones((64, 64, 3), np.float32)
    assert diagnose('result', lambda crop: crop, [white], noise) == []
