"""What the training loop and the teacher cache expect of models and datasets."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np

from basicsr_sassid.data.teacher_cache import TeacherCache


@runtime_checkable
class StagedTraining(Protocol):
    """A model that trains its networks in stages."""

    @classmethod
    def validate_options(cls, opt: dict[str, Any]) -> dict[str, Any]:
        """Check all options; return the block ``train`` with its defaults. Raises UserError."""
        ...

    def check_dataset(self, dataset: Any) -> None:
        """Raise UserError if the options need more than this training set gives."""
        ...

    def stage_ends(self) -> list[int]:
        """The last iteration of each stage, counted from 1 over the whole run."""
        ...

    def prepare_stage(self, current_iter: int, dataset: Any) -> None:
        """Do the work that precedes the stage of ``current_iter``, such as building a teacher cache."""
        ...


@runtime_checkable
class WholeImageDataset(Protocol):
    """A training set that gives whole images beside its patches, so that teachers can be run once per image.

    Attributes:
        sizes: (height, width) of each image.
        patch_size: side of a patch in pixels.
        teachers: name -> cache; a sample then holds the same crop of each cached prediction.
        paths: key or file of each image.
    """

    sizes: list[tuple[int, int]]
    patch_size: int
    teachers: dict[str, TeacherCache]
    paths: list[str]

    def image(self, index: int) -> np.ndarray:
        """A whole image: (H, W, 3) float32 RGB in [0, 1]."""
        ...

    def content_key(self) -> dict[str, Any]:
        """What tells these images from others, of JSON's types."""
        ...

    def __len__(self) -> int: ...
