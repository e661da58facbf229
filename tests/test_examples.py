"""The examples of the docstrings run as they stand, and the page of promises names tests that exist."""

from __future__ import annotations

import doctest
import fnmatch
import importlib
import re
from pathlib import Path

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


def test_reliability_page_names_tests_that_exist():
    """Each promise of the page is held by a test: `file.py`, `file.py::name` or `name`, with * for the rest."""
    root = Path(__file__).parents[1]
    files = {path.name: path.read_text() for path in (root / 'tests').glob('test_*.py')}
    names = {name for content in files.values() for name in re.findall(r'^def (test_\w+)', content, re.MULTILINE)}
    held = re.findall(r'`(?:(test_\w+\.py)(?:::)?)?(test_[\w*]+)?`', (root / 'docs' / 'reliability.md').read_text())
    held = [(file, name) for file, name in held if file or name]
    assert len(held) > 30
    assert not [file for file, _ in held if file and file not in files]
    assert not [name for _, name in held if name and not fnmatch.filter(names, name)]
