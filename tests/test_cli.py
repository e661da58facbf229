"""What a user types, beyond the option files: commands, renamed flags, errors in one paragraph."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import sassid
from basicsr_sassid import __version__, cli, demo
from basicsr_sassid.io.checkpoint import build_network
from basicsr_sassid.pipeline.options import EFFORTS
from sassid import build_parser, main

from helpers import ROOT, run_python, tiny_options, tree, write_yml

COMMANDS = ['train', 'test', 'prepare', 'denoise', 'submit', 'clean', 'noise', 'benchmark', 'export', 'demo']
PREPARE_SOURCES = ['folder', 'sidd', 'dnd', 'polyu', 'cc', 'cityscapes', 'skimage']
INTERRUPTIBLE = [
    ['clean', '.', '-o', 'x'],
    ['prepare', 'folder', '.', '-o', 'x'],
    ['prepare', 'sidd', '.'],
    ['prepare', 'cityscapes', '.'],
    ['prepare', 'skimage'],
    ['benchmark', '-opt', 'x'],
    ['submit', 'dnd', '.', '-o', 'x', '--weights', 'w'],
]


def error_of(capsys, *words: str) -> str:
    """The one error line of a command that exits with 2."""
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize('command', COMMANDS)
def test_command_has_help_and_functions(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, '--help'])
    assert stop.value.code == 0 and f'sassid {command}' in capsys.readouterr().out
    assert callable(getattr(sassid, f'add_{command}'))


def test_command_unknown_is_refused(capsys):
    assert 'invalid choice' in error_of(capsys, 'enhance')


@pytest.mark.parametrize('words', INTERRUPTIBLE, ids=lambda words: ' '.join(words[:2]))
def test_command_interrupted_says_how_to_continue(words, monkeypatch, capsys):
    assert 'the same command continues' in interrupted(words, monkeypatch, capsys)


def interrupted(words: list[str], monkeypatch, capsys) -> str:
    """What a command prints that Ctrl-C stops."""

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, build_parser().parse_args(words).run, interrupt)
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 130
    return capsys.readouterr().err


@pytest.mark.parametrize(
    'words', [['noise', '.'], ['denoise', '.', '-o', 'x'], ['export', '--weights', 'w', '--onnx', 'x']]
)
def test_command_without_training_interrupted_speaks_of_none(words, monkeypatch, capsys):
    assert 'training' not in interrupted(words, monkeypatch, capsys)


def test_command_interrupted_while_importing_prints_no_traceback(monkeypatch, capsys):
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sassid.importlib, 'import_module', interrupt)
    with pytest.raises(SystemExit) as stop:
        main(['noise', '.'])
    assert stop.value.code == 130 and capsys.readouterr().err == '\nstopped\n'


@pytest.mark.parametrize('words', [['--help'], ['clean', '--help'], ['--version'], ['clean', 'x']], ids=' '.join)
def test_command_help_version_and_wrong_words_import_no_torch(words):
    code = f'import sassid, sys\ntry:\n    sassid.main({words!r})\nfinally:\n    assert "torch" not in sys.modules'
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert 'Traceback' not in done.stderr and done.returncode in (0, 2), done.stderr


def test_command_version_is_the_packages(capsys):
    with pytest.raises(SystemExit):
        main(['--version'])
    assert capsys.readouterr().out == f'sassid {__version__}\n'


def test_command_clean_has_the_efforts_of_the_pipeline():
    assert tuple(EFFORTS) == sassid.EFFORTS


def test_demo_old_flag_clean_names_the_new_one(capsys):
    line = error_of(capsys, 'demo', '--noisy', 'a', '--clean', 'b')
    assert line == 'error: --clean was renamed: --reference b'


def test_demo_old_flag_scale_names_the_minutes(capsys):
    line = error_of(capsys, 'demo', '--scale', '0.5')
    assert line == 'error: --scale was replaced by --minutes, the minutes of the whole demo (default 5)'


def test_command_demo_takes_the_minutes_of_the_demo():
    assert build_parser().parse_args(['demo']).minutes == demo.MINUTES


@pytest.mark.parametrize('flag', ['--clean', '--scale'])
def test_demo_old_flag_is_not_in_the_help(flag, capsys):
    with pytest.raises(SystemExit):
        main(['demo', '--help'])
    assert flag not in capsys.readouterr().out


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['demo', '--noisy', '/nowhere'], 'error: --noisy: no such file or folder: /nowhere'),
        (
            ['clean', '.', '-o', 'x', '--blind-size', 'large'],
            "error: --blind-size: expected auto or a number, got 'large'",
        ),
        (['denoise', '/nowhere', '-o', 'x'], 'error: input: no such file or folder: /nowhere'),
        (['benchmark', '-opt', '/nowhere.yml'], 'error: -opt: no such file or folder: /nowhere.yml'),
        (['submit', 'check', '/nowhere'], 'error: submission: no such file or folder: /nowhere'),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else '',
)
def test_command_wrong_words_are_one_paragraph(words, message, capsys):
    assert error_of(capsys, *words).startswith(message)


def test_benchmark_writes_the_table(photographs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = str(photographs)
    opt = {
        'name': 'x',
        'device': 'cpu',
        'methods': {'noisy': {'type': 'noisy'}},
        'datasets': {'set': {'dataroot_lq': folder, 'dataroot_gt': folder}},
    }
    main(
        [
            'benchmark',
            '-opt',
            write_yml(opt, tmp_path / 'b.yml'),
            '--force_yml',
            'crop_grid:images=2',
            'protocols=[psnr]',
        ]
    )
    result = json.loads((tmp_path / 'results/benchmark/x/table.json').read_text())
    assert result['options']['crop_grid'] == {'images': 2} and 'set psnr' in capsys.readouterr().out


def test_noise_prints_sigma_and_writes_the_figure(tmp_path, capsys):
    rng = np.random.default_rng(0)
    noisy = np.clip(rng.normal(120, 20, (128, 128, 3)), 0, 255).astype(np.uint8)
    cv2.imwrite(str(tmp_path / 'noisy.png'), noisy)
    main(['noise', str(tmp_path / 'noisy.png'), '-o', str(tmp_path / 'figure.png')])
    assert 'sigma' in capsys.readouterr().out and (tmp_path / 'figure.png').is_file()


@pytest.mark.slow
def test_demo_on_photographs_writes_table_and_picture(tmp_path, capsys):
    write_photographs(tmp_path)
    main(
        [
            'demo',
            '--noisy',
            str(tmp_path / 'noisy'),
            '--reference',
            str(tmp_path / 'clean'),
            '--minutes',
            '0.01',
            '-o',
            str(tmp_path / 'out'),
        ]
    )
    table = json.loads((tmp_path / 'out/table.json').read_text())['methods']
    assert table['spectral (classical, no training)']['psnr'] > table['noisy']['psnr'] + 3
    assert any(name.startswith('blend, ') for name in table) and (tmp_path / 'out/comparison.png').is_file()
    assert 'Mean of 2 real photographs' in capsys.readouterr().out


def write_photographs(folder: Path) -> None:
    """Two noisy scenes of 160x176 and their clean references."""
    rng = np.random.default_rng(0)
    for number in range(2):
        scene = cv2.resize(rng.uniform(60, 190, (4, 5, 3)), (176, 160), interpolation=cv2.INTER_CUBIC)
        for name, image in (('noisy', scene + rng.normal(0, 20, scene.shape)), ('clean', scene)):
            (folder / name).mkdir(exist_ok=True)
            cv2.imwrite(str(folder / name / f'{number}.png'), image.clip(0, 255).round().astype(np.uint8))


@pytest.mark.parametrize(
    ('command', 'rest'), [('clean', ['-o', 'out']), ('noise', []), ('denoise', ['-o', 'out', '--weights', 'x.pth'])]
)
def test_command_folder_of_raw_files_alone_has_a_conversion(tmp_path, capsys, command, rest):
    (tmp_path / 'raw').mkdir()
    (tmp_path / 'raw' / 'a.NEF').write_bytes(b'II*\0')
    (tmp_path / 'raw' / 'b.gif').write_bytes(b'GIF89a')
    with pytest.raises(SystemExit):
        main([command, str(tmp_path / 'raw'), *rest])
    printed = capsys.readouterr().err
    assert 'no image (.png' in printed and 'darktable-cli a.NEF' in printed and 'magick b.gif' in printed


@pytest.mark.parametrize('value', ['{dim: 3}', '{type: ['])
def test_command_wrong_network_is_one_sentence(tmp_path, capsys, value):
    (tmp_path / 'a.png').touch()
    with pytest.raises(SystemExit):
        main(['denoise', str(tmp_path / 'a.png'), '-o', 'x', '--weights', 'x.pth', '--network', value])
    assert "error: --network: expected '{type: NAME, ...}', got" in capsys.readouterr().err


def test_command_denoise_network_of_basicsr_that_the_user_names_is_applied(tmp_path):
    network = {'type': 'SRVGGNetCompact', 'num_feat': 4, 'num_conv': 1, 'upscale': 1}
    torch.save({'params': build_network(network, 'network').state_dict()}, tmp_path / 'w.pth')
    write_photographs(tmp_path)
    main(
        ['denoise', str(tmp_path / 'noisy'), '-o', str(tmp_path / 'out'), '--weights', str(tmp_path / 'w.pth')]
        + ['--network', '{type: SRVGGNetCompact, num_feat: 4, num_conv: 1, upscale: 1}']
    )
    assert len(list((tmp_path / 'out').iterdir())) == 2


def test_clean_output_around_the_input_is_written(tmp_path, monkeypatch):
    write_photographs(tmp_path)
    monkeypatch.chdir(tmp_path)
    main(['clean', 'noisy', '-o', '.', '--effort', 'instant'])
    assert {'0.png', '1.png', 'report.html'} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize('source', ['folder', 'sidd', 'dnd', 'polyu'])
@pytest.mark.parametrize(('flag', 'value'), [('--workers', '-3'), ('--workers', '0'), ('--size', '0')])
def test_prepare_number_out_of_range_is_one_paragraph(source, flag, value, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = error_of(capsys, 'prepare', source, '.', '-o', 'x.lmdb', flag, value)
    assert line.startswith(f'error: {flag}: expected a number from 1 to') and line.endswith(f'got {value}')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('words', [['cityscapes', '.'], ['skimage']], ids=' '.join)
def test_prepare_clean_images_workers_out_of_range_is_one_paragraph(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = error_of(capsys, 'prepare', *words, '--workers', '0')
    assert line.startswith('error: --workers: expected a number from 1 to') and not list(tmp_path.iterdir())


def test_prepare_help_lists_every_source(capsys):
    with pytest.raises(SystemExit):
        main(['prepare', '--help'])
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith('    ')]
    assert [word for word in listed if word in PREPARE_SOURCES] == PREPARE_SOURCES


def test_prepare_datasets_of_the_parser_have_functions():
    assert list(sassid._DATASETS) == list(cli._PREPARE)


@pytest.mark.slow
@pytest.mark.parametrize('module', ['train', 'test'])
def test_module_run_by_python_warns_of_nothing(module, tmp_path):
    """runpy warns of a module that the import of its package has imported."""
    done = run_python('-W', 'error::RuntimeWarning', '-m', f'basicsr_sassid.{module}', '--help', cwd=tmp_path)
    assert done.returncode == 0 and 'Warning' not in done.stdout, done.stdout


def test_train_with_nothing_usable_leaves_the_folder_unchanged(photographs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_yml(tiny_options(photographs), tmp_path / 'a.yml')
    before = tree(tmp_path)
    for change in ('name=../victim', 'manual_seed=-1', 'manual_seed=abc', 'logger:print_freq=0', 'dist_params=5'):
        assert error_of(capsys, 'train', '-opt', 'a.yml', '--force_yml', change).startswith('error: ')
        assert tree(tmp_path) == before
