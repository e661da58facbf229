"""The `sassid` command: parses, prints, calls. One add_<command> and one run_<command> per command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from basicsr_sassid.cli_datasets import SAME_COMMAND, Commands, add_benchmark, add_prepare, add_submit
from basicsr_sassid.demo import run_demo as compare_on_photographs
from basicsr_sassid.inference.export import export_onnx
from basicsr_sassid.inference.files import denoise_files
from basicsr_sassid.noise.plot import draw
from basicsr_sassid.noise.survey import describe, survey_files
from basicsr_sassid.pipeline.api import EFFORTS, clean_photos
from basicsr_sassid.training.launch import add_arguments, launch
from basicsr_sassid.utils.errors import UserError, cli_errors


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(prog='sassid', description='Self-supervised denoising of real photographs.')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for add in (
        add_train,
        add_test,
        add_prepare,
        add_denoise,
        add_submit,
        add_clean,
        add_noise,
        add_benchmark,
        add_export,
        add_demo,
    ):
        add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; a UserError is printed as one paragraph, and the exit status is 2."""
    args = build_parser().parse_args(argv)
    interrupted = {'interrupted': args.interrupted} if 'interrupted' in args else {}
    cli_errors(args.run, **interrupted)(args)


# ---- training ----


def add_train(commands: Commands) -> None:
    """`sassid train`."""
    train = commands.add_parser('train', help='train by an option file', description='Train by an option file.')
    add_arguments(train)
    train.set_defaults(run=run_train)


def run_train(args: argparse.Namespace) -> None:
    """Train; files land below the working directory."""
    launch(args, is_train=True)


def add_test(commands: Commands) -> None:
    """`sassid test`."""
    test = commands.add_parser('test', help='test by an option file', description='Test by an option file.')
    add_arguments(test)
    test.set_defaults(run=run_test)


def run_test(args: argparse.Namespace) -> None:
    """Test; files land below the working directory."""
    launch(args, is_train=False)


# ---- inference ----


def add_denoise(commands: Commands) -> None:
    """`sassid denoise`."""
    denoise = commands.add_parser(
        'denoise',
        help='denoise photographs with a trained network',
        description='Denoise photographs with a trained network.',
    )
    denoise.add_argument('input', nargs='+', help='image files or folders (searched below)')
    denoise.add_argument('-o', '--output', required=True, metavar='OUT', help='folder; for one file, also a file')
    denoise.add_argument('--weights', metavar='net_g.pth', help='of a training, .pth or .safetensors')
    denoise.add_argument('--device', default='auto', help='auto (default), cpu, cuda, cuda:1 ...')
    denoise.add_argument('--tile', type=int, default=512, help='tile side, a multiple of 32; 0: whole (default 512)')
    denoise.add_argument('--overlap', type=int, default=128, help='context pixels on each side of a tile (default 128)')
    denoise.add_argument('--self-ensemble', action='store_true', help='mean over eight flips and turns: 8 times slower')
    denoise.add_argument(
        '--precision', default='auto', help='auto (default): bf16 where the hardware has it; or fp32, bf16, fp16'
    )
    denoise.set_defaults(run=run_denoise)


def run_denoise(args: argparse.Namespace) -> None:
    """Denoise photographs; exit status 1 where some cannot be read."""
    if args.weights is None:  # none are shipped: ablations/ready_weights.py
        raise UserError(
            '--weights: which network? Without one, sassid clean --effort instant needs no training, and '
            'sassid clean trains one on your photographs.'
        )
    failed = denoise_files(
        args.input, args.output, args.weights, args.device, args.tile, args.overlap, args.self_ensemble, args.precision
    )
    for file, reason in failed.items():
        print(f'not denoised: {file}: {reason}', file=sys.stderr)
    if failed:
        sys.exit(1)


def add_export(commands: Commands) -> None:
    """`sassid export`."""
    export = commands.add_parser(
        'export',
        help='write a trained network for other programs',
        description='Write a trained network for other programs.',
    )
    export.add_argument('--weights', required=True, metavar='net_g.pth')
    export.add_argument('--onnx', required=True, metavar='OUT.onnx', help='any height and width; RGB in [0, 1]')
    export.set_defaults(run=run_export)


def run_export(args: argparse.Namespace) -> None:
    """Write a network as ONNX."""
    export_onnx(args.weights, args.onnx)
    print(f'{args.onnx}: lq (N, 3, H, W), RGB in [0, 1], any H and W -> result, likewise')


