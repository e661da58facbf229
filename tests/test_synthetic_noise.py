"""SyntheticNoiseDataset: clean images with white Gaussian or camera noise made on the fly."""

from __future__ import annotations

import inspect

import cv2
import numpy as np
import pytest
import torch
from basicsr.data import build_dataset
from torch.utils.data import DataLoader

from basicsr_sassid.data.prepare.folder import prepare_folder
from basicsr_sassid.data.sampler import RunSampler, SeededDataset
from basicsr_sassid.data.synthetic_schema import NoiseOptions
from basicsr_sassid.noise.synthetic import simulate_camera
from basicsr_sassid.training.protocols import WholeImageDataset
from basicsr_sassid.training.validation import output_names

from synthetic_scenes import CAMERA, synthetic_dataset


def fixed(root, **options):
    """A test set at sigma 25."""
    return synthetic_dataset(root, **{'phase': 'val', 'noise': {'sigma': 25}, **options})


def noise_of(sample) -> torch.Tensor:
    return sample['lq'][:3] - sample['gt']


@pytest.fixture
def greys(tmp_path):
    """Folder of a black, a grey and a white image of 200x240 pixels."""
    (tmp_path / 'greys').mkdir()
    for name, value in (('black', 0), ('grey', 120), ('white', 255)):
        cv2.imwrite(str(tmp_path / 'greys' / f'{name}.png'), np.full((200, 240, 3), value, np.uint8))
    return tmp_path / 'greys'


# ---- white Gaussian noise ----


@pytest.mark.parametrize('sigma', [5, 50.0])
def test_awgn_on_any_brightness_has_mean_zero_and_the_sigma_of_the_options(greys, sigma):
    for sample in fixed(greys, noise={'sigma': sigma}):
        noise = noise_of(sample) * 255
        assert float(noise.std()) == pytest.approx(sigma, rel=0.01)
        assert abs(float(noise.mean())) < 0.02 * sigma


def test_awgn_is_white(greys):
    noise = noise_of(fixed(greys)[1])
    noise = noise / noise.std()
    correlations = (noise[..., 1:] * noise[..., :-1], noise[:, 1:] * noise[:, :-1], noise[0] * noise[1])
    assert all(abs(float(product.mean())) < 0.02 for product in correlations)


def test_awgn_is_not_clipped(greys):
    black, _, white = fixed(greys)
    assert float(black['lq'].min()) < -0.2 and float(white['lq'].max()) > 1.2
    assert black['gt'].unique().tolist() == [0] and white['gt'].unique().tolist() == [1]


def test_awgn_range_is_covered_uniformly(greys):
    dataset = synthetic_dataset(greys, noise={'sigma': [10, 50]}, noise_map=True, patch_size=4)
    sigmas = np.array([float(dataset[0]['lq'][3, 0, 0]) * 255 for _ in range(400)])
    assert sigmas.min() >= 10 and sigmas.max() <= 50
    assert np.histogram(sigmas, 4, (10, 50))[0].min() > 70  # 100 each, standard deviation 9


def test_awgn_default_range_is_that_of_the_paper(greys):
    dataset = synthetic_dataset(greys, noise_map=True, patch_size=4)
    sigmas = [float(dataset[0]['lq'][3, 0, 0]) * 255 for _ in range(200)]
    assert 0 <= min(sigmas) < 5 and 70 < max(sigmas) <= 75


def test_awgn_of_sigma_0_is_the_clean_image(photographs):
    sample = fixed(photographs, noise={'sigma': 0})[0]
    assert torch.equal(sample['lq'], sample['gt'])


# ---- samples ----


def test_sample_has_a_noisy_and_a_clean_crop_and_both_paths(photographs):
    sample = synthetic_dataset(photographs)[2]
    assert sample.keys() == {'lq', 'gt', 'lq_path', 'gt_path'}
    assert sample['lq_path'] == sample['gt_path'] == str(photographs / '2.png')
    assert sample['lq'].shape == sample['gt'].shape == (3, 32, 32)
    assert sample['lq'].dtype == sample['gt'].dtype == torch.float32


def test_sample_outside_of_training_is_the_whole_image(photographs):
    sample = fixed(photographs)[0]
    clean = cv2.imread(str(photographs / '0.png'))[..., ::-1].transpose(2, 0, 1) / 255
    np.testing.assert_allclose(sample['gt'].numpy(), clean, atol=1e-6)


