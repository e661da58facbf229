"""How much faster than a plain formulation: training steps, inference, the local standard deviation, the loader.

    python benchmarks/speed.py -o results/speed.json                  # all that this machine has, ten minutes
    python benchmarks/speed.py --only steps --width cpu

Ours and the plain formulation (tests/reference.py: pad, convolve, crop; windows unfolded; float32; teachers asked at every
step) take turns within one run, on the same data; medians and ratios are printed. Ratios compare, milliseconds do not.
"""
from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

import basicsr_sassid  # noqa: E402, F401
from basicsr_sassid import Denoiser  # noqa: E402
from basicsr_sassid.data.noisy_image_dataset import NoisyImageDataset  # noqa: E402
from basicsr_sassid.data.prepare.folder import prepare_folder  # noqa: E402
from basicsr_sassid.data.sampler import RunSampler, SeededDataset  # noqa: E402
from basicsr_sassid.io.atomic import save_torch  # noqa: E402
from basicsr_sassid.io.photo import Photo, write_photo  # noqa: E402
from basicsr_sassid.losses.selective_loss import local_std  # noqa: E402
from basicsr_sassid.models.three_stage_model import ThreeStageModel  # noqa: E402
from basicsr_sassid.ops.sliding_window import sliding_window_predict  # noqa: E402
from basicsr_sassid.ops.subsampling import pd_down, random_partition, random_sub_images  # noqa: E402
from basicsr_sassid.training.options import resolve_options  # noqa: E402

import reference  # noqa: E402  the oracle of the tests

WIDTHS = {'full': {'dim': 48, 'lan_dim': 64, 'receptive_size': 3}, 'cpu': {'dim': 16, 'lan_dim': 32,
                                                                         'receptive_size': 7}}
STAGES = ('bnn', 'lan', 'unet')


def alternating(functions: dict[str, Callable[[], None]], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each, called in turns; the first round does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds + 1):
        for name, function in functions.items():
            if device.type == 'cuda':
                torch.cuda.synchronize()
            started = time.perf_counter()
            function()
            if device.type == 'cuda':
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def compared(functions: dict[str, Callable[[], None]], rounds: int, device: torch.device) -> dict[str, float]:
    seconds = alternating(functions, rounds, device)
    return {**{f'{name}_seconds': value for name, value in seconds.items()},
            'ratio': seconds['plain'] / seconds['ours']}


# ---- training steps ----

def matrix_rate(device: torch.device, dtype: torch.dtype, side: int = 2048) -> float:
    """Floating-point operations a second in a large matrix product."""
    a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side ** 3 / alternating({'product': lambda: a @ b}, 9, device)['product']


def plain_steps(width: dict, device: torch.device, blind_size: int = 9, clip: float | None = None
                ) -> tuple[dict[str, Callable[[torch.Tensor], None]], dict, dict]:
    """One training step a stage, as one would write it from the paper; the weights and the optimisers."""
    shapes = {'bnn': reference.official_unet_shapes(width['dim'], bnn=True),
              'lan': reference.official_lan_shapes(width['receptive_size'], width['lan_dim']),
              'unet': reference.official_unet_shapes(width['dim'])}
    states = {name: {key: value.to(device).requires_grad_() for key, value in reference.random_state(shape).items()}
              for name, shape in shapes.items()}
    states['bnn'].update({f'output_conv.{kind}': states['bnn'][f'output_block.4.{kind}'] for kind in
                          ('weight', 'bias')})
    optimizers = {name: torch.optim.Adam(list({id(value): value for value in state.values()}.values()), 3e-4)
                  for name, state in states.items()}

    def step(name: str, loss: torch.Tensor) -> None:
        optimizers[name].zero_grad()
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(optimizers[name].param_groups[0]['params'], clip)
        optimizers[name].step()

    def bnn(lq: torch.Tensor) -> None:
        step('bnn', (reference.bnn(states['bnn'], lq, blind_size) - lq).abs().mean())

    def lan(lq: torch.Tensor) -> None:
        with torch.no_grad():
            target = reference.bnn(states['bnn'], lq, blind_size)
        step('lan', (reference.lan(states['lan'], lq, width['receptive_size']) - target).abs().mean())

    def unet(lq: torch.Tensor) -> None:
        with torch.no_grad():
            flat = reference.bnn(states['bnn'], lq, blind_size)
            textured = reference.lan(states['lan'], lq, width['receptive_size'])
            alpha = reference.alpha(reference.local_std(flat))
        prediction = reference.unet(states['unet'], lq)
        step('unet', ((1 - alpha) * (prediction - flat).abs() + alpha * (prediction - textured).abs()).mean())

    return {'bnn': bnn, 'lan': lan, 'unet': unet}, states, optimizers


