"""Methods x datasets, cell by cell; each image that was judged stays judged."""
from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
import traceback
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from basicsr.data import build_dataset
from basicsr.utils.registry import DATASET_REGISTRY
from tqdm import tqdm

from basicsr_sassid.data.prepare.folder import prepare_folder
from basicsr_sassid.data.prepare.writer import key_of
from basicsr_sassid.evaluation import table
from basicsr_sassid.evaluation.cost import ResourceMeter, machine, network_cost
from basicsr_sassid.evaluation.crop_grid import CROP, busiest
from basicsr_sassid.evaluation.methods import MethodContext, build_method, check_method
from basicsr_sassid.evaluation.protocols import explain, judge
from basicsr_sassid.io.atomic import atomic_write, content_digest, make_folder
from basicsr_sassid.io.photo import Photo, list_images, write_photo
from basicsr_sassid.training.budget import plan_training
from basicsr_sassid.training.loop import train
from basicsr_sassid.training.options import options_file, read_options, resolve_options
from basicsr_sassid.training.runtime import silence, sort_paths
from basicsr_sassid.utils.device import choose_device
from basicsr_sassid.utils.errors import UserError, require_path
from basicsr_sassid.utils.option_checks import check_choice, check_keys, check_number, check_type
from basicsr_sassid.utils.version import __version__

_KEYS = ('name', 'datasets', 'methods', 'trainings', 'protocols', 'sheet', 'device', 'seed')
_WARM_UP = 64  # pixels a side
Pairs = list[tuple[str, np.ndarray, np.ndarray]]  # name, noisy, clean: uint8 RGB


def run_benchmark(opt: dict[str, Any], root: str | os.PathLike = '.') -> dict[str, Any]:
    """Judge every method on every dataset.

    Args:
        opt: of an option file such as ``options/benchmark/classical.yml``, where each key is explained.
        root: results land below it in ``results/benchmark/<name>``. A run that was stopped goes on; cells whose
            options are the same are not run again.

    Returns:
        What is written to ``table.json``: ``cells[dataset][method]`` with the mean of each protocol, or ``error``.
        Beside it ``table.md``, ``table.csv``, and ``<dataset>.png``: crops, PSNR under each, what was removed.

    Raises:
        UserError: an option is wrong, or a dataset can't be read: before anything is run. What goes wrong in one method
            stands in its cell.
    """
    check_benchmark(opt)
    folder = make_folder(Path(root).expanduser() / 'results' / 'benchmark' / opt['name'])
    device = str(choose_device(opt.get('device', 'auto')))
    protocols = opt.get('protocols', ['psnr', 'ssim_gaussian'])
    silence()
    datasets = {name: read_pairs(name, block) for name, block in opt['datasets'].items()}
    result: dict[str, Any] = {'name': opt['name'], 'protocols': {name: explain(name) for name in protocols},
                              **machine(device), 'seed': opt.get('seed', 0), 'options': opt,
                              'images': {name: len(pairs) for name, pairs in datasets.items()},
                              'cells': {name: {} for name in datasets}}
    for dataset, pairs in datasets.items():
        trained = _Trainings(folder, opt, dataset)
        given = MethodContext([(noisy, clean) for _, noisy, clean in pairs], device, trained)
        for name, block in opt['methods'].items():
            cell = _Cell(folder / 'cells' / dataset, name, {
                'version': __version__, 'method': block, 'images': _identity(pairs), 'protocols': protocols,
                'device': device, 'seed': opt.get('seed', 0),
                'weights': _weights_digest(block),
                'training': trained.settings(block['training']) if 'training' in block else None})
            cell.shown = _shown(len(pairs), opt.get('sheet') or {})
            print(f'{dataset}: {name}', file=sys.stderr, flush=True)
            result['cells'][dataset][name] = cell.run(block, pairs, given, protocols)
            table.write(result, folder)
        table.write_sheet(result, dataset, pairs, opt, folder)
    print(table.terminal(result))
    return result


def check_benchmark(opt: dict[str, Any]) -> None:
    """Raise UserError for anything wrong in the options."""
    check_keys(opt, _KEYS, 'options', required=['name', 'datasets', 'methods'])
    for name in opt.get('protocols') or ():
        explain(name)
    sheet = opt.get('sheet') or {}
    check_keys(sheet, ('images', 'methods'), 'sheet')
    check_number(sheet.get('images', 3), 1, 'sheet.images')
    for method in sheet.get('methods') or ():
        check_choice(method, opt['methods'], 'sheet.methods')
    trainings = opt.get('trainings') or {}
    for name, block in trainings.items():
        check_keys(block, ('opt', 'minutes', 'force_yml'), f'trainings.{name}', required=['opt', 'minutes'])
        if not isinstance(block['minutes'], (int, float)) or block['minutes'] <= 0:
            raise UserError(f'trainings.{name}.minutes: expected a number above 0, got {block["minutes"]!r}')
        _training_options(block, '.', 0)
    for name, block in opt['methods'].items():
        check_method(name, block, trainings)
    for name, block in opt['datasets'].items():
        check_keys(block, block if isinstance(block, dict) else (), f'datasets.{name}',
                   required=['dataroot_lq', 'dataroot_gt'])
        check_number(block.get('every', 1), 1, f'datasets.{name}.every')


