"""What many blind sizes are worth: the BNN's prediction, and students of one size, of several, and of BNN and LAN.

    python ablations/teachers.py -o results/teachers                                # the demo's simulated noise
    python ablations/teachers.py -o results/teachers_sidd --noisy sidd_val/noisy --reference sidd_val/clean --every 4

Every student has the same minutes (--minutes), all of its teachers' training and predictions included; they are turned
into iterations once, by the first seed, so that the seeds are equal. The students of one BNN share its training. PSNR
is against the clean references, which no training reads. Stopped, the same command continues.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import Photographs, add_photograph_arguments, mean_psnr, read_photographs, small_training  # isort: skip

from basicsr_sassid import Denoiser
from basicsr_sassid.io.atomic import write_json
from basicsr_sassid.io.checkpoint import build_network, read_weights
from basicsr_sassid.models.blind_sizes_model import BlindSizesModel
from basicsr_sassid.ops.sliding_window import sliding_window_predict
from basicsr_sassid.training.blind_sizes import BlindSizeChoice
from basicsr_sassid.training.budget import Plan, allocate_budget, measure_step_times, plan_training
from basicsr_sassid.training.loop import train
from basicsr_sassid.training.options import resolve_options

BNN_SHARE = 0.6  # of the minutes of a student of one BNN
ALL_SIZES = [0, 1, 3, 5, 7, 9]
# label -> changes of block train, of network_g
STUDENTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    'risk': ({'teacher_weights': 'risk'}, {}),
    'equal weights': ({'teacher_weights': 'equal'}, {}),
    'texture weights': ({'teacher_weights': 'texture'}, {}),
    'one size, as trained': ({'teacher_weights': 'equal', 'teacher_blind_sizes': 'trained'}, {}),
    'risk, no residual': ({'teacher_weights': 'risk'}, {'residual': False}),
    'risk, recharged': ({'teacher_weights': 'risk', 'recharge': True}, {}),
    'risk, all sizes': ({'teacher_weights': 'risk', 'teacher_blind_sizes': 'all'}, {}),
}
THREE_STAGES = 'BNN and LAN (three stages)'


class Study:
    """The runs of one set of photographs, in a folder."""

    def __init__(self, folder: Path, photographs: Photographs, minutes: float) -> None:
        self.folder, self.photographs, self.minutes = folder, photographs, minutes
        self.plans_file, self.figures_file = folder / 'plans.json', folder / 'psnr.json'
        self.plans = json.loads(self.plans_file.read_text()) if self.plans_file.exists() else {}
        self.figures = json.loads(self.figures_file.read_text()) if self.figures_file.exists() else {}

    def make_plans(self, students: list[str]) -> None:
        """Measure the step times of all trainings, one after the other, before the first of them."""
        if THREE_STAGES not in self.plans:
            opt = small_training('sassid/three_stages_cpu.yml', 'plan', self.photographs, 0)
            plan = plan_training(opt, self.folder, self.minutes)
            self._keep_plan(THREE_STAGES, plan)
            iters = {'bnn': int(60 * self.minutes * BNN_SHARE / plan.seconds['bnn']), 'unet': 1}
            self._keep_plan('bnn', Plan(iters, plan.seconds, 'off', 0.0))
        for label in students:
            if label not in self.plans:
                times = measure_step_times(self._options('plan', 0, label), self.folder, ['bnn', 'unet'])
                self._keep_plan(label, allocate_budget(times, {'unet': 1}, self.minutes * (1 - BNN_SHARE)))

    def three_stages(self, seed: int) -> None:
        """The paper's method: student of BNN and LAN."""
        opt = small_training('sassid/three_stages_cpu.yml', f'three_stages_{seed}', self.photographs, seed)
        self._plan(THREE_STAGES).apply(opt)
        self.evaluate(f'student of {THREE_STAGES}', seed, self._train(opt) / 'net_g_latest.pth')

    def bnn(self, seed: int) -> Path:
        """The BNN of all other students: trained now, or found."""
        opt = self._options('bnn', seed, 'risk')
        self._plan('bnn').apply(opt)
        weights = self._train(opt) / 'net_bnn_latest.pth'
        size = opt['network_bnn']['blind_size']
        for label, arguments in {'as trained': {}, '3': {'blind_size': 3}, '1': {'blind_size': 1}}.items():
            label = f'BNN, blind size {label}' + (f' ({size})' if not arguments else '')
            self.evaluate(label, seed, weights, tile=64, overlap=32, **arguments)
        return weights

    def student(self, label: str, seed: int) -> None:
        """Train and evaluate a student of the BNN."""
        weights = self.bnn(seed)
        opt = self._options(f'student_{"_".join(label.replace(",", "").split())}', seed, label)
        opt['path']['pretrain_network_bnn'] = str(weights)
        opt['train']['stages']['bnn']['iter'] = 0
        self._plan(label).apply(opt)
        choice = self.folder / f'{opt["name"]}.json'
        self.evaluate(f'student: {label}', seed, self._train(opt, choice) / 'net_g_latest.pth')
        if label == 'risk':
            self._evaluate_teacher(weights, BlindSizeChoice.from_dict(json.loads(choice.read_text())), seed)

    def evaluate(self, label: str, seed: int, weights: Path, **arguments: int) -> None:
        """Keep the mean PSNR of a network, computed once."""
        if str(seed) not in self.figures.get(label, {}):
            self._keep_figure(label, seed, mean_psnr(Denoiser(weights, 'cpu', **arguments), self.photographs.pairs))

    def _evaluate_teacher(self, weights: Path, choice: BlindSizeChoice, seed: int) -> None:
        """The weighted mean of the BNN's predictions, sizes and weights being chosen from noisy images alone."""
        label = 'BNN, sizes weighted by risk'
        if str(seed) in self.figures.get(label, {}) or choice.weights is None:
            return
        content = read_weights(weights)
        bnn = build_network(content['network'], 'network_bnn').eval()
        bnn.load_state_dict(content['params'])
        to_weights = choice.weights

        def predict(windows: torch.Tensor) -> torch.Tensor:
            return bnn.predict_all(windows, choice.sizes)

        def denoise(image: np.ndarray) -> np.ndarray:
            noisy = torch.from_numpy(image.copy()).permute(2, 0, 1).float()
            targets = sliding_window_predict(predict, noisy, 128)[None].unflatten(1, (len(choice.sizes), -1))
            mean = (to_weights(targets) * targets).mean(dim=1)[0]
            return mean.permute(1, 2, 0).clamp(0, 255).round().byte().numpy()

        self._keep_figure(label, seed, mean_psnr(denoise, self.photographs.pairs))

    def _options(self, name: str, seed: int, label: str) -> dict[str, Any]:
        opt = small_training('sassid/train_cpu.yml', f'{name}_{seed}', self.photographs, seed)
        train_changes, network_changes = copy.deepcopy(STUDENTS[label])
        trained = opt['network_bnn']['blind_size']
        if train_changes.get('teacher_blind_sizes') == 'trained':
            train_changes['teacher_blind_sizes'] = [trained]
        elif train_changes.get('teacher_blind_sizes') == 'all':
            train_changes['teacher_blind_sizes'] = [size for size in ALL_SIZES if size <= trained]
        opt['train'].update(train_changes)
        opt['network_g'].update(network_changes)
        return opt

    def _train(self, opt: dict[str, Any], choice: Path | None = None) -> Path:
        models = self.folder / 'experiments' / opt['name'] / 'models'
        if (models / 'net_g_latest.pth').exists():
            return models
        opt['logger']['save_checkpoint_freq'] = 500

        def keep_choice(model: Any, _: int) -> None:
            if choice and not choice.exists() and isinstance(model, BlindSizesModel):
                write_json(model.choice.to_dict(), choice)

        train(resolve_options(opt, self.folder, True, auto_resume=True), on_iteration=keep_choice)
        return models

    def _plan(self, label: str) -> Plan:
        return Plan.from_dict(self.plans[label])

    def _keep_plan(self, label: str, plan: Plan) -> None:
        self.plans[label] = plan.to_dict()
        write_json(self.plans, self.plans_file, indent=2)

    def _keep_figure(self, label: str, seed: int, value: float) -> None:
        self.figures.setdefault(label, {})[str(seed)] = value
        write_json(self.figures, self.figures_file, indent=2)
        print(f'{label}, seed {seed}: {value:.2f} dB', flush=True)


