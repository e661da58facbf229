"""BasicSR's model interface for several networks: devices, logs, validation, files."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from basicsr.models.base_model import BaseModel
from basicsr.utils import get_root_logger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from basicsr_sassid.io.atomic import save_torch
from basicsr_sassid.io.checkpoint import FORMAT, save_weights
from basicsr_sassid.io.weights_digest import tree_digest
from basicsr_sassid.training.checkpoint import STATE_FORMAT
from basicsr_sassid.training.runtime import wrap_distributed
from basicsr_sassid.training.schema import TrainOptions
from basicsr_sassid.training.stages import RunningStage, Stage, build_and_load, on_cpu, pretrained_content
from basicsr_sassid.training.teachers import check_whole_images
from basicsr_sassid.training.validation import Validator
from basicsr_sassid.utils.errors import UserError


class MultiNetworkModel(BaseModel):
    """A model of several networks, one of them in training at a time.

    Args:
        opt: of resolve_options.
        names: the networks, option blocks ``network_<name>``; the last one is validated where no stage is running.

    Attributes:
        nets: name -> network, frozen unless its stage is running.
        running: the stage in training.
        img_range: value of white for networks and losses.
    """

    options: TrainOptions  # of a training
    stages: Sequence[Stage] = ()
    loss: Tensor  # of the last iteration

    def __init__(self, opt: dict[str, Any], names: Iterable[str]) -> None:
        super().__init__(opt)
        content = {} if self.is_train else pretrained_content(opt, 'g')
        self.img_range = opt.get('img_range') or content.get('img_range', 255)
        self.nets = {name: self._build(name) for name in names}
        self.validator = Validator(opt, self.device)
        self.running: RunningStage | None = None
        self.cached_targets: dict[str, Tensor] = {}

    def check_dataset(self, dataset: Any) -> None:
        """Raise UserError if the options need more than this training set gives."""
        check_whole_images(self.options, dataset)

    def _build(self, name: str) -> nn.Module:
        net = build_and_load(self.opt, name)
        get_root_logger().info(
            f'network_{name}: {type(net).__name__}, '
            f'{sum(parameter.numel() for parameter in net.parameters()):,} parameters; weights: '
            f'{self.opt["path"].get(f"pretrain_network_{name}") or "random"}'
        )
        net = net.to(self.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return net.requires_grad_(False).eval()

    @property
    def stage(self) -> Stage | None:
        """The row of the running stage."""
        return self.running and self.running.stage

    @property
    def active(self) -> RunningStage:
        """The running stage. Raises RuntimeError before the first one."""
        if self.running is None:
            raise RuntimeError('no stage is running')
        return self.running

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """Wrap a network for several processes, on GPUs or CPUs."""
        return wrap_distributed(net, self.opt, self.device)

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """Take a batch: ``lq`` (N, C, H, W) in [0, 1]; ``gt`` where there is a clean reference;
        with a teacher cache ``teacher_<name>``, crops of the cached targets, likewise."""
        self.lq = data['lq'].to(self.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        self.gt = data['gt'].to(self.device, non_blocking=True) if 'gt' in data else None
        self.cached_targets = {
            key.removeprefix('teacher_'): value.to(self.device, non_blocking=True)
            for key, value in data.items()
            if key.startswith('teacher_')
        }

    def get_current_log(self) -> dict[str, float]:
        """The running stage's loss, over all processes (each must call it). Raises UserError if it is not finite."""
        stage = self.active.stage.name
        name = f'l_{stage}'
        self.log_dict = self.reduce_loss_dict(OrderedDict({name: self.loss}))
        if self.opt['rank'] == 0 and not math.isfinite(self.log_dict[name]):
            raise UserError(
                f'stage {stage}: the loss is {self.log_dict[name]}. Lower the '
                'learning rate, set train.grad_clip, or try train.precision: fp32; then start again with '
                '--auto_resume.'
            )
        return self.log_dict

    def denoise(self, net: nn.Module, lq: Tensor) -> Tensor:
        """Denoised images of a network, both (N, C, H, W) in [0, img_range]."""
        return net(lq)

    def test(self) -> None:
        """Denoise ``self.lq`` (in [0, 1]) with the running stage's network, or network_g; float32."""
        net = self.running.best_net if self.running else self.nets.get('g') or list(self.nets.values())[-1]
        training = net.training
        net.eval()
        with torch.no_grad():
            self.output = self.denoise(net, self.lq * self.img_range) / self.img_range
        net.train(training)

    def get_current_visuals(self) -> dict[str, Tensor]:
        """``lq``, ``result``, and ``gt`` where there is a clean reference, on the CPU."""
        visuals = {'lq': self.lq, 'result': self.output, **({} if self.gt is None else {'gt': self.gt})}
        return OrderedDict((name, image.detach().cpu()) for name, image in visuals.items())

    def validation(
        self, dataloader: DataLoader, current_iter: int | str, tb_logger: Any, save_img: bool = False
    ) -> None:
        """Denoise a dataset, log its metrics, and save the best network of a training."""

        def visuals(sample: dict[str, Any]) -> dict[str, Tensor]:
            self.feed_data(sample)
            self.test()
            return self.get_current_visuals()

        label = self.stage.name if self.stage else 'network_g'
        dataset: Any = dataloader.dataset
        results = self.validator.validate(dataset, visuals, label, current_iter, tb_logger, save_img)
        self.metric_results = results or {}
        if self.is_train and results:
            network = self.active.stage.network
            labels = [stage.name for stage in self.stages if stage.network == network]
            if self.validator.is_best(dataset.opt['name'], labels, int(current_iter)):
                self._save_net(network, 'best')

    def save(self, epoch: int, current_iter: int) -> None:
        """Write the running stage's network as ``net_*_<iter>.pth`` and the training state, which resumes by itself.

        ``current_iter`` -1: write all networks as ``net_*_latest.pth``. Raises UserError if they cannot be written.
        """
        if self.opt['rank'] != 0:
            return
        if current_iter == -1:
            for name in self.nets:
                self._save_net(name, 'latest')
            return
        self._save_net(self.active.stage.network, str(current_iter))
        state = {
            'format': STATE_FORMAT,
            'epoch': epoch,
            'iter': current_iter,
            'networks': {name: on_cpu(net.state_dict()) for name, net in self.nets.items()},
            **self.active.state_dict(),
            'best_metric_results': self.validator.best,
            'noisy_results': self.validator.noisy,
        }
        save_torch(
            {**state, 'digest': tree_digest(state)}, Path(self.opt['path']['training_states']) / f'{current_iter}.state'
        )

    def _save_net(self, name: str, label: str) -> None:
        if self.opt['rank'] != 0:
            return
        content = self.net_file(name)
        if self.options.ema_decay > 0:
            running = self.running if self.running and self.running.stage.network == name else None
            content['params_ema'] = on_cpu(running.best_net.state_dict()) if running else content['params']
        save_weights(content, Path(self.opt['path']['models']) / f'net_{name}_{label}.pth')

    def net_file(self, name: str) -> dict[str, Any]:
        """Content of ``net_<name>_*.pth``: weights, and how to build and apply the network."""
        return {
            'format': FORMAT,
            'role': name,
            'params': on_cpu(self.nets[name].state_dict()),
            'network': self.opt[f'network_{name}'],
            'img_range': self.img_range,
        }

    def restore(self, resume_state: Mapping[str, Any]) -> None:
        """The networks and the best results of a state of :meth:`save`."""
        for name, net in self.nets.items():
            net.load_state_dict(resume_state['networks'][name])
        self.validator.best = resume_state['best_metric_results']
        self.validator.noisy = resume_state['noisy_results']
