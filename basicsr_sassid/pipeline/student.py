"""The three stages within a budget of minutes, watched from noisy data alone."""
from __future__ import annotations

import contextlib
import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from basicsr.data import build_dataset
from basicsr.models.base_model import BaseModel

from basicsr_sassid.inference.denoiser import Denoiser
from basicsr_sassid.io.atomic import atomic_write
from basicsr_sassid.noise.model import LARGEST_BLIND_SIZE, NoiseModel
from basicsr_sassid.pipeline.diagnostics import Finding, diagnose
from basicsr_sassid.training.loop import train
from basicsr_sassid.training.options import options_file, read_options, resolve_options

STAGES = ('bnn', 'lan', 'unet')
RATIO = {'bnn': 3, 'lan': 3, 'unet': 4}  # of the stages' iterations, as train_cpu.yml has them
_LEAST = 30  # iterations of a stage, whatever the budget
_HOLD_OUT = 10  # every tenth sub-image: by them the BNN's checkpoint is chosen
_CHECKPOINTS = 8  # at least, in a stage
_CANDIDATES = 4  # of the BNN's, the last one among them
_SECONDS_AT_RISK = 60  # what a kill costs at most
Progress = Callable[[str, int], None]


def base_options(database: Path, blind_size: int, device: torch.device, seed: int) -> dict:
    """The options of train_cpu.yml or train_folder.yml for this noise, without the stages' lengths."""
    opt = read_options(options_file(f'sassid/train_{"folder" if device.type == "cuda" else "cpu"}.yml'))
    opt.update(name='photos', manual_seed=seed, num_gpu='auto' if device.type == 'cuda' else 0)
    opt['datasets'] = {'train': {**opt['datasets']['train'], 'dataroot_lq': str(database), 'patch_size': 128}}
    # of all rules that need no clean images the best (benchmarks/stopping.py)
    opt['train'].setdefault('ema_decay', 0.99)
    opt['network_bnn']['blind_size'] = blind_size
    opt['network_lan']['receptive_size'] = min(opt['network_lan']['receptive_size'], blind_size)
    opt['logger'].update(use_tb_logger=False, print_freq=10 ** 9)
    return opt


