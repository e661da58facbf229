"""Which teachers make the best student: SASSID's two, one of another method, or any two mixed.

    python benchmarks/teachers.py -o results/teachers                                # the demo's simulated noise
    python benchmarks/teachers.py -o results/teachers_sidd --noisy sidd_val/noisy --clean sidd_val/clean --every 4

Each network trains for the same minutes (--minutes, turned into iterations once, by the first seed, so that the seeds
are equal): the BNN, the LAN, SDAP and AMSNet, then a U-Net student of each pair of teachers below, or of one alone, on
the same noisy images with the options of the train_cpu.yml files. What asking the teachers costs is the student's time.
PSNR against the clean images, which no training sees. Stopped, the same command goes on.
"""
from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from pathlib import Path

from quality import Pairs, mean_psnr  # the scripts beside this one
from speed import write_json

from basicsr_sassid import Denoiser, demo
from basicsr_sassid.data.prepare.folder import prepare_folder
from basicsr_sassid.io.checkpoint import read_weights
from basicsr_sassid.io.photo import list_images
from basicsr_sassid.pipeline.student import plan_iterations
from basicsr_sassid.training.loop import train
from basicsr_sassid.training.options import options_file, read_options, resolve_options

# flat areas, textured areas; one alone teaches both
STUDENTS = [('bnn', 'lan'), ('bnn',), ('sdap',), ('amsnet',), ('bnn', 'sdap'), ('bnn', 'amsnet'), ('sdap', 'lan'),
            ('amsnet', 'lan')]
NET_OF = {'bnn': ('sassid', 'bnn'), 'lan': ('sassid', 'lan')}  # of the others: (method, 'g')
MOST_JUDGED = 16


class Study:
    """The runs of one dataset, in a folder."""

    def __init__(self, folder: Path, database: Path, pairs: Pairs, minutes: float, networks: dict[str, dict]) -> None:
        self.folder, self.database, self.pairs = folder, database, pairs
        self.minutes, self.networks = minutes, networks
        self.plans_file, self.figures_file = folder / 'plans.json', folder / 'psnr.json'
        self.plans = json.loads(self.plans_file.read_text()) if self.plans_file.exists() else {}
        self.figures = json.loads(self.figures_file.read_text()) if self.figures_file.exists() else {}

    def teacher(self, name: str, seed: int) -> Path:
        """Weights of a teacher: trained now, or found."""
        method, network = NET_OF.get(name, (name, 'g'))
        opt = self._options(f'{method}/train_cpu.yml', method, seed)
        for block, changes in self.networks.items():
            if block in opt:
                opt[block].update(changes)
        path = self._train(opt, method) / f'net_{network}_latest.pth'
        # the BNN as it teaches: in patches
        self.judge(name, seed, path, **({'tile': 64, 'overlap': 32} if name == 'bnn' else {}))
        return path

    def student(self, teachers: tuple[str, ...], seed: int) -> None:
        files = [self.teacher(name, seed) for name in teachers]
        kind = 'train_cpu.yml' if len(files) == 1 else 'two_teachers_cpu.yml'
        label = ' + '.join(teachers)
        opt = self._options(f'distilled/{kind}', f'student_{"_".join(teachers)}', seed)
        for role, file in zip(('flat', 'texture'), files):
            opt[f'network_{role}'] = read_weights(file)['network']
            opt['path'][f'pretrain_network_{role}'] = str(file)
        self.judge(f'student of {label}', seed, self._train(opt, f'student of {label}') / 'net_g_latest.pth')

    def judge(self, label: str, seed: int, weights: Path, **use: int) -> None:
        row = self.figures.setdefault(label, {})
        if str(seed) not in row:
            row[str(seed)] = mean_psnr(Denoiser(weights, 'cpu', **use), self.pairs)
            write_json(self.figures, self.figures_file)
            print(f'{label}, seed {seed}: {row[str(seed)]:.2f} dB', flush=True)

    def _options(self, file: str, name: str, seed: int) -> dict:
        opt = read_options(options_file(file))
        opt.update(name=f'{name}_{seed}', manual_seed=seed)
        opt['datasets'] = {'train': {**opt['datasets']['train'], 'dataroot_lq': str(self.database),
                                     'num_worker_per_gpu': 0}}
        opt['logger'].update(use_tb_logger=False, print_freq=10 ** 9)
        return opt

    def _train(self, opt: dict, plan: str) -> Path:
        models = self.folder / 'experiments' / opt['name'] / 'models'
        if (models / 'net_g_latest.pth').exists():
            return models
        stages = opt['train']['stages']
        if plan not in self.plans:
            found = plan_iterations(opt, self.folder, self.minutes * len(stages))
            # each network has its minutes; the LAN and a student pay for asking their teachers
            taught = [name for name in stages if name not in ('bnn', 'bsn')]
            found['iter'] = {name: max(int((60 * self.minutes - found['cache_seconds'] * (name in taught[:1]))
                                           / found['seconds'][name]), 1) for name in stages}
            self.plans[plan] = found
            write_json(self.plans, self.plans_file)
        for name, length in self.plans[plan]['iter'].items():
            stages[name]['iter'] = length
        if 'bnn' in stages:  # its student is one of those below
            stages['unet']['iter'] = 1
        opt['train']['teacher_cache'] = self.plans[plan]['teacher_cache']
        opt['logger']['save_checkpoint_freq'] = 500
        train(resolve_options(opt, self.folder, True, auto_resume=True), on_iteration=lambda *_: None)
        return models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('-o', '--output', required=True, help='folder; the figures are in psnr.json')
    parser.add_argument('--noisy', help='folder of noisy photographs; default: the simulated ones of the demo')
    parser.add_argument('--clean', help='folder of their clean versions, for the PSNR alone')
    parser.add_argument('--every', type=int, default=1, help='take the first of so many photographs')
    parser.add_argument('--minutes', type=float, default=2, help='for each network')
    parser.add_argument('--seeds', type=int, default=3)
    args = parser.parse_args()
    folder = Path(args.output).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    asked = {key: value for key, value in vars(args).items() if key not in ('output', 'seeds')}
    if (folder / 'asked.json').exists() and json.loads((folder / 'asked.json').read_text()) != asked:
        sys.exit(f'{folder} holds a study of {(folder / "asked.json").read_text()}; choose another folder')
    write_json(asked, folder / 'asked.json')
    simulated = args.noisy is None
    noisy, clean = demo._simulate(folder / 'photographs') if simulated else (Path(args.noisy), Path(args.clean))
    database = folder / 'noisy.lmdb'
    if not database.exists():
        prepare_folder(list_images(noisy)[::args.every], database)
    pairs = demo._pairs(noisy, clean)
    pairs = pairs[::math.ceil(len(pairs) / MOST_JUDGED)]
    study = Study(folder, database, pairs, args.minutes, demo.SIMULATED_NETWORKS if simulated else {})
    for seed in range(args.seeds):
        for teachers in STUDENTS:
            study.student(teachers, seed)
    noisy_psnr = mean_psnr(lambda image: image, pairs)
    print(f'\n{"noisy":24} {noisy_psnr:6.2f}\n{"":24} {"mean":>6}  a figure a seed; PSNR, dB')
    for label, row in sorted(study.figures.items(), key=lambda item: -statistics.mean(item[1].values())):
        print(f'{label:24} {statistics.mean(row.values()):6.2f}  ' + ' '.join(f'{value:.2f}' for value in row.values()))


if __name__ == '__main__':
    sys.exit(main())
