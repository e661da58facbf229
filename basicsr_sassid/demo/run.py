"""`sassid demo`: simulate noisy photographs or take real ones, train two networks within minutes, compare."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from basicsr_sassid.data.prepare.folder import prepare_folder
from basicsr_sassid.demo.comparison import (
    Table,
    build_methods,
    compare,
    describe_table,
    draw_comparison,
    draw_first_look,
    explain_gain,
)
from basicsr_sassid.demo.photographs import (
    FIRST_SCENE,
    MAX_SIDE,
    check_sizes,
    match_names,
    measure_noise,
    read_centre,
    read_pairs,
    read_some,
    simulate_photographs,
)
from basicsr_sassid.demo.plan import DemoPlan, make_plan, measure_pixels, start_seconds
from basicsr_sassid.demo.progress import DemoProgress
from basicsr_sassid.demo.training import CropPSNR, models_folder, train_networks
from basicsr_sassid.evaluation.crop_grid import crop_box
from basicsr_sassid.io.atomic import file_stamp, json_digest, remove_partial_files, write_json
from basicsr_sassid.io.demo_files import DemoFiles
from basicsr_sassid.io.photo import Photo, image_size, list_images, write_photo
from basicsr_sassid.noise.estimate import estimate_noise
from basicsr_sassid.noise.model import NoiseModel
from basicsr_sassid.pipeline.planning import STAGES, TOLERANCE
from basicsr_sassid.pipeline.student import bnn_blind_size, student_options
from basicsr_sassid.training.budget import MIN_ITERATIONS, measure_step_times
from basicsr_sassid.training.runtime import silence
from basicsr_sassid.utils.errors import UserError, expand_path, printable, require_path
from basicsr_sassid.utils.option_checks import check_range
from basicsr_sassid.utils.sequences import count_noun
from basicsr_sassid.utils.version import __version__

MINUTES, MOST_MINUTES = 5.0, 1440.0
# the simulated noise is correlated over 2 pixels, not over 4 as the paper's default assumes
SIMULATED_NETWORKS = {'network_bnn': {'blind_size': 5}}
_IMPORT_SECONDS = 8  # of Python and torch, before the clock starts
_NEXT = """
On your own photographs:
  sassid clean PHOTOS -o OUT      # train on them, then denoise them
  sassid denoise PHOTOS -o OUT    # denoise them now"""


def run_demo(
    output: str | os.PathLike[str],
    noisy: str | os.PathLike[str] | None = None,
    reference: str | os.PathLike[str] | None = None,
    minutes: float = MINUTES,
) -> Table:
    """Train a BNN and its student on noisy photographs alone, then compare with classical denoisers.

    A demo that was stopped continues when it is called with the same arguments; one that is complete compares again.

    Args:
        output: folder for ``first_look.png``, ``comparison.png`` and ``table.json``, and for the data and the training
            in ``demo_files``.
        noisy: folder of real noisy photographs; by default simulated camera noise on scikit-image's photographs.
        reference: folder of their clean references, of the same names, for the PSNR that is shown and for the table.
            The training does not depend on them.
        minutes: of the whole demo, above 0 and below 1440.

    Returns:
        Method -> psnr (dB) and ssim, means over images, also in ``output/table.json``; empty without references.

    Raises:
        UserError: minutes out of range, no such folder, references of other names or sizes, files in ``output`` that
            no demo wrote: before anything is written. A training that fails.
    """
    started = time.time() - _IMPORT_SECONDS
    output = expand_path(output, '-o')
    check_range(minutes, '--minutes', above=0, below=MOST_MINUTES)
    if noisy is None and reference is not None:
        raise UserError('--reference: give the noisy photographs too, --noisy FOLDER')
    noisy_folder = None if noisy is None else require_path(noisy, '--noisy')
    reference_folder = None if reference is None else require_path(reference, '--reference')
    if noisy_folder is not None and reference_folder is not None:
        check_sizes(match_names(noisy_folder, reference_folder))
    files = DemoFiles(output)
    files.claim()
    silence()
    with DemoProgress(started, 60 * minutes) as progress:
        return _Demo(files, noisy_folder, reference_folder, minutes, progress).run()


