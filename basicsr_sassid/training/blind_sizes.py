"""The blind sizes of a trained BNN's pseudo-targets, chosen from noisy images alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from basicsr.utils import get_root_logger
from torch import Tensor

from basicsr_sassid.noise.model import NoiseModel
from basicsr_sassid.training.schema import BlindSizesTrainOptions
from basicsr_sassid.training.target_weights import WINDOW, RiskWeights, TargetRisks, measure_risks
from basicsr_sassid.utils.blind_size import MAX_BLIND_SIZE, BlindSize, blind_sides, parse_blind_size
from basicsr_sassid.utils.errors import UserError

MOST_KEPT = 0.5  # of the noise: a prediction that keeps more copies its input
# (N, C, H, W), K sizes -> (N, K, C, H, W), in grey levels
PredictSizes = Callable[[Tensor, Sequence[BlindSize]], Tensor]
# a student of the smallest, the middle and the largest safe size is as good as one of all sizes, in half the time
# (docs/ablations.md)
_MOST_SIZES = 3


@dataclasses.dataclass(frozen=True)
class BlindSizeChoice:
    """Blind sizes of the teacher, and their weights.

    Attributes:
        sizes: from the smallest.
        dropped: blind size -> fraction of the noise that its prediction keeps, of those that copy their input.
        noise_kept: the same fraction of each of ``sizes``; None where it was not measured.
        weights: see :class:`RiskWeights`; None without ``train.teacher_weights: risk``.
    """

    sizes: list[BlindSize]
    dropped: dict[BlindSize, float] = dataclasses.field(default_factory=dict)
    noise_kept: list[float] | None = None
    weights: RiskWeights | None = None

    def describe(self) -> str:
        """One sentence for the log."""
        text = f'Blind sizes of the teacher: {", ".join(map(size_text, self.sizes))}'
        if self.dropped:
            kept = ', '.join(f'{size_text(size)} ({fraction:.0%})' for size, fraction in self.dropped.items())
            text += f'; dropped, since the prediction keeps too much of the noise: {kept}'
        return text

    def to_dict(self) -> dict[str, Any]:
        """The choice as values that JSON has, for the report of a run."""
        return {
            'sizes': [size_text(size) for size in self.sizes],
            'dropped': {size_text(size): fraction for size, fraction in self.dropped.items()},
            'noise_kept': self.noise_kept,
            'weights': self.weights and self.weights.to_dict(),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> BlindSizeChoice:
        """Inverse of :meth:`to_dict`. Raises ValueError, TypeError, KeyError or AttributeError for other content."""
        kept, weights = content['noise_kept'], content['weights']
        choice = cls(
            [parse_blind_size(text, 'sizes') for text in content['sizes']],
            {parse_blind_size(text, 'dropped'): float(fraction) for text, fraction in content['dropped'].items()},
            None if kept is None else list(map(float, kept)),
            None if weights is None else RiskWeights.from_dict(weights),
        )
        count = len(choice.sizes)
        num_kept = count if choice.noise_kept is None else len(choice.noise_kept)
        num_weights = count if choice.weights is None else choice.weights.table.shape[1]
        if not count or num_kept != count or num_weights != count:
            raise ValueError(f'{count} sizes, noise kept by {num_kept}, weights of {num_weights}')
        return choice


def size_text(size: BlindSize) -> str:
    """``'3'``, or height x width, ``'3x5'``."""
    return 'x'.join(map(str, size)) if isinstance(size, tuple) else str(size)


def turned(size: BlindSize) -> BlindSize:
    """The same neighbourhood in an image that is turned by 90 degrees."""
    return (size[1], size[0]) if isinstance(size, tuple) else size


def candidate_sizes(trained: int, sides: tuple[int, int] | None = None) -> list[BlindSize]:
    """0 and the odd sizes up to the trained one.

    Where the noise is correlated further along one direction, the other side is no larger than the correlation along
    it: more would hide pixels for nothing.

    Args:
        trained: blind size of the BNN in training.
        sides: height and width of the correlation in pixels, see ``NoiseModel.correlation_sides``; None: squares.
    """
    height, width = sides or (trained, trained)
    sizes: list[BlindSize] = [0]
    for size in range(1, min(trained, MAX_BLIND_SIZE) + 1, 2):
        pair = (min(size, height) if height < width else size, min(size, width) if width < height else size)
        sizes.append(size if pair[0] == pair[1] else pair)
    return sizes


def measure_choice(
    predict: PredictSizes,
    targets: PredictSizes,
    sizes: Sequence[BlindSize],
    options: BlindSizesTrainOptions,
    crops: Sequence[np.ndarray],
    noise: NoiseModel,
) -> BlindSizeChoice:
    """The blind sizes and weights of a trained BNN, as the options state.

    Args:
        predict: noisy images to the BNN's predictions.
        targets: noisy images to what the student is trained to match.
        sizes: candidates, from the smallest; with listed sizes these.
        options: ``teacher_blind_sizes`` and ``teacher_weights``.
        crops: noisy, (H, W, 3) float32 in [0, 1].
        noise: of the crops.
    """
    choice, risks = choose_sizes(predict, sizes, crops, noise)
    is_auto = options.teacher_blind_sizes == 'auto'
    choice = spread_sizes(choice) if is_auto else keep_sizes(choice, risks, sizes)
    if options.teacher_weights != 'risk':
        return choice
    risks = measure_risks(lambda noisy: targets(noisy, choice.sizes), crops, noise)
    return dataclasses.replace(choice, weights=risks.weights())


def choose_sizes(
    predict: PredictSizes, sizes: Sequence[BlindSize], crops: Sequence[np.ndarray], noise: NoiseModel
) -> tuple[BlindSizeChoice, TargetRisks]:
    """Drop the sizes whose prediction keeps the noise: identity mapping, detected from noisy images alone.

    The largest size stays: a BNN that copies its input with it has been trained with too small a blind neighbourhood.

    Args:
        predict: noisy images to the BNN's predictions.
        sizes: candidates, from the smallest.
        crops: noisy, (H, W, 3) float32 in [0, 1].
        noise: of the crops.

    Returns:
        The choice, without weights, and the risks of all candidates.
    """
    risks = measure_risks(lambda noisy: predict(noisy, sizes), crops, noise)
    is_safe = [kept <= MOST_KEPT or size == sizes[-1] for size, kept in zip(sizes, risks.noise_kept)]
    choice = BlindSizeChoice(
        [size for size, safe in zip(sizes, is_safe) if safe],
        {size: float(kept) for size, kept, safe in zip(sizes, risks.noise_kept, is_safe) if not safe},
        [float(kept) for kept, safe in zip(risks.noise_kept, is_safe) if safe],
    )
    return choice, risks


def spread_sizes(choice: BlindSizeChoice) -> BlindSizeChoice:
    """The smallest, the middle and the largest size of a choice, without weights."""
    count = len(choice.sizes)
    kept = sorted({0, count // 2, count - 1}) if count > _MOST_SIZES else range(count)
    return dataclasses.replace(
        choice,
        sizes=[choice.sizes[number] for number in kept],
        noise_kept=choice.noise_kept and [choice.noise_kept[number] for number in kept],
    )


def keep_sizes(choice: BlindSizeChoice, risks: TargetRisks, sizes: Sequence[BlindSize]) -> BlindSizeChoice:
    """All ``sizes`` of the options, without weights; those that :func:`choose_sizes` would drop are warned of."""
    for size, kept in choice.dropped.items():
        get_root_logger().warning(
            f'train.teacher_blind_sizes: with {size_text(size)} the BNN copies its input, it keeps {kept:.0%} of the '
            'noise. Leave it out, or set auto.'
        )
    return BlindSizeChoice(list(sizes), {}, risks.noise_kept.tolist())


def check_patch_size(patch_size: int | None, options: BlindSizesTrainOptions) -> None:
    """Raise UserError for a patch that a size hides as a whole, or that is too small for the weights."""
    if patch_size is None:
        return
    for size in () if options.teacher_blind_sizes == 'auto' else options.teacher_blind_sizes:
        if min(blind_sides(size)) >= 2 * patch_size - 1:
            raise UserError(
                f'train.teacher_blind_sizes: expected less than twice datasets.train.patch_size {patch_size}, got '
                f'{size_text(size)}: the whole patch would be hidden from each of its pixels'
            )
    if options.teacher_weights == 'risk' and patch_size <= WINDOW // 2:
        raise UserError(
            f'train.teacher_weights: risk needs a datasets.train.patch_size above {WINDOW // 2}, got {patch_size}'
        )
