"""One command for people with a folder of noisy photographs."""
from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from basicsr.metrics import calculate_psnr
from PIL import Image, ImageOps

from basicsr_sassid import Denoiser, SpectralDenoiser, estimate_noise, fit_denoiser
from basicsr_sassid.cli import main as cli
from basicsr_sassid.inference.blend import BlendedDenoiser
from basicsr_sassid.io.photo import Photo, read_photo, write_photo
from basicsr_sassid.pipeline import clean_photos, session, training
from basicsr_sassid.pipeline.diagnostics import diagnose
from basicsr_sassid.pipeline.report import _turned
from basicsr_sassid.utils.errors import UserError

from helpers import ROOT


@pytest.fixture(scope='module')
def scenes() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name -> (noisy, clean): two photographs, noise correlated over 3 pixels."""
    rng = np.random.default_rng(0)
    result = {}
    for name, photograph in (('cat', skimage.data.chelsea()), ('coffee', skimage.data.coffee())):
        clean = cv2.resize(photograph, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)[200:520, 300:700]
        clean = (25 + 0.8 * clean).astype(np.uint8)
        noise = 2 * cv2.blur(rng.normal(0, 20, clean.shape), (2, 2))
        result[name] = (clean + noise).clip(0, 255).round().astype(np.uint8), clean
    return result


@pytest.fixture
def folder(scenes, tmp_path) -> Path:
    for name, (noisy, _) in scenes.items():
        write_photo(Photo(noisy), tmp_path / 'photos' / f'{name}.png')
    return tmp_path / 'photos'


@pytest.fixture
def tiny(monkeypatch):
    """Networks that train in milliseconds, and a few iterations whatever the minutes."""
    read = training.read_options

    def small(path):
        opt = read(path)
        opt['network_bnn']['dim'], opt['network_g']['dim'] = 4, 4
        opt['network_lan'].update(dim=8, num_block=1)
        opt['datasets']['train'].update(batch_size_per_gpu=1, num_worker_per_gpu=0)
        return opt
    monkeypatch.setattr(training, 'read_options', small)
    monkeypatch.setattr(training, '_LEAST', 4)


def fixed_plan(opt, folder, minutes, ratio):
    return {'iter': {'bnn': 12, 'lan': 8, 'unet': 10}, 'seconds': {'bnn': .1, 'lan': .1, 'unet': .1},
            'teacher_cache': 'off', 'cache_seconds': 0.}


def gain(scenes, output: Path) -> float:
    return float(np.mean([calculate_psnr(read_photo(output / f'{name}.png').pixels, clean, 0)
                          - calculate_psnr(noisy, clean, 0) for name, (noisy, clean) in scenes.items()]))


def test_instant_needs_no_training(scenes, folder, tmp_path, capsys):
    cli(['clean', str(folder), '-o', str(tmp_path / 'out'), '--effort', 'instant'])
    assert gain(scenes, tmp_path / 'out') > 6
    assert 'noise of 20.' in capsys.readouterr().out
    html = (tmp_path / 'out/report.html').read_text()
    assert html.count('class="compare"') == 2 and '<th>denoising</th>' in html and 'Texture map' not in html
    assert 'http' not in html.replace('http://www.w3.org', ''), 'nothing is fetched'


def test_trained_mixture_is_at_least_the_instant_one(scenes, folder, tmp_path, tiny, capsys, monkeypatch):
    """With a few iterations the student is worthless: it is left out, and that is said."""
    monkeypatch.setattr(training, '_median_seconds', lambda step: 0.1)  # a fast machine would make them many
    clean_photos([folder], tmp_path / 'out', minutes=0.02)
    clean_photos([folder], tmp_path / 'instant', effort='instant')
    assert gain(scenes, tmp_path / 'out') > gain(scenes, tmp_path / 'instant') - 0.1
    state = json.loads(next((tmp_path / 'out/.sassid').glob('*/state.json')).read_text())
    assert state['share'] < 0.05 and state['blind_size'] == 3
    assert state['risks']['second'] > 2 * state['risks']['first']
    html = (tmp_path / 'out/report.html').read_text()
    assert 'so it was left out' in html and 'Texture map' in html and 'U-Net, the student' in html
    assert not list((tmp_path / 'out/.sassid').rglob('*.lmdb')), 'nothing large stays'


def test_killed_and_resumed_is_as_never_stopped(folder, tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(session, 'plan_iterations', fixed_plan)
    clean_photos([folder], tmp_path / 'whole', minutes=1, save_weights=tmp_path / 'whole.pth')

    class Killed(BaseException):
        pass
    for stage, number in (('bnn', 7), ('unet', 6), ('unet', 10)):  # in the middle, and before the last files
        class Stopping(training.Training):
            def __init__(self, *args, at=(stage, number)):
                *others, progress = args

                def stop(*now):
                    progress(*now)
                    if now == at:
                        raise Killed
                super().__init__(*others, stop)
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(session, 'Training', Stopping)
            clean_photos([folder], tmp_path / 'stopped', minutes=1, save_weights=tmp_path / 'stopped.pth')
        assert not list((tmp_path / 'stopped').glob('*.png'))
    clean_photos([folder], tmp_path / 'stopped', minutes=1, save_weights=tmp_path / 'stopped.pth')
    one, other = (torch.load(tmp_path / f'{name}.pth') for name in ('whole', 'stopped'))
    assert all(torch.equal(one['params'][key], other['params'][key]) for key in one['params'])
    for name in ('cat', 'coffee'):
        assert (tmp_path / f'whole/{name}.png').read_bytes() == (tmp_path / f'stopped/{name}.png').read_bytes()


def test_another_strength_trains_nothing_again(scenes, folder, tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(session, 'plan_iterations', fixed_plan)
    clean_photos([folder], tmp_path / 'out', minutes=1)
    full = read_photo(tmp_path / 'out/cat.png').pixels.astype(int)
    monkeypatch.setattr(session, 'Training', None)
    clean_photos([folder], tmp_path / 'out', minutes=1, strength=0.5)
    half = read_photo(tmp_path / 'out/cat.png').pixels.astype(int)
    noisy = scenes['cat'][0].astype(int)
    assert np.abs(half - (noisy + full) / 2).max() <= 1


def test_strength_and_chroma():
    rng = np.random.default_rng(0)
    noisy = rng.integers(100, 150, (40, 300, 3)).astype(np.uint8)

    def classical(image, progress):
        return np.full_like(image, 125 * 257)
    assert (BlendedDenoiser(classical, None, 0)(noisy) == 125).all()
    assert (BlendedDenoiser(classical, None, 0, strength=0)(noisy) == noisy).all()
    grey_kept = BlendedDenoiser(classical, None, 0, strength=0, chroma=1)(noisy).astype(float)
    assert np.abs(grey_kept.mean(2) - noisy.mean(2)).max() <= 1 and np.ptp(grey_kept, axis=2).max() <= 1
    deep = noisy.astype(np.uint16) * 257
    assert BlendedDenoiser(classical, None, 0, strength=0.5)(deep).dtype == np.uint16


def test_colour_of_large_areas_is_taken_back():
    rng = np.random.default_rng(0)
    noisy = (120 + rng.normal(0, 5, (256, 256, 3))).clip(0, 255).astype(np.uint8)

    def tinted(image, progress):
        return np.full_like(image, 120 * 257) + np.array([0, 8 * 257, 0], np.uint16)
    result = BlendedDenoiser(tinted, None, 0, keep_colour=True)(noisy)
    assert np.abs(result.mean(axis=(0, 1)) - noisy.mean(axis=(0, 1))).max() < 0.5


def test_guards_say_what_is_wrong(scenes):
    noise = estimate_noise([noisy for noisy, _ in scenes.values()])
    crops = [noisy[:256, :256].astype(np.float32) / 255 for noisy, _ in scenes.values()]
    truth = {crop.tobytes(): clean[:256, :256].astype(np.float32) / 255
             for crop, (_, clean) in zip(crops, scenes.values())}

    def kinds(denoise):
        return [found.kind for found in diagnose('result', denoise, crops, noise)]
    assert kinds(lambda crop: truth[crop.tobytes()]) == []
    assert kinds(lambda crop: 0.7 * crop + 0.3 * truth[crop.tobytes()]) == ['identity']
    assert kinds(lambda crop: cv2.GaussianBlur(crop, (0, 0), 12)) == ['smooth']
    assert kinds(lambda crop: truth[crop.tobytes()] + np.float32([0.03, 0, 0])) == ['colour']


def test_a_network_that_copies_gets_a_larger_blind_square(folder, tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(session, 'plan_iterations', fixed_plan)
    seen = []

    def copying(stage, denoise, crops, noise):
        size = denoise.net.blind_size if stage == 'bnn' else None
        seen.append(size)
        return diagnose(stage, (lambda crop: crop) if size == 1 else denoise, crops, noise)
    monkeypatch.setattr(training, 'diagnose', copying)
    clean_photos([folder], tmp_path / 'out', minutes=1, blind_size=1)
    assert seen == [1, 5]
    assert json.loads(next((tmp_path / 'out/.sassid').glob('*/state.json')).read_text())['blind_size'] == 5
    assert 'Trained again with blind size 5' in (tmp_path / 'out/report.html').read_text()


def test_weights_of_one_run_serve_the_next(folder, tmp_path, tiny, monkeypatch):
    from safetensors import safe_open
    from safetensors.torch import load_file
    monkeypatch.setattr(session, 'plan_iterations', fixed_plan)
    clean_photos([folder], tmp_path / 'one', minutes=1, save_weights=tmp_path / 'student.safetensors')
    state = load_file(tmp_path / 'student.safetensors')  # one line, without us
    with safe_open(tmp_path / 'student.safetensors', 'pt') as file:
        card = {key: json.loads(value) for key, value in file.metadata().items()}
    assert card['network']['type'] == 'DenoisingUNet' and card['blind_size'] == 3 and card['psnr'] is None
    assert card['trained_on']['photographs'] == 2 and card['versions']['torch'] == torch.__version__
    net = Denoiser(tmp_path / 'student.safetensors').net
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    monkeypatch.setattr(session, 'Training', None)
    clean_photos([folder], tmp_path / 'two', weights=tmp_path / 'student.safetensors')
    assert (tmp_path / 'two/report.html').exists()


def test_train_on_gives_a_denoiser(scenes, folder, tmp_path, tiny):
    denoise = fit_denoiser(folder, minutes=0.01, folder=tmp_path / 'work')
    assert denoise(scenes['cat'][0]).shape == scenes['cat'][0].shape
    assert (tmp_path / 'work/student.safetensors').exists()


@pytest.mark.parametrize(('ask', 'cache'), [(0.5, 'lmdb'), (2, 'off')])
def test_the_minutes_are_kept(folder, tmp_path, tiny, monkeypatch, ask, cache):
    """Steps of known seconds, as another program beside would change measured ones: their number follows.

    Of all 48 windows a teacher is asked once where the minute has time for that.
    """
    from basicsr_sassid.data.prepare.folder import prepare_folder
    prepare_folder([folder], tmp_path / 'x.lmdb', quiet=True)
    opt = training.base_options(tmp_path / 'x.lmdb', 3, torch.device('cpu'), 0)
    steps, measured = {'bnn': 0.02, 'lan': 0.01, 'unet': 0.015}, []

    def seconds(step):
        step()  # it can be taken
        measured.append(step)
        return [*steps.values(), ask][len(measured) - 1]
    monkeypatch.setattr(training, '_median_seconds', seconds)
    plan = training.plan_iterations(opt, tmp_path, 1)
    assert len(measured) == 4 and plan['teacher_cache'] == cache
    assert plan['seconds'] == (steps if cache == 'lmdb' else {**steps, 'lan': 0.01 + ask, 'unet': 0.015 + ask})
    assert plan['cache_seconds'] == pytest.approx(48 * ask if cache == 'lmdb' else 0)
    taken = sum(plan['iter'][stage] * plan['seconds'][stage] for stage in training.STAGES) + plan['cache_seconds']
    assert 60 - sum(plan['seconds'].values()) < taken <= 60  # one more step of each would be too long
    assert plan['iter']['bnn'] == plan['iter']['lan'] == pytest.approx(plan['iter']['unet'] * 3 / 4, abs=1)


def test_mixed_and_odd_photographs(scenes, tmp_path, capsys):
    photos = tmp_path / 'photos'
    noisy = scenes['cat'][0]
    long = 'ü' * 100 + '名.png'
    write_photo(Photo(noisy), photos / long)
    write_photo(Photo(noisy[..., :1].astype(np.uint16) * 257), photos / 'grey' / 'deep.tif')
    write_photo(Photo(noisy[:9, :7]), photos / 'tiny.png')
    (photos / 'empty.jpg').touch()
    (photos / 'photo.NEF').write_bytes(b'II*\0')
    (photos / 'clip.mp4').write_bytes(b'x')
    (photos / 'cut.png').write_bytes((photos / long).read_bytes()[:9000])
    failed = clean_photos([photos], photos / 'out', effort='instant')  # the output lies inside the input
    assert sorted(Path(file).name for file in failed) == ['clip.mp4', 'cut.png', 'empty.jpg', 'photo.NEF']
    written = {str(path.relative_to(photos / 'out')) for path in (photos / 'out').rglob('*') if path.is_file()}
    assert {name for name in written if '.sassid' not in name} == {long, 'grey/deep.tif', 'tiny.png', 'report.html'}
    assert read_photo(photos / 'out/grey/deep.tif').pixels.dtype == np.uint16
    out, err = capsys.readouterr()
    assert '1 of 2 are grey' in out and 'darktable-cli photo.NEF' in err and 'ffmpeg -i clip.mp4' in err
    clean_photos([photos], photos / 'out', effort='instant')  # and is not taken for an input


def test_grey_among_colour_is_denoised_as_alone(tmp_path):
    """Channels that are equal say nothing of how the others' go together, and the other way round."""
    rng = np.random.default_rng(0)
    colour = [np.round(128 + rng.normal(0, 15, (192, 192, 3))).clip(0, 255).astype(np.uint8) for _ in range(4)]
    grey = np.round(128 + rng.normal(0, 15, (192, 192, 1))).clip(0, 255).astype(np.uint8)
    for many, few in ((colour, [grey]), (colour[:1], [grey] * 4)):
        denoise = SpectralDenoiser(estimate_noise([*many, *few]))
        assert denoise(colour[0]).std() < 1.5 and denoise(grey).std() < 1.5


