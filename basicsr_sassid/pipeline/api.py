"""The public functions of the pipeline: clean_photos and fit_denoiser."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

from basicsr_sassid.inference.denoiser import Denoiser, teacher_note
from basicsr_sassid.inference.files import plan_outputs
from basicsr_sassid.io.atomic import require_writable
from basicsr_sassid.io.foreign_formats import list_foreign
from basicsr_sassid.io.photo import EXTENSIONS
from basicsr_sassid.pipeline.console import print_findings, print_result
from basicsr_sassid.pipeline.options import EFFORTS, CleanOptions, StrPath
from basicsr_sassid.pipeline.outputs import OutputRecord, lock_output
from basicsr_sassid.pipeline.run import REPORT, STUDENT, PhotoRun
from basicsr_sassid.training.runtime import silence
from basicsr_sassid.utils.errors import UserError, expand_path, printable

__all__ = ['EFFORTS', 'CleanOptions', 'clean_photos', 'fit_denoiser']


def clean_photos(  # noqa: PLR0913  public API: an argument per flag of `sassid clean`
    photos: StrPath | Sequence[StrPath],
    output: StrPath,
    effort: str = 'normal',
    minutes: float | None = None,
    weights: StrPath | None = None,
    save_weights: StrPath | None = None,
    device: str = 'auto',
    blind_size: int | str = 'auto',
    strength: float = 1.0,
    chroma: float | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, str]:
    """Denoise photographs with a network trained on them alone, and report on it in ``output/report.html``.

    Args:
        photos: image files and folders (searched below).
        output: folder. Names, sub-folders, formats, bit depth, alpha, ICC profile and EXIF are kept. A run that was
            stopped continues when it is called with the same arguments. A file there that no run has written is not
            overwritten.
        effort: ``instant`` (no training), ``quick``, ``normal`` or ``best``: 0, 5, 20 or 90 minutes.
        minutes: minutes of the whole run, in place of ``effort``; with 0 nothing is trained. What survey, denoising and
            report need is measured on the machine and planned in; the training gets the rest, and at least half of
            the minutes. Where many photographs need more than the other half, the run takes longer. The plan is
            printed before the training.
        weights: a student of an earlier run; replaces the training.
        save_weights: ``.safetensors`` or ``.pth`` to which the student is copied.
        device: ``auto`` or torch's name of a device.
        blind_size: ``auto`` (from the measured noise), or an odd number of pixels.
        strength, chroma: 0 to 1, the fraction of the noise, and of colour noise, that is removed; ``chroma`` is by
            default ``strength``.
        seed: of the training.
        overwrite: replace files in ``output`` that no run has written, or that were changed since.

    Returns:
        The files that were left out, with the reason.

    Raises:
        UserError: no such file; nothing to measure or to train on; almost no noise; an output that would overwrite an
            input or a file of the user's; another run in ``output``; no space; a value out of its range.
    """
    options = CleanOptions(
        effort, minutes, weights, save_weights, device, blind_size, strength, chroma, seed, overwrite
    )
    silence()
    if options.weights is not None:
        student = Denoiser(options.weights, options.device)  # raises before anything is written
        if note := teacher_note(student, options.weights):
            print(printable(note), file=sys.stderr)
    folder = expand_path(output, '-o')
    if folder.suffix.lower() in EXTENSIONS and not folder.is_dir():
        raise UserError(f'-o {folder}: expected a folder')
    # from the second time on, PHOTOS/* names the output too
    given = _as_list(photos)
    inputs = [path for path in given if not path or expand_path(path, 'photos').resolve() != folder.resolve()] or given
    targets = plan_outputs(inputs, folder)
    if not overwrite:
        OutputRecord(folder).check_free([*targets.values(), folder / REPORT])
    save_weights_to = None if save_weights is None else _writable_weights(save_weights)
    with _open_run(targets, folder, options) as run:
        run.survey(_foreign_files(inputs, folder))
        denoiser = run.blend(run.train())
        run.write(denoiser)
        if save_weights_to is not None:
            run.export_student(save_weights_to)
        report = run.report(denoiser)
    print_findings(run.state.findings)
    print_result(run.failed, len(run.written), folder, report)
    return run.failed


def _writable_weights(target: StrPath) -> Path:
    """The path. Raises UserError if the student cannot be saved there, before the hours that its training takes."""
    path = expand_path(target, '--save-weights')
    try:
        require_writable(path)
    except UserError as error:
        raise UserError(f'--save-weights: {error}') from error
    return path


def _as_list(photos: StrPath | Sequence[StrPath]) -> list[StrPath]:
    return [photos] if isinstance(photos, (str, os.PathLike)) else list(photos)


@contextlib.contextmanager
def _open_run(targets: Mapping[Path, Path], output: Path, options: CleanOptions) -> Generator[PhotoRun, None, None]:
    """The only run in its output folder. Raises UserError as :class:`PhotoRun` and :func:`lock_output` do."""
    options.training_settings()  # a missing device raises before anything is written
    with lock_output(output), PhotoRun(targets, output, options) as run:
        yield run


def fit_denoiser(
    photos: StrPath | Sequence[StrPath],
    minutes: float = EFFORTS['normal'],
    folder: StrPath | None = None,
    device: str = 'auto',
    blind_size: int | str = 'auto',
    seed: int = 0,
) -> Denoiser:
    """Train a student on noisy photographs alone.

    Args:
        photos: image files and folders (searched below).
        minutes: minutes of the whole call, above 0: survey, training set and training.
        folder: folder from which a stopped training continues; the student stays there as ``student.safetensors``. By
            default a temporary one.
        device, blind_size, seed: see :func:`clean_photos`.

    Returns:
        The student: a function from noisy to denoised arrays.

    Raises:
        UserError: see :func:`clean_photos`.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> import skimage.data
        >>> from PIL import Image
        >>> rng = np.random.default_rng(0)
        >>> noisy = (skimage.data.rocket() + rng.normal(0, 15, (427, 640, 3))).clip(0, 255).astype(np.uint8)
        >>> folder = tempfile.mkdtemp()
        >>> Image.fromarray(noisy).save(f'{folder}/rocket.png')
        >>> denoise = fit_denoiser(folder, minutes=0.01)     # 20 for real
        1 photograph, 0.3 megapixels; noise of 1... grey levels, correlated over 1 pixel
        >>> denoise(noisy).shape
        (427, 640, 3)
    """
    options = CleanOptions(minutes=minutes, device=device, blind_size=blind_size, seed=seed)
    if not options.training_minutes:
        raise UserError(f'minutes: expected a number above 0, got {minutes}')
    silence()
    with contextlib.nullcontext(folder) if folder else tempfile.TemporaryDirectory() as name:
        output = Path(name)
        with _open_run(plan_outputs(_as_list(photos), output / 'unused'), output, options) as run:
            run.survey()
            student = run.train(writes=False)
            assert student is not None  # with minutes of training there is one
            run.export_student(output / STUDENT)
            run.remove_intermediates()
    return student


def _foreign_files(inputs: Sequence[StrPath], output: Path) -> dict[str, str]:
    """Files in the input folders whose format is not read here, with the reason; not in an output below an input."""
    real_output = output.resolve()
    foreign: dict[str, str] = {}
    for folder in (Path(path).expanduser() for path in inputs):
        if folder.is_dir():
            is_output_below = folder.resolve() in real_output.parents
            for file, reason in list_foreign(folder).items():
                if not (is_output_below and real_output in Path(file).resolve().parents):
                    foreign[file] = reason
    return foreign
