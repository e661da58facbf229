"""D2SM between the student of SASSID's third stage and its two teachers, where no clean image exists.

    python ablations/d2sm_third_stage.py -o results/d2sm_stage                         # the demo's simulated noise
    python ablations/d2sm_third_stage.py -o results/d2sm_stage_sidd --noisy sidd_val/noisy --reference sidd_val/clean

BNN and LAN are trained once. Every student of theirs has the same minutes (--minutes); the step time of each loss is
measured before the first one. The semantic statistics of the student's output are matched to those of the teachers'
mean, weighted by alpha as in eq. 5. The clean references are read for the figures alone. Stopped, the same command
continues. Needs the extra `semantic`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from common import add_photograph_arguments, read_photographs, small_training  # isort: skip

from basicsr.utils.registry import LOSS_REGISTRY

from basicsr_sassid import Denoiser
from basicsr_sassid.evaluation.protocols import evaluate_image
from basicsr_sassid.io.atomic import write_json
from basicsr_sassid.losses.d2sm_loss import D2SMLoss
from basicsr_sassid.losses.selective_loss import TwoTeacherL1Loss, texture_map
from basicsr_sassid.training.budget import Plan, allocate_budget, measure_step_times
from basicsr_sassid.training.loop import train
from basicsr_sassid.training.options import resolve_options

D2SM = {'backbone': 'efficientnet-lite0', 'patch_size': 96, 'stride': 32, 'img_range': 255}
# of the term, beside L1 in grey levels; its gradient is that of L1 at about 50
WEIGHTS = {'L1': None, 'L1 + 10 D2SM': 10.0, 'L1 + 100 D2SM': 100.0, 'L1, as few iterations': None}
ITERATIONS_OF = {'L1, as few iterations': 'L1 + 10 D2SM'}  # what D2SM's time costs, apart from what it does
TEXTURED = 5.0  # grey levels: local standard deviation of the clean reference above which a pixel counts as textured


@LOSS_REGISTRY.register()
class TwoTeacherD2SMLoss(TwoTeacherL1Loss):
    """L1 to both teachers and D2SM to their mean weighted by alpha.

    Args:
        d2sm: options of D2SMLoss.
        texture: arguments of TwoTeacherL1Loss.
    """

    def __init__(self, d2sm: dict[str, Any], **texture: Any) -> None:
        super().__init__(**texture)
        self.d2sm = D2SMLoss(**d2sm)

    def forward(self, pred: Tensor, flat: Tensor, textured: Tensor) -> Tensor:
        alpha = texture_map(flat, **self.texture)
        return super().forward(pred, flat, textured) + self.d2sm(pred, (1 - alpha) * flat + alpha * textured)[0]


def loss_block(label: str) -> dict[str, Any]:
    """Changes of the block ``train.stages.unet.loss``."""
    weight = WEIGHTS[label]
    return {} if weight is None else {'type': 'TwoTeacherD2SMLoss', 'd2sm': {**D2SM, 'loss_weight': weight}}


def figures(result: np.ndarray, clean: np.ndarray) -> dict[str, float]:
    """PSNR and SSIM; PSNR of textured pixels; their high frequencies, projected onto those of the clean reference."""

    def high(image: np.ndarray) -> np.ndarray:
        return image.astype(np.float32) - cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.5)

    grey = clean.astype(np.float32).mean(axis=2)
    variance = cv2.blur(grey * grey, (7, 7)) - cv2.blur(grey, (7, 7)) ** 2
    textured = variance > TEXTURED**2
    error = (result.astype(np.float32) - clean)[textured]
    kept = (high(result) * high(clean))[textured].sum() / (high(clean)[textured] ** 2).sum() if error.size else np.nan
    return {
        'psnr': evaluate_image(result, clean, 'psnr'),
        'ssim': evaluate_image(result, clean, 'ssim_gaussian'),
        'psnr_textured': float(10 * np.log10(255**2 / np.mean(error**2))) if error.size else np.nan,
        'texture_kept': float(kept),
    }


class Study:
    """The runs of one set of photographs, in a folder."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.folder, self.minutes = Path(args.output).resolve(), args.minutes
        self.photographs = read_photographs(args, self.folder, args.every)
        self.file = self.folder / 'figures.json'
        self.content = json.loads(self.file.read_text()) if self.file.exists() else {'figures': {}, 'plans': {}}

    def options(self, name: str, seed: int, scale: float = 1.0) -> dict[str, Any]:
        return small_training('sassid/three_stages_cpu.yml', name, self.photographs, seed, scale)

    def train_teachers(self, minutes: float) -> None:
        """BNN and LAN of all students."""
        opt = self.options('teachers', 0)
        times = measure_step_times(opt, self.folder, ['bnn', 'lan', 'unet'])
        allocate_budget(times, {'bnn': 1, 'lan': 1, 'unet': 0}, minutes).apply(opt)
        opt['train']['stages']['unet']['iter'] = 1
        self._train(opt)

    def student_options(self, label: str, seed: int) -> dict[str, Any]:
        opt = self.options(f'{"_".join(label.replace(",", "").split())}_{seed}', seed)
        for name in ('bnn', 'lan'):
            opt['path'][f'pretrain_network_{name}'] = str(
                self.folder / f'experiments/teachers/models/net_{name}_latest.pth'
            )
            opt['train']['stages'][name]['iter'] = 0
        opt['train']['stages']['unet']['loss'] = loss_block(label)
        return opt

    def plan(self) -> None:
        """The iterations of each loss, by step times that are measured one after the other."""
        for label in WEIGHTS:
            if label in ITERATIONS_OF:
                self.content['plans'][label] = self.content['plans'][ITERATIONS_OF[label]]
            elif label not in self.content['plans']:
                times = measure_step_times(self.student_options(label, 0), self.folder, ['unet'])
                self.content['plans'][label] = allocate_budget(times, {'unet': 1}, self.minutes).to_dict()
        self._write()

    def student(self, label: str, seed: int) -> None:
        """Train and evaluate a student."""
        rows = self.content['figures'].setdefault(label, {})
        if str(seed) in rows:
            return
        opt = self.student_options(label, seed)
        Plan.from_dict(self.content['plans'][label]).apply(opt)
        denoise = Denoiser(self._train(opt) / 'net_g_latest.pth', 'cpu')
        values = [figures(denoise(noisy), clean) for noisy, clean in self.photographs.pairs]
        # nan: an image without textured pixels
        rows[str(seed)] = {key: float(np.nanmean([row[key] for row in values])) for key in values[0]}
        self._write()
        print(label, seed, rows[str(seed)], flush=True)

    def table(self) -> None:
        """Print the mean of each figure and its range over the seeds."""
        for label, rows in self.content['figures'].items():
            cells = []
            for key in next(iter(rows.values())):
                column = [row[key] for row in rows.values()]
                cells.append(f'{key} {statistics.mean(column):.3f} ({min(column):.3f} to {max(column):.3f})')
            print(f'{label:16} {self.content["plans"][label]["iter"]["unet"]:6} iterations  {"  ".join(cells)}')

    def _train(self, opt: dict[str, Any]) -> Path:
        models = self.folder / 'experiments' / opt['name'] / 'models'
        if not (models / 'net_g_latest.pth').exists():
            opt['logger']['save_checkpoint_freq'] = 500
            train(resolve_options(opt, self.folder, True, auto_resume=True), on_iteration=lambda *_: None)
        return models

    def _write(self) -> None:
        write_json(self.content, self.file, indent=2)


def main() -> None:
    """Parse the command line, run the study, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('-o', '--output', required=True, help='folder; the figures are in figures.json')
    add_photograph_arguments(parser)
    parser.add_argument('--every', type=int, default=1, help='take the first of so many photographs')
    parser.add_argument('--minutes', type=float, default=2.5, help='for each student')
    parser.add_argument('--teachers', type=float, default=6, help='minutes for BNN and LAN together')
    parser.add_argument('--seeds', type=int, default=3)
    study = Study(args := parser.parse_args())
    study.train_teachers(args.teachers)
    study.plan()
    for seed in range(args.seeds):
        for label in WEIGHTS:
            study.student(label, seed)
    study.table()


if __name__ == '__main__':
    sys.exit(main())
