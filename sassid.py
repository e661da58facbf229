"""The `sassid` command: its parser. One add_<command> per command; what each one does stands in basicsr_sassid/cli.py.

A module of its own beside the package, whose import takes seconds (torch): help, version and wrong arguments need none
of it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import sys
from collections.abc import Sequence
from typing import Any

Commands = Any  # argparse's subparsers have no public type
SAME_COMMAND = 'the same command continues from here'
_BENCHMARK = 'Results land in results/benchmark/<name>; stopped at any moment, the same command continues'
AUTO_RESUME = 'a training goes on from its last state with --auto_resume'
EFFORTS = ('instant', 'quick', 'normal', 'best')  # of basicsr_sassid.pipeline.options
_DATASETS = {
    'sidd': 'SIDD: Medium, validation and benchmark',
    'dnd': 'DND',
    'polyu': 'PolyU Real-World Noisy Images',
    'cc': 'CC (Nam et al.)',
    'cityscapes': 'Cityscapes: clean images, for synthetic noise',
    'skimage': 'photographs that the package scikit-image carries',
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands: ``run`` is the name of the function in basicsr_sassid/cli.py."""
    parser = argparse.ArgumentParser(prog='sassid', description='Self-supervised denoising of real photographs.')
    parser.add_argument('--version', action=_Version)
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for add in (
        add_train,
        add_test,
        add_prepare,
        add_denoise,
        add_submit,
        add_clean,
        add_noise,
        add_iqa,
        add_benchmark,
        add_export,
        add_demo,
    ):
        add(commands)
    return parser


class _Version(argparse.Action):
    """Print the version, which is read from the installed metadata on demand."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help='print the version')

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f'sassid {importlib.metadata.version("basicsr_sassid")}')
        parser.exit()


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; an error that the user can correct is printed as one paragraph, and the exit status is 2."""
    args = build_parser().parse_args(argv)
    try:
        cli = importlib.import_module('basicsr_sassid.cli')
    except KeyboardInterrupt:
        print('\nstopped', file=sys.stderr)
        sys.exit(130)
    cli.run(args)


# ---- training ----


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """BasicSR's flags, of `sassid train` and `sassid test`, and of basicsr_sassid/train.py and test.py."""
    parser.add_argument('-opt', required=True, metavar='FILE.yml', help='option file')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none', help='job launcher')
    parser.add_argument('--auto_resume', action='store_true', help='continue from the newest complete training state')
    parser.add_argument('--debug', action='store_true', help='validate, save and log all the time; name debug_...')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by torch.distributed.launch')
    _add_force_yml(parser, 'train:ema_decay=0.999; values are read as YAML')


def _add_force_yml(parser: argparse.ArgumentParser, example: str) -> None:
    parser.add_argument(
        '--force_yml', nargs='+', action='extend', default=[], metavar='a:b=v', help=f'change or add options: {example}'
    )


def add_train(commands: Commands) -> None:
    """`sassid train`."""
    _add_training(commands, 'train', interrupted=AUTO_RESUME)


def add_test(commands: Commands) -> None:
    """`sassid test`."""
    _add_training(commands, 'test')


def _add_training(commands: Commands, name: str, **settings: str) -> None:
    text = f'{name} by an option file'
    parser = commands.add_parser(name, help=text, description=f'{text.capitalize()}.')
    add_training_arguments(parser)
    parser.set_defaults(run=f'run_{name}', **settings)


# ---- inference ----


def _add_device(parser: argparse.ArgumentParser, names: str = 'cpu, cuda, cuda:1 ...') -> None:
    parser.add_argument('--device', default='auto', help=f'auto (default), {names}')


def _add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--network', metavar='{type: T}', help="the weights' network, if it is none of this package: read as YAML"
    )