class _Demo:
    """The steps of a demo.

    Args:
        files: of the demo.
        noisy, reference: folders of real photographs; no ``noisy``: photographs are simulated.
        minutes: of the whole demo.
        progress: shows the steps.
    """

    def __init__(
        self, files: DemoFiles, noisy: Path | None, reference: Path | None, minutes: float, progress: DemoProgress
    ) -> None:
        self.files, self.minutes, self.progress = files, minutes, progress
        self.is_simulated = noisy is None
        self.photographs = files.folder / 'photographs'  # simulated ones
        self.noisy = noisy or self.photographs / 'noisy'
        self.reference = self.photographs / 'clean' if self.is_simulated else reference

    def run(self) -> Table:
        """All steps."""
        self.progress.stage('first picture')
        if self.is_simulated:
            simulate_photographs(self.photographs, only=FIRST_SCENE)
        self.show_first_look()
        if self.is_simulated:
            self.progress.stage('simulating camera noise')
            simulate_photographs(self.photographs)
        folder = self.run_folder()
        plan = self.train(folder)
        if self.reference is None:
            self.progress.say(f'No clean references, no table.\nNetwork: {printable(self.weights(folder))}\n{_NEXT}')
            return {}
        return self.compare(folder, plan)

    def first_photograph(self) -> tuple[np.ndarray, np.ndarray | None]:
        """A noisy image and its reference if any, of the first picture and of the PSNR during the training."""
        name = f'{FIRST_SCENE}.png'
        if self.is_simulated:
            return read_centre(self.noisy / name), read_centre(self.photographs / 'clean' / name)
        if self.reference is None:
            return read_some(self.noisy, 1)[0], None
        return read_pairs(self.noisy, self.reference, 1)[0]

    def show_first_look(self) -> None:
        """Write and name the first picture."""
        noisy, clean = self.first_photograph()
        grid = Photo(draw_first_look(noisy, clean, estimate_noise([noisy])))
        picture = self.files.publish('first_look.png', lambda path: write_photo(grid, path))
        self.progress.say(f'First picture, the spectral denoiser without training: {printable(picture)}')

    # ---- training ----

    def run_folder(self) -> Path:
        """The folder of a training: other photographs or minutes have another one."""
        stats: Any = 'simulated'
        if not self.is_simulated:
            stats = [file_stamp(path) for path in list_images(self.noisy)]
        folder = self.files.folder / f'run_{json_digest([stats, self.minutes, __version__], 8)}'
        if folder.exists():
            remove_partial_files(folder)  # of a demo that was killed
        return folder

    def weights(self, folder: Path) -> Path:
        """Of the student."""
        return models_folder(folder) / 'net_g_latest.pth'

    def train(self, folder: Path) -> DemoPlan:
        """Train what is left to train. Returns the plan, with the time that the training took."""
        plan = DemoPlan.load(folder / 'plan.json')
        if plan is not None and plan.trained_seconds is not None and self.weights(folder).exists():
            self.progress.say(f'The networks are trained already; to train again, remove {printable(folder)}')
            self.progress.follow(plan.comparison_seconds)
            return plan
        self.progress.stage('measuring')
        noise = measure_noise(self.noisy)
        database = folder / 'noisy.lmdb'
        if not database.exists():
            prepare_folder([self.noisy], database, size=512, quiet=True)
        opt = student_options(database, bnn_blind_size(noise), torch.device('cpu'), seed=0, noise=noise)
        if self.is_simulated:
            for network, changes in SIMULATED_NETWORKS.items():
                opt[network].update(changes)
        if plan is None:
            plan = self.make_plan(opt, folder, noise)
            plan.save(folder / 'plan.json')
        self.progress.say(plan.describe(self.minutes))
        self.progress.follow(plan.seconds_after_measurement())
        noisy, clean = self.first_photograph()
        crop = None if clean is None else CropPSNR(noisy[crop_box(clean)], clean[crop_box(clean)])
        seconds = train_networks(opt, folder, plan.training, self.progress.show, crop)
        plan = dataclasses.replace(plan, trained_seconds=seconds)
        plan.save(folder / 'plan.json')
        return plan

    def make_plan(self, opt: dict[str, Any], folder: Path, noise: NoiseModel) -> DemoPlan:
        """Measure the machine; say so where the minutes are too few."""
        started = time.time()
        sizes = []
        if self.reference is not None:
            sizes = [_compared_pixels(path) for path, _ in match_names(self.noisy, self.reference)]
        pixels = measure_pixels(read_some(self.noisy, 1)[0], noise)
        times = measure_step_times(opt, folder, list(STAGES), lambda _: self.progress.stage('measuring'))
        elapsed = time.time() - self.progress.started
        start = start_seconds(time.time() - started, times)
        plan = make_plan(times, pixels, opt, sizes, 60 * self.minutes - elapsed, start)
        if min(plan.training.iters.values()) <= MIN_ITERATIONS:  # the plan is longer than the minutes
            with tqdm.external_write_mode():
                print_short_demo(self.minutes, (elapsed + plan.seconds_after_measurement()) / 60)
        return plan

    # ---- comparison ----

    def compare(self, folder: Path, plan: DemoPlan) -> Table:
        """Print the table, write it and the picture."""
        assert self.reference is not None
        self.progress.follow(plan.comparison_seconds)
        self.progress.show('comparing', 0.0)
        pairs = read_pairs(self.noisy, self.reference, max(plan.num_pairs, 1))
        methods = build_methods(pairs, models_folder(folder))
        table, pictures = compare(
            pairs, methods, lambda fraction: self.progress.show('comparing', fraction * plan.comparison_seconds)
        )
        self.progress.say(describe_table(table, len(pairs), self.is_simulated))
        bnn, student = (plan.training.iters[stage] for stage in STAGES)
        if note := explain_gain(table, student):
            self.progress.say(note)
        training_minutes = (plan.trained_seconds or 0.0) / 60
        trained = f'{bnn} iterations of the BNN and {student} of the student in {training_minutes:.1f} minutes'
        content = {
            'pairs': len(pairs),
            'minutes': self.minutes,
            'iterations': plan.training.iters,
            'training_seconds': round(plan.trained_seconds or 0.0),
            'seconds': round(time.time() - self.progress.started),
            'weights': str(self.weights(folder)),
            'methods': table,
        }
        self.files.publish('table.json', lambda path: write_json(content, path, indent=2))
        images = count_noun(len(list_images(self.noisy)), 'noisy photograph')
        grid = Photo(draw_comparison(pictures, f'Trained on {images} alone: {trained}'))
        picture = self.files.publish('comparison.png', lambda path: write_photo(grid, path))
        self.progress.say(f'\nTrained: {trained}.\nPicture: {printable(picture)}\n{_NEXT}')
        return table


def print_short_demo(minutes: float, least: float) -> None:
    """Print how many minutes the shortest demo takes, where they are more than those that were given."""
    if least > TOLERANCE * minutes:
        print(
            f'--minutes {minutes:g} is less than the shortest demo on this machine ({MIN_ITERATIONS} iterations of '
            f'each stage): about {least:.1f} minutes, which it takes now. Give more minutes.',
            file=sys.stderr,
        )


def _compared_pixels(path: Path) -> int:
    height, width = image_size(path)
    return min(height, MAX_SIDE) * min(width, MAX_SIDE)
