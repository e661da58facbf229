"""The training loop: any BasicSR model, with BasicSR's datasets, models, logger and checkpoints.

It reaches ``total_iter`` whatever the batch size, resumes where it was killed, and never leaves a partial checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from basicsr.models import build_model
from basicsr.models.base_model import BaseModel
from basicsr.utils import AvgTimer, MessageLogger, get_root_logger, get_time_str
from basicsr.utils.options import copy_opt_file, dict2str
from torch.utils.data import DataLoader

from basicsr_sassid.data.sampler import RunSampler, SeededDataset
from basicsr_sassid.io.atomic import make_folder
from basicsr_sassid.training.checkpoint import find_resume_state, save_model
from basicsr_sassid.training.datasets import build_eval_loader, open_dataset
from basicsr_sassid.training.dry_run import dry_run_test, dry_run_training
from basicsr_sassid.training.protocols import StagedTraining
from basicsr_sassid.training.runtime import prepare_folders, seed_everything, start_logging, start_tensorboard
from basicsr_sassid.utils.errors import UserError

OnIteration = Callable[[BaseModel, int], bool | None]


def train(opt: dict[str, Any], opt_file: str | None = None, on_iteration: OnIteration | None = None) -> BaseModel:
    """Train as the options say. The run's files are in the folders of opt['path'].

    Args:
        opt: of :func:`resolve_options`.
        opt_file: option file that is copied to the run's folder.
        on_iteration: called with the model and the iteration after every iteration, when what is due has been saved;
            the training ends where it returns True. With it, the log goes to its file alone.

    Returns:
        The model.

    Raises:
        UserError: bad options or data, found by a dry run before anything is moved or written; no space; a loss that is
            not finite.
    """
    torch.backends.cudnn.benchmark = True
    opt = {**opt, 'quiet': on_iteration is not None}
    seed_everything(opt['manual_seed'], 0, opt['rank'])
    state = find_resume_state(opt)
    dataset, val_loaders = build_data(opt)
    dry_run_training(opt, dataset, val_loaders, state)  # before anything is moved or written
    prepare_folders(opt, resuming=state is not None)
    if opt_file:
        copy_opt_file(opt_file, opt['path']['experiments_root'])
    logger = start_logging(opt, Path(opt['path']['log']) / f'train_{opt["name"]}_{get_time_str()}.log', opt['quiet'])
    logger.info(dict2str(opt))
    run = TrainingRun(opt, dataset, val_loaders, state, start_tensorboard(opt))
    if run.start_iter >= run.total_iter:
        logger.info(f'Nothing to do: all {run.total_iter} iterations are done.')
        save_model(run.model, -1, -1)  # the run may have been stopped just before
        return run.model
    started = time.time()
    for first, last in run.stage_spans():
        run.prepare_stage(first)
        for current_iter, batch in enumerate(run.batches(first, last), first + 1):
            run.train_step(batch, current_iter)
            run.log(current_iter)
            run.validate(current_iter)
            run.save(current_iter)  # after the validation, so that the state knows the best figures so far
            if on_iteration and on_iteration(run.model, current_iter):
                return run.model
            run.start_timers()
    save_model(run.model, -1, -1)
    logger.info(
        f'End of training after {run.total_iter} iterations, {time.time() - started:.0f} s; '
        f'networks in {opt["path"]["models"]}'
    )
    if run.tb_logger:
        run.tb_logger.close()
    return run.model


class TrainingRun:
    """One run: the model, its data, and what is due at an iteration."""

    def __init__(
        self,
        opt: dict[str, Any],
        dataset: Any,
        val_loaders: list[DataLoader],
        state: dict[str, Any] | None,
        tb_logger: Any,
    ) -> None:
        self.opt, self.dataset, self.val_loaders, self.tb_logger = opt, dataset, val_loaders, tb_logger
        self.start_iter, self.total_iter = state['iter'] if state else 0, opt['train']['total_iter']
        self.images_per_iter = opt['datasets']['train']['batch_size_per_gpu'] * opt['world_size']
        logger = get_root_logger()
        logger.info(
            f'{len(dataset)} training images, {self.images_per_iter} a batch; iterations '
            f'{self.start_iter + 1} to {self.total_iter}'
        )
        self.model: Any = build_model(opt)
        if state:
            self.model.resume_training(state)
            logger.info(f'Resuming from iteration {self.start_iter}.')
        # its time left is short by one iteration: it prints "-1 day" at the last
        self.message_logger = MessageLogger(
            {**opt, 'train': {**opt['train'], 'total_iter': self.total_iter + 1}}, self.start_iter + 1, tb_logger
        )
        ends = self.model.stage_ends() if isinstance(self.model, StagedTraining) else [self.total_iter]
        self.stage_ends = set(ends) - {0}
        self.val_freq = opt['val']['val_freq'] if opt.get('val') else None
        self.data_timer, self.iter_timer = AvgTimer(), AvgTimer()

    def stage_spans(self) -> Iterator[tuple[int, int]]:
        """The remaining stages: the iteration before the first one, and the last one."""
        yield from pairwise([self.start_iter, *sorted(end for end in self.stage_ends if end > self.start_iter)])

    def prepare_stage(self, first: int) -> None:
        """Let a staged model prepare the stage that follows iteration ``first``: teacher cache, calibration."""
        if isinstance(self.model, StagedTraining):
            self.model.prepare_stage(first + 1, self.dataset)

    def batches(self, first: int, last: int) -> DataLoader:
        """The batches of iterations ``first + 1`` to ``last``."""
        block, seed = self.opt['datasets']['train'], self.opt['manual_seed']
        sampler = RunSampler(
            len(self.dataset), block['batch_size_per_gpu'], first, last, seed, self.opt['rank'], self.opt['world_size']
        )
        workers = block['num_worker_per_gpu']
        self.start_timers()
        return DataLoader(
            SeededDataset(self.dataset, seed),
            batch_sampler=sampler,
            num_workers=workers,
            pin_memory=self.opt['num_gpu'] > 0,
            prefetch_factor=4 if workers else None,
        )

    def train_step(self, batch: dict[str, Any], current_iter: int) -> None:
        """One iteration."""
        self.data_timer.record()
        # as the crops, the random numbers of a step depend on the iteration alone
        seed_everything(self.opt['manual_seed'], current_iter, self.opt['rank'])
        self.model.update_learning_rate(current_iter, warmup_iter=self.opt['train'].get('warmup_iter', -1))
        self.model.feed_data(batch)
        self.model.optimize_parameters(current_iter)
        self.iter_timer.record()

    def log(self, current_iter: int) -> None:
        """Write losses and learning rates to the log where that is due."""
        if self._is_due(self.opt['logger']['print_freq'], current_iter):
            self.message_logger(
                {
                    'epoch': self._epoch(current_iter),
                    'iter': current_iter,
                    'lrs': self.model.get_current_learning_rate(),
                    'time': self.iter_timer.get_avg_time(),
                    'data_time': self.data_timer.get_avg_time(),
                    **self.model.get_current_log(),
                }
            )

    def validate(self, current_iter: int) -> None:
        """Validate where that is due."""
        if self.val_freq and self._is_due(self.val_freq, current_iter):
            for loader in self.val_loaders:
                self.model.validation(loader, current_iter, self.tb_logger, self.opt['val'].get('save_img', False))

    def save(self, current_iter: int) -> None:
        """Save a checkpoint where that is due."""
        if self._is_due(self.opt['logger']['save_checkpoint_freq'], current_iter):
            save_model(self.model, self._epoch(current_iter), current_iter)

    def start_timers(self) -> None:
        """Start the timers of the next iteration."""
        self.data_timer.start()
        self.iter_timer.start()

    def _is_due(self, every: int, current_iter: int) -> bool:
        return current_iter % every == 0 or current_iter in self.stage_ends

    def _epoch(self, current_iter: int) -> int:
        return current_iter * self.images_per_iter // len(self.dataset)


def build_data(opt: dict[str, Any]) -> tuple[Any, list[DataLoader]]:
    """The training set and the validation loaders. Raises UserError."""
    if 'train' not in opt['datasets']:
        raise UserError('datasets: the block train is missing')
    loaders = [
        build_eval_loader(block, f'datasets.{name}') for name, block in opt['datasets'].items() if name != 'train'
    ]
    return open_dataset(opt['datasets']['train'], 'datasets.train'), loaders


def test(opt: dict[str, Any]) -> BaseModel:
    """Apply the network of the options (of :func:`resolve_options`) to every test set. Images are in opt['path'].

    Raises:
        UserError: bad data or options, before anything is written.
    """
    loaders = [build_eval_loader(block, f'datasets.{name}') for name, block in sorted(opt['datasets'].items())]
    dry_run_test(opt, loaders)
    for key in ('results_root', 'visualization'):
        make_folder(opt['path'][key])
    logger = start_logging(opt, Path(opt['path']['log']) / f'test_{opt["name"]}_{get_time_str()}.log')
    logger.info(dict2str(opt))
    model = build_model(opt)
    for loader in loaders:
        dataset: Any = loader.dataset
        logger.info(f'Testing {dataset.opt["name"]}: {len(loader)} images')
        model.validation(loader, opt['name'], None, opt['val'].get('save_img', False))
    return model
