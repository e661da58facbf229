"""Shared by the ablations: photographs with clean references, options of a small training, PSNR."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
# this clone, its speed benchmarks, and the reference implementation of its tests
sys.path[:0] = [str(ROOT), str(ROOT / 'benchmarks'), str(ROOT / 'tests')]

from basicsr_sassid import demo, estimate_noise  # noqa: E402
from basicsr_sassid.data.prepare.folder import prepare_folder  # noqa: E402
from basicsr_sassid.demo import Pairs, mean_psnr  # noqa: E402
from basicsr_sassid.io.photo import list_images  # noqa: E402
from basicsr_sassid.noise.model import NoiseModel  # noqa: E402
from basicsr_sassid.training.options import customize  # noqa: E402
from basicsr_sassid.utils.sequences import evenly_spaced  # noqa: E402

MAX_PAIRS = 16  # in a mean PSNR, evenly spaced


@dataclasses.dataclass(frozen=True)
class Photographs:
    """The photographs of an ablation.

    Attributes:
        database: LMDB of all noisy images.
        pairs: at most 16 (noisy image, clean reference).
        noise: of all noisy images that have a reference.
        networks: changes of the option blocks ``network_*`` that these photographs need.
    """

    database: Path
    pairs: Pairs
    noise: NoiseModel
    networks: dict[str, dict[str, Any]]


def add_photograph_arguments(parser: argparse.ArgumentParser) -> None:
    """``--noisy`` and ``--reference``."""
    parser.add_argument(
        '--noisy', type=Path, help='folder of noisy photographs; default: the simulated ones of the demo'
    )
    parser.add_argument('--reference', type=Path, help='folder of their clean references, for the PSNR alone')


def photograph_folders(args: argparse.Namespace, folder: Path) -> tuple[Path, Path]:
    """The folders of noisy photographs and of their references that the arguments name, or simulated ones below
    ``folder``."""
    if (args.noisy is None) != (args.reference is None):
        sys.exit('--noisy and --reference: give both, or none for the simulated photographs')
    return demo.simulate_photographs(folder / 'photographs') if args.noisy is None else (args.noisy, args.reference)


def read_photographs(args: argparse.Namespace, folder: Path, every: int = 1) -> Photographs:
    """The photographs that the arguments name; an LMDB of the first of every ``every`` is kept in ``folder``."""
    noisy, reference = photograph_folders(args, folder)
    database = folder / 'noisy.lmdb'
    if not database.exists():
        prepare_folder(list_images(noisy)[::every], database, size=512)
    pairs = demo.read_pairs(noisy, reference)
    return Photographs(
        database,
        list(evenly_spaced(pairs, MAX_PAIRS)),
        estimate_noise(image for image, _ in pairs),
        demo.SIMULATED_NETWORKS if args.noisy is None else {},
    )


def small_training(recipe: str, name: str, photographs: Photographs, seed: int, scale: float = 1.0) -> dict[str, Any]:
    """The options of a recipe (a file of options/) for photographs; its stages have ``scale`` times their length."""
    opt = customize(recipe, name, photographs.database, seed)
    opt['datasets']['train']['num_worker_per_gpu'] = 0
    opt['logger'].update(print_freq=10**9, save_checkpoint_freq=10**9)
    for network, changes in photographs.networks.items():
        if network in opt:
            opt[network].update(changes)
    for block in opt['train']['stages'].values():
        block['iter'] = max(round(block['iter'] * scale), 1)
    return opt


def network_psnr(network: Callable[[torch.Tensor], torch.Tensor], pairs: Pairs) -> float:
    """Mean PSNR in dB of a network that maps (1, 3, H, W) in grey levels to the same."""

    def denoise(noisy: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            result = network(torch.from_numpy(noisy).permute(2, 0, 1)[None].float())[0].permute(1, 2, 0)
        return result.float().clamp(0, 255).round().byte().cpu().numpy()

    return mean_psnr(denoise, pairs)
