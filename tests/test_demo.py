"""`sassid demo`: what is not a demo's is never touched."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from basicsr_sassid import demo
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
