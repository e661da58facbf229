"""The `sassid` command: parses, prints, calls."""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

_DATASETS = {'sidd': 'SIDD: Medium, validation and benchmark', 'dnd': 'DND', 'polyu': 'PolyU Real-World Noisy Images',
             'cc': 'CC (Nam et al.)'}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='sassid', description='Self-supervised denoising of real photographs.')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for name, text in (('train', 'train by an option file'), ('test', 'test by an option file')):
        _add_option_flags(commands.add_parser(name, help=text, description=text))

    prepare = commands.add_parser('prepare', help='photographs -> LMDB').add_subparsers(
        dest='source', required=True, metavar='SOURCE')
    folder = prepare.add_parser('folder', help='any photographs', description='Cut photographs into sub-images, LMDB.')
    folder.add_argument('photos', nargs='+', help='image files or folders (searched below)')
    folder.add_argument('-o', '--output', required=True, metavar='X.lmdb', help='must not exist')
    folder.add_argument('--size', type=int, default=512, help='side of a sub-image in pixels (default 512)')
    folder.add_argument('--step', type=int, help='distance between neighbours (default: the size)')
    folder.add_argument('--strict', action='store_true', help='refuse damaged images, in place of skipping them')
    folder.add_argument('--workers', type=int, help='threads (default: one a core)')
    for name, text in _DATASETS.items():
        source = prepare.add_parser(name, help=text, description=f'{text} -> LMDBs, from the files as they are '
                                    'downloaded (docs/datasets.md).')
        source.add_argument('downloaded', nargs='+', help='folders (searched below) or files')
        source.add_argument('-o', '--output', default='datasets', help='folder for the LMDBs (default: datasets)')
        if name != 'cc':
            source.add_argument('--size', type=int, default=512, help='side of a sub-image in pixels (default 512)')
        source.add_argument('--incomplete', action='store_true', help='take fewer images than were published')
        source.add_argument('--workers', type=int, help='threads (default: one a core)')

    denoise = commands.add_parser('denoise', help='denoise photographs with a trained network',
                                  description='Denoise photographs with a trained network.')
    denoise.add_argument('input', nargs='+', help='image files or folders (searched below)')
    denoise.add_argument('-o', '--output', required=True, metavar='OUT', help='folder; for one file, also a file')
    denoise.add_argument('--weights', metavar='net_g.pth', help='of a training, .pth or .safetensors')
    denoise.add_argument('--device', default='auto', help='auto (default), cpu, cuda, cuda:1 ...')
    denoise.add_argument('--tile', type=int, default=512, help='tile side, a multiple of 32; 0: whole (default 512)')
    denoise.add_argument('--overlap', type=int, default=128, help='what a tile sees beyond its part (default 128)')
    denoise.add_argument('--self-ensemble', action='store_true', help='mean over eight flips and turns: 8 times slower')
    denoise.add_argument('--precision', default='auto', help='auto (default): bf16 where the hardware has it; or fp32, '
                         'bf16, fp16')

    submit = commands.add_parser('submit', help='results for the servers of SIDD and DND').add_subparsers(
        dest='server', required=True, metavar='SERVER')
    for name, text, output in (('sidd', 'SIDD benchmark', 'SubmitSrgb.mat'), ('dnd', 'DND', 'FOLDER')):
        server = submit.add_parser(name, help=text, description=f'Denoise the noisy images of {text}, and write what '
                                   'its server wants.')
        server.add_argument('downloaded', help='the folder with BenchmarkNoisyBlocksSrgb.mat' if name == 'sidd' else
                            'the folder with info.mat and images_srgb')
        server.add_argument('-o', '--output', required=True, metavar=output, help=(
            'SubmitSrgb.mat, or .csv for Kaggle' if name == 'sidd' else 'folder: zip its files'))
        server.add_argument('--weights', required=True, metavar='net_g.pth')
        server.add_argument('--self-ensemble', action='store_true', help='mean over eight flips and turns, as the '
                            "authors' submission")
        server.add_argument('--device', default='auto', help='auto (default), cpu, cuda, cuda:1 ...')
        server.add_argument('--incomplete', action='store_true', help='take fewer images than were published')
    check = submit.add_parser('check', help='read a submission back', description='Read a submission back.')
    check.add_argument('submission', help='SubmitSrgb.mat, .csv, or the folder of DND')

    clean = commands.add_parser('clean', help='denoise a folder of noisy photographs, learning from them alone',
                                description='Measure the noise of photographs, train on them alone, denoise them, and '
                                'show what was done in OUT/report.html. Stopped at any moment (Ctrl-C), the same '
                                'command goes on.')
    clean.add_argument('photos', nargs='+', help='image files or folders (searched below)')
    clean.add_argument('-o', '--output', required=True, metavar='OUT', help='folder')
    budget = clean.add_mutually_exclusive_group()
    budget.add_argument('--effort', choices=['instant', 'quick', 'normal', 'best'], default='normal',
                        help='training: none (seconds), 5, 20 (default) or 90 minutes')
    budget.add_argument('--minutes', type=float, help='of training, in place of --effort')
    clean.add_argument('--weights', metavar='student.safetensors', help='of an earlier run: skips the training')
    clean.add_argument('--save-weights', metavar='FILE', help='keep the student, .safetensors or .pth, for the next '
                       'photographs')
    clean.add_argument('--device', default='auto', help='auto (default), cpu, cuda, mps (the CPU trains)')
    clean.add_argument('--blind-size', default='auto', metavar='K', help='auto (default): as measured; or odd')
    clean.add_argument('--strength', type=float, default=1., help='0 to 1: how much of the noise goes (default 1)')
    clean.add_argument('--chroma', type=float, help='the same for colour noise alone (default: as --strength)')
    clean.add_argument('--seed', type=int, default=0, help='of the training (default 0)')

    noise = commands.add_parser('noise', help='measure the noise of photographs, recommend a blind size',
                                description='Measure noise from the noisy photographs alone: its level for each '
                                'channel and intensity, how far it is correlated, and the blind_size that follows.')
    noise.add_argument('photos', nargs='+', help='image files or folders (searched below)')
    noise.add_argument('-o', '--output', metavar='FIGURE.png', help='draw the correlation and the levels')

    benchmark = commands.add_parser('benchmark', help='methods x datasets -> table, figure', description='Judge every '
                                    'method of an option file on every dataset. Stopped at any moment, the same '
                                    'command goes on; results land in results/benchmark/<name>.')
    benchmark.add_argument('-opt', required=True, metavar='FILE.yml', help='such as options/benchmark/classical.yml')
    benchmark.add_argument('--force_yml', nargs='+', action='extend', default=[], metavar='a:b=v',
                           help='change or add options: datasets:sidd_val:every=8')

    export = commands.add_parser('export', help='write a trained network for other programs',
                                 description='Write a trained network for other programs.')
    export.add_argument('--weights', required=True, metavar='net_g.pth')
    export.add_argument('--onnx', required=True, metavar='OUT.onnx', help='any height and width; RGB in [0, 1]')

    demo = commands.add_parser('demo', help='simulate noise, train, compare: a few minutes on two cores',
                               description='Simulate camera noise, train on it alone, compare. Needs no network.')
    demo.add_argument('-o', '--output', default='results/demo', metavar='OUT', help='default: results/demo')
    demo.add_argument('--noisy', metavar='FOLDER', help='real noisy photographs in place of the simulated ones')
    demo.add_argument('--clean', metavar='FOLDER', help='their clean versions, for the table alone')
    demo.add_argument('--scale', type=float, help='iterations, as a multiple of those of train_cpu.yml')
    return parser


