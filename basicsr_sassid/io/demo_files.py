"""Which files in the folder of `sassid demo` a demo wrote: no others are overwritten or removed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

from basicsr_sassid.io.atomic import content_digest, write_json
from basicsr_sassid.utils.errors import UserError

RESULTS = ('table.json', 'comparison.png', 'first_look.png')


class DemoFiles:
    """The files of a demo: all but three in a folder of their own, so that nothing else in OUT is touched.

    Args:
        output: OUT. The folder in it is ``demo_files``, with a record of the digests of the results, which
            lie in OUT itself: ``table.json``, ``comparison.png`` and ``first_look.png``.
    """

    def __init__(self, output: Path) -> None:
        self.output, self.folder = output, output / 'demo_files'
        self.record = self.folder / 'record.json'

    def claim(self) -> None:
        """Make the folder. Raises UserError if it, or a result in OUT, is there and no demo wrote it."""
        if self.folder.exists() and not self.record.is_file():
            raise UserError(f'-o: {self.folder} exists, and no demo wrote it. Choose another folder.')
        written = self._written()
        for name in RESULTS:
            path = self.output / name
            if path.exists() and not (path.is_file() and written.get(name) == content_digest(path)):
                raise UserError(f'-o: {path} exists, and no demo wrote it. Choose another folder, or move it away.')
        write_json(written, self.record)

    def publish(self, name: str, write: Callable[[Path], None]) -> Path:
        """Write a result beside the record, note its digest, then move it to OUT. Returns its path."""
        partial = self.folder / name
        write(partial)
        write_json({**self._written(), name: content_digest(partial)}, self.record)
        os.replace(partial, self.output / name)
        return self.output / name

    def _written(self) -> dict[str, str]:
        try:
            content = json.loads(self.record.read_text(encoding='utf-8'))
        except (OSError, ValueError):  # none, or damaged: then nothing is known to be a demo's
            return {}
        return cast('dict[str, str]', content) if isinstance(content, dict) else {}
