"""PhotoRun: one run of `sassid clean`, one method per step."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from basicsr_sassid.inference.blend import BlendedDenoiser
from basicsr_sassid.inference.denoiser import Denoiser
from basicsr_sassid.inference.spectral import SpectralDenoiser
from basicsr_sassid.io.atomic import copy_file, file_stamp, json_digest, make_folder, remove_partial_files
from basicsr_sassid.io.checkpoint import read_weights, save_weights
from basicsr_sassid.io.photo import Photo, check_writable, read_photo, write_photo
from basicsr_sassid.noise.model import NoiseModel
from basicsr_sassid.noise.survey import describe_groups, survey
from basicsr_sassid.pipeline.blending import blend_crops, fit_blend, read_centre
from basicsr_sassid.pipeline.console import ProgressBar, print_plan, print_survey
from basicsr_sassid.pipeline.diagnostics import advice
from basicsr_sassid.pipeline.measuring import measure_denoising, plan_run
from basicsr_sassid.pipeline.model_card import write_student
from basicsr_sassid.pipeline.options import CleanOptions
from basicsr_sassid.pipeline.outputs import WORK_FOLDER, OutputRecord
from basicsr_sassid.pipeline.planning import STAGES, correct_plan, seconds_done
from basicsr_sassid.pipeline.report import write_report
from basicsr_sassid.pipeline.state import RunState
from basicsr_sassid.pipeline.student import CURVE, StudentTraining, bnn_blind_size, student_options
from basicsr_sassid.pipeline.training_set import check_survey, megapixels, prepare_training_set
from basicsr_sassid.training.budget import Plan
from basicsr_sassid.utils.device import choose_device
from basicsr_sassid.utils.errors import NoSpaceError, UserError, printable
from basicsr_sassid.utils.sequences import scaled

REPORT = 'report.html'
STUDENT = 'student.safetensors'


class PhotoRun:
    """One run in a folder below the output, from which a stopped run continues. The steps are called in order.

    Args:
        targets: photograph -> output file.
        output: folder of the outputs.
        options: of the run.

    Attributes:
        folder: of the run. Other photographs or settings have another one, so that no training is lost.
        state: saved after every step.
        record: of the files in ``output``.
        written: photograph -> its denoised version, of those that were denoised.
        failed: files that were left out, with the reason.
        crops: noisy, (H, W, 3) float32 in [0, 1], on which networks are compared and diagnosed.

    Raises:
        UserError: the device or the weights do not exist; the folder cannot be written.
    """

    def __init__(self, targets: Mapping[Path, Path], output: Path, options: CleanOptions) -> None:
        self.started = time.time()
        self.targets, self.output, self.options = dict(targets), output, options
        stats = [file_stamp(path) for path in targets]
        settings = options.training_settings()
        self.device = choose_device(options.device)
        self.folder = make_folder(output.resolve() / WORK_FOLDER / json_digest([stats, settings]))
        remove_partial_files(self.folder)  # of a run that was killed
        self.record = OutputRecord(output)
        self.state = RunState.load(self.folder / 'state.json')
        self.save_state()
        self.written: dict[Path, Path] = {}
        self.failed: dict[str, str] = {}
        self.photos: dict[Path, tuple[int, int]] = {}
        self.crops: list[np.ndarray] = []
        self.progress = ProgressBar()

    def __enter__(self) -> PhotoRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.close()

    def save_state(self) -> None:
        """Write state.json. Raises UserError if that fails."""
        self.state.save(self.folder / 'state.json')

    @contextlib.contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        """Add the seconds of the block to those of earlier calls that completed it."""
        started = time.time()
        yield
        self.state.timings[step] = self.state.timings.get(step, 0.0) + time.time() - started
        self.save_state()

    # ---- survey ----

    def survey(self, unreadable: Mapping[str, str] | None = None) -> None:
        """Measure the noise and print the result.

        Args:
            unreadable: files of formats that are not read here, with the reason.

        Raises:
            UserError: no photograph can be read; nothing to measure; almost no noise.
        """
        found = survey(list(self.targets))
        self.photos = found.photos
        self.failed = {**found.failed, **(unreadable or {})}
        self.state.photos = len(found.photos)
        self.state.megapixels = megapixels(found.photos)
        self.state.noise = found.noise
        self.state.groups = describe_groups(found.groups) if len(found.groups) > 1 else []
        check_survey(found, self.failed, self.options)
        if found.noise is not None:
            print_survey(found, found.noise, self.state.megapixels)
        self.crops = blend_crops(found.photos, read_centre)

    # ---- train ----

    def train(self, writes: bool = True) -> Denoiser | None:
        """The student: of the given weights, of an earlier call, or trained now; None without a training.

        Args:
            writes: whether photographs and report follow, whose time is planned in.

        Raises:
            UserError: too little to train on; no space.
        """
        with self._timed('training'):
            if self.options.weights is not None:
                return Denoiser(self.options.weights, self.options.device)
            if self.options.training_minutes == 0 or self.state.noise is None:
                return None
            if not (self.folder / STUDENT).exists():
                self._train_student(self.state.noise, writes)
            return Denoiser(self.folder / STUDENT, self.options.device)

    def _train_student(self, noise: NoiseModel, writes: bool) -> None:
        if self.state.plan is not None and self.state.plan.iters.keys() != set(STAGES):  # of an earlier version
            self.remove_intermediates()  # the checkpoints of its stages
            (self.folder / CURVE).unlink(missing_ok=True)
            self.state.plan = None
        database = prepare_training_set(self.photos, self.folder, self.progress)
        blind_size = self.options.blind_size
        if isinstance(blind_size, str):  # auto
            blind_size = bnn_blind_size(noise)
        opt = student_options(database, blind_size, self.device, self.options.seed, noise)
        if self.state.plan is None:
            self._plan_training(opt, noise, writes)
        plan = self.state.plan
        assert plan is not None

        def show(stage: str, iteration: int) -> None:
            now: Plan = self.state.plan or plan
            self.progress.show(seconds_done(now, stage, iteration), f'{stage} {iteration}/{now.iters[stage]}')

        self.progress.step('training', total=plan.total_seconds())
        training = StudentTraining(self.folder, opt, plan, self.crops, noise, show, self._correct_plan)
        weights, chosen = training.run()
        self.state.blind_size, self.state.bnn_risks = chosen.blind_size, chosen.risks
        self.state.teacher, self.state.findings = training.teacher, training.findings
        self.save_state()
        copy_file(self.folder / chosen.weights, self.folder / 'net_bnn.pth')
        write_student(weights, self.state, self.folder / STUDENT)

    def _plan_training(self, opt: dict[str, Any], noise: NoiseModel, writes: bool) -> None:
        """Measure all steps, decide the lengths of the stages, and print them."""
        self.progress.step('measuring', total=1)
        denoising = 0.0
        if writes:
            denoising = measure_denoising(self.photos, self.crops, noise, opt, self.folder, self.options.device)
        minutes = self.options.training_minutes
        budget, self.state.plan = plan_run(
            opt, self.folder, minutes, self.started, denoising, len(self.crops), self.progress.show
        )
        self.state.training_seconds = budget.training - budget.setup  # that of the stage to come
        self.save_state()
        print_plan(budget, self.state.plan, self.state.megapixels)

    def _correct_plan(self, spent: float, slowdown: float) -> Plan:
        """The plan with the final length of the student's stage, which the state keeps for a call that continues."""
        assert self.state.plan is not None
        if self.state.training_seconds is not None:
            self.state.plan = correct_plan(self.state.plan, self.state.training_seconds - spent, slowdown)
            self.state.training_seconds = None
            self.save_state()
            self.progress.change_total(self.state.plan.total_seconds())
        return self.state.plan

    # ---- blend, write, report ----

    def blend(self, student: Denoiser | None) -> BlendedDenoiser:
        """The denoiser of the outputs: spectral denoiser and student, with the least estimated error."""
        with self._timed('blending'):
            noise = self.state.noise
            fitted = fit_blend(SpectralDenoiser(noise) if noise else None, student, self.crops, noise)
            for finding in fitted.findings:
                finding.action = advice(finding.kind, self.options.training_minutes, self.options.weights is not None)
            of_training = [finding for finding in self.state.findings if finding.stage != 'result']
            self.state.student_weight, self.state.risks = fitted.denoiser.student_weight, fitted.risks
            self.state.findings = of_training + fitted.findings
            self.save_state()
        return dataclasses.replace(fitted.denoiser, strength=self.options.strength, chroma=self.options.chroma)

    def write(self, denoiser: BlendedDenoiser) -> None:
        """Write the outputs that this run has not written yet. A file that cannot be read or written joins ``failed``.

        Raises:
            UserError: no space.
        """
        run = self._writer()
        with self._timed('denoising'):
            targets = {source: target for source, target in self.targets.items() if source in self.photos}
            self.written = {
                source: target for source, target in targets.items() if self.record.status(target, run) == 'current'
            }
            missing = {source: target for source, target in targets.items() if source not in self.written}
            self.progress.step('denoising', total=max(sum(math.prod(self.photos[source]) for source in missing), 1))
            pixels_done = 0
            for source, target in missing.items():
                self.progress.show(pixels_done, printable(source.name)[:40])
                size = math.prod(self.photos[source])
                try:
                    photo = self._read_for(source, target)
                    photo.pixels = denoiser(photo.pixels, scaled(self.progress.show, pixels_done, size))
                    finished = self.folder / f'output{target.suffix}'
                    write_photo(photo, finished)
                    self.record.publish(finished, target, run)
                except NoSpaceError:
                    raise
                except UserError as error:  # its header was readable, or its extension names another format
                    self.failed[str(source)] = str(error)
                else:
                    self.written[source] = target
                pixels_done += size

    def _writer(self) -> str:
        """What the outputs depend on: the photographs, the training (the folder's name), the strength."""
        return json_digest([self.folder.name, self.options.strength, self.options.chroma])

    def _read_for(self, source: Path, target: Path) -> Photo:
        """A photograph whose output can be written. Raises UserError."""
        if not self.options.overwrite:
            self.record.check_free([target])
        photo = read_photo(source)
        check_writable(photo, target)
        return photo

    def report(self, denoiser: BlendedDenoiser) -> Path:
        """Write report.html, remove the intermediate files, and return the report's path."""
        self.state.seconds += time.time() - self.started
        self.save_state()
        report, finished = self.output / REPORT, self.folder / REPORT
        write_report(finished, self.written, self.state, self.folder, denoiser, self.failed, command_line())
        self.record.publish(finished, report, self._writer())
        self.remove_intermediates()
        return report

    def export_student(self, target: Path) -> None:
        """Copy the student to a .safetensors or .pth file. Raises UserError if it cannot be written."""
        if target.suffix == '.safetensors':
            copy_file(self.folder / STUDENT, target)
        else:
            save_weights(read_weights(self.folder / STUDENT), target)

    def remove_intermediates(self) -> None:
        """Remove the training set and the checkpoints. A second call needs none of them."""
        for name in ('noisy.lmdb', 'experiments'):
            shutil.rmtree(self.folder / name, ignore_errors=True)


def command_line() -> str:
    """The command that repeats the run."""
    return shlex.join(['sassid', *sys.argv[1:]]) if len(sys.argv) > 1 else 'clean_photos(...)'
