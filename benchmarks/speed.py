"""How much faster than a reference implementation: training steps, inference, the spectral denoiser, the loader ...

    python benchmarks/speed.py -o results/speed.json                  # all that this machine has, ten minutes
    python benchmarks/speed.py --only steps --width cpu

Ours and the reference implementation (tests/reference.py: pad, convolve, crop; windows unfolded; float32; teachers
predict at every step) take turns within one run, on the same data; medians and ratios are printed. Ratios compare,
milliseconds do not.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import basicsr_sassid  # noqa: F401
from basicsr_sassid.data.noisy_image_dataset import NoisyImageDataset
from basicsr_sassid.data.prepare.folder import prepare_folder
from basicsr_sassid.data.sampler import RunSampler, SeededDataset
from basicsr_sassid.data.teacher_cache import TeacherCache
from basicsr_sassid.io.atomic import write_json
from basicsr_sassid.io.photo import Photo, write_photo
from basicsr_sassid.losses.selective_loss import local_std
from basicsr_sassid.ops.subsampling import pd_down, random_partition, random_sub_images

from timing import compare, print_table

import reference  # isort: skip
from inference_speed import time_inference  # isort: skip
from spectral_speed import time_spectral  # isort: skip
from training_steps import WIDTHS, time_steps  # isort: skip

_WARM_UP = 20  # batches


def time_local_std(device: torch.device, rounds: int) -> dict[str, dict[str, float]]:
    """Two 256x256 patches (the texture map of one step)."""
    x = torch.rand(2, 3, 256, 256, device=device) * 255
    rows = {
        f'window {window}': compare(
            lambda w=window: reference.local_std(x, w), lambda w=window: local_std(x, w), rounds, device
        )
        for window in (7, 15)
    }
    rows['window 15 over 7'] = {'ratio': rows['window 15']['ours_seconds'] / rows['window 7']['ours_seconds']}
    return rows


def time_subsampling(device: torch.device, rounds: int) -> dict[str, dict[str, float]]:
    """Sub-images and masks of a batch of four 120x120 patches, stride 5, against loops over cells or pixels."""
    x = torch.rand(4, 3, 120, 120, device=device)
    n, c, h, w = x.shape

    def phases() -> torch.Tensor:
        return torch.stack([x[:, :, i::5, j::5] for i in range(5) for j in range(5)], 1).flatten(0, 1)

    def cells() -> torch.Tensor:
        result = x.new_empty(25, n, c, h // 5, w // 5)
        for image in range(n):
            for row in range(h // 5):
                for column in range(w // 5):
                    cell = x[image, :, 5 * row : 5 * row + 5, 5 * column : 5 * column + 5].reshape(c, 25)
                    result[:, image, :, row, column] = cell[:, torch.randperm(25, device=device)].T
        return result

    def pixels() -> torch.Tensor:
        masks = torch.zeros(2, n, 1, h, w, dtype=torch.bool, device=device)
        for image in range(n):
            for row in range(h):
                for column in range(w):
                    masks[int(torch.randint(2, ())), image, 0, row, column] = True
        return masks

    assert torch.equal(phases(), pd_down(x, 5))
    return {
        name: compare(loop, ours, rounds, device)
        for name, loop, ours in (
            ('pixel shuffle, by phases', phases, lambda: pd_down(x, 5)),
            ('SDAP, by cells', cells, lambda: random_sub_images(x, 5)),
            ('AMSNet, by pixels', pixels, lambda: random_partition(x, 2)),
        )
    }


def time_loader(device: torch.device, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of a batch of patches from sub-images in an LMDB, with and without a teacher cache."""
    side, batch = (128, 2) if device.type == 'cpu' else (256, 8)
    workers = 1 if device.type == 'cpu' else min(os.cpu_count() or 1, 8)
    rng = np.random.default_rng(0)
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(8):
            write_photo(Photo(rng.integers(0, 256, (1024, 1024, 3), dtype=np.uint8)), folder / 'p' / f'{number}.png')
        prepare_folder([folder / 'p'], folder / 'p.lmdb', size=512)
        for is_cached in (False, True):
            dataset = NoisyImageDataset({'phase': 'train', 'dataroot_lq': str(folder / 'p.lmdb'), 'patch_size': side})
            if is_cached:
                cache = TeacherCache(folder / 'c.lmdb', dataset.sizes)
                cache.write((index, dataset.image(index)) for index in range(len(dataset)))
                dataset.teachers = {'bnn': cache}
            seconds = _batch_seconds(dataset, batch, 20 * rounds, workers)
            rows['with teacher cache' if is_cached else 'noisy alone'] = {'batch_seconds': seconds, 'workers': workers}
    return rows


def _batch_seconds(dataset: NoisyImageDataset, batch: int, count: int, workers: int) -> float:
    sampler = RunSampler(len(dataset), batch, 0, _WARM_UP + count, 0)
    batches = iter(
        torch.utils.data.DataLoader(
            SeededDataset(dataset, 0), num_workers=workers, prefetch_factor=4, batch_sampler=sampler
        )
    )
    for _ in range(_WARM_UP):
        next(batches)
    started = time.perf_counter()
    for _ in batches:
        pass
    return (time.perf_counter() - started) / count


KINDS = {
    'local_std': time_local_std,
    'subsampling': time_subsampling,
    'loader': time_loader,
    'inference': time_inference,
    'spectral': time_spectral,
}


def main() -> None:
    """Parse the command line, measure, print; write JSON where a file is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('-o', '--output', help='JSON file for the figures')
    parser.add_argument('--only', choices=['steps', *KINDS])
    parser.add_argument('--width', choices=list(WIDTHS), help='of the steps; default both')
    parser.add_argument('--device', choices=['cpu', 'cuda'], help='default: the CPU, and a GPU if there is one')
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--precision', default='auto')
    parser.add_argument('--compile', action='store_true')
    args = parser.parse_args()
    devices = [args.device] if args.device else ['cpu'] + ['cuda'] * torch.cuda.is_available()
    result = {
        'torch': torch.__version__,
        'threads': torch.get_num_threads(),
        'precision': args.precision,
        'compile': args.compile,
    }
    for kind in devices:
        device = torch.device(kind)
        rows = result[kind] = {}
        print(f'{kind}: {torch.cuda.get_device_name() if kind == "cuda" else f"{torch.get_num_threads()} threads"}')
        if args.only in (None, 'steps'):
            for width in [args.width] if args.width else WIDTHS:
                title = f'steps, {width} width'
                rows[title] = time_steps(width, device, args.rounds, args.precision, args.compile)
                print_table(f'Training {title}', rows[title])
        for name, function in KINDS.items():
            if args.only in (None, name):
                rows[name] = function(device, args.rounds)
                print_table(name, rows[name])
    if args.output:
        write_json(result, args.output, indent=2)


if __name__ == '__main__':
    main()
