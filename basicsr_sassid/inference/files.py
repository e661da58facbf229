"""Denoise image files and folders."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from basicsr_sassid.inference.denoiser import Denoiser, teacher_note
from basicsr_sassid.io.photo import EXTENSIONS, list_images, read_photo, write_photo
from basicsr_sassid.utils.errors import UserError, require_path
from basicsr_sassid.utils.sequences import scaled


def denoise_files(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    weights: str | os.PathLike[str],
    device: str = 'auto',
    tile: int = 512,
    overlap: int = 128,
    self_ensemble: bool = False,
    precision: str = 'auto',
) -> dict[str, str]:
    """Denoise image files and folders (searched below) into ``output``, keeping names, sub-folders, format, bit
    depth, alpha, ICC profile and EXIF.

    Args:
        inputs: image files and folders.
        output: a folder; for one input file also the output file, a name with an image extension.
        weights, device, tile, overlap, self_ensemble, precision: see :class:`Denoiser`.

    Returns:
        The files that could not be read, with the reason; all others are written.

    Raises:
        UserError: an input does not exist or has no image; an output would overwrite an input, or two inputs have the
            same output; the weights do not load; an output cannot be written.
    """
    targets = plan_outputs(inputs, Path(output).expanduser())
    denoise = Denoiser(weights, device, tile, overlap, self_ensemble, precision)
    if note := teacher_note(denoise, weights):
        tqdm.write(note, file=sys.stderr)
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
            bar.set_description(source.name)
            try:
                photo = read_photo(source)
            except UserError as error:
                failed[str(source)] = str(error)
            else:
                pixels = denoise(photo.pixels, scaled(show_total, number, 1))
                write_photo(dataclasses.replace(photo, pixels=pixels), target)
            show_total(number + 1)
    return failed


def plan_outputs(inputs: Sequence[str | os.PathLike[str]], output: Path) -> dict[Path, Path]:
    """Input file -> output file. Raises UserError; see :func:`denoise_files`."""
    targets: dict[Path, Path] = {}
    for entry in inputs:
        path = require_path(entry, 'input')
        if path.is_dir():
            files = [
                file
                for file in list_images(path)
                if output.resolve() not in file.resolve().parents or path.resolve() == output.resolve()
            ]
            if not files:
                raise UserError(f'input: no image ({", ".join(EXTENSIONS)}) in {path} or below')
            targets.update({file: output / file.relative_to(path) for file in files})
        elif len(inputs) == 1 and output.suffix.lower() in EXTENSIONS and not output.is_dir():
            targets[path] = output
        else:
            targets[path] = output / path.name
    sources = {path.resolve() for path in targets}
    source_of: dict[Path, Path] = {}
    for source, target in targets.items():
        if target.resolve() in sources:
            raise UserError(f'-o {output}: {target} is an input and would be overwritten. Choose another folder.')
        if target.resolve() in source_of:
            raise UserError(
                f'-o {output}: {source} and {source_of[target.resolve()]} would both be written to '
                f'{target}. Denoise them into two folders.'
            )
        source_of[target.resolve()] = source
    return targets
