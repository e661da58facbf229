"""What training and testing share: processes, log files, evaluation sets, errors."""
from __future__ import annotations

import contextlib
import datetime
import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from basicsr.data import build_dataset
from basicsr.utils import get_env_info, get_root_logger
from basicsr.utils.dist_util import init_dist
from basicsr.utils.logger import initialized_logger
from torch import distributed
from torch.utils.data import DataLoader

from basicsr_sassid._checks import UserError


@contextlib.contextmanager
def start_processes(launcher: str, dist_params: dict) -> Iterator[None]:
    """Join the process group of torchrun or slurm: nccl with GPUs, gloo without; leave it at the end.

    ``dist_params``: ``backend``, ``timeout`` (seconds; default 2 h, for a long validation), ``port`` (slurm).
    """
    if launcher == 'none':
        yield
        return
    has_gpu = torch.cuda.is_available()
    if launcher == 'slurm':
        if not has_gpu:
            raise UserError('--launcher slurm needs GPUs; on CPUs use torchrun and --launcher pytorch')
        init_dist('slurm', **dist_params)
    else:
        if 'RANK' not in os.environ:
            raise UserError('--launcher pytorch: not started by torchrun. Use: torchrun --nproc_per_node=N -m '
                            'basicsr_sassid.train -opt ... --launcher pytorch')
        if has_gpu:
            local_rank = int(os.environ.get('LOCAL_RANK', 0))
            if local_rank >= torch.cuda.device_count():
                raise UserError(f'torchrun started more processes than the {torch.cuda.device_count()} GPUs here; '
                                'lower --nproc_per_node')
            torch.cuda.set_device(local_rank)
        distributed.init_process_group(dist_params.get('backend', 'nccl') if has_gpu else 'gloo',
                                       timeout=datetime.timedelta(seconds=dist_params.get('timeout', 7200)))
    try:
        yield
    finally:
        distributed.destroy_process_group()


def start_logging(opt: dict, log_file: Path) -> logging.Logger:
    """BasicSR's logger with a file of this run's own, also when an earlier run in this process had one."""
    logger = _closed_logger()
    initialized_logger.pop('basicsr', None)
    logger = get_root_logger(log_level=logging.INFO, log_file=str(log_file) if opt['rank'] == 0 else None)
    for handler in list(logger.handlers):
        if opt.get('quiet') and not isinstance(handler, logging.FileHandler):
            logger.removeHandler(handler)
    logger.info(get_env_info())
    return logger


def _closed_logger() -> logging.Logger:
    logger = logging.getLogger('basicsr')
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    return logger


def silence() -> None:
    """BasicSR's logger says nothing until :func:`start_logging`."""
    logger = _closed_logger()
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    initialized_logger['basicsr'] = True


def sorted_dataset(dataset: object) -> object:
    """BasicSR lists folders in the order of the disk; sort, so that a seed means the same everywhere."""
    paths = getattr(dataset, 'paths', None)
    if isinstance(paths, list):
        paths.sort(key=lambda entry: entry.get('lq_path', '') if isinstance(entry, dict) else entry)
    return dataset


def build_eval_loader(block: dict) -> DataLoader:
    """Image by image, in order. Raises UserError if there is none."""
    try:
        dataset = sorted_dataset(build_dataset(block))
    except AssertionError as error:  # BasicSR's complaint about pairs that do not match
        raise UserError(f'datasets {block["name"]}: {error}') from error
    if len(dataset) == 0:
        raise UserError(f'datasets {block["name"]}: no image in {block["dataroot_lq"]}')
    return DataLoader(dataset, batch_size=1)


def on_error(function: Callable, interrupted: str = 'a training goes on from its last state with --auto_resume'
             ) -> Callable:
    """Print what the user can mend as one paragraph, without a traceback; exit 2. Ctrl-C: ``interrupted``, exit 130."""
    @functools.wraps(function)
    def wrapper(*args: object, **kwargs: object) -> object:
        try:
            return function(*args, **kwargs)
        except UserError as error:
            sys.exit(_say(f'error: {error}', 2))
        except KeyboardInterrupt:
            sys.exit(_say(f'\nstopped; {interrupted}', 130))
    return wrapper


def _say(text: str, status: int) -> int:
    print(text, file=sys.stderr, flush=True)
    return status