def test_all_small_or_misnamed_photographs(tmp_path, scenes, capsys):
    noisy = scenes['cat'][0]
    write_photo(Photo(noisy[:100, :200]), tmp_path / 'photos' / 'small.png')
    Image.fromarray(np.dstack([noisy, noisy[..., :1]])).save(tmp_path / 'photos' / 'alpha.png')
    (tmp_path / 'photos' / 'alpha.png').rename(tmp_path / 'photos' / 'alpha.jpg')
    failed = clean_photos([tmp_path / 'photos'], tmp_path / 'out', effort='instant')
    assert [Path(file).name for file in failed] == ['alpha.jpg'] and (tmp_path / 'out/small.png').exists()
    assert 'has no alpha channel' in capsys.readouterr().err
    clean_photos([tmp_path / 'photos' / 'small.png', tmp_path / 'out'], tmp_path / 'out', effort='instant')  # as of *
    with pytest.raises(UserError, match='x.jpg: expected a folder'):
        clean_photos([tmp_path / 'photos' / 'small.png'], tmp_path / 'x.jpg', effort='instant')


def test_a_slip_loses_no_training(folder, tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(session, 'plan_iterations', fixed_plan)
    clean_photos([folder], tmp_path / 'out', minutes=1)
    for slip in ({'device': 'cuda:7'}, {'weights': tmp_path / 'no.pth'}, {'blind_size': 4}, {'seed': -1}):
        with pytest.raises(UserError):
            clean_photos([folder], tmp_path / 'out', minutes=1, **slip)
    clean_photos([folder], tmp_path / 'out', effort='instant')
    monkeypatch.setattr(session, 'Training', None)
    clean_photos([folder], tmp_path / 'out', minutes=1)  # is still there


def test_two_isos_are_noticed(tmp_path, capsys):
    rng = np.random.default_rng(0)
    scene = cv2.resize(skimage.data.coffee(), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)[:400, :600]
    for number, sigma in enumerate((4, 4, 4, 25, 25)):
        noisy = (0.8 * scene + 25 + rng.normal(0, sigma, scene.shape)).clip(0, 255).astype(np.uint8)
        write_photo(Photo(noisy), tmp_path / 'photos' / f'{number}.png')
    cli(['noise', str(tmp_path / 'photos')])
    out = capsys.readouterr().out
    assert 'differ in their noise' in out and '  3 with sigma 4' in out and '  2 with sigma 2' in out


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'strength': 1.5}, '--strength: expected a number from 0 to 1, got 1.5'),
    ({'chroma': -1}, '--chroma: expected a number from 0 to 1'),
    ({'blind_size': 4}, '--blind-size: expected auto or an odd number from 1 to 15'),
    ({'minutes': -1.}, '--minutes: expected a number >= 0'),
    ({'save_weights': 'x.bin'}, '--save-weights: expected a name that ends in .safetensors or .pth'),
    ({'save_weights': 'x.pth', 'effort': 'instant'}, 'nothing is trained that could be kept'),
    ({'device': 'cuda:7'}, "device 'cuda:7'")])
