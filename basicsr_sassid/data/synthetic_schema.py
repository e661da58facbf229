"""The typed option block of SyntheticNoiseDataset, ``datasets.<phase>``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from basicsr_sassid.data.schema import PhotoOptions, RootPath
from basicsr_sassid.utils.errors import UserError
from basicsr_sassid.utils.schema import OptionBlock

_RANGES = {'sigma': (0, 255), 'photons': (1, 10**6)}  # keys that take a number or [low, high]
_KEYS = {'awgn': ('sigma',), 'camera': ('photons', 'read_noise', 'jpeg_quality')}


class NoiseOptions(OptionBlock):
    """Block ``noise`` of a SyntheticNoiseDataset.

    Attributes:
        type: ``awgn``: additive white Gaussian noise, not clipped; ``camera``: shot and read noise on a mosaic,
            developed and JPEG-compressed, 8 bits.
        sigma: of ``awgn``: standard deviation in 8-bit grey levels, 0 to 255, or ``[low, high]``: uniform, drawn for
            each sample. The default is the range of FFDNet (Zhang et al., IEEE TIP 2018).
        photons: of ``camera``: electrons of a saturated pixel, 1 to 1,000,000; fewer are noisier. ``[low, high]``:
            log-uniform, drawn for each sample, so that each doubling of the exposure is as frequent.
        read_noise: of ``camera``: standard deviation, 0 to 1000 electrons.
        jpeg_quality: of ``camera``: 1 to 100; ``~`` leaves JPEG out.
    """

    type: Literal['awgn', 'camera'] = 'awgn'
    sigma: float | list[float] = [0, 75]
    photons: float | list[float] = 150.0
    read_noise: float = Field(default=3.0, ge=0, le=1000)
    jpeg_quality: int | None = Field(default=95, ge=1, le=100)

    @field_validator(*_RANGES, mode='plain')
    @classmethod
    def _number_or_range(cls, value: object, info: ValidationInfo) -> float | list[float]:
        least, most = _RANGES[str(info.field_name)]
        values = list(value) if isinstance(value, list | tuple) and len(value) == 2 else [value]
        numbers: list[float] = [item for item in values if isinstance(item, int | float) and not isinstance(item, bool)]
        if len(numbers) < len(values) or not all(least <= item <= most for item in numbers) or numbers[0] > numbers[-1]:
            raise ValueError(
                f'expected a number from {least} to {most}, or [low, high] of such numbers with low <= high, '
                f'got {value!r}'
            )
        return numbers if len(numbers) == 2 else numbers[0]

    @model_validator(mode='after')
    def _has_no_key_of_the_other_type(self) -> NoiseOptions:
        for kind, keys in _KEYS.items():
            for key in keys:
                if kind != self.type and key in self.model_fields_set:
                    raise ValueError(f'{key} is a key of type: {kind}, got type: {self.type}. Leave {key} out.')
        return self


class SyntheticNoiseOptions(PhotoOptions):
    """Block of a SyntheticNoiseDataset.

    Attributes:
        dataroot_gt: folder of clean images, searched below, or ``*.lmdb``.
        noise: what is added; in the phases ``val`` and ``test`` its ``sigma`` or ``photons`` is one number.
        noise_map: the noisy image has a fourth channel, sigma / 255, as FFDNet expects it; with ``awgn`` only.
        seed: of the noise in the phases ``val`` and ``test``, 0 to 2^32 - 1; in phase ``train`` the training's seed is
            used.
    """

    renamed_keys: ClassVar[Mapping[str, str]] = {'gt_size': 'patch_size'}
    dataroot_gt: RootPath
    noise: NoiseOptions = NoiseOptions()
    noise_map: bool = False
    seed: int = Field(default=0, ge=0, lt=2**32)

    @field_validator('noise_map')
    @classmethod
    def _has_one_sigma(cls, value: bool, info: ValidationInfo) -> bool:
        noise = info.data.get('noise')
        if value and noise is not None and noise.type != 'awgn':
            raise ValueError(
                f'expected false with noise.type: {noise.type}, whose sigma varies with the brightness, got true'
            )
        return value

    def check_fixed_noise(self, where: str) -> None:
        """Raise UserError if the noise has a range: outside of phase ``train`` each image has one fixed noise."""
        key = _KEYS[self.noise.type][0]
        value = getattr(self.noise, key)
        if isinstance(value, list):
            default = '' if key in self.noise.model_fields_set else ', the default'
            raise UserError(
                f'{where}.noise.{key}: expected one number in phase {self.phase}, so that results can be compared, '
                f'got {value}{default}'
            )
