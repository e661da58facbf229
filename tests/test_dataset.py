from __future__ import annotations

import contextlib
import random
import zlib

import cv2
import lmdb
import numpy as np
import pytest
import tifffile
import torch
from basicsr.data import build_dataset
from PIL import Image
from torch.utils.data import DataLoader

from basicsr_sassid.data.prepare import folder, writer
from basicsr_sassid.data.prepare.folder import prepare_folder
from basicsr_sassid.data.sampler import Draw, RunSampler, SeededDataset
from basicsr_sassid.io.photo import Photo, decode_photo, read_photo, write_photo
from basicsr_sassid.noise.synthetic import simulate_camera
from basicsr_sassid.utils.errors import UserError


def noisy(root, **options):
    return build_dataset({'name': 'noisy', 'type': 'NoisyImageDataset', 'dataroot_lq': str(root), 'phase': 'train',
                          'patch_size': 32, **options})


def batches(dataset, workers, start=0, total=12, rank=0, world_size=1, batch_size=3):
    sampler = RunSampler(len(dataset), batch_size, start, total, 5, rank, world_size)
    return [batch['lq'] for batch in DataLoader(SeededDataset(dataset, 5), batch_sampler=sampler, num_workers=workers)]


# ---- draws ----

def test_crops_are_the_same_for_any_number_of_workers_and_after_a_resume(photographs):
    dataset = noisy(photographs)
    alone = batches(dataset, 0)
    for workers in (1, 2):
        assert all(map(torch.equal, alone, batches(dataset, workers)))
    assert all(map(torch.equal, alone[7:], batches(dataset, 2, start=7)))


def test_two_processes_share_the_doubled_batch(photographs):
    dataset = noisy(photographs)
    halves = zip(batches(dataset, 0, rank=0, world_size=2, batch_size=2),
                 batches(dataset, 0, rank=1, world_size=2, batch_size=2))
    assert all(torch.equal(torch.cat(half), whole) for half, whole in zip(halves, batches(dataset, 0, batch_size=4)))