class Training:
    """The stages of one set of photographs, in a folder from which they go on.

    Args:
        folder: for the checkpoints.
        opt: of :func:`base_options`.
        plan: of :func:`plan_iterations`.
        crops: noisy, (H, W, 3) float32 in [0, 1]: what the guards look at.
        noise: of the photographs.
        progress: called after every iteration with the stage and the number of the iteration in it.
    """

    def __init__(self, folder: Path, opt: dict, plan: dict[str, Any], crops: list[np.ndarray], noise: NoiseModel,
                 progress: Progress) -> None:
        self.folder, self.opt, self.plan, self.crops, self.noise = folder, opt, plan, crops, noise
        self.progress = progress
        self.seen = folder / 'findings.json'
        self.findings = [Finding(**found) for found in json.loads(self.seen.read_text())] if self.seen.exists() else []

    def run(self) -> Path:
        """Train what is left to train. Returns the folder with ``net_{bnn,lan,g}_latest.pth``."""
        bnn = self.folder / 'bnn.json'
        if self.findings:  # stopped after the blind size was raised
            self.opt['network_bnn']['blind_size'] = min(self.opt['network_bnn']['blind_size'] + 4 * len(self.findings),
                                                        LARGEST_BLIND_SIZE)
        while not bnn.exists():
            self._train_bnn(bnn)
        chosen = json.loads(bnn.read_text())
        self.opt['network_bnn']['blind_size'] = chosen['blind_size']
        models = self.folder / 'experiments' / 'student' / 'models'
        if not (models / 'net_g_latest.pth').exists():
            weights = str(self.folder / chosen['weights'])
            self._train('student', {**self.plan['iter'], 'bnn': 0}, {'pretrain_network_bnn': weights})
        return models

    @property
    def _device(self) -> str:
        return 'cpu' if self.opt['num_gpu'] == 0 else 'auto'

    def _train_bnn(self, done: Path) -> None:
        """The blind stage; once more with a larger blind square if it has learnt to copy."""
        blind_size = self.opt['network_bnn']['blind_size']
        name = f'bnn_{blind_size}'
        models = self.folder / 'experiments' / name / 'models'
        length = self.plan['iter']['bnn']
        if not (models / f'net_bnn_{length}.pth').exists():
            sub_images = len((Path(self.opt['datasets']['train']['dataroot_lq']) / 'meta_info.txt').read_text()
                             .splitlines())
            self._train(name, self.plan['iter'], {}, hold_out=_HOLD_OUT if sub_images >= _HOLD_OUT else 0)
        weights, risks = self._best_bnn(models)
        denoise = Denoiser(weights, self._device, tile=64, overlap=32)
        found = diagnose('bnn', denoise, self.crops, self.noise)
        copying = [finding for finding in found if finding.kind == 'identity']
        if copying and blind_size < LARGEST_BLIND_SIZE:
            self.opt['network_bnn']['blind_size'] = min(blind_size + 4, LARGEST_BLIND_SIZE)
            copying[0].answer = f'trained again with blind size {self.opt["network_bnn"]["blind_size"]}'
            self.findings += copying
            self._remember()
            return
        with atomic_write(done) as partial:
            partial.write_text(json.dumps({'weights': str(weights.relative_to(self.folder)), 'blind_size': blind_size,
                                           'risks': risks}))

    def _best_bnn(self, models: Path) -> tuple[Path, dict[str, float]]:
        """The checkpoint with the least squared error against the noisy images that it was not trained on.

        The BNN does not see the pixel that it predicts: that error is its distance from the clean image, squared, and
        the noise's variance, which is the same for all.
        """
        paths = sorted(models.glob('net_bnn_[0-9]*.pth'), key=lambda path: int(path.stem.split('_')[-1]))
        paths = paths[len(paths) // 2:][::-1]
        paths = paths[::math.ceil(len(paths) / _CANDIDATES)]  # from the last one back
        block = {**self.opt['datasets']['train'], 'phase': 'val'}
        dataset = build_dataset({**block, 'hold_out': _HOLD_OUT})
        images = [dataset.image(index)[:256, :256] for index in range(0, len(dataset), math.ceil(len(dataset) / 8))]
        risks = {}
        for path in paths:
            denoise = Denoiser(path, self._device, tile=64, overlap=32)
            risks[path.name] = float(np.mean([((denoise(image) - image) ** 2).mean() for image in images])) * 255 ** 2
        return models / min(risks, key=risks.get), risks

    def _remember(self) -> None:
        with atomic_write(self.seen) as partial:
            partial.write_text(json.dumps([vars(found) for found in self.findings]))

    def _train(self, name: str, lengths: dict[str, int], path: dict[str, str], hold_out: int = 0) -> None:
        opt = copy.deepcopy(self.opt)
        opt['name'], opt['path'] = name, path
        opt['datasets']['train']['hold_out'] = hold_out
        opt['train']['teacher_cache'] = self.plan['teacher_cache']
        for stage, block in opt['train']['stages'].items():
            block['iter'] = lengths[stage]
        first = 'bnn' if lengths['bnn'] else 'lan'
        seconds = self.plan['seconds']
        slowest = max(seconds[stage] for stage in STAGES if lengths[stage])
        often = max(int(_SECONDS_AT_RISK / max(slowest, 1e-3)), 1)
        opt['logger']['save_checkpoint_freq'] = max(min(often, lengths[first] // _CHECKPOINTS), 1)
        curve = self.folder / 'curve.csv'

        def watch(model: BaseModel, current_iter: int) -> bool:
            stage = model.stage.name
            every = max(lengths[stage] // 100, 1)
            if current_iter % every == 0:
                loss = model.get_current_log()[f'l_{stage}']
                with contextlib.suppress(OSError), open(curve, 'a') as file:
                    file.write(f'{stage},{current_iter},{loss:.5g}\n')
                self._forget_states(name, keep=2)
            self.progress(stage, current_iter - sum(lengths[earlier] for earlier in STAGES[:STAGES.index(stage)]))
            return name != 'student' and current_iter == lengths['bnn']
        train(resolve_options(opt, self.folder, True, auto_resume=True), on_iteration=watch)
        self._forget_states(name)

    def _forget_states(self, name: str, keep: int = 0) -> None:
        states = sorted((self.folder / 'experiments' / name / 'training_states').glob('[0-9]*.state'),
                        key=lambda path: int(path.stem))
        for state in states[:len(states) - keep]:
            state.unlink()
