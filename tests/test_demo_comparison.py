"""`sassid demo`: its training by a plan, the methods of its table, its picture."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from basicsr_sassid import Denoiser, demo, estimate_noise
from basicsr_sassid.demo import comparison
from basicsr_sassid.demo.training import CropPSNR, train_networks
from basicsr_sassid.io.checkpoint import build_network
from basicsr_sassid.pipeline.student import student_options
from basicsr_sassid.training.budget import Plan

# ---- training ----


@pytest.fixture
def trained(noisy_folder, tmp_path, capfd) -> tuple[Path, list[str], str]:
    """Folder of a small training by a plan, the texts of its progress, and what was printed."""
    noise = estimate_noise([np.random.default_rng(0).normal(0.5, 0.05, (128, 128, 3))])
    opt = student_options(noisy_folder, 3, torch.device('cpu'), 0, noise)
    opt['datasets']['train'].update(patch_size=32, num_worker_per_gpu=0)
    for network in ('network_bnn', 'network_g'):
        opt[network]['dim'] = 4
    texts = []
    plan = Plan({'bnn': 3, 'unet': 4}, {'bnn': 0.1, 'unet': 0.1}, 'off', 0.0)
    crop = CropPSNR(*np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8), seconds=0)
    train_networks(opt, tmp_path, plan, lambda text, _: texts.append(text), crop)
    captured = capfd.readouterr()
    return tmp_path, texts, captured.out + captured.err


def test_train_networks_log_is_in_its_file_and_not_on_the_terminal(trained):
    folder, _, printed = trained
    (log,) = (folder / 'experiments' / 'demo').glob('*.log')
    assert 'INFO' not in printed and 'l_unet' in log.read_text()


def test_train_networks_progress_names_stage_iteration_and_psnr(trained):
    _, texts, _ = trained
    assert len(texts) == 7 and re.fullmatch(r'student 4/4, \d+\.\d dB', texts[-1])


# ---- table ----


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


# ---- picture and note ----


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