def add_denoise(commands: Commands) -> None:
    """`sassid denoise`."""
    denoise = commands.add_parser(
        'denoise',
        help='denoise photographs without a training, or with a trained network',
        description='Denoise photographs: by their measured noise, without a training, or with --weights by a network.',
    )
    denoise.add_argument('input', nargs='+', help='image files or folders (searched below)')
    denoise.add_argument('-o', '--output', required=True, metavar='OUT', help='folder; for one file, also a file')
    denoise.add_argument('--weights', metavar='net_g.pth', help='of a training, .pth or .safetensors (default: none)')
    _add_device(denoise)
    denoise.add_argument('--tile', type=int, default=512, help='tile side, a multiple of 32; 0: whole (default 512)')
    denoise.add_argument('--overlap', type=int, default=128, help='context pixels on each side of a tile (default 128)')
    denoise.add_argument('--self-ensemble', action='store_true', help='mean over eight flips and turns: 8 times slower')
    denoise.add_argument(
        '--precision', default='auto', help='auto (default): bf16 where the hardware has it; or fp32, bf16, fp16'
    )
    denoise.add_argument('--blind-size', metavar='K', help='of a BNN: odd, 0, or HxW such as 5x9 (default: as trained)')
    _add_network(denoise)
    denoise.set_defaults(run='run_denoise', interrupted='the files that were written are complete')


def add_export(commands: Commands) -> None:
    """`sassid export`."""
    text = 'write a trained network for other programs'
    export = commands.add_parser('export', help=text, description=f'{text.capitalize()}.')
    export.add_argument('--weights', required=True, metavar='net_g.pth')
    export.add_argument('--onnx', required=True, metavar='OUT.onnx', help='any height and width; RGB in [0, 1]')
    _add_network(export)
    export.set_defaults(run='run_export')


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
        '--effort', choices=EFFORTS, default='normal', help='no training, or 5, 20 (default) or 90 minutes in all'
    )
    budget.add_argument('--minutes', type=float, help='in all, instead of --effort; the training gets at least half')
    clean.add_argument('--weights', metavar='student.safetensors', help='of an earlier run: skips the training')
    clean.add_argument(
        '--save-weights', metavar='FILE', help='keep the student, .safetensors or .pth, for the next photographs'
    )
    _add_device(clean, 'cpu, cuda, mps (the CPU trains)')
    clean.add_argument('--blind-size', default='auto', metavar='K', help='auto (default): as measured; or odd')
    clean.add_argument(
        '--strength', type=float, default=1.0, help='0 to 1: fraction of the noise to remove (default 1)'
    )
    clean.add_argument('--chroma', type=float, help='the same for colour noise alone (default: as --strength)')
    clean.add_argument('--seed', type=int, default=0, help='of the training (default 0)')
    clean.add_argument(
        '--overwrite', action='store_true', help='replace files in OUT that no run of sassid has written'
    )
    clean.set_defaults(run='run_clean', interrupted=SAME_COMMAND)


def add_noise(commands: Commands) -> None:
    """`sassid noise`."""
    text = 'measure the noise of photographs (sigma, correlation), recommend a blind size'
    noise = commands.add_parser('noise', help=text, description=f'{text.capitalize()}.')
    noise.add_argument('photos', nargs='+', help='image files or folders (searched below)')
    noise.add_argument('-o', '--output', metavar='FIGURE.png', help='draw the correlation and the standard deviations')
    noise.set_defaults(run='run_noise')


def add_iqa(commands: Commands) -> None:
    """`sassid iqa`."""
    text = 'quality of images without a reference (SFD-IQA, a reconstruction)'
    iqa = commands.add_parser(
        'iqa', help=text, description=f'{text[0].upper()}{text[1:]}: in [0, 1], higher is better.'
    )
    iqa.add_argument('images', nargs='+', help='image files or folders (searched below)')
    iqa.add_argument('--weights', required=True, metavar='sfd.pth', help='of a training of SFDModel')
    iqa.add_argument('-o', '--output', metavar='OUT.csv', help='write file and quality')
    iqa.add_argument('--feature-fraction', type=float, help='of Feat-D, the rest of the prompts (default 0.5)')
    iqa.add_argument('--patch-size', type=int, help='mean over patches of that side (default: the whole image)')
    iqa.add_argument('--shorter-side', type=int, help='resize the shorter side first (default: as it is)')
    iqa.add_argument('--semantic-weights', help="the frozen network's file, if it is elsewhere than in the training")
    _add_device(iqa)
    iqa.set_defaults(run='run_iqa', interrupted='no CSV was written')


# ---- datasets and tables ----


def _add_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--size', type=int, default=512, help='side of a sub-image in pixels (default 512)')


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--workers', type=int, help='threads (default: one a core)')


