"""D2SM (Mei, Patel, Huang, ECCV 2022): any restoration network, trained with D2SMLoss beside BasicSR's losses."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from basicsr.losses import build_loss
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor

from basicsr_sassid.losses.d2sm_loss import D2SMLoss
from basicsr_sassid.training.process_state import ProcessStateMixin
from basicsr_sassid.training.stock import StockModelMixin
from basicsr_sassid.utils.errors import UserError


@MODEL_REGISTRY.register()
class D2SMModel(ProcessStateMixin, StockModelMixin, SRModel):
    """BasicSR's SRModel with ``train.d2sm_opt`` beside ``pixel_opt`` and ``perceptual_opt``, and any ``network_g``.

    The batches are pairs, ``lq`` and ``gt``. The queues of each process lie beside the training state
    (``<iter>_queues_<rank>.pth``, the newest two), so that a resumed training ends as one that was never stopped; no
    network file holds them.
    """

    state_name, state_text = 'queues', 'the queues of D2SM start empty'

    def init_training_settings(self) -> None:
        """SRModel's, and the loss."""
        train = self.opt['train']
        block = train.get('d2sm_opt')
        if not block:
            raise UserError('train.d2sm_opt: D2SMModel needs this block; without it, use model_type: SRModel')
        if not isinstance(block, Mapping) or block.get('type', 'D2SMLoss') != 'D2SMLoss':
            raise UserError(f'train.d2sm_opt: expected a block of type D2SMLoss, got {block!r}')
        if not train.get('pixel_opt') and not train.get('perceptual_opt'):
            raise UserError('train: D2SMModel needs pixel_opt or perceptual_opt too: D2SM leaves the pixels open')
        try:
            loss = build_loss({'type': 'D2SMLoss', **block})
        except UserError as error:
            raise UserError(f'train.d2sm_opt: {error}') from error
        self.cri_d2sm: D2SMLoss = loss.to(self.device)
        super().init_training_settings()

    def optimize_parameters(self, current_iter: int) -> None:
        """One step on the sum of all losses."""
        if not hasattr(self, 'gt'):
            raise UserError(
                'datasets.train: D2SMModel needs pairs with clean images: PairedImageDataset, or SyntheticNoiseDataset'
            )
        self.optimizer_g.zero_grad()
        self.output = self.net_g(self.lq)
        losses = self.losses()
        sum(losses.values(), torch.zeros((), device=self.device)).backward()
        self.optimizer_g.step()
        self.log_dict = self.reduce_loss_dict(losses)
        if self.ema_decay > 0:
            self.model_ema(decay=self.ema_decay)

    def losses(self) -> OrderedDict[str, Tensor]:
        """The weighted losses of the current batch under BasicSR's names, and ``l_d2sm``."""
        losses: OrderedDict[str, Tensor | None] = OrderedDict()
        if self.cri_pix:
            losses['l_pix'] = self.cri_pix(self.output, self.gt)
        if self.cri_perceptual:
            losses['l_percep'], losses['l_style'] = self.cri_perceptual(self.output, self.gt)
        losses['l_d2sm'], _ = self.cri_d2sm(self.output, self.gt)
        return OrderedDict((name, value) for name, value in losses.items() if value is not None)

    def process_state(self) -> dict[str, Any]:
        """The queues."""
        return self.cri_d2sm.queues()

    def load_process_state(self, state: dict[str, Any]) -> None:
        """The queues again."""
        self.cri_d2sm.load_queues(state)
