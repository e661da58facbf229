"""A folder of noisy photographs in, denoised ones and a report out."""
from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from basicsr_sassid.data.prepare.folder import prepare_folder
from basicsr_sassid.inference.blend import BlendedDenoiser
from basicsr_sassid.inference.denoiser import Denoiser
from basicsr_sassid.inference.files import plan_outputs
from basicsr_sassid.inference.spectral import SpectralDenoiser
from basicsr_sassid.inference.sure import optimal_blend_weight
from basicsr_sassid.io.atomic import atomic_write, make_folder, save_torch
from basicsr_sassid.io.checkpoint import read_weights, state_dict_of, write_safetensors
from basicsr_sassid.io.foreign_formats import list_foreign
from basicsr_sassid.io.photo import EXTENSIONS, Photo, check_writable, read_photo, write_photo
from basicsr_sassid.noise.model import LARGEST_BLIND_SIZE
from basicsr_sassid.noise.survey import LITTLE, Survey, describe_groups, survey
from basicsr_sassid.pipeline.diagnostics import diagnose
from basicsr_sassid.pipeline.report import versions, write_report
from basicsr_sassid.pipeline.student import RATIO, STAGES, Training, base_options
from basicsr_sassid.training.budget import plan_training
from basicsr_sassid.training.runtime import silence
from basicsr_sassid.utils.device import choose_device
from basicsr_sassid.utils.errors import UserError, require_path
from basicsr_sassid.utils.option_checks import check_choice

EFFORTS = {'instant': 0., 'quick': 5., 'normal': 20., 'best': 90.}  # minutes of training
TRAINING_SIDE = 128  # pixels: what is smaller on a side can't be trained on
_WORK = '.sassid'  # folder below the output, from which a stopped run goes on
_MOST_MEGAPIXELS = 300  # learnt from: of more, photographs evenly spaced
_CROPS, _CROP = 8, 256  # what the guards and the mixture look at
_STUDENT = 'student.safetensors'


def clean_photos(photos: Sequence[str | os.PathLike], output: str | os.PathLike, effort: str = 'normal',
                 minutes: float | None = None, weights: str | os.PathLike | None = None,
                 save_weights: str | os.PathLike | None = None, device: str = 'auto', blind_size: int | str = 'auto',
                 strength: float = 1., chroma: float | None = None, seed: int = 0) -> dict[str, str]:
    """Denoise photographs, learning from them alone, and report on it in ``output/report.html``.

    Args:
        photos: image files and folders (searched below).
        output: folder. Names, sub-folders, formats, bit depth, alpha, ICC profile and EXIF are kept. A run that was
            stopped goes on when it is called with the same arguments.
        effort: ``instant`` (no training), ``quick``, ``normal`` or ``best``: 0, 5, 20 or 90 minutes of training.
        minutes: of training, in place of ``effort``.
        weights: a student of an earlier run: no training.
        save_weights: ``.safetensors`` or ``.pth`` to keep the student in.
        device: ``auto`` or torch's name of a device.
        blind_size: ``auto``: as the noise is measured; or an odd number of pixels.
        strength, chroma: 0 to 1, how much of the noise, and of its colour, is removed; ``chroma`` is by default as
            ``strength``.
        seed: of the training.

    Returns:
        The files that were left out, with the reason.

    Raises:
        UserError: nothing there, nothing to measure or to train on, almost no noise, an output that would overwrite an
            input, no space, a value out of its range.
    """
    started = time.time()
    minutes = EFFORTS[effort] if minutes is None and effort in EFFORTS else minutes
    _check(effort, minutes, blind_size, strength, chroma, seed)
    if save_weights:
        _check_saving(save_weights, bool(minutes), weights)
    silence()
    if weights:
        Denoiser(weights, device)  # before anything is written
    output = Path(output).expanduser()
    if output.suffix.lower() in EXTENSIONS and not output.is_dir():
        raise UserError(f'-o {output}: expected a folder')
    others = [given for given in photos if Path(given).expanduser().resolve() != output.resolve()]
    photos = others or photos  # PHOTOS/* names the output too, the second time
    targets = plan_outputs(photos, output)
    settings = {'minutes': 0. if weights else minutes, 'blind_size': blind_size, 'seed': seed,
                'device': str(choose_device(device)), 'weights': weights and _identity(weights)}
    work = _Work(output, list(targets), settings)
    found = work.survey(list(targets))
    foreign = {file: hint for given in photos if Path(given).is_dir() for file, hint in list_foreign(given).items()
               if output.resolve() not in Path(file).resolve().parents}
    failed = {**found.failed, **foreign}
    _say_survey(found, failed, blind_size, bool(weights))
    steps = _Steps(work, found, settings, targets)
    with steps:
        with work.timed('training'):
            student = steps.student(device, weights)
        with work.timed('judging'):
            mixture = steps.mixture(student, strength, chroma)
        with work.timed('denoising'):
            steps.write(mixture, {'strength': strength, 'chroma': chroma})
    failed.update(steps.failed)
    if save_weights:
        _keep(work, save_weights)
    done = {source: target for source, target in targets.items() if str(source) not in failed and target.exists()}
    work.state['seconds'] = work.state.get('seconds', 0) + time.time() - started
    work.save()
    report = write_report(output / 'report.html', done, work.state, work.folder, mixture, failed, _command())
    work.tidy()
    for file, reason in failed.items():
        print(f'left out: {file}: {reason}', file=sys.stderr)
    print(f'{_count(len(done), "photograph")} in {output}\nWhat was done: {report}')
    return failed


