"""ONNX export against torch."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch

from basicsr_sassid import Denoiser
from sassid import main

from photo_scenes import write_student

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module', params=[False, True], ids=['plain', 'residual'])
def exported(request, tmp_path_factory) -> tuple[Path, Path, str]:
    """Weights, the exported file, and what the command printed to stderr."""
    folder = tmp_path_factory.mktemp('export')
    weights = write_student(folder / 'net_g.pth', residual=request.param)
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        main(['export', '--weights', str(weights), '--onnx', str(folder / 'x.onnx')])
    return weights, folder / 'x.onnx', printed.getvalue()


@pytest.mark.parametrize('shape', [(1, 3, 64, 64), (2, 3, 70, 101), (1, 3, 33, 200), (3, 3, 9, 10), (1, 3, 1, 40)])
def test_export_onnx_any_size_predicts_as_torch(exported, shape):
    import onnxruntime

    weights, path, _ = exported
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    x = torch.rand(shape)
    with torch.no_grad():
        expected = Denoiser(weights, 'cpu').net(x * 255).numpy()
    np.testing.assert_allclose(session.run(None, {'lq': x.numpy()})[0] * 255, expected, rtol=0, atol=1e-3)


def test_export_onnx_reports_each_step(exported):
    lines = [line.split()[0] for line in exported[2].splitlines()]
    assert [word for word in lines if word in ('tracing', 'writing')] == ['tracing', 'writing']


def test_export_onnx_writes_one_file(exported):
    assert [path.name for path in exported[1].parent.glob('*.onnx*')] == ['x.onnx']
