"""Weights files that were damaged, changed or made to do harm: each is read as it was written, or refused."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from safetensors.torch import load_file

from basicsr_sassid import load_weights
from basicsr_sassid.inference.denoiser import load_for_inference
from basicsr_sassid.io.checkpoint import FORMAT, read_weights, save_weights, write_safetensors
from basicsr_sassid.io.weights_digest import tree_digest
from basicsr_sassid.utils.errors import UserError

from helpers import write_weights

LAN = {'type': 'LAN', 'dim': 4, 'num_block': 1, 'reduction': 2}
SETTINGS = {'format': FORMAT, 'network': LAN, 'img_range': 255, 'inference': {'pd_b': 2}}
SUFFIXES = ('.pth', '.safetensors')


def small_state(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return build_network(LAN).state_dict()


def write(path: Path, state: dict | None = None, **settings) -> Path:
    """A file of this package, with digests."""
    state = small_state() if state is None else state
    if path.suffix == '.safetensors':
        write_safetensors(state, {**SETTINGS, **settings}, path)
    else:
        save_weights({'params': state, **SETTINGS, **settings}, path)
    return path


def write_plain(path: Path, state: dict | None = None, **settings) -> Path:
    state = small_state() if state is None else state
    return write_weights(path, state, **{'network': LAN, 'img_range': 255, **settings})


def refusal(path: Path, **options) -> str:
    """The one sentence, or two, with which a file is refused."""
    with pytest.raises(UserError) as error:
        load_for_inference(path, **options)
    text = str(error.value)
    assert path.name in text and '\n' not in text and 'weights_only' not in text and '\x1b' not in text
    return text


# ---- damaged files ----


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_read_weights_any_flipped_byte_is_refused_or_changes_nothing(tmp_path, suffix):
    path = write(tmp_path / f'net{suffix}')
    expected = tree_digest(read_weights(path))
    content = path.read_bytes()
    refused = 0
    offsets = np.random.default_rng(0).choice(len(content), 250, replace=False).tolist()
    for number, offset in enumerate(offsets):
        flipped = bytearray(content)
        flipped[offset] ^= 1 << number % 8
        path.write_bytes(flipped)
        os.utime(path, ns=(number, number))  # another file for the reader's cache
        try:
            assert tree_digest(read_weights(path)) == expected, offset
        except UserError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize('suffix', SUFFIXES)
@pytest.mark.parametrize('share', [0, 0.001, 0.1, 0.5, 0.9, 0.99])
def test_read_weights_cut_off_or_zero_filled_file_is_refused(tmp_path, suffix, share):
    path = write(tmp_path / f'net{suffix}')
    content = path.read_bytes()
    kept = int(share * len(content))
    for tail in (b'', bytes(len(content) - kept)):
        path.write_bytes(content[:kept] + tail)
        os.utime(path, ns=(len(tail), 0))
        assert 'damaged' in refusal(path)


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_read_weights_random_bytes_are_refused(tmp_path, suffix):
    rng, path = np.random.default_rng(1), tmp_path / f'net{suffix}'
    starts = (b'', b'\x80\x02', b'\x80\x04\x95', b'PK\x03\x04', b'{"a": ', bytes(8), b'\x89PNG\r\n', b'\x10' + bytes(7))
    for number in range(160):
        path.write_bytes(starts[number % len(starts)] + rng.bytes(rng.integers(0, 300)))
        os.utime(path, ns=(number, 0))
        assert refusal(path)


@pytest.mark.parametrize(
    ('name', 'content'),
    [
        ('text.pth', b'hello\n'),
        ('page.pth', b'<!DOCTYPE html>\n<html>'),
        ('empty.zip.pth', b'PK\x05\x06' + bytes(18)),
        ('net.safetensors', b'{}'),
    ],
)
def test_read_weights_another_kind_of_file_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert 'is no file of weights, or damaged' in refusal(tmp_path / name)


@pytest.mark.parametrize(
    ('make', 'message'), [(os.mkdir, 'expected a .pth or .safetensors'), (os.mkfifo, 'named pipe')]
)
def test_read_weights_no_regular_file_is_refused(tmp_path, make, message):
    make(tmp_path / 'net.pth')
    assert message in refusal(tmp_path / 'net.pth')


@pytest.mark.parametrize(
    'content',
    [
        [1],
        5,
        {1: torch.zeros(2)},
        {'params': 5},
        {'params': {}},
        {'params': {'a': 3}},
        {'params': {2: torch.zeros(1)}},
        {'params': None},
        {'state_dict': {}},
        {'model_weight': {'denoiser': {'bsn.x': 'y'}}},
        {'params': {'weight': torch.zeros(1).expand(10**9, 10**6)}},
        {'params': {'weight': torch.eye(2).to_sparse()}},
        {'params': {'weight': torch.zeros(2, device='meta')}},
        {'trunk.encode.0.0.weight': torch.zeros(3), 'head.weight': torch.zeros(2)},
    ],
    ids=lambda content: str(content)[:25],
)
def test_load_for_inference_content_of_another_kind_is_refused(tmp_path, content):
    torch.save(content, tmp_path / 'net.pth')
    refusal(tmp_path / 'net.pth')


def test_read_weights_archive_that_expands_is_refused(tmp_path):
    torch.save({'params': {'weight': torch.zeros(10**5)}}, tmp_path / 'plain.pth')
    with (
        zipfile.ZipFile(tmp_path / 'plain.pth') as plain,
        zipfile.ZipFile(tmp_path / 'net.pth', 'w', zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert 'damaged' in refusal(tmp_path / 'net.pth')


def test_read_weights_endless_setting_is_refused(tmp_path):
    endless: list = []
    endless.append(endless)
    torch.save(
        {'params': small_state(), 'network': {'type': endless}, 'digest': {'settings': ''}}, tmp_path / 'net.pth'
    )
    assert 'network is longer than any settings' in refusal(tmp_path / 'net.pth')


class Command:
    """A pickle that would run a command."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f'touch {self.marker}',)


