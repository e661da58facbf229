"""Train a model by an option file: python -m basicsr_sassid.train -opt options/....yml"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file: its folder must not shadow top-level modules (data, io, test ...)
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import functools

import basicsr_sassid  # noqa: F401  before basicsr: makes it importable, and registers this package's parts
from basicsr_sassid.training.launch import launch
from basicsr_sassid.utils.errors import cli_errors
from sassid import AUTO_RESUME, add_training_arguments


@functools.partial(cli_errors, interrupted=AUTO_RESUME)
def main(argv: list[str] | None = None) -> None:
    """Parse the command line, start the processes, train; files land below the working directory."""
    parser = argparse.ArgumentParser(
        prog='python -m basicsr_sassid.train', description='Train a model by an option file.'
    )
    add_training_arguments(parser)
    launch(parser.parse_args(argv), is_train=True)


if __name__ == '__main__':
    main()