def our_model(width: dict, device: torch.device, folder: Path, precision: str, compiled: bool) -> ThreeStageModel:
    """The model as a training builds it."""
    write_photo(Photo(np.zeros((64, 64, 3), np.uint8)), folder / 'photographs' / 'black.png')
    stage = {'iter': 10 ** 6, 'optim': {'type': 'Adam', 'lr': 3e-4}, 'scheduler': {'type': 'CosineAnnealingLR'}}
    opt = {'name': 'speed', 'model_type': 'ThreeStageModel', 'num_gpu': int(device.type == 'cuda'), 'manual_seed': 0,
           'datasets': {'train': {'name': 'noisy', 'type': 'NoisyImageDataset', 'patch_size': 32,
                                  'dataroot_lq': str(folder / 'photographs')}},
           'network_bnn': {'type': 'BNN', 'dim': width['dim']},
           'network_lan': {'type': 'LAN', 'dim': width['lan_dim'], 'receptive_size': width['receptive_size']},
           'network_g': {'type': 'DenoisingUNet', 'dim': width['dim']}, 'path': {},
           'train': {'precision': precision, 'compile': compiled, 'stages': {name: {**stage} for name in STAGES}},
           'logger': {'print_freq': 100, 'save_checkpoint_freq': 10 ** 6}}
    return ThreeStageModel(resolve_options(opt, folder, True))


def time_steps(width_name: str, device: torch.device, rounds: int, precision: str, compiled: bool) -> dict[str, dict]:
    """Seconds of a step of each stage. The teacher's answers are given, as the cache gives them: what asking once
    costs is in the last row, for one batch of patches."""
    width = WIDTHS[width_name]
    count, side = (2, 128) if device.type == 'cpu' else (8, 256)
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        steps, _, _ = plain_steps(width, device)
        model = our_model(width, device, Path(folder), precision, compiled)
        lq = torch.rand(count, 3, side, side)
        lq = lq.pin_memory() if device.type == 'cuda' else lq
        answer = torch.rand(count, 3, side, side)
        grey = lq.to(device) * 255
        rate = matrix_rate(device, model.dtype)
        for index, name in enumerate(STAGES):
            model.start_stage(index)
            sample = {'lq': lq, **({'teacher_bnn': answer} if name != 'bnn' else {})}

            def ours(sample: dict = sample) -> None:
                model.feed_data(sample)
                model.optimize_parameters(1)
            rows[name] = compared({'plain': lambda name=name: steps[name](grey), 'ours': ours}, rounds, device)
            with FlopCounterMode(display=False) as counter:
                ours()
            rows[name]['floor_seconds'] = counter.get_total_flops() / rate  # of its products and sums alone
        rows['matrix rate'] = {'tflops': rate / 1e12}
        total = {kind: sum(rows[name][f'{kind}_seconds'] for name in STAGES) for kind in ('plain', 'ours')}
        rows['all three'] = {'plain_seconds': total['plain'], 'ours_seconds': total['ours'],
                             'ratio': total['plain'] / total['ours']}
        model.finish_stage()
        frozen = model.nets['bnn']

        def asked_plainly() -> None:
            with torch.no_grad():
                reference.bnn(state, grey)
        state = reference.random_state(reference.official_unet_shapes(width['dim'], bnn=True))
        state = {key: value.to(device) for key, value in state.items()}

        def asked() -> None:
            with torch.no_grad(), torch.autocast(device.type, model.dtype, enabled=model.dtype != torch.float32):
                frozen(grey.contiguous(memory_format=torch.channels_last))
        rows['the BNN asked'] = compared({'plain': asked_plainly, 'ours': asked}, rounds, device)
        image = torch.rand(3, 2 * side, 2 * side, device=device) * 255
        with torch.autocast(device.type, model.dtype, enabled=model.dtype != torch.float32):
            seconds = alternating({'ask': lambda: sliding_window_predict(frozen, image, side, batch_size=count)}, 3, device)['ask']
        rows['asking once, a megapixel'] = {'ours_seconds': seconds / (4 * side * side) * 1e6}
    return rows


