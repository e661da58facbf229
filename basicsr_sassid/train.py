"""Train any BasicSR model, ours registered: python -m basicsr_sassid.train -opt options/....yml

BasicSR's datasets, models, logger and checkpoints in a loop of our own, which reaches ``total_iter`` whatever the
batch size, resumes where it was killed, and never leaves half a checkpoint.
"""
from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file: its folder must not shadow top-level modules (data, test ...)
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import basicsr_sassid  # noqa: F401  before basicsr: makes it importable, and registers our parts

# isort: split
import argparse
import os
import random
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import torch
from basicsr.data import build_dataset
from basicsr.models import build_model
from basicsr.models.base_model import BaseModel
from basicsr.utils import AvgTimer, MessageLogger, check_resume, get_time_str, init_tb_logger, init_wandb_logger
from basicsr.utils.options import copy_opt_file, dict2str
from torch.utils.data import DataLoader, Dataset

from basicsr_sassid._checks import UserError
from basicsr_sassid._files import make_folder
from basicsr_sassid._options import add_arguments, complete_options, read_options
from basicsr_sassid._run import build_eval_loader, on_error, sorted_dataset, start_logging, start_processes
from basicsr_sassid.data.draw_util import RunSampler, SeededDataset

Watch = Callable[[BaseModel, int], bool | None]


def train(opt: dict, opt_file: str | None = None, watch: Watch | None = None) -> BaseModel:
    """Train as ``opt`` (from complete_options) says. Returns the model; files are in opt['path'].

    ``watch(model, current_iter)`` is called after every iteration, when what is due has been saved; when it returns
    True the training ends there. With it nothing is printed: the log is in its file.
    """
    opt['quiet'] = watch is not None
    torch.backends.cudnn.benchmark = True
    seed_everything(opt['manual_seed'], 0, opt['rank'])
    state = load_resume_state(opt)
    start_iter, total_iter = state['iter'] if state else 0, opt['train']['total_iter']
    dataset, val_loaders = build_data(opt)  # may find bad data: before anything is moved or written
    prepare_folders(opt, resuming=state is not None)
    if opt_file:
        copy_opt_file(opt_file, opt['path']['experiments_root'])
    logger = start_logging(opt, Path(opt['path']['log']) / f'train_{opt["name"]}_{get_time_str()}.log')
    logger.info(dict2str(opt))
    tb_logger = start_tensorboard(opt)

    num_images, per_iter = len(dataset), opt['datasets']['train']['batch_size_per_gpu'] * opt['world_size']
    logger.info(f'{num_images} training images, {per_iter} a batch; iterations {start_iter + 1} to {total_iter}')
    model = build_model(opt)
    if state:
        model.resume_training(state)
        logger.info(f'Resuming from iteration {start_iter}.')
    if start_iter >= total_iter:
        logger.info(f'Nothing to do: all {total_iter} iterations are done.')
        save(model, -1, -1)  # the run may have been stopped just before
        return model
    # its time left is short by one iteration: it says "-1 day" at the last
    message_logger = MessageLogger({**opt, 'train': {**opt['train'], 'total_iter': total_iter + 1}}, start_iter + 1,
                                   tb_logger)
    val_freq = opt['val']['val_freq'] if opt.get('val') else None
    stage_ends = set(np.cumsum(getattr(model, 'lengths', [total_iter])).tolist()) - {0}
    data_timer, iter_timer = AvgTimer(), AvgTimer()
    started = time.time()
    for current_iter, batch in enumerate(_batches(model, dataset, start_iter, stage_ends), start_iter + 1):
        data_timer.record()
        # as the crops, the random numbers of a step depend on the iteration alone
        seed_everything(opt['manual_seed'], current_iter, opt['rank'])
        model.update_learning_rate(current_iter, warmup_iter=opt['train'].get('warmup_iter', -1))
        model.feed_data(batch)
        model.optimize_parameters(current_iter)
        iter_timer.record()
        epoch = current_iter * per_iter // num_images
        if current_iter % opt['logger']['print_freq'] == 0 or current_iter in stage_ends:
            message_logger({'epoch': epoch, 'iter': current_iter, 'lrs': model.get_current_learning_rate(),
                            'time': iter_timer.get_avg_time(), 'data_time': data_timer.get_avg_time(),
                            **model.get_current_log()})
        if val_freq and (current_iter % val_freq == 0 or current_iter in stage_ends):
            for loader in val_loaders:
                model.validation(loader, current_iter, tb_logger, opt['val'].get('save_img', False))
        # after the validation, so that the state knows the best figures so far
        if current_iter % opt['logger']['save_checkpoint_freq'] == 0 or current_iter in stage_ends:
            save(model, epoch, current_iter)
        if watch and watch(model, current_iter):
            return model
        data_timer.start()
        iter_timer.start()
    save(model, -1, -1)
    logger.info(f'End of training after {total_iter} iterations, {time.time() - started:.0f} s; '
                f'networks in {opt["path"]["models"]}')
    if tb_logger:
        tb_logger.close()
    return model


