"""Frozen teachers: whether running them once per image pays, and the cache of their predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from basicsr.utils import get_root_logger
from torch import Tensor, nn
from tqdm import tqdm

from basicsr_sassid.data.teacher_cache import TeacherCache, fingerprint
from basicsr_sassid.ops.sliding_window import sliding_window_cost
from basicsr_sassid.training.protocols import WholeImageDataset
from basicsr_sassid.training.schema import TrainOptions
from basicsr_sassid.training.stages import Stage
from basicsr_sassid.utils.errors import UserError


def patch_pixels(opt: Mapping[str, Any], stages: Sequence[Stage], stage_iters: Sequence[int], name: str) -> int:
    """Pixels of all patches that the stages with teacher ``name`` draw."""
    block = opt['datasets']['train']
    iters = sum(length for stage, length in zip(stages, stage_iters) if name in stage.cached)
    return iters * block['batch_size_per_gpu'] * opt['world_size'] * (block.get('patch_size') or 0) ** 2


def should_cache(
    options: TrainOptions, name: str, dataset: object, pixels: int, relative_cost: float = 1.0, quiet: bool = False
) -> bool:
    """Whether the predictions of teacher ``name`` are cached.

    Args:
        options: block ``train``: ``teacher_cache`` and ``teacher_ensemble``.
        name: of the teacher, for the log.
        dataset: the training set.
        pixels: of all patches that the teacher would predict on the fly, see :func:`patch_pixels`.
        relative_cost: of a cached prediction, which may be one of several blind sizes at once, as a multiple of an
            on-the-fly prediction's.
        quiet: do not log why there is no cache.

    Raises:
        UserError: a cache is demanded, and the dataset gives no whole images.
    """
    mode = options.teacher_cache
    check_whole_images(options, dataset)
    if not isinstance(dataset, WholeImageDataset):
        return False
    if mode != 'auto':
        return mode in ('lmdb', 'memory')
    views = 8 if options.teacher_ensemble else 1
    cached = sum(sliding_window_cost(size, dataset.patch_size) for size in dataset.sizes) * views * relative_cost
    if cached > pixels and not quiet:
        get_root_logger().info(
            f'Teacher cache off: caching network_{name} needs {cached / 1e6:,.1f} Mpx of forward passes, on-the-fly '
            f'targets need {pixels / 1e6:,.1f} Mpx.'
        )
    return cached <= pixels


def check_whole_images(options: TrainOptions, dataset: object) -> None:
    """Raise UserError if a cache is demanded, and the dataset gives no whole images."""
    if options.teacher_cache in ('lmdb', 'memory') and not isinstance(dataset, WholeImageDataset):
        raise UserError(
            f'train.teacher_cache: {options.teacher_cache} needs NoisyImageDataset, not {type(dataset).__name__}. Set '
            'it to off.'
        )


def build_teacher_cache(
    name: str,
    predict: Callable[[np.ndarray], np.ndarray],
    dataset: WholeImageDataset,
    cache: TeacherCache,
    rank: int = 0,
    world_size: int = 1,
    show_progress: bool = True,
) -> None:
    """Run a teacher on every image that is not in the cache yet. The processes of a run share the work.

    Args:
        name: of the teacher, for the log.
        predict: (H, W, 3) float32 in [0, 1] -> the target, (H, W, C), likewise.
        dataset: the training set.
        cache: of its images.
        rank, world_size: this process among those of the run.
        show_progress: draw a progress bar.

    Raises:
        UserError: not enough space, or the cache cannot be written.
    """
    missing = cache.missing()
    _barrier(world_size)  # every process has looked before one writes
    get_root_logger().info(
        f'Teacher cache: network_{name} predicts {len(missing)} of {len(dataset)} images, '
        f'{cache.num_bytes(missing) / 1e9:.2f} GB in {cache.folder or "memory"}'
    )
    cache.check_space(missing)

    def predictions() -> Iterator[tuple[int, np.ndarray]]:
        own = missing[rank::world_size]
        for index in tqdm(
            own, f'teacher cache: network_{name}', unit='image', leave=False, disable=rank != 0 or not show_progress
        ):
            yield index, predict(dataset.image(index))

    cache.write(predictions())
    _barrier(world_size)
    if world_size > 1:
        cache.share()


def cache_folder(
    experiments_root: str, name: str, net: nn.Module, dataset: WholeImageDataset, settings: dict[str, Any]
) -> Path:
    """The LMDB of a teacher's cache, named by the teacher's weights, the images and the settings."""
    key = fingerprint(net.state_dict(), dataset.content_key(), settings)
    return Path(experiments_root) / 'teacher_cache' / f'{name}_{key}.lmdb'


def whole_image_target(
    predict: Callable[[Tensor], Tensor],
    postprocess: Callable[[Tensor, Tensor], Tensor],
    image: np.ndarray,
    img_range: float,
    device: torch.device,
) -> np.ndarray:
    """The target of a teacher for a whole image: (H, W, 3) -> (H, W, C), float32 in [0, 1].

    Args:
        predict: noisy image to prediction, (3, H, W) to (C, H, W) in [0, img_range].
        postprocess: prediction and noisy image to the target, (1, C, H, W) and (1, 3, H, W), likewise.
        image: the noisy image.
        img_range: value of white for the teacher.
        device: of the teacher.
    """
    noisy = torch.from_numpy(image).permute(2, 0, 1).to(device) * img_range
    with torch.no_grad():
        prediction = predict(noisy)
        target = postprocess(prediction[None], noisy[None])[0]
    return (target / img_range).permute(1, 2, 0).cpu().numpy()


def _barrier(world_size: int) -> None:
    if world_size > 1:
        torch.distributed.barrier()