# ---- the rest ----

def time_local_std(device: torch.device, rounds: int) -> dict[str, dict]:
    """Two 256x256 patches (the texture map of one step)."""
    x = torch.rand(2, 3, 256, 256, device=device) * 255
    rows = {f'window {window}': compared({'plain': lambda w=window: reference.local_std(x, w),
                                          'ours': lambda w=window: local_std(x, w)}, rounds, device)
            for window in (7, 15)}
    rows['window 15 over 7'] = {'ratio': rows['window 15']['ours_seconds'] / rows['window 7']['ours_seconds']}
    return rows


def time_subsampling(device: torch.device, rounds: int) -> dict[str, dict]:
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
                    cell = x[image, :, 5 * row:5 * row + 5, 5 * column:5 * column + 5].reshape(c, 25)
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
    return {name: compared({'plain': loop, 'ours': ours}, rounds, device) for name, loop, ours in (
        ('pixel shuffle, by phases', phases, lambda: pd_down(x, 5)),
        ('SDAP, by cells', cells, lambda: random_sub_images(x, 5)),
        ('AMSNet, by pixels', pixels, lambda: random_partition(x, 2)))}


def time_loader(device: torch.device, rounds: int) -> dict[str, dict]:
    """Patches a second from sub-images in an LMDB, with and without the teacher's answers, one worker."""
    side, batch = (128, 2) if device.type == 'cpu' else (256, 8)
    rng = np.random.default_rng(0)
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(8):
            write_photo(Photo(rng.integers(0, 256, (1024, 1024, 3), dtype=np.uint8)), folder / 'p' / f'{number}.png')
        prepare_folder([folder / 'p'], folder / 'p.lmdb', size=512)
        from basicsr_sassid.data.teacher_cache import TeacherCache
        for cached in (False, True):
            dataset = NoisyImageDataset({'phase': 'train', 'dataroot_lq': str(folder / 'p.lmdb'), 'patch_size': side})
            if cached:
                cache = TeacherCache(folder / 'c.lmdb', dataset.sizes)
                cache.write((index, dataset.image(index)) for index in range(len(dataset)))
                dataset.teachers = {'bnn': cache}
            workers = 1 if device.type == 'cpu' else min(os.cpu_count() or 1, 8)
            loader = torch.utils.data.DataLoader(
                SeededDataset(dataset, 0), num_workers=workers, prefetch_factor=4,
                batch_sampler=RunSampler(len(dataset), batch, 0, 20 + 20 * rounds, 0))
            for number, _ in enumerate(loader, 1):
                if number == 20:
                    started = time.perf_counter()
            rows['with answers' if cached else 'noisy alone'] = {
                'batch_seconds': (time.perf_counter() - started) / (20 * rounds), 'workers': workers}
    return rows


