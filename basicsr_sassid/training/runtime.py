"""What training and testing share: processes, seeds, folders, log files."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from basicsr.utils import get_env_info, get_root_logger, get_time_str, init_tb_logger, init_wandb_logger
from basicsr.utils.dist_util import init_dist
from basicsr.utils.logger import initialized_logger
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from basicsr_sassid.io.atomic import make_folder, remove_partial_files
from basicsr_sassid.training.schema import DistOptions
from basicsr_sassid.utils.errors import UserError


@contextlib.contextmanager
def start_processes(launcher: str, dist_params: DistOptions) -> Iterator[None]:
    """Join the process group of torchrun or slurm: nccl with GPUs, gloo without; leave it at the end."""
    if launcher == 'none':
        yield
        return
    has_gpu = torch.cuda.is_available()
    if launcher == 'slurm':
        if not has_gpu:
            raise UserError('--launcher slurm needs GPUs; on CPUs use torchrun and --launcher pytorch')
        init_dist('slurm', dist_params.backend, port=dist_params.port)
    else:
        if 'RANK' not in os.environ:
            raise UserError(
                '--launcher pytorch: not started by torchrun. Use: torchrun --nproc_per_node=N -m '
                'basicsr_sassid.train -opt ... --launcher pytorch'
            )
        if has_gpu:
            local_rank = int(os.environ.get('LOCAL_RANK', 0))
            if local_rank >= torch.cuda.device_count():
                raise UserError(
                    f'torchrun started more processes than the {torch.cuda.device_count()} GPUs here; '
                    'lower --nproc_per_node'
                )
            torch.cuda.set_device(local_rank)
        distributed.init_process_group(
            dist_params.backend if has_gpu else 'gloo', timeout=datetime.timedelta(seconds=dist_params.timeout)
        )
    try:
        yield
    finally:
        distributed.destroy_process_group()


def wrap_distributed(net: nn.Module, opt: Mapping[str, Any], device: torch.device) -> nn.Module:
    """The network, wrapped where several processes, on GPUs or CPUs, train it together.

    Args:
        net: network on ``device``.
        opt: of resolve_options.
        device: of the network.
    """
    if not opt['dist']:
        return net
    return DistributedDataParallel(
        net,
        device_ids=[torch.cuda.current_device()] if device.type == 'cuda' else None,
        find_unused_parameters=opt.get('find_unused_parameters', False),
    )


def start_logging(opt: dict[str, Any], log_file: Path, quiet: bool = False) -> logging.Logger:
    """BasicSR's logger with a log file for this run, also after an earlier run in this process.

    ``quiet``: log to the file alone.
    """
    logger = _closed_logger()
    initialized_logger.pop('basicsr', None)
    logger = get_root_logger(log_level=logging.INFO, log_file=str(log_file) if opt['rank'] == 0 else None)
    for handler in list(logger.handlers):
        if quiet and not isinstance(handler, logging.FileHandler):
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
    """Switch BasicSR's logger off until :func:`start_logging`."""
    logger = _closed_logger()
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    initialized_logger['basicsr'] = True


def seed_everything(seed: int, iteration: int, rank: int) -> None:
    """Seed Python, NumPy and torch with a function of the run's seed, the iteration and the process."""
    value = int(np.random.SeedSequence((seed, iteration, rank)).generate_state(1)[0])
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


def prepare_folders(opt: dict[str, Any], resuming: bool) -> None:
    """Make the run's folders; rename those of an earlier run of this name unless this one continues it."""
    if opt['rank'] == 0:
        if not resuming and not opt['auto_resume']:
            for folder in (opt['path']['experiments_root'], os.path.join(opt['root_path'], 'tb_logger', opt['name'])):
                archive(Path(folder))
        for key in ('models', 'training_states', 'visualization'):
            remove_partial_files(make_folder(opt['path'][key]))  # of a save that was killed
    if opt['dist']:
        distributed.barrier()


def archive(folder: Path) -> None:
    """Rename a folder as BasicSR does, under a name that is free."""
    if not folder.exists():
        return
    name = base = f'{folder}_archived_{get_time_str()}'
    number = 1
    while os.path.exists(name):
        number += 1
        name = f'{base}_{number}'
    print(f'{folder} belongs to an earlier run: renamed to {name}. (--auto_resume continues it.)', flush=True)
    folder.rename(name)


def start_tensorboard(opt: dict[str, Any]) -> Any:
    """Tensorboard's writer, and wandb where the options say so; None where tensorboard is off."""
    if not opt['logger']['use_tb_logger'] or 'debug' in opt['name']:
        return None
    if (opt['logger'].get('wandb') or {}).get('project'):
        init_wandb_logger(opt)
    return init_tb_logger(log_dir=os.path.join(opt['root_path'], 'tb_logger', opt['name']))
