"""The teacher in the report: the blind sizes of the student's targets, and the map of their weights."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from PIL import Image

from basicsr_sassid.inference.blend import BlendedDenoiser
from basicsr_sassid.io.checkpoint import save_weights
from basicsr_sassid.io.photo import Photo, write_photo
from basicsr_sassid.losses.selective_loss import local_std
from basicsr_sassid.pipeline.report import write_report
from basicsr_sassid.pipeline.state import RunState
from basicsr_sassid.pipeline.weight_map import TeacherView, weight_map
from basicsr_sassid.training.blind_sizes import BlindSizeChoice
from basicsr_sassid.training.budget import Plan
from basicsr_sassid.training.target_weights import RiskWeights

BNN = {'type': 'BNN', 'dim': 4, 'blind_size': 5}


def risk_weights(*rows: list[float], edge: float = 5) -> RiskWeights:
    return RiskWeights(torch.full((len(rows) - 1,), float(edge)), torch.tensor(rows))


@pytest.fixture(scope='module')
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp('weights') / 'net_bnn.pth'
    save_weights({'params': build_network(BNN).state_dict(), 'network': BNN, 'img_range': 255}, path)
    return path


# ---- the map ----


def half_textured(num_sizes: int, side: int = 32) -> torch.Tensor:
    """Predictions (1, K, 3, H, W): flat to the left, a chequerboard of +-20 grey levels to the right."""
    rows, columns = np.indices((side, side))
    image = 100 + np.where(columns < side // 2, 0, 20 - 40 * ((rows + columns) % 2))
    return torch.from_numpy(image).float().expand(1, num_sizes, 3, side, side)


@pytest.mark.parametrize(
    ('sizes', 'rows', 'flat', 'textured'),
    [
        ([0, 5], ([0.0, 2.0], [2.0, 0.0]), 0, 1),
        ([1, 9], ([0.5, 1.5], [1.6, 0.4]), 0.25, 0.8),
        ([1, (3, 5)], ([1.0, 1.0], [1.6, 0.4]), 0.5, 0.8),
        ([0, 3, (5, 9)], ([0.0, 3.0, 0.0], [1.5, 0.0, 1.5]), 4 / 7, 0.5),
    ],
    ids=['extremes', 'squares', 'pair', 'three'],
)
def test_weight_map_known_weights_give_the_mean_blind_size(sizes, rows, flat, textured):
    grey = weight_map(half_textured(len(sizes)), BlindSizeChoice(sizes, weights=risk_weights(*rows)))
    assert grey[:, :12] == pytest.approx(flat, abs=1e-6) and grey[:, 20:] == pytest.approx(textured, abs=1e-6)


@pytest.mark.parametrize(
    ('sizes', 'weights_of_sizes', 'side'),
    [
        ([0, 5], None, 32),
        ([0, 5], risk_weights([0.5, 1.5]), 32),
        ([0, 5], risk_weights([0.5, 1.5], [1.5, 0.5], edge=100), 32),
        ([0, 5], risk_weights([0.5, 1.5], [0.5, 1.5]), 32),
        ([5], risk_weights([1.0], [1.0]), 32),
        ([(1, 3), (3, 1)], risk_weights([0.0, 2.0], [2.0, 0.0]), 32),
        ([0, 5], risk_weights([0.0, 2.0], [2.0, 0.0]), 8),
    ],
    ids=['equal weights', 'one bin', 'all in one bin', 'bins alike', 'one size', 'sizes alike', 'small'],
)
def test_weight_map_constant_or_small_is_none(sizes, weights_of_sizes, side):
    assert weight_map(half_textured(len(sizes), side), BlindSizeChoice(sizes, weights=weights_of_sizes)) is None


def test_weight_map_of_nine_pixels_is_there():
    choice = BlindSizeChoice([0, 5], weights=risk_weights([0.0, 2.0], [2.0, 0.0], edge=15))
    assert weight_map(half_textured(2, side=9), choice).shape == (9, 9)


# ---- predictions ----


def test_teacher_view_predictions_are_those_of_the_network(weights):
    sizes = [0, 3, (1, 5)]
    view = TeacherView(weights, BlindSizeChoice(sizes))
    view.dtype = torch.float32
    noisy = np.random.default_rng(0).random((40, 52, 3), np.float32)
    image = torch.from_numpy(noisy).permute(2, 0, 1)[None] * 255
    with torch.no_grad():
        expected = torch.stack([view.net(image, size) for size in sizes], dim=1)
    assert torch.allclose(view.predictions(noisy), expected, rtol=1e-4, atol=1e-3 * float(expected.abs().max()))


def test_teacher_view_passes_the_trunk_once_a_window(weights, monkeypatch):
    view = TeacherView(weights, BlindSizeChoice([0, 1, 3, 5]))
    shapes, features = [], view.net.features
    monkeypatch.setattr(view.net, 'features', lambda x: shapes.append(sorted(x.shape)) or features(x))
    view.predictions(np.zeros((32, 640, 3), np.float32))
    assert shapes == [[1, 3, 32, 128]] * 9, 'windows of the training, one at a time, half overlapping'


def test_teacher_view_pairs_are_turned_with_the_windows(weights):
    """The mean over a periodic neighbourhood stands for the BNN: windows of turned images must turn its sides."""

    class PeriodicMean:
        def predict_all(self, x, sizes):
            means = []
            for height, width in sizes:
                shifted = [x.roll((row, column), (2, 3)) for row in range(height) for column in range(width)]
                centred = torch.stack(shifted).mean(dim=0).roll((-(height // 2), -(width // 2)), (2, 3))
                means.append(centred)
            return torch.cat(means, dim=1)

    sizes = [(1, 3), (5, 3)]
    view = TeacherView(weights, BlindSizeChoice(sizes))
    view.net, view.dtype = PeriodicMean(), torch.float32
    noisy = np.tile(np.random.default_rng(0).random((8, 8, 3), np.float32), (24, 24, 1))
    image = torch.from_numpy(noisy).permute(2, 0, 1)[None] * 255
    expected = view.net.predict_all(image, sizes).unflatten(1, (2, -1))
    assert torch.allclose(view.predictions(noisy), expected, atol=1e-2)


# ---- report.html ----


@pytest.fixture
def write(tmp_path, weights):
    """Writes the report of a hand-made run of one photograph, and returns the HTML."""

    def write(teacher: BlindSizeChoice | None, side: int = 48, iters: dict[str, int] | None = None) -> str:
        photo = tmp_path / 'photo.png'
        pixels = np.random.default_rng(0).normal(120, 4, (side, side, 3))
        pixels[:, side // 2 :] += np.random.default_rng(1).normal(0, 60, (side, side - side // 2, 1))
        write_photo(Photo(pixels.clip(0, 255).astype(np.uint8)), photo)
        (tmp_path / 'net_bnn.pth').write_bytes(weights.read_bytes())
        iters = iters or {'bnn': 4, 'unet': 4}
        lines = [f'{stage},{number},{number}' for stage in iters for number in range(1, 5)]
        (tmp_path / 'curve.csv').write_text('\n'.join(lines))
        state = RunState(plan=Plan(iters, dict.fromkeys(iters, 0.1), 'off', 0.0), blind_size=5, teacher=teacher)
        blend = BlendedDenoiser(lambda image, *_: image, None, 0.0)
        report = write_report(tmp_path / 'report.html', {photo: photo}, state, tmp_path, blend, {}, 'sassid clean')
        html = report.read_text()
        assert not re.search(r'\bNone\b', re.sub(r'base64,[^"]*', '', html))
        return html

    return write


def text_of(html: str) -> str:
    """The page's text, in one line."""
    without_code = re.sub(r'<(style|script).*?</\1>', '', html, flags=re.DOTALL)
    return ' '.join(re.sub(r'<[^>]*>', '', without_code).split()).replace(' .', '.')


