"""One method on one dataset: every evaluated image is kept, so that nothing is computed twice."""

from __future__ import annotations

import contextlib
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from basicsr_sassid.data.prepare.writer import key_of
from basicsr_sassid.evaluation.context import MethodContext
from basicsr_sassid.evaluation.cost import ResourceMeter, machine, network_cost
from basicsr_sassid.evaluation.crop_grid import crop_box
from basicsr_sassid.evaluation.methods import build_method
from basicsr_sassid.evaluation.pairs import Pair
from basicsr_sassid.evaluation.protocols import evaluate_image
from basicsr_sassid.evaluation.schema import MethodOptions
from basicsr_sassid.io.atomic import json_digest, make_folder, write_json
from basicsr_sassid.io.photo import Photo, write_photo
from basicsr_sassid.utils.errors import UserError

_WARM_UP = 64  # pixels a side
_SUMMARY = ('params', 'macs', 'bytes', 'note', 'preparation_seconds', 'machine')


class Cell:
    """A method on a dataset: a JSON file with the figures of each image, and crops for the crop grid.

    Args:
        folder: of the dataset's cells.
        name: of the method.
        settings: what the figures depend on, of JSON's types; other settings have another cell.
        shown: numbers of the images in the crop grid.
    """

    def __init__(self, folder: Path, name: str, settings: dict[str, Any], shown: set[int]) -> None:
        self.folder = folder / f'{key_of(name)}_{json_digest(settings, 12)}'
        self.path = self.folder.with_suffix('.json')
        self.shown = shown
        self.state: dict[str, Any] = {'images': {}}
        with contextlib.suppress(FileNotFoundError, ValueError):
            self.state = checked_state(json.loads(self.path.read_bytes()))
        if self.state.pop('error', None):  # it may have been mended
            self.state['images'] = {}

    def run(
        self, options: MethodOptions, pairs: list[Pair], context: MethodContext, protocols: list[str]
    ) -> dict[str, Any]:
        """Evaluate the images that are not evaluated yet.

        Returns:
            The mean of each protocol, the cost and the figures of each image; or ``error``, whatever went wrong in the
            method.
        """
        try:
            for number in self.shown:  # a crop that the grid wants now
                if not self._crop_file(number).exists():
                    self.state['images'].pop(str(number), None)
            if len(self.state['images']) < len(pairs):
                self._evaluate(options, pairs, context, protocols)
        except (Exception, SystemExit) as error:  # whatever it is, the other methods go on
            return {'error': self._keep_error(error)}
        return self._summary(pairs, protocols)

    def _evaluate(
        self, options: MethodOptions, pairs: list[Pair], context: MethodContext, protocols: list[str]
    ) -> None:
        started = time.perf_counter()
        method = build_method(options, context)
        self.state.update(note=method.note, machine=machine(context.device), **network_cost(method))
        self.state.setdefault('preparation_seconds', time.perf_counter() - started)
        corner = np.ascontiguousarray(pairs[0].noisy[:_WARM_UP, :_WARM_UP])
        with contextlib.suppress(Exception):  # too small for some methods, which have no warm-up then
            method.run(corner)
        meter = ResourceMeter(context.device)
        for number, pair in enumerate(tqdm(pairs, unit='image', file=sys.stderr, leave=False)):
            if str(number) in self.state['images']:
                continue
            image = pair.noisy.copy()
            with meter.measure():
                result = method.run(image)
            _check_result(result, pair)
            if number in self.shown:
                write_photo(Photo(np.ascontiguousarray(result[crop_box(pair.clean)])), self._crop_file(number))
            self.state['images'][str(number)] = {
                'name': pair.name,
                'seconds': meter.seconds,
                'pixels': pair.noisy.shape[0] * pair.noisy.shape[1],
                **{protocol: evaluate_image(result, pair.clean, protocol) for protocol in protocols},
            }
            if meter.bytes is not None:
                self.state['bytes'] = max(self.state.get('bytes', 0), meter.bytes)
            write_json(self.state, self.path)

    def _keep_error(self, error: BaseException) -> str:
        """The first line of an error, which the cell's file keeps; the traceback of an unexpected one is beside it."""
        text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if not isinstance(error, UserError):
            text = f'{type(error).__name__}: {text}'
            make_folder(self.folder)
            (self.folder / 'traceback.txt').write_text(traceback.format_exc())
        self.state['error'] = text
        write_json(self.state, self.path)
        tqdm.write(f'  failed: {text}', file=sys.stderr)
        return text

    def _crop_file(self, number: int) -> Path:
        return self.folder / f'{number}.png'

    def _summary(self, pairs: list[Pair], protocols: list[str]) -> dict[str, Any]:
        images = list(self.state['images'].values())
        seconds = sum(image['seconds'] for image in images)
        return {
            **{protocol: float(np.mean([image[protocol] for image in images])) for protocol in protocols},
            **{key: self.state[key] for key in _SUMMARY if key in self.state},
            'megapixels_per_second': sum(image['pixels'] for image in images) / 1e6 / max(seconds, 1e-9),
            'images': {image['name']: {protocol: image[protocol] for protocol in protocols} for image in images},
            'crops': {pairs[number].name: str(self._crop_file(number)) for number in sorted(self.shown)},
        }


def checked_state(content: Any) -> dict[str, Any]:
    """The content of a cell's file. Raises ValueError if it is no cell's: then the cell is evaluated anew."""
    images = content.get('images') if isinstance(content, dict) else None
    if not isinstance(images, dict) or not all(isinstance(image, dict) for image in images.values()):
        raise ValueError('no cell')
    return content


def _check_result(result: np.ndarray, pair: Pair) -> None:
    if result.shape != pair.noisy.shape or result.dtype != np.uint8:
        raise UserError(
            f'{pair.name}: expected a result of {pair.noisy.shape} uint8, got {result.shape} {result.dtype}'
        )
