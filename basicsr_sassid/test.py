"""Test a trained network on BasicSR datasets: python -m basicsr_sassid.test -opt options/....yml"""
from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file: its folder must not shadow top-level modules (data, test ...)
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import basicsr_sassid  # noqa: F401  before basicsr: makes it importable, and registers our parts

# isort: split
import argparse
import os

from basicsr.models import build_model
from basicsr.models.base_model import BaseModel
from basicsr.utils import get_time_str
from basicsr.utils.options import dict2str

from basicsr_sassid._files import make_folder
from basicsr_sassid._options import add_arguments, complete_options, read_options
from basicsr_sassid._run import build_eval_loader, on_error, start_logging, start_processes


def test(opt: dict) -> BaseModel:
    """Run the network of ``opt`` (from complete_options) on every test set. Pictures land in opt['path']."""
    for key in ('results_root', 'visualization'):
        make_folder(opt['path'][key])
    logger = start_logging(opt, Path(opt['path']['log']) / f'test_{opt["name"]}_{get_time_str()}.log')
    logger.info(dict2str(opt))
    model = build_model(opt)
    for _, block in sorted(opt['datasets'].items()):
        loader = build_eval_loader(block)
        logger.info(f'Testing {block["name"]}: {len(loader)} images')
        model.validation(loader, opt['name'], None, opt['val'].get('save_img', False))
    return model


@on_error
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog='python -m basicsr_sassid.test', description=__doc__.splitlines()[0])
    add_arguments(parser)
    run(parser.parse_args(argv))


def run(args: argparse.Namespace) -> None:
    """What the command line asks for; results land in the working directory."""
    opt = read_options(args.opt, args.force_yml)
    with start_processes(args.launcher, opt.get('dist_params') or {}):
        test(complete_options(opt, os.getcwd(), False, args.launcher, debug=args.debug))


if __name__ == '__main__':
    main()
