"""The report of a run: what it shows of photographs and training, and how it behaves in a browser."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from basicsr_sassid import estimate_noise
from basicsr_sassid.io.photo import Photo, write_photo
from basicsr_sassid.pipeline.api import clean_photos
from basicsr_sassid.pipeline.report import to_upright
from basicsr_sassid.pipeline.report_charts import correlation_map, loss_curves, sigma_curves, weight_bars
from basicsr_sassid.pipeline.student import TEACHER
from basicsr_sassid.training.target_weights import RiskWeights
from basicsr_sassid.utils.versions import versions

from clean_runs import noisy_cat, run_folder, scenes, state_of


@pytest.fixture
def instant(instant_run) -> Path:
    """report.html of a run without training."""
    return instant_run / 'out' / 'report.html'


@pytest.fixture
def trained(trained_run) -> Path:
    """The output of a run with a worthless student."""
    return trained_run / 'out'


def test_report_shows_every_photograph(instant):
    assert instant.read_text().count('class="compare"') == len(scenes())


def test_report_has_the_times_of_the_steps(instant):
    assert '<th>denoising</th>' in instant.read_text()


def test_report_has_the_versions(instant):
    assert all(f'<th>{name}</th><td>{version}</td>' in instant.read_text() for name, version in versions().items())


def test_report_is_self_contained(instant):
    assert 'http' not in instant.read_text().replace('http://www.w3.org', '')


@pytest.mark.parametrize(
    'text', ['Weight map', 'U-Net, the student', 'Loss of stage', 'of the BNN with', '>None', ' None']
)
def test_report_without_training_lacks_the_text(instant, text):
    assert text not in instant.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    'text', ['BNN with blind size', 'U-Net, the student', 'Loss of stage', 'so it was left out', 'estimated error']
)
def test_report_of_a_training_has_the_text(trained, text):
    assert text in (trained / 'report.html').read_text()


@pytest.mark.slow
def test_clean_photos_state_has_the_teacher_of_the_training(trained):
    assert state_of(trained).teacher.to_dict() == json.loads((run_folder(trained) / TEACHER).read_text())


def test_report_photograph_with_exif_orientation_is_upright(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # the stored left is the top
    pixels = noisy_cat().copy()
    pixels[:, :100] = 255
    write_photo(Photo(pixels, exif=exif.tobytes()), tmp_path / 'photos' / 'turned.jpg')
    clean_photos([tmp_path / 'photos'], tmp_path / 'out', effort='instant')
    html = (tmp_path / 'out' / 'report.html').read_text()
    encoded = re.search(r'class="under" src="data:image/jpeg;base64,([^"]+)"', html)[1]
    shown = np.array(Image.open(io.BytesIO(base64.b64decode(encoded))).convert('L'))
    assert shown.shape == (400, 320) and shown[:90].min() > 240 and shown[110:].mean() < 200


def test_to_upright_damaged_exif_is_ignored():
    image = np.zeros((4, 6, 3), np.float32)
    assert to_upright(image, b'Exif\0\0MM\0*damaged').size == (6, 4)


# ---- charts ----


@pytest.fixture(scope='module')
def noise():
    return estimate_noise([noisy for noisy, _ in scenes().values()])


def test_loss_curves_missing_file_is_empty(tmp_path):
    assert loss_curves(tmp_path / 'curve.csv') == []


def test_loss_curves_cut_off_line_is_skipped(tmp_path):
    (tmp_path / 'curve.csv').write_text('bnn,1,4\nbnn,2,2\nbnn,3')
    assert len(loss_curves(tmp_path / 'curve.csv')[0]['raw'].split()) == 2


def test_loss_curves_repeated_iteration_takes_the_last_value(tmp_path):
    (tmp_path / 'curve.csv').write_text('bnn,1,4\nbnn,2,9\nbnn,1,4\nbnn,2,4\n')
    assert len(set(re.findall(r',([\d.]+)', loss_curves(tmp_path / 'curve.csv')[0]['raw']))) == 1


def test_correlation_map_centre_is_opaque(noise):
    assert (8, 8, '1.00') in correlation_map(noise)['cells']


def test_correlation_map_square_is_the_blind_neighbourhood(noise):
    square = correlation_map(noise)
    assert (square['inset'], square['side']) == (8 - noise.blind_size() // 2, noise.blind_size())


def test_sigma_curves_single_intensity_has_no_line(noise):
    one = {name: points[:1] for name, points in noise.sigma_curve.items()}
    channels = sigma_curves(dataclasses.replace(noise, sigma_curve=one))['channels']
    assert [channel['line'] for channel in channels.values()] == ['', '', '']


@pytest.fixture(params=[(1, 2), (1, 7), (8, 1), (8, 3), (8, 7)], ids=lambda counts: '{} bins, {} sizes'.format(*counts))
def weights_and_bars(request) -> tuple[RiskWeights, dict]:
    bins, sizes = request.param
    table = torch.rand(bins, sizes, generator=torch.Generator().manual_seed(0)) + 0.1
    weights = RiskWeights(torch.linspace(2, 120, bins - 1), table * sizes / table.sum(1, keepdim=True))
    return weights, weight_bars(weights, [str(2 * number + 1) for number in range(sizes)])


def test_weight_bars_heights_are_the_weights(weights_and_bars):
    weights, bars = weights_and_bars
    heights = np.array([float(segment['height']) for segment in bars['segments']]).reshape(weights.table.shape)
    assert heights == pytest.approx(120 * weights.table.numpy() / weights.table.shape[1], abs=0.06)


def test_weight_bars_segments_lie_on_one_another_from_the_bottom(weights_and_bars):
    weights, bars = weights_and_bars
    bottoms = np.array([float(part['y']) + float(part['height']) for part in bars['segments']])
    tops = np.array([float(part['y']) for part in bars['segments']]).reshape(weights.table.shape)
    below = np.hstack([np.full((len(tops), 1), 120), tops[:, :-1]])
    assert bottoms.reshape(tops.shape) == pytest.approx(below, abs=0.11) and tops[:, -1] == pytest.approx(0)


def test_weight_bars_edges_are_between_the_bars(weights_and_bars):
    weights, bars = weights_and_bars
    count = len(weights.table)
    assert [float(x) for x, _ in bars['edges']] == [300 / count * number for number in range(1, count)]
    assert [float(edge) for _, edge in bars['edges']] == pytest.approx(weights.edges.tolist(), abs=0.06)


def test_weight_bars_shades_of_the_sizes_differ(weights_and_bars):
    weights, bars = weights_and_bars
    assert len({opacity for _, opacity, _ in bars['legend']}) == weights.table.shape[1]


def test_weight_bars_weight_of_zero_has_no_segment():
    bars = weight_bars(RiskWeights(torch.tensor([3.0]), torch.tensor([[0.0, 2.0], [1.0, 1.0]])), ['0', '3x5'])
    assert [part['text'] for part in bars['segments']] == [
        'blind size 3x5: 100 %',
        'blind size 0: 50 %',
        'blind size 3x5: 50 %',
    ]


# ---- in a browser ----


@pytest.fixture
def browser(tmp_path):
    webdriver = pytest.importorskip('selenium.webdriver', reason='no selenium: pip install selenium')
    binary = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    driver = shutil.which('chromedriver')
    if not binary or not driver:
        pytest.skip('no Chromium with its chromedriver here')
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        'headless',
        'no-sandbox',
        'disable-gpu',
        'disable-quic',
        'no-first-run',
        'disable-sync',
        'disable-background-networking',
        'disable-component-update',
        'window-size=1200,900',
        f'user-data-dir={tmp_path / "chromium"}',
    ):
        options.add_argument(f'--{argument}')
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as chrome:
        yield chrome


@pytest.mark.slow
@pytest.mark.browser
def test_report_in_a_browser_slider_keys_buttons_and_narrow_page_work(instant, browser):
    """One session, as Chromium takes seconds to start: drag, keyboard, view of the removed part, phone's width."""
    from selenium.webdriver import ActionChains, Keys

    browser.get(instant.as_uri())
    compare = browser.find_element('css selector', '.compare')
    slider = compare.find_element('css selector', 'input')

    def right_half() -> np.ndarray:
        png = cv2.imdecode(np.frombuffer(compare.screenshot_as_png, np.uint8), cv2.IMREAD_COLOR)
        return png[60:-60, png.shape[1] // 2 + 40 : -60].astype(np.float32)

    def roughness(pixels: np.ndarray) -> float:
        return float((pixels - cv2.GaussianBlur(pixels, (0, 0), 2)).std())

    denoised = roughness(right_half())
    ActionChains(browser).drag_and_drop_by_offset(slider, compare.size['width'] // 2 - 2, 0).perform()
    assert int(slider.get_attribute('value')) > 95
    noisy = roughness(right_half())
    assert noisy > 2 * denoised, 'to the left of the handle is the noisy photograph'
    slider.send_keys(Keys.HOME)
    assert int(slider.get_attribute('value')) == 0 and roughness(right_half()) == pytest.approx(denoised, rel=0.05)
    removed = browser.find_elements('css selector', '.views button')[1]
    removed.click()
    assert removed.get_attribute('aria-pressed') == 'true'
    assert abs(right_half().mean() - 128) < 6, 'the removed part is grey with noise'
    browser.set_window_size(500, 900)
    overflow = browser.execute_script('return document.documentElement.scrollWidth - window.innerWidth')
    assert overflow <= 0, 'the page fits a phone'
    assert not browser.get_log('browser')
