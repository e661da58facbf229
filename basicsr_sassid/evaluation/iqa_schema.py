"""The typed options of an evaluation of no-reference metrics on images with opinion scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field

from basicsr_sassid.evaluation.schema import PathText
from basicsr_sassid.utils.errors import UserError
from basicsr_sassid.utils.names import FileName
from basicsr_sassid.utils.option_checks import check_finite
from basicsr_sassid.utils.schema import OptionBlock

_COLUMNS = ('file_column', 'score_column')


class ScoredDatasetOptions(OptionBlock):
    """``datasets.<name>`` beside ``metrics``: images with opinion scores.

    Attributes:
        images: folder; a name in ``scores`` is a path below it, or the name of one file in any of its folders.
        scores: ``.csv`` with a header; PIPAL's label folder or one of its ``.txt`` files; the folder ``Data`` of LIVE
            In the Wild, with ``AllMOS_release.mat`` and ``AllImages_release.mat``.
        file_column: column of the CSV with the names of the images.
        score_column: column of the CSV with the scores.
        better: direction of the scores; ``lower`` for differences such as DMOS.
        every: evaluate the first of so many images.
    """

    images: PathText
    scores: PathText
    file_column: str = 'file'
    score_column: str = 'MOS'
    better: Literal['higher', 'lower'] = 'higher'
    every: int = Field(1, ge=1, le=10**9)

    @property
    def names_columns(self) -> bool:
        """Whether the file of options names a column."""
        return any(key in self.model_fields_set for key in _COLUMNS)


class IQAMetricOptions(OptionBlock):
    """``metrics.<name>``: a no-reference metric of BasicSR's registry; the other keys are its arguments.

    Attributes:
        type: name in BasicSR's registry, such as ``calculate_niqe``, or ``calculate_pyiqa`` with the key ``metric``.
        better: direction of the metric: ``lower`` for NIQE, BRISQUE and others.
    """

    model_config = ConfigDict(extra='allow')
    type: str
    better: Literal['higher', 'lower'] = 'higher'

    def arguments(self) -> dict[str, Any]:
        """The keys of the metric itself."""
        return self.model_dump(exclude={'type', 'better'})


class IQAOptions(OptionBlock):
    """An evaluation file such as ``options/evaluation/iqa.yml``: ``metrics`` in place of ``methods``.

    Attributes:
        name: results land in ``results/benchmark/<name>``.
        datasets: name -> block of images with scores.
        metrics: name in the table -> block.
    """

    name: FileName
    datasets: dict[FileName, ScoredDatasetOptions]
    metrics: dict[str, IQAMetricOptions]


def is_iqa(opt: Mapping[str, Any]) -> bool:
    """Whether an evaluation file compares metrics with scores. Raises UserError if it has methods too."""
    if 'metrics' in opt and 'methods' in opt:
        raise UserError(
            'options: expected methods (denoisers on pairs of images) or metrics (on images with scores), got both: '
            'make two files of them'
        )
    return 'metrics' in opt


def parse_iqa(opt: Mapping[str, Any]) -> IQAOptions:
    """Check the options of a file with ``metrics``.

    Args:
        opt: plain dicts, of :func:`read_options`.

    Raises:
        UserError: names the key, what was found and what is allowed.
    """
    check_finite(opt)
    try:
        options = IQAOptions.parse(opt, 'options')
    except UserError as error:
        raise UserError(str(error).removeprefix('options.')) from error  # the path of the key, from the file's top
    for key, blocks in (('datasets', options.datasets), ('metrics', options.metrics)):
        if not blocks:
            raise UserError(f'{key}: expected one block or more, got none')
    return options