def test_sample_without_noise_has_the_crops_of_the_noisy_image_dataset(photographs):
    noisy = build_dataset(
        {
            'name': 'noisy',
            'type': 'NoisyImageDataset',
            'dataroot_lq': str(photographs),
            'phase': 'train',
            'patch_size': 32,
        }
    )
    clean = synthetic_dataset(photographs, noise={'sigma': 0})
    for index in range(6):
        torch.manual_seed(index)
        expected = noisy[index]['lq']
        torch.manual_seed(index)
        assert torch.equal(clean[index]['gt'], expected)


@pytest.mark.parametrize('noise', [{'sigma': 25}, CAMERA], ids=['awgn', 'camera'])
def test_sample_of_a_grey_16_bit_image_is_rgb_in_unit_range(tmp_path, noise):
    grey = (np.arange(40 * 50).reshape(40, 50) * 30).astype(np.uint16)
    cv2.imwrite(str(tmp_path / 'grey.png'), grey)
    clean = fixed(tmp_path, noise=noise)[0]['gt']
    assert clean.shape == (3, 40, 50) and float(clean.min()) >= 0 and float(clean.max()) <= 1
    if noise != CAMERA:
        np.testing.assert_allclose(clean.numpy(), np.broadcast_to(grey / 65535, (3, 40, 50)), atol=1e-6)


def test_noise_map_is_sigma_of_the_sample_in_unit_range(greys):
    for sample in (fixed(greys, noise_map=True)[0], synthetic_dataset(greys, noise_map=True, patch_size=200)[0]):
        sigma = float(sample['lq'][3, 0, 0])
        assert sample['lq'].shape == (4, *sample['gt'].shape[1:])
        assert sample['lq'][3].unique().tolist() == [sigma]
        assert float(noise_of(sample).std()) == pytest.approx(sigma, rel=0.02)
    assert float(fixed(greys, noise_map=True)[0]['lq'][3, 0, 0]) == pytest.approx(25 / 255)


def test_noise_map_leaves_the_noisy_image_as_it_is(photographs):
    assert torch.equal(fixed(photographs, noise_map=True)[0]['lq'][:3], fixed(photographs)[0]['lq'])


# ---- reproducibility ----


@pytest.mark.parametrize('noise', [{'sigma': 25}, CAMERA], ids=['awgn', 'camera'])
def test_validation_noise_is_the_same_on_every_read(photographs, noise):
    dataset = fixed(photographs, noise=noise)
    first = dataset[3]
    dataset[1]
    torch.manual_seed(77)
    assert torch.equal(first['lq'], dataset[3]['lq'])
    assert torch.equal(first['lq'], fixed(photographs, noise=noise, phase='test')[3]['lq'])


def test_validation_noise_does_not_advance_the_random_state(photographs):
    before = torch.get_rng_state()
    fixed(photographs)[0]
    assert torch.equal(torch.get_rng_state(), before)


def test_validation_noise_in_worker_processes_is_the_same(photographs):
    dataset = fixed(photographs)
    for index, batch in enumerate(DataLoader(dataset, num_workers=2)):
        assert torch.equal(batch['lq'][0], dataset[index]['lq'])


def test_validation_noise_differs_between_images_and_between_seeds(photographs):
    noises = [noise_of(sample) for sample in fixed(photographs)]
    noises.append(noise_of(fixed(photographs, seed=1)[0]))
    correlations = torch.corrcoef(torch.stack([noise.flatten() for noise in noises]))
    assert float(correlations.fill_diagonal_(0).abs().max()) < 0.05


def test_validation_noise_does_not_depend_on_the_other_images(photographs, tmp_path):
    expected = fixed(photographs)[4]['lq']
    (tmp_path / 'elsewhere').mkdir()
    (photographs / '4.png').rename(tmp_path / 'elsewhere/4.png')
    assert torch.equal(fixed(tmp_path / 'elsewhere')[0]['lq'], expected)


def test_validation_noise_of_equal_names_in_two_folders_differs(greys):
    for folder in ('a', 'b'):
        (greys / folder).mkdir()
        (greys / folder / 'x.png').write_bytes((greys / 'grey.png').read_bytes())
    first, second = (sample['lq'] for sample in fixed(greys) if sample['lq_path'].endswith('x.png'))
    assert not torch.equal(first, second)


