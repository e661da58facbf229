"""`sassid clean`: its options, runs with and without training, and runs that are repeated or interrupted."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from basicsr_sassid.io.photo import read_photo
from basicsr_sassid.pipeline.api import CleanOptions, clean_photos
from basicsr_sassid.pipeline.state import RunState
from basicsr_sassid.utils.errors import UserError
from sassid import main as cli

from clean_runs import PLAN, forbid_training, mean_gain, noisy_cat, run_folder, shrink_training, state_of, write_scenes
from helpers import ROOT

FORMAT_1 = Path(__file__).parent / 'fixtures' / 'format1' / 'state.json'


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_scenes(tmp_path / 'photos')


# ---- options ----


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'effort': 'fast'}, '--effort: expected one of instant, quick, normal, best'),
        ({'strength': 1.5}, '--strength: expected a number from 0 to 1, got 1.5'),
        ({'chroma': -1}, '--chroma: expected a number from 0 to 1'),
        ({'blind_size': 4}, '--blind-size: expected auto or an odd number from 1 to 15'),
        ({'minutes': -1.0}, '--minutes: expected a number >= 0'),
        ({'minutes': float('inf')}, '--minutes: expected a number >= 0'),
        ({'seed': -1}, '--seed: expected a number from 0 to 4294967295'),
        ({'save_weights': 'x.bin'}, '--save-weights: expected a name that ends in .safetensors or .pth'),
        ({'save_weights': 'x.pth', 'effort': 'instant'}, 'this run trains no student to save'),
        ({'save_weights': 'x.pth', 'weights': 'y.pth'}, 'this run trains no student to save'),
    ],
)
def test_clean_options_wrong_value_raises_user_error(arguments, message):
    with pytest.raises(UserError, match=message):
        CleanOptions(**arguments)


@pytest.mark.parametrize(
    ('arguments', 'minutes'),
    [
        ({}, 20),
        ({'effort': 'quick'}, 5),
        ({'effort': 'instant'}, 0),
        ({'minutes': 3.0}, 3),
        ({'minutes': 0.0}, 0),
        ({'weights': 'student.pth', 'minutes': 3.0}, 0),
    ],
)
def test_clean_options_training_minutes_follow_effort_minutes_and_weights(arguments, minutes):
    assert CleanOptions(**arguments).training_minutes == minutes


@pytest.mark.parametrize(
    ('arguments', 'message'), [({'device': 'cuda:7'}, "device 'cuda:7'"), ({'weights': 'no.pth'}, 'no such file')]
)
def test_clean_photos_wrong_argument_writes_nothing(folder, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        clean_photos([folder], tmp_path / 'out', **arguments)
    assert not (tmp_path / 'out').exists()


# ---- without training ----


@pytest.fixture
def instant(instant_run) -> Path:
    return instant_run / 'out'


def test_clean_photos_instant_gains_six_decibels(instant):
    assert mean_gain(instant) > 6


def test_command_clean_prints_the_noise(folder, tmp_path, capsys):
    cli(['clean', str(folder), '-o', str(tmp_path / 'out'), '--effort', 'instant'])
    assert '2 photographs, 0.3 megapixels; noise of 19.9 ± 1.8 grey levels' in capsys.readouterr().out


def test_clean_photos_run_of_the_version_before_is_continued(folder, tmp_path):
    clean_photos([folder], tmp_path / 'out', effort='instant')
    shutil.copy(FORMAT_1, run_folder(tmp_path / 'out') / 'state.json')
    clean_photos([folder], tmp_path / 'out', effort='instant')
    assert state_of(tmp_path / 'out').seconds > 17


# ---- with training ----


@pytest.fixture
def trained(trained_run) -> Path:
    """Folder with photos/ and out/ of a run with a worthless student. Tests that write take a copy: :func:`again`."""
    return trained_run


@pytest.fixture
def again(trained, tmp_path, monkeypatch):
    """clean_photos with the photographs and a copy of the output of the trained run; a further training fails."""
    shutil.copytree(trained / 'out', tmp_path / 'out')
    forbid_training(monkeypatch)

    def clean(**options):
        clean_photos([trained / 'photos'], tmp_path / 'out', **{'minutes': 1, **options})
        return tmp_path / 'out'

    return clean


def test_clean_photos_worthless_student_is_left_out(trained):
    assert state_of(trained / 'out').student_weight < 0.05


def test_clean_photos_worthless_student_costs_at_most_a_tenth_of_a_decibel(trained, instant):
    assert mean_gain(trained / 'out') > mean_gain(instant) - 0.1


def test_clean_photos_trained_run_keeps_nothing_large(trained):
    assert not [path for path in (trained / 'out').rglob('*') if path.suffix in ('.lmdb', '.state')]


def test_clean_photos_second_strength_trains_nothing_again(trained, again):
    full = read_photo(trained / 'out' / 'cat.png').pixels.astype(int)
    half = read_photo(again(strength=0.5) / 'cat.png').pixels.astype(int)
    assert np.abs(half - (noisy_cat() + full) / 2).max() <= 1


@pytest.mark.parametrize('mistake', [{'device': 'cuda:7'}, {'weights': 'no.pth'}, {'blind_size': 4}, {'seed': -1}])
def test_clean_photos_mistake_loses_no_training(again, tmp_path, mistake):
    with pytest.raises(UserError):
        again(**mistake)
    assert (run_folder(tmp_path / 'out') / 'student.safetensors').exists()


def test_clean_photos_plan_of_other_stages_is_made_anew(trained, tmp_path, monkeypatch):
    output = tmp_path / 'out'
    shutil.copytree(trained / 'out', output)
    folder = run_folder(output)
    (folder / 'student.safetensors').unlink()
    dataclasses.replace(state_of(output), plan=RunState.load(FORMAT_1).plan).save(folder / 'state.json')
    (folder / 'curve.csv').write_text('lan,31,5.5\n')
    for name in ('bnn_3', 'student'):  # as stopped in a stage that there is no more
        states = folder / 'experiments' / name / 'training_states'
        states.mkdir(parents=True)
        torch.save({'stage': 'lan', 'iter': 31}, states / '31.state')
    shrink_training(monkeypatch)
    clean_photos([trained / 'photos'], output, minutes=1)
    assert state_of(output).plan == PLAN
    assert 'lan' not in (folder / 'curve.csv').read_text()


@pytest.mark.slow
def test_clean_photos_instant_in_between_loses_no_training(again):
    again(minutes=0)
    again()


@pytest.mark.slow
def test_command_clean_interrupted_leaves_no_partial_output(folder, tmp_path):
    process = subprocess.Popen(
        [sys.executable, '-m', 'sassid', 'clean', str(folder), '-o', 'out', '--minutes', '5'],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
        # a suite that runs in the background ignores Ctrl-C, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    work = tmp_path / 'out' / '.sassid'
    deadline = time.time() + 120
    while not list(work.glob('*/curve.csv')) and process.poll() is None and time.time() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and 'the same command' in output and 'Traceback' not in output, output
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['.sassid']
