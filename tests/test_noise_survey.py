"""`sassid noise`: the survey, its table and its figure."""

from __future__ import annotations

from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
import skimage.data

from basicsr_sassid.io.photo import Photo, read_photo, write_photo
from basicsr_sassid.noise.plot import draw
from basicsr_sassid.noise.survey import describe, describe_groups, survey, survey_files
from basicsr_sassid.utils.errors import UserError
from sassid import main

from noise_scenes import camera_pairs
from noise_scenes import noisy_photographs as large_photographs


def noisy_photographs(width: int, seed: int, sigma: float = 15.0) -> list[np.ndarray]:
    return [image[:400, :400] for image in large_photographs(width, seed, sigma)]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three noisy photographs of one kind, and a file that is no image."""
    for number, image in enumerate(noisy_photographs(5, 0)):
        write_photo(Photo(image), tmp_path / 'photos' / f'{number}.png')
    (tmp_path / 'photos' / 'broken.png').write_bytes(b'no image')
    return tmp_path / 'photos'


def test_survey_files_unreadable_file_is_named(folder):
    result = survey_files([folder])
    assert [path.name for path in result.photos] == ['0.png', '1.png', '2.png']
    assert list(result.failed) == [str(folder / 'broken.png')]


def test_survey_files_raw_file_is_named_with_a_conversion(folder):
    (folder / 'a.nef').write_bytes(b'')
    assert 'Develop it' in survey_files([folder]).failed[str(folder / 'a.nef')]


def test_survey_files_folder_without_image_raises_user_error(tmp_path):
    with pytest.raises(UserError, match='photos: no image'):
        survey_files([tmp_path])


def test_survey_grey_photographs_are_counted(tmp_path):
    for name, image in (('grey', noisy_photographs(1, 0)[0][..., :1]), ('rgb', noisy_photographs(1, 0)[1])):
        write_photo(Photo(image), tmp_path / f'{name}.png')
    result = survey(sorted(tmp_path.iterdir()))
    assert (result.num_grey, result.num_measured) == (1, 2)


def test_survey_two_kinds_of_noise_are_two_groups(tmp_path):
    for number, image in enumerate(noisy_photographs(1, 0, sigma=4)[:2] + noisy_photographs(5, 0, sigma=30)):
        write_photo(Photo(image), tmp_path / f'{number}.png')
    groups = survey(sorted(tmp_path.iterdir())).groups
    assert [sorted(path.name for path in group.files) for group in groups] == [
        ['2.png', '3.png', '4.png'],
        ['0.png', '1.png'],
    ]


def test_describe_recommends_the_blind_size(folder):
    assert 'Recommended: network_bnn.blind_size: 5' in describe(survey_files([folder]))


def test_describe_has_one_row_per_intensity_bin(folder):
    result = survey_files([folder])
    assert result.noise is not None
    bins = {int(round(point[0])) // 16 for points in result.noise.sigma_curve.values() for point in points}
    assert describe(result).count('\n  at ') == len(bins)


def test_describe_two_groups_are_listed(tmp_path):
    for number, image in enumerate(noisy_photographs(1, 0, sigma=4)[:1] + noisy_photographs(5, 0, sigma=30)):
        write_photo(Photo(image), tmp_path / f'{number}.png')
    result = survey(sorted(tmp_path.iterdir()))
    assert '\n'.join(describe_groups(result.groups)) in describe(result)


def test_describe_clean_photograph_has_almost_no_noise(tmp_path):
    scene = cv2.GaussianBlur(cv2.resize(skimage.data.coffee(), None, fx=3, fy=3), (0, 0), 6)
    write_photo(Photo(scene), tmp_path / 'clean.png')
    assert 'almost no noise' in describe(survey_files([tmp_path]))


def test_describe_nothing_measurable_raises_user_error(tmp_path):
    write_photo(Photo(np.zeros((64, 64, 3), np.uint8)), tmp_path / 'black.png')
    with pytest.raises(UserError, match='nothing to measure in 1 readable image: no patch'):
        describe(survey_files([tmp_path]))


def test_command_noise_prints_the_table_and_the_failed_files(folder, capsys):
    main(['noise', str(folder)])
    out, err = capsys.readouterr()
    assert 'Recommended: network_bnn.blind_size: 5' in out and 'broken.png' in err


@pytest.mark.parametrize('name', ['noise.png', 'noise.jpg'])
def test_draw_writes_one_complete_figure(tmp_path, name):
    draw(camera_pairs()[1], tmp_path / name)
    figure = read_photo(tmp_path / name).pixels
    assert figure.shape == (480, 1100, 3) and figure.std() > 20
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_draw_leaves_matplotlibs_backend_alone(tmp_path):
    with matplotlib.rc_context({'backend': 'svg'}):
        draw(camera_pairs()[1], tmp_path / 'noise.png')
        assert matplotlib.rcParams['backend'] == 'svg'


def test_draw_unknown_format_raises_user_error(tmp_path):
    with pytest.raises(UserError, match="unknown format '.xyz'"):
        draw(camera_pairs()[1], tmp_path / 'noise.xyz')
