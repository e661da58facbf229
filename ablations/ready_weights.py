"""Weights for everybody: would a student trained once, on simulated camera noise of many kinds, be worth shipping?

    python ablations/ready_weights.py --minutes 25 --data DATA -o results/ready.safetensors

Trains DenoisingUNet on simulated noise over the photographs of scikit-image (free licences), with their clean
references: random ISO, JPEG quality, size. DATA holds sidd_val and polyu, each with noisy/ and clean/. The weights are
written only if they beat OpenCV's non-local means (with the h that suits the clean references best) on both; the
spectral denoiser, which needs no weights, is in the table too.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import skimage.data
import torch

from common import mean_psnr, network_psnr  # isort: skip

from basicsr_sassid import SpectralDenoiser, demo
from basicsr_sassid.evaluation.context import MethodContext
from basicsr_sassid.evaluation.methods import build_method
from basicsr_sassid.evaluation.schema import OpenCVNLMOptions
from basicsr_sassid.io.atomic import write_json
from basicsr_sassid.io.checkpoint import build_network, write_safetensors
from basicsr_sassid.noise.synthetic import simulate_camera
from basicsr_sassid.utils.device import choose_dtype
from basicsr_sassid.utils.versions import versions

PATCH, BATCH = 128, 4
NETWORK = {'type': 'DenoisingUNet', 'dim': 16}


def scenes() -> list[np.ndarray]:
    """Photographs of scikit-image, (H, W, 3) uint8."""
    data = skimage.data
    return [
        data.astronaut(),
        data.chelsea(),
        data.coffee(),
        *data.stereo_motorcycle()[:2],
        data.rocket(),
        data.immunohistochemistry(),
        data.retina()[300:1100, 300:1100],
        *(np.repeat(image[..., None], 3, 2) for image in (data.brick(), data.grass(), data.gravel(), data.coins())),
    ]


def draw(sources: list[np.ndarray], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(noisy, clean) of one patch: (128, 128, 3) uint8."""
    source = sources[rng.integers(len(sources))]
    scale = rng.uniform(0.7, 3)
    side = math.ceil((PATCH + 16) / scale)
    top, left = (int(rng.integers(length - side + 1)) for length in source.shape[:2])
    part = np.rot90(source[top : top + side, left : left + side], rng.integers(4))[:, :: rng.choice([-1, 1])]
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    scene = cv2.resize(np.ascontiguousarray(part), (PATCH + 16, PATCH + 16), interpolation=interpolation)
    scene = (scene * rng.uniform(0.4, 1) + rng.uniform(0, 40)).clip(0, 255) * rng.uniform(0.8, 1, 3)
    quality = int(rng.integers(80, 100)) if rng.random() < 0.7 else None
    noisy, clean = simulate_camera(
        scene.round().astype(np.uint8), rng, 10 ** rng.uniform(1.3, 3.6), rng.uniform(0, 4), quality
    )
    return noisy[8:-8, 8:-8], clean[8:-8, 8:-8]


def train(minutes: float) -> tuple[torch.nn.Module, int]:
    """Train with clean references for minutes. Returns the network and the number of iterations."""
    torch.manual_seed(0)
    rng, sources = np.random.default_rng(0), scenes()
    net = build_network(NETWORK, 'network_g').to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters(), 2e-3, betas=(0.9, 0.99))
    dtype = choose_dtype('auto', torch.device('cpu'))
    started, count = time.time(), 0
    while (progress := (time.time() - started) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group['lr'] = 2e-3 * min((count + 1) / 100, 1) * (1 + math.cos(math.pi * progress)) / 2
        pairs = [draw(sources, rng) for _ in range(BATCH)]
        noisy, clean = (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() for images in zip(*pairs))
        with torch.autocast('cpu', dtype, enabled=dtype != torch.float32):
            prediction = net(noisy.contiguous(memory_format=torch.channels_last))
        error = (prediction.float() - clean).abs().mean(dim=(1, 2, 3))
        noise_level = (noisy - clean).abs().mean(dim=(1, 2, 3))  # weak noise matters as much as strong
        loss = (error / (noise_level + 1)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        count += 1
        if count % 200 == 0:
            print(f'{count}: {loss.item():.3f}, {progress:.0%}', flush=True)
    return net.eval(), count


def evaluate(net: torch.nn.Module, pairs: demo.Pairs) -> dict[str, float]:
    """Mean PSNR in dB of the network and of methods without weights."""
    context = MethodContext(pairs, 'cpu')
    nlm = [build_method(OpenCVNLMOptions(type='opencv_nlm', h=h), context).run for h in demo.NLM_STRENGTHS]
    return {
        'noisy': mean_psnr(lambda image: image, pairs),
        'non-local means, best h': max(mean_psnr(run, pairs) for run in nlm),
        'spectral': mean_psnr(SpectralDenoiser(context.noise), pairs),
        'ready weights': network_psnr(net, pairs),
    }


def main() -> None:
    """Parse the command line, train, print the table; write the weights where they are worth it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--minutes', type=float, default=25)
    parser.add_argument('--data', required=True, type=Path, help='with sidd_val and polyu')
    parser.add_argument('-o', '--output', type=Path, default=Path('results/ready.safetensors'))
    args = parser.parse_args()
    net, count = train(args.minutes)
    table = {}
    for name in ('sidd_val', 'polyu'):
        table[name] = evaluate(net, demo.read_pairs(args.data / name / 'noisy', args.data / name / 'clean'))
        print(name, {method: round(value, 2) for method, value in table[name].items()}, flush=True)
    write_json({'iterations': count, 'table': table}, args.output.with_suffix('.json'), indent=2)
    if all(row['ready weights'] > row['non-local means, best h'] for row in table.values()):
        write_safetensors(
            net.state_dict(),
            {
                'network': NETWORK,
                'img_range': 255,
                'method': 'supervised, simulated camera noise',
                'iterations': count,
                'psnr': table,
                'versions': versions(),
            },
            args.output,
        )
        print(f'{args.output}: worth shipping')
    else:
        print('not written: non-local means is better on one of the sets')


if __name__ == '__main__':
    sys.exit(main())
