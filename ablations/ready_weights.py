"""Weights for everybody: is a student of SIDD's smartphones, of noisy photographs alone, worth shipping?

    python ablations/ready_weights.py --data DATA -o results/ready --minutes 60   # trains; the same command continues
    python ablations/ready_weights.py --data DATA -o results/ready --weights FILE # evaluates a file

DATA holds sidd_val and polyu, each with noisy/ and clean/; files of sidd_val are named <image>_<block>.png. The noisy
blocks of images 1 to 15 are trained on. The table gives PSNR of the spectral denoiser, of the student and of their
blend on images 16 to 20, on PolyU and on the simulated photographs; the noise and the blend's weight are those that
`sassid denoise` measures on each set. No clean image is used for anything but the table.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from common import mean_psnr  # isort: skip

from basicsr_sassid import Denoiser, SpectralDenoiser, demo
from basicsr_sassid.data.prepare.folder import prepare_folder
from basicsr_sassid.demo import Pairs
from basicsr_sassid.demo.photographs import read_centre
from basicsr_sassid.evaluation.context import MethodContext
from basicsr_sassid.evaluation.methods import build_blend
from basicsr_sassid.inference.blend import BlendedDenoiser
from basicsr_sassid.io.atomic import write_json
from basicsr_sassid.io.checkpoint import read_weights, state_dict_of, write_safetensors
from basicsr_sassid.io.photo import list_images
from basicsr_sassid.noise.survey import survey
from basicsr_sassid.pipeline.blending import blend_crops
from basicsr_sassid.pipeline.blending import read_centre as read_crop
from basicsr_sassid.pipeline.model_card import model_card
from basicsr_sassid.pipeline.planning import RATIO
from basicsr_sassid.pipeline.student import StudentTraining, bnn_blind_size, student_options
from basicsr_sassid.training.budget import Plan, plan_training

FIRST_HELD_OUT = 16  # image of SIDD validation
LEAST_GAIN, MOST_LOSS = 0.7, 0.02  # dB against the spectral denoiser: on held-out SIDD, on any other camera


def image_number(path: Path) -> int:
    """Of a block of SIDD validation, <image>_<block>.png."""
    return int(path.stem.split('_')[0])


def train(noisy: Path, folder: Path, dim: int, minutes: float) -> Path:
    """Train on images 1 to 15, or continue. Returns student.safetensors, in float16."""
    target = folder / 'student.safetensors'
    photographs = [path for path in list_images(noisy) if image_number(path) < FIRST_HELD_OUT]
    found = survey(photographs)
    noise = found.noise
    assert noise is not None
    database = folder / 'noisy.lmdb'
    if not database.exists():
        prepare_folder(photographs, database, quiet=True)
    opt = student_options(database, bnn_blind_size(noise), torch.device('cpu'), 0, noise)
    opt['network_bnn']['dim'] = opt['network_g']['dim'] = dim
    plan_file = folder / 'plan.json'
    if plan_file.exists():
        plan = Plan.from_dict(json.loads(plan_file.read_text()))
    else:
        plan = plan_training(opt, folder, minutes, RATIO)
        write_json(plan.to_dict(), plan_file)
    print(plan, flush=True)

    def show(stage: str, iteration: int) -> None:
        if iteration % 500 == 0:
            print(f'{stage} {iteration}/{plan.iters[stage]}', flush=True)

    crops = blend_crops(found.photos, read_crop)
    weights, chosen = StudentTraining(folder, opt, plan, crops, noise, show).run()
    content = read_weights(weights)
    pixels = sum(height * width for height, width in found.photos.values())
    facts = {'photographs': len(photographs), 'megapixels': round(pixels / 1e6, 2)}
    card: dict[str, Any] = {
        **model_card(content, plan, chosen.blind_size, noise, facts),
        'data': 'noisy sRGB blocks of images 1 to 15 of SIDD validation (Abdelhamed et al., CVPR 2018; MIT licence)',
        'licence': 'Apache-2.0',
    }
    state = {name: value.half() for name, value in state_dict_of(content, weights).items()}
    write_safetensors(state, card, target)
    return target


def read_sets(data: Path, folder: Path) -> dict[str, Pairs]:
    """The sets of the table. Of PolyU, and of the simulated photographs, the demo's central crops."""
    sidd = data / 'sidd_val'
    held_out = [path for path in list_images(sidd / 'noisy') if image_number(path) >= FIRST_HELD_OUT]
    references = {path.name: path for path in list_images(sidd / 'clean')}
    return {
        'SIDD, images 16 to 20': [(read_centre(path), read_centre(references[path.name])) for path in held_out],
        'PolyU': demo.read_pairs(data / 'polyu' / 'noisy', data / 'polyu' / 'clean'),
        'simulated': demo.read_pairs(*demo.simulate_photographs(folder / 'photographs')),
    }


def evaluate(weights: Path, pairs: Pairs) -> dict[str, float]:
    """PSNR in dB of the denoisers on one set, and the student's weight in the blend."""
    context = MethodContext(pairs, 'cpu')
    student = Denoiser(weights, 'cpu')
    blend = build_blend(student, context).run
    assert isinstance(blend, BlendedDenoiser)
    return {
        'noisy': mean_psnr(lambda image: image, pairs),
        'spectral': mean_psnr(SpectralDenoiser(context.noise), pairs),
        'student': mean_psnr(student, pairs),
        'blend': mean_psnr(blend, pairs),
        'weight': blend.student_weight,
    }


def main() -> None:
    """Parse the command line, train, print the table and whether the weights meet the limits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', required=True, type=Path, help='with sidd_val and polyu')
    parser.add_argument('-o', '--output', type=Path, default=Path('results/ready'))
    parser.add_argument('--dim', type=int, default=16, help='width of both networks')
    parser.add_argument('--minutes', type=float, default=60, help='of training')
    parser.add_argument('--weights', type=Path, help='evaluate these, without a training')
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    weights = args.weights or train(args.data / 'sidd_val' / 'noisy', args.output, args.dim, args.minutes)
    table = {}
    for name, pairs in read_sets(args.data, args.output).items():
        table[name] = evaluate(weights, pairs)
        print(name, {column: round(value, 2) for column, value in table[name].items()}, flush=True)
    gains = [row['blend'] - row['spectral'] for row in table.values()]
    is_met = gains[0] >= LEAST_GAIN and min(gains) >= -MOST_LOSS
    write_json({'table': table, 'bytes': weights.stat().st_size, 'limits met': is_met}, args.output / 'table.json')
    print(f'{weights}, {weights.stat().st_size / 1e6:.2f} MB; limits {"met" if is_met else "not met"}')


if __name__ == '__main__':
    sys.exit(main())
