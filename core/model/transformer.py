"""The decoder: a mixture of two transformers that meet only in attention (spec section 6).

The residual stream is a pair: one tensor for the tokens of the understanding expert, one for those of the
generating expert. Each expert works on its own tensor; queries, keys and values are merged into sequence
order for the joint attention and split again after it. A pack without latents never touches the second expert.

Shape letters: N tokens, H width, h heads, g kv heads, d values of a head.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from core.config import LLMConfig
from core.data.packing import Layout
from core.model.attention import rows

Attention = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q [N, h, d], k [N, g, d], v [N, g, d]) to [N, h, d], all in sequence order."""

Tables = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Rotary cosines and sines of the understanding and of the generating expert's tokens."""


class RMSNorm(nn.Module):
    """w * x / sqrt(mean(x^2) + eps), computed in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class Rotary:
    """Tables of the rotary embedding in the halves convention, in float32."""

    def __init__(self, positions: Tensor, head_dim: int, theta: float) -> None:
        exponent = torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim
        angle = positions.float()[:, None] * (1.0 / theta**exponent)
        self.cos = torch.cat([angle, angle], -1).cos()
        self.sin = torch.cat([angle, angle], -1).sin()

    def rows(self, index: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines [n, 1, d] of some tokens, in the dtype that they are applied in."""
        return self.cos[index][:, None].to(dtype), self.sin[index][:, None].to(dtype)


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """x [N, heads, d] turned by the angles of its tokens."""
    cos, sin = table
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], -1) * sin


class Expert(nn.Module):
    """One layer's full set of weights for the tokens of one kind."""

    def __init__(self, config: LLMConfig) -> None:
        super().__init__()
        width, d = config.hidden_size, config.head_dim
        self.head_dim = d
        self.input_norm = RMSNorm(width, config.rms_norm_eps)
        self.q_proj = nn.Linear(width, config.num_attention_heads * d)
        self.k_proj = nn.Linear(width, config.num_key_value_heads * d)
        self.v_proj = nn.Linear(width, config.num_key_value_heads * d)
        self.o_proj = nn.Linear(config.num_attention_heads * d, width, bias=False)
        self.q_norm = RMSNorm(d, config.rms_norm_eps)
        self.k_norm = RMSNorm(d, config.rms_norm_eps)
        self.post_norm = RMSNorm(width, config.rms_norm_eps)
        self.gate_proj = nn.Linear(width, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(width, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, width, bias=False)

    def qkv(self, x: Tensor, table: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """x [n, H] to q [n, h, d], k and v [n, g, d]; q and k are normalised per head, then rotated."""
        x = self.input_norm(x)
        q, k, v = (proj(x).unflatten(-1, (-1, self.head_dim)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        return rotate(self.q_norm(q), table), rotate(self.k_norm(k), table), v

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Output projection and MLP, each with its residual; x [n, H], attended [n, h, d]."""
        x = x + self.o_proj(attended.flatten(-2))
        y = self.post_norm(x)
        return x + self.down_proj(F.silu(self.gate_proj(y)) * self.up_proj(y))


class Layer(nn.Module):
    """Two experts and their joint attention."""

    def __init__(self, config: LLMConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.und, self.gen = Expert(config), Expert(config)

    def forward(
        self, und: Tensor, gen: Tensor, layout: Layout, tables: Tables, attention: Attention
    ) -> tuple[Tensor, Tensor]:
        """One step of the residual pair: und [n_und, H], gen [n_gen, H]; gen may be empty."""
        if len(gen) == 0:
            q, k, v = self.und.qkv(und, tables[0])
            return self.und.finish(und, attention(self.index, q, k, v)), gen
        pairs = zip(self.und.qkv(und, tables[0]), self.gen.qkv(gen, tables[1]), strict=True)
        attended = attention(self.index, *(rows(torch.cat(pair), layout.merge) for pair in pairs))
        split = iter(rows(attended, layout.experts).split([len(und), len(gen)]))
        return self.und.finish(und, next(split)), self.gen.finish(gen, next(split))


class MixtureOfTransformers(nn.Module):
    """Embeddings, layers, one final norm for each expert, and the text head."""

    def __init__(self, config: LLMConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.norm_gen = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.recompute_every = 0
        """In training, every n-th layer is computed again in the backward pass instead of being remembered."""

    def forward(self, und: Tensor, gen: Tensor, layout: Layout, attention: Attention) -> tuple[Tensor, Tensor]:
        """Final hidden states of both kinds of tokens, each in the order of its input."""
        rotary = Rotary(layout.positions, self.config.head_dim, self.config.rope_theta)
        tables = rotary.rows(layout.und, und.dtype), rotary.rows(layout.gen, und.dtype)
        for layer in self.layers:
            if self.recompute_every and torch.is_grad_enabled() and layer.index % self.recompute_every == 0:
                und, gen = checkpoint(layer, und, gen, layout, tables, attention, use_reentrant=False)
            else:
                und, gen = layer(und, gen, layout, tables, attention)
        return self.norm(und), self.norm_gen(gen)