def _add_option_flags(parser: argparse.ArgumentParser) -> None:
    from basicsr_sassid.training.launch import add_arguments
    add_arguments(parser)


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    from basicsr_sassid.utils.errors import cli_errors  # after parsing: torch takes seconds to import
    command = {'train': _train, 'test': _test, 'prepare': _prepare, 'denoise': _denoise, 'submit': _submit,
               'clean': _clean, 'noise': _noise, 'benchmark': _benchmark, 'export': _export, 'demo': _demo
               }[args.command]
    goes_on = args.command in ('clean', 'prepare', 'benchmark') or getattr(args, 'server', None) == 'dnd'
    interrupted = {'interrupted': 'the same command goes on from here'} if goes_on else {}
    cli_errors(command, **interrupted)(args)


def _train(args: argparse.Namespace) -> None:
    from basicsr_sassid.training.launch import launch
    launch(args, is_train=True)


def _test(args: argparse.Namespace) -> None:
    from basicsr_sassid.training.launch import launch
    launch(args, is_train=False)


def _prepare(args: argparse.Namespace) -> None:
    if args.source != 'folder':
        _prepare_dataset(args)
        return
    from basicsr_sassid.data.prepare.folder import prepare_folder
    done = prepare_folder(args.photos, args.output, args.size, args.step, args.strict, args.workers)
    for file, reason in done.skipped.items():
        print(f'skipped {file}: {reason}', file=sys.stderr)
    print(f'{args.output}: {done.sub_images} sub-images of {done.photos} photographs'
          + (f'; {len(done.skipped)} skipped' if done.skipped else ''))


