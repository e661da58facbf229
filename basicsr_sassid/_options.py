"""Option files and command lines, as BasicSR's `parse_options` reads them, without its traps."""
from __future__ import annotations

import argparse
import copy
import os
import random
import re
from pathlib import Path

import torch
import yaml
from basicsr.utils.dist_util import get_dist_info
from basicsr.utils.registry import DATASET_REGISTRY, MODEL_REGISTRY

from basicsr_sassid._checks import UserError, check_keys, check_number, check_type, existing

_TOP = ('name', 'model_type', 'scale', 'img_range', 'num_gpu', 'manual_seed', 'datasets', 'path', 'train', 'val',
        'logger', 'dist_params', 'find_unused_parameters', 'inference')
_PATH_PREFIXES = ('pretrain_network_', 'param_key_', 'strict_load_')
_PATH = ('resume_state', 'ignore_resume_networks')
_VAL = ('val_freq', 'save_img', 'metrics', 'suffix', 'pbar')
_LOGGER = ('print_freq', 'save_checkpoint_freq', 'use_tb_logger', 'wandb')


class _Loader(yaml.SafeLoader):
    """YAML whose 1e-4 is a number: PyYAML reads it as a string unless there is a dot."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != 'tag:yaml.org,2002:merge']
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f'key {key!r} is there twice', node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver('tag:yaml.org,2002:float', re.compile(
    r'[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+'), list('-+0123456789.'))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """BasicSR's flags."""
    parser.add_argument('-opt', required=True, metavar='FILE.yml', help='option file')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none', help='job launcher')
    parser.add_argument('--auto_resume', action='store_true', help='go on from the newest whole training state')
    parser.add_argument('--debug', action='store_true', help='validate, save and log all the time; name debug_...')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by torch.distributed.launch')
    parser.add_argument('--force_yml', nargs='+', action='extend', default=[], metavar='a:b=v',
                        help='change or add options: train:ema_decay=0.999; values are read as YAML')


def options_file(name: str) -> Path:
    """A file of options/, in the clone or in the installed package."""
    here = Path(__file__).parent
    for folder in (here.parent / 'options', here / 'options'):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f'options/{name} is not beside the package; run from a clone or reinstall')


def read_options(path: str | os.PathLike, force_yml: list[str] = ()) -> dict:
    """An option file as plain dicts, with ``a:b=value`` changes applied. Raises UserError."""
    path = existing(path, '-opt')
    try:
        opt = yaml.load(path.read_text(), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f'{path} is no readable YAML file: {error}') from error
    if not isinstance(opt, dict):
        raise UserError(f'{path}: expected blocks of options, found {type(opt).__name__}')
    for entry in force_yml:
        _force(opt, entry)
    return opt


def _force(opt: dict, entry: str) -> None:
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


