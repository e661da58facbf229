"""A dry run of an option file: everything that it names is built and called once on little data.

It precedes the first change on disk, so that an error in the last stage, or in a metric, costs neither hours nor the
folder of an earlier run. Random states and options are as before when it ends.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from basicsr.metrics import calculate_metric
from basicsr.models import build_model
from basicsr.utils.registry import METRIC_REGISTRY
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from basicsr_sassid.data.sampler import restored_random_state
from basicsr_sassid.training.datasets import first_sample
from basicsr_sassid.training.protocols import StagedTraining
from basicsr_sassid.training.runtime import silence
from basicsr_sassid.utils.errors import UserError
from basicsr_sassid.utils.option_checks import argument_names, check_choice, check_keys, check_type

_METRIC_SIDE = 256  # pixels, of the images on which metrics are tried: NIQE needs more than 96
_TEST_SIDE = 128  # pixels of a test image, at most


def dry_run_training(
    opt: Mapping[str, Any], dataset: Any, val_loaders: Sequence[DataLoader], state: Mapping[str, Any] | None
) -> None:
    """One iteration of each stage on one patch, each metric on two small images, the first image of each dataset.

    Args:
        opt: of :func:`resolve_options`.
        dataset: the training set.
        val_loaders: of the validation sets.
        state: training state to resume from, or None.

    Raises:
        UserError: names the option or the dataset that cannot be used.
    """
    _check_logger(opt['logger'])
    with _dry(opt) as trial:
        _check_evaluation(trial, val_loaders)
        model = _build(trial)
        if isinstance(model, StagedTraining):
            model.check_dataset(dataset)
        sample = first_sample(dataset, 'datasets.train')
        for iteration in _first_iterations(model):
            # a model of its own for each: the step of one stage does not reach the targets of the next
            _try_iteration(_build(trial), trial, sample, iteration)
        if state:
            with _named('resume', trial):
                _build(trial).resume_training(state)


def dry_run_test(opt: Mapping[str, Any], loaders: Sequence[DataLoader]) -> None:
    """The network on a corner of the first image of each test set, and each metric. Raises UserError."""
    with _dry(opt) as trial:
        samples = _check_evaluation(trial, loaders)
        model = _build(trial)
        for sample in samples:
            if isinstance(sample.get('lq'), Tensor) and sample['lq'].dim() == 3:
                corner = sample['lq'][:, :_TEST_SIDE, :_TEST_SIDE]
                with _named('network_g', trial, f'an image of {corner.shape[1]}x{corner.shape[2]} pixels'):
                    model.feed_data(default_collate([{**sample, 'lq': corner}]))
                    model.test()


def check_metrics(metrics: Mapping[str, dict[str, Any]], where: str = 'val.metrics') -> None:
    """Call each metric once on two small images. Raises UserError: an unknown one, or a refused argument."""
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (_METRIC_SIDE, _METRIC_SIDE, 3), np.uint8) for name in ('img', 'img2')}
    for name, block in metrics.items():
        place = f'{where}.{name}'
        check_keys(block, block, place, required=['type'])
        check_type(METRIC_REGISTRY, block['type'], f'{place}.type')
        check_choice(block.get('better', 'higher'), ('higher', 'lower'), f'{place}.better')
        metric: Any = METRIC_REGISTRY.get(block['type'])
        if metric.__module__.startswith('basicsr'):  # these ignore what they do not know
            known = set(argument_names(metric)) - {'img', 'img2'}
            check_keys(block, ['type', 'better', *known], place)
        try:
            value = float(calculate_metric(images, block))
        except UserError as error:
            raise UserError(f'{place}: {error}') from error
        except Exception as error:  # a metric of anybody's
            raise UserError(f'{place}: {block["type"]} fails on a small image: {_first_line(error)}') from error
        if np.isnan(value):
            raise UserError(f'{place}: {block["type"]} gives nan for an image of {_METRIC_SIDE}x{_METRIC_SIDE} pixels')


@contextlib.contextmanager
def _dry(opt: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Options of their own for the block: one process, nothing compiled, no log."""
    trial = {**copy.deepcopy(dict(opt)), 'dist': False, 'world_size': 1, 'quiet': True}
    if 'compile' in trial.get('train', {}):
        trial['train']['compile'] = False
    silence()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with restored_random_state(), torch.random.fork_rng(devices), np.errstate(all='ignore'):
        yield trial
    if devices:
        torch.cuda.empty_cache()


def _check_evaluation(opt: Mapping[str, Any], loaders: Sequence[DataLoader]) -> list[dict[str, Any]]:
    """The first sample of each validation or test set."""
    check_metrics((opt.get('val') or {}).get('metrics') or {})
    datasets: list[Any] = [loader.dataset for loader in loaders]
    return [first_sample(dataset, f'datasets: {dataset.opt["name"]}') for dataset in datasets]


def _check_logger(logger: Mapping[str, Any]) -> None:
    wants_wandb = bool((logger.get('wandb') or {}).get('project'))
    for key, package, is_wanted in (
        ('use_tb_logger', 'tensorboard', logger['use_tb_logger']),
        ('wandb', 'wandb', wants_wandb),
    ):
        if is_wanted and importlib.util.find_spec(package) is None:
            raise UserError(f'logger.{key}: {package} is not installed. pip install {package}, or leave it out.')
    if wants_wandb and not logger['use_tb_logger']:
        raise UserError('logger.wandb: it needs use_tb_logger: true')


def _build(opt: dict[str, Any]) -> Any:
    with _named('model_type', opt):
        return build_model(copy.deepcopy(opt))  # BasicSR's models take keys out of their options


def _first_iterations(model: Any) -> list[int]:
    """The first iteration of each stage; that in which all parts of a model take their steps."""
    if not isinstance(model, StagedTraining):
        return [getattr(model, 'complete_iteration', 1)]
    starts = [0, *model.stage_ends()]
    return [start + 1 for start, end in zip(starts, starts[1:]) if end > start]


def _try_iteration(model: Any, opt: Mapping[str, Any], sample: dict[str, Any], iteration: int) -> None:
    patch = sample.get('lq')
    size = f'a patch of {patch.shape[-2]}x{patch.shape[-1]} pixels' if isinstance(patch, Tensor) else 'a sample'
    with _named('train', opt, f'{size} in the stage of iteration {iteration}'):
        model.update_learning_rate(iteration, warmup_iter=opt['train'].get('warmup_iter', -1))
    stage = getattr(model, 'stage', None)
    where = f'train.stages.{stage.name} (network_{stage.network})' if stage else 'train'
    with _named(where, opt, size):
        model.feed_data(default_collate([sample]))
        model.optimize_parameters(iteration)
        log = model.get_current_log()
    for name, value in log.items():
        if not np.isfinite(value):
            raise UserError(f'{where}: the loss {name} of the first iteration is {value}')


@contextlib.contextmanager
def _named(where: str, opt: Mapping[str, Any], what: str = '') -> Iterator[None]:
    """Turn any error into a UserError that names the option."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # networks, losses and models of anybody's
        raise UserError(
            f'{where}: {opt["model_type"]} fails{" on " + what if what else ""}: '
            f'{type(error).__name__}: {_first_line(error)[:300]}'
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
