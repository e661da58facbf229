"""The training of a student on one set of photographs, by a plan, observed through noisy data alone."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from basicsr.data import build_dataset
from pydantic import TypeAdapter

from basicsr_sassid.inference.denoiser import Denoiser
from basicsr_sassid.io.atomic import write_json
from basicsr_sassid.noise.model import LARGEST_BLIND_SIZE, NoiseModel
from basicsr_sassid.ops.tiling import tiled_pixels
from basicsr_sassid.pipeline.diagnostics import Finding, diagnose
from basicsr_sassid.pipeline.planning import STAGES, StageClock
from basicsr_sassid.pipeline.state import parse_teacher
from basicsr_sassid.training.blind_sizes import BlindSizeChoice
from basicsr_sassid.training.budget import Plan
from basicsr_sassid.training.loop import train
from basicsr_sassid.training.options import customize, resolve_options
from basicsr_sassid.utils.sequences import evenly_spaced

_HOLD_OUT = 10  # every tenth sub-image is held out; the BNN's checkpoint is chosen by them
_HELD_OUT_IMAGES, _HELD_OUT_SIDE = 8, 256  # at most, of those; pixels
_TILE, _OVERLAP = 64, 32  # pixels, of the BNN's predictions: about the training's patches
_CHECKPOINTS = 8  # at least, in a stage
_CANDIDATES = 4  # checkpoints of the BNN that are compared, the last one among them
_BLIND_SIZE_PATCHES = 2 * 16 * 2  # predicted with and without a probe, with about twice the cost of one blind size
_SECONDS_AT_RISK = 60  # most seconds of training that a kill can lose
_LEAST_BLIND_SIZE = 3  # of a BNN whose blind size is measured
_BLIND_STEP = 4  # pixels by which the blind size grows after a BNN that copies
_DAMAGED = (ValueError, TypeError, KeyError, AttributeError)  # of JSON that holds something else
# grey levels: above it a student with a residual connection is better (SIDD, sigma 20: +0.25 dB), below it one without
# (PolyU, sigma 3: +0.25 dB; docs/ablations.md). Between the two nothing was measured
_STRONG_NOISE = 6.0
_CURVE_POINTS = 100  # of a stage in curve.csv
CURVE, TEACHER = 'curve.csv', 'teacher.json'
PATCH_SIZE = 128  # pixels, of the training
StageProgress = Callable[[str, int], None]  # called with the stage and the iteration in it, counted from 1
# called before the student's stage with the seconds of the training so far and the slowdown of StageClock
Correction = Callable[[float, float], Plan]


def bnn_blind_size(noise: NoiseModel) -> int:
    """Blind size of the BNN, as the noise was measured; at least 3."""
    return max(noise.blind_size(), _LEAST_BLIND_SIZE)


def student_options(
    database: Path, blind_size: int, device: torch.device, seed: int, noise: NoiseModel
) -> dict[str, Any]:
    """Options of the training: train_cpu.yml or train_folder.yml adapted to the noise; a plan gives the lengths.

    Args:
        database: LMDB of the noisy sub-images.
        blind_size: of the BNN, odd, in pixels.
        device: a CUDA device takes train_folder.yml.
        seed: of the run.
        noise: of the photographs.
    """
    is_cuda = device.type == 'cuda'
    opt = customize(f'sassid/train_{"folder" if is_cuda else "cpu"}.yml', 'photos', database, seed)
    opt['num_gpu'] = 'auto' if is_cuda else 0
    opt['datasets']['train']['patch_size'] = PATCH_SIZE
    opt['train'].setdefault('ema_decay', 0.99)  # the best of the rules without clean images (ablations/stopping.py)
    opt['network_bnn']['blind_size'] = blind_size
    opt['network_g']['residual'] = bool(noise.sigma.mean() > _STRONG_NOISE)
    opt['logger']['print_freq'] = 10**9
    return opt


def selection_seconds(step: float, opt: Mapping[str, Any], num_crops: int) -> float:
    """Time to choose and diagnose the BNN's checkpoint and to measure its blind sizes. A prediction takes a
    quarter of a training step (measured: 29 s where this is 31 s).

    Args:
        step: seconds of an iteration of the BNN.
        opt: of :func:`student_options`.
        num_crops: on which the BNN is diagnosed.
    """
    block = opt['datasets']['train']
    images = _CANDIDATES * _HELD_OUT_IMAGES + num_crops
    pixels = tiled_pixels([(_HELD_OUT_SIDE, _HELD_OUT_SIDE)] * images, _TILE, _OVERLAP)
    pixels += _BLIND_SIZE_PATCHES * block['patch_size'] ** 2
    return pixels / (block['batch_size_per_gpu'] * block['patch_size'] ** 2) * step / 4


@dataclasses.dataclass(frozen=True)
class ChosenBNN:
    """The checkpoint of the BNN that is the student's teacher, saved as bnn.json.

    Attributes:
        weights: file, relative to the run's folder.
        blind_size: of the network in pixels.
        risks: checkpoint -> mean squared error on the held-out noisy images, grey levels squared.
    """

    weights: str
    blind_size: int
    risks: dict[str, float]


class StudentTraining:
    """The stages of one set of photographs, in a folder from which a stopped training continues.

    Args:
        folder: for the checkpoints, bnn.json, findings.json, teacher.json (blind sizes and weights of the student's
            targets) and curve.csv.
        opt: of :func:`student_options`.
        plan: lengths of the stages.
        crops: noisy, (H, W, 3) float32 in [0, 1], on which the BNN is diagnosed.
        noise: of the photographs.
        progress: called after every iteration.
        correct: returns the plan whose student's stage fits into the time that is left, always the same for a folder
            in which that stage has begun; by default the plan is kept.

    Attributes:
        findings: a finding for each BNN that copied its input and was trained again.
    """

    def __init__(
        self,
        folder: Path,
        opt: dict[str, Any],
        plan: Plan,
        crops: list[np.ndarray],
        noise: NoiseModel,
        progress: StageProgress,
        correct: Correction | None = None,
    ) -> None:
        self.folder, self.opt, self.plan, self.crops, self.noise = folder, opt, plan, crops, noise
        self.progress, self.correct = progress, correct
        self.clock = StageClock()
        self.findings: list[Finding] = []
        with contextlib.suppress(FileNotFoundError, *_DAMAGED):
            self.findings = [Finding.from_dict(finding) for finding in json.loads(self._findings_file.read_text())]

    @property
    def _findings_file(self) -> Path:
        return self.folder / 'findings.json'

    @property
    def teacher(self) -> BlindSizeChoice | None:
        """Blind sizes and weights of the student's targets; None before its stage, or where the file is damaged."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            return parse_teacher(json.loads((self.folder / TEACHER).read_bytes()))
        return None

    def run(self) -> tuple[Path, ChosenBNN]:
        """Train what is left to train.

        Returns:
            The student's weights, ``net_g_latest.pth``, and the BNN that was chosen for it.
        """
        chosen = self._chosen_bnn()
        if self.findings:  # the training was stopped after the blind size was raised
            self._set_blind_size(self._blind_size + _BLIND_STEP * len(self.findings))
        while chosen is None:
            self._train_bnn()
            chosen = self._chosen_bnn()
        self._set_blind_size(chosen.blind_size)
        student = self.folder / 'experiments' / 'student' / 'models' / 'net_g_latest.pth'
        if not student.exists():
            self._correct_plan()
            self._train(
                'student', {**self.plan.iters, 'bnn': 0}, {'pretrain_network_bnn': str(self.folder / chosen.weights)}
            )
        return student, chosen

    def _correct_plan(self) -> None:
        if self.correct is not None:
            planned = self.plan.seconds['bnn']
            iterations = self.plan.iters['bnn'] * (1 + len(self.findings))
            self.plan = self.correct(self.clock.spent(planned, iterations), self.clock.slowdown(planned))

    @property
    def _blind_size(self) -> int:
        return self.opt['network_bnn']['blind_size']

    def _set_blind_size(self, blind_size: int) -> None:
        self.opt['network_bnn']['blind_size'] = min(blind_size, LARGEST_BLIND_SIZE)

    def _chosen_bnn(self) -> ChosenBNN | None:
        with contextlib.suppress(FileNotFoundError, *_DAMAGED):
            chosen = TypeAdapter(ChosenBNN).validate_json((self.folder / 'bnn.json').read_bytes())
            if (self.folder / chosen.weights).is_file():
                return chosen
        return None

    def _train_bnn(self) -> None:
        """Train the BNN and choose its checkpoint, or raise the blind size if the network copies its input."""
        blind_size = self._blind_size
        name = f'bnn_{blind_size}'
        models = self.folder / 'experiments' / name / 'models'
        if not (models / f'net_bnn_{self.plan.iters["bnn"]}.pth').exists():
            meta = Path(self.opt['datasets']['train']['dataroot_lq']) / 'meta_info.txt'
            num_sub_images = len(meta.read_text().splitlines())
            self._train(name, self.plan.iters, {}, hold_out=_HOLD_OUT if num_sub_images >= _HOLD_OUT else 0)
        risks = self._bnn_risks(models)
        weights = models / min(risks, key=risks.__getitem__)
        findings = diagnose('bnn', self._denoiser(weights), self.crops, self.noise)
        copying = [finding for finding in findings if finding.kind == 'identity']
        if copying and blind_size < LARGEST_BLIND_SIZE:
            self._set_blind_size(blind_size + _BLIND_STEP)
            copying[0].action = f'trained again with blind size {self._blind_size}'
            self.findings += copying
            write_json([finding.to_dict() for finding in self.findings], self._findings_file)
            return
        chosen = ChosenBNN(str(weights.relative_to(self.folder)), blind_size, risks)
        write_json(dataclasses.asdict(chosen), self.folder / 'bnn.json')

    def _bnn_risks(self, models: Path) -> dict[str, float]:
        """Mean squared errors of some checkpoints on the noisy images that the BNN was not trained on.

        The BNN's input excludes the pixel that it predicts: this error is the squared distance from the clean image
        plus the noise's variance, which is the same for all checkpoints.
        """
        paths = sorted(models.glob('net_bnn_[0-9]*.pth'), key=_last_number)
        latest_first = paths[len(paths) // 2 :][::-1]
        block = {**self.opt['datasets']['train'], 'phase': 'val', 'hold_out': _HOLD_OUT}
        dataset: Any = build_dataset(block)
        images = [
            dataset.image(index)[:_HELD_OUT_SIDE, :_HELD_OUT_SIDE]
            for index in evenly_spaced(range(len(dataset)), _HELD_OUT_IMAGES)
        ]
        risks = {}
        for path in evenly_spaced(latest_first, _CANDIDATES):
            denoise = self._denoiser(path)
            risks[path.name] = float(np.mean([((denoise(image) - image) ** 2).mean() for image in images])) * 255**2
        return risks

    def _denoiser(self, weights: Path) -> Denoiser:
        # with a smaller blind size the prediction would contain the noise that it is compared with
        return Denoiser(
            weights,
            'cpu' if self.opt['num_gpu'] == 0 else 'auto',
            tile=_TILE,
            overlap=_OVERLAP,
            blind_size=self.opt['network_bnn']['blind_size'],
        )

    def _train(self, name: str, lengths: Mapping[str, int], path: dict[str, str], hold_out: int = 0) -> None:
        """Train the stages that have a length above 0; the run of the BNN ends after its stage."""
        opt = copy.deepcopy(self.opt)
        opt['name'], opt['path'] = name, path
        opt['datasets']['train']['hold_out'] = hold_out
        dataclasses.replace(self.plan, iters=dict(lengths)).apply(opt)
        opt['logger']['save_checkpoint_freq'] = self._checkpoint_freq(lengths)

        def on_iteration(model: Any, current_iter: int) -> bool:
            stage = model.stage.name
            if stage == 'unet' and not (self.folder / TEACHER).exists():
                write_json(model.choice.to_dict(), self.folder / TEACHER)
            if current_iter % max(lengths[stage] // _CURVE_POINTS, 1) == 0:
                self._append_to_curve(stage, current_iter, model.get_current_log()[f'l_{stage}'])
                self._remove_states(name, keep=2)
            if stage == 'bnn':
                self.clock.tick()
            self.progress(stage, current_iter - sum(lengths[earlier] for earlier in STAGES[: STAGES.index(stage)]))
            return name != 'student' and current_iter == lengths['bnn']

        self.clock.start_stage()
        train(resolve_options(opt, self.folder, True, auto_resume=True), on_iteration=on_iteration)
        self._remove_states(name)

    def _checkpoint_freq(self, lengths: Mapping[str, int]) -> int:
        first = next(stage for stage in STAGES if lengths[stage])
        slowest = max(self.plan.seconds[stage] for stage in STAGES if lengths[stage])
        by_time = max(int(_SECONDS_AT_RISK / max(slowest, 1e-3)), 1)
        return max(min(by_time, lengths[first] // _CHECKPOINTS), 1)

    def _append_to_curve(self, stage: str, current_iter: int, loss: float) -> None:
        with contextlib.suppress(OSError), open(self.folder / CURVE, 'a') as file:
            file.write(f'{stage},{current_iter},{loss:.5g}\n')

    def _remove_states(self, name: str, keep: int = 0) -> None:
        folder = self.folder / 'experiments' / name / 'training_states'
        states = sorted(folder.glob('[0-9]*.state'), key=lambda path: int(path.stem))
        for state in states[: len(states) - keep]:
            state.unlink()


def _last_number(path: Path) -> int:
    return int(path.stem.split('_')[-1])
