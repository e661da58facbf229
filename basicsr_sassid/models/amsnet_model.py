"""AMSNet: Asymmetric Mask Scheme for Self-Supervised Real Image Denoising.

Liao et al., ECCV 2024, arXiv 2407.06514. Written from its description. Licence: Apache-2.0.
"""
from __future__ import annotations

from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor

from basicsr_sassid.archs.subsample_util import random_parts, shuffle_down
from basicsr_sassid.models.sub_image_util import SubImageModel


@MODEL_REGISTRY.register()
class AMSNetModel(SubImageModel):
    """Any network of the registry learns to fill in the pixels that a mask has hidden from it, on sub-images; in use
    each of ``inference.parts`` masks hides its part of the pixels, and together they are the image. Then R3.

    Option key beside SubImageModel's, in ``train``: ``parts`` (2: half of the pixels are hidden in training).
    """
    train_keys = (*SubImageModel.train_keys, 'parts')
    passes = {'stride': 2, 'parts': 2, 'refine': 'replace'}

    def training_loss(self, lq: Tensor) -> Tensor:
        images = shuffle_down(lq, self.opt['train']['stride'])
        hidden = random_parts(images, self.opt['train'].get('parts', 2))[0].expand_as(images)
        with self.autocast():
            answer = self.net(images * ~hidden)
        return self.criterion(answer.float()[hidden], images[hidden])
