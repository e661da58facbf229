"""Inference of networks that were trained on sub-images or masked images: PD, masks, refinement."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_sassid.ops.padding import forward_padded
from basicsr_sassid.ops.subsampling import masked_inference, pd_forward, random_replacing_refinement
from basicsr_sassid.utils.blind_size import BlindSizeOption
from basicsr_sassid.utils.errors import UserError
from basicsr_sassid.utils.option_checks import argument_names
from basicsr_sassid.utils.schema import OptionBlock

_OLD_REFINEMENTS = {'again': 'second_pass', 'replace': 'r3'}
_OLD_KEYS = {
    'stride': 'pd_b',
    'parts': 'num_masks',
    'mosaic_pad': 'pd_pad',
    'refine': 'refinement',
    'share': 'r3_p',
    'times': 'r3_t',
    'by_channel': 'per_channel',
}


class InferenceConfig(OptionBlock):
    """How a network is applied to an image: option block ``inference``, also stored in ``net_*.pth``.

    Attributes:
        pd_b: PD stride of the first pass (AP-BSN's name); 1: the image itself.
        num_masks: number of masks that hide the pixels in turn (AMSNet); 0: no masks, for a blind-spot network.
        pd_pad: zeros around each sub-image, all of them in one image, and mirrored pixels around the image in R3, as
            released with AP-BSN; None: the sub-images are a batch.
        refinement: what follows at full size: ``none``; ``second_pass``: one more pass on the result (SDAP's "E");
            ``r3``: random-replacing refinement (AP-BSN).
        r3_p: probability that a pixel is replaced in R3.
        r3_t: number of R3's draws.
        per_channel: R3 draws each channel apart (AP-BSN), or all channels of a pixel together (AMSNet).
        multiple_of: sides that the network takes are multiples of it; 1 for all of this package.
        seed: of the draws; the same image gives the same result.
        blind_size: side, or height and width, of the BNN's blind neighbourhood in prediction, in pixels of what the
            network gets (with ``pd_b``: a sub-image), odd, at most 127; 0: nothing is hidden; None: as trained.
    """

    renamed_keys: ClassVar[Mapping[str, str]] = {
        **_OLD_KEYS,
        'refine': 'refinement, with the values none, second_pass (was again), r3 (was replace)',
    }

    pd_b: int = Field(default=1, ge=1, le=64)
    num_masks: int = Field(default=0, ge=0, le=256)
    pd_pad: int | None = Field(default=None, ge=0, le=256)
    refinement: Literal['none', 'second_pass', 'r3'] = 'none'
    r3_p: float = Field(default=0.16, ge=0, le=1)
    r3_t: int = Field(default=8, ge=1, le=1024)
    per_channel: bool = False
    multiple_of: int = Field(default=1, ge=1, le=4096)
    seed: int = Field(default=0, ge=0, lt=2**63)  # torch's
    blind_size: BlindSizeOption = None

    @field_validator('num_masks')
    @classmethod
    def _one_mask_hides_all(cls, value: int) -> int:
        if value == 1:
            raise ValueError('1 would hide the whole image; 2 or more, or 0 for a network that needs no mask')
        return value

    @model_serializer(mode='wrap')
    def _without_blind_size_as_trained(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # earlier versions read the files, and teacher caches that they wrote keep their fingerprint
        content: dict[str, Any] = dump(self)
        return {key: value for key, value in content.items() if key != 'blind_size' or value is not None}

    def of_turned_image(self) -> InferenceConfig:
        """The same inference of an image that is turned by 90 degrees: height and width of the blind neighbourhood
        change places."""
        if not isinstance(self.blind_size, tuple):
            return self
        return self.model_copy(update={'blind_size': self.blind_size[::-1]})

    @classmethod
    def from_file(cls, content: Mapping[str, Any] | None, where: str) -> InferenceConfig:
        """The ``inference`` block of a weights file, also of the files before format 2, whose keys had other names."""
        block = {_OLD_KEYS.get(key, key): value for key, value in (content or {}).items()}
        if isinstance(block.get('refinement'), str):
            block['refinement'] = _OLD_REFINEMENTS.get(block['refinement'], block['refinement'])
        return cls.parse(block, f'{where}: inference')


SINGLE_PASS = InferenceConfig()


def check_blind_size(net: nn.Module, config: InferenceConfig, where: str, is_teacher: bool = False) -> None:
    """Check that a network predicts with the blind size of ``config``, if that sets one.

    Args:
        net: the network.
        config: its inference.
        where: name of the option, for messages.
        is_teacher: of a student's training, which turns patches by 90 degrees.

    Raises:
        UserError: the network's forward takes no blind size; height and width differ for a teacher.
    """
    if config.blind_size is not None and 'blind_size' not in argument_names(net.forward):
        raise UserError(
            f'{where}: expected a network whose blind neighbourhood can change after training (BNN, net_bnn_*.pth), '
            f'got {type(net).__name__}. Leave {where} out, or name such a network.'
        )
    if is_teacher and config != config.of_turned_image():
        raise UserError(
            f'{where}: expected one number for a teacher, whose patches are turned by 90 degrees, got '
            f'{config.blind_size}'
        )


def subsampled_inference(net: Callable[..., Tensor], x: Tensor, config: InferenceConfig = SINGLE_PASS) -> Tensor:
    """Denoise whole images with a network as ``config`` states: (N, C, H, W) -> (N, C, H, W), any H and W.

    Sums and assembled sub-images are float32, whatever the precision of the network.
    """
    if config == SINGLE_PASS:
        return net(x)
    if config.blind_size is not None:
        net = functools.partial(net, blind_size=config.blind_size)
    generator = torch.Generator(x.device).manual_seed(config.seed)

    def padded(y: Tensor) -> Tensor:
        return forward_padded(net, y, config.multiple_of).float()

    def predict(y: Tensor) -> Tensor:
        return masked_inference(padded, y, config.num_masks, generator) if config.num_masks else padded(y)

    def predict_mirrored(y: Tensor) -> Tensor:
        pad = config.pd_pad
        if not pad:
            return predict(y)
        mode = 'reflect' if min(y.shape[-2:]) > pad else 'replicate'  # smaller than that, there is no pixel to mirror
        return predict(F.pad(y, (pad,) * 4, mode=mode))[..., pad:-pad, pad:-pad]

    result = pd_forward(predict, x, config.pd_b, config.pd_pad)
    if config.refinement == 'second_pass':
        return predict(result)
    if config.refinement == 'r3':
        return random_replacing_refinement(
            predict_mirrored, x, result, config.r3_p, config.r3_t, config.per_channel, generator
        )
    return result
