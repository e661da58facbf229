"""SFD for real-world super-resolution: low-quality images as Real-ESRGAN makes them (Wang et al., ICCVW 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from basicsr.models.realesrgan_model import RealESRGANModel
from basicsr.utils import DiffJPEG, USMSharp
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn

from basicsr_sassid.models.sfd_model import SFDModel
from basicsr_sassid.training.degradation_schema import CROP, DegradationOptions
from basicsr_sassid.training.process_state import ProcessStateMixin
from basicsr_sassid.utils.errors import UserError


class _JPEG(DiffJPEG):
    """BasicSR's DiffJPEG, whose output is not contiguous on a CPU, where its blurs then fail."""

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        return super().forward(x, quality).contiguous()


@MODEL_REGISTRY.register()
class RealWorldSFDModel(ProcessStateMixin, SFDModel, RealESRGANModel):
    """SFDModel whose training images BasicSR's RealESRGANModel degrades, on a GPU or a CPU.

    ``datasets.train`` is BasicSR's RealESRGANDataset, ``train.degradation_opt`` sets the degradations. Where no loss
    compares with sharpened images, the images that are degraded are not sharpened either, as BasicSR's are. The pool of
    training pairs of each process lies beside the training state (``<iter>_pool_<rank>.pth``, the newest two).
    """

    lq: Tensor
    gt: Tensor
    train_keys = (*SFDModel.train_keys, 'degradation_opt')
    state_name, state_text = 'pool', 'the pool of training pairs starts empty'

    def __init__(self, opt: dict[str, Any]) -> None:
        options = DegradationOptions.parse(opt.get('train', {}).get('degradation_opt') or {}, 'train.degradation_opt')
        if opt['is_train']:
            check_sizes(opt, options)
        # RealESRGANModel reads its keys at the top; its own __init__ needs a GPU
        super(RealESRGANModel, self).__init__({**opt, **options.model_dump()})
        self.jpeger = _JPEG(differentiable=False).to(self.device)
        is_sharpened = options.l1_gt_usm or options.percep_gt_usm or options.gan_gt_usm
        self.usm_sharpener = USMSharp().to(self.device) if is_sharpened else nn.Identity()
        self.queue_size = options.queue_size

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """RealESRGANModel's. Raises UserError for batches of another dataset."""
        if self.is_train and 'kernel1' not in data:
            raise UserError('datasets.train.type: RealWorldSFDModel needs RealESRGANDataset, which makes blur kernels')
        if self.is_train:
            super().feed_data(data)
        else:  # RealESRGANModel would sharpen the whole references, which nothing reads
            super(RealESRGANModel, self).feed_data(data)

    @torch.no_grad()
    def _dequeue_and_enqueue(self) -> None:
        """RealESRGANModel's, with the pool on the device."""
        if not hasattr(self, 'queue_lr'):
            self.queue_lr, self.queue_gt = (
                torch.zeros(self.queue_size, *images.shape[1:], device=self.device) for images in (self.lq, self.gt)
            )
            self.queue_ptr = 0
        super()._dequeue_and_enqueue()

    def reference(self, loss: Literal['l1', 'percep', 'gan']) -> Tensor:
        """Sharpened images where ``<loss>_gt_usm`` is set."""
        return self.gt_usm if self.opt[f'{loss}_gt_usm'] else self.gt

    def process_state(self) -> dict[str, Any]:
        """The pool, in 8 bits, which its images have."""
        if not hasattr(self, 'queue_lr'):
            return {}
        filled = slice(self.queue_ptr)
        return {name: (getattr(self, name)[filled] * 255).round().byte().cpu() for name in ('queue_lr', 'queue_gt')}

    def load_process_state(self, state: dict[str, Any]) -> None:
        """The pool again. Raises ValueError: it has another size."""
        if not state:
            return
        sides = {'queue_lr': self.opt['gt_size'] // self.opt['scale'], 'queue_gt': self.opt['gt_size']}
        count, batch = len(state['queue_lr']), self.opt['datasets']['train']['batch_size_per_gpu']
        for name, side in sides.items():
            if state[name].shape[2:] != (side, side) or count > self.queue_size or count % batch:
                raise ValueError('it was saved with another gt_size, scale, queue_size or batch_size_per_gpu')
        # divided where the images were: GPUs round the quotient otherwise
        images = {
            'queue_lr': state['queue_lr'].to(self.device).float() / 255,
            'queue_gt': state['queue_gt'].float() / 255,
        }
        for name, content in images.items():
            queue = torch.zeros(self.queue_size, *content.shape[1:], device=self.device)
            queue[:count] = content.to(self.device)
            setattr(self, name, queue)
        self.queue_ptr = count


def check_sizes(opt: Mapping[str, Any], options: DegradationOptions) -> None:
    """Raise UserError if the crops do not fit the scale, or the pool the batches.

    Args:
        opt: the training's options.
        options: block ``train.degradation_opt``.
    """
    scale, batch = opt['scale'], opt['datasets']['train']['batch_size_per_gpu']
    if CROP % scale:
        raise UserError(f'scale: RealESRGANDataset gives crops of {CROP} pixels, expected a divisor, got {scale}')
    if options.gt_size % scale:
        raise UserError(f'train.degradation_opt.gt_size: expected a multiple of scale ({scale}), got {options.gt_size}')
    if options.queue_size % batch:
        raise UserError(
            f'train.degradation_opt.queue_size: expected a multiple of batch_size_per_gpu ({batch}), got '
            f'{options.queue_size}'
        )
