"""D2SM: deep semantic statistics matching (Mei, Patel, Huang, ECCV 2022, arXiv 2207.09302; eq. 1-3).

A reconstruction: written from the equations of the poster and its appendix; the paper's body could not be read. The
released code trains nothing, since its loss is computed from queues that hold no gradient. Here the features of the
current batch keep theirs. Licence: Apache-2.0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_sassid.losses.semantic_features import PRETRAINED, SemanticFeatures
from basicsr_sassid.utils.schema import OptionBlock

_OF_FEATURES = {'backbone', 'layer', 'weights', 'input_norm', 'patch_size', 'img_range'}  # options of the samples
_TINY = 1e-12  # least kernel value: opposite features have 0, whose logarithm is not finite


class D2SMOptions(OptionBlock):
    """Block of a D2SMLoss. The defaults are the paper's.

    Attributes:
        loss_weight: factor of the loss, above 0. The published weight 1 belongs to a loss without a gradient: tune it.
        direction: ``kl``: divergence of the restored distribution from the clean one, as printed; ``inverse_kl``: of
            the clean one from the restored one; ``jensen_shannon``: the mean of the divergences of both from their
            mean.
        exclude_self: leave each sample's similarity to itself out (eq. 1, 2).
        reduction: ``sum`` over samples and pairs (eq. 1); ``rows``: mean over the samples of the batch, each summed
            over its pairs; ``mean``: mean over all entries, as the released code.
        kernel: ``cosine``: (cosine + 1) / 2; ``gaussian``: exp(-squared distance / 2) of the normalised features.
        temperature: 0.0001 to 10,000; the kernel is raised to 1 / temperature. Features behind ReLUs have cosines near
            1 and an almost uniform kernel, whose differences a temperature of 0.01 to 0.1 brings out.
        queue_size: samples of a queue, this batch included, >= 3. A batch with as many or more is compared whole and
            has no history.
        patch_size: side in pixels, >= 1, of the patches that are the samples ("internal"). A side of the crop that is
            shorter is taken whole. None: every crop is one sample.
        stride: distance between patches in pixels, >= 1.
        backbone: ``vgg19`` or another classifier of torchvision, ``timm/NAME``, ``efficientnet-lite0``, ``clip/NAME``.
        layer: of the backbone; default: its last convolution, conv5_4 of VGG-19. See SemanticFeatures.
        weights: ``imagenet`` or ``pretrained``: the published ones; a file; or ``random``.
        input_norm: of the images: ``auto``, ``imagenet``, ``mean`` (as released), ``lite``, ``none``.
        img_range: value of white, above 0; 1 for BasicSR's images.
    """

    loss_weight: float = Field(default=1.0, gt=0, le=10**9)
    direction: Literal['kl', 'inverse_kl', 'jensen_shannon'] = 'kl'
    exclude_self: bool = True
    reduction: Literal['sum', 'rows', 'mean'] = 'sum'
    kernel: Literal['cosine', 'gaussian'] = 'cosine'
    temperature: float = Field(default=1.0, ge=1e-4, le=10**4)
    queue_size: int = Field(default=256, ge=3, le=10**6)
    patch_size: int | None = Field(default=224, ge=1, le=16384)
    stride: int = Field(default=56, ge=1, le=16384)
    backbone: str = 'vgg19'
    layer: str | None = None
    weights: str = PRETRAINED
    input_norm: str = 'auto'
    img_range: float = Field(default=1.0, gt=0, le=65535)


@LOSS_REGISTRY.register()
class D2SMLoss(nn.Module):
    r"""Divergence of the semantic statistics of restored images from those of clean ones.

    The similarities of each sample to all samples of its queue, normalised to a distribution (eq. 2), are compared
    between both queues (eq. 1), which hold this batch and the newest ones before it (eq. 3):

    .. math:: L = \sum_i \sum_{j \ne i} p'_{j|i} \log (p'_{j|i} / p_{j|i}),
        p_{j|i} = K(f_j, f_i) / \sum_{k \ne i} K(f_k, f_i)

    The sum over i runs over the samples of this batch, which alone have a gradient. Clean images have none. Each
    process of a distributed training has queues of its own. They start empty, and no state dict holds them.

    Args:
        options: keys of :class:`D2SMOptions`.

    Shape:
        restored, clean: (N, C, H, W) in [0, img_range], C = 1 or 3. All crops of a training have one size.

    Raises:
        UserError: an unknown option, a value out of range, see also SemanticFeatures.
        ValueError: in the forward pass, for images of different sizes, or of another size than before.
    """

    restored_queue: Tensor
    clean_queue: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = D2SMOptions.parse(options, 'D2SMLoss')
        self.features = SemanticFeatures(
            self.options.backbone, self.options.layer, self.options.weights, self.options.input_norm
        )
        self.register_buffer('restored_queue', torch.empty(0), persistent=False)
        self.register_buffer('clean_queue', torch.empty(0), persistent=False)

    @property
    def filled(self) -> int:
        """Samples in each queue."""
        return len(self.restored_queue)

    def forward(self, restored: Tensor, clean: Tensor) -> tuple[Tensor, None]:
        """(loss, None), a scalar: BasicSR's perceptual losses return a perceptual and a style term."""
        options = self.options
        if restored.shape != clean.shape:
            raise ValueError(
                f'D2SMLoss: expected images of one size, got {tuple(restored.shape)} and {tuple(clean.shape)}'
            )
        with torch.autocast(restored.device.type, enabled=False):
            current = self._normalised_features(restored)
            with torch.no_grad():
                target = self._normalised_features(clean)
            if self.filled and self.restored_queue.shape[1] != current.shape[1]:
                raise ValueError(
                    f'D2SMLoss: the queues hold features of length {self.restored_queue.shape[1]}, this batch has '
                    f'{current.shape[1]}. All crops of a training must have one size.'
                )
            log_p = self._log_similarities(target, self.clean_queue)
            log_q = self._log_similarities(current, self.restored_queue)
            loss = self._reduced(_DIVERGENCES[options.direction](log_q, log_p))
        if bool(torch.isfinite(current).all() & torch.isfinite(target).all()):  # one bad batch would stay for many
            self.restored_queue = self._enqueued(current.detach(), self.restored_queue)
            self.clean_queue = self._enqueued(target, self.clean_queue)
        return options.loss_weight * loss, None

    def queues(self) -> dict[str, Any]:
        """The samples of both queues, newest first, on the CPU, and the options that they depend on: what an exactly
        resumed training needs."""
        options = self.options.model_dump(include=_OF_FEATURES)
        return {'restored': self.restored_queue.cpu(), 'clean': self.clean_queue.cpu(), 'options': options}

    def load_queues(self, queues: Mapping[str, Any]) -> None:
        """Inverse of :meth:`queues`. Raises ValueError if they are of other options."""
        found, expected = queues['options'], self.options.model_dump(include=_OF_FEATURES)
        changed = [key for key in expected if found.get(key) != expected[key]]
        if changed:
            raise ValueError(f'they are of another {changed[0]}, {found.get(changed[0])!r}')
        device = self.restored_queue.device
        self.restored_queue, self.clean_queue = queues['restored'].to(device), queues['clean'].to(device)

    def _normalised_features(self, images: Tensor) -> Tensor:
        """(samples, D), float32, of length 1."""
        patches = extract_patches(images.float() / self.options.img_range, self.options.patch_size, self.options.stride)
        return F.normalize(self.features(patches).flatten(1))

    def _history(self, queue: Tensor, count: int) -> Tensor:
        """The newest samples of a queue for which a batch of ``count`` leaves room."""
        return queue[: max(self.options.queue_size - count, 0)]

    def _enqueued(self, batch: Tensor, queue: Tensor) -> Tensor:
        """Eq. 3."""
        history = self._history(queue, len(batch))
        batch = batch[: self.options.queue_size]
        return torch.cat([batch, history]) if len(history) else batch.clone()

    def _log_similarities(self, batch: Tensor, queue: Tensor) -> Tensor:
        """log p_{j|i} (eq. 2): row i is a sample of the batch, column j one of the batch or its queue."""
        history = self._history(queue, len(batch))
        cosine = batch @ batch.T
        if len(history):
            cosine = torch.cat([cosine, batch @ history.T], dim=1)
        # gaussian: -d^2 / 2 of vectors of length 1
        log_kernel = ((cosine + 1) / 2).clamp(min=_TINY).log() if self.options.kernel == 'cosine' else cosine - 1
        if self.options.exclude_self:
            others = ~torch.eye(*log_kernel.shape, dtype=torch.bool, device=log_kernel.device)
            log_kernel = log_kernel[others].view(len(batch), -1)
        return (log_kernel / self.options.temperature).log_softmax(dim=1)

    def _reduced(self, divergence: Tensor) -> Tensor:
        """Sum or mean of the entries (samples of the batch, pairs of each)."""
        entries = {'sum': 1, 'rows': divergence.shape[0], 'mean': divergence.numel()}
        return divergence.sum() / max(entries[self.options.reduction], 1)


def _kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    """Summands of KL(q || p)."""
    return log_q.exp() * (log_q - log_p)


def _jensen_shannon(log_q: Tensor, log_p: Tensor) -> Tensor:
    log_mean = torch.logaddexp(log_q, log_p) - math.log(2)
    return (_kl(log_q, log_mean) + _kl(log_p, log_mean)) / 2


_DIVERGENCES = {  # of the restored distribution q and the clean one p
    'kl': _kl,
    'inverse_kl': lambda log_q, log_p: _kl(log_p, log_q),
    'jensen_shannon': _jensen_shannon,
}


def extract_patches(images: Tensor, side: int | None, stride: int) -> Tensor:
    """All patches of a regular grid; an image that is shorter than the patch gives patches that short.

    Args:
        images: (N, C, H, W).
        side: of a patch in pixels; None: whole images.
        stride: distance between patches in pixels. Pixels behind the last patch of a row or column are in none.

    Returns:
        (N * patches of an image, C, h, w).
    """
    if side is None:
        return images
    h, w = (min(side, length) for length in images.shape[-2:])
    patches = images.unfold(2, h, stride).unfold(3, w, stride)
    return patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, images.shape[1], h, w)
