"""Authors' checkpoints under this package's names: SASSID's (BNN.pth, LAN.pth, UNet.pth: bare state dicts), AP-BSN's
(``model_weight.denoiser.bsn.*``), SDAP's (a bare state dict with masks) and AMSNet's (Lightning,
``net.dn.branches.0.*``). Under BasicSR's names: those of the first ESRGAN code (``RRDB_trunk.*``), in which the x4
networks of ESRGAN and SFD (CVPR 2025) are published.

Only names and shapes are stated here; no weights come with the package (SASSID's are under GPL-3.0).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

from torch import Tensor

_BRANCH = 'net.dn.branches.0.'
_LAN_HEAD = re.compile(r'conv\.(\d+)\.weight')
_REDUCTION = 16  # of a LAN's channel attention, by default
_ESRGAN_FIRST = 'RRDB_trunk.0.RDB1.conv1.weight'
_ESRGAN_BLOCK = re.compile(r'RRDB_trunk\.(\d+)\.RDB([123])\.(.+)')
# layers of the first ESRGAN code -> those of BasicSR's RRDBNet; conv_first and conv_last have the same name in both
_ESRGAN_LAYERS = {'trunk_conv': 'conv_body', 'upconv1': 'conv_up1', 'upconv2': 'conv_up2', 'HRconv': 'conv_hr'}
_RRDB_SCALES = {1: 4, 4: 2, 16: 1}  # input channels of the first layer per output channel -> scale
_DILATED = re.compile(r'branch1\.body\.\d+\.body\.0\.weight')


def convert_author_state_dict(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the SASSID authors' keys to this package's, and those of the first ESRGAN code to BasicSR's.

    Any other state dict is returned unchanged.

    Raises:
        ValueError: the two copies of the BNN's last layer differ.
    """
    if 'encode_block_1.0.weight' in state:
        return _unet_or_bnn(state)
    if 'conv.0.weight' in state and any('.cuca.' in name for name in state):
        return _lan(state)
    if has_first_esrgan_names(state):
        return _rrdbnet(state)
    return state


def has_first_esrgan_names(state: Iterable[str]) -> bool:
    """Whether the names of a state dict, with or without ``module.``, are those of the first ESRGAN code."""
    return any(name.removeprefix('module.') == _ESRGAN_FIRST for name in state)


