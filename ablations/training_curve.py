#!/usr/bin/env python
"""Draw the PSNR of validations in training logs beside that of the authors' log.

python ablations/training_curve.py -o curve.png [experiments/NAME/train_*.log ...]
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt

matplotlib.use('Agg')

# issue 10 of the authors' repository, 17 October 2022: (iteration, dB) of the BNN on SIDD validation
AUTHORS = [
    (10_000, 33.8534),
    (20_000, 34.4030),
    (30_000, 35.5078),
    (40_000, 34.3800),
    (50_000, 34.5513),
    (60_000, 35.6432),
    (70_000, 35.1306),
    (80_000, 34.7331),
    (90_000, 35.2779),
]
AUTHORS_BEST = 36.37


def read_log(path: Path) -> list[tuple[int, float]]:
    """(iteration, PSNR) of each validation of a training log."""
    points, iteration = [], 0
    for line in path.read_text().splitlines():
        if found := re.search(r'iter:\s*([\d,]+)', line):
            iteration = int(found[1].replace(',', ''))
        if found := re.search(r'# psnr: ([\d.]+)', line):
            points.append((iteration, float(found[1])))
    return points


def main() -> None:
    """Parse the command line, draw, write the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('-o', '--output', required=True)
    parser.add_argument('logs', nargs='*', type=Path)
    args = parser.parse_args()
    figure, axes = plt.subplots(figsize=(7, 4), layout='constrained')
    axes.plot(*zip(*AUTHORS), 'o-', color='0.5', label="authors' log, stage 1 (BNN)")
    axes.axhline(AUTHORS_BEST, color='0.5', ls=':', label=f"authors' best BNN, {AUTHORS_BEST} dB near 300,000")
    for log in args.logs:
        points = read_log(log)
        if not points:
            raise SystemExit(f'{log}: no validation with a metric named psnr in it')
        axes.plot(*zip(*points), '.-', label=f'{log.parent.name}')
    axes.set(xlabel='iteration', ylabel='PSNR on SIDD validation, dB')
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(args.output, dpi=110)


if __name__ == '__main__':
    main()
