"""The `sassid` commands about datasets and tables: prepare, benchmark, submit."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from basicsr_sassid.data.prepare.cc import prepare_cc
from basicsr_sassid.data.prepare.dnd import prepare_dnd
from basicsr_sassid.data.prepare.folder import prepare_folder
from basicsr_sassid.data.prepare.polyu import prepare_polyu
from basicsr_sassid.data.prepare.sidd import prepare_sidd
from basicsr_sassid.evaluation.runner import run_benchmark as evaluate
from basicsr_sassid.evaluation.submission import check_submission, submit_dnd, submit_sidd
from basicsr_sassid.training.options import read_options

Commands = Any  # argparse's subparsers have no public type
_DATASETS: dict[str, tuple[str, Callable[..., dict[str, Any]]]] = {
    'sidd': ('SIDD: Medium, validation and benchmark', prepare_sidd),
    'dnd': ('DND', prepare_dnd),
    'polyu': ('PolyU Real-World Noisy Images', prepare_polyu),
    'cc': ('CC (Nam et al.)', prepare_cc),
}
SAME_COMMAND = 'the same command continues from here'


def add_prepare(commands: Commands) -> None:
    """`sassid prepare`."""
    sources = commands.add_parser('prepare', help='photographs -> LMDB').add_subparsers(
        dest='source', required=True, metavar='SOURCE'
    )
    folder = sources.add_parser('folder', help='any photographs', description='Cut photographs into sub-images, LMDB.')
    folder.add_argument('photos', nargs='+', help='image files or folders (searched below)')
    folder.add_argument('-o', '--output', required=True, metavar='X.lmdb', help='must not exist')
    folder.add_argument('--size', type=int, default=512, help='side of a sub-image in pixels (default 512)')
    folder.add_argument('--step', type=int, help='distance between neighbours (default: the size)')
    folder.add_argument('--strict', action='store_true', help='refuse damaged images instead of skipping them')
    folder.add_argument('--workers', type=int, help='threads (default: one a core)')
    folder.set_defaults(run=run_prepare_folder, interrupted=SAME_COMMAND)
    for name, (text, _) in _DATASETS.items():
        source = sources.add_parser(
            name, help=text, description=f'{text} -> LMDBs, from the files as they are downloaded (docs/datasets.md).'
        )
        source.add_argument('downloaded', nargs='+', help='folders (searched below) or files')
        source.add_argument('-o', '--output', default='datasets', help='folder for the LMDBs (default: datasets)')
        if name != 'cc':
            source.add_argument('--size', type=int, default=512, help='side of a sub-image in pixels (default 512)')
        source.add_argument('--incomplete', action='store_true', help='take fewer images than were published')
        source.add_argument('--workers', type=int, help='threads (default: one a core)')
        source.set_defaults(run=run_prepare_dataset, interrupted=SAME_COMMAND)


def run_prepare_folder(args: argparse.Namespace) -> None:
    """Write an LMDB of sub-images of any photographs."""
    done = prepare_folder(args.photos, args.output, args.size, args.step, args.strict, args.workers)
    for file, reason in done.skipped.items():
        print(f'skipped {file}: {reason}', file=sys.stderr)
    print(
        f'{args.output}: {done.sub_images} sub-images of {done.photos} photographs'
        + (f'; {len(done.skipped)} skipped' if done.skipped else '')
    )


def run_prepare_dataset(args: argparse.Namespace) -> None:
    """Write the LMDBs of a published dataset."""
    _, prepare = _DATASETS[args.source]
    sizes = {'size': args.size} if 'size' in args else {}
    done = prepare(args.downloaded, args.output, incomplete=args.incomplete, workers=args.workers, **sizes)
    for name, written in done.items():
        print(
            f'{args.output}/{name}: '
            + (
                'was there already'
                if written is None
                else f'{written.sub_images} sub-images of {written.photos} photographs'
            )
        )


def add_benchmark(commands: Commands) -> None:
    """`sassid benchmark`."""
    benchmark = commands.add_parser(
        'benchmark',
        help='methods x datasets -> table, figure',
        description='Evaluate '
        'every method of an option file on every dataset. Stopped at any moment, the same '
        'command continues; results land in results/benchmark/<name>.',
    )
    benchmark.add_argument('-opt', required=True, metavar='FILE.yml', help='such as options/evaluation/classical.yml')
    benchmark.add_argument(
        '--force_yml',
        nargs='+',
        action='extend',
        default=[],
        metavar='a:b=v',
        help='change or add options: datasets:sidd_val:every=8',
    )
    benchmark.set_defaults(run=run_benchmark, interrupted=SAME_COMMAND)


def run_benchmark(args: argparse.Namespace) -> None:
    """Evaluate methods on datasets."""
    evaluate(read_options(args.opt, args.force_yml))


def add_submit(commands: Commands) -> None:
    """`sassid submit`."""
    servers = commands.add_parser('submit', help='results for the servers of SIDD and DND').add_subparsers(
        dest='server', required=True, metavar='SERVER'
    )
    for name, text, output in (('sidd', 'SIDD benchmark', 'SubmitSrgb.mat'), ('dnd', 'DND', 'FOLDER')):
        server = servers.add_parser(
            name, help=text, description=f'Denoise the noisy images of {text}, and write the submission to its server.'
        )
        server.add_argument(
            'downloaded',
            help='the folder with BenchmarkNoisyBlocksSrgb.mat'
            if name == 'sidd'
            else 'the folder with info.mat and images_srgb',
        )
        server.add_argument(
            '-o',
            '--output',
            required=True,
            metavar=output,
            help=('SubmitSrgb.mat, or .csv for Kaggle' if name == 'sidd' else 'folder: zip its files'),
        )
        server.add_argument('--weights', required=True, metavar='net_g.pth')
        server.add_argument(
            '--self-ensemble', action='store_true', help="mean over eight flips and turns, as the authors' submission"
        )
        server.add_argument('--device', default='auto', help='auto (default), cpu, cuda, cuda:1 ...')
        server.add_argument('--incomplete', action='store_true', help='take fewer images than were published')
        server.set_defaults(run=run_submit, **({'interrupted': SAME_COMMAND} if name == 'dnd' else {}))
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
