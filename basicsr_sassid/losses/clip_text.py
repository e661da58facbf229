"""Text tower of CLIP (Radford et al., ICML 2021) behind learnable context vectors, as prompt learners use it.

Context vectors take the place of the first words (CoOp, Zhou et al., IJCV 2022). SFD (CVPR 2025) trains pairs of them.
Written by us, over open_clip_torch. Licence: Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from basicsr_sassid.io.checkpoint import load_state
from basicsr_sassid.losses.clip_backbone import (
    CLIP,
    NO_IMAGES,
    build_clip,
    clip_config,
    read_clip_weights,
    text_tensors,
)
from basicsr_sassid.losses.frozen_backbone import FrozenBackbone
from basicsr_sassid.losses.semantic_backbones import PRETRAINED, require_package
from basicsr_sassid.utils.errors import UserError

_VOCABULARY = 49408  # of CLIP's own tokens; the highest one ends a text, and the tower's output is taken there
_PLAIN = {'context_length', 'vocab_size', 'width', 'heads', 'layers'}  # settings of CLIP's own text towers


class ClipTextTower(FrozenBackbone):
    """CLIP's text tower: frozen, in eval mode, and absent from every state dict. Gradients reach the context vectors.

    Args:
        model_name: model of open_clip, with or without ``clip/``.
        weights: ``imagenet`` or ``pretrained``: OpenAI's; a tag of open_clip; a file with both towers, OpenAI's .pt or
            a state dict, .pt, .pth or .safetensors; or ``random``, for tests.

    Attributes:
        width: length of a context vector: 512 of RN50.
        num_features: length D of a text feature: 1024 of RN50.
        context_length: tokens of a text, with its start and its end: 77.

    Shape:
        context vectors (P, n_ctx, width) of P prompts, and for each prompt the tokens of the words behind them, by
        default none -> text features, (P, D), float32, not normalised; D is 1024 of RN50.

    Raises:
        UserError: open_clip_torch is missing, an unknown model or one with a text tower of another kind, weights that
            are missing or do not fit.
        ValueError: in the forward pass, for context vectors or tokens of another number or size.
    """

    def __init__(self, model_name: str = 'RN50-quickgelu', weights: str = PRETRAINED) -> None:
        name = model_name.removeprefix(CLIP)
        config = clip_config(name)
        text: dict[str, Any] = config['text_cfg']
        if config.get('custom_text') or not text.keys() <= _PLAIN or text.get('vocab_size') != _VOCABULARY:
            raise UserError(f'backbone: {CLIP}{name} has another text tower than CLIP; try {CLIP}RN50-quickgelu')
        state = read_clip_weights(name, config, PRETRAINED if weights == 'pretrained' else weights)
        net = build_clip(config, vision_cfg=NO_IMAGES, text_cfg=text)
        del net.visual
        if state is not None:
            load_state(net, text_tensors(state), f'weights: {weights}')
        super().__init__(net)
        self.width: int = net.token_embedding.embedding_dim
        self.num_features: int = config['embed_dim']
        self.context_length: int = net.context_length
        self._tokenizer = require_package('open_clip').SimpleTokenizer()

    def tokenize(self, text: str) -> list[int]:
        """Tokens of a text, without those of its start and end; none for an empty one."""
        return list(self._tokenizer.encode(text))

    @torch.no_grad()
    def embed(self, tokens: Sequence[int]) -> Tensor:
        """Token embeddings, (len(tokens), width): context vectors that equal words, from which training may start."""
        embedding: Any = self.backbone.token_embedding
        return embedding(torch.tensor(list(tokens), dtype=torch.long, device=embedding.weight.device))

    def forward(self, context: Tensor, words: Sequence[Sequence[int]] | None = None) -> Tensor:
        if context.dim() != 3 or context.shape[2] != self.width:
            raise ValueError(f'context: expected (P, n_ctx, {self.width}), got {tuple(context.shape)}')
        tokens = self._tokens(context, [()] * len(context) if words is None else words)
        num_ctx = context.shape[1]

        def insert(module: Any, inputs: Any, output: Tensor) -> Tensor:
            return torch.cat([output[:, :1], context.to(output.dtype), output[:, 1 + num_ctx :]], 1)

        net: Any = self.backbone
        with torch.autocast(context.device.type, enabled=False), net.token_embedding.register_forward_hook(insert):
            return net.encode_text(tokens)

    def _tokens(self, context: Tensor, words: Sequence[Sequence[int]]) -> Tensor:
        """Start, one token for each context vector, words, end, and zeros: (P, context_length)."""
        start, end = self._tokenizer.sot_token_id, self._tokenizer.eot_token_id
        if len(words) != len(context):
            raise ValueError(f'words: expected the tokens of {len(context)} prompts, got {len(words)}')
        tokens = torch.zeros(len(words), self.context_length, dtype=torch.long)
        for row, word in zip(tokens, words):
            if not all(0 <= token < start for token in word):
                raise ValueError(f'words: expected tokens in [0, {start - 1}], got {list(word)}')
            filled = [start, *[0] * context.shape[1], *word, end]
            if len(filled) > self.context_length:
                raise ValueError(
                    f'words: {context.shape[1]} context vectors and {len(word)} tokens do not fit into a text of '
                    f'{self.context_length} tokens with its start and its end'
                )
            row[: len(filled)] = torch.tensor(filled)
        return tokens.to(context.device)
