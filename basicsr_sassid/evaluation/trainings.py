"""The trainings of an evaluation: on the noisy images of a dataset alone, within minutes, once."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from basicsr_sassid.data.prepare.folder import prepare_folder
from basicsr_sassid.evaluation.schema import EvaluationOptions, TrainingOptions
from basicsr_sassid.io.atomic import json_digest, make_folder, write_json
from basicsr_sassid.io.photo import list_images
from basicsr_sassid.training.budget import Plan, plan_training
from basicsr_sassid.training.loop import train
from basicsr_sassid.training.options import customize, resolve_options
from basicsr_sassid.training.runtime import silence
from basicsr_sassid.utils.errors import require_path
from basicsr_sassid.utils.version import __version__

_MAX_SAVE_FREQ = 250  # iterations that a kill costs at most


class Trainings:
    """The trainings of one dataset, run when a method first needs one of their networks.

    Args:
        folder: of the evaluation.
        options: of the evaluation.
        dataset: name of the dataset.
    """

    def __init__(self, folder: Path, options: EvaluationOptions, dataset: str) -> None:
        self.folder, self.options, self.dataset = folder, options, dataset
        self.photographs = Path(options.datasets[dataset].dataroot_lq).expanduser()

    def weights_of(self, name: str, network: str | None = None) -> Path:
        """Weights of a network of training ``name``, which is run, continued or found.

        Args:
            name: key of ``trainings``.
            network: ``bnn``, ``lan``, ``bsn`` or ``g``; None: the network that the training delivers.

        Raises:
            UserError: the training fails, or has no such network.
        """
        block = self.options.trainings[name]
        root = make_folder(self.folder / 'trainings' / f'{self.dataset}_{name}_{_digest(self.settings(name))}')
        opt = training_options(name, block, self._training_images(), self.options.seed)
        models = root / 'experiments' / opt['name'] / 'models'
        if not (models / f'net_{delivered_network(opt)}_latest.pth').exists():
            self._plan(opt, root, block.minutes).apply(opt)
            opt['logger']['save_checkpoint_freq'] = max(min(opt['logger']['save_checkpoint_freq'], _MAX_SAVE_FREQ), 1)
            _train(opt, root, name)
        return require_path(models / f'net_{network or delivered_network(opt)}_latest.pth', f'trainings.{name}')

    def settings(self, name: str) -> dict[str, Any]:
        """What the result of a training depends on, of JSON's types."""
        block = self.options.trainings[name]
        return {
            'minutes': block.minutes,
            'images': self._files(),
            'version': __version__,
            'opt': training_options(name, block, Path('.'), self.options.seed),
        }

    def _plan(self, opt: dict[str, Any], root: Path, minutes: float) -> Plan:
        path = root / 'plan.json'  # a run that continues has the lengths that it started with
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # none yet, or damaged
            return Plan.from_dict(json.loads(path.read_bytes()))
        plan = plan_training(opt, root, minutes)
        write_json(plan.to_dict(), path)
        return plan

    def _training_images(self) -> Path:
        """An LMDB of all noisy images of the dataset."""
        if self.photographs.suffix == '.lmdb':
            return self.photographs
        database = self.folder / 'trainings' / f'{self.dataset}_{_digest(self._files())}.lmdb'
        if not database.exists():
            prepare_folder([self.photographs], database, quiet=True)
        return database

    def _files(self) -> list[list[Any]]:
        is_lmdb = self.photographs.suffix == '.lmdb'
        files = [self.photographs / 'data.mdb'] if is_lmdb else list_images(self.photographs)
        return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def training_options(name: str, block: TrainingOptions, images: Path, seed: int) -> dict[str, Any]:
    """The options of training ``name`` on a folder or LMDB of noisy images. Raises UserError: no such option file."""
    return customize(block.opt, name, images.expanduser().resolve(), seed, block.force_yml)


def delivered_network(opt: dict[str, Any]) -> str:
    """The network that a training delivers: the student ``g``, or ``bsn`` where no stage ``unet`` trains a student."""
    return 'g' if 'unet' in opt['train']['stages'] else 'bsn'


def _train(opt: dict[str, Any], root: Path, name: str) -> None:
    total = sum(block['iter'] for block in opt['train']['stages'].values())
    with tqdm(total=total, desc=f'  training {name}', unit='it', file=sys.stderr) as bar:

        def update_bar(_: object, current_iter: int) -> None:
            bar.update(current_iter - bar.n)

        train(resolve_options(opt, root, True, auto_resume=True), on_iteration=update_bar)
    silence()


def _digest(settings: object) -> str:
    return json_digest(settings, 12)
