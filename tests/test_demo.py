"""`sassid demo`: its training and its table; what is not a demo's is never touched."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from basicsr_sassid import demo
from basicsr_sassid.demo import progress as progress_module
from basicsr_sassid.demo import run
from basicsr_sassid.demo.plan import DemoPlan, PixelSeconds, make_plan, start_seconds
from basicsr_sassid.demo.run import print_short_demo
from basicsr_sassid.demo.training import models_folder
from basicsr_sassid.io.demo_files import DemoFiles
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
    plan = make_plan(step_times(step), pixels, OPT, SIZES, 60 * minutes, start=20 * step)
    assert 0.9 * 60 * minutes < plan.seconds_after_measurement() <= 60 * minutes


def test_make_plan_compares_fewer_pairs_where_all_take_too_long():
    pixels = PixelSeconds(4e-6, 3e-6, 0.5e-6)
    plan = make_plan(step_times(0.1), pixels, OPT, SIZES * 8, 300, 0)
    assert 1 < plan.num_pairs < 40 and plan.comparison_seconds <= 90


def test_start_seconds_are_those_of_the_measurement_without_its_steps():
    times = step_times(0.1)
    measurement = 7 + 10 * (sum(times.step.values()) + sum(times.cached_teacher.values()))
    assert start_seconds(measurement, times) == pytest.approx(7 + 1.5)


@pytest.mark.parametrize(('minutes', 'least', 'is_printed'), [(0.1, 1.3, True), (5, 1.3, False), (1.3, 1.31, False)])
def test_print_short_demo_where_the_minutes_are_too_few(minutes, least, is_printed, capsys):
    print_short_demo(minutes, least)
    assert ('about 1.3 minutes' in capsys.readouterr().err) == is_printed


def test_print_short_demo_names_what_to_do(capsys):
    print_short_demo(0.1, 2)
    assert 'shortest demo' in (text := capsys.readouterr().err) and text.endswith('Give more minutes.\n')


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