def unwrap_checkpoint(content: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state dict inside a checkpoint of AP-BSN, SDAP or AMSNet, and its settings: ``img_range``, ``inference``.

    The content of any other file is returned unchanged, with no settings.
    """
    denoiser = _block(_block(content, 'model_weight'), 'denoiser')
    if denoiser is not None:  # AP-BSN
        return _without(denoiser, 'bsn.'), {
            'img_range': 255,
            'inference': {'pd_b': 2, 'pd_pad': 2, 'refinement': 'r3', 'per_channel': True},
        }
    branches = {name: value for name, value in (_block(content, 'state_dict') or {}).items() if _BRANCH in name}
    if branches:  # AMSNet
        return _without(branches, _BRANCH), {
            'img_range': 1,
            'inference': {'pd_b': 2, 'num_masks': 2, 'refinement': 'r3'},
        }
    if any(name.endswith('branch1.body.0.mask') for name in content):  # SDAP; this package stores no mask
        return _without(content, ''), {'img_range': 1, 'inference': {'pd_b': 2, 'refinement': 'second_pass'}}
    return content, {}


def _block(content: dict[str, Any] | None, key: str) -> dict[str, Any] | None:
    block = (content or {}).get(key)
    return cast('dict[str, Any]', block) if isinstance(block, dict) else None


def _without(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix('module.').removeprefix(prefix): value
        for name, value in state.items()
        if not name.endswith('.mask')
    }


def _unet_or_bnn(state: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    is_bnn = 'output_block.0.weight' in state
    for name, value in state.items():
        match = re.fullmatch(r'(encode|decode)_block_(\d)\.(.+)', name)
        if match:
            side, number, rest = match.groups()
            # the decoder counts down to the finest level
            renamed[f'trunk.{side}.{int(number) - 1 if side == "encode" else 5 - int(number)}.{rest}'] = value
        elif name.startswith('output_block.4.'):
            copy = state.get('output_conv.' + name.rsplit('.', 1)[1])  # the same layer under two names
            if copy is not None and not value.equal(copy):
                raise ValueError(f'{name} and its copy in output_conv differ')
            renamed['head.' + name.rsplit('.', 1)[1]] = value
        elif name.startswith('output_block.'):
            renamed['fuse.' + name.removeprefix('output_block.')] = value
        elif name.startswith('output_conv.'):
            if not is_bnn:
                renamed['head.' + name.removeprefix('output_conv.')] = value
        else:
            renamed[name] = value  # left for the caller to refuse by name
    return renamed


def _lan(state: dict[str, Tensor]) -> dict[str, Tensor]:
    head = max(int(match[1]) for match in map(_LAN_HEAD.fullmatch, state) if match)
    nested = f'conv.{head - 1}.'
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        new = name
        if name.startswith(f'conv.{head}.'):
            new = name.replace(f'conv.{head}.', 'head.')
        elif name.startswith(nested + 'tail.'):
            new = name.replace(nested, '')
        elif name.startswith(nested + 'body.'):
            new = name.replace(nested + 'body.', 'blocks.')
            for theirs, ours in (
                ('conv1', 'body.0'),
                ('conv2', 'body.2'),
                ('cuca.conv_du.0', 'gate.1'),
                ('cuca.conv_du.2', 'gate.3'),
            ):
                new = new.replace(f'.{theirs}.', f'.{ours}.')
        elif name.startswith('conv.'):
            new = name.replace('conv.', 'stem.', 1)
        renamed[new] = value
    return renamed


def _rrdbnet(state: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        layer, _, rest = name.partition('.')
        match = _ESRGAN_BLOCK.fullmatch(name)
        new = f'body.{match[1]}.rdb{match[2]}.{match[3]}' if match else f'{_ESRGAN_LAYERS.get(layer, layer)}.{rest}'
        renamed[new] = value
    return renamed


def infer_network_options(state: Mapping[str, Tensor]) -> dict[str, object] | None:
    """Option block of the network that a state dict (under this package's names) belongs to; None if there is none.

    BasicSR's ``RRDBNet`` is recognised too, for messages: a file alone does not have it built.
    """
    try:
        return _infer_network_options(state)
    except (KeyError, ValueError, IndexError, ZeroDivisionError):  # the names of this package, other shapes
        return None


def _infer_network_options(state: Mapping[str, Tensor]) -> dict[str, object] | None:
    if 'trunk.encode.0.0.weight' in state and 'head.weight' in state:
        dim, num_in_ch = state['trunk.encode.0.0.weight'].shape[:2]
        kind = 'BNN' if 'fuse.0.weight' in state else 'DenoisingUNet'
    elif 'stem.0.weight' in state and 'head.weight' in state:
        dim, num_in_ch = state['stem.0.weight'].shape[:2]
        kind = 'LAN'
    elif 'branch1.body.0.weight' in state and 'tail.6.weight' in state:
        dim, num_in_ch = state['head.0.weight'].shape[:2]
        return {
            'type': 'DBSNl',
            'num_in_ch': num_in_ch,
            'num_out_ch': state['tail.6.weight'].shape[0],
            'dim': dim,
            'num_module': sum(bool(_DILATED.fullmatch(name)) for name in state),
        }
    elif 'body.0.rdb1.conv1.weight' in state and 'conv_hr.weight' in state:
        return _rrdbnet_options(state)
    else:
        return None
    block: dict[str, object] = {
        'type': kind,
        'num_in_ch': num_in_ch,
        'num_out_ch': state['head.weight'].shape[0],
        'dim': dim,
    }
    if kind == 'DenoisingUNet' and 'residual' in state:
        block['residual'] = True
    if kind == 'LAN':
        block['receptive_size'] = 2 * sum(name.startswith('stem.') and name.endswith('.weight') for name in state) - 1
        block['num_block'] = len({name.split('.')[1] for name in state if name.startswith('blocks.')})
        squeeze = state.get('blocks.0.gate.1.weight')
        block['channel_attention'] = squeeze is not None
        if squeeze is not None and len(squeeze) != max(dim // _REDUCTION, 1):
            block['reduction'] = dim // max(len(squeeze), 1)
    return block


def _rrdbnet_options(state: Mapping[str, Tensor]) -> dict[str, object]:
    num_feat, shuffled_in_ch = state['conv_first.weight'].shape[:2]
    num_out_ch = state['conv_last.weight'].shape[0]
    # the number of input channels is not in the file: an equal number of output channels is assumed
    scale = _RRDB_SCALES.get(shuffled_in_ch // num_out_ch, 4) if shuffled_in_ch % num_out_ch == 0 else 4
    return {
        'type': 'RRDBNet',
        'num_in_ch': shuffled_in_ch * scale**2 // 16,
        'num_out_ch': num_out_ch,
        'scale': scale,
        'num_feat': num_feat,
        'num_block': len({name.split('.')[1] for name in state if name.startswith('body.')}),
        'num_grow_ch': state['body.0.rdb1.conv1.weight'].shape[0],
    }


def describe_state(state: Mapping[str, Tensor]) -> str:
    """The network that a state dict belongs to, for messages."""
    block = infer_network_options(state)
    if block is None:
        return f'another network ({len(state)} tensors: {", ".join(list(state)[:3])}, ...)'
    return f'{block["type"]}({", ".join(f"{key}={value}" for key, value in block.items() if key != "type")})'