def add_prepare(commands: Commands) -> None:
    """`sassid prepare`."""
    sources = commands.add_parser('prepare', help='photographs -> LMDB').add_subparsers(
        dest='source', required=True, metavar='SOURCE'
    )
    folder = sources.add_parser('folder', help='any photographs', description='Cut photographs into sub-images, LMDB.')
    folder.add_argument('photos', nargs='+', help='image files or folders (searched below)')
    folder.add_argument('-o', '--output', required=True, metavar='X.lmdb', help='must not exist')
    _add_size(folder)
    folder.add_argument('--step', type=int, help='distance between neighbours (default: the size)')
    folder.add_argument('--strict', action='store_true', help='refuse damaged images instead of skipping them')
    _add_workers(folder)
    folder.set_defaults(run='run_prepare_folder', interrupted=SAME_COMMAND)
    for name, text in _DATASETS.items():
        source = sources.add_parser(name, help=text, description=f'{text} -> LMDBs (docs/datasets.md).')
        if name != 'skimage':  # which needs no download
            source.add_argument('downloaded', nargs='+', help='folders (searched below) or files, as downloaded')
            source.add_argument('--incomplete', action='store_true', help='take fewer images than were published')
        source.add_argument('-o', '--output', default='datasets', help='folder for the LMDBs (default: datasets)')
        if name in ('sidd', 'dnd', 'polyu'):
            _add_size(source)
        _add_workers(source)
        source.set_defaults(run='run_prepare_dataset', interrupted=SAME_COMMAND)


def add_benchmark(commands: Commands) -> None:
    """`sassid benchmark`."""
    text = 'methods or metrics x datasets -> table, figure'
    benchmark = commands.add_parser('benchmark', help=text, description=f'{text}. {_BENCHMARK}.')
    benchmark.add_argument('-opt', required=True, metavar='FILE.yml', help='such as options/evaluation/classical.yml')
    _add_force_yml(benchmark, 'datasets:sidd_val:every=8')
    benchmark.set_defaults(run='run_benchmark', interrupted=SAME_COMMAND)


def add_submit(commands: Commands) -> None:
    """`sassid submit`."""
    servers = commands.add_parser('submit', help='results for the servers of SIDD and DND').add_subparsers(
        dest='server', required=True, metavar='SERVER'
    )
    for name, text, output in (('sidd', 'SIDD benchmark', 'SubmitSrgb.mat'), ('dnd', 'DND', 'FOLDER')):
        server = servers.add_parser(
            name, help=text, description=f'Denoise the noisy images of {text}, and write the submission to its server.'
        )
        parts = 'BenchmarkNoisyBlocksSrgb.mat' if name == 'sidd' else 'info.mat and images_srgb'
        server.add_argument('downloaded', help=f'the folder with {parts}')
        text = 'SubmitSrgb.mat, or .csv for Kaggle' if name == 'sidd' else 'folder: zip its files'
        server.add_argument('-o', '--output', required=True, metavar=output, help=text)
        server.add_argument('--weights', required=True, metavar='net_g.pth')
        server.add_argument(
            '--self-ensemble', action='store_true', help="mean over eight flips and turns, as the authors' submission"
        )
        _add_device(server)
        _add_network(server)
        server.add_argument('--incomplete', action='store_true', help='take fewer images than were published')
        server.set_defaults(run='run_submit', **({'interrupted': SAME_COMMAND} if name == 'dnd' else {}))
    check = servers.add_parser('check', help='read a submission back', description='Read a submission back.')
    check.add_argument('submission', help='SubmitSrgb.mat, .csv, or the folder of DND')
    check.set_defaults(run='run_check')


def add_demo(commands: Commands) -> None:
    """`sassid demo`."""
    text = 'simulate camera noise, train on it alone, compare: five minutes'
    demo = commands.add_parser('demo', help=text, description=f'{text.capitalize()}. Needs no internet.')
    demo.set_defaults(run='run_demo', interrupted=SAME_COMMAND)
    demo.add_argument('-o', '--output', default='results/demo', metavar='OUT', help='default: results/demo')
    demo.add_argument('--noisy', metavar='FOLDER', help='real noisy photographs instead of the simulated ones')
    demo.add_argument('--reference', metavar='FOLDER', help='their clean references, for the PSNR alone')
    demo.add_argument('--minutes', type=float, default=5.0, help='of the whole demo (default 5)')
    for old in ('--clean', '--scale'):  # --reference, --minutes
        demo.add_argument(old, help=argparse.SUPPRESS)


if __name__ == '__main__':
    main()