def _prepare_dataset(args: argparse.Namespace) -> None:
    from importlib import import_module
    prepare = getattr(import_module(f'basicsr_sassid.data.prepare.{args.source}'), f'prepare_{args.source}')
    sizes = {} if args.source == 'cc' else {'size': args.size}
    done = prepare(args.downloaded, args.output, incomplete=args.incomplete, workers=args.workers, **sizes)
    for name, written in done.items():
        print(f'{args.output}/{name}: ' + ('was there already' if written is None else
              f'{written.sub_images} sub-images of {written.photos} photographs'))


def _submit(args: argparse.Namespace) -> None:
    from basicsr_sassid.evaluation import submission
    if args.server == 'check':
        print(submission.check_submission(args.submission))
        return
    submit = submission.submit_sidd if args.server == 'sidd' else submission.submit_dnd
    submit(args.downloaded, args.weights, args.output, args.self_ensemble, args.device, args.incomplete)
    print(args.output)


def _denoise(args: argparse.Namespace) -> None:
    from basicsr_sassid.inference.files import denoise_files
    from basicsr_sassid.utils.errors import UserError
    if args.weights is None:  # none are shipped: benchmarks/ready_weights.py
        raise UserError('--weights: which network? Without one, sassid clean --effort instant needs no training, and '
                        'sassid clean trains one on your photographs.')
    failed = denoise_files(args.input, args.output, args.weights, args.device, args.tile, args.overlap,
                           args.self_ensemble, args.precision)
    for file, reason in failed.items():
        print(f'not denoised: {file}: {reason}', file=sys.stderr)
    if failed:
        sys.exit(1)


def _clean(args: argparse.Namespace) -> None:
    from basicsr_sassid.pipeline.api import clean_photos
    blind_size = args.blind_size if args.blind_size == 'auto' else _whole_number(args.blind_size, '--blind-size')
    failed = clean_photos(args.photos, args.output, args.effort, args.minutes, args.weights, args.save_weights,
                          args.device, blind_size, args.strength, args.chroma, args.seed)
    if failed:
        sys.exit(1)


def _whole_number(text: str, where: str) -> int:
    from basicsr_sassid.utils.errors import UserError
    try:
        return int(text)
    except ValueError as error:
        raise UserError(f'{where}: expected auto or a number, got {text!r}') from error


def _noise(args: argparse.Namespace) -> None:
    from basicsr_sassid.noise.survey import describe, survey_files
    found = survey_files(args.photos)
    print(describe(found))
    if args.output:
        from basicsr_sassid.noise.plot import draw
        draw(found.noise, args.output)
        print(f'\nFigure: {args.output}')
    for file, reason in found.failed.items():
        print(f'not measured: {file}: {reason}', file=sys.stderr)


def _benchmark(args: argparse.Namespace) -> None:
    from basicsr_sassid.evaluation.runner import run_benchmark
    from basicsr_sassid.training.options import read_options
    run_benchmark(read_options(args.opt, args.force_yml))


def _export(args: argparse.Namespace) -> None:
    from basicsr_sassid.inference.export import export_onnx
    export_onnx(args.weights, args.onnx)
    print(f'{args.onnx}: lq (N, 3, H, W), RGB in [0, 1], any H and W -> result, likewise')


def _demo(args: argparse.Namespace) -> None:
    from basicsr_sassid.demo import run_demo
    run_demo(args.output, args.noisy, args.clean, args.scale)


if __name__ == '__main__':
    main()
