"""Images with opinion scores: layouts of the published datasets, and every error of a score file."""

from __future__ import annotations

import shutil

import pytest
import scipy.io

from basicsr_sassid.evaluation import scored_images
from basicsr_sassid.evaluation.iqa_schema import ScoredDatasetOptions
from basicsr_sassid.evaluation.scored_images import read_scored_images
from basicsr_sassid.utils.errors import UserError

from iqa_scenes import GREYS, SCORES, write_image, write_koniq, write_live, write_pipal, write_scored


def read(block: dict, **changes: object) -> list:
    return read_scored_images('d', ScoredDatasetOptions(**{**block, **changes}))


@pytest.fixture
def scored(tmp_path) -> dict:
    folder = write_scored(tmp_path)
    return {'images': str(folder / 'images'), 'scores': str(folder / 'scores.csv')}


def replace(scored: dict, old: str, new: str) -> None:
    with open(scored['scores']) as file:
        text = file.read()
    assert old in text
    with open(scored['scores'], 'w') as file:
        file.write(text.replace(old, new))


def test_read_koniq_has_images_and_scores(tmp_path):
    images = read(write_koniq(tmp_path))
    assert [(image.path.name, image.score) for image in images] == [
        (f'{grey}04973.jpg', score) for grey, score in zip(GREYS, SCORES)
    ]


@pytest.mark.parametrize('scores', ['Data', 'Data/AllMOS_release.mat'])
def test_read_live_leaves_images_of_practice_out(tmp_path, scores):
    images = read(write_live(tmp_path), scores=str(tmp_path / scores))
    assert [image.name for image in images] == ['20.bmp', '60.JPG', '100.bmp', '140.bmp', '180.bmp', '220.bmp']
    assert [image.score for image in images] == pytest.approx([20 * score for score in SCORES])


def test_read_live_published_list_without_the_folder_of_practice(tmp_path, monkeypatch):
    block = write_live(tmp_path)
    shutil.rmtree(tmp_path / 'Images/trainingImages')
    monkeypatch.setattr(scored_images, '_LIVE_PUBLISHED', 8)
    monkeypatch.setattr(scored_images, '_LIVE_PRACTICE', 2)
    assert len(read(block)) == 6


def test_read_live_without_a_score_for_each_image_is_an_error(tmp_path):
    block = write_live(tmp_path)
    scipy.io.savemat(tmp_path / 'Data/AllMOS_release.mat', {'AllMOS_release': [[1.0, 2.0]]})
    with pytest.raises(UserError, match=r'AllMOS_release.mat: expected a score for each of 8 images, got 2$'):
        read(block)


def test_read_live_without_the_names_is_an_error(tmp_path):
    block = write_live(tmp_path)
    (tmp_path / 'Data/AllImages_release.mat').unlink()
    with pytest.raises(UserError, match='no such file or folder: .*AllImages_release.mat'):
        read(block)


@pytest.mark.parametrize('folders', [('Distortion_1', 'Distortion_2', 'Distortion_3', 'Distortion_4'), ('Train_Dist',)])
def test_read_pipal_finds_images_in_any_folder(tmp_path, folders):
    images = read(write_pipal(tmp_path, folders))
    assert [image.name for image in images] == [f'A000{a}_0{b}_00.bmp' for a in range(2) for b in range(3)]
    assert images[0].path.parent.name == folders[0] and images[0].score == pytest.approx(1510)


def test_read_pipal_single_label_file(tmp_path):
    write_pipal(tmp_path)
    text = ''.join(file.read_text() for file in sorted((tmp_path / 'Train_Label').iterdir()))
    (tmp_path / 'labels.txt').write_text(text)
    assert len(read({'images': str(tmp_path), 'scores': str(tmp_path / 'labels.txt')})) == 6


def test_read_pipal_line_of_another_form_is_named(tmp_path):
    block = write_pipal(tmp_path)
    (tmp_path / 'Train_Label/A0001.txt').write_text('A0001_00_00.bmp 1510\n')
    with pytest.raises(UserError, match=r"A0001.txt, line 1: expected NAME,SCORE, got 'A0001_00_00.bmp 1510'$"):
        read(block)


def test_read_csv_with_byte_order_mark_and_empty_lines(scored, tmp_path):
    text = (tmp_path / 'scores.csv').read_text().replace('\n', '\n\n')
    (tmp_path / 'scores.csv').write_text('\ufeff' + text, encoding='utf-8')
    assert len(read(scored)) == 6


