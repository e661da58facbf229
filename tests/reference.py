"""Reference implementation, written straight from the paper with the authors' names and layout.

Pad, convolve, crop; standard deviation from all windows; alpha piece by piece.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def official_unet_shapes(dim: int = 48, bnn: bool = False) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the authors' BNN.pth and UNet.pth."""
    shapes = {'encode_block_1.0': (dim, 3, 3, 3), 'encode_block_1.2': (dim, dim, 3, 3)}
    shapes |= {f'encode_block_{i}.0': (dim, dim, 3, 3) for i in range(2, 7)}
    shapes |= {'decode_block_5.0': (2 * dim, 2 * dim, 3, 3), 'decode_block_1.0': (2 * dim, 2 * dim + 3, 3, 3)}
    shapes |= {f'decode_block_{i}.0': (2 * dim, 3 * dim, 3, 3) for i in (4, 3, 2)}
    shapes |= {f'decode_block_{i}.2': (2 * dim, 2 * dim, 3, 3) for i in range(1, 6)}
    if bnn:
        shapes |= {
            'output_block.0': (8 * dim, 8 * dim, 1, 1),
            'output_block.2': (2 * dim, 8 * dim, 1, 1),
            'output_block.4': (3, 2 * dim, 1, 1),
        }
    return shapes | {'output_conv': (3, 2 * dim, 1, 1)}


def official_lan_shapes(receptive_size: int = 3, dim: int = 64) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the authors' LAN.pth."""
    layers = receptive_size // 2
    shapes = {'conv.0': (dim, 3, 1, 1)} | {f'conv.{2 + 2 * i}': (dim, dim, 3, 3) for i in range(layers)}
    nested = f'conv.{2 + 2 * layers}'
    for i in range(6):
        shapes |= {
            f'{nested}.body.{i}.conv1': (dim, dim, 1, 1),
            f'{nested}.body.{i}.conv2': (dim, dim, 1, 1),
            f'{nested}.body.{i}.cuca.conv_du.0': (dim // 16, dim, 1, 1),
            f'{nested}.body.{i}.cuca.conv_du.2': (dim, dim // 16, 1, 1),
        }
    return shapes | {f'{nested}.tail': (dim, dim, 1, 1), f'conv.{3 + 2 * layers}': (3, dim, 1, 1)}


def random_state(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Random weights and biases of these shapes; the two copies of the BNN's last layer are equal."""
    state = {}
    for name, shape in shapes.items():
        fan_in = shape[1] * shape[2] * shape[3]
        state[name + '.weight'] = torch.randn(shape, dtype=dtype) * (2 / fan_in) ** 0.5
        state[name + '.bias'] = torch.randn(shape[0], dtype=dtype)
    if 'output_block.4.weight' in state:
        for kind in ('weight', 'bias'):
            state[f'output_conv.{kind}'] = state[f'output_block.4.{kind}']
    return state


def _conv(state, name, x, half_plane):
    weight, bias = state[name + '.weight'], state[name + '.bias']
    if not half_plane:
        return F.leaky_relu(F.conv2d(x, weight, bias, padding=1), 0.1)
    height = x.shape[2]
    x = F.pad(x, (0, 0, 2, 0))  # two rows on top, zeros all round, then drop what lies below
    return F.leaky_relu(F.conv2d(x, weight, bias, padding=1)[:, :, 1 : 1 + height], 0.1)


def _shift(x, rows):
    return torch.cat((torch.zeros_like(x[:, :, :rows]), x[:, :, :-rows]), dim=2)


def _trunk(state, x, half_plane):
    skips = [x]
    for level in range(1, 6):
        for layer in ('0', '2') if level == 1 else ('0',):
            x = _conv(state, f'encode_block_{level}.{layer}', x, half_plane)
        x = F.max_pool2d(_shift(x, 1) if half_plane else x, 2)
        skips.append(x)
    x = _conv(state, 'encode_block_6.0', skips.pop(), half_plane)
    for level in range(5, 0, -1):
        x = torch.cat((F.interpolate(x, scale_factor=2), skips.pop()), dim=1)
        for layer in ('0', '2'):
            x = _conv(state, f'decode_block_{level}.{layer}', x, half_plane)
    return x


def _one_by_one(state, name, x):
    return F.conv2d(x, state[name + '.weight'], state[name + '.bias'])


def unet(state, x):
    """Square images with sides that are multiples of 32."""
    return _one_by_one(state, 'output_conv', _trunk(state, x, False))


def bnn(state, x, blind_size=9):
    """Square images with sides that are multiples of 32."""
    views = torch.cat([torch.rot90(x, turns, (2, 3)) for turns in range(4)])
    views = _shift(_trunk(state, views, True), (blind_size + 1) // 2).chunk(4)
    x = torch.cat([torch.rot90(view, -turns, (2, 3)) for turns, view in enumerate(views)], dim=1)
    x = F.leaky_relu(_one_by_one(state, 'output_block.0', x), 0.1)
    return _one_by_one(state, 'output_block.4', F.leaky_relu(_one_by_one(state, 'output_block.2', x), 0.1))


def lan(state, x, receptive_size=3):
    """Any size."""
    layers = receptive_size // 2
    x = F.relu(_one_by_one(state, 'conv.0', x))
    for i in range(layers):
        name = f'conv.{2 + 2 * i}'
        x = F.relu(F.conv2d(x, state[name + '.weight'], state[name + '.bias'], padding=1))
    nested, y = f'conv.{2 + 2 * layers}', x
    for i in range(6):
        body = f'{nested}.body.{i}'
        z = _one_by_one(state, f'{body}.conv2', F.relu(_one_by_one(state, f'{body}.conv1', y)))
        gate = F.relu(_one_by_one(state, f'{body}.cuca.conv_du.0', z.mean(dim=(2, 3), keepdim=True)))
        y = y + z * torch.sigmoid(_one_by_one(state, f'{body}.cuca.conv_du.2', gate))
    return _one_by_one(state, f'conv.{3 + 2 * layers}', x + _one_by_one(state, f'{nested}.tail', y))


def local_std(x, window=7):
    """Population standard deviation over each window of the channels' mean."""
    radius = window // 2
    grey = F.pad(x.mean(dim=1, keepdim=True), (radius,) * 4, mode='reflect')
    windows = F.unfold(grey, window).view(x.shape[0], window * window, *x.shape[2:])
    return windows.std(dim=1, correction=0, keepdim=True)


def alpha(std, lower=1.0, upper=5.0):
    """Eq. 3."""
    result = torch.full_like(std, 0.5)
    result[std < lower] = torch.sigmoid(std[std < lower] - lower)
    result[std > upper] = torch.sigmoid(std[std > upper] - upper)
    return result
