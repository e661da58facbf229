"""A study: trainings of equal minutes that differ in their losses, a file of figures for each loss and seed."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import common  # noqa: F401  # isort: skip

from basicsr.models import build_model

from basicsr_sassid.io.atomic import write_json
from basicsr_sassid.io.checkpoint import build_network
from basicsr_sassid.training.budget import median_seconds
from basicsr_sassid.training.datasets import open_dataset
from basicsr_sassid.training.loop import train
from basicsr_sassid.training.options import resolve_options
from basicsr_sassid.training.runtime import silence


class Study:
    """The trainings of one folder.

    Args:
        folder: of the trainings, their lengths (``iterations.json``) and figures; several processes may share it.
        minutes: length of each training, which its step time turns into iterations.
        labels: one for each loss.
        options: label, seed and iterations -> options of the training.
        kind: label -> group of losses that take the same time, whose median step time each of them has.
    """

    def __init__(
        self,
        folder: str,
        minutes: float,
        labels: Iterable[str],
        options: Callable[[str, int, int], dict[str, Any]],
        kind: Callable[[str], str] = str,
    ) -> None:
        self.folder, self.minutes, self.labels = Path(folder).resolve(), minutes, list(labels)
        self.options, self.kind = options, kind
        self.figures, self.plan_file = self.folder / 'figures', self.folder / 'iterations.json'
        self.figures.mkdir(parents=True, exist_ok=True)

    def plan(self) -> dict[str, int]:
        """Iterations of each loss; step times are measured in turns, once."""
        if self.plan_file.exists():
            plan = json.loads(self.plan_file.read_text())
            missing = [label for label in self.labels if label not in plan['iterations']]
            if missing or plan['minutes'] != self.minutes:
                reason = f'it lacks {missing[0]}' if missing else f'it is for --minutes {plan["minutes"]:g}'
                sys.exit(f'{self.plan_file}: {reason}. Take another folder with -o.')
            return plan['iterations']
        seconds: dict[str, list[float]] = {}
        for label in self.labels:
            step = self._step_seconds(label)
            seconds.setdefault(self.kind(label), []).append(step)
            print(f'{label:40} {1000 * step:6.0f} ms a step', flush=True)
        iterations = {
            label: int(60 * self.minutes / statistics.median(seconds[self.kind(label)])) for label in self.labels
        }
        write_json({'minutes': self.minutes, 'iterations': iterations}, self.plan_file, indent=2)
        return iterations

    def _step_seconds(self, label: str) -> float:
        """A step with its batch: some datasets and models take their time for degradations."""
        opt = resolve_options(self.options(label, 0, 100), self.folder, True)
        silence()
        dataset = open_dataset(opt['datasets']['train'], 'datasets.train')
        model, size = build_model(opt), opt['datasets']['train']['batch_size_per_gpu']

        def step() -> None:
            model.feed_data(torch.utils.data.default_collate([dataset[index % len(dataset)] for index in range(size)]))
            model.optimize_parameters(2)  # every second iteration has all parts of SFD

        return median_seconds(step)

    def run(self, label: str, seed: int, evaluate: Callable[[nn.Module], dict[str, float]]) -> None:
        """Train, evaluate the generator, keep the figures. What was finished before is not repeated."""
        file = self.figures / f'{label}, seed {seed}.json'
        if file.exists():
            return
        net = self.network(label, seed)
        if net is None:
            opt = self.options(label, seed, self.plan()[label])
            train(resolve_options(opt, self.folder, True, auto_resume=True), on_iteration=lambda *_: None)
            net = self.network(label, seed)
        self.keep(file.stem, lambda: evaluate(net))

    def network(self, label: str, seed: int) -> nn.Module | None:
        """The generator of a training; None: it is not finished."""
        opt = self.options(label, seed, 1)
        weights = self.folder / 'experiments' / opt['name'] / 'models' / 'net_g_latest.pth'
        if not weights.exists():
            return None
        net = build_network(opt['network_g'], 'network_g').eval()
        net.load_state_dict(torch.load(weights, weights_only=True)['params'])
        return net

    def keep(self, stem: str, evaluate: Callable[[], dict[str, float]]) -> None:
        """Write the figures, unless they are there."""
        file = self.figures / f'{stem}.json'
        if not file.exists():
            figures = evaluate()
            write_json(figures, file)
            print(stem, {key: round(value, 3) for key, value in figures.items()}, flush=True)

    def run_all(
        self, args: argparse.Namespace, reference: str, evaluate: Callable[[nn.Module | None], dict[str, float]]
    ) -> None:
        """Plan, and unless ``--plan`` is given, train for all seeds and losses and print the table.

        Args:
            args: those of :func:`add_study_arguments`.
            reference: label of what is evaluated without a network.
            evaluate: network, or None -> figures.
        """
        self.plan()
        if args.plan:
            return
        self.keep(f'{reference}, seed 0', lambda: evaluate(None))
        for seed in args.seeds:
            for label in args.losses:
                self.run(label, seed, evaluate)
        self.table(reference)

    def table(self, reference: str) -> None:
        """Print the mean of each figure and, behind +-, half of its range over the seeds."""
        plan = self.plan()
        for label in (reference, *self.labels):
            files = sorted(self.figures.glob(f'{label}, seed *.json'))
            if files:
                rows = [json.loads(file.read_text()) for file in files]
                columns = {key: [row[key] for row in rows] for key in rows[0]}
                cells = [f'{key} {np.mean(values):.3f} +-{np.ptp(values) / 2:.3f}' for key, values in columns.items()]
                print(f'{label:36} {plan.get(label, 0):6} x{len(rows)}  {"  ".join(cells)}')


def add_study_arguments(parser: argparse.ArgumentParser, labels: Iterable[str], minutes: float) -> None:
    """``-o``, ``--test``, ``--minutes``, ``--pretrained``, ``--seeds``, ``--losses`` and ``--plan``."""
    parser.add_argument('-o', '--output', required=True, help='folder; the figures are in figures/')
    parser.add_argument('--test', required=True, help='folder of clean images to test on')
    parser.add_argument('--minutes', type=float, default=minutes, help='of each training')
    parser.add_argument('--pretrained', help='net_g_*.pth to start from; default: from scratch')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--losses', nargs='*', choices=list(labels), default=list(labels))
    parser.add_argument('--plan', action='store_true', help='measure the step times alone')


def small_run(opt: dict[str, Any], name: str, seed: int, iterations: int) -> dict[str, Any]:
    """Change options to those of one training: without validation, tensorboard and worker processes."""
    opt.update(name=name, manual_seed=seed, val=None)
    opt['train'].update(total_iter=iterations)
    opt['datasets'] = {'train': {**opt['datasets']['train'], 'num_worker_per_gpu': 0}}
    opt['logger'].update(use_tb_logger=False, print_freq=10**9, save_checkpoint_freq=500)
    return opt
