"""`sassid demo`: its training and its table; what is not a demo's is never touched."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from basicsr_sassid import Denoiser, demo, estimate_noise
from basicsr_sassid.demo import comparison, run
from basicsr_sassid.demo import progress as progress_module
from basicsr_sassid.demo.plan import DemoPlan, PixelSeconds, make_plan
from basicsr_sassid.demo.training import CropPSNR, models_folder, train_networks
from basicsr_sassid.io.checkpoint import build_network
from basicsr_sassid.io.demo_files import DemoFiles
from basicsr_sassid.pipeline.student import student_options
from basicsr_sassid.training.budget import Plan, StepTimes
from basicsr_sassid.utils.errors import UserError

from helpers import tree

OTHERS = ['noisy.lmdb/data.mdb', 'photographs/noisy/a.png', 'experiments/demo/models/net_g_latest.pth']


@pytest.fixture
def quick(monkeypatch):
    """A demo whose measurement, training and comparison take no time."""

    def train(opt, folder, plan, progress, crop=None) -> float:
        weights = models_folder(folder) / 'net_g_latest.pth'
        weights.parent.mkdir(parents=True, exist_ok=True)
        weights.touch()
        return 120.0

    monkeypatch.setattr(run, 'train_networks', train)
    monkeypatch.setattr(run, 'measure_step_times', lambda *_: step_times(0.1))
    monkeypatch.setattr(run, 'build_methods', lambda *_: {'noisy': lambda image: image})


def step_times(seconds: float) -> StepTimes:
    """Of a machine that takes ``seconds`` for an iteration of the BNN."""
    return StepTimes(
        {'bnn': seconds, 'unet': seconds / 3},
        {'bnn': seconds / 2},
        {'bnn': seconds / 2},
        {'bnn': (), 'unet': ('bnn',)},
        cache_batches=2000,
    )


@pytest.fixture
def photos(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for name in ('noisy', 'clean'):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / '0.png'), rng.integers(0, 256, (170, 180, 3), np.uint8))
    return tmp_path


@pytest.mark.parametrize('minutes', [-1, 0, math.nan, math.inf, 1440, True, 'abc'])
def test_demo_minutes_out_of_range_are_refused_before_anything_is_written(photos, minutes):
    before = tree(photos)
    with pytest.raises(UserError, match='^--minutes: expected a number > 0 and < 1440, got'):
        demo.run_demo(photos / 'out', photos / 'noisy', minutes=minutes)
    assert tree(photos) == before


@pytest.mark.parametrize('name', ['table.json', 'comparison.png', 'first_look.png', 'demo_files/x.png'])
def test_demo_result_that_no_demo_wrote_is_left_alone(photos, quick, name):
    path = photos / 'out' / name
    path.parent.mkdir(parents=True)
    path.write_text('precious')
    before = tree(photos)
    with pytest.raises(UserError, match=r'^-o: .* exists, and no demo wrote it'):
        demo.run_demo(photos / 'out', photos / 'noisy', photos / 'clean')
    assert tree(photos) == before


def test_demo_leaves_everything_else_in_its_folder(photos, quick):
    for name in OTHERS:
        path = photos / 'out' / name
        path.parent.mkdir(parents=True)
        path.write_text('precious')
    before = tree(photos / 'out')
    for _ in range(2):
        demo.run_demo(photos / 'out', photos / 'noisy', photos / 'clean')
    after = tree(photos / 'out')
    assert {name: after[name] for name in before} == before
    assert 'methods' in json.loads((photos / 'out' / 'table.json').read_text())


def test_demo_result_that_was_changed_since_is_left_alone(photos, quick):
    demo.run_demo(photos / 'out', photos / 'noisy', photos / 'clean')
    (photos / 'out' / 'table.json').write_text('annotated')
    with pytest.raises(UserError, match='table.json exists, and no demo wrote it'):
        demo.run_demo(photos / 'out', photos / 'noisy', photos / 'clean')
    assert (photos / 'out' / 'table.json').read_text() == 'annotated'


def test_demo_damaged_record_claims_nothing(tmp_path):
    files = DemoFiles(tmp_path)
    files.claim()
    files.publish('table.json', lambda path: path.write_text('{}') and None)
    files.claim()
    files.record.write_text('[')
    with pytest.raises(UserError, match='table.json exists'):
        files.claim()


@pytest.mark.parametrize(
    ('shape', 'name', 'message'),
    [((170, 181), '0.png', '0.png: expected the size of'), ((170, 180), '1.png', '--reference .*: no image there')],
)
def test_demo_references_that_do_not_fit_are_found_before_the_training(photos, shape, name, message):
    (photos / 'clean' / '0.png').unlink()
    cv2.imwrite(str(photos / 'clean' / name), np.zeros((*shape, 3), np.uint8))
    before = tree(photos)
    with pytest.raises(UserError, match=message):
        demo.run_demo(photos / 'out', photos / 'noisy', photos / 'clean')
    assert tree(photos) == before


def test_demo_references_without_noisy_photographs_are_refused(tmp_path):
    with pytest.raises(UserError, match='^--reference: give the noisy photographs too'):
        demo.run_demo(tmp_path / 'out', reference=tmp_path)


# ---- the plan ----

OPT = {'datasets': {'train': {'batch_size_per_gpu': 2, 'patch_size': 128}}}
SIZES = [512 * 512] * 5


@pytest.mark.parametrize('step', [0.02, 0.1, 0.4])
@pytest.mark.parametrize('minutes', [5, 20])
def test_make_plan_keeps_the_minutes_on_fast_and_slow_machines(step, minutes):
    pixels = PixelSeconds(*np.multiply([4e-6, 3e-6, 0.5e-6], step / 0.1))
    plan = make_plan(step_times(step), pixels, OPT, SIZES, 60 * minutes, start_seconds=20 * step)
    assert 0.9 * 60 * minutes < plan.seconds_after_measurement() <= 60 * minutes


def test_make_plan_compares_fewer_pairs_where_all_take_too_long():
    pixels = PixelSeconds(4e-6, 3e-6, 0.5e-6)
    plan = make_plan(step_times(0.1), pixels, OPT, SIZES * 8, 300, 0)
    assert 1 < plan.num_pairs < 40 and plan.comparison_seconds <= 75


def test_make_plan_without_references_compares_nothing():
    plan = make_plan(step_times(0.1), PixelSeconds(1, 1, 1), OPT, [], 300, 0)
    assert (plan.num_pairs, plan.comparison_seconds) == (0, 0)


def test_demo_minutes_below_the_shortest_training_are_announced(photos, quick, capsys):
    demo.run_demo(photos / 'out', photos / 'noisy', photos / 'clean', minutes=0.01)
    assert '--minutes 0.01 is less than the shortest demo on this machine (30' in capsys.readouterr().err


@pytest.mark.parametrize('content', ['[', '{}', '[]', '{"training": 1}'])
def test_demo_plan_that_is_damaged_is_none(tmp_path, content):
    (tmp_path / 'plan.json').write_text(content)
    assert DemoPlan.load(tmp_path / 'plan.json') is None


@pytest.fixture
def stopped(photos, quick, monkeypatch) -> Path:
    """The folder of a demo that was stopped in its training."""

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, 'train_networks', stop)
        with pytest.raises(KeyboardInterrupt):
            demo.run_demo(photos / 'out', photos / 'noisy', photos / 'clean')
    return photos


def plans(folder: Path) -> list[dict]:
    files = sorted((folder / 'out' / 'demo_files').glob('run_*/plan.json'), key=lambda path: path.stat().st_mtime_ns)
    return [json.loads(path.read_text())['training'] for path in files]


def test_demo_that_was_stopped_keeps_its_plan(stopped, monkeypatch):
    before = plans(stopped)
    monkeypatch.setattr(run, 'measure_step_times', lambda *_: step_times(0.7))
    demo.run_demo(stopped / 'out', stopped / 'noisy', stopped / 'clean')
    assert plans(stopped) == before and len(before) == 1


def test_demo_of_other_minutes_has_a_plan_of_its_own(stopped):
    demo.run_demo(stopped / 'out', stopped / 'noisy', stopped / 'clean', minutes=10)
    first, second = plans(stopped)
    assert second['iter']['bnn'] > 1.8 * first['iter']['bnn']


def test_demo_that_is_complete_trains_nothing_again(photos, quick, monkeypatch, capsys):
    demo.run_demo(photos / 'out', photos / 'noisy', photos / 'clean')
    monkeypatch.setattr(run, 'train_networks', None)
    table = demo.run_demo(photos / 'out', photos / 'noisy', photos / 'clean')
    assert 'noisy' in table and 'The networks are trained already' in capsys.readouterr().out


# ---- what is shown ----


def test_demo_first_picture_is_written_before_the_training(stopped, capsys):
    assert cv2.imread(str(stopped / 'out' / 'first_look.png')).shape[1] > 900
    assert not (stopped / 'out' / 'table.json').exists()


def test_demo_first_picture_and_plan_are_named(photos, quick, capsys):
    demo.run_demo(photos / 'out', photos / 'noisy', photos / 'clean')
    out = capsys.readouterr().out
    picture, plan = out.index(str(photos / 'out' / 'first_look.png')), out.index('5 minutes: ')
    assert picture < plan < out.index('Mean of 1 real photograph')
    assert re.search(r'5 minutes: \d+ BNN iterations, \d+ student iterations, about \d+ s; comparison about', out)


def test_demo_ends_with_the_next_commands(photos, quick, capsys):
    demo.run_demo(photos / 'out', photos / 'noisy')
    *_, clean, denoise = capsys.readouterr().out.splitlines()
    assert clean.strip().startswith('sassid clean PHOTOS -o OUT') and 'sassid denoise PHOTOS -o OUT' in denoise


def test_draw_comparison_shows_the_delivered_result_first(monkeypatch):
    names = ['noisy', 'Gaussian blur, best', 'BNN, blind size 5', 'BNN, blind size 3', 'U-Net (the student)']
    names += ['spectral (classical)', 'blend, 41% student', 'clean']
    drawn = []
    monkeypatch.setattr(comparison, 'draw_crop_grid', lambda rows, footer: drawn.append((list(rows[0]), footer)))
    comparison.draw_comparison([dict.fromkeys(names, np.zeros((64, 64, 3), np.uint8))], 'trained for 4 minutes')
    columns, footer = drawn[0]
    assert columns == [names[0], names[6], names[5], names[4], names[3], 'clean'] and footer == 'trained for 4 minutes'


@pytest.mark.parametrize(
    ('noisy', 'blend', 'iterations', 'message'),
    [(24, 32.1, 30, ''), (24, 31, 30, r'\+1.00 dB against Gaussian.* 30 iterations'), (34, 31, 9000, 'little noise')],
)
def test_explain_gain_says_why_the_blend_is_less_than_2_db_above_the_peers(noisy, blend, iterations, message):
    figures = {'noisy': noisy, 'Gaussian blur, best sigma 2': 30, 'non-local means, best h 9': 29.0, 'blend': blend}
    note = comparison.explain_gain({name: {'psnr': psnr} for name, psnr in figures.items()}, iterations)
    assert re.search(message, note) if message else not note


def test_demo_progress_time_left_follows_the_speed_of_the_training(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(progress_module.time, 'time', lambda: now[0])
    shown = []
    with progress_module.DemoProgress(1000.0, 300) as progress:
        monkeypatch.setattr(progress.bar, 'show', lambda fraction, text: shown.append(fraction))
        progress.follow(200)
        progress.show('BNN', 100)  # a training that continues: half is done
        now[0] += 40
        progress.show('BNN', 120)  # twice as slow as planned: 160 s are left
    assert shown[-1] == pytest.approx(40 / 200)


# ---- training and table ----


@pytest.fixture
def trained(photos, capfd) -> tuple[Path, list[str], str]:
    """Folder of a small training by a plan, the texts of its progress, and what was printed."""
    noise = estimate_noise([np.random.default_rng(0).normal(0.5, 0.05, (128, 128, 3))])
    opt = student_options(photos / 'noisy', 3, torch.device('cpu'), 0, noise)
    opt['datasets']['train'].update(patch_size=32, num_worker_per_gpu=0)
    for network in ('network_bnn', 'network_g'):
        opt[network]['dim'] = 4
    texts = []
    plan = Plan({'bnn': 3, 'unet': 4}, {'bnn': 0.1, 'unet': 0.1}, 'off', 0.0)
    crop = CropPSNR(*np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8), seconds=0)
    train_networks(opt, photos, plan, lambda text, _: texts.append(text), crop)
    captured = capfd.readouterr()
    return photos, texts, captured.out + captured.err


def test_train_networks_log_is_in_its_file_and_not_on_the_terminal(trained):
    folder, _, printed = trained
    (log,) = (folder / 'experiments' / 'demo').glob('*.log')
    assert 'INFO' not in printed and 'l_unet' in log.read_text()


def test_train_networks_progress_names_stage_iteration_and_psnr(trained):
    _, texts, _ = trained
    assert len(texts) == 7 and re.fullmatch(r'student 4/4, \d+\.\d dB', texts[-1])


def test_simulated_demo_trains_the_bnn_with_the_blind_size_of_its_noise(tmp_path, quick, monkeypatch):
    given = []
    monkeypatch.setattr(run, 'simulate_photographs', lambda folder, only=None: write_simulated(folder))
    monkeypatch.setattr(run, 'make_plan', lambda times, pixels, opt, *_: given.append(opt) or short_plan())
    demo.run_demo(tmp_path / 'out')
    assert given[0]['network_bnn']['blind_size'] == 5


def short_plan() -> DemoPlan:
    return DemoPlan(Plan({'bnn': 100, 'unet': 400}, {'bnn': 0.1, 'unet': 0.1}, 'off', 0.0), 1, 0.0, 1.0)


def write_simulated(folder: Path) -> None:
    for name in ('noisy', 'clean'):
        (folder / name).mkdir(parents=True, exist_ok=True)
        image = np.random.default_rng(0).integers(0, 256, (140, 150, 3), np.uint8)
        cv2.imwrite(str(folder / name / 'cat.png'), image)


@pytest.fixture(scope='module')
def methods(tmp_path_factory) -> tuple[dict[str, demo.Denoise], Path, np.ndarray]:
    """The table's methods of a BNN of blind size 7 and a student, their folder, and a noisy image."""
    models = tmp_path_factory.mktemp('models')
    torch.manual_seed(0)
    for name, block in (
        ('bnn', {'type': 'BNN', 'dim': 4, 'blind_size': 7}),
        ('g', {'type': 'DenoisingUNet', 'dim': 4}),
    ):
        content = {'params': build_network(block, 'x').state_dict(), 'network': block, 'img_range': 255}
        torch.save(content, models / f'net_{name}_latest.pth')
    noisy, clean = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    return comparison.build_methods([(noisy, clean)], models), models, noisy


def test_demo_table_has_the_bnn_as_trained_and_below_it_with_a_smaller_blind_size(methods):
    names = list(methods[0])
    assert names[3:6] == ['BNN, blind size 7', 'BNN, blind size 3', 'U-Net (the student)']


@pytest.mark.parametrize('blind_size', [7, 3])
def test_demo_row_of_the_bnn_predicts_with_the_blind_size_that_it_names(methods, blind_size):
    table, models, noisy = methods
    expected = Denoiser(models / 'net_bnn_latest.pth', 'cpu', tile=64, overlap=32, blind_size=blind_size)(noisy)
    assert (table[f'BNN, blind size {blind_size}'](noisy) == expected).all()


def test_demo_rows_of_the_bnn_differ(methods):
    table, _, noisy = methods
    assert (table['BNN, blind size 7'](noisy) != table['BNN, blind size 3'](noisy)).any()
