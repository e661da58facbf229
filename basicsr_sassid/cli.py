"""What the `sassid` commands do: one run_<command> per command of sassid.py."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

from basicsr_sassid.data.prepare.cc import prepare_cc
from basicsr_sassid.data.prepare.cityscapes import prepare_cityscapes
from basicsr_sassid.data.prepare.dnd import prepare_dnd
from basicsr_sassid.data.prepare.folder import prepare_folder
from basicsr_sassid.data.prepare.polyu import prepare_polyu
from basicsr_sassid.data.prepare.sidd import prepare_sidd
from basicsr_sassid.data.prepare.skimage_photos import prepare_skimage
from basicsr_sassid.data.prepare.writer import Prepared
from basicsr_sassid.demo import run_demo as compare_on_photographs
from basicsr_sassid.evaluation.quality import rate_files, write_ratings
from basicsr_sassid.evaluation.runner import run_benchmark as evaluate
from basicsr_sassid.evaluation.submission import check_submission, submit_dnd, submit_sidd
from basicsr_sassid.inference.denoiser import Denoiser
from basicsr_sassid.inference.export import export_onnx
from basicsr_sassid.inference.files import denoise_files
from basicsr_sassid.io.weights_card import parse_network
from basicsr_sassid.noise.plot import draw
from basicsr_sassid.noise.survey import describe, survey_files
from basicsr_sassid.pipeline.api import clean_photos
from basicsr_sassid.pipeline.untrained import denoise_photographs
from basicsr_sassid.training.launch import launch
from basicsr_sassid.training.options import read_options
from basicsr_sassid.utils.blind_size import parse_blind_size
from basicsr_sassid.utils.errors import UserError, cli_errors, printable
from basicsr_sassid.utils.sequences import count_noun

_PREPARE: dict[str, Callable[..., dict[str, Any]]] = {
    'sidd': prepare_sidd,
    'dnd': prepare_dnd,
    'polyu': prepare_polyu,
    'cc': prepare_cc,
    'cityscapes': prepare_cityscapes,
    'skimage': prepare_skimage,
}


def run(args: argparse.Namespace) -> None:
    """Run the command of parsed arguments; a UserError is printed as one paragraph, and the exit status is 2."""
    interrupted = args.interrupted if 'interrupted' in args else 'the same command starts again'
    cli_errors(globals()[args.run], interrupted)(args)


def _print_left_out(label: str, files: Mapping[str, str]) -> None:
    for file, reason in files.items():
        print(printable(f'{label} {file}: {reason}'), file=sys.stderr)


def run_train(args: argparse.Namespace) -> None:
    """Train; files land below the working directory."""
    launch(args, is_train=True)


def run_test(args: argparse.Namespace) -> None:
    """Test; files land below the working directory."""
    launch(args, is_train=False)


# ---- inference ----


def run_denoise(args: argparse.Namespace) -> None:
    """Denoise photographs; exit status 1 where some cannot be denoised."""
    if args.weights is None:
        _refuse_options_of_networks(args)
        failed = denoise_photographs(args.input, args.output, 'cpu' if args.device == 'auto' else args.device)
    else:
        failed = denoise_files(
            args.input,
            args.output,
            args.weights,
            device=args.device,
            tile=args.tile,
            overlap=args.overlap,
            self_ensemble=args.self_ensemble,
            precision=args.precision,
            network=_network(args),
            blind_size=None if args.blind_size is None else parse_blind_size(args.blind_size, '--blind-size'),
        )
    _print_left_out('not denoised:', failed)
    if failed:
        sys.exit(1)


def _refuse_options_of_networks(args: argparse.Namespace) -> None:
    parameters = inspect.signature(Denoiser).parameters
    for name in ('tile', 'overlap', 'self_ensemble', 'precision', 'network', 'blind_size'):
        if (value := getattr(args, name)) != parameters[name].default:
            raise UserError(
                f'--{name.replace("_", "-")} {value}: an option of networks. Give one with --weights, or leave it out.'
            )


def _network(args: argparse.Namespace) -> dict[str, Any] | None:
    return None if args.network is None else parse_network(args.network)


def run_export(args: argparse.Namespace) -> None:
    """Write a network as ONNX."""
    export_onnx(args.weights, args.onnx, _network(args), report=lambda step: print(step, file=sys.stderr, flush=True))
    print(f'{args.onnx}: lq (N, 3, H, W), RGB in [0, 1], any H and W -> result, likewise')


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
        overwrite=args.overwrite,
    )
    if failed:
        sys.exit(1)


def run_noise(args: argparse.Namespace) -> None:
    """Print the noise of photographs; draw it where a file is named."""
    survey = survey_files(args.photos)
    print(printable(describe(survey), newlines=True))
    if args.output and survey.noise is not None:
        draw(survey.noise, args.output)
        print(f'\nFigure: {printable(args.output)}')
    _print_left_out('not measured:', survey.failed)


def run_iqa(args: argparse.Namespace) -> None:
    """Print the quality of images; exit status 1 where some cannot be read."""
    ratings, failed = rate_files(
        args.images,
        args.weights,
        args.feature_fraction,
        args.patch_size,
        args.shorter_side,
        args.semantic_weights,
        args.device,
    )
    for path, quality in ratings.items():
        print(f'{quality:.4f}  {printable(path)}')
    if args.output:
        write_ratings(ratings, args.output)
    _print_left_out('not rated:', failed)
    if failed:
        sys.exit(1)


# ---- datasets and tables ----


def run_prepare_folder(args: argparse.Namespace) -> None:
    """Write an LMDB of sub-images of any photographs."""
    done = prepare_folder(args.photos, args.output, args.size, args.step, args.strict, args.workers)
    _print_left_out('skipped', done.skipped)
    print(f'{printable(args.output)}: {_count(done)}' + (f'; {len(done.skipped)} skipped' if done.skipped else ''))


def _count(written: Prepared) -> str:
    return f'{count_noun(written.sub_images, "sub-image")} of {count_noun(written.photos, "photograph")}'


def run_prepare_dataset(args: argparse.Namespace) -> None:
    """Write the LMDBs of a published dataset, or of scikit-image's photographs."""
    settings = {name: getattr(args, name) for name in ('downloaded', 'incomplete', 'size') if name in args}
    done = _PREPARE[args.source](output=args.output, workers=args.workers, **settings)
    for name, written in done.items():
        print(f'{printable(args.output)}/{name}: ' + ('was there already' if written is None else _count(written)))


def run_benchmark(args: argparse.Namespace) -> None:
    """Evaluate methods on datasets."""
    evaluate(read_options(args.opt, args.force_yml))


def run_submit(args: argparse.Namespace) -> None:
    """Write a submission."""
    submit = submit_sidd if args.server == 'sidd' else submit_dnd
    settings = {'device': args.device, 'self_ensemble': args.self_ensemble, 'network': _network(args)}
    submit(args.downloaded, args.weights, args.output, incomplete=args.incomplete, **settings)
    print(args.output)


def run_check(args: argparse.Namespace) -> None:
    """Read a submission back."""
    print(check_submission(args.submission))


def run_demo(args: argparse.Namespace) -> None:
    """Train and compare on a small machine."""
    if args.clean is not None:
        raise UserError(f'--clean was renamed: --reference {args.clean}')
    if args.scale is not None:
        raise UserError('--scale was replaced by --minutes, the minutes of the whole demo (default 5)')
    compare_on_photographs(args.output, args.noisy, args.reference, args.minutes)
