"""StagedModel: networks trained one after another, each with its own optimiser, schedule, loss and frozen teachers."""
from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from basicsr.losses import build_loss
from basicsr.metrics import calculate_metric
from basicsr.models import lr_scheduler as basicsr_schedulers
from basicsr.models.base_model import BaseModel
from basicsr.utils import get_root_logger, imwrite, tensor2img
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm import tqdm

from basicsr_sassid._checks import UserError, check_choice, check_keys, check_registered
from basicsr_sassid._device import PRECISIONS, choose_dtype
from basicsr_sassid._files import save_torch
from basicsr_sassid.data.teacher_cache import TeacherCache, fingerprint
from basicsr_sassid.models.teacher_util import ask, asked_pixels
from basicsr_sassid.weights import build_network, load_weights, read_weights

TEACHER_CACHES = ('auto', 'lmdb', 'memory', 'off')


@dataclasses.dataclass(frozen=True)
class Stage:
    """One row of a method's table.

    Attributes:
        name: key in the option block ``train.stages``.
        network: the network it trains: option block ``network_<network>``, files ``net_<network>_*.pth``.
        loss: default option block of its loss, called as ``loss(prediction, *targets)``.
        teachers: the networks whose answers are the targets, in order; without any, the noisy image is the target.
        cached: those of them that can be asked once about whole images, since their answer on a patch is that patch of
            their answer; nearly so for a network that averages over its whole input, which is asked in windows as large
            as a patch.
    """
    name: str
    network: str
    loss: dict[str, Any]
    teachers: tuple[str, ...] = ()
    cached: tuple[str, ...] = ()


def stage_at(iteration: int, lengths: list[int]) -> int:
    """Index of the stage that holds ``iteration`` (from 1); past the end, the last stage that has any iteration."""
    last = 0
    for index, length in enumerate(lengths):
        if length > 0:
            last = index
            if iteration <= length:
                return index
        iteration -= length
    return last