def add_clean(commands: Commands) -> None:
    """`sassid clean`."""
    clean = commands.add_parser(
        'clean',
        help='denoise a folder of noisy photographs, learning from them alone',
        description='Measure the noise of photographs, train on them alone, denoise them, and '
        'report each step in OUT/report.html. Stopped at any moment (Ctrl-C), the same command '
        'continues.',
    )
    clean.add_argument('photos', nargs='+', help='image files or folders (searched below)')
    clean.add_argument('-o', '--output', required=True, metavar='OUT', help='folder')
    budget = clean.add_mutually_exclusive_group()
    budget.add_argument(
        '--effort',
        choices=list(EFFORTS),
        default='normal',
        help='training: none (seconds), 5, 20 (default) or 90 minutes',
    )
    budget.add_argument('--minutes', type=float, help='of training, instead of --effort')
    clean.add_argument('--weights', metavar='student.safetensors', help='of an earlier run: skips the training')
    clean.add_argument(
        '--save-weights', metavar='FILE', help='keep the student, .safetensors or .pth, for the next photographs'
    )
    clean.add_argument('--device', default='auto', help='auto (default), cpu, cuda, mps (the CPU trains)')
    clean.add_argument('--blind-size', default='auto', metavar='K', help='auto (default): as measured; or odd')
    clean.add_argument(
        '--strength', type=float, default=1.0, help='0 to 1: fraction of the noise to remove (default 1)'
    )
    clean.add_argument('--chroma', type=float, help='the same for colour noise alone (default: as --strength)')
    clean.add_argument('--seed', type=int, default=0, help='of the training (default 0)')
    clean.set_defaults(run=run_clean, interrupted=SAME_COMMAND)


def run_clean(args: argparse.Namespace) -> None:
    """Denoise photographs, training on them alone; exit status 1 where some cannot be read."""
    try:
        blind_size = args.blind_size if args.blind_size == 'auto' else int(args.blind_size)
    except ValueError as error:
        raise UserError(f'--blind-size: expected auto or a number, got {args.blind_size!r}') from error
    failed = clean_photos(
        args.photos,
        args.output,
        effort=args.effort,
        minutes=args.minutes,
        weights=args.weights,
        save_weights=args.save_weights,
        device=args.device,
        blind_size=blind_size,
        strength=args.strength,
        chroma=args.chroma,
        seed=args.seed,
    )
    if failed:
        sys.exit(1)


def add_noise(commands: Commands) -> None:
    """`sassid noise`."""
    noise = commands.add_parser(
        'noise',
        help='measure the noise of photographs, recommend a blind size',
        description='Measure noise from the noisy photographs alone: its standard deviation '
        'for each channel and intensity, its correlation, and the blind_size that follows.',
    )
    noise.add_argument('photos', nargs='+', help='image files or folders (searched below)')
    noise.add_argument('-o', '--output', metavar='FIGURE.png', help='draw the correlation and the standard deviations')
    noise.set_defaults(run=run_noise)


def run_noise(args: argparse.Namespace) -> None:
    """Print the noise of photographs; draw it where a file is named."""
    survey = survey_files(args.photos)
    print(describe(survey))
    if args.output and survey.noise is not None:
        draw(survey.noise, args.output)
        print(f'\nFigure: {args.output}')
    for file, reason in survey.failed.items():
        print(f'not measured: {file}: {reason}', file=sys.stderr)


# ---- evaluation ----


def add_demo(commands: Commands) -> None:
    """`sassid demo`."""
    demo = commands.add_parser(
        'demo',
        help='simulate noise, train, compare: a few minutes on two cores',
        description='Simulate camera noise, train on it alone, compare. Needs no internet.',
    )
    demo.add_argument('-o', '--output', default='results/demo', metavar='OUT', help='default: results/demo')
    demo.add_argument('--noisy', metavar='FOLDER', help='real noisy photographs instead of the simulated ones')
    demo.add_argument('--reference', metavar='FOLDER', help='their clean references, for the table alone')
    demo.add_argument('--clean', help=argparse.SUPPRESS)  # the old name
    demo.add_argument('--scale', type=float, help='iterations, as a multiple (0 to 1000) of those of train_cpu.yml')
    demo.set_defaults(run=run_demo)


def run_demo(args: argparse.Namespace) -> None:
    """Train and compare on a small machine."""
    if args.clean is not None:
        raise UserError(f'--clean was renamed: --reference {args.clean}')
    compare_on_photographs(args.output, args.noisy, args.reference, args.scale)


if __name__ == '__main__':
    main()
