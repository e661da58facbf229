"""Training steps of the three stages: the reference implementation, and the model as a training builds it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from basicsr_sassid.io.photo import Photo, write_photo
from basicsr_sassid.models.three_stage_model import ThreeStageModel
from basicsr_sassid.ops.sliding_window import sliding_window_predict
from basicsr_sassid.training.options import resolve_options

import reference
from timing import compare, median_seconds

WIDTHS = {
    'full': {'dim': 48, 'lan_dim': 64, 'receptive_size': 3},
    'cpu': {'dim': 16, 'lan_dim': 32, 'receptive_size': 7},
}
STAGES = ('bnn', 'lan', 'unet')


def matrix_rate(device: torch.device, dtype: torch.dtype, side: int = 2048) -> float:
    """Floating-point operations a second in a large matrix product."""
    a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / median_seconds({'product': lambda: a @ b}, 9, device)['product']


def reference_steps(
    width: dict[str, int], device: torch.device, blind_size: int = 9, clip: float | None = None
) -> tuple[dict[str, Callable[[torch.Tensor], None]], dict, dict]:
    """One training step a stage, as one would write it from the paper; the weights and the optimisers.

    Args:
        width: one of :data:`WIDTHS`.
        device: of the weights.
        blind_size: of the BNN.
        clip: largest gradient norm; None: off.
    """
    shapes = {
        'bnn': reference.official_unet_shapes(width['dim'], bnn=True),
        'lan': reference.official_lan_shapes(width['receptive_size'], width['lan_dim']),
        'unet': reference.official_unet_shapes(width['dim']),
    }
    states = {
        name: {key: value.to(device).requires_grad_() for key, value in reference.random_state(shape).items()}
        for name, shape in shapes.items()
    }
    states['bnn'].update(
        {f'output_conv.{kind}': states['bnn'][f'output_block.4.{kind}'] for kind in ('weight', 'bias')}
    )
    optimizers = {
        name: torch.optim.Adam(list({id(value): value for value in state.values()}.values()), 3e-4)
        for name, state in states.items()
    }

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


def our_model(
    width: dict[str, int], device: torch.device, folder: Path, precision: str, compiled: bool
) -> ThreeStageModel:
    """The model as a training builds it."""
    write_photo(Photo(np.zeros((64, 64, 3), np.uint8)), folder / 'photographs' / 'black.png')
    stage = {'iter': 10**6, 'optim': {'type': 'Adam', 'lr': 3e-4}, 'scheduler': {'type': 'CosineAnnealingLR'}}
    opt = {
        'name': 'speed',
        'model_type': 'ThreeStageModel',
        'num_gpu': int(device.type == 'cuda'),
        'manual_seed': 0,
        'datasets': {
            'train': {
                'name': 'noisy',
                'type': 'NoisyImageDataset',
                'patch_size': 32,
                'dataroot_lq': str(folder / 'photographs'),
            }
        },
        'network_bnn': {'type': 'BNN', 'dim': width['dim']},
        'network_lan': {'type': 'LAN', 'dim': width['lan_dim'], 'receptive_size': width['receptive_size']},
        'network_g': {'type': 'DenoisingUNet', 'dim': width['dim']},
        'path': {},
        'train': {'precision': precision, 'compile': compiled, 'stages': {name: {**stage} for name in STAGES}},
        'logger': {'print_freq': 100, 'save_checkpoint_freq': 10**6},
    }
    return ThreeStageModel(resolve_options(opt, folder, True))


def time_steps(
    width_name: str, device: torch.device, rounds: int, precision: str, compiled: bool
) -> dict[str, dict[str, float]]:
    """Seconds of a step of each stage. The teachers' predictions are given, as a teacher cache gives them; the last
    rows have the cost of the predictions themselves: of one batch of patches, and of a megapixel for the cache.
    """
    width = WIDTHS[width_name]
    count, side = (2, 128) if device.type == 'cpu' else (8, 256)
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        steps, _, _ = reference_steps(width, device)
        model = our_model(width, device, Path(folder), precision, compiled)
        lq = torch.rand(count, 3, side, side)
        lq = lq.pin_memory() if device.type == 'cuda' else lq
        prediction = torch.rand(count, 3, side, side)
        grey_levels = lq.to(device) * 255
        rate = matrix_rate(device, model.dtype)
        for index, name in enumerate(STAGES):
            model.start_stage(index)
            sample = {'lq': lq, **({'teacher_bnn': prediction} if name != 'bnn' else {})}

            def ours(sample: dict[str, Any] = sample) -> None:
                model.feed_data(sample)
                model.optimize_parameters(1)

            rows[name] = compare(lambda name=name: steps[name](grey_levels), ours, rounds, device)
            with FlopCounterMode(display=False) as counter:
                ours()
            rows[name]['floor_seconds'] = counter.get_total_flops() / rate  # of its products and sums alone
        rows['matrix rate'] = {'tflops': rate / 1e12}
        total = {kind: sum(rows[name][f'{kind}_seconds'] for name in STAGES) for kind in ('reference', 'ours')}
        rows['all three'] = {
            'reference_seconds': total['reference'],
            'ours_seconds': total['ours'],
            'ratio': total['reference'] / total['ours'],
        }
        model.finish_stage()
        rows.update(_time_teacher(model, grey_levels, width['dim'], rounds))
    return rows


def _time_teacher(
    model: ThreeStageModel, grey_levels: torch.Tensor, dim: int, rounds: int
) -> dict[str, dict[str, float]]:
    """The frozen BNN on a batch (N, 3, H, H) in grey levels, and on a whole image as for the teacher cache."""
    device, (count, _, side, _) = grey_levels.device, grey_levels.shape
    bnn = model.nets['bnn']
    state = reference.random_state(reference.official_unet_shapes(dim, bnn=True))
    state = {key: value.to(device) for key, value in state.items()}

    def reference_forward() -> None:
        with torch.no_grad():
            reference.bnn(state, grey_levels)

    def forward() -> None:
        with torch.no_grad(), model.autocast():
            bnn(grey_levels.contiguous(memory_format=torch.channels_last))

    image = torch.rand(3, 2 * side, 2 * side, device=device) * 255

    def whole_image() -> None:
        with model.autocast():
            sliding_window_predict(bnn, image, side, batch_size=count)

    seconds = median_seconds({'image': whole_image}, 3, device)['image']
    return {
        'BNN forward, one batch': compare(reference_forward, forward, rounds, device),
        'teacher cache, one megapixel': {'ours_seconds': seconds / (4 * side * side) * 1e6},
    }
