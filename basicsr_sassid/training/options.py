"""Option files: read, checked and completed once; a caller's dict is never changed."""

from __future__ import annotations

import copy
import os
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from basicsr.utils.dist_util import get_dist_info
from basicsr.utils.registry import MODEL_REGISTRY

from basicsr_sassid.training.datasets import resolve_dataset
from basicsr_sassid.training.protocols import StagedTraining
from basicsr_sassid.training.schema import MAX_ITER, LoggerOptions, RunOptions, ValOptions
from basicsr_sassid.utils.errors import UserError, require_path
from basicsr_sassid.utils.option_checks import check_finite, check_keys, check_number, check_type

_BLOCKS = ('datasets', 'path', 'train', 'val', 'logger', 'inference')
_PATH_PREFIXES = ('pretrain_network_', 'param_key_', 'strict_load_')
_PATH = ('resume_state', 'ignore_resume_networks')


class _Loader(yaml.SafeLoader):
    """YAML that reads 1e-4 as a number; PyYAML reads it as a string unless there is a dot."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != 'tag:yaml.org,2002:merge']
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f'key {key!r} is there twice', node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    'tag:yaml.org,2002:float', re.compile(r'[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+'), list('-+0123456789.')
)


def options_file(name: str) -> Path:
    """A file of options/, in the clone or in the installed package."""
    here = Path(__file__).parents[1]
    for folder in (here.parent / 'options', here / 'options'):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f'options/{name} is not beside the package; run from a clone or reinstall')


def read_options(path: str | os.PathLike[str], force_yml: Sequence[str] = ()) -> dict[str, Any]:
    """An option file as plain dicts, with ``a:b=value`` changes applied. Raises UserError."""
    path = require_path(path, '-opt')
    try:
        opt = yaml.load(path.read_text(), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f'{path} is no readable YAML file: {error}') from error
    if not isinstance(opt, dict):
        raise UserError(f'{path}: expected blocks of options, found {type(opt).__name__}')
    for entry in force_yml:
        _force(opt, entry)
    return opt


def _force(opt: dict[str, Any], entry: str) -> None:
    keys, equals, value = entry.partition('=')
    if not equals:
        raise UserError(f'--force_yml {entry}: expected key:key=value')
    *parents, last = (key.strip() for key in keys.split(':'))
    block = opt
    for key in parents:
        block = block.setdefault(key, {})
        if not isinstance(block, dict):
            raise UserError(f'--force_yml {entry}: {key!r} is a value, not a block')
    try:
        block[last] = yaml.load(value, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UserError(f'--force_yml {entry}: {value!r} cannot be read: {error}') from error


def customize(
    recipe: str | os.PathLike[str],
    name: str,
    dataroot_lq: str | os.PathLike[str],
    seed: int,
    force_yml: Sequence[str] = (),
) -> dict[str, Any]:
    """A recipe, an option file of this package, for another training set: without validation and tensorboard.

    Args:
        recipe: option file, or its name in options/ (``sassid/train_cpu.yml``).
        name: of the run.
        dataroot_lq: the noisy images, an LMDB or a folder.
        seed: of the run.
        force_yml: further changes, ``a:b=value``.

    Raises:
        UserError: no such recipe.
    """
    path = Path(recipe).expanduser()
    opt = read_options(path if path.is_file() else options_file(str(recipe).removeprefix('options/')), force_yml)
    opt.update(name=name, manual_seed=seed, val=None)
    opt['datasets'] = {'train': {**opt['datasets']['train'], 'dataroot_lq': str(dataroot_lq)}}
    opt['logger'].update(use_tb_logger=False)
    return opt


def resolve_options(
    opt: Mapping[str, Any],
    root_path: str | os.PathLike[str],
    is_train: bool,
    launcher: str = 'none',
    auto_resume: bool = False,
    debug: bool = False,
) -> dict[str, Any]:
    """Check options, and complete them with what BasicSR's parts expect. Call it after the processes are started.

    Args:
        opt: of :func:`read_options`; it is not changed.
        root_path: the run's files land below it.
        is_train: of a training, or of a test.
        launcher, auto_resume, debug: the command line's.

    Raises:
        UserError: anything wrong in the options, before a file is written.
    """
    opt = copy.deepcopy(dict(opt))
    _check_blocks(opt, is_train)
    _resolve_runtime(opt, is_train, launcher, auto_resume)
    if debug and not opt['name'].startswith('debug'):
        opt['name'] = f'debug_{opt["name"]}'
    for name, block in opt['datasets'].items():
        opt['datasets'][name] = resolve_dataset(name, block, opt['scale'], is_train)
    _resolve_paths(opt, Path(root_path), is_train)
    if is_train:
        opt['train'] = _resolve_train(opt)
    if debug:
        opt['val'] = opt.get('val') and {**opt['val'], 'val_freq': 8}
        if is_train:
            opt['logger'].update(print_freq=1, save_checkpoint_freq=8)
    return opt


def _check_blocks(opt: dict[str, Any], is_train: bool) -> None:
    required = ['name', 'model_type', 'datasets', 'path'] + (['train', 'logger'] if is_train else ['val'])
    networks = [key for key in opt if str(key).startswith('network_')]
    check_keys(opt, [*RunOptions.model_fields, *_BLOCKS, *networks], 'options', required=required)
    check_finite(opt)
    RunOptions.parse({key: opt[key] for key in RunOptions.model_fields if key in opt}, '')
    check_type(MODEL_REGISTRY, opt['model_type'], 'model_type')
    for key in ('datasets', 'train', 'inference', *networks):
        if key in opt and not (key == 'inference' and opt[key] is None):
            check_keys(opt[key], opt[key] if isinstance(opt[key], Mapping) else (), key)
    _check_path(opt['path'], [name.removeprefix('network_') for name in networks])
    if opt.get('val') is not None:
        opt['val'] = ValOptions.parse(opt['val'], 'val').model_dump()
        if is_train and opt['val']['val_freq'] is None:
            raise UserError("val: key 'val_freq' is missing.")
    if is_train:
        opt['logger'] = LoggerOptions.parse(opt['logger'], 'logger').model_dump()


def _check_path(block: object, networks: Sequence[str]) -> None:
    check_keys(block, [*_PATH, *(prefix + name for prefix in _PATH_PREFIXES for name in networks)], 'path')
    assert isinstance(block, Mapping)
    for key, value in block.items():
        kind, expected = (bool, 'true or false') if key.startswith('strict_load_') else (str, 'a text')
        if value is not None and not isinstance(value, kind) and key != 'ignore_resume_networks':
            raise UserError(f'path.{key}: expected {expected}, got {value!r}')


def _resolve_runtime(opt: dict[str, Any], is_train: bool, launcher: str, auto_resume: bool) -> None:
    opt['is_train'], opt['auto_resume'], opt['dist'] = is_train, auto_resume, launcher != 'none'
    opt['rank'], opt['world_size'] = get_dist_info()
    opt['num_gpu'] = _num_gpu(opt.get('num_gpu', 'auto'), opt['dist'])
    if opt.get('manual_seed') is None:
        opt['manual_seed'] = _shared_seed(opt['dist'])
    opt.setdefault('scale', 1)


def _resolve_paths(opt: dict[str, Any], root_path: Path, is_train: bool) -> None:
    for key, value in opt['path'].items():
        if value is not None and (key == 'resume_state' or key.startswith('pretrain_network_')):
            opt['path'][key] = str(require_path(value, f'path.{key}'))
    opt['root_path'] = str(root_path)
    root = root_path / ('experiments' if is_train else 'results') / opt['name']
    opt['path'].update(log=str(root), visualization=str(root / 'visualization'))
    opt['path']['experiments_root' if is_train else 'results_root'] = str(root)
    if is_train:
        opt['path'].update(models=str(root / 'models'), training_states=str(root / 'training_states'))


def _resolve_train(opt: dict[str, Any]) -> dict[str, Any]:
    model_class = MODEL_REGISTRY.get(opt['model_type'])
    if issubclass(model_class, StagedTraining):
        return model_class.validate_options(opt)
    check_number(opt['train'].get('total_iter'), 1, 'train.total_iter', MAX_ITER)
    return opt['train']


def _num_gpu(wanted: int | str, dist: bool) -> int:
    here = torch.cuda.device_count()
    if wanted == 'auto':
        return min(here, 1)
    assert isinstance(wanted, int)
    if wanted > here:
        raise UserError(f'num_gpu: {wanted} asked for, torch finds {here} here. Set num_gpu: auto, or 0 for the CPU.')
    if wanted > 1 and not dist:
        raise UserError(
            f'num_gpu: {wanted} GPUs need a process each: torchrun --nproc_per_node={wanted} -m '
            'basicsr_sassid.train -opt ... --launcher pytorch'
        )
    return wanted


def _shared_seed(dist: bool) -> int:
    seed = [random.SystemRandom().randint(1, 10000)]
    if dist:
        torch.distributed.broadcast_object_list(seed)  # each process drawing its own would train on other crops
    return seed[0]