def test_read_csv_path_below_the_folder(scored, tmp_path):
    assert len(read({**scored, 'images': str(tmp_path)})) == 6
    replace(scored, '3.png', 'images/3.png')
    assert read({**scored, 'images': str(tmp_path)})[3].path == tmp_path / 'images/3.png'


def test_read_every_third_image(scored, tmp_path):
    for number in range(6, 15):
        write_image(tmp_path / 'images' / f'{number}.png', number)
    with open(scored['scores'], 'a') as file:
        file.writelines(f'{number}.png,{number}\n' for number in range(6, 15))
    assert [image.name for image in read(scored, every=3)] == ['0.png', '3.png', '6.png', '9.png', '12.png']


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('2.png,1.7', '2.png,good', "scores.csv, line 4: expected a finite number as the score of 2.png, got 'good'$"),
        ('2.png,1.7', '2.png,nan', "line 4: expected a finite number as the score of 2.png, got 'nan'$"),
        ('2.png,1.7', '2.png,', "line 4: expected a finite number as the score of 2.png, got ''$"),
        ('2.png,1.7', '2.png', 'scores.csv, line 4: expected 2 values, got 1$'),
        ('2.png', '1.png', 'scores.csv, line 4: 1.png has a score already, in .*scores.csv, line 3. Remove one'),
        ('2.png', 'x.png', "line 4: 1 of 6 images are not in .*images, 'x.png' first. Correct datasets.d.images"),
        ('2.png', '../scores.csv', "1 of 6 images are not in .*images, '../scores.csv' first"),
        ('file,MOS', 'file,score', "^datasets.d.score_column: expected one column 'MOS' in .*, found file, score$"),
        ('file,MOS', 'name,MOS', "^datasets.d.file_column: expected one column 'file' in .*, found name, MOS$"),
        ('file,MOS', 'file,MOS,MOS', '^datasets.d.score_column: .* found two of that name$'),
    ],
)
def test_read_csv_error_names_the_row(scored, old, new, message):
    replace(scored, old, new)
    with pytest.raises(UserError, match=message):
        read(scored)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', "file_column: expected one column 'file' in .*, found an empty file"),
        (b'file,MOS\n', '^datasets.d: expected 5 images or more, got 0 in'),
        (b'file,MOS\n\xff.png,3\n', 'cannot read .*scores.csv: .*Expected a text file in UTF-8 with commas'),
        (
            b'file,MOS\n' + b'\n'.join(b'%d.png,3' % number for number in range(6)),
            '^datasets.d: all 6 scores are 3: a constant has no correlation$',
        ),
    ],
)
def test_read_csv_unusable_content_is_an_error(scored, tmp_path, content, message):
    (tmp_path / 'scores.csv').write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(scored)


def test_read_csv_name_in_two_folders_is_an_error(scored, tmp_path):
    write_image(tmp_path / 'images/copy/0.png', 3)
    with pytest.raises(UserError, match=r'line 2: 0.png is in several folders: .*images/0.png, .*images/copy/0.png'):
        read(scored, images=str(tmp_path))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'images': '/nowhere'}, '^datasets.d.images: no such file or folder: /nowhere'),
        ({'images': __file__}, '^datasets.d.images: expected a folder, got the file'),
        ({'scores': '/nowhere.csv'}, '^datasets.d.scores: no such file or folder: /nowhere.csv'),
        ({'scores': __file__}, '^datasets.d.scores: expected a .csv, a .txt of lines NAME,SCORE, .*, got '),
        ({'every': 2}, '^datasets.d: expected 5 images or more, got 3 in'),
    ],
)
def test_read_wrong_option_is_named(scored, changes, message):
    with pytest.raises(UserError, match=message):
        read(scored, **changes)


def test_read_folder_without_scores_is_an_error(scored, tmp_path):
    with pytest.raises(UserError, match='^datasets.d.scores: expected a .csv, .*LIVE In the Wild.*, got .*images'):
        read(scored, scores=str(tmp_path / 'images'))


def test_read_column_of_a_score_file_without_columns_is_an_error(tmp_path):
    with pytest.raises(UserError, match='^datasets.d: file_column and score_column are of a .csv, and scores is'):
        read(write_pipal(tmp_path), score_column='MOS')