def test_random_numbers_are_new_each_epoch_also_in_a_stock_dataset():
    """Stock workers seed Python and NumPy alike every epoch."""
    class NoiseModel(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return torch.tensor([random.random(), np.random.rand(), torch.rand(1).item()])
    sampler = RunSampler(4, 4, 0, 3, seed=0)
    epochs = list(DataLoader(SeededDataset(NoiseModel(), 0), batch_sampler=sampler, num_workers=2))
    for kind in range(3):
        assert len(torch.cat(epochs)[:, kind].unique()) == 12
    before = random.getstate()[1][:5], torch.get_rng_state()
    assert len(SeededDataset(NoiseModel(), 0)[Draw(0, 1)]) == 3  # the process's own random numbers are untouched
    assert random.getstate()[1][:5] == before[0] and torch.equal(torch.get_rng_state(), before[1])


def test_every_epoch_goes_through_all_images_in_a_new_order():
    order = [int(draw) for batch in RunSampler(7, 3, 0, 14, seed=1) for draw in batch]
    epochs = [tuple(order[start:start + 7]) for start in range(0, 42, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs) and len(set(epochs)) == 6


def test_a_draw_is_an_index_that_survives_pickling():
    import pickle
    draw = pickle.loads(pickle.dumps(Draw(3, 99)))
    assert draw == 3 and draw.number == 99 and 'abcd'[draw] == 'd'


# ---- dataset ----

def test_all_eight_symmetries_and_only_those(tmp_path):
    image = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
    cv2.imwrite(str(tmp_path / 'a.png'), image[..., ::-1])
    expected = {np.rot90(view, turns).tobytes() for turns in range(4) for view in (image, image[:, ::-1])}
    dataset = noisy(tmp_path)
    seen = {(dataset[0]['lq'] * 255).round().byte().permute(1, 2, 0).numpy().tobytes() for _ in range(200)}
    assert len(expected) == 8 and seen == expected
    plain = noisy(tmp_path, use_hflip=False, use_rot=False)
    assert {(plain[0]['lq'] * 255).round().byte().permute(1, 2, 0).numpy().tobytes() for _ in range(20)} == {
        image.tobytes()}


def test_folder_and_lmdb_hold_the_same_pixels(photographs, tmp_path, capsys):
    done = prepare_folder([photographs], tmp_path / 'x.lmdb', size=1000)
    assert (done.photos, done.sub_images, done.skipped) == (6, 6, {})
    folder, database = noisy(photographs, phase='val'), noisy(tmp_path / 'x.lmdb', phase='val')
    for index in range(6):
        assert torch.equal(folder[index]['lq'], database[index]['lq'])
    assert folder[0].keys() == {'lq', 'lq_path'}
    assert folder.paths == sorted(folder.paths)


def test_one_lmdb_for_training_and_validation_in_one_process(photographs, tmp_path):
    """lmdb refuses to open an environment twice, which stock BasicSR does here."""
    prepare_folder([photographs], tmp_path / 'x.lmdb', size=64)
    train = noisy(tmp_path / 'x.lmdb')
    paired = build_dataset({'name': 'pairs', 'type': 'PairedImageDataset', 'dataroot_lq': str(tmp_path / 'x.lmdb'),
                            'dataroot_gt': str(tmp_path / 'x.lmdb'), 'io_backend': {'type': 'lmdb'}, 'phase': 'val',
                            'scale': 1})
    assert train[0]['lq'].shape == (3, 32, 32)
    assert torch.equal(paired[0]['lq'], paired[0]['gt'])
    assert len(batches(train, 2, total=2)) == 2  # and in forked workers


def test_kinds_of_images_reach_training_as_rgb(tmp_path):
    grey = (np.arange(40 * 50).reshape(40, 50) * 30 % 65536).astype(np.uint16)
    rgb = np.dstack((grey, grey[::-1], grey[:, ::-1]))
    files = {
        'grey8.png': lambda path: cv2.imwrite(path, (grey >> 8).astype(np.uint8)),
        'grey16.png': lambda path: cv2.imwrite(path, grey),
        'rgb16.png': lambda path: cv2.imwrite(path, rgb[..., ::-1]),
        'rgb16.tif': lambda path: tifffile.imwrite(path, rgb, photometric='rgb'),
        'grey16.tiff': lambda path: tifffile.imwrite(path, grey),
        'rgba.png': lambda path: cv2.imwrite(path, np.dstack(((rgb[..., ::-1] >> 8), grey >> 9)).astype(np.uint8)),
        'palette.png': lambda path: Image.fromarray((rgb >> 8).astype(np.uint8)).quantize(8).save(path),
        'photo.jpg': lambda path: cv2.imwrite(path, (rgb >> 8).astype(np.uint8)),
    }
    for name, write in files.items():
        write(str(tmp_path / name))
    dataset = noisy(tmp_path, phase='val')
    images = {path.rsplit('/', 1)[1]: dataset[index]['lq'].numpy() for index, path in enumerate(dataset.paths)}
    assert images.keys() == files.keys()
    assert all(image.shape == (3, 40, 50) and image.min() >= 0 and image.max() <= 1 for image in images.values())
    for name in ('grey16.png', 'grey16.tiff'):
        np.testing.assert_allclose(images[name], np.broadcast_to(grey / 65535, (3, 40, 50)), atol=1e-6)
    for name in ('rgb16.png', 'rgb16.tif'):
        np.testing.assert_allclose(images[name], rgb.transpose(2, 0, 1) / 65535, atol=1e-6)
    np.testing.assert_allclose(images['rgba.png'], (rgb >> 8).transpose(2, 0, 1) / 255, atol=1e-6)


def test_bad_datasets_are_named(photographs, tmp_path):
    with pytest.raises(UserError, match=r'patch_size: 65 is larger than .*0.png \(64x80 pixels'):
        noisy(photographs, patch_size=65)
    with pytest.raises(UserError, match='unknown key \'patchsize\'. Did you mean \'patch_size\''):
        noisy(photographs, patchsize=32)
    with pytest.raises(UserError, match='no such file or folder: .*nowhere'):
        noisy(tmp_path / 'nowhere')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='no image in .*empty'):
        noisy(tmp_path / 'empty')
    (photographs / 'zz.jpg').write_text('this is no picture')
    with pytest.raises(UserError, match='zz.jpg: it is no image of a known format'):
        noisy(photographs)
    lmdb.open(str(tmp_path / 'other.lmdb')).close()
    with pytest.raises(UserError, match='other.lmdb is no LMDB in BasicSR\'s format'):
        noisy(tmp_path / 'other.lmdb')
    (tmp_path / 'other.lmdb' / 'meta_info.txt').write_text('0001\n')
    with pytest.raises(UserError, match=r'meta_info.txt, line 1: expected "name.png'):
        noisy(tmp_path / 'other.lmdb')


def test_clean_images_given_to_training_are_not_used(photographs, tmp_path):
    with pytest.warns(UserWarning, match='dataroot_gt is not used'):
        dataset = noisy(photographs, dataroot_gt=str(tmp_path))
    assert 'gt' not in dataset[0]


# ---- files ----

@pytest.mark.parametrize(('name', 'dtype', 'channels'), [
    ('a.png', np.uint8, 1), ('a.png', np.uint8, 3), ('a.png', np.uint16, 1), ('a.png', np.uint16, 3),
    ('a.tif', np.uint8, 3), ('a.tif', np.uint16, 1), ('a.tiff', np.uint16, 3), ('a.bmp', np.uint8, 3),
    ('a.webp', np.uint8, 3)])
@pytest.mark.parametrize('with_alpha', [False, True])
def test_what_is_written_is_read_again(tmp_path, name, dtype, channels, with_alpha):
    rng = np.random.default_rng(0)
    white = np.iinfo(dtype).max
    photo = Photo(rng.integers(0, white + 1, (21, 34, channels)).astype(dtype),
                  alpha=rng.integers(1, white + 1, (21, 34)).astype(dtype) if with_alpha else None)
    if with_alpha and (name == 'a.bmp' or (name == 'a.png' and dtype == np.uint16 and channels == 1)):
        with pytest.raises(UserError, match='choose'):
            write_photo(photo, tmp_path / name)
        assert list(tmp_path.iterdir()) == []
        return
    write_photo(photo, tmp_path / name)
    back = read_photo(tmp_path / name)
    assert back.pixels.dtype == dtype and np.array_equal(back.pixels, photo.pixels)
    assert (back.alpha is None) if not with_alpha else np.array_equal(back.alpha, photo.alpha)


@pytest.mark.parametrize(('name', 'dtype'), [('a.png', np.uint8), ('a.png', np.uint16), ('a.jpg', np.uint8),
                                             ('a.tif', np.uint8), ('a.tif', np.uint16), ('a.webp', np.uint8)])
def test_profile_and_orientation_are_kept(tmp_path, name, dtype):
    from PIL import ImageCms
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    exif = Image.Exif()
    exif[274] = 6
    exif[271] = 'camera maker'
    write_photo(Photo(np.zeros((8, 9, 3), dtype), icc=profile, exif=exif.tobytes()), tmp_path / name)
    back = read_photo(tmp_path / name)
    assert back.icc == profile and back.pixels.shape == (8, 9, 3)
    tags = Image.Exif()
    tags.load(back.exif)
    assert tags[274] == 6
    if not name.endswith('.tif'):
        assert tags[271] == 'camera maker'


@pytest.mark.parametrize('name', ['a.png', 'a.jpg', 'a.tif', 'deep.png'])
def test_a_cut_off_file_is_refused(tmp_path, name):
    image = np.random.default_rng(0).integers(0, 255, (90, 90, 3))
    image = image.astype(np.uint16) * 257 if name == 'deep.png' else image.astype(np.uint8)
    cv2.imwrite(str(tmp_path / name), image)
    content = (tmp_path / name).read_bytes()
    for share in (0.3, 0.9):
        with pytest.raises(UserError, match=f'cannot read {name}'):
            decode_photo(content[:int(len(content) * share)], name)
    with pytest.raises(UserError, match='the file is empty'):
        decode_photo(b'', name)


def test_a_damaged_png_is_refused(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.random.default_rng(0).integers(0, 65535, (60, 60, 3)).astype(np.uint16))
    content = bytearray((tmp_path / 'a.png').read_bytes())
    content[len(content) // 2] ^= 255
    with pytest.raises(UserError, match='damaged'):
        decode_photo(bytes(content), 'a.png')


# ---- prepare ----

def test_sub_images_cover_every_pixel_and_nothing_is_left_half_written(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (100, 130, 3)).astype(np.uint8)
    (tmp_path / 'photos' / 'é sub.dir').mkdir(parents=True)
    cv2.imwrite(str(tmp_path / 'photos' / 'é sub.dir' / 'ünïcode.v1.png'), image[..., ::-1])
    done = prepare_folder([tmp_path / 'photos'], tmp_path / 'x.lmdb', size=48, step=40)
    dataset = noisy(tmp_path / 'x.lmdb', phase='val')
    assert done.sub_images == len(dataset) == 3 * 4
    covered = np.zeros((100, 130), bool)
    for sample in dataset:
        top, left = (int(part[1:]) for part in sample['lq_path'].split('_')[-2:])
        piece = (sample['lq'].permute(1, 2, 0) * 255).round().byte().numpy()
        assert np.array_equal(piece, image[top:top + 48, left:left + 48])
        covered[top:top + 48, left:left + 48] = True
    assert covered.all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['photos', 'x.lmdb']


def test_a_broken_image_is_skipped_or_refused(photographs, tmp_path):
    content = (photographs / '0.png').read_bytes()
    (photographs / '3.png').write_bytes(content[:len(content) // 2])
    done = prepare_folder([photographs], tmp_path / 'x.lmdb', size=64)
    assert done.photos == 5 and list(done.skipped) == [str(photographs / '3.png')]
    with pytest.raises(UserError, match=r'3.png.*cut off'):
        prepare_folder([photographs], tmp_path / 'y.lmdb', size=64, strict=True)
    with pytest.raises(UserError, match='x.lmdb exists'):
        prepare_folder([photographs], tmp_path / 'x.lmdb')
    with pytest.raises(UserError, match='ends in .lmdb'):
        prepare_folder([photographs], tmp_path / 'x')
    assert not (tmp_path / 'y.lmdb').exists() and not list(tmp_path.glob('.partial*'))


def test_a_full_disk_leaves_no_lmdb(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, '_largest_size', lambda *_: 8 * 4096)
    with pytest.raises(UserError, match='cannot write .*x.lmdb: .*MDB_MAP_FULL.* Free some space'):
        prepare_folder([photographs], tmp_path / 'x.lmdb')
    assert [path.name for path in tmp_path.iterdir()] == ['noisy']


def test_killed_anywhere_it_goes_on_and_asks_for_nothing_twice(photographs, tmp_path, monkeypatch):
    prepare_folder([photographs], tmp_path / 'whole.lmdb', size=40)
    read, asked = folder.read_photo, []
    for allowed in (2, 3, 100):
        end = len(asked) + allowed

        def counted(file, end=end):
            if len(asked) == end:
                raise RuntimeError('as a kill: nothing is tidied up')
            asked.append(file.name)
            return read(file)
        monkeypatch.setattr(folder, 'read_photo', counted)
        with contextlib.nullcontext() if allowed == 100 else pytest.raises(RuntimeError, match='kill'):
            prepare_folder([photographs], tmp_path / 'x.lmdb', size=40, workers=1)
        assert (tmp_path / 'x.lmdb').exists() == (allowed == 100)
    assert sorted(asked) == [f'{number}.png' for number in range(6)]
    for name in ('meta_info.txt', 'data.mdb'):
        assert (tmp_path / 'x.lmdb' / name).exists()
    whole, resumed = (noisy(tmp_path / f'{name}.lmdb', phase='val') for name in ('whole', 'x'))
    assert [sample['lq_path'] for sample in whole] == [sample['lq_path'] for sample in resumed]
    assert all(torch.equal(a['lq'], b['lq']) for a, b in zip(whole, resumed))


def test_another_plan_starts_anew(photographs, tmp_path, monkeypatch):
    read = folder.read_photo
    monkeypatch.setattr(folder, 'read_photo', lambda file: read(file) if file.name < '3' else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare_folder([photographs], tmp_path / 'x.lmdb', size=40, workers=1)
    monkeypatch.undo()
    assert prepare_folder([photographs], tmp_path / 'x.lmdb', size=64).sub_images == 12
    assert {line.split()[1] for line in (tmp_path / 'x.lmdb/meta_info.txt').read_text().splitlines()} == {'(64,64,3)'}


# ---- simulated noise ----

def test_camera_noise_is_correlated_as_real_noise_is():
    grey = np.full((400, 400, 3), 120, np.uint8)
    noise, reference = simulate_camera(grey, np.random.default_rng(0), photons=80, read_noise=2)
    assert np.abs(reference.astype(float) - 120).max() <= 1  # the camera without noise gives the scene back
    error = noise.astype(float).mean(axis=2)
    error -= error.mean()
    lag = [float((error[:, k:] * error[:, :error.shape[1] - k]).mean() / error.var()) for k in range(6)]
    assert 0.35 < lag[1] < 0.6 and 0.02 < lag[2] < 0.2 and abs(lag[4]) < 0.05  # SIDD: 0.47, 0.08, 0.00
    assert zlib.crc32(noise.tobytes()) == zlib.crc32(
        simulate_camera(grey, np.random.default_rng(0), photons=80, read_noise=2)[0].tobytes())


def test_prepare_after_opencv_has_run_in_threads(photographs, tmp_path):
    """Forked workers hang once the parent's OpenCV has started its threads."""
    big = np.zeros((2000, 2000, 3), np.uint8)
    cv2.GaussianBlur(big, (0, 0), 3)
    cv2.cvtColor(big[..., 0], cv2.COLOR_BayerRGGB2RGB)
    assert prepare_folder([photographs], tmp_path / 'x.lmdb', size=32).photos == 6