def test_read_weights_pickle_with_code_is_refused_and_not_run(tmp_path):
    for number, content in enumerate(({'params': Command(tmp_path / 'ran')}, build_network(LAN), {'rng': object()})):
        torch.save(content, tmp_path / f'{number}.pth')
        (tmp_path / 'plain.pth').write_bytes(pickle.dumps(content, 2))
        for path in (tmp_path / f'{number}.pth', tmp_path / 'plain.pth'):
            assert 'could run code' in refusal(path)
    assert not (tmp_path / 'ran').exists()


# ---- tensors ----


@pytest.mark.parametrize('suffix', SUFFIXES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_load_for_inference_weights_of_another_precision_are_converted(tmp_path, suffix, dtype):
    state = {name: value.to(dtype) for name, value in small_state().items()}
    loaded = load_for_inference(write_plain(tmp_path / f'net{suffix}', state)).net.state_dict()
    assert all(torch.equal(value, state[name].float()) for name, value in loaded.items())


@pytest.mark.parametrize('suffix', SUFFIXES)
@pytest.mark.parametrize('dtype', [torch.int8, torch.int64, torch.uint8, torch.bool])
def test_load_for_inference_integer_weights_are_refused_by_name(tmp_path, suffix, dtype):
    state = small_state()
    state['head.weight'] = state['head.weight'].to(dtype)
    message = refusal(write_plain(tmp_path / f'net{suffix}', state))
    assert f'head.weight is {str(dtype)[6:]}; expected weights of float16' in message


@pytest.mark.parametrize('value', [float('nan'), float('inf'), 1e300])
def test_load_for_inference_weights_that_are_not_finite_are_refused_by_name(tmp_path, value):
    state = {**small_state(), 'head.bias': torch.full((3,), value, dtype=torch.float64)}
    assert 'head.bias has values that are not finite' in refusal(write(tmp_path / 'net.pth', state))


def test_load_weights_counters_of_a_network_stay_integers(tmp_path):
    net = torch.nn.BatchNorm2d(2)
    net(torch.rand(1, 2, 3, 3))
    torch.save(net.state_dict(), tmp_path / 'net.pth')
    other = torch.nn.BatchNorm2d(2)
    load_weights(other, tmp_path / 'net.pth')
    assert other.num_batches_tracked == 1


# ---- digests ----


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_read_weights_file_without_digest_is_read(tmp_path, suffix):
    content = read_weights(write_plain(tmp_path / f'net{suffix}'))
    assert tree_digest(content['params']) == tree_digest(small_state())


def test_read_weights_average_that_does_not_match_its_digest_is_refused(tmp_path):
    save_weights({'params': small_state(), 'params_ema': small_state(1), **SETTINGS}, tmp_path / 'net.pth')
    content = torch.load(tmp_path / 'net.pth', weights_only=True)
    assert content['digest']['params_ema'] == tree_digest(small_state(1))
    torch.save({**content, 'params_ema': small_state(2)}, tmp_path / 'net.pth')
    assert 'does not match the digest in it' in refusal(tmp_path / 'net.pth')
    del content['params_ema']
    torch.save(content, tmp_path / 'net.pth')
    assert 'does not match the digest in it' in refusal(tmp_path / 'net.pth')


def test_read_weights_hashes_a_file_once(tmp_path, monkeypatch):
    import basicsr_sassid.io.checkpoint as checkpoint

    calls = []
    monkeypatch.setattr(checkpoint, 'check_digests', lambda *_: calls.append(1))
    path = write(tmp_path / 'net.pth')
    read_weights(path), read_weights(path)
    assert calls == [1]


def test_tree_digest_depends_on_names_dtypes_shapes_and_values_alone():
    state = small_state()
    same = dict(
        reversed([(name, value.clone().to(memory_format=torch.preserve_format)) for name, value in state.items()])
    )
    assert tree_digest(same) == tree_digest(state)
    name, weight = 'head.weight', state['head.weight']
    changed = [
        {**state, 'other': weight},
        {**state, name: weight.double()},
        {**state, name: weight.flatten()},
        {**state, name: weight + 1e-3},
    ]
    assert len({tree_digest(content) for content in (state, *changed)}) == 5


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_writers_equal_weights_and_facts_give_equal_bytes(tmp_path, suffix):
    facts = {f'fact_{number}': [number] for number in range(8)} if suffix == '.safetensors' else {}
    files = [write(tmp_path / f'{number}{suffix}', **facts) for number in range(4)]
    assert len({hashlib.sha256(path.read_bytes()).hexdigest() for path in files}) == 1
    assert tree_digest(read_weights(files[0])['params']) == tree_digest(small_state())


def test_write_safetensors_is_read_by_the_library(tmp_path):
    path = write(tmp_path / 'net.safetensors', name='größer')
    assert tree_digest(load_file(path)) == tree_digest(small_state())
    size = int.from_bytes(path.read_bytes()[:8], 'little')
    card = json.loads(path.read_bytes()[8 : 8 + size])['__metadata__']
    assert json.loads(card['digest'])['params'] == tree_digest(small_state()) and json.loads(card['name']) == 'größer'


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_read_weights_below_a_name_that_is_not_utf_8_is_read(tmp_path, suffix):
    folder = tmp_path / os.fsdecode(b'photos \xe9\xff')
    folder.mkdir()
    shutil.copy(write(tmp_path / f'net{suffix}'), folder)
    assert load_for_inference(folder / f'net{suffix}').img_range == 255