def by_median(weights: Path, sizes: list) -> RiskWeights:
    """Weights of which each holds about half of a random photograph: the largest size alone, the smallest alone."""
    noisy = np.random.default_rng(0).random((48, 48, 3), np.float32)
    std = local_std(TeacherView(weights, BlindSizeChoice(sizes)).predictions(noisy).mean(dim=1))
    count = float(len(sizes))
    largest, smallest = [0.0] * (len(sizes) - 1) + [count], [count] + [0.0] * (len(sizes) - 1)
    return risk_weights(largest, smallest, edge=float(std.median()))


@pytest.mark.parametrize(
    ('choice', 'text'),
    [
        (BlindSizeChoice([5]), 'predictions of the BNN with blind size 5.'),
        (BlindSizeChoice([0, 5]), 'with blind sizes 0 and 5.'),
        (BlindSizeChoice([0, (1, 3), 5]), 'with blind sizes 0, 1x3 and 5.'),
        (BlindSizeChoice([0, 5]), 'All of them have the same weight at every pixel.'),
        (BlindSizeChoice([3, 5], {0: 0.981}), 'with it: blind size 0, whose prediction keeps 98 % of the noise.'),
        (
            BlindSizeChoice([3, 5], {0: 0.98, (1, 3): 0.616}),
            'copies its input with them: blind size 0, whose prediction keeps 98 % of the noise; blind size 1x3, whose '
            'prediction keeps 62 % of the noise.',
        ),
    ],
    ids=['one size', 'two sizes', 'pair', 'equal weights', 'dropped', 'two dropped'],
)
def test_report_training_has_the_text(write, choice, text):
    assert text in text_of(write(choice))


