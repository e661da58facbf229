"""AP-BSN: Self-Supervised Denoising for Real-World Images via Asymmetric PD and Blind-Spot Network.

Lee et al., CVPR 2022, arXiv 2203.11799. Written from its description. Licence: Apache-2.0.
"""

from __future__ import annotations

from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor

from basicsr_sassid.inference.subsampled import InferenceConfig
from basicsr_sassid.models.subsampled_model import SubsampledModel
from basicsr_sassid.ops.subsampling import pd_forward
from basicsr_sassid.training.schema import APBSNTrainOptions


@MODEL_REGISTRY.register()
class APBSNModel(SubsampledModel):
    """A blind-spot network is trained on sub-images whose pixels are ``train.pd_a`` apart, where the noise is almost
    white, and applied to those ``inference.pd_b`` = 2 apart, which keep more detail; then R3.
    """

    train_schema = APBSNTrainOptions
    default_inference = InferenceConfig(pd_b=2, pd_pad=2, refinement='r3', per_channel=True)
    shared_keys = ('pd_pad',)
    options: APBSNTrainOptions

    def training_loss(self, lq: Tensor) -> Tensor:
        """L1 between the prediction and the noisy image, (N, C, H, W) in [0, img_range]."""
        with self.autocast():
            prediction = pd_forward(self.net, lq, self.options.pd_a, self.options.pd_pad)
        return self.criterion(prediction.float(), lq)
