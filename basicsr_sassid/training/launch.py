"""From the parsed flags of BasicSR's command line to a run: processes, training or test."""

from __future__ import annotations

import argparse
import os

from basicsr_sassid.training.loop import test, train
from basicsr_sassid.training.options import read_options, resolve_options
from basicsr_sassid.training.runtime import start_processes
from basicsr_sassid.training.schema import DistOptions


def launch(args: argparse.Namespace, is_train: bool) -> None:
    """Train or test in the processes that the command line names; files land below the working directory."""
    opt = read_options(args.opt, args.force_yml)
    dist_params = opt.get('dist_params')
    with start_processes(args.launcher, DistOptions.parse({} if dist_params is None else dist_params, 'dist_params')):
        if is_train:
            train(resolve_options(opt, os.getcwd(), True, args.launcher, args.auto_resume, args.debug), args.opt)
        else:
            test(resolve_options(opt, os.getcwd(), False, args.launcher, debug=args.debug))
