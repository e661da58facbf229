"""SFD: semantic feature discrimination for perceptual super-resolution (Dong et al., CVPR 2025, arXiv 2503.19295).

A reconstruction: the paper's body could not be read, and no training code was released. The parts are those of the
abstract; losses and settings are those of its nearest relatives. Licence: Apache-2.0.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from basicsr.losses import build_loss
from basicsr.models.srgan_model import SRGANModel
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_sassid.io.atomic import save_torch
from basicsr_sassid.io.checkpoint import build_network
from basicsr_sassid.losses.semantic_pair import SemanticPair
from basicsr_sassid.metrics.sfd_quality import FORMAT
from basicsr_sassid.training.optim import make_optimizer, make_scheduler
from basicsr_sassid.training.sfd_checks import (
    LOSSES,
    TRAIN_KEYS,
    build_semantic_pair,
    check_features,
    check_numbers,
    check_parts,
    check_prompt,
)
from basicsr_sassid.training.sfd_schema import SFDOptions
from basicsr_sassid.training.stages import on_cpu
from basicsr_sassid.training.stock import StockModelMixin
from basicsr_sassid.utils.option_checks import check_keys


@MODEL_REGISTRY.register()
class SFDModel(StockModelMixin, SRGANModel):
    """BasicSR's SRGANModel with a discriminator on semantic features (Feat-D) and a pair of prompts (TG-D).

    An iteration takes a step of the generator, of the image-level discriminator, of Feat-D and of the prompts, as far
    as they are due and on: ``pixel_opt``, ``perceptual_opt``, ``gan_opt`` (with ``network_d``),
    ``sfd_opt.feature_weight`` (with ``network_feature_d``), ``sfd_opt.text_weight`` (with ``network_prompt``). The
    semantic network is frozen; it is in no optimiser, checkpoint or DistributedDataParallel. ``sfd_<iter>.pth`` holds
    what SFD-IQA needs.
    """

    train_keys: tuple[str, ...] = TRAIN_KEYS

    # ---- set-up ----

    def init_training_settings(self) -> None:
        """Build the losses, the networks that are trained beside the generator, their optimisers and schedules."""
        train = self.opt['train']
        self.options = SFDOptions.parse(train.get('sfd_opt') or {}, 'train.sfd_opt')
        check_keys(train, self.train_keys, 'train')
        check_parts(self.opt, self._parts())
        check_numbers(train)
        self.cri_pix, self.cri_perceptual, self.cri_gan = (
            build_loss(train[key]).to(self.device) if train.get(key) else None for key in LOSSES
        )
        self.cri_feature = build_loss({'type': 'GANLoss', 'gan_type': self.options.gan_type}).to(self.device)
        self.features: SemanticPair | None = None
        if self.options.feature_weight or self.options.text_weight:
            self.features = build_semantic_pair(self.options, self.opt['dist']).to(self.device)
            self.features.register_forward_hook(self._check_features)
        self.net_d, self.net_feature_d, self.net_prompt = (
            self._part(name) if is_on else None for name, is_on in self._parts().items()
        )
        if self.net_prompt is not None and self.features is not None:
            check_prompt(self.get_bare_model(self.net_prompt), self.features, self.options.features.backbone)
        self.net_g.train()
        self.ema_decay = train.get('ema_decay', 0)
        if self.ema_decay > 0:
            self.start_average()
        self.net_d_iters, self.net_d_init_iters = train.get('net_d_iters', 1), train.get('net_d_init_iters', 0)
        self.setup_optimizers()
        self.setup_schedulers()

    def _parts(self) -> dict[str, bool]:
        """Network beside the generator -> whether it is trained."""
        return {
            'd': bool(self.opt['train'].get('gan_opt')),
            'feature_d': self.options.feature_weight > 0,
            'prompt': self.options.text_weight > 0,
        }

    def _part(self, name: str) -> nn.Module:
        """``network_<name>`` on the device, with the weights that ``path`` names."""
        net = self.model_to_device(build_network(self.opt[f'network_{name}'], f'network_{name}').train())
        path, options = self.opt['path'].get(f'pretrain_network_{name}'), self.opt['path']
        if path:
            self.load_network(
                net, path, options.get(f'strict_load_{name}', True), options.get(f'param_key_{name}', 'params')
            )
        return net

    def _check_features(self, pair: Any, inputs: Any, features: Any) -> None:
        """Forward hook of the semantic network: the length of a final feature may depend on the size of the crops."""
        check_features(self.opt, self.options, pair, features)

    def setup_optimizers(self) -> None:
        """``optim_g``, and an optimiser for each network beside the generator."""
        self.trained = ['g', *(name for name, is_on in self._parts().items() if is_on)]
        self.optimizer_of = {
            name: make_optimizer(
                getattr(self, f'net_{name}'), self.opt['train'].get(f'optim_{name}') or {}, f'train.optim_{name}'
            )
            for name in self.trained
        }
        self.optimizers = list(self.optimizer_of.values())

    def setup_schedulers(self) -> None:
        """``scheduler`` for all, or ``scheduler_<name>`` for one of them."""
        train = self.opt['train']
        for name, optimizer in self.optimizer_of.items():
            key = f'scheduler_{name}' if f'scheduler_{name}' in train else 'scheduler'
            self.schedulers.append(make_scheduler(optimizer, train.get(key) or {}, train['total_iter'], f'train.{key}'))

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """BasicSR's, without torch's warning on the schedule of a part whose first step is yet to come."""
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', message='Detected call of `lr_scheduler.step')
            super().update_learning_rate(current_iter, warmup_iter)

    @property
    def complete_iteration(self) -> int:
        """The first iteration in which every part takes its step."""
        intervals = {'feature_d': self.options.feature_interval, 'prompt': self.options.text_interval}
        period = math.lcm(self.net_d_iters, *(intervals.get(name, 1) for name in self.trained))
        return (self.net_d_init_iters // period + 1) * period

    # ---- one iteration ----

    def optimize_parameters(self, current_iter: int) -> None:
        """A step of the generator, and of each network beside it that is due."""
        losses: OrderedDict[str, Tensor] = OrderedDict()
        is_due = current_iter % self.net_d_iters == 0 and current_iter > self.net_d_init_iters
        with torch.set_grad_enabled(is_due):
            self.output = self.net_g(self.lq)
        if is_due:
            self._generator_step(losses)
        if self.net_d is not None:
            self._image_step(self.net_d, losses)
        steps = (
            (self.net_feature_d, self.options.feature_interval, self._feature_step),
            (self.net_prompt, self.options.text_interval, self._prompt_step),
        )
        due = [(net, step) for net, interval, step in steps if net is not None and current_iter % interval == 0]
        if self.features is not None and due:
            with torch.no_grad():
                pairs = self.features(torch.cat([self.reference('gan'), self.output.detach()]))
            for net, step in due:
                step(net, pairs, losses)
        self.log_dict = self.reduce_loss_dict(losses) if losses else OrderedDict()
        if self.ema_decay > 0:
            self.model_ema(decay=self.ema_decay)

    def reference(self, loss: Literal['l1', 'percep', 'gan']) -> Tensor:
        """High-quality images for a loss, (N, 3, H, W)."""
        return self.gt

    def _generator_step(self, losses: OrderedDict[str, Tensor]) -> None:
        terms: OrderedDict[str, Tensor | None] = OrderedDict()
        if self.cri_pix:
            terms['l_g_pix'] = self.cri_pix(self.output, self.reference('l1'))
        if self.cri_perceptual:
            terms['l_g_percep'], terms['l_g_style'] = self.cri_perceptual(self.output, self.reference('percep'))
        with _frozen(self.net_d, self.net_feature_d, self.net_prompt):
            if self.net_d is not None and self.cri_gan:
                terms['l_g_gan'] = self.cri_gan(self.get_bare_model(self.net_d)(self.output), True, is_disc=False)
            if self.features is not None:
                terms.update(self._semantic_terms(*self.features(self.output)))
            losses.update((name, value) for name, value in terms.items() if value is not None)
            self.optimizer_of['g'].zero_grad()
            sum(losses.values(), torch.zeros((), device=self.device)).backward()
        self.optimizer_of['g'].step()

    def _semantic_terms(self, middle: Tensor, final: Tensor) -> dict[str, Tensor]:
        """The generator's losses from Feat-D and from the prompts."""
        terms = {}
        if self.net_feature_d is not None:
            logits = self.get_bare_model(self.net_feature_d)(middle)
            terms['l_g_feature'] = self.options.feature_weight * self.cri_feature(logits, True, is_disc=False)
        if self.net_prompt is not None:
            logits = self.get_bare_model(self.net_prompt)(final, self._encode)
            terms['l_g_text'] = self.options.text_weight * _cross_entropy(logits, 0)
        return terms

    def _image_step(self, net: nn.Module, losses: OrderedDict[str, Tensor]) -> None:
        """SRGANModel's step of the image-level discriminator."""
        assert self.cri_gan is not None
        self.optimizer_of['d'].zero_grad()
        for name, images, is_real in (('real', self.reference('gan'), True), ('fake', self.output.detach(), False)):
            logits = net(images)
            losses[f'l_d_{name}'] = self.cri_gan(logits, is_real, is_disc=True)
            losses[f'out_d_{name}'] = logits.detach().mean()
            losses[f'l_d_{name}'].backward()
        self.optimizer_of['d'].step()

    def _feature_step(self, net: nn.Module, pairs: tuple[Tensor, Tensor], losses: OrderedDict[str, Tensor]) -> None:
        real, fake = net(pairs[0]).chunk(2)
        losses['l_feature_d'] = self.cri_feature(real, True, is_disc=True) + self.cri_feature(fake, False, is_disc=True)
        losses['out_feature_d_real'], losses['out_feature_d_fake'] = real.detach().mean(), fake.detach().mean()
        self._step('feature_d', losses['l_feature_d'])

    def _prompt_step(self, net: nn.Module, pairs: tuple[Tensor, Tensor], losses: OrderedDict[str, Tensor]) -> None:
        real, fake = net(pairs[1], self._encode).chunk(2)
        losses['l_prompt'] = _cross_entropy(real, 0) + _cross_entropy(fake, 1)
        self._step('prompt', losses['l_prompt'])

    def _step(self, name: str, loss: Tensor) -> None:
        self.optimizer_of[name].zero_grad()
        loss.backward()
        self.optimizer_of[name].step()

    @property
    def _encode(self) -> Any:
        """The frozen text tower; None: class vectors."""
        net: Any = self.get_bare_model(self.net_prompt)
        return self.features.encode_text if self.features is not None and net.num_context else None

    # ---- files ----

    def save(self, epoch: int, current_iter: int) -> None:
        """``net_g``, ``net_d``, ``net_feature_d``, ``net_prompt``, the training state, and the file of SFD-IQA."""
        average = hasattr(self, 'net_g_ema')
        keys: Any = ['params', 'params_ema'] if average else ['params']
        nets: Any = [self.net_g, self.net_g_ema] if average else [self.net_g]
        self.save_network(nets, 'net_g', current_iter, param_key=keys)
        for name in self.trained[1:]:
            self.save_network(getattr(self, f'net_{name}'), f'net_{name}', current_iter)
        if self.features is not None and self.opt['rank'] == 0:
            label = 'latest' if current_iter == -1 else current_iter
            nets = {name: self.get_bare_model(getattr(self, f'net_{name}')) for name in self.trained[1:] if name != 'd'}
            save_torch(iqa_file(self.opt, self.options, nets), Path(self.opt['path']['models']) / f'sfd_{label}.pth')
        self.save_training_state(epoch, current_iter)


@contextlib.contextmanager
def _frozen(*nets: nn.Module | None) -> Iterator[None]:
    """No gradient reaches the networks beside the generator, whose next steps would add it to theirs."""
    trained = [net for net in nets if net is not None]
    for net in trained:
        net.requires_grad_(False)
    try:
        yield
    finally:
        for net in trained:
            net.requires_grad_(True)


def _cross_entropy(logits: Tensor, label: int) -> Tensor:
    return F.cross_entropy(logits, torch.full((len(logits),), label, device=logits.device))


def iqa_file(opt: Mapping[str, Any], options: SFDOptions, nets: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Content of ``sfd_*.pth``: the semantic network's options, and Feat-D and prompts with their options."""
    parts = {
        name: {'network': opt[f'network_{name}'], 'params': on_cpu(net.state_dict())} for name, net in nets.items()
    }
    return {'format': FORMAT, 'features': options.features.model_dump(), 'gan_type': options.gan_type, **parts}
