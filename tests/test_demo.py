"""`sassid demo`: its training and its table; what is not a demo's is never touched."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from basicsr_sassid import Denoiser, demo
from basicsr_sassid.io.checkpoint import build_network
from basicsr_sassid.io.demo_files import DemoFiles
from basicsr_sassid.utils.errors import UserError

from helpers import tree

OTHERS = ['noisy.lmdb/data.mdb', 'photographs/noisy/a.png', 'experiments/demo/models/net_g_latest.pth']


@pytest.fixture
def quick(monkeypatch):
    """A demo whose training and comparison take no time."""

    def train(noisy: Path, output: Path, *_) -> Path:
        (output / 'noisy.lmdb').mkdir(parents=True, exist_ok=True)
        return output

    monkeypatch.setattr(demo, '_train', train)
    monkeypatch.setattr(demo, '_methods', lambda *_: {'noisy': lambda image: image})


@pytest.fixture
def photos(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for name in ('noisy', 'clean'):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / '0.png'), rng.integers(0, 256, (170, 180, 3), np.uint8))
    return tmp_path


@pytest.mark.parametrize('scale', [-1, 0, math.nan, math.inf, 1000, True, 'abc'])
def test_demo_scale_out_of_range_is_refused_before_anything_is_written(photos, scale):
    before = tree(photos)
    with pytest.raises(UserError, match='^--scale: expected a number > 0 and < 1000, got'):
        demo.run_demo(photos / 'out', photos / 'noisy', scale=scale)
    assert tree(photos) == before


@pytest.mark.parametrize('name', ['table.json', 'comparison.png', 'demo_files/x.png'])
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


# ---- training and table ----


def test_demo_trains_the_bnn_of_the_recipe_with_the_blind_size_of_the_simulated_noise(photos, monkeypatch):
    given = []
    monkeypatch.setattr(demo, 'train', lambda opt, _: given.append(opt))
    demo._train(photos / 'noisy', photos / 'out', 0.25, demo.SIMULATED_NETWORKS)
    (opt,) = given
    assert opt['network_bnn']['blind_size'] == 5
    assert {name: block['iter'] for name, block in opt['train']['stages'].items()} == {'bnn': 900, 'unet': 3600}


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
    return demo._methods([(noisy, clean)], models), models, noisy


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
