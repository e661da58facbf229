"""AP-BSN: Self-Supervised Denoising for Real-World Images via Asymmetric PD and Blind-Spot Network.

Lee et al., CVPR 2022, arXiv 2203.11799. Written from its description. Licence: Apache-2.0.
"""
from __future__ import annotations

from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor

from basicsr_sassid._checks import check_number
from basicsr_sassid.archs.subsample_util import in_sub_images
from basicsr_sassid.models.sub_image_util import SubImageModel


@MODEL_REGISTRY.register()
class APBSNModel(SubImageModel):
    """A blind-spot network learns on sub-images whose pixels are ``train.stride`` apart, where noise is all but white,
    and is used on those 2 apart, where more of the detail is left; then random-replacing refinement (R3).

    Option key beside SubImageModel's, in ``train``: ``mosaic_pad`` (2, as released: the sub-images lie in one image
    with so many zeros around each; ``~``: they are images of a batch, and cannot see each other), which that of
    ``inference`` follows.
    """
    train_keys = (*SubImageModel.train_keys, 'mosaic_pad')
    shared_keys = ('mosaic_pad',)
    passes = {'stride': 2, 'mosaic_pad': 2, 'refine': 'replace', 'by_channel': True}

    @classmethod
    def check_options(cls, opt: dict) -> None:
        if opt['train'].get('mosaic_pad') is not None:
            check_number(opt['train']['mosaic_pad'], 0, 'train.mosaic_pad')
        super().check_options(opt)

    def sub_image_loss(self, lq: Tensor) -> Tensor:
        with self.autocast():
            answer = in_sub_images(self.net, lq, self.opt['train']['stride'], self.opt['train'].get('mosaic_pad', 2))
        return self.criterion(answer.float(), lq)
