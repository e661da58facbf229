"""The datasets of an option file: their blocks checked, opened, and their first image read."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from basicsr.data import build_dataset
from basicsr.utils.registry import DATASET_REGISTRY
from torch.utils.data import DataLoader

from basicsr_sassid.data.lmdb_meta import read_lmdb_meta
from basicsr_sassid.data.photo_dataset import PhotoDataset
from basicsr_sassid.data.schema import MAX_BATCH_SIZE, MAX_WORKERS, PhotoOptions
from basicsr_sassid.training.validation import entry_path, image_root, output_names
from basicsr_sassid.utils.errors import UserError, require_path
from basicsr_sassid.utils.names import is_file_name, stays_inside
from basicsr_sassid.utils.option_checks import check_choice, check_keys, check_number, check_type

_READ_NOISY_IMAGES = ('NoisyImageDataset', 'PairedImageDataset', 'SingleImageDataset', 'RealESRGANPairedDataset')


def resolve_dataset(name: str, block: object, scale: int, is_train: bool) -> dict[str, Any]:
    """The block ``datasets.<name>`` of a training or a test with what BasicSR's parts expect. Raises UserError."""
    where = f'datasets.{name}'
    phase = name.split('_')[0]
    if phase not in (('train', 'val') if is_train else ('test', 'val')) or (phase == 'train' and name != 'train'):
        raise UserError(f'{where}: expected {"train, val, val_2 ..." if is_train else "test, test_2 ..."}')
    dataset = complete_dataset(block, where, required=['name', 'type'])
    if phase == 'train':
        for key, least, most in (('batch_size_per_gpu', 1, MAX_BATCH_SIZE), ('num_worker_per_gpu', 0, MAX_WORKERS)):
            check_number(dataset.setdefault(key, least), least, f'{where}.{key}', most)
    return {**dataset, 'phase': phase, 'scale': scale}


def complete_dataset(block: object, where: str, required: Sequence[str]) -> dict[str, Any]:
    """A dataset's block with existing paths, and the ``io_backend`` that BasicSR's datasets need. Raises UserError.

    It needs ``dataroot_lq`` or ``dataroot_gt``: datasets that make their noisy images have clean ones alone.
    """
    check_keys(block, block if isinstance(block, Mapping) else (), where, required=required)
    assert isinstance(block, Mapping)
    if block['type'] in _READ_NOISY_IMAGES:
        check_keys(block, block, where, required=['dataroot_lq'])
    dataset = copy.deepcopy(dict(block))
    if 'name' in required and not (isinstance(dataset['name'], str) and is_file_name(dataset['name'])):
        raise UserError(f'{where}.name: expected a text that can name a folder (no / or ..), got {dataset["name"]!r}')
    check_type(DATASET_REGISTRY, dataset['type'], f'{where}.type')
    option_schema = _option_schema(dataset['type'])
    if option_schema is None and image_root(dataset) is None:
        raise UserError(f'{where}: expected dataroot_lq (noisy images) or dataroot_gt (clean images), found neither.')
    for key in ('dataroot_gt', 'dataroot_lq'):
        if key in dataset and not (option_schema and dataset[key] is None):
            if not isinstance(dataset[key], str) or not dataset[key].strip():
                raise UserError(f'{where}.{key}: expected a text, got {dataset[key]!r}')
            root = require_path(dataset[key], f'{where}.{key}')
            if root.suffix == '.lmdb':
                read_lmdb_meta(root, key)
            dataset[key] = str(root)
    if option_schema:
        option_schema.from_options(dataset, where)
    else:
        backend = dataset.setdefault(
            'io_backend', {'type': 'lmdb' if str(image_root(dataset)).endswith('.lmdb') else 'disk'}
        )
        check_keys(backend, backend if isinstance(backend, Mapping) else (), f'{where}.io_backend', required=['type'])
        check_choice(backend['type'], ('disk', 'lmdb', 'memcached'), f'{where}.io_backend.type')
    return dataset


def _option_schema(name: str) -> type[PhotoOptions] | None:
    """The class of a dataset's option block, of the datasets of this package."""
    dataset = DATASET_REGISTRY.get(name)
    return dataset.option_schema if isinstance(dataset, type) and issubclass(dataset, PhotoDataset) else None


def open_dataset(block: Mapping[str, Any], where: str) -> Any:
    """A dataset of a block of :func:`complete_dataset`, with sorted paths: BasicSR lists folders in the order of the
    disk, and a seed shall mean one order.

    Raises:
        UserError: it cannot be built, has no image, or one whose name leads out of the folder of the results.
    """
    try:
        dataset = build_dataset(block)
    except UserError:
        raise
    except KeyError as error:  # BasicSR's datasets look up their keys
        raise UserError(f'{where}: key {error} is missing') from error
    except Exception as error:  # of pairs that do not match, malformed lists of files: anything
        raise UserError(f'{where}: {block["type"]} cannot be built: {_first_line(error)}') from error
    paths = getattr(dataset, 'paths', None)
    if isinstance(paths, list):
        paths.sort(key=entry_path)
    if len(dataset) == 0:
        raise UserError(f'{where}: no image in {image_root(block)}')
    if block.get('phase') != 'train':
        for name in output_names(dataset):
            if not stays_inside(name):
                raise UserError(f'{where}: the image {name!r} lies outside of {image_root(block)}. Leave it out.')
    return dataset


def build_eval_loader(block: Mapping[str, Any], where: str) -> DataLoader:
    """A loader of a test or validation set, image by image in order. Raises UserError as :func:`open_dataset`."""
    return DataLoader(open_dataset(block, where), batch_size=1)


def first_sample(dataset: Any, where: str) -> dict[str, Any]:
    """The first sample of a dataset. Raises UserError: it cannot be read, or its clean reference has another size.

    It is read from a copy: BasicSR's datasets change their options, and open files, when they are first read.
    """
    try:
        sample = copy.deepcopy(dataset)[0]
    except UserError:
        raise
    except Exception as error:  # BasicSR's readers raise anything on a damaged image
        raise UserError(f'{where}: the first image cannot be read: {_first_line(error)}') from error
    if 'gt' in sample and 'lq' in sample:
        scale = dataset.opt.get('scale') or 1
        height, width = (side * scale for side in sample['lq'].shape[-2:])
        if tuple(sample['gt'].shape[-2:]) != (height, width):
            raise UserError(
                f'{where}: {Path(str(sample.get("lq_path", "the first image"))).name}: expected a clean reference of '
                f'{height}x{width} pixels, got {"x".join(map(str, sample["gt"].shape[-2:]))}'
            )
    return sample


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
