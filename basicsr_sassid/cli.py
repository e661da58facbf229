"""The `sassid` command: parses, prints, calls. One add_<command> and one run_<command> per command."""
from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from basicsr_sassid.data.prepare.cc import prepare_cc
from basicsr_sassid.data.prepare.dnd import prepare_dnd
from basicsr_sassid.data.prepare.folder import prepare_folder
from basicsr_sassid.data.prepare.polyu import prepare_polyu
from basicsr_sassid.data.prepare.sidd import prepare_sidd
from basicsr_sassid.demo import run_demo as compare_on_photographs
from basicsr_sassid.evaluation.runner import run_benchmark as evaluate
from basicsr_sassid.evaluation.submission import check_submission, submit_dnd, submit_sidd
from basicsr_sassid.inference.export import export_onnx
from basicsr_sassid.inference.files import denoise_files
from basicsr_sassid.noise.plot import draw
from basicsr_sassid.noise.survey import describe, survey_files
from basicsr_sassid.pipeline.api import EFFORTS, clean_photos
from basicsr_sassid.training.launch import add_arguments, launch
from basicsr_sassid.training.options import read_options
from basicsr_sassid.utils.errors import UserError, cli_errors

Commands = Any  # argparse's subparsers have no public type
_DATASETS: dict[str, tuple[str, Callable[..., dict[str, Any]]]] = {
    'sidd': ('SIDD: Medium, validation and benchmark', prepare_sidd), 'dnd': ('DND', prepare_dnd),
    'polyu': ('PolyU Real-World Noisy Images', prepare_polyu), 'cc': ('CC (Nam et al.)', prepare_cc)}
_SAME_COMMAND = 'the same command continues from here'


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(prog='sassid', description='Self-supervised denoising of real photographs.')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for add in (add_train, add_test, add_prepare, add_denoise, add_submit, add_clean, add_noise, add_benchmark,
                add_export, add_demo):
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


# ---- data ----

def add_prepare(commands: Commands) -> None:
    """`sassid prepare`."""
    sources = commands.add_parser('prepare', help='photographs -> LMDB').add_subparsers(
        dest='source', required=True, metavar='SOURCE')
    folder = sources.add_parser('folder', help='any photographs', description='Cut photographs into sub-images, LMDB.')
    folder.add_argument('photos', nargs='+', help='image files or folders (searched below)')
    folder.add_argument('-o', '--output', required=True, metavar='X.lmdb', help='must not exist')
    folder.add_argument('--size', type=int, default=512, help='side of a sub-image in pixels (default 512)')
    folder.add_argument('--step', type=int, help='distance between neighbours (default: the size)')
    folder.add_argument('--strict', action='store_true', help='refuse damaged images instead of skipping them')
    folder.add_argument('--workers', type=int, help='threads (default: one a core)')
    folder.set_defaults(run=run_prepare_folder, interrupted=_SAME_COMMAND)
    for name, (text, _) in _DATASETS.items():
        source = sources.add_parser(name, help=text, description=f'{text} -> LMDBs, from the files as they are '
                                    'downloaded (docs/datasets.md).')
        source.add_argument('downloaded', nargs='+', help='folders (searched below) or files')
        source.add_argument('-o', '--output', default='datasets', help='folder for the LMDBs (default: datasets)')
        if name != 'cc':
            source.add_argument('--size', type=int, default=512, help='side of a sub-image in pixels (default 512)')
        source.add_argument('--incomplete', action='store_true', help='take fewer images than were published')
        source.add_argument('--workers', type=int, help='threads (default: one a core)')
        source.set_defaults(run=run_prepare_dataset, interrupted=_SAME_COMMAND)


def run_prepare_folder(args: argparse.Namespace) -> None:
    """Write an LMDB of sub-images of any photographs."""
    done = prepare_folder(args.photos, args.output, args.size, args.step, args.strict, args.workers)
    for file, reason in done.skipped.items():
        print(f'skipped {file}: {reason}', file=sys.stderr)
    print(f'{args.output}: {done.sub_images} sub-images of {done.photos} photographs'
          + (f'; {len(done.skipped)} skipped' if done.skipped else ''))


def run_prepare_dataset(args: argparse.Namespace) -> None:
    """Write the LMDBs of a published dataset."""
    _, prepare = _DATASETS[args.source]
    sizes = {'size': args.size} if 'size' in args else {}
    done = prepare(args.downloaded, args.output, incomplete=args.incomplete, workers=args.workers, **sizes)
    for name, written in done.items():
        print(f'{args.output}/{name}: ' + ('was there already' if written is None else
              f'{written.sub_images} sub-images of {written.photos} photographs'))