def save(model: BaseModel, epoch: int, current_iter: int) -> None:
    """model.save, and an error if a stock model left nothing behind (it goes on without a word)."""
    model.save(epoch, current_iter)
    opt = model.opt
    if opt['rank'] == 0 and current_iter != -1:
        written = Path(opt['path']['training_states']) / f'{current_iter}.state'
        if not written.is_file():
            raise UserError(f'cannot write {written}. Free some space, then go on with --auto_resume.')


def build_data(opt: dict) -> tuple[Dataset, list[DataLoader]]:
    """The training set and the validation sets."""
    if 'train' not in opt['datasets']:
        raise UserError('datasets: the block train is missing')
    train_opt = opt['datasets']['train']
    dataset = sorted_dataset(build_dataset(train_opt))
    if len(dataset) == 0:
        raise UserError(f'datasets.train: no image in {train_opt["dataroot_lq"]}')
    return dataset, [build_eval_loader(block) for name, block in opt['datasets'].items() if name != 'train']


def _batches(model: BaseModel, dataset: Dataset, start_iter: int, stage_ends: set[int]) -> Iterator[dict]:
    """The batches of the whole rest of the run; workers start once a stage, when the model has prepared the set."""
    opt = model.opt
    train_opt = opt['datasets']['train']
    workers = train_opt['num_worker_per_gpu']
    for first, last in pairwise([start_iter, *sorted(end for end in stage_ends if end > start_iter)]):
        if hasattr(model, 'begin'):
            model.begin(first + 1, dataset)
        sampler = RunSampler(len(dataset), train_opt['batch_size_per_gpu'], first, last, opt['manual_seed'],
                             opt['rank'], opt['world_size'])
        yield from DataLoader(SeededDataset(dataset, opt['manual_seed']), batch_sampler=sampler, num_workers=workers,
                              pin_memory=opt['num_gpu'] > 0, prefetch_factor=4 if workers else None)


def load_resume_state(opt: dict) -> dict | None:
    """The state that ``path.resume_state`` names, or with --auto_resume the newest whole one of this run."""
    if opt['path'].get('resume_state'):
        return _load_state(Path(opt['path']['resume_state']), opt)
    if not opt['auto_resume']:
        return None
    folder = Path(opt['path']['training_states'])
    for path in sorted(folder.glob('[0-9]*.state'), key=lambda path: int(path.stem), reverse=True):
        try:
            return _load_state(path, opt)
        except UserError as error:
            print(f'{error} Trying the one before.', file=sys.stderr, flush=True)
    return None


def _load_state(path: Path, opt: dict) -> dict:
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
        state = {**state, 'iter': int(state['iter'])}
    except Exception as error:  # whatever torch raises on half a file
        raise UserError(f'{path} is no whole training state ({type(error).__name__}).') from error
    if 'networks' not in state:  # of a stock model, whose networks lie in files of their own
        opt['path']['resume_state'] = str(path)
        check_resume(opt, state['iter'])
    return state


def prepare_folders(opt: dict, resuming: bool) -> None:
    """Make the run's folders; move a run of the same name aside unless this one goes on from it."""
    if opt['rank'] == 0:
        if not resuming and not opt['auto_resume']:
            for folder in (opt['path']['experiments_root'],
                           os.path.join(opt['root_path'], 'tb_logger', opt['name'])):
                archive(Path(folder))
        for key in ('models', 'training_states', 'visualization'):
            for partial in make_folder(opt['path'][key]).glob('.tmp_*'):  # of a save that was killed
                partial.unlink()
    if opt['dist']:
        torch.distributed.barrier()


def archive(folder: Path) -> None:
    """Rename a folder as BasicSR does, under a name that is free."""
    if not folder.exists():
        return
    name = base = f'{folder}_archived_{get_time_str()}'
    number = 1
    while os.path.exists(name):
        number += 1
        name = f'{base}_{number}'
    print(f'{folder} is of an earlier run: renamed to {name}. (--auto_resume goes on with it.)', flush=True)
    folder.rename(name)


def start_tensorboard(opt: dict) -> object | None:
    if not opt['logger']['use_tb_logger'] or 'debug' in opt['name']:
        return None
    if (opt['logger'].get('wandb') or {}).get('project'):
        init_wandb_logger(opt)
    return init_tb_logger(log_dir=os.path.join(opt['root_path'], 'tb_logger', opt['name']))


def seed_everything(seed: int, iteration: int, rank: int) -> None:
    """Seed Python, NumPy and torch with a function of the run's seed, the iteration and the process."""
    value = int(np.random.SeedSequence((seed, iteration, rank)).generate_state(1)[0])
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


@on_error
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog='python -m basicsr_sassid.train', description=__doc__.splitlines()[0])
    add_arguments(parser)
    run(parser.parse_args(argv))


def run(args: argparse.Namespace) -> None:
    """What the command line asks for; runs land in the working directory."""
    opt = read_options(args.opt, args.force_yml)
    with start_processes(args.launcher, opt.get('dist_params') or {}):
        opt = complete_options(opt, os.getcwd(), True, args.launcher, args.auto_resume, args.debug)
        train(opt, args.opt)


if __name__ == '__main__':
    main()
