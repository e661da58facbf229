"""What `sassid clean` prints."""

from __future__ import annotations

import re

import pytest

from basicsr_sassid.pipeline.api import clean_photos
from basicsr_sassid.pipeline.console import ProgressBar, print_findings
from basicsr_sassid.pipeline.diagnostics import Finding, advice
from basicsr_sassid.utils.sequences import count_noun

from clean_runs import shrink_networks, write_scenes

# ---- findings ----


def test_print_findings_prints_the_problem_and_what_to_do(capsys):
    print_findings([Finding('result', 'smooth', 'The result lacks detail.', 'lower --strength')])
    assert capsys.readouterr().err == 'note: The result lacks detail. Lower --strength.\n'


@pytest.mark.parametrize(
    ('kind', 'minutes', 'has_weights', 'words', 'never'),
    [
        ('identity', 0, False, '--effort quick', '--blind-size'),
        ('smooth', 0, False, '--effort quick', '--effort best'),
        ('identity', 0, True, 'leave out --weights', '--blind-size'),
        ('smooth', 0, True, 'leave out --weights', '--effort'),
        ('identity', 20, False, '--blind-size', '--effort quick'),
        ('smooth', 20, False, '--effort best', '--blind-size'),
        ('identity', 90, False, '--blind-size', '--effort'),
        ('smooth', 90, False, '--strength', '--effort'),
    ],
)
def test_advice_fits_the_effort(kind, minutes, has_weights, words, never):
    text = advice(kind, minutes, has_weights)
    assert words in text and never not in text


def test_clean_photos_findings_are_printed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('basicsr_sassid.pipeline.diagnostics.LEAST_REMOVED', 10.0)
    clean_photos(write_scenes(tmp_path / 'photos'), tmp_path / 'out', effort='instant')
    found = re.search(r'note: The result keeps noise: in flat areas it removes (\d+)%', capsys.readouterr().err)
    assert found and 90 < int(found[1]) < 200


# ---- progress ----


@pytest.fixture
def bar(monkeypatch):
    progress = ProgressBar()
    progress.step('training', total=100)
    yield progress
    progress.close()


@pytest.mark.parametrize(('done', 'is_shown'), [(3, False), (9, False), (12, True), (90, True)])
def test_progress_bar_time_left_is_shown_from_a_tenth_on(bar, done, is_shown):
    bar.show(0.5)
    bar.show(done)
    assert ('remaining' in bar.bar.bar_format) == is_shown


def test_progress_bar_run_that_continues_counts_from_where_it_starts(bar):
    bar.show(80)
    bar.show(85)
    assert bar.bar.initial == 80 and 'remaining' not in bar.bar.bar_format


def test_progress_bar_next_step_starts_without_time_left(bar):
    bar.show(1)
    bar.show(50)
    bar.step('denoising', total=10)
    assert (bar.bar.n, bar.bar.initial, 'remaining' in bar.bar.bar_format) == (0, 0, False)


# ---- the shortest training ----


@pytest.mark.slow
def test_clean_photos_minutes_below_the_shortest_training_are_announced(tmp_path, capsys, monkeypatch):
    shrink_networks(monkeypatch)
    clean_photos(write_scenes(tmp_path / 'photos'), tmp_path / 'out', minutes=0.001)
    assert '--minutes 0.001 is less than the shortest training on this machine (30' in capsys.readouterr().err


@pytest.mark.parametrize(('number', 'text'), [(0, '0 photographs'), (1, '1 photograph'), (2, '2 photographs')])
def test_count_noun_has_a_plural(number, text):
    assert count_noun(number, 'photograph') == text