def test_wrong_arguments(folder, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        clean_photos([folder], tmp_path / 'out', **arguments)


def test_what_cannot_be_cleaned_is_said(tmp_path, scenes):
    smooth = cv2.GaussianBlur(cv2.resize(skimage.data.coffee(), None, fx=3, fy=3), (0, 0), 6)
    write_photo(Photo(smooth), tmp_path / 'clean' / 'a.png')
    with pytest.raises(UserError, match='almost no noise found: its standard deviation is 0'):
        clean_photos([tmp_path / 'clean'], tmp_path / 'out')
    write_photo(Photo(scenes['cat'][0][:20, :20]), tmp_path / 'small' / 'a.png')
    with pytest.raises(UserError, match='nothing to measure or to learn from'):
        clean_photos([tmp_path / 'small'], tmp_path / 'out')
    write_photo(Photo(scenes['cat'][0][:100, :300]), tmp_path / 'narrow' / 'a.png')
    with pytest.raises(UserError, match='no photograph is 128 pixels a side'):
        clean_photos([tmp_path / 'narrow'], tmp_path / 'out')
    (tmp_path / 'raw').mkdir()
    (tmp_path / 'raw/a.CR2').write_bytes(b'II*\0')
    with pytest.raises(UserError, match='no image'):
        clean_photos([tmp_path / 'raw'], tmp_path / 'out')
    with pytest.raises(UserError, match='is a RAW file. Develop it to a 16-bit TIFF'):
        clean_photos([tmp_path / 'raw/a.CR2'], tmp_path / 'out')
    shutil.copytree(tmp_path / 'narrow', tmp_path / 'other')
    with pytest.raises(UserError, match='would both be written to'):
        clean_photos([tmp_path / 'narrow/a.png', tmp_path / 'other/a.png'], tmp_path / 'out')


def test_no_space_is_said_before(folder, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match='GB are needed in .*0.0 GB are free'):
        clean_photos([folder], tmp_path / 'out')


def test_ctrl_c_leaves_nothing_half_written(folder, tmp_path):
    process = subprocess.Popen([sys.executable, '-m', 'basicsr_sassid.cli', 'clean', str(folder), '-o', 'out',
                                '--minutes', '5'], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
                               # a suite that runs in the background ignores Ctrl-C, and so would its children
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    work = tmp_path / 'out/.sassid'
    deadline = time.time() + 120
    while not list(work.glob('*/curve.csv')) and process.poll() is None and time.time() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and 'the same command goes on from here' in said, said
    assert 'Traceback' not in said, said
    assert not [path for path in (tmp_path / 'out').iterdir() if path.name != '.sassid']


@pytest.mark.parametrize('orientation', range(1, 9))
def test_the_report_turns_as_viewers_do(orientation):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (20, 30, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[274] = orientation
    assert np.array_equal(_turned(pixels, orientation), np.array(ImageOps.exif_transpose(image)))


@pytest.fixture
def browser(tmp_path):
    webdriver = pytest.importorskip('selenium.webdriver', reason='no selenium: pip install selenium')
    binary = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    driver = shutil.which('chromedriver')
    if not binary or not driver:
        pytest.skip('no Chromium with its chromedriver here')
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ('headless', 'no-sandbox', 'disable-gpu', 'disable-quic', 'no-first-run', 'disable-sync',
                     'disable-background-networking', 'disable-component-update', 'window-size=1200,900',
                     f'user-data-dir={tmp_path / "chromium"}'):
        options.add_argument(f'--{argument}')
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as chrome:
        yield chrome


def test_the_report_in_a_browser(folder, tmp_path, browser):
    """Drags the slider, uses the keyboard, looks at the pixels; on a wide page and on a phone's width."""
    from selenium.webdriver import ActionChains, Keys
    clean_photos([folder], tmp_path / 'out', effort='instant')
    browser.get((tmp_path / 'out/report.html').as_uri())
    compare = browser.find_element('css selector', '.compare')
    slider = compare.find_element('css selector', 'input')

    def right_half() -> np.ndarray:
        png = cv2.imdecode(np.frombuffer(compare.screenshot_as_png, np.uint8), cv2.IMREAD_COLOR)
        return png[60:-60, png.shape[1] // 2 + 40:-60].astype(np.float32)

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
    assert abs(right_half().mean() - 128) < 6, 'what was removed is grey with noise'
    browser.set_window_size(500, 900)
    wide = browser.execute_script('return document.documentElement.scrollWidth - window.innerWidth')
    assert wide <= 0, 'nothing sticks out on a phone'
    assert not browser.get_log('browser')
