"""The typed block ``train.degradation_opt``: Real-ESRGAN's synthesis of low-quality images."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from basicsr_sassid.utils.schema import OptionBlock

CROP = 400  # pixels a side of what RealESRGANDataset gives


def _rising(pair: list[float]) -> list[float]:
    if pair[0] > pair[1]:
        raise ValueError(f'expected the smaller number first, got {pair}')
    return pair


def _around_one(pair: list[float]) -> list[float]:
    if not pair[0] <= 1 <= pair[1]:
        raise ValueError(f'expected a number up to 1 and one from 1, for reducing and enlarging, got {pair}')
    return pair


_Probability = Annotated[float, Field(ge=0, le=1)]
_Factor = Annotated[float, Field(ge=0.05, le=16)]  # below, crops are smaller than the blur kernels
_Quality = Annotated[float, Field(ge=1, le=99)]  # BasicSR's DiffJPEG divides by 0 at 100
_Strength = Annotated[float, Field(gt=0, le=255)]
_LENGTH, _RISING = Field(min_length=2, max_length=2), AfterValidator(_rising)
_Probabilities = Annotated[list[_Probability], Field(min_length=3, max_length=3)]
_Factors = Annotated[list[_Factor], _LENGTH, _RISING, AfterValidator(_around_one)]
_Qualities = Annotated[list[_Quality], _LENGTH, _RISING]
_Strengths = Annotated[list[_Strength], _LENGTH, _RISING]


class DegradationOptions(OptionBlock):
    """Block ``train.degradation_opt`` of RealWorldSFDModel.

    The keys are those by which BasicSR's RealESRGANModel degrades, at the top of its option files, with the values of
    Real-ESRGAN's (Wang et al., ICCVW 2021) as defaults. A key that ends in 2 is of the second degradation. The kernels
    of the blurs are options of RealESRGANDataset.

    Attributes:
        gt_size: side of the training crops in pixels, cut from the dataset's of 400.
        queue_size: pairs of the pool, from which batches of mixed degradations are drawn; a multiple of the batch.
        resize_prob, resize_prob2: probabilities of enlarging, reducing and keeping the size.
        resize_range, resize_range2: smallest and largest factor.
        gaussian_noise_prob, gaussian_noise_prob2: probability of Gaussian noise; Poisson noise otherwise.
        noise_range, noise_range2: sigma of Gaussian noise in grey levels.
        poisson_scale_range, poisson_scale_range2: scale of Poisson noise.
        gray_noise_prob, gray_noise_prob2: probability of noise that is equal in all channels.
        jpeg_range, jpeg_range2: JPEG quality, up to 99.
        second_blur_prob: probability of the second blur.
        l1_gt_usm, percep_gt_usm, gan_gt_usm: compare with sharpened images in ``pixel_opt``, in ``perceptual_opt``, in
            all discriminators. Where all are false, nothing is sharpened.
    """

    gt_size: int = Field(default=256, ge=1, le=CROP)
    queue_size: int = Field(default=180, ge=1, le=10**6)
    resize_prob: _Probabilities = [0.2, 0.7, 0.1]
    resize_range: _Factors = [0.15, 1.5]
    gaussian_noise_prob: _Probability = 0.5
    noise_range: _Strengths = [1, 30]
    poisson_scale_range: _Strengths = [0.05, 3]
    gray_noise_prob: _Probability = 0.4
    jpeg_range: _Qualities = [30, 95]
    second_blur_prob: _Probability = 0.8
    resize_prob2: _Probabilities = [0.3, 0.4, 0.3]
    resize_range2: _Factors = [0.3, 1.2]
    gaussian_noise_prob2: _Probability = 0.5
    noise_range2: _Strengths = [1, 25]
    poisson_scale_range2: _Strengths = [0.05, 2.5]
    gray_noise_prob2: _Probability = 0.4
    jpeg_range2: _Qualities = [30, 95]
    l1_gt_usm: bool = True
    percep_gt_usm: bool = True
    gan_gt_usm: bool = False

    @model_validator(mode='after')
    def _check_probabilities(self) -> DegradationOptions:
        for name in ('resize_prob', 'resize_prob2'):
            if not sum(getattr(self, name)):
                raise ValueError(f'{name}: expected a probability above 0 among the three')
        return self
