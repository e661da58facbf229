"""SFD-IQA: the formula, its options, the metric, the command, and refusals."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from basicsr.metrics import calculate_metric
from torchvision.models import squeezenet1_1

from basicsr_sassid.evaluation.iqa_metrics import check_iqa_metrics
from basicsr_sassid.evaluation.iqa_schema import IQAMetricOptions
from basicsr_sassid.io.atomic import save_torch
from basicsr_sassid.metrics.sfd_quality import SFDQuality
from basicsr_sassid.training.dry_run import check_metrics
from basicsr_sassid.utils.errors import UserError
from sassid import main

FEATURE_D = {'type': 'FeatureDiscriminator', 'num_in_ch': 128, 'num_feat': 4}
PROMPT = {'type': 'LearnablePromptPair', 'num_features': 1000, 'logit_scale': 10}


def write(folder: Path, parts=('feature_d', 'prompt'), **changes) -> Path:
    """A file as SFDModel writes it."""
    torch.manual_seed(0)
    semantic = folder / 'squeezenet.pth'
    if not semantic.exists():
        torch.save(squeezenet1_1(weights=None).state_dict(), semantic)
    features = {
        'backbone': 'squeezenet1_1',
        'layer': 'features.5',
        'final_layer': 'classifier.3',
        'weights': str(semantic),
        'input_norm': 'auto',
    }
    networks = {'feature_d': FEATURE_D, 'prompt': PROMPT}
    content = {'format': 1, 'features': features}
    for name in parts:
        content[name] = {'network': networks[name], 'params': build_network(networks[name]).state_dict()}
    save_torch({**content, **changes}, folder / 'sfd.pth')
    return folder / 'sfd.pth'


IMAGE = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)


def test_quality_is_its_formula(tmp_path):
    rate = SFDQuality(write(tmp_path), feature_fraction=0.3)
    tensor = torch.from_numpy(IMAGE).permute(2, 0, 1)[None].float() / 255
    middle, final = rate.pair(tensor)
    first = float(rate.nets['feature_d'](middle).sigmoid().mean())
    second = float(rate.nets['prompt'](final).softmax(1)[0, 0])
    assert rate(IMAGE) == pytest.approx(0.3 * first + 0.7 * second, rel=1e-5)


def test_quality_of_least_squares_is_cut_to_its_targets(tmp_path):
    rate = SFDQuality(write(tmp_path, parts=['feature_d'], gan_type='lsgan'))
    logits = rate.nets['feature_d'](rate.pair(torch.from_numpy(IMAGE).permute(2, 0, 1)[None] / 255)[0])
    assert rate(IMAGE) == pytest.approx(float(logits.clamp(0, 1).mean()), abs=1e-6) and logits.min() < 0


def test_quality_of_prompts_that_depend_on_the_size_takes_patches_alone(tmp_path):
    prompt = {**PROMPT, 'num_features': 512 * 9}  # of a map of 3x3, which crops of 64 pixels have
    params = build_network(prompt).state_dict()
    path = write(tmp_path, parts=[], prompt={'network': prompt, 'params': params})
    content = torch.load(path, weights_only=True)
    content['features']['final_layer'] = 'features.12'
    save_torch(content, path)
    assert 0 < SFDQuality(path, patch_size=64)(IMAGE) < 1
    with pytest.raises(UserError, match='trained on 4608 features, and an image of this size has .* patch size'):
        SFDQuality(path)(IMAGE)


def test_quality_of_patches_is_their_mean(tmp_path):
    path = write(tmp_path, parts=['feature_d'])
    image = np.random.default_rng(1).integers(0, 256, (64, 128, 3), np.uint8)
    whole = SFDQuality(path)
    halves = [whole(image[:, :64]), whole(image[:, 64:])]
    assert SFDQuality(path, patch_size=64)(image) == pytest.approx(np.mean(halves), rel=1e-5)


def test_quality_shorter_side_resizes_first(tmp_path):
    path = write(tmp_path, parts=['feature_d'])
    small = cv2.resize(IMAGE.astype(np.float32) / 255, (64, 64), interpolation=cv2.INTER_AREA)
    assert SFDQuality(path, shorter_side=64)(IMAGE) == pytest.approx(SFDQuality(path)(small), rel=1e-5)


@pytest.mark.parametrize(('parts', 'fraction'), [(['feature_d'], 1.0), (['prompt'], 0.0)])
def test_quality_of_one_trained_part_is_that_parts(tmp_path, parts, fraction):
    assert SFDQuality(write(tmp_path, parts=parts)).feature_fraction == fraction


def test_metric_takes_basicsrs_images_and_equals_the_quality(tmp_path):
    path = write(tmp_path)
    block = {'type': 'calculate_sfd_iqa', 'weights': str(path), 'feature_fraction': 0.2}
    value = calculate_metric({'img': IMAGE[..., ::-1], 'img2': IMAGE}, block)
    assert value == pytest.approx(SFDQuality(path, feature_fraction=0.2)(IMAGE), rel=1e-6)


def test_metric_takes_its_options_from_a_block(tmp_path):
    block = {'type': 'calculate_sfd_iqa', 'weights': str(write(tmp_path)), 'feature_fraction': 0.2, 'patch_size': 64}
    check_metrics({'sfd_iqa': block})
    check_iqa_metrics({'sfd_iqa': IQAMetricOptions.parse(block, 'metrics.sfd_iqa')})
    with pytest.raises(UserError, match="unknown key 'patch_sise'. Did you mean 'patch_size'"):
        check_metrics({'sfd_iqa': {**block, 'patch_sise': 64}})


def test_metric_without_weights_raises_user_error():
    with pytest.raises(UserError, match='calculate_sfd_iqa: key weights is missing: sfd_'):
        calculate_metric({'img': IMAGE}, {'type': 'calculate_sfd_iqa'})


def test_command_prints_a_number_for_each_image_and_writes_a_csv(tmp_path, capsys):
    path, folder = write(tmp_path), tmp_path / 'images'
    folder.mkdir()
    for name in ('a', 'b'):
        cv2.imwrite(str(folder / f'{name}.png'), IMAGE[..., ::-1])
    (folder / 'c.png').write_bytes(b'no image')
    with pytest.raises(SystemExit) as stop:
        main(['iqa', str(folder), '--weights', str(path), '-o', str(tmp_path / 'out.csv'), '--device', 'cpu'])
    assert stop.value.code == 1
    printed = capsys.readouterr()
    assert printed.out.count('a.png') == 1 and 'c.png' in printed.out + printed.err
    rows = list(csv.DictReader((tmp_path / 'out.csv').read_text().splitlines()))
    assert [Path(row['file']).name for row in rows] == ['a.png', 'b.png']
    assert float(rows[0]['quality']) == pytest.approx(SFDQuality(path)(IMAGE), abs=1e-5)


def test_command_takes_the_semantic_network_from_another_place(tmp_path, capsys):
    path = write(tmp_path)
    expected = SFDQuality(path)(IMAGE)
    cv2.imwrite(str(tmp_path / 'a.png'), IMAGE[..., ::-1])
    moved = (tmp_path / 'squeezenet.pth').rename(tmp_path / 'moved.pth')
    main(['iqa', str(tmp_path / 'a.png'), '--weights', str(path), '--semantic-weights', str(moved), '--device', 'cpu'])
    assert capsys.readouterr().out.startswith(f'{expected:.4f}')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'feature_fraction': 2}, 'feature_fraction: expected a number from 0 to 1, got 2'),
        ({'patch_size': 8}, 'patch_size: expected a number of pixels >= 64, got 8'),
        ({'shorter_side': 1.5}, 'shorter_side: expected a number of pixels >= 64, got 1.5'),
        ({'semantic_weights': 'nowhere.pth'}, 'weights: no such file'),
    ],
)
def test_quality_bad_option_raises_user_error(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        SFDQuality(write(tmp_path), **options)


def test_quality_fraction_of_a_missing_part_raises_user_error(tmp_path):
    with pytest.raises(UserError, match='feature_fraction: 0.5 needs prompt, which .*sfd.pth lacks'):
        SFDQuality(write(tmp_path, parts=['feature_d']), feature_fraction=0.5)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'format': 2}, 'is no file of SFD-IQA'),
        ({'features': ['squeezenet1_1']}, 'is no file of SFD-IQA'),
        ({'features': {'backbone': 'squeezenet1_1', 'path': 'x'}}, 'is no file of SFD-IQA'),
        ({'features': {'backbone': 'squeezenet1_1', 'weights': 'random'}}, 'was trained on random features'),
        ({'feature_d': {'network': {**FEATURE_D, 'path': 'x'}, 'params': {}}}, 'feature_d cannot be built: expected a'),
        ({'feature_d': {'network': {**FEATURE_D, 'num_feat': 10**6}, 'params': {}}}, 'a number is out of range'),
        ({'feature_d': {'network': {'type': 'SpyNet'}, 'params': {}}}, 'expected a FeatureDiscriminator'),
        ({'feature_d': None, 'prompt': None}, 'holds neither Feat-D nor prompts'),
    ],
)
def test_quality_of_a_file_that_is_not_ours_raises_user_error(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        SFDQuality(write(tmp_path, **changes))


def test_quality_of_a_small_image_raises_user_error(tmp_path):
    with pytest.raises(UserError, match='expected an image of 64 pixels a side or more, got 63x96'):
        SFDQuality(write(tmp_path))(IMAGE[:63])