def read_pairs(name: str, block: dict[str, Any]) -> Pairs:
    """The images of one block of ``datasets``: BasicSR's, and ``every``: the first of so many. Raises UserError."""
    block = {'type': 'PairedImageDataset', 'name': name, 'phase': 'val', 'scale': 1, **block}
    every = block.pop('every', 1)
    check_type(DATASET_REGISTRY, block['type'], f'datasets.{name}.type')
    for key in ('dataroot_lq', 'dataroot_gt'):
        block[key] = str(require_path(block[key], f'datasets.{name}.{key}'))
    block.setdefault('io_backend', {'type': 'lmdb' if block['dataroot_lq'].endswith('.lmdb') else 'disk'})
    try:
        dataset = sort_paths(build_dataset(block))
    except (AssertionError, ValueError) as error:  # BasicSR's complaint about pairs that do not match
        raise UserError(f'datasets.{name}: {error}') from error
    pairs = []
    for index in range(0, len(dataset), every):
        try:
            sample = dataset[index]
        except Exception as error:  # BasicSR's readers raise anything on a damaged image
            raise UserError(f'datasets.{name}: image {index + 1} of {block["dataroot_lq"]} or its clean side cannot be '
                            f'read: {error}') from error
        noisy, clean = ((sample[side].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8) for side in ('lq', 'gt'))
        if noisy.shape != clean.shape:
            raise UserError(f'datasets.{name}: {sample["lq_path"]}: expected the size of its clean side, '
                            f'{clean.shape}, got {noisy.shape}')
        pairs.append((Path(sample['lq_path']).stem, noisy, clean))
    if not pairs:
        raise UserError(f'datasets.{name}: no image in {block["dataroot_lq"]}')
    return pairs


def _identity(pairs: Pairs) -> list[list[Any]]:
    return [[name, zlib.crc32(noisy), zlib.crc32(clean)] for name, noisy, clean in pairs]


def _weights_digest(block: dict[str, Any]) -> str | None:
    with contextlib.suppress(KeyError, OSError):  # no weights; a file that is not there, which the method will say
        return content_digest(block['weights'])
    return None


def _shown(count: int, sheet: dict[str, Any]) -> set[int]:
    """Numbers of the images in the sheet: evenly spaced."""
    images = min(sheet.get('images', 3), count)
    return {round((number + 0.5) * count / images - 0.5) for number in range(images)}


class _Cell:
    """One method on one dataset: a JSON with what is known of each image, and the crops for the sheet."""

    def __init__(self, folder: Path, name: str, settings: dict[str, Any]) -> None:
        self.folder = folder / f'{key_of(name)}_{_digest(settings)}'  # other settings have another cell
        self.path = self.folder.with_suffix('.json')
        self.state: dict[str, Any] = {'images': {}}
        with contextlib.suppress(FileNotFoundError, ValueError):
            self.state = json.loads(self.path.read_text())
        if self.state.pop('error', None):  # it may have been mended
            self.state['images'] = {}
        self.shown: set[int] = set()

    def run(self, block: dict[str, Any], pairs: Pairs, given: MethodContext, protocols: list[str]) -> dict[str, Any]:
        """The figures of the cell, or ``error``."""
        try:
            for number in self.shown:  # a crop that the sheet wants now
                if not self._crop(number).exists():
                    self.state['images'].pop(str(number), None)
            if len(self.state['images']) < len(pairs):
                self._judge(block, pairs, given, protocols)
        except (Exception, SystemExit) as error:  # whatever it is, the other methods go on
            self.state['error'] = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            if not isinstance(error, UserError):
                self.state['error'] = f'{type(error).__name__}: {self.state["error"]}'
                make_folder(self.folder)
                (self.folder / 'traceback.txt').write_text(traceback.format_exc())
            self._save()
            print(f'  failed: {self.state["error"]}', file=sys.stderr, flush=True)
            return {'error': self.state['error']}
        return self._summary(pairs, protocols)

    def _judge(self, block: dict[str, Any], pairs: Pairs, given: MethodContext, protocols: list[str]) -> None:
        started = time.perf_counter()
        method = build_method(block, given)
        self.state.update(note=method.note, machine=machine(given.device), **network_cost(method))
        self.state.setdefault('preparation_seconds', time.perf_counter() - started)
        corner = np.ascontiguousarray(pairs[0][1][:_WARM_UP, :_WARM_UP])
        with contextlib.suppress(Exception):  # too small for some: they go without
            method.run(corner)
        meter = ResourceMeter(given.device)
        for number, (name, noisy, clean) in enumerate(tqdm(pairs, unit='image', file=sys.stderr, leave=False)):
            if str(number) in self.state['images']:
                continue
            image = noisy.copy()
            with meter.measure():
                result = method.run(image)
            _check_result(result, noisy, name)
            if number in self.shown:
                top, left = busiest(clean)
                write_photo(Photo(np.ascontiguousarray(result[top:top + CROP, left:left + CROP])),
                            self._crop(number))
            self.state['images'][str(number)] = {
                'name': name, 'seconds': meter.seconds, 'pixels': noisy.shape[0] * noisy.shape[1],
                **{protocol: judge(result, clean, protocol) for protocol in protocols}}
            if meter.bytes is not None:
                self.state['bytes'] = max(self.state.get('bytes', 0), meter.bytes)
            self._save()

    def _crop(self, number: int) -> Path:
        return self.folder / f'{number}.png'

    def _save(self) -> None:
        with atomic_write(self.path) as partial:
            partial.write_text(json.dumps(self.state))

    def _summary(self, pairs: Pairs, protocols: list[str]) -> dict[str, Any]:
        images = list(self.state['images'].values())
        return {**{protocol: float(np.mean([image[protocol] for image in images])) for protocol in protocols},
                **{key: self.state[key] for key in ('params', 'macs', 'bytes', 'note', 'preparation_seconds', 'machine')
                   if key in self.state},
                'megapixels_per_second': sum(image['pixels'] for image in images) / 1e6 / max(
                    sum(image['seconds'] for image in images), 1e-9),
                'images': {image['name']: {protocol: image[protocol] for protocol in protocols} for image in images},
                'crops': {pairs[number][0]: str(self._crop(number)) for number in sorted(self.shown)}}