@pytest.mark.parametrize('text', ['Dropped', 'Weight map', 'Weights of the blind sizes', 'weight map'])
def test_report_of_equal_weights_lacks_the_text(write, text):
    assert text not in write(BlindSizeChoice([0, 5]))


@pytest.mark.parametrize(
    'text',
    [
        'Weights of the blind sizes',
        'blind size 0: 100 %',
        'flat areas to the left',
        'white is blind size 0, black is 5x7.',
    ],
)
def test_report_of_weights_has_the_text(write, weights, text):
    sizes = [0, 3, (5, 7)]
    assert text in ' '.join(write(BlindSizeChoice(sizes, weights=by_median(weights, sizes))).split())


def test_report_of_one_bin_says_that_the_weights_are_the_same_everywhere(write):
    text = text_of(write(BlindSizeChoice([0, 5], weights=risk_weights([0.5, 1.5]))))
    assert 'the weights are the same at every pixel' in text and 'Weight map' not in text


def test_report_weight_map_is_the_map_of_the_crop(write, weights, tmp_path):
    choice = BlindSizeChoice([0, 5], weights=by_median(weights, [0, 5]))
    encoded = re.search(r'data-view="data:image/jpeg;base64,([^"]+)" aria-pressed="false">Weight map', write(choice))[1]
    shown = np.array(Image.open(io.BytesIO(base64.b64decode(encoded))).convert('L')) / 255
    noisy = np.array(Image.open(tmp_path / 'photo.png')).astype(np.float32) / 255
    assert np.abs(shown - TeacherView(weights, choice).weight_map(noisy)).mean() < 0.02  # of the JPEG


def test_report_small_photograph_has_no_weight_map(write, weights):
    choice = BlindSizeChoice([0, 5], weights=by_median(weights, [0, 5]))
    assert 'Weight map' not in write(choice, side=8)


@pytest.mark.parametrize('text', ['LAN, the second teacher', 'U-Net, the student', '7 iterations'])
def test_report_of_an_earlier_version_has_the_text(write, text):
    assert text in write(None, iters={'bnn': 4, 'lan': 7, 'unet': 4})


@pytest.mark.parametrize('text', ['Weight map', 'predictions of the BNN with'])
def test_report_of_an_earlier_version_lacks_the_text(write, text):
    assert text not in write(None, iters={'bnn': 4, 'lan': 7, 'unet': 4})
