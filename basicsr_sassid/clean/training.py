"""The three stages within a budget of minutes, watched from noisy data alone."""
from __future__ import annotations

import contextlib
import copy
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from basicsr.data import build_dataset
from basicsr.models import build_model
from basicsr.models.base_model import BaseModel

from basicsr_sassid._files import written_whole
from basicsr_sassid._options import complete_options, options_file, read_options
from basicsr_sassid._run import silence
from basicsr_sassid.clean.guards import Finding, watch_result
from basicsr_sassid.inference.denoiser import Denoiser
from basicsr_sassid.models.teacher_util import asked_pixels
from basicsr_sassid.noise.estimate import LARGEST_BLIND_SIZE, Noise
from basicsr_sassid.train import train

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


def plan_iterations(opt: dict, folder: Path, minutes: float, ratio: dict[str, int] | None = None) -> dict[str, Any]:
    """Measure a step of each stage, and share the minutes out.

    Args:
        opt: of a StagedModel, not yet completed.
        folder: where it would be trained; nothing is written.
        minutes: for all stages.
        ratio: of the stages' iterations; by default as ``opt`` has them.

    Returns:
        ``iter`` and ``seconds`` (of one iteration) by stage, ``teacher_cache``, ``cache_seconds``.
    """
    opt = copy.deepcopy(opt)
    ratio = ratio or {stage: block['iter'] for stage, block in opt['train']['stages'].items()}
    for stage, block in opt['train']['stages'].items():
        block['iter'] = 10 if ratio[stage] else 0
    if 'teacher_cache' in opt['train']:
        opt['train']['teacher_cache'] = 'off'  # here; what it costs and saves is computed
    opt = complete_options(opt, folder, True)
    silence()
    dataset = build_dataset(opt['datasets']['train'])
    model = build_model(opt)
    model.begin(1, dataset)
    batch = opt['datasets']['train']['batch_size_per_gpu']
    patches = torch.stack([dataset[index % len(dataset)]['lq'] for index in range(batch)])
    stages = {stage.name: stage for stage in model.stages if ratio[stage.name]}
    teachers = sorted({teacher for stage in stages.values() for teacher in stage.cached})
    seconds = {}
    for index, (name, stage) in enumerate(stages.items()):
        sample = {'lq': patches, **{f'teacher_{teacher}': patches for teacher in stage.cached}}
        model.update_learning_rate(10 * index + 1)
        seconds[name] = _median_seconds(lambda sample=sample: (model.feed_data(sample), model.optimize_parameters(1)))
    asks = {teacher: _median_seconds(lambda teacher=teacher: _forward(model, teacher, patches))
            for teacher in teachers}
    per_patch = dataset.patch_size ** 2 * batch
    cache_seconds = sum(asked_pixels(size, dataset.patch_size) for size in dataset.sizes) / per_patch * sum(
        asks.values())
    budget = 60 * minutes
    with_cache = (budget - cache_seconds) / sum(ratio[name] * seconds[name] for name in stages)
    live = {name: value + sum(asks[teacher] for teacher in stages[name].cached) for name, value in seconds.items()}
    without = budget / sum(ratio[name] * live[name] for name in stages)
    use_cache = with_cache > without and bool(teachers)
    rounds = max(with_cache, without)
    return {'iter': {name: max(int(rounds * share), _LEAST) if share else 0 for name, share in ratio.items()},
            'seconds': seconds if use_cache else live, 'teacher_cache': 'lmdb' if use_cache else 'off',
            'cache_seconds': cache_seconds if use_cache else 0.}


def _median_seconds(step: Callable[[], object], warm_up: int = 3, count: int = 7) -> float:
    times = []
    for _ in range(warm_up + count):
        started = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return float(np.median(times[warm_up:]))


def _forward(model: BaseModel, teacher: str, patches: torch.Tensor) -> None:
    with torch.no_grad(), model.autocast():
        lq = patches.to(model.device) * model.img_range
        model.refine(teacher, model.teach(teacher, lq), lq)


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

    def __init__(self, folder: Path, opt: dict, plan: dict[str, Any], crops: list[np.ndarray], noise: Noise,
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
        found = watch_result('bnn', denoise, self.crops, self.noise)
        copying = [finding for finding in found if finding.kind == 'identity']
        if copying and blind_size < LARGEST_BLIND_SIZE:
            self.opt['network_bnn']['blind_size'] = min(blind_size + 4, LARGEST_BLIND_SIZE)
            copying[0].answer = f'trained again with blind size {self.opt["network_bnn"]["blind_size"]}'
            self.findings += copying
            self._remember()
            return
        with written_whole(done) as partial:
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
        with written_whole(self.seen) as partial:
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
        train(complete_options(opt, self.folder, True, auto_resume=True), watch=watch)
        self._forget_states(name)

    def _forget_states(self, name: str, keep: int = 0) -> None:
        states = sorted((self.folder / 'experiments' / name / 'training_states').glob('[0-9]*.state'),
                        key=lambda path: int(path.stem))
        for state in states[:len(states) - keep]:
            state.unlink()