def complete_options(opt: dict, root_path: str | os.PathLike, is_train: bool, launcher: str = 'none',
                     auto_resume: bool = False, debug: bool = False) -> dict:
    """Check an option dict and return it with what BasicSR's pipelines expect; runs land under root_path.

    Call it after the processes are set up. Raises UserError.
    """
    opt = copy.deepcopy(opt)
    required = ['name', 'model_type', 'datasets', 'path'] + (['train', 'logger'] if is_train else ['val'])
    check_keys(opt, [*_TOP, *(key for key in opt if str(key).startswith('network_'))], 'options', required=required)
    opt['path'] = opt['path'] or {}
    networks = [key.removeprefix('network_') for key in opt if key.startswith('network_')]
    check_keys(opt['path'], [*_PATH, *(prefix + name for prefix in _PATH_PREFIXES for name in networks)], 'path')
    check_keys(opt.get('val') or {}, _VAL, 'val', required=['val_freq'] if is_train and opt.get('val') else [])
    check_keys(opt.get('logger') or {}, _LOGGER, 'logger',
               required=['print_freq', 'save_checkpoint_freq'] if is_train else [])
    check_type(MODEL_REGISTRY, opt['model_type'], 'model_type')
    opt['is_train'], opt['auto_resume'], opt['dist'] = is_train, auto_resume, launcher != 'none'
    opt['rank'], opt['world_size'] = get_dist_info()
    opt['num_gpu'] = _num_gpu(opt.get('num_gpu', 'auto'), opt['dist'])
    if opt.get('manual_seed') is None:
        opt['manual_seed'] = _shared_seed(opt['dist'])
    if debug and not opt['name'].startswith('debug'):
        opt['name'] = f'debug_{opt["name"]}'
    opt.setdefault('scale', 1)
    for name, dataset in opt['datasets'].items():
        _complete_dataset(name, dataset, opt['scale'], is_train)
    for key, value in opt['path'].items():
        if value is not None and (key == 'resume_state' or key.startswith('pretrain_network_')):
            opt['path'][key] = str(existing(value, f'path.{key}'))
    opt['root_path'] = str(root_path)
    root = Path(root_path) / ('experiments' if is_train else 'results') / opt['name']
    opt['path'].update(log=str(root), visualization=str(root / 'visualization'))
    opt['path']['experiments_root' if is_train else 'results_root'] = str(root)
    if is_train:
        opt['path'].update(models=str(root / 'models'), training_states=str(root / 'training_states'))
        opt['logger'].setdefault('use_tb_logger', False)
        check_options = getattr(MODEL_REGISTRY.get(opt['model_type']), 'check_options', None)
        if check_options:
            check_options(opt)
        elif not isinstance(opt['train'].get('total_iter'), int):
            raise UserError(f'train.total_iter: expected a number, got {opt["train"].get("total_iter")!r}')
    if debug:
        opt['val'] = opt.get('val') and {**opt['val'], 'val_freq': 8}
        if is_train:
            opt['logger'].update(print_freq=1, save_checkpoint_freq=8)
    return opt


def _complete_dataset(name: str, dataset: dict, scale: int, is_train: bool) -> None:
    where = f'datasets.{name}'
    phase = name.split('_')[0]
    if phase not in (('train', 'val') if is_train else ('test', 'val')) or (phase == 'train' and name != 'train'):
        raise UserError(f'{where}: expected {"train, val, val_2 ..." if is_train else "test, test_2 ..."}')
    check_keys(dataset, dataset if isinstance(dataset, dict) else (), where, required=['name', 'type', 'dataroot_lq'])
    check_type(DATASET_REGISTRY, dataset['type'], f'{where}.type')
    if phase == 'train':
        for key, least in (('batch_size_per_gpu', 1), ('num_worker_per_gpu', 0)):
            check_number(dataset.setdefault(key, least), least, f'{where}.{key}')
    dataset.update(phase=phase, scale=scale)
    if dataset['type'] != 'NoisyImageDataset':
        dataset.setdefault('io_backend', {'type': 'lmdb' if str(dataset['dataroot_lq']).endswith('.lmdb') else 'disk'})
    for key in ('dataroot_gt', 'dataroot_lq'):
        if dataset.get(key) is not None:
            dataset[key] = str(existing(dataset[key], f'{where}.{key}'))


def _num_gpu(asked: int | str, dist: bool) -> int:
    here = torch.cuda.device_count()
    if asked == 'auto':
        return min(here, 1)
    if not isinstance(asked, int) or asked < 0:
        raise UserError(f'num_gpu: expected auto or a number, got {asked!r}')
    if asked > here:
        raise UserError(f'num_gpu: {asked} asked for, torch finds {here} here. Set num_gpu: auto, or 0 for the CPU.')
    if asked > 1 and not dist:
        raise UserError(f'num_gpu: {asked} GPUs need a process each: torchrun --nproc_per_node={asked} -m '
                        'basicsr_sassid.train -opt ... --launcher pytorch')
    return asked


def _shared_seed(dist: bool) -> int:
    seed = [random.SystemRandom().randint(1, 10000)]
    if dist:
        torch.distributed.broadcast_object_list(seed)  # each process drawing its own would train on other crops
    return seed[0]
