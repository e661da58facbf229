"""Checks of SFDModel's options that need more than one block, or the semantic network. All raise UserError."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn

from basicsr_sassid.losses.prompt_pair import LearnablePromptPair
from basicsr_sassid.losses.semantic_backbones import RANDOM
from basicsr_sassid.losses.semantic_pair import SemanticPair
from basicsr_sassid.training.sfd_schema import SFDOptions
from basicsr_sassid.utils.errors import UserError
from basicsr_sassid.utils.option_checks import check_number, check_range, check_registered

LOSSES = ('pixel_opt', 'perceptual_opt', 'gan_opt')
_NETWORKS = ('g', 'd', 'feature_d', 'prompt')
TRAIN_KEYS = (
    *('total_iter', 'warmup_iter', 'ema_decay', 'net_d_iters', 'net_d_init_iters', 'sfd_opt', 'scheduler', *LOSSES),
    *(f'{key}_{name}' for key in ('optim', 'scheduler') for name in _NETWORKS),
)
_SWITCHES = {'d': 'train.gan_opt', 'feature_d': 'train.sfd_opt.feature_weight', 'prompt': 'train.sfd_opt.text_weight'}
_UNET_STEP = 8  # of the three poolings of BasicSR's U-Net discriminator
_BLOCK_FEATURES = 'train.sfd_opt.features'


def check_parts(opt: Mapping[str, Any], parts: Mapping[str, bool]) -> None:
    """Refuse a network beside the generator without its blocks, losses that are not registered, and a run without any.

    Args:
        opt: the run's options.
        parts: network beside the generator -> whether it is trained.
    """
    train = opt['train']
    for name, is_on in parts.items():
        for key, block in ((f'network_{name}', opt), (f'train.optim_{name}', train)):
            if is_on and not block.get(key.removeprefix('train.')):
                raise UserError(f'{key}: {_SWITCHES[name]} needs this block. Add it, or switch {_SWITCHES[name]} off.')
    if not any(parts.values()) and not any(train.get(key) for key in LOSSES):
        raise UserError('train: every loss is off, there is nothing to train')
    for key in LOSSES:
        if train.get(key):
            check_registered(LOSS_REGISTRY, train[key], f'train.{key}')
    if parts['d']:
        _check_crops(opt)


def _check_crops(opt: Mapping[str, Any]) -> None:
    where, block = 'datasets.train.gt_size', opt['network_d']
    gt_size = opt['datasets']['train'].get('gt_size')
    if 'gt_size' in opt:  # RealWorldSFDModel's
        where, gt_size = 'train.degradation_opt.gt_size', opt['gt_size']
    is_unet = str(block.get('type')).startswith('UNetDiscriminatorSN')
    if is_unet and isinstance(gt_size, int) and gt_size % _UNET_STEP:
        raise UserError(f'{where}: {block["type"]} of network_d needs a multiple of {_UNET_STEP}, got {gt_size}')


def check_numbers(train: Mapping[str, Any]) -> None:
    """Refuse numbers of SRGANModel in block ``train`` that are out of their range."""
    check_range(train.get('ema_decay', 0), 'train.ema_decay', least=0, below=1)
    check_number(train.get('net_d_iters', 1), 1, 'train.net_d_iters')
    check_number(train.get('net_d_init_iters', 0), 0, 'train.net_d_init_iters')


def build_semantic_pair(options: SFDOptions, dist: bool) -> SemanticPair:
    """The frozen network, up to the last layer that is needed; errors name the options by their place in the file.

    Args:
        options: block ``train.sfd_opt``.
        dist: there are several processes.
    """
    features = options.features
    if dist and features.weights == RANDOM:
        raise UserError(f'{_BLOCK_FEATURES}.weights: random ones would differ between the processes; name a file')
    if not options.text_weight:
        features = features.model_copy(update={'final_layer': features.layer})
    try:
        return SemanticPair(**features.model_dump())
    except UserError as error:
        raise UserError(f'{_BLOCK_FEATURES}.{error}') from error


def check_prompt(net: nn.Module, features: SemanticPair, backbone: str) -> None:
    """Refuse prompts that need a text tower that the backbone lacks, or that do not fit into its texts."""
    if not isinstance(net, LearnablePromptPair):
        raise UserError(f'network_prompt.type: expected LearnablePromptPair, got {type(net).__name__}')
    if not net.num_context:
        return
    if features.text is None:
        raise UserError(
            f'network_prompt.num_context: {backbone} has no text tower, expected 0 (class vectors), got '
            f'{net.num_context}'
        )
    width, most = features.text.width, features.text.context_length - 2 - max(map(len, features.words))
    if net.prompts.shape[2] != width:
        raise UserError(
            f'network_prompt.width: expected {width}, of the text tower of {backbone}, got {net.prompts.shape[2]}'
        )
    if net.num_context > most:  # beside the start, the words, and the end
        raise UserError(
            f'network_prompt.num_context: expected at most {most}, for which a text of {backbone} has room, got '
            f'{net.num_context}'
        )


def check_features(
    opt: Mapping[str, Any], options: SFDOptions, pair: SemanticPair, features: tuple[Tensor, Tensor]
) -> None:
    """Refuse sizes of Feat-D and the prompts that are not those of the features.

    Args:
        opt: the run's options.
        options: block ``train.sfd_opt``.
        pair: the frozen network.
        features: its feature map, which Feat-D sees, and its final feature, which the prompts are compared with.
    """
    (middle, final), names = features, options.features
    if options.feature_weight:
        if middle.dim() != 4:
            raise UserError(
                f'{_BLOCK_FEATURES}.layer: expected a layer with a feature map (N, C, H, W), {names.layer} gives '
                f'{tuple(middle.shape)}'
            )
        _check_size(opt, 'network_feature_d', 'num_in_ch', middle.shape[1], f'the channels of {names.layer}')
    if options.text_weight:
        has_context = bool(opt['network_prompt'].get('num_context'))
        if has_context and pair.text is not None and pair.text.num_features != final.shape[1]:
            raise UserError(
                f'{_BLOCK_FEATURES}.final_layer: expected {pair.text.num_features} numbers, as the text features have, '
                f'{names.final_layer} gives {final.shape[1]}. Set final_layer: embedding.'
            )
        where = f'the length of {names.final_layer} for images of this size'
        _check_size(opt, 'network_prompt', 'num_features', final.shape[1], where)


def _check_size(opt: Mapping[str, Any], block: str, key: str, expected: int, what: str) -> None:
    size = opt[block].get(key, expected)  # another network may not have the key
    if size != expected:
        raise UserError(f'{block}.{key}: expected {expected}, {what}, got {size!r}')