# ---- inference ----

def add_denoise(commands: Commands) -> None:
    """`sassid denoise`."""
    denoise = commands.add_parser('denoise', help='denoise photographs with a trained network',
                                  description='Denoise photographs with a trained network.')
    denoise.add_argument('input', nargs='+', help='image files or folders (searched below)')
    denoise.add_argument('-o', '--output', required=True, metavar='OUT', help='folder; for one file, also a file')
    denoise.add_argument('--weights', metavar='net_g.pth', help='of a training, .pth or .safetensors')
    denoise.add_argument('--device', default='auto', help='auto (default), cpu, cuda, cuda:1 ...')
    denoise.add_argument('--tile', type=int, default=512, help='tile side, a multiple of 32; 0: whole (default 512)')
    denoise.add_argument('--overlap', type=int, default=128, help='context pixels on each side of a tile (default 128)')
    denoise.add_argument('--self-ensemble', action='store_true', help='mean over eight flips and turns: 8 times slower')
    denoise.add_argument('--precision', default='auto', help='auto (default): bf16 where the hardware has it; or fp32, '
                         'bf16, fp16')
    denoise.set_defaults(run=run_denoise)


def run_denoise(args: argparse.Namespace) -> None:
    """Denoise photographs; exit status 1 where some cannot be read."""
    if args.weights is None:  # none are shipped: ablations/ready_weights.py
        raise UserError('--weights: which network? Without one, sassid clean --effort instant needs no training, and '
                        'sassid clean trains one on your photographs.')
    failed = denoise_files(args.input, args.output, args.weights, args.device, args.tile, args.overlap,
                           args.self_ensemble, args.precision)
    for file, reason in failed.items():
        print(f'not denoised: {file}: {reason}', file=sys.stderr)
    if failed:
        sys.exit(1)


def add_export(commands: Commands) -> None:
    """`sassid export`."""
    export = commands.add_parser('export', help='write a trained network for other programs',
                                 description='Write a trained network for other programs.')
    export.add_argument('--weights', required=True, metavar='net_g.pth')
    export.add_argument('--onnx', required=True, metavar='OUT.onnx', help='any height and width; RGB in [0, 1]')
    export.set_defaults(run=run_export)


def run_export(args: argparse.Namespace) -> None:
    """Write a network as ONNX."""
    export_onnx(args.weights, args.onnx)
    print(f'{args.onnx}: lq (N, 3, H, W), RGB in [0, 1], any H and W -> result, likewise')


def add_clean(commands: Commands) -> None:
    """`sassid clean`."""
    clean = commands.add_parser('clean', help='denoise a folder of noisy photographs, learning from them alone',
                                description='Measure the noise of photographs, train on them alone, denoise them, and '
                                'report each step in OUT/report.html. Stopped at any moment (Ctrl-C), the same command '
                                'continues.')
    clean.add_argument('photos', nargs='+', help='image files or folders (searched below)')
    clean.add_argument('-o', '--output', required=True, metavar='OUT', help='folder')
    budget = clean.add_mutually_exclusive_group()
    budget.add_argument('--effort', choices=list(EFFORTS), default='normal',
                        help='training: none (seconds), 5, 20 (default) or 90 minutes')
    budget.add_argument('--minutes', type=float, help='of training, instead of --effort')
    clean.add_argument('--weights', metavar='student.safetensors', help='of an earlier run: skips the training')
    clean.add_argument('--save-weights', metavar='FILE', help='keep the student, .safetensors or .pth, for the next '
                       'photographs')
    clean.add_argument('--device', default='auto', help='auto (default), cpu, cuda, mps (the CPU trains)')
    clean.add_argument('--blind-size', default='auto', metavar='K', help='auto (default): as measured; or odd')
    clean.add_argument('--strength', type=float, default=1., help='0 to 1: fraction of the noise to remove (default 1)')
    clean.add_argument('--chroma', type=float, help='the same for colour noise alone (default: as --strength)')
    clean.add_argument('--seed', type=int, default=0, help='of the training (default 0)')
    clean.set_defaults(run=run_clean, interrupted=_SAME_COMMAND)


def run_clean(args: argparse.Namespace) -> None:
    """Denoise photographs, training on them alone; exit status 1 where some cannot be read."""
    try:
        blind_size = args.blind_size if args.blind_size == 'auto' else int(args.blind_size)
    except ValueError as error:
        raise UserError(f'--blind-size: expected auto or a number, got {args.blind_size!r}') from error
    failed = clean_photos(args.photos, args.output, effort=args.effort, minutes=args.minutes, weights=args.weights,
                          save_weights=args.save_weights, device=args.device, blind_size=blind_size,
                          strength=args.strength, chroma=args.chroma, seed=args.seed)
    if failed:
        sys.exit(1)