def time_inference(device: torch.device, rounds: int, dim: int = 48) -> dict[str, dict]:
    """A whole photograph in tiles against the plain forward of the whole image in float32."""
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / 'net_g.pth'
        state = reference.random_state(reference.official_unet_shapes(dim))
        save_torch(state, weights)
        state = {key: value.to(device) for key, value in state.items()}
        denoise = Denoiser(weights, str(device))
        for height, width in ((512, 512), (1024, 1024), (1536, 2048)):
            image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)

            def whole(image: np.ndarray = image) -> None:
                with torch.no_grad():
                    x = torch.from_numpy(image).permute(2, 0, 1)[None].float().to(device)
                    reference.unet(state, x).clamp(0, 255).round().byte().cpu()
            row = compared({'plain': whole, 'ours': lambda image=image: denoise(image)}, max(rounds // 3, 2), device)
            row['megapixels_a_second'] = height * width / 1e6 / row['ours_seconds']
            rows[f'{width}x{height}'] = row
        if device.type == 'cpu':
            rows['onnxruntime 1024x1024'] = time_onnx(weights, state, rounds)
        rows.update(measure_memory(weights, str(device)))
    return rows


def time_onnx(weights: Path, state: dict[str, torch.Tensor], rounds: int) -> dict[str, float]:
    """The exported student in onnxruntime, a whole image in float32."""
    import onnxruntime

    from basicsr_sassid.inference.export import export_onnx
    path = weights.with_suffix('.onnx')
    export_onnx(weights, path)
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    x = torch.rand(1, 3, 1024, 1024)

    def whole() -> torch.Tensor:
        with torch.no_grad():
            return reference.unet(state, x * 255)

    def exported() -> np.ndarray:
        return session.run(None, {'lq': x.numpy()})[0]
    row = compared({'plain': whole, 'ours': exported}, max(rounds // 3, 2), torch.device('cpu'))
    row['megapixels_a_second'] = 1.048576 / row['ours_seconds']
    row['largest_difference'] = float(np.abs(exported() * 255 - whole().numpy()).max())
    return row


_MEMORY = '''
import re, sys, numpy as np, torch
from basicsr_sassid import Denoiser
def peak():  # in MiB; not getrusage's, which a process inherits from the one that started it
    return int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024
denoise = Denoiser(sys.argv[1], sys.argv[2])
side = int(sys.argv[3])
image = np.zeros((side, side, 3), np.uint8)
image[::2, ::3] = 200
before = peak()
denoise(image)
print(before, peak(),
      torch.cuda.max_memory_allocated() / 2 ** 20 if sys.argv[2] != 'cpu' else 0)
'''


def measure_memory(weights: Path, device: str) -> dict[str, dict]:
    """Peak resident memory of a fresh process, for photographs of 1, 9 and 36 megapixels. Linux alone."""
    rows = {}
    if not Path('/proc/self/status').is_file():
        return rows
    for side in (1000, 3000, 6000):
        done = subprocess.run([sys.executable, '-c', _MEMORY, str(weights), device, str(side)], text=True, check=True,
                              stdout=subprocess.PIPE, env={**os.environ, 'PYTHONPATH': str(ROOT)})
        loaded, peak, on_gpu = map(float, done.stdout.split()[-3:])
        rows[f'memory, {side * side / 1e6:.0f} megapixels'] = {
            'loaded_mib': loaded, 'peak_mib': peak, 'above_loaded_mib': peak - loaded, 'gpu_mib': on_gpu}
    return rows


def print_table(title: str, rows: dict[str, dict]) -> None:
    print(f'\n{title}')
    for name, row in rows.items():
        print(f'  {name:26}' + '  '.join(f'{key} {value:.4g}' for key, value in row.items()), flush=True)


def write_json(result: object, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + '\n')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('-o', '--output', help='JSON file for the figures')
    parser.add_argument('--only', choices=['steps', 'local_std', 'subsampling', 'loader', 'inference'])
    parser.add_argument('--width', choices=list(WIDTHS), help='of the steps; default both')
    parser.add_argument('--device', choices=['cpu', 'cuda'], help='default: the CPU, and a GPU if there is one')
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--precision', default='auto')
    parser.add_argument('--compile', action='store_true')
    args = parser.parse_args()
    devices = [args.device] if args.device else ['cpu'] + ['cuda'] * torch.cuda.is_available()
    result = {'torch': torch.__version__, 'threads': torch.get_num_threads(), 'precision': args.precision,
              'compile': args.compile}
    for kind in devices:
        device = torch.device(kind)
        result[kind] = {}
        print(f'{kind}: {torch.cuda.get_device_name() if kind == "cuda" else f"{torch.get_num_threads()} threads"}')
        if args.only in (None, 'steps'):
            for width in [args.width] if args.width else WIDTHS:
                rows = result[kind][f'steps, {width} width'] = time_steps(width, device, args.rounds, args.precision,
                                                                          args.compile)
                print_table(f'Training steps, {width} width', rows)
        for name, function in {'local_std': time_local_std, 'subsampling': time_subsampling, 'loader': time_loader,
                               'inference': time_inference}.items():
            if args.only in (None, name):
                result[kind][name] = function(device, args.rounds)
                print_table(name, result[kind][name])
    if args.output:
        write_json(result, Path(args.output))


if __name__ == '__main__':
    main()