class StagedModel(BaseModel):
    """Base of methods that train their networks in stages. A subclass is a table: :attr:`stages`.

    Option keys beside BasicSR's: ``img_range`` (255: networks and losses work in grey levels) and in ``train``:
    ``stages`` (name -> ``iter``, ``optim``, ``scheduler``, ``loss``), ``total_iter`` (their sum; may be left out),
    ``ema_decay`` (0: off), ``grad_clip`` (largest gradient norm; off if not given), ``precision`` (of the forward
    passes in training: ``auto``, ``fp32``, ``bf16`` or ``fp16``, the last with a GradScaler; losses, optimiser and
    validation are in float32), ``compile`` (torch.compile of the network in training, default False),
    ``teacher_cache`` (``off``: teachers are asked about every patch; ``lmdb``, ``memory``: those that can be are asked
    once, about whole images, when their stage begins; ``auto``: ``lmdb`` where that is less work), ``teacher_ensemble``
    (the cached answers are means over eight flips and turns).

    ``network_g`` is what is delivered; the other networks are for training only.
    """
    stages: ClassVar[tuple[Stage, ...]] = ()
    train_keys: ClassVar[tuple[str, ...]] = ('stages', 'total_iter', 'ema_decay', 'grad_clip', 'precision',
                                            'compile', 'teacher_cache', 'teacher_ensemble')
    stage_keys: ClassVar[tuple[str, ...]] = ('iter', 'optim', 'scheduler', 'loss')

    @classmethod
    def check_options(cls, opt: dict) -> None:
        """Raise UserError for anything wrong in the options, before a file is touched; fill in ``train.total_iter``.

        All stages' parts are built once, so that a slip in the last stage is not found after days.
        """
        train = opt['train']
        check_keys(train, cls.train_keys, 'train', required=['stages'])
        check_keys(train['stages'], [stage.name for stage in cls.stages], 'train.stages')
        stages = cls.stages_of(opt)
        names = [stage.name for stage in stages]
        check_keys(train['stages'], names, 'train.stages', required=names)
        if list(train['stages']) != names:
            raise UserError(f'train.stages: expected the order {", ".join(names)} (each stage learns from those before '
                            f'it), got {", ".join(train["stages"])}')
        for stage in stages:
            block, where = train['stages'][stage.name], f'train.stages.{stage.name}'
            check_keys(block, cls.stage_keys, where, required=['iter'])
            if not isinstance(block['iter'], int) or block['iter'] < 0:
                raise UserError(f'{where}.iter: expected a number of iterations >= 0, got {block["iter"]!r}')
            if block['iter'] == 0 and not opt['path'].get(f'pretrain_network_{stage.network}'):
                raise UserError(f'{where}.iter is 0, so network_{stage.network} must be given: set '
                                f'path.pretrain_network_{stage.network} to its .pth')
            if block['iter'] > 0:
                check_keys(block, cls.stage_keys, where, required=['optim', 'scheduler'])
        if opt.get('inference') and not hasattr(cls, 'passes'):
            raise UserError(f'inference: {cls.__name__} knows no such block')
        total = sum(block['iter'] for block in train['stages'].values())
        if train.get('total_iter') not in (None, total):
            raise UserError(f'train.total_iter: {train["total_iter"]} is not the sum of the stages\' iter, {total}. '
                            'Leave it out.')
        if total == 0:
            raise UserError('train.stages: every iter is 0, there is nothing to train')
        train['total_iter'] = total
        check_choice(train.get('precision', 'auto'), PRECISIONS, 'train.precision')
        check_choice(train.get('compile', False), (True, False), 'train.compile')
        if train.get('teacher_cache') is False:  # YAML reads a bare off as false
            train['teacher_cache'] = 'off'
        check_choice(train.get('teacher_cache', 'off'), TEACHER_CACHES, 'train.teacher_cache')
        check_choice(train.get('teacher_ensemble', False), (True, False), 'train.teacher_ensemble')
        for stage in stages:
            net = build_and_load(opt, stage.network)
            found = given_file(opt, stage.network).get('img_range')
            if found not in (None, opt.get('img_range', 255)):
                raise UserError(f'path.pretrain_network_{stage.network}: these weights take white as {found:g}, and '
                                f'img_range is {opt.get("img_range", 255):g}. Set img_range: {found:g}')
            if train['stages'][stage.name]['iter'] > 0:
                cls.make_training_parts(opt, stage, net)

    @classmethod
    def stages_of(cls, opt: dict) -> tuple[Stage, ...]:
        """The rows of the table that these options ask for."""
        return cls.stages

    @classmethod
    def make_training_parts(cls, opt: dict, stage: Stage, net: nn.Module
                            ) -> tuple[torch.optim.Optimizer, Any, nn.Module]:
        """Optimiser, schedule and loss of a stage. Raises UserError."""
        block, where = opt['train']['stages'][stage.name], f'train.stages.{stage.name}'
        optimizer = make_optimizer(net, block['optim'], f'{where}.optim')
        scheduler = make_scheduler(optimizer, block['scheduler'], block['iter'], f'{where}.scheduler')
        loss = {**stage.loss, **cls.loss_defaults(opt, stage), **(block.get('loss') or {})}
        check_registered(LOSS_REGISTRY, loss, f'{where}.loss')
        try:
            return optimizer, scheduler, build_loss(loss)
        except ValueError as error:
            raise UserError(f'{where}.loss: {error}') from error

    @classmethod
    def loss_defaults(cls, opt: dict, stage: Stage) -> dict[str, Any]:
        """Loss arguments that the method takes from elsewhere in its options."""
        return {}

    def __init__(self, opt: dict) -> None:
        super().__init__(opt)
        given = {} if self.is_train else given_file(opt, 'g')
        self.img_range = opt.get('img_range') or given.get('img_range', 255)
        self.stages = self.stages_of(opt) if self.is_train else ()
        networks = dict.fromkeys(name for stage in self.stages for name in (*stage.teachers, stage.network))
        networks = networks if self.is_train else ['g']
        self.nets = {name: self._build(name) for name in networks}
        self.net_g = self.nets['g']
        self.metric_results: dict[str, float] = {}
        self.best_metric_results: dict[str, dict] = {}
        self.noisy_results: dict[str, dict[str, float]] = {}
        self.stage: Stage | None = None
        self.ema: AveragedModel | None = None
        self.caches: dict[str, TeacherCache] = {}
        if self.is_train:
            self.check_options(opt)
            self.lengths = [opt['train']['stages'][stage.name]['iter'] for stage in self.stages]
            self.dtype = choose_dtype(opt['train'].get('precision', 'auto'), self.device)

    def _build(self, name: str) -> nn.Module:
        net = build_and_load(self.opt, name)
        get_root_logger().info(f'network_{name}: {type(net).__name__}, '
                               f'{sum(parameter.numel() for parameter in net.parameters()):,} parameters; weights: '
                               f'{self.opt["path"].get(f"pretrain_network_{name}") or "random"}')
        return net.to(self.device, memory_format=torch.channels_last).requires_grad_(False).eval()

    # ---- stages ----

    def _enter(self, index: int) -> None:
        """Freeze what was trained; set up the network, optimiser, schedule and loss of stage ``index``."""
        self._leave()
        stage = self.stage = self.stages[index]
        net = self.nets[stage.network].train().requires_grad_(True)
        self.net = self.model_to_device(torch.compile(net) if self.opt['train'].get('compile') else net)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        optimizer, scheduler, criterion = self.make_training_parts(self.opt, stage, net)
        self.optimizers, self.schedulers, self.criterion = [optimizer], [scheduler], criterion.to(self.device)
        decay = self.opt['train'].get('ema_decay', 0)
        # in the beginning a shorter memory, so that the random initial weights do not linger
        self.ema = AveragedModel(net, avg_fn=lambda average, new, seen: average.lerp(
            new, 1 - min(decay, (1 + float(seen)) / (10 + float(seen))))) if decay > 0 else None
        get_root_logger().info(f'Stage {stage.name}: {self.lengths[index]} iterations train network_{stage.network}'
                               + (f', taught by {", ".join(stage.teachers)}' if stage.teachers else '')
                               + f'; {str(self.dtype).removeprefix("torch.")} on {self.device}')

    def _leave(self) -> None:
        if self.stage is None:
            return
        net = self.nets[self.stage.network]
        if self.ema is not None:
            net.load_state_dict(self.ema.module.state_dict())  # the average teaches the next stages
        net.requires_grad_(False).eval()
        self.ema = None

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """Wrap for several processes, on GPUs or CPUs."""
        if not self.opt['dist']:
            return net
        device_ids = [torch.cuda.current_device()] if self.device.type == 'cuda' else None
        return DistributedDataParallel(net, device_ids=device_ids,
                                       find_unused_parameters=self.opt.get('find_unused_parameters', False))

    # ---- teachers ----

    def begin(self, current_iter: int, dataset: Dataset) -> None:
        """Before the batches of ``current_iter``'s stage are drawn: give the training set its teachers' answers."""
        index = stage_at(current_iter, self.lengths)
        if self.stage is not self.stages[index]:
            self._leave()
        names = [name for name in self.stages[index].cached if self._cache_pays(name, dataset)]
        if names or getattr(dataset, 'teachers', None):
            dataset.teachers = {name: self._ask_once(name, dataset) for name in names}

    def _cache_pays(self, name: str, dataset: Dataset) -> bool:
        kind = self.opt['train'].get('teacher_cache', 'off')
        if kind in ('lmdb', 'memory') and not hasattr(dataset, 'teachers'):
            raise UserError(f'train.teacher_cache: {kind} needs NoisyImageDataset, not {type(dataset).__name__}. Set '
                            'it to off.')
        if kind != 'auto' or not hasattr(dataset, 'teachers'):
            return kind in ('lmdb', 'memory')
        views = 8 if self.opt['train'].get('teacher_ensemble') else 1
        once = sum(asked_pixels(size, dataset.patch_size) for size in dataset.sizes) * views
        block = self.opt['datasets']['train']
        per_iter = block['batch_size_per_gpu'] * self.opt['world_size'] * dataset.patch_size ** 2
        drawn = sum(length for stage, length in zip(self.stages, self.lengths) if name in stage.cached) * per_iter
        if once > drawn:
            get_root_logger().info(f'No teacher cache: network_{name} would be asked about {once / 1e6:,.0f} megapixels'
                                   f', the patches of its stages hold {drawn / 1e6:,.0f}.')
        return once <= drawn

    def teaching(self, name: str) -> dict[str, Any]:
        """What else a teacher's answers depend on, of JSON's types."""
        return {}

    def _ask_once(self, name: str, dataset: Dataset) -> TeacherCache:
        """The answers of network ``name`` on all images: made, or gone on with, or found. All processes share it."""
        if name in self.caches:
            return self.caches[name]
        ensemble = bool(self.opt['train'].get('teacher_ensemble'))
        settings = {'network': self.opt[f'network_{name}'], 'window': dataset.patch_size, 'ensemble': ensemble,
                    'img_range': self.img_range, 'dtype': str(self.dtype), **self.teaching(name)}
        folder = None
        if self.opt['train']['teacher_cache'] != 'memory':
            folder = Path(self.opt['path']['experiments_root']) / 'teacher_cache' / (
                f'{name}_{fingerprint(self.nets[name].state_dict(), dataset.identity(), settings)}.lmdb')
        cache = self.caches[name] = TeacherCache(folder, dataset.sizes)
        todo = cache.missing()
        self._wait()  # all have looked before one writes
        get_root_logger().info(
            f'Teacher cache: network_{name} is asked about {len(todo)} of {len(dataset)} images, '
            f'{cache.num_bytes(todo) / 1e9:.2f} GB in {folder or "memory"}')
        cache.check_space(todo)

        def answers() -> Iterator[tuple[int, np.ndarray]]:
            mine = todo[self.opt['rank']::self.opt['world_size']]
            for index in tqdm(mine, f'asking network_{name}', unit='image', leave=False,
                              disable=self.opt['rank'] != 0 or bool(self.opt.get('quiet'))):
                image = torch.from_numpy(dataset.image(index)).permute(2, 0, 1).to(self.device) * self.img_range
                with self.autocast():
                    answer = ask(functools.partial(self.teach, name), image, dataset.patch_size, ensemble,
                                 self.opt['datasets']['train']['batch_size_per_gpu'])
                answer = self.refine(name, answer[None], image[None])[0]
                yield index, (answer / self.img_range).permute(1, 2, 0).cpu().numpy()

        cache.write(answers())
        self._wait()
        if self.opt['dist']:
            cache.share()
        return cache

    def _wait(self) -> None:
        if self.opt['dist']:
            torch.distributed.barrier()

    # ---- one iteration ----

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Enter the stage of ``current_iter`` (from 1) or step its schedule. For a warm-up use OneCycleLR."""
        index = stage_at(current_iter, self.lengths)
        if self.stage is not self.stages[index]:
            self._enter(index)
        else:
            self.schedulers[0].step()

    def feed_data(self, data: dict) -> None:
        self.lq = data['lq'].to(self.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        self.gt = data['gt'].to(self.device, non_blocking=True) if 'gt' in data else None
        self.answers = {key.removeprefix('teacher_'): value.to(self.device, non_blocking=True)
                        for key, value in data.items() if key.startswith('teacher_')}

    def autocast(self) -> torch.autocast:
        """The precision of the forward passes in training."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def teach(self, name: str, lq: Tensor) -> Tensor:
        """What teacher ``name`` answers on noisy patches, both (N, C, H, W) in [0, img_range]."""
        return self.nets[name](lq)

    def refine(self, name: str, answer: Tensor, lq: Tensor) -> Tensor:
        """What is made of the answer before it is a target: same shapes and units as :meth:`teach`."""
        return answer

    def training_loss(self, lq: Tensor) -> Tensor:
        """The loss of the running stage on noisy patches, (N, C, H, W) in [0, img_range]."""
        with self.autocast():
            with torch.no_grad():
                targets = [self.answers[name] * self.img_range if name in self.answers else
                           self.refine(name, self.teach(name, lq), lq) for name in self.stage.teachers] or [lq]
            prediction = self.net(lq)
        return self.criterion(prediction.float(), *(target.float() for target in targets))

    def optimize_parameters(self, current_iter: int) -> None:
        loss = self.training_loss(self.lq * self.img_range)
        optimizer = self.optimizers[0]
        optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        clip = self.opt['train'].get('grad_clip')
        if clip:
            self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(self.net.parameters(), clip)
        self.scaler.step(optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update_parameters(self.nets[self.stage.network])
        self._loss = loss.detach()

    def get_current_log(self) -> dict[str, float]:
        """The running stage's loss, over all processes (each must ask). Raises UserError if it is not finite."""
        name = f'l_{self.stage.name}'
        self.log_dict = self.reduce_loss_dict(OrderedDict({name: self._loss}))
        if self.opt['rank'] == 0 and not math.isfinite(self.log_dict[name]):
            raise UserError(f'stage {self.stage.name}: the loss is {self.log_dict[name]}. Lower the '
                            'learning rate, set train.grad_clip, or try train.precision: fp32; then start again with '
                            '--auto_resume.')
        return self.log_dict

    # ---- validation ----

    def test(self) -> None:
        """Denoise ``self.lq`` (in [0, 1]) with the running stage's network, or network_g; float32."""
        net = self.ema.module if self.ema is not None else self.nets[self.stage.network if self.stage else 'g']
        training = net.training
        net.eval()
        with torch.no_grad():
            self.output = self.denoise(net, self.lq * self.img_range) / self.img_range
        net.train(training)

    def denoise(self, net: nn.Module, lq: Tensor) -> Tensor:
        """What a network makes of noisy images, (N, C, H, W) in [0, img_range]."""
        return net(lq)

    def get_current_visuals(self) -> dict[str, Tensor]:
        visuals = {'lq': self.lq, 'result': self.output}
        if self.gt is not None:
            visuals['gt'] = self.gt
        return OrderedDict((name, image.detach().cpu()) for name, image in visuals.items())

    def validation(self, dataloader: DataLoader, current_iter: int | str, tb_logger: Any, save_img: bool = False
                   ) -> None:
        """Denoise all images of a set, shared among the processes; log the metrics where there are clean images."""
        dataset = dataloader.dataset
        dataset_name = dataset.opt['name']
        names = output_names(dataset)
        metrics = self.opt['val'].get('metrics') or {}
        with_noisy = dataset_name not in self.noisy_results
        kinds = ('result', 'lq') if with_noisy else ('result',)
        sums = {f'{kind}/{metric}': 0. for kind in kinds for metric in metrics}
        count = 0
        for index in range(self.opt['rank'], len(dataset), self.opt['world_size']):
            self.feed_data(default_collate([dataset[index]]))
            self.test()
            visuals = {name: tensor2img([image.clone()]) for name, image in self.get_current_visuals().items()}
            if save_img:
                imwrite(visuals['result'], str(self._image_path(dataset_name, names[index], current_iter)))
            if 'gt' in visuals:
                count += 1
                for metric, metric_opt in metrics.items():
                    for kind in kinds:
                        value = calculate_metric({'img': visuals[kind], 'img2': visuals['gt']}, metric_opt)
                        sums[f'{kind}/{metric}'] += float(value)
        count, sums = self._over_all_processes(count, sums)
        del self.lq, self.gt, self.output
        if not count:
            get_root_logger().info(f'Validation {dataset_name}: no clean images, no metric.')
            return
        means = {key: value / count for key, value in sums.items()}
        if with_noisy:
            self.noisy_results[dataset_name] = {metric: means[f'lq/{metric}'] for metric in metrics}
            self._log_metrics(dataset_name, 'noisy input', self.noisy_results[dataset_name], None, current_iter,
                              tb_logger)
        self.metric_results = {metric: means[f'result/{metric}'] for metric in metrics}
        label = self.stage.name if self.stage else 'network_g'
        record = f'{dataset_name}/{label}'
        self._initialize_best_metric_results(record)
        best = self.best_metric_results[record]
        for metric, value in self.metric_results.items():
            self._update_best_metric_result(record, metric, value, current_iter)
        self._log_metrics(dataset_name, label, self.metric_results, best, current_iter, tb_logger)
        if self.is_train and metrics and self._is_best(dataset_name, next(iter(metrics)), current_iter):
            self._save_net(self.stage.network, 'best')

    def _is_best(self, dataset_name: str, metric: str, current_iter: int) -> bool:
        """Whether this iteration has the best ``metric`` of all stages that train the running stage's network."""
        records = [self.best_metric_results.get(f'{dataset_name}/{stage.name}', {}).get(metric)
                   for stage in self.stages if stage.network == self.stage.network]
        records = [record for record in records if record]
        best = (max if records[0]['better'] == 'higher' else min)(records, key=lambda record: record['val'])
        return best['iter'] == current_iter

    def _over_all_processes(self, count: int, sums: dict[str, float]) -> tuple[int, dict[str, float]]:
        if not self.opt['dist']:
            return count, sums
        values = torch.tensor([count, *sums.values()], dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(values)
        return int(values[0]), dict(zip(sums, values[1:].tolist()))

    def _image_path(self, dataset_name: str, name: str, current_iter: int | str) -> Path:
        folder = Path(self.opt['path']['visualization'])
        if self.is_train:
            return folder / name / f'{Path(name).name}_{current_iter}.png'
        return folder / dataset_name / f'{name}_{self.opt["val"].get("suffix") or self.opt["name"]}.png'

    def _log_metrics(self, dataset_name: str, label: str, results: dict[str, float], best: dict | None,
                     current_iter: int | str, tb_logger: Any) -> None:
        lines = [f'Validation {dataset_name}, {label}']
        for metric, value in results.items():
            lines.append(f'\t # {metric}: {value:.4f}')
            if best and self.is_train:
                lines[-1] += f'\tBest: {best[metric]["val"]:.4f} @ {best[metric]["iter"]} iter'
            if tb_logger:
                tb_logger.add_scalar(f'metrics/{dataset_name}/{label}/{metric}', value, current_iter)
        get_root_logger().info('\n'.join(lines))

    # ---- files ----

    def save(self, epoch: int, current_iter: int) -> None:
        """Write the running stage's network as ``net_*_<iter>.pth`` and the training state, which resumes by itself.

        ``current_iter`` -1: write all networks as ``net_*_latest.pth``. Raises UserError if it can't be written.
        """
        if self.opt['rank'] != 0:
            return
        if current_iter == -1:
            for name in self.nets:
                self._save_net(name, 'latest')
            return
        self._save_net(self.stage.network, str(current_iter))
        state = {'epoch': epoch, 'iter': current_iter, 'stage': self.stage.name,
                 'networks': {name: _on_cpu(net.state_dict()) for name, net in self.nets.items()},
                 'scaler': self.scaler.state_dict(),
                 'ema': self.ema and _on_cpu(self.ema.state_dict()),
                 'optimizers': [optimizer.state_dict() for optimizer in self.optimizers],
                 'schedulers': [scheduler.state_dict() for scheduler in self.schedulers],
                 'best_metric_results': self.best_metric_results, 'noisy_results': self.noisy_results}
        save_torch(state, Path(self.opt['path']['training_states']) / f'{current_iter}.state')

    def _save_net(self, name: str, label: str) -> None:
        if self.opt['rank'] != 0:
            return
        content = self.net_file(name)
        if self.opt['train'].get('ema_decay', 0) > 0:
            running = self.ema is not None and self.stage.network == name
            content['params_ema'] = _on_cpu(self.ema.module.state_dict()) if running else content['params']
        save_torch(content, Path(self.opt['path']['models']) / f'net_{name}_{label}.pth')

    def net_file(self, name: str) -> dict[str, Any]:
        """What ``net_<name>_*.pth`` holds: weights, and how to build and use the network."""
        return {'params': _on_cpu(self.nets[name].state_dict()), 'network': self.opt[f'network_{name}'],
                'img_range': self.img_range}

    def resume_training(self, resume_state: dict) -> None:
        """Go on from a state of :meth:`save`. Raises UserError if it is of another set-up."""
        stage = [stage.name for stage in self.stages].index(resume_state['stage'])
        if stage != stage_at(resume_state['iter'], self.lengths):
            raise UserError(f'resume: iteration {resume_state["iter"]} was in stage {resume_state["stage"]}, which '
                            f'train.stages now places elsewhere. Resume with the iter of the first run, or start anew.')
        try:
            for name, net in self.nets.items():
                net.load_state_dict(resume_state['networks'][name])
            self._enter(stage)
            if self.ema is not None and resume_state['ema'] is not None:
                self.ema.load_state_dict(resume_state['ema'])
            self.optimizers[0].load_state_dict(resume_state['optimizers'][0])
            self.schedulers[0].load_state_dict(resume_state['schedulers'][0])
            self.scaler.load_state_dict(resume_state['scaler'])
        except (RuntimeError, KeyError, ValueError) as error:
            raise UserError(f'resume: the training state does not fit these options ({str(error).splitlines()[0]}). '
                            'Resume with the options of the first run, or start anew.') from error
        self.best_metric_results = resume_state['best_metric_results']
        self.noisy_results = resume_state['noisy_results']


def build_and_load(opt: dict, name: str) -> nn.Module:
    """network_<name> with the weights that ``path`` names, if any, on the CPU. Raises UserError."""
    net = build_network(opt.get(f'network_{name}'), f'network_{name}')
    path = opt['path'].get(f'pretrain_network_{name}')
    if path:
        load_weights(net, path, key=opt['path'].get(f'param_key_{name}'),
                     strict=opt['path'].get(f'strict_load_{name}', True))
    return net


def given_file(opt: dict, name: str) -> dict[str, Any]:
    """What the file of ``path.pretrain_network_<name>`` holds; nothing where none is given. Raises UserError."""
    path = opt['path'].get(f'pretrain_network_{name}')
    return read_weights(path) if path else {}


def make_optimizer(net: nn.Module, block: dict, where: str) -> torch.optim.Optimizer:
    """Any optimiser of torch.optim: ``{type: Adam, lr: 3e-4, ...}``."""
    check_keys(block, _arguments(torch.optim, block, torch.optim.Optimizer, where), where, required=['lr'])
    kind = getattr(torch.optim, block['type'])
    arguments = {key: value for key, value in block.items() if key != 'type'}
    if 'fused' in inspect.signature(kind).parameters and not arguments.get('foreach'):
        arguments.setdefault('fused', True)  # one kernel a step, not a dozen for each tensor
    try:
        return kind(net.parameters(), **arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f'{where}: {error}') from error


def make_scheduler(optimizer: torch.optim.Optimizer, block: dict, length: int, where: str) -> Any:
    """BasicSR's schedulers and those of torch, stepped every iteration; what says how long is the stage's length."""
    source = basicsr_schedulers if hasattr(basicsr_schedulers, str(block.get('type'))) else torch.optim.lr_scheduler
    check_keys(block, _arguments(source, block, torch.optim.lr_scheduler.LRScheduler, where), where)
    spans = {'CosineAnnealingLR': {'T_max': length}, 'OneCycleLR': {'total_steps': length},
             'CosineAnnealingRestartLR': {'periods': [length]}}
    arguments = {**spans.get(block['type'], {}), **{key: value for key, value in block.items() if key != 'type'}}
    try:
        return getattr(source, block['type'])(optimizer, **arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f'{where}: {error}') from error


def _arguments(module: Any, block: dict, base: type, where: str) -> list[str]:
    """The option keys of the class that ``block['type']`` names in ``module``."""
    choices = [name for name, value in vars(module).items()
               if inspect.isclass(value) and issubclass(value, base) and value is not base and name[0] != '_'
               and name != 'LBFGS']  # which wants a closure that evaluates the loss again
    if not isinstance(block, dict) or block.get('type') not in choices:
        raise UserError(f'{where}.type: expected one of {", ".join(sorted(choices))}, got '
                        f'{block.get("type") if isinstance(block, dict) else block!r}')
    names = inspect.signature(getattr(module, block['type'])).parameters
    return ['type', *(name for name in names if name not in ('params', 'optimizer'))]


def output_names(dataset: Dataset) -> list[str]:
    """One name for each image of a dataset, without extension: unique, with the sub-folders where there are some."""
    entries = getattr(dataset, 'paths', None)
    if entries is None:
        return [str(index) for index in range(len(dataset))]
    paths = [Path(entry['lq_path'] if isinstance(entry, dict) else entry) for entry in entries]
    root = Path(dataset.opt['dataroot_lq']).expanduser()
    paths = [path.relative_to(root) if path.is_relative_to(root) else path for path in paths]
    is_lmdb = root.suffix == '.lmdb'  # its keys have no extension
    stems = [str(path if is_lmdb else path.with_suffix('')) for path in paths]
    return [stem if stems.count(stem) == 1 else str(path).replace('.', '_') for stem, path in zip(stems, paths)]


def _on_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in state.items()}