def fit_denoiser(photos: str | os.PathLike | Sequence[str | os.PathLike], minutes: float = EFFORTS['normal'],
             folder: str | os.PathLike | None = None, device: str = 'auto', blind_size: int | str = 'auto',
             seed: int = 0) -> Denoiser:
    """Train a student on noisy photographs alone.

    Args:
        photos: image files and folders (searched below).
        minutes: of training.
        folder: from which a training that was stopped goes on; the student stays there as ``student.safetensors``. By
            default a temporary one.
        device, blind_size, seed: see :func:`clean_photos`.

    Returns:
        The student: a function from noisy to denoised arrays.

    Raises:
        UserError: see :func:`clean_photos`.

    Example:
        >>> import skimage.data
        >>> from PIL import Image
        >>> rng = np.random.default_rng(0)
        >>> noisy = (skimage.data.rocket() + rng.normal(0, 15, (427, 640, 3))).clip(0, 255).astype(np.uint8)
        >>> folder = tempfile.mkdtemp()
        >>> Image.fromarray(noisy).save(f'{folder}/rocket.png')
        >>> denoise = fit_denoiser(folder, minutes=0.01)     # 20 for real
        1 photograph, 0.3 megapixels; noise of 1... grey levels, correlated over 1 pixel
        >>> denoise(noisy).shape
        (427, 640, 3)
    """
    photos = [photos] if isinstance(photos, (str, os.PathLike)) else list(photos)
    _check('normal', minutes, blind_size, 1., None, seed)
    with contextlib.nullcontext(folder) if folder else tempfile.TemporaryDirectory() as name:
        paths = list(plan_outputs(photos, Path(name) / 'unused'))
        settings = {'minutes': minutes, 'blind_size': blind_size, 'seed': seed, 'device': str(choose_device(device)),
                    'weights': None}
        work = _Work(Path(name), paths, settings)
        silence()
        found = work.survey(paths)
        _say_survey(found, found.failed, blind_size, False)
        with _Steps(work, found, settings, {}) as steps:
            student = steps.student(device)
        _copy(work.folder / _STUDENT, Path(name) / _STUDENT)
        work.tidy()
    return student


def _check(effort: str, minutes: float | None, blind_size: int | str, strength: float, chroma: float | None,
           seed: int) -> None:
    check_choice(effort, EFFORTS, '--effort')
    if minutes is not None and not 0 <= minutes < math.inf:
        raise UserError(f'--minutes: expected a number >= 0, got {minutes}')
    if blind_size != 'auto' and blind_size not in range(1, LARGEST_BLIND_SIZE + 1, 2):
        raise UserError(f'--blind-size: expected auto or an odd number from 1 to {LARGEST_BLIND_SIZE}, got '
                        f'{blind_size!r}')
    if seed < 0:
        raise UserError(f'--seed: expected a number >= 0, got {seed}')
    for name, value in (('--strength', strength), ('--chroma', chroma)):
        if value is not None and not 0 <= value <= 1:
            raise UserError(f'{name}: expected a number from 0 to 1, got {value}')


