"""SDAP: Random Sub-Samples Generation for Self-Supervised Real Image Denoising.

Pan et al., ICCV 2023, arXiv 2307.16825. Written from its description. Licence: Apache-2.0.
"""

from __future__ import annotations

from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor

from basicsr_sassid.inference.subsampled import InferenceConfig
from basicsr_sassid.models.subsampled_model import SubsampledModel
from basicsr_sassid.ops.subsampling import random_sub_images


@MODEL_REGISTRY.register()
class SDAPModel(SubsampledModel):
    """A blind-spot network is trained to predict, from one random sub-image, the next one of the same image: the
    difference between the two is a perturbation that keeps it from copying its input. All pd_a^2 sub-images form a
    cycle, whose losses are summed.

    ``inference.refinement: second_pass`` is the paper's "(E)".
    """

    default_inference = InferenceConfig(pd_b=2, refinement='second_pass')

    def training_loss(self, lq: Tensor) -> Tensor:
        """Sum of L1 over the cycle of sub-images, for (N, C, H, W) in [0, img_range]."""
        sub_images = random_sub_images(lq, self.options.pd_a)
        with self.autocast():
            prediction = self.net(sub_images.flatten(0, 1))
        return len(sub_images) * self.criterion(prediction.float(), sub_images.roll(-1, 0).flatten(0, 1))
