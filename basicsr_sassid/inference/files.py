"""Denoise image files and folders."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from basicsr_sassid.inference.denoiser import Denoiser, teacher_note
from basicsr_sassid.io.atomic import make_writable_folder, require_writable
from basicsr_sassid.io.foreign_formats import conversion_hint
from basicsr_sassid.io.photo import (
    EXTENSIONS,
    check_writable,
    list_images,
    no_image,
    read_header,
    read_photo,
    write_photo,
)
from basicsr_sassid.utils.errors import NoSpaceError, UserError, expand_path, printable, require_path
from basicsr_sassid.utils.sequences import Progress, scaled


def denoise_files(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    weights: str | os.PathLike[str],
    **settings: Any,
) -> dict[str, str]:
    """Denoise image files and folders (searched below) into ``output``, keeping names, sub-folders, format, bit
    depth, alpha, ICC profile, EXIF and resolution. Colours that are stored multiplied by alpha are denoised as such.

    Args:
        inputs: image files and folders.
        output: a folder; for one input file also the output file, a name with an image extension.
        weights: see :class:`Denoiser`.
        settings: its other arguments: ``device``, ``tile``, ``network``, ``blind_size`` ...

    Returns:
        The files that could not be read, denoised or written, with the reason; all others are written.

    Raises:
        UserError: an input does not exist or has no image; an output would overwrite an input, or two inputs have the
            same output; the weights do not load; nothing can be written to ``output``; the disk is full.
    """
    targets = plan_writable_outputs(inputs, output)
    denoise = Denoiser(weights, **settings)
    if note := teacher_note(denoise, weights):
        tqdm.write(printable(note), file=sys.stderr)
    return denoise_targets(targets, denoise)


def denoise_targets(targets: Mapping[Path, Path], denoise: Callable[..., np.ndarray]) -> dict[str, str]:
    """Denoise input files into output files, with a progress bar.

    Args:
        targets: of :func:`plan_writable_outputs`.
        denoise: pixels and a Progress -> pixels of the same shape and dtype.

    Returns:
        The files that could not be read, denoised or written, with the reason; all others are written.

    Raises:
        UserError: the disk is full.
    """
    failed: dict[str, str] = {}
    with tqdm(
        total=len(targets),
        unit='photo',
        file=sys.stderr,
        bar_format='{desc}{percentage:3.0f}%|{bar}| {n:.1f}/{total} [{elapsed}<{remaining}]',
    ) as bar:

        def show_total(done: float) -> None:
            bar.update(done - bar.n)

        for number, (source, target) in enumerate(targets.items()):
            bar.set_description(printable(source.name))
            try:
                _denoise_file(source, target, denoise, scaled(show_total, number, 1))
            except NoSpaceError:
                raise
            except UserError as error:
                failed[str(source)] = str(error)
            show_total(number + 1)
    return failed


def _denoise_file(
    source: Path, target: Path, denoise: Callable[[np.ndarray, Progress], np.ndarray], progress: Progress
) -> None:
    photo = read_photo(source)
    check_writable(photo, target)
    require_writable(target)
    write_photo(dataclasses.replace(photo, pixels=denoise(photo.pixels, progress)), target)


def plan_writable_outputs(inputs: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str]) -> dict[Path, Path]:
    """:func:`plan_outputs` for an output that can be written. Raises UserError also if it cannot."""
    output = expand_path(output, '-o')
    targets = plan_outputs(inputs, output)
    if list(targets.values()) == [output]:
        (source,) = targets
        check_writable(read_header(source), output)
        require_writable(output)
    else:
        make_writable_folder(output)
    return targets


def plan_outputs(inputs: Sequence[str | os.PathLike[str]], output: Path) -> dict[Path, Path]:
    """Input file -> output file.

    An output folder below an input folder is left out of that input: it holds results of earlier calls.

    Raises:
        UserError: see :func:`denoise_files`.
    """
    targets: dict[Path, Path] = {}
    real_output = _real(output)
    for entry in inputs:
        path = require_path(entry, 'input')
        if path.is_dir():
            _refuse_file_name(output, f'{path} is a folder')
            targets.update({file: output / file.relative_to(path) for file in _images_outside(path, real_output)})
        elif len(inputs) == 1 and output.suffix.lower() in EXTENSIONS and not output.is_dir():
            targets[path] = output
        else:
            _refuse_file_name(output, 'there are several inputs' if len(inputs) > 1 else 'this format is not written')
            targets[path] = output / path.name
    sources = {_real(path) for path in targets}
    source_of: dict[Path, Path] = {}
    for source, target in targets.items():
        real_target = _real(target)
        if real_target in sources:
            raise UserError(f'-o {output}: {target} is an input and would be overwritten. Choose another folder.')
        if real_target in source_of:
            raise UserError(
                f'-o {output}: {source} and {source_of[real_target]} would both be written to '
                f'{target}. Denoise them into two folders.'
            )
        source_of[real_target] = source
    return targets


def _images_outside(folder: Path, output: Path) -> list[Path]:
    """The images below ``folder``, without those of ``output`` (both real paths) if it is below too."""
    images = list_images(folder)
    if not images:
        raise UserError(no_image([folder], 'input'))
    if _real(folder) not in output.parents:  # the results are elsewhere, or around the input: no image is a result
        return images
    outside = [file for file in images if output not in _real(file).parents]
    if not outside:
        raise UserError(f'input: all images of {folder} are in {output}, where the results go. Choose another -o.')
    return outside


def _refuse_file_name(output: Path, reason: str) -> None:
    """Raise UserError if ``output``, which must be a folder, has the name of an image file and does not exist."""
    is_image_name = output.suffix.lower() in EXTENSIONS or conversion_hint(output) is not None
    if is_image_name and not output.is_dir():
        raise UserError(f'-o {output}: the name of one image file, but {reason}. Name a folder for the results.')


def _real(path: Path) -> Path:
    """The path without symbolic links. Unlike Path.resolve it accepts links that lead nowhere or in a circle."""
    return Path(os.path.realpath(path))