@pytest.mark.parametrize('noise', [{}, {**CAMERA, 'photons': [50, 500]}], ids=['awgn', 'camera'])
def test_training_samples_do_not_depend_on_the_number_of_workers(photographs, noise):
    dataset = SeededDataset(synthetic_dataset(photographs, noise=noise), seed=5)
    batches = [
        list(DataLoader(dataset, batch_sampler=RunSampler(6, 2, 0, 4, seed=5), num_workers=workers))
        for workers in (0, 2)
    ]
    assert len(batches[0]) == 4
    assert all(torch.equal(one[key], two[key]) for one, two in zip(*batches) for key in ('lq', 'gt'))


def test_training_noise_of_one_image_differs_from_draw_to_draw(photographs):
    dataset = synthetic_dataset(photographs, use_hflip=False, use_rot=False, patch_size=64, noise={'sigma': 25})
    assert not torch.equal(noise_of(dataset[0]), noise_of(dataset[0]))


# ---- camera noise ----


def test_camera_noise_is_spatially_correlated(greys):
    noise = noise_of(fixed(greys, noise=CAMERA)[1]).mean(dim=0)
    noise = noise - noise.mean()
    assert 0.35 < float((noise[:, 1:] * noise[:, :-1]).mean() / noise.var()) < 0.6


def test_camera_clean_image_is_the_developed_reference(photographs):
    sample = fixed(photographs, noise=CAMERA)[0]
    scene = cv2.imread(str(photographs / '0.png'))[..., ::-1]
    reference = simulate_camera(scene, np.random.default_rng(0))[1]
    assert np.array_equal((sample['gt'].numpy() * 255).round(), reference.transpose(2, 0, 1))
    assert not np.array_equal(reference, scene)


def test_camera_fewer_photons_are_noisier(greys):
    sigmas = [
        float(noise_of(fixed(greys, noise={'type': 'camera', 'photons': count})[1]).std()) for count in (50, 5000)
    ]
    assert sigmas[0] > 4 * sigmas[1]


def test_camera_range_of_photons_is_log_uniform(greys, monkeypatch):
    drawn = []

    def simulate(clean, rng, photons, *settings):
        drawn.append(photons)
        return clean, clean

    monkeypatch.setattr('basicsr_sassid.data.synthetic_noise_dataset.simulate_camera', simulate)
    dataset = synthetic_dataset(greys, noise={'type': 'camera', 'photons': [10, 1000]}, patch_size=4)
    for _ in range(400):
        dataset[0]
    assert min(drawn) >= 10 and max(drawn) <= 1000
    assert sum(count < 100 for count in drawn) == pytest.approx(200, abs=50)


def test_camera_defaults_are_those_of_simulate_camera():
    parameters = inspect.signature(simulate_camera).parameters
    options = NoiseOptions(type='camera')
    assert all(getattr(options, key) == parameters[key].default for key in ('photons', 'read_noise', 'jpeg_quality'))


# ---- sources ----


def test_lmdb_has_the_clean_images_of_the_folder(photographs, tmp_path):
    prepare_folder([photographs], tmp_path / 'x.lmdb', size=1000, quiet=True)
    folder, database = fixed(photographs), fixed(tmp_path / 'x.lmdb')
    assert all(torch.equal(folder[index]['gt'], database[index]['gt']) for index in range(6))
    assert torch.equal(database[0]['lq'], fixed(tmp_path / 'x.lmdb')[0]['lq'])
    assert not torch.equal(noise_of(database[0]), noise_of(database[1]))


def test_hold_out_splits_the_images(photographs):
    assert len(synthetic_dataset(photographs, hold_out=3)) == 4 and len(fixed(photographs, hold_out=3)) == 2


def test_dataset_is_no_whole_image_dataset(photographs):
    """A teacher's predictions are cached for such a dataset; here the noise of an image changes."""
    assert not isinstance(synthetic_dataset(photographs), WholeImageDataset)


def test_output_names_are_those_of_the_clean_images(photographs, tmp_path):
    assert output_names(fixed(photographs)) == list('012345')
    prepare_folder([photographs], tmp_path / 'x.lmdb', size=1000, quiet=True)
    dataset = fixed(tmp_path / 'x.lmdb')
    assert output_names(dataset) == dataset.paths