def add_noise(commands: Commands) -> None:
    """`sassid noise`."""
    noise = commands.add_parser('noise', help='measure the noise of photographs, recommend a blind size',
                                description='Measure noise from the noisy photographs alone: its standard deviation '
                                'for each channel and intensity, its correlation, and the blind_size that follows.')
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

def add_benchmark(commands: Commands) -> None:
    """`sassid benchmark`."""
    benchmark = commands.add_parser('benchmark', help='methods x datasets -> table, figure', description='Evaluate '
                                    'every method of an option file on every dataset. Stopped at any moment, the same '
                                    'command continues; results land in results/benchmark/<name>.')
    benchmark.add_argument('-opt', required=True, metavar='FILE.yml', help='such as options/evaluation/classical.yml')
    benchmark.add_argument('--force_yml', nargs='+', action='extend', default=[], metavar='a:b=v',
                           help='change or add options: datasets:sidd_val:every=8')
    benchmark.set_defaults(run=run_benchmark, interrupted=_SAME_COMMAND)


def run_benchmark(args: argparse.Namespace) -> None:
    """Evaluate methods on datasets."""
    evaluate(read_options(args.opt, args.force_yml))


def add_submit(commands: Commands) -> None:
    """`sassid submit`."""
    servers = commands.add_parser('submit', help='results for the servers of SIDD and DND').add_subparsers(
        dest='server', required=True, metavar='SERVER')
    for name, text, output in (('sidd', 'SIDD benchmark', 'SubmitSrgb.mat'), ('dnd', 'DND', 'FOLDER')):
        server = servers.add_parser(name, help=text, description=f'Denoise the noisy images of {text}, and write the '
                                    'submission to its server.')
        server.add_argument('downloaded', help='the folder with BenchmarkNoisyBlocksSrgb.mat' if name == 'sidd' else
                            'the folder with info.mat and images_srgb')
        server.add_argument('-o', '--output', required=True, metavar=output, help=(
            'SubmitSrgb.mat, or .csv for Kaggle' if name == 'sidd' else 'folder: zip its files'))
        server.add_argument('--weights', required=True, metavar='net_g.pth')
        server.add_argument('--self-ensemble', action='store_true', help='mean over eight flips and turns, as the '
                            "authors' submission")
        server.add_argument('--device', default='auto', help='auto (default), cpu, cuda, cuda:1 ...')
        server.add_argument('--incomplete', action='store_true', help='take fewer images than were published')
        server.set_defaults(run=run_submit, **({'interrupted': _SAME_COMMAND} if name == 'dnd' else {}))
    check = servers.add_parser('check', help='read a submission back', description='Read a submission back.')
    check.add_argument('submission', help='SubmitSrgb.mat, .csv, or the folder of DND')
    check.set_defaults(run=run_check)


def run_submit(args: argparse.Namespace) -> None:
    """Write a submission."""
    submit = submit_sidd if args.server == 'sidd' else submit_dnd
    submit(args.downloaded, args.weights, args.output, args.self_ensemble, args.device, args.incomplete)
    print(args.output)


def run_check(args: argparse.Namespace) -> None:
    """Read a submission back."""
    print(check_submission(args.submission))


def add_demo(commands: Commands) -> None:
    """`sassid demo`."""
    demo = commands.add_parser('demo', help='simulate noise, train, compare: a few minutes on two cores',
                               description='Simulate camera noise, train on it alone, compare. Needs no internet.')
    demo.add_argument('-o', '--output', default='results/demo', metavar='OUT', help='default: results/demo')
    demo.add_argument('--noisy', metavar='FOLDER', help='real noisy photographs instead of the simulated ones')
    demo.add_argument('--reference', metavar='FOLDER', help='their clean references, for the table alone')
    demo.add_argument('--clean', help=argparse.SUPPRESS)  # the old name
    demo.add_argument('--scale', type=float, help='iterations, as a multiple of those of train_cpu.yml')
    demo.set_defaults(run=run_demo)


def run_demo(args: argparse.Namespace) -> None:
    """Train and compare on a small machine."""
    if args.clean is not None:
        raise UserError(f'--clean was renamed: --reference {args.clean}')
    compare_on_photographs(args.output, args.noisy, args.reference, args.scale)


if __name__ == '__main__':
    main()
