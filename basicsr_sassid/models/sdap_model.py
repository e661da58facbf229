"""SDAP: Random Sub-Samples Generation for Self-Supervised Real Image Denoising.

Pan et al., ICCV 2023, arXiv 2307.16825. Written from its description. Licence: Apache-2.0.
"""
from __future__ import annotations

from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor

from basicsr_sassid.archs.subsample_util import random_sub_images
from basicsr_sassid.models.sub_image_util import SubImageModel


@MODEL_REGISTRY.register()
class SDAPModel(SubImageModel):
    """A blind-spot network learns to predict, from one random sub-image, the next one of the same image: what differs
    between the two is a perturbation that keeps it from repeating its input. All stride^2 of them in a cycle, summed.

    ``inference.refine: again`` is the paper's "(E)": one more pass, on the result.
    """
    passes = {'stride': 2, 'refine': 'again'}

    def sub_image_loss(self, lq: Tensor) -> Tensor:
        parts = random_sub_images(lq, self.opt['train']['stride'])
        with self.autocast():
            answer = self.net(parts.flatten(0, 1))
        return len(parts) * self.criterion(answer.float(), parts.roll(-1, 0).flatten(0, 1))
