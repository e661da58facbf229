"""The output folder of `sassid clean`: whose each file is, and one run at a time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from basicsr_sassid.io.atomic import PARTIAL_PREFIX
from basicsr_sassid.io.photo import Photo, read_photo, write_photo
from basicsr_sassid.pipeline import outputs
from basicsr_sassid.pipeline.api import clean_photos
from basicsr_sassid.pipeline.outputs import OutputRecord, lock_output
from basicsr_sassid.utils.errors import UserError

from clean_runs import noisy_cat, run_folder, write_scenes
from helpers import ROOT


@pytest.fixture(scope='module')
def first(tmp_path_factory) -> Path:
    """Folder with photos/ and out/ of a run without training. Tests take a copy: :func:`done`."""
    root = tmp_path_factory.mktemp('first')
    clean_photos(write_scenes(root / 'photos', 128, 160), root / 'out', effort='instant')
    return root


@pytest.fixture
def done(first, tmp_path) -> Path:
    shutil.copytree(first / 'out', tmp_path / 'out')
    return tmp_path / 'out'


def clean_again(first: Path, out: Path, **options) -> dict[str, str]:
    return clean_photos(first / 'photos', out, **{'effort': 'instant', **options})


def pictures(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob('*.png'))}


def other_photo(path: Path) -> bytes:
    """A photograph that no run wrote."""
    write_photo(Photo(np.full((40, 50, 3), 77, np.uint8)), path)
    return path.read_bytes()


# ---- outputs of other runs ----


@pytest.mark.parametrize(
    'between', [{'photos': 'cat.png'}, {'strength': 0.5}, {'chroma': 0.0}], ids=['subset', 'strength', 'chroma']
)
def test_clean_photos_outputs_of_another_run_are_written_again(first, done, between):
    before = pictures(done)
    clean_photos(first / 'photos' / between.pop('photos', ''), done, effort='instant', **between)
    assert pictures(done)['cat.png'] != before['cat.png']
    clean_again(first, done)
    assert pictures(done) == before


def test_clean_photos_same_command_writes_no_output_again(first, done):
    stamps = {path: path.stat().st_mtime_ns for path in done.glob('*.png')}
    clean_again(first, done)
    assert {path: path.stat().st_mtime_ns for path in done.glob('*.png')} == stamps


@pytest.mark.parametrize('content', [b'', b'\x89PNG', b'garbage' * 99, 'half', 'flipped'])
def test_clean_photos_damaged_output_is_written_again(first, done, content):
    whole = (done / 'cat.png').read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    (done / 'cat.png').write_bytes({'half': whole[:middle], 'flipped': flipped}.get(content, content))
    clean_again(first, done)
    assert (done / 'cat.png').read_bytes() == whole


def test_clean_photos_removed_output_is_written_again(first, done):
    before = pictures(done)
    (done / 'cat.png').unlink()
    clean_again(first, done)
    assert pictures(done) == before


# ---- the user's files ----


@pytest.mark.parametrize('name', ['cat.png', 'report.html'])
def test_clean_photos_users_file_is_not_overwritten(first, tmp_path, name):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / name).write_bytes(b"another shoot's")
    with pytest.raises(UserError, match=f'-o .*out: {name} would be overwritten.*give --overwrite'):
        clean_again(first, tmp_path / 'out')
    assert {path.name: path.read_bytes() for path in (tmp_path / 'out').iterdir()} == {name: b"another shoot's"}


def test_clean_photos_output_that_the_user_changed_is_not_overwritten(first, done):
    changed = other_photo(done / 'cat.png')
    with pytest.raises(UserError, match='cat.png would be overwritten, which .* or which was changed since'):
        clean_again(first, done)
    assert (done / 'cat.png').read_bytes() == changed


def test_clean_photos_overwrite_replaces_the_users_file(first, done):
    before = pictures(done)
    other_photo(done / 'cat.png')
    clean_again(first, done, overwrite=True)
    assert pictures(done) == before


def test_clean_photos_file_that_appears_during_the_run_is_left_alone(first, done, monkeypatch):
    changed = other_photo(done / 'cat.png')
    (failed,) = clean_photos_unchecked(first, done, monkeypatch).values()
    assert 'would be overwritten' in failed and (done / 'cat.png').read_bytes() == changed


def clean_photos_unchecked(first: Path, out: Path, monkeypatch) -> dict[str, str]:
    """A run whose first check finds nothing, as if the file had not been there yet."""
    check, calls = OutputRecord.check_free, []

    def later(record: OutputRecord, targets) -> None:
        calls.append(targets)
        if len(calls) > 1:
            check(record, targets)

    monkeypatch.setattr(OutputRecord, 'check_free', later)
    return clean_again(first, out)


def test_clean_photos_other_files_in_the_output_are_untouched(first, done):
    (done / '.tmp_dir').mkdir()
    (done / '.tmp_notes').write_text('mine')
    (done / 'cat.png').unlink()
    clean_again(first, done)
    assert (done / '.tmp_dir').is_dir() and (done / '.tmp_notes').read_text() == 'mine'


# ---- kills, and records of earlier versions ----


@pytest.mark.parametrize('replaced', [False, True])
def test_clean_photos_killed_around_the_rename_continues(first, done, monkeypatch, replaced):
    before = pictures(done)
    real = os.replace

    def killed(source, target) -> None:
        if Path(target).name != 'cat.png':
            real(source, target)
            return
        if replaced:
            real(source, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, 'replace', killed)
        with pytest.raises(KeyboardInterrupt):
            clean_again(first, done, strength=0.5)
    clean_again(first, done)
    assert pictures(done) == before


def test_output_record_line_that_a_kill_cut_off_is_ignored(first, done):
    with open(done / '.sassid' / 'outputs.jsonl', 'a') as file:
        file.write('\n{"file": "cat.p')
    clean_again(first, done, strength=0.5)
    lines = (done / '.sassid' / 'outputs.jsonl').read_text().splitlines()
    assert [json.loads(line)['file'] for line in lines[-3:]] == ['cat.png', 'coffee.png', 'report.html']


@pytest.mark.parametrize('content', ['[]\n{}\n3\n{"file": 1, "run": 2, "sha256": 3}', ''])
def test_output_record_lines_of_other_content_make_no_file_ours(done, content):
    (done / '.sassid' / 'outputs.jsonl').write_text(content)
    assert OutputRecord(done).status(done / 'cat.png', '') == 'foreign'


def test_clean_photos_outputs_of_a_version_without_record_are_ours(first, done):
    (done / '.sassid' / 'outputs.jsonl').unlink()
    state = run_folder(done) / 'state.json'
    content = json.loads(state.read_text())
    state.write_text(json.dumps({**content, 'written': [str(done / 'cat.png'), str(done / 'coffee.png')]}))
    before = pictures(done)
    clean_again(first, done)
    assert pictures(done) == before


def test_clean_photos_folder_of_the_output_on_another_disk_is_written(first, tmp_path, monkeypatch):
    real = os.replace

    def replace(source, target) -> None:
        if Path(source).parent != Path(target).parent:
            raise OSError(18, 'Invalid cross-device link')
        real(source, target)

    monkeypatch.setattr(os, 'replace', replace)
    clean_again(first, tmp_path / 'out')
    assert pictures(tmp_path / 'out') == pictures(first / 'out')
    assert not list(run_folder(tmp_path / 'out').glob('output*'))


# ---- one run at a time ----


def test_clean_photos_second_run_in_one_folder_raises_user_error(first, done, monkeypatch):
    monkeypatch.setattr(outputs, '_SECONDS_TO_END', 0.1)
    with lock_output(done), pytest.raises(UserError, match=rf'process {os.getpid()}\) is writing there'):
        clean_again(first, done)


def test_lock_output_of_a_killed_process_is_free(tmp_path):
    code = (
        'import time, pathlib, basicsr_sassid.pipeline.outputs as outputs\n'
        f'with outputs.lock_output(pathlib.Path({str(tmp_path)!r})):\n'
        '    print("locked", flush=True); time.sleep(60)'
    )
    with subprocess.Popen([sys.executable, '-c', code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == 'locked\n'
        process.send_signal(signal.SIGKILL)
        process.wait()
    with lock_output(tmp_path) as work:
        assert (work / 'pid').read_text() == str(os.getpid())


def test_clean_photos_output_where_the_work_folder_is_a_file_raises_user_error(first, tmp_path):
    (tmp_path / '.sassid').write_text('mine')
    with pytest.raises(UserError, match=r'cannot .*\.sassid'):
        clean_again(first, tmp_path)


def test_clean_photos_16_bit_output_is_the_runs_own(tmp_path):
    deep = noisy_cat()[:128, :160].astype(np.uint16) * 257
    write_photo(Photo(deep), tmp_path / 'photos' / 'deep.tif')
    clean_photos(str(tmp_path / 'photos'), tmp_path / 'out', effort='instant')  # one path in place of a list
    record = OutputRecord(tmp_path / 'out')
    assert record.status(tmp_path / 'out' / 'deep.tif', '') == 'ours'
    assert read_photo(tmp_path / 'out' / 'deep.tif').pixels.dtype == np.uint16


@pytest.mark.slow
def test_command_clean_killed_again_and_again_writes_what_an_uninterrupted_run_writes(tmp_path):
    for number in range(6):
        write_photo(Photo(np.roll(noisy_cat(), 37 * number, axis=1)), tmp_path / 'photos' / f'{number}.png')
    clean_photos(tmp_path / 'photos', tmp_path / 'whole', effort='instant')
    words = [sys.executable, '-m', 'sassid', 'clean', str(tmp_path / 'photos'), '-o', str(tmp_path / 'out')]
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    for num_written in (0, 1, 4):  # killed as soon as there are so many outputs
        process = subprocess.Popen([*words, '--effort', 'instant'], env=environment, stderr=subprocess.DEVNULL)
        record = tmp_path / 'out' / '.sassid' / 'pid'
        while process.poll() is None and not (record.exists() and len(pictures(tmp_path / 'out')) >= num_written):
            time.sleep(0.01)
        process.kill()
        process.wait()
    subprocess.run([*words, '--effort', 'instant'], env=environment, check=True, capture_output=True)
    assert pictures(tmp_path / 'out') == pictures(tmp_path / 'whole')
    assert not [path for path in (tmp_path / 'out').rglob('*') if path.name.startswith(PARTIAL_PREFIX)]