def _check_result(result: np.ndarray, noisy: np.ndarray, name: str) -> None:
    if result.shape != noisy.shape or result.dtype != np.uint8:
        raise UserError(f'{name}: expected a result of {noisy.shape} uint8, got {result.shape} {result.dtype}')


class _Trainings:
    """The trainings of one dataset, on the noisy side of its images alone; run when a method first asks for one."""

    def __init__(self, folder: Path, opt: dict[str, Any], dataset: str) -> None:
        self.folder, self.opt, self.dataset = folder, opt, dataset

    def __call__(self, name: str, network: str) -> Path:
        """Weights of a network of training ``name``: trained now, gone on with, or found."""
        block = self.opt['trainings'][name]
        root = make_folder(self.folder / 'trainings' / f'{self.dataset}_{name}_{_digest(self.settings(name))}')
        lq = self._photos()
        opt = _training_options(block, lq if lq.endswith('.lmdb') else self._database(lq), self.opt.get('seed', 0))
        models = root / 'experiments' / opt['name'] / 'models'
        if not (models / 'net_g_latest.pth').exists():
            plan = root / 'plan.json'  # a run that goes on has the lengths that it began with
            if not plan.exists():
                found = plan_training(opt, root, block['minutes']).to_dict()
                with atomic_write(plan) as partial:
                    partial.write_text(json.dumps(found))
            found = json.loads(plan.read_text())
            for stage, length in found['iter'].items():
                opt['train']['stages'][stage]['iter'] = length
            if 'teacher_cache' in opt['train']:
                opt['train']['teacher_cache'] = found['teacher_cache']
            opt['logger']['save_checkpoint_freq'] = max(min(opt['logger']['save_checkpoint_freq'], 250), 1)
            self._train(opt, root, name)
        return require_path(models / f'net_{network}_latest.pth', f'trainings.{name}')

    def settings(self, name: str) -> dict[str, Any]:
        """What a training's outcome depends on."""
        block = self.opt['trainings'][name]
        return {'minutes': block['minutes'], 'images': self._files(), 'version': __version__,
                'opt': _training_options(block, '.', self.opt.get('seed', 0))}

    def _photos(self) -> str:
        return str(Path(self.opt['datasets'][self.dataset]['dataroot_lq']).expanduser())

    def _files(self) -> list[list[Any]]:
        path = Path(self._photos())
        files = [path / 'data.mdb'] if path.suffix == '.lmdb' else list_images(path)
        return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]

    def _database(self, photos: str) -> str:
        database = self.folder / 'trainings' / f'{self.dataset}_{_digest(self._files())}.lmdb'
        if not database.exists():
            prepare_folder([photos], database, quiet=True)
        return str(database)

    def _train(self, opt: dict[str, Any], root: Path, name: str) -> None:
        total = sum(block['iter'] for block in opt['train']['stages'].values())
        with tqdm(total=total, desc=f'  training {name}', unit='it', file=sys.stderr) as bar:
            def watch(_: object, current_iter: int) -> None:
                bar.update(current_iter - bar.n)
            train(resolve_options(opt, root, True, auto_resume=True), on_iteration=watch)
        silence()


def _digest(settings: object) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _training_options(block: dict[str, Any], lq: str, seed: int) -> dict[str, Any]:
    path = Path(block['opt'])
    path = path if path.exists() else options_file(block['opt'].removeprefix('options/'))
    opt = read_options(path, block.get('force_yml') or [])
    opt['datasets'] = {'train': {**opt['datasets']['train'], 'dataroot_lq': str(Path(lq).expanduser().resolve())}}
    opt.update(val=None, manual_seed=seed)
    opt['logger'].update(use_tb_logger=False)
    return opt
