"""RunState: what a run has found and done so far, saved as JSON after every step."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from basicsr_sassid.io.atomic import write_json
from basicsr_sassid.io.checkpoint import check_format
from basicsr_sassid.noise.model import NoiseModel
from basicsr_sassid.pipeline.diagnostics import Finding
from basicsr_sassid.training.budget import Plan

FORMAT = 2  # format 1 has no such key
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
        blind_size: of the chosen BNN in pixels; None without a training.
        bnn_risks: checkpoint of the BNN -> mean squared error on the held-out noisy images, grey levels squared.
        findings: of the training and of the blend.
        timings: step -> seconds.
        student_weight: weight of the student in the blend, 0 to 1; None before the blend.
        risks: see :class:`~basicsr_sassid.pipeline.blending.FittedBlend`.
        written_with: ``strength`` and ``chroma`` of the written photographs.
        written: the written files.
        seconds: of all calls together.
    """

    photos: int = 0
    megapixels: float = 0.0
    noise: NoiseModel | None = None
    groups: list[str] = dataclasses.field(default_factory=list)
    plan: Plan | None = None
    blind_size: int | None = None
    bnn_risks: dict[str, float] = dataclasses.field(default_factory=dict)
    findings: list[Finding] = dataclasses.field(default_factory=list)
    timings: dict[str, float] = dataclasses.field(default_factory=dict)
    student_weight: float | None = None
    risks: dict[str, float] = dataclasses.field(default_factory=dict)
    written_with: dict[str, float | None] = dataclasses.field(default_factory=dict)
    written: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The state as values that JSON has; :meth:`from_dict` reads it."""
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            'format': FORMAT,
            **content,
            'noise': self.noise and self.noise.to_dict(),
            'plan': self.plan and self.plan.to_dict(),
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
        """
        check_format(content.get('format'), FORMAT, name)
        values = dict(content) if 'format' in content else _from_format_1(content)
        values = {field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values}
        noise, plan = values.get('noise'), values.get('plan')
        return cls(
            **{
                **values,
                'noise': noise and NoiseModel.from_dict(noise),
                'plan': plan and Plan.from_dict(plan),
                'findings': [Finding.from_dict(finding) for finding in values.get('findings', [])],
            }
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RunState:
        """Read a state; a missing or damaged file gives an empty one. Raises UserError for a newer format."""
        content: object = None
        with contextlib.suppress(FileNotFoundError, ValueError):
            content = json.loads(Path(path).read_text(encoding='utf-8'))
        return cls.from_dict(content, str(path)) if isinstance(content, dict) else cls()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state atomically. Raises UserError if it cannot be written."""
        write_json(self.to_dict(), path)


def _from_format_1(content: Mapping[str, Any]) -> dict[str, Any]:
    values = {
        **content,
        'risks': {_OLD_RISKS.get(name, name): risk for name, risk in content.get('risks', {}).items()},
        'timings': {_OLD_TIMINGS.get(step, step): seconds for step, seconds in content.get('timings', {}).items()},
    }
    if 'share' in content:
        values['student_weight'] = content['share']
    return values