def main() -> None:
    """Parse the command line, run the study, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('-o', '--output', required=True, help='folder; the figures are in psnr.json')
    add_photograph_arguments(parser)
    parser.add_argument('--every', type=int, default=1, help='take the first of so many photographs')
    parser.add_argument('--minutes', type=float, default=5, help='for each student, its teachers included')
    parser.add_argument('--plan', action='store_true', help='measure the step times alone')
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--students', nargs='*', choices=list(STUDENTS), default=list(STUDENTS))
    args = parser.parse_args()
    folder = Path(args.output).resolve()
    photographs = read_photographs(args, folder, args.every)
    study = Study(folder, photographs, args.minutes)
    study.make_plans(args.students)
    if args.plan:
        return
    for seed in range(args.seeds):
        study.three_stages(seed)
        for label in args.students:
            study.student(label, seed)
    print(f'\n{"noisy":44} {mean_psnr(lambda image: image, photographs.pairs):6.2f}')
    print(f'{"":44} {"mean":>6}  a figure a seed; PSNR, dB')
    for label, row in sorted(study.figures.items(), key=lambda item: -statistics.mean(item[1].values())):
        print(f'{label:44} {statistics.mean(row.values()):6.2f}  ' + ' '.join(f'{value:.2f}' for value in row.values()))


if __name__ == '__main__':
    sys.exit(main())
