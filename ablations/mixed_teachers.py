"""Which teachers make the best student: SASSID's two, one of another method, or any two mixed.

    python ablations/mixed_teachers.py -o results/mixed                             # the demo's simulated noise
    python ablations/mixed_teachers.py -o results/mixed_sidd --noisy sidd_val/noisy --reference sidd_val/clean --every 4

Each network trains for the same minutes (--minutes, turned into iterations once, by the first seed, so that the seeds
are equal): the BNN, the LAN, SDAP and AMSNet, then a U-Net student of each pair of teachers below, or of one alone, on
the same noisy images with the options of the train_cpu.yml files. The cost of the teachers' predictions is taken from
the student's time. PSNR is against the clean references, which no training reads. Stopped, the same command continues.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from common import Photographs, add_photograph_arguments, mean_psnr, read_photographs, small_training  # isort: skip

from basicsr_sassid import Denoiser
from basicsr_sassid.io.atomic import write_json
from basicsr_sassid.io.checkpoint import read_weights
from basicsr_sassid.training.budget import Plan, plan_training
from basicsr_sassid.training.loop import train
from basicsr_sassid.training.options import resolve_options

# for flat areas, for textured areas; or one alone for both
STUDENTS = [
    ('bnn', 'lan'),
    ('bnn',),
    ('sdap',),
    ('amsnet',),
    ('bnn', 'sdap'),
    ('bnn', 'amsnet'),
    ('sdap', 'lan'),
    ('amsnet', 'lan'),
]
NETWORK_OF = {'bnn': ('sassid', 'bnn'), 'lan': ('sassid', 'lan')}  # of the others: (method, 'bsn')


class Study:
    """The runs of one set of photographs, in a folder."""

    def __init__(self, folder: Path, photographs: Photographs, minutes: float) -> None:
        self.folder, self.photographs, self.minutes = folder, photographs, minutes
        self.plans_file, self.figures_file = folder / 'plans.json', folder / 'psnr.json'
        self.plans = json.loads(self.plans_file.read_text()) if self.plans_file.exists() else {}
        self.figures = json.loads(self.figures_file.read_text()) if self.figures_file.exists() else {}

    def teacher(self, name: str, seed: int) -> Path:
        """Weights of a teacher: trained now, or found."""
        method, network = NETWORK_OF.get(name, (name, 'bsn'))
        recipe = 'three_stages_cpu.yml' if method == 'sassid' else 'train_cpu.yml'
        opt = small_training(f'{method}/{recipe}', f'{method}_{seed}', self.photographs, seed)
        path = self._train(opt, method) / f'net_{network}_latest.pth'
        # the BNN as the teacher is applied: in tiles of the patch size
        self.evaluate(name, seed, path, **({'tile': 64, 'overlap': 32} if name == 'bnn' else {}))
        return path

    def student(self, teachers: tuple[str, ...], seed: int) -> None:
        """Train and evaluate a student of one or two teachers."""
        files = [self.teacher(name, seed) for name in teachers]
        recipe, roles = (
            ('train_cpu.yml', ('teacher',)) if len(files) == 1 else ('two_teachers_cpu.yml', ('flat', 'texture'))
        )
        label = f'student of {" + ".join(teachers)}'
        opt = small_training(f'distilled/{recipe}', f'student_{"_".join(teachers)}_{seed}', self.photographs, seed)
        for role, file in zip(roles, files):
            opt[f'network_{role}'] = read_weights(file)['network']
            opt['path'][f'pretrain_network_{role}'] = str(file)
        self.evaluate(label, seed, self._train(opt, label) / 'net_g_latest.pth')

    def evaluate(self, label: str, seed: int, weights: Path, **arguments: int) -> None:
        """Keep the mean PSNR of a network, computed once."""
        row = self.figures.setdefault(label, {})
        if str(seed) not in row:
            row[str(seed)] = mean_psnr(Denoiser(weights, 'cpu', **arguments), self.photographs.pairs)
            write_json(self.figures, self.figures_file, indent=2)
            print(f'{label}, seed {seed}: {row[str(seed)]:.2f} dB', flush=True)

    def _train(self, opt: dict[str, Any], label: str) -> Path:
        models = self.folder / 'experiments' / opt['name'] / 'models'
        stages = opt['train']['stages']
        if (models / f'net_{"g" if "unet" in stages else "bsn"}_latest.pth').exists():
            return models
        self._plan(opt, label).apply(opt)
        if 'bnn' in stages:  # its student is one of those below
            stages['unet']['iter'] = 1
        opt['logger']['save_checkpoint_freq'] = 500
        train(resolve_options(opt, self.folder, True, auto_resume=True), on_iteration=lambda *_: None)
        return models

    def _plan(self, opt: dict[str, Any], label: str) -> Plan:
        """Every network has the same minutes; the first stage with teachers also pays for their cache."""
        if label not in self.plans:
            stages = list(opt['train']['stages'])
            plan = plan_training(opt, self.folder, self.minutes * len(stages))
            first_with_teacher = [name for name in stages if name not in ('bnn', 'bsn')][:1]
            iters = {
                name: max(
                    int((60 * self.minutes - plan.cache_seconds * (name in first_with_teacher)) / plan.seconds[name]), 1
                )
                for name in stages
            }
            self.plans[label] = Plan(iters, plan.seconds, plan.teacher_cache, plan.cache_seconds).to_dict()
            write_json(self.plans, self.plans_file, indent=2)
        return Plan.from_dict(self.plans[label])


def check_arguments(args: argparse.Namespace, folder: Path) -> None:
    """Exit where the folder holds a study with other arguments."""
    given = {
        key: None if value is None else str(value)
        for key, value in vars(args).items()
        if key not in ('output', 'seeds')
    }
    path = folder / 'arguments.json'
    if path.exists() and json.loads(path.read_text()) != given:
        sys.exit(f'{folder} holds a study of {path.read_text()}; choose another folder')
    write_json(given, path)


def main() -> None:
    """Parse the command line, run the study, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('-o', '--output', required=True, help='folder; the figures are in psnr.json')
    add_photograph_arguments(parser)
    parser.add_argument('--every', type=int, default=1, help='take the first of so many photographs')
    parser.add_argument('--minutes', type=float, default=2, help='for each network')
    parser.add_argument('--seeds', type=int, default=3)
    args = parser.parse_args()
    folder = Path(args.output).resolve()
    check_arguments(args, folder)
    photographs = read_photographs(args, folder, args.every)
    study = Study(folder, photographs, args.minutes)
    for seed in range(args.seeds):
        for teachers in STUDENTS:
            study.student(teachers, seed)
    noisy_psnr = mean_psnr(lambda image: image, photographs.pairs)
    print(f'\n{"noisy":24} {noisy_psnr:6.2f}\n{"":24} {"mean":>6}  a figure a seed; PSNR, dB')
    for label, row in sorted(study.figures.items(), key=lambda item: -statistics.mean(item[1].values())):
        print(f'{label:24} {statistics.mean(row.values()):6.2f}  ' + ' '.join(f'{value:.2f}' for value in row.values()))


if __name__ == '__main__':
    sys.exit(main())
