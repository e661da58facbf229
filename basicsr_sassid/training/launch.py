"""From BasicSR's command line to a run: flags, processes, training or test."""

from __future__ import annotations

import argparse
import os

from basicsr_sassid.training.loop import test, train
from basicsr_sassid.training.options import read_options, resolve_options
from basicsr_sassid.training.runtime import start_processes
from basicsr_sassid.training.schema import DistOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """BasicSR's flags."""
    parser.add_argument('-opt', required=True, metavar='FILE.yml', help='option file')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none', help='job launcher')
    parser.add_argument('--auto_resume', action='store_true', help='continue from the newest complete training state')
    parser.add_argument('--debug', action='store_true', help='validate, save and log all the time; name debug_...')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by torch.distributed.launch')
    parser.add_argument(
        '--force_yml',
        nargs='+',
        action='extend',
        default=[],
        metavar='a:b=v',
        help='change or add options: train:ema_decay=0.999; values are read as YAML',
    )


def launch(args: argparse.Namespace, is_train: bool) -> None:
    """Train or test in the processes that the command line names; files land below the working directory."""
    opt = read_options(args.opt, args.force_yml)
    dist_params = opt.get('dist_params')
    with start_processes(args.launcher, DistOptions.parse({} if dist_params is None else dist_params, 'dist_params')):
        if is_train:
            train(resolve_options(opt, os.getcwd(), True, args.launcher, args.auto_resume, args.debug), args.opt)
        else:
            test(resolve_options(opt, os.getcwd(), False, args.launcher, debug=args.debug))
