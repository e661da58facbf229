"""AP-BSN: Self-Supervised Denoising for Real-World Images via Asymmetric PD and Blind-Spot Network.

Lee et al., CVPR 2022, arXiv 2203.11799. Written from its description. Licence: Apache-2.0.
"""
from __future__ import annotations

from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor

from basicsr_sassid.archs.subsample_util import from_mosaic, shuffle_down, shuffle_up, to_mosaic
from basicsr_sassid.models.sub_image_util import SubImageModel


@MODEL_REGISTRY.register()
class APBSNModel(SubImageModel):
    """A blind-spot network learns on sub-images whose pixels are ``train.stride`` apart, where noise is all but white,
    and is used on those 2 apart, where more of the detail is left; then random-replacing refinement (R3).

    Option key beside SubImageModel's, in ``train``: ``mosaic_pad`` (2, as released: the sub-images lie in one image
    with so many zeros around each; ``~``: they are images of a batch, and cannot see each other).
    """
    train_keys = (*SubImageModel.train_keys, 'mosaic_pad')
    passes = {'stride': 2, 'refine': 'replace', 'by_channel': True}

    def training_loss(self, lq: Tensor) -> Tensor:
        stride, pad = self.opt['train']['stride'], self.opt['train'].get('mosaic_pad', 2)
        parts = shuffle_down(lq, stride)
        with self.autocast():
            if pad is None:
                answer = self.net(parts)
            else:
                answer = from_mosaic(self.net(to_mosaic(parts, stride, pad)), stride, pad)
        return self.criterion(shuffle_up(answer.float(), stride), lq)
