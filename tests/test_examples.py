"""The examples of the docstrings run as they stand."""

from __future__ import annotations

import doctest
import importlib

import pytest
import torch
from basicsr.archs import build_network


@pytest.mark.parametrize(
    'module',
    [
        'utils.sequences',
        'noise.estimate',
        'inference.spectral',
        'inference.denoiser',
        pytest.param('pipeline.api', marks=pytest.mark.slow),
    ],
)
def test_docstring_examples_give_the_printed_results(module, tmp_path, monkeypatch):
    weights = tmp_path / 'net_g_latest.pth'
    torch.save({'params': build_network({'type': 'DenoisingUNet', 'dim': 4}).state_dict()}, weights)
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    result = doctest.testmod(
        importlib.import_module(f'basicsr_sassid.{module}'),
        optionflags=doctest.ELLIPSIS,
        extraglobs={'weights': weights},
    )
    assert result.attempted >= 1 and result.failed == 0
