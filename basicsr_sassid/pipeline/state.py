"""RunState: what a run has found and done so far, saved as JSON after every step."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

from pydantic import TypeAdapter

from basicsr_sassid.io.atomic import write_json
from basicsr_sassid.io.checkpoint import check_format
from basicsr_sassid.noise.model import NoiseModel
from basicsr_sassid.pipeline.diagnostics import Finding
from basicsr_sassid.training.blind_sizes import BlindSizeChoice
from basicsr_sassid.training.budget import Plan
from basicsr_sassid.utils.errors import UserError

FORMAT = 2  # format 1 has no such key
T = TypeVar('T')
# names of format 1 -> names now
_OLD_RISKS = {'first': 'classical', 'second': 'student', 'mixture': 'blend'}
_OLD_TIMINGS = {'judging': 'blending'}


@dataclasses.dataclass
class RunState:
    """State of a run of `sassid clean`.

    Attributes:
        photos: number of readable photographs.
        megapixels: of all of them.
        noise: of all of them; None before it is measured, or where nothing can be measured.
        groups: lines that describe photographs of unlike noise; empty where all are alike.
        plan: lengths of the training's stages; None without a training.
        training_seconds: for the training, from which the length of the student's stage is corrected before it starts;
            None: the plan is final.
        blind_size: of the chosen BNN in pixels; None without a training.
        bnn_risks: checkpoint of the BNN -> mean squared error on the held-out noisy images, grey levels squared.
        teacher: blind sizes and weights of the student's targets; None without a training, or where they are not
            known (of an earlier version).
        findings: of the training and of the blend.
        timings: step -> seconds.
        student_weight: weight of the student in the blend, 0 to 1; None before the blend.
        risks: see :class:`~basicsr_sassid.pipeline.blending.FittedBlend`.
        seconds: of all calls together.
    """

    photos: int = 0
    megapixels: float = 0.0
    noise: NoiseModel | None = None
    groups: list[str] = dataclasses.field(default_factory=list)
    plan: Plan | None = None
    training_seconds: float | None = None
    blind_size: int | None = None
    bnn_risks: dict[str, float] = dataclasses.field(default_factory=dict)
    teacher: BlindSizeChoice | None = None
    findings: list[Finding] = dataclasses.field(default_factory=list)
    timings: dict[str, float] = dataclasses.field(default_factory=dict)
    student_weight: float | None = None
    risks: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The state as values that JSON has; :meth:`from_dict` reads it."""
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            'format': FORMAT,
            **content,
            'noise': self.noise and self.noise.to_dict(),
            'plan': self.plan and self.plan.to_dict(),
            'teacher': self.teacher and self.teacher.to_dict(),
            'findings': [finding.to_dict() for finding in self.findings],
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], name: str = 'state.json') -> RunState:
        """Inverse of :meth:`to_dict`; reads format 1 too.

        Args:
            content: of the file.
            name: of the file, for the error.

        Raises:
            UserError: a newer format.
            ValueError, TypeError, KeyError, AttributeError: a value of another type, or none.
        """
        check_format(content.get('format'), FORMAT, name)
        values = dict(content) if 'format' in content else _from_format_1(content)
        types = {name: kind for name, kind in get_type_hints(cls).items() if name in values}
        noise, plan, findings = (values.get(name) for name in ('noise', 'plan', 'findings'))
        for name, kind in types.items():
            if name not in ('noise', 'plan', 'teacher', 'findings'):
                values[name] = TypeAdapter(kind).validate_python(values[name])
        return cls(
            **{
                **{name: values[name] for name in types},
                'noise': noise and NoiseModel.from_dict(noise),
                'plan': plan and _checked(Plan.from_dict(plan)),
                'teacher': parse_teacher(values.get('teacher')),
                'findings': [_checked(Finding.from_dict(finding)) for finding in findings or []],
            }
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RunState:
        """Read a state; a missing or damaged file gives an empty one. Raises UserError for a newer format."""
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding='utf-8')), str(path))
        except UserError:
            raise
        except (OSError, ValueError, TypeError, AttributeError, KeyError, IndexError):
            return cls()  # other JSON than to_dict writes

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state atomically. Raises UserError if it cannot be written."""
        write_json(self.to_dict(), path)


def parse_teacher(content: Any) -> BlindSizeChoice | None:
    """A choice of blind sizes from the values that JSON has; None where they are something else."""
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
        return BlindSizeChoice.from_dict(content)
    return None


def _checked(value: T) -> T:
    """A dataclass whose fields have their types. Raises ValueError."""
    return TypeAdapter(type(value)).validate_python(dataclasses.asdict(cast(Any, value)))


def _from_format_1(content: Mapping[str, Any]) -> dict[str, Any]:
    values = {
        **content,
        'risks': {_OLD_RISKS.get(name, name): risk for name, risk in content.get('risks', {}).items()},
        'timings': {_OLD_TIMINGS.get(step, step): seconds for step, seconds in content.get('timings', {}).items()},
    }
    if 'share' in content:
        values['student_weight'] = content['share']
    return values