def _check_saving(target: str | os.PathLike, trains: bool, weights: str | os.PathLike | None) -> None:
    if Path(target).suffix not in ('.pth', '.safetensors'):
        raise UserError(f'--save-weights: expected a name that ends in .safetensors or .pth, got {target}')
    if weights or not trains:
        raise UserError('--save-weights: nothing is trained that could be kept. Leave it out, or give --minutes.')


def _identity(path: str | os.PathLike) -> tuple[str, int, int]:
    stat = require_path(path, '--weights').stat()
    return str(Path(path).expanduser().resolve()), stat.st_size, stat.st_mtime_ns


def _copy(source: Path, target: Path) -> None:
    with atomic_write(target) as partial:
        shutil.copyfile(source, partial)


class _Work:
    """The folder of a run, and what is known so far: kept whole at every instant."""

    def __init__(self, output: Path, paths: list[Path], settings: dict[str, Any]) -> None:
        stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
        key = hashlib.sha256(json.dumps([stats, settings], sort_keys=True).encode()).hexdigest()[:16]
        # other photographs or settings have another folder: going back to them loses nothing
        self.folder = make_folder(output.resolve() / _WORK / key)
        self.state: dict[str, Any] = {}
        with contextlib.suppress(FileNotFoundError, ValueError):
            self.state = json.loads((self.folder / 'state.json').read_text())
        self.save()

    def save(self) -> None:
        with atomic_write(self.folder / 'state.json') as partial:
            partial.write_text(json.dumps(self.state))

    @contextlib.contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the seconds of the block to those of the runs before that got to its end."""
        started = time.time()
        yield
        timings = self.state.setdefault('timings', {})
        timings[step] = timings.get(step, 0.) + time.time() - started
        self.save()

    def survey(self, paths: list[Path]) -> Survey:
        found = survey(paths)
        self.state['photos'] = len(found.photos)
        self.state['megapixels'] = sum(height * width for height, width in found.photos.values()) / 1e6
        self.state['noise'] = found.noise and found.noise.to_dict()
        self.state['groups'] = describe_groups(found.groups) if len(found.groups) > 1 else []
        return found

    def tidy(self) -> None:
        """Keep what a second call needs, and nothing large."""
        for name in ('noisy.lmdb', 'experiments'):
            shutil.rmtree(self.folder / name, ignore_errors=True)


def _say_survey(found: Survey, failed: dict[str, str], blind_size: int | str, has_weights: bool) -> None:
    if not found.photos:
        raise UserError('none of the photographs can be read:' + ''.join(f'\n{reason}' for reason in failed.values()))
    noise = found.noise
    if noise is None:
        if has_weights:
            return
        raise UserError(f'{len(found.photos)} photographs, and no square of 32x32 pixels in them that is neither black '
                        'nor white: nothing to measure or to learn from. Give larger ones, or --weights.')
    if noise.sigma.max() < LITTLE and blind_size == 'auto' and not has_weights:
        raise UserError(f'almost no noise found: its standard deviation is {noise.sigma.max():.2f} of 255 grey levels. '
                        'Denoising would only remove detail; nothing was written. To go on all the same, give '
                        '--blind-size 3.')
    megapixels = sum(height * width for height, width in found.photos.values()) / 1e6
    print(f'{_count(len(found.photos), "photograph")}, {megapixels:.1f} megapixels; noise of {noise.sigma.mean():.1f} '
          f'grey levels, correlated over {_count(noise.correlation_length(), "pixel")}', flush=True)
    if 0 < found.num_grey < found.num_measured:
        print(f'{found.num_grey} of {found.num_measured} are grey, the others in colour: all are learnt from together.')
    if len(found.groups) > 1:
        print('Their noise differs; cleaned group by group they would turn out better:\n'
              + '\n'.join(describe_groups(found.groups)), flush=True)


class _Steps:
    """The steps of a run, one progress bar over all."""

    def __init__(self, work: _Work, found: Survey, settings: dict[str, Any], targets: dict[Path, Path]) -> None:
        self.work, self.found, self.settings = work, found, settings
        self.targets = {source: target for source, target in targets.items() if source in found.photos}
        self.noise = found.noise
        self.failed: dict[str, str] = {}
        self.device = choose_device(settings['device'])
        self.megapixels = sum(height * width for height, width in found.photos.values()) / 1e6
        self.bar = tqdm(total=1, file=sys.stderr, mininterval=0.5 if sys.stderr.isatty() else 30,
                        bar_format='{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left')

    def __enter__(self) -> _Steps:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    # ---- the student ----

    def student(self, device: str, weights: str | os.PathLike | None = None) -> Denoiser | None:
        """Of the weights given, of an earlier call, or trained now; None if no training is asked for."""
        if weights:
            return Denoiser(weights, device)
        if self.settings['minutes'] == 0:
            return None
        kept = self.work.folder / _STUDENT
        if not kept.exists():
            self._train(kept)
        return Denoiser(kept, device)

    def _train(self, kept: Path) -> None:
        trainable = {path: size for path, size in self.found.photos.items() if min(size) >= TRAINING_SIDE}
        if not trainable:
            raise UserError(f'no photograph is {TRAINING_SIDE} pixels a side or more: too little to learn from. Give '
                            'larger ones, --weights, or --effort instant.')
        megapixels = sum(height * width for height, width in trainable.values()) / 1e6
        some = list(trainable)[::max(math.ceil(megapixels / _MOST_MEGAPIXELS), 1)]
        database = self.work.folder / 'noisy.lmdb'
        if not database.exists():
            self._check_space(sum(math.prod(trainable[path]) for path in some))
            self.bar.set_description('reading')
            prepare_folder(some, database, quiet=True)
        blind_size = self.settings['blind_size']
        if blind_size == 'auto':
            blind_size = max(self.noise.blind_size(), 3)
        state = self.work.state
        opt = base_options(database, blind_size, self.device, self.settings['seed'])
        if 'plan' not in state:
            self.bar.set_description('measuring')
            state['plan'] = plan_training(opt, self.work.folder, self.settings['minutes'], RATIO).to_dict()
            self.work.save()
        plan = state['plan']
        self.bar.total = sum(plan['iter'][stage] * plan['seconds'][stage] for stage in STAGES) + plan['cache_seconds']

        def progress(stage: str, number: int) -> None:
            done = {**plan['iter'], **dict.fromkeys(STAGES[STAGES.index(stage):], 0), stage: number}
            self.bar.set_description(f'{stage} {number}/{plan["iter"][stage]}', refresh=False)
            self.bar.update(sum(done[name] * plan['seconds'][name] for name in STAGES)
                            + (plan['cache_seconds'] if stage != 'bnn' else 0) - self.bar.n)
        training = Training(self.work.folder, opt, plan, self.crops, self.noise, progress)
        models = training.run()
        chosen = json.loads((self.work.folder / 'bnn.json').read_text())
        state.update(blind_size=chosen['blind_size'], bnn_risks=chosen['risks'],
                     findings=[vars(found) for found in training.findings])
        self.work.save()
        _copy(self.work.folder / chosen['weights'], self.work.folder / 'net_bnn.pth')
        content = read_weights(models / 'net_g_latest.pth')
        write_safetensors(state_dict_of(content, models / 'net_g_latest.pth'), self._card(content), kept)

    def _card(self, content: dict[str, Any]) -> dict[str, Any]:
        state = self.work.state
        return {'format': 'basicsr_sassid', 'network': content['network'], 'img_range': content['img_range'],
                'method': 'SASSID (Li et al., CVPR 2023), trained on noisy photographs alone',
                'trained_on': {'photographs': state['photos'], 'megapixels': round(state['megapixels'], 2)},
                'iterations': state['plan']['iter'], 'blind_size': state['blind_size'],
                'noise': {'sigma': self.noise.sigma.round(2).tolist(),
                          'correlation': [round(self.noise.correlation_at(radius), 3) for radius in range(1, 8)]},
                'psnr': None,  # the truth is not known
                'versions': versions()}

    def _check_space(self, pixels: int) -> None:
        """Sub-images and teacher's answers of so many pixels; outputs of all."""
        need = int(pixels * (6 + 6) + self.megapixels * 3e6) + 2 ** 28
        free = shutil.disk_usage(self.work.folder).free
        if free < need:
            raise UserError(f'-o: {need / 1e9:.1f} GB are needed in {self.work.folder.parent}, {free / 1e9:.1f} GB are '
                            'free. Free some space, or choose another folder.')

    @functools.cached_property
    def crops(self) -> list[np.ndarray]:
        """The middles of up to eight photographs: (H, W, 3) float32 in [0, 1]."""
        large = [path for path, size in self.found.photos.items() if min(size) >= TRAINING_SIDE]
        crops = []
        for path in large[::max(math.ceil(len(large) / _CROPS), 1)]:
            with contextlib.suppress(UserError):  # its header was whole: named when it is its turn
                photo = read_photo(path)
                top, left = (max(side - _CROP, 0) // 2 for side in photo.pixels.shape[:2])
                part = photo.pixels[top:top + _CROP, left:left + _CROP]
                crops.append(np.ascontiguousarray(Photo(part).as_rgb_float()))
        return crops

    # ---- what is written ----

    def mixture(self, student: Denoiser | None, strength: float, chroma: float | None) -> BlendedDenoiser:
        """As much of the student as the noisy photographs say is best."""
        state = self.work.state
        classical = self.noise and SpectralDenoiser(self.noise)
        crops = self.crops
        if student is None or classical is None or not crops:
            share, risks = float(student is not None), {}
        else:
            share, risks = optimal_blend_weight(classical, student, crops, self.noise)
        mixture = BlendedDenoiser(classical if share < 1 else None, student if share > 0 else None, share)
        found = diagnose('result', mixture.on_floats, crops, self.noise) if self.noise and crops else []
        before = [old for old in state.get('findings', []) if old['stage'] != 'result']
        state.update(share=share, risks=risks, findings=before + [vars(new) for new in found])
        self.work.save()
        return dataclasses.replace(mixture, strength=strength, chroma=chroma,
                                   keep_colour=any(new.kind == 'colour' for new in found))

    def write(self, mixture: BlendedDenoiser, settings: dict[str, Any]) -> None:
        """All outputs that are not there yet."""
        state = self.work.state
        if state.get('written_with') != settings:
            state['written_with'], state['written'] = settings, []
            self.work.save()  # before the first of them
        for folder in {target.parent for target in self.targets.values() if target.parent.exists()}:
            for partial in folder.glob('.tmp_*'):  # of a run that was killed
                partial.unlink()
        written = set(state['written'])
        todo = {source: target for source, target in self.targets.items()
                if str(target) not in written or not target.exists()}
        self.bar.reset(total=max(sum(math.prod(self.found.photos[source]) for source in todo), 1))
        for source, target in todo.items():
            self.bar.set_description(source.name[:40])
            try:
                photo = read_photo(source)
                check_writable(photo, target)
            except UserError as error:  # its header was whole, or its name lies about its format
                self.failed[str(source)] = str(error)
                continue
            before, size = self.bar.n, math.prod(photo.pixels.shape[:2])

            def show(share: float, before: float = before, size: int = size) -> None:
                self.bar.update(before + share * size - self.bar.n)
            photo.pixels = mixture(photo.pixels, show)
            write_photo(photo, target)
            state['written'].append(str(target))
            self.work.save()


def _keep(work: _Work, target: str | os.PathLike) -> None:
    """Copy the student to where the user wants it."""
    source = work.folder / _STUDENT
    if Path(target).suffix == '.safetensors':
        _copy(source, Path(target))
    else:
        save_torch(read_weights(source), target)


def _count(number: int, noun: str) -> str:
    return f'{number} {noun}' if number == 1 else f'{number} {noun}s'


def _command() -> str:
    import shlex
    return ' '.join(['sassid', *map(shlex.quote, sys.argv[1:])]) if len(sys.argv) > 1 else 'clean_photos(...)'

