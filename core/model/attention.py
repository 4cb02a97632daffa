"""One attention interface: xformers on CUDA, PyTorch's scaled dot-product attention elsewhere.

Every caller describes what its queries see as *runs*: consecutive queries that see one run of keys, all of
it or causally up to the diagonal that ends in the last key (bottom right). That is the whole rule at
inference; in training a block's keys are gathered first, so that the same rule applies.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from core.data.packing import Layout

LONGEST_OVER_SHORTEST = 1.5
"""Samples of a padded batch differ in length by at most this factor."""


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape = x.shape
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.shape).index_copy_(0, index, gradient), None


def rows(x: Tensor, index: Tensor) -> Tensor:
    """Rows [n, ...] of x at an index without repetitions [n].

    ``index_select`` computes the same, but adds up its gradient, which takes several times as long on a CPU.
    """
    return _Rows.apply(x, index)


@dataclass(frozen=True)
class Run:
    """``queries`` consecutive queries over ``keys`` consecutive keys."""

    queries: int
    keys: int
    causal: bool


@cache
def backend(device: torch.device, dtype: torch.dtype) -> str:
    """Name of what computes attention: xformers in 16 bit on NVIDIA GPUs from Ampere on, otherwise torch's own."""
    if device.type != "cuda" or dtype == torch.float32 or find_spec("xformers") is None:
        return "sdpa"
    return "xformers" if torch.cuda.get_device_capability(device) >= (8, 0) else "sdpa"


class Plan:
    """Runs in the order of the packed tensors. Biases are built once and serve every layer of a pass."""

    def __init__(self, runs: list[Run], device: torch.device) -> None:
        self.runs, self.device = runs, device
        self.queries, self.keys = [r.queries for r in runs], [r.keys for r in runs]

    @cached_property
    def parts(self) -> list[tuple[object, Tensor | None, Tensor | None]]:
        """One xformers call for each rule: (bias, rows of q, rows of k); None stands for all rows.

        xformers has no bias that mixes both rules.
        """
        rules = sorted({run.causal for run in self.runs})
        if len(rules) == 1:
            return [(bias_for(self.runs, self.device), None, None)]
        return [
            (
                bias_for([r for r in self.runs if r.causal is rule], self.device),
                self._rows(self.queries, rule),
                self._rows(self.keys, rule),
            )
            for rule in rules
        ]

    def _rows(self, lengths: list[int], rule: bool) -> Tensor:
        chosen = torch.tensor([run.causal is rule for run in self.runs])
        return torch.repeat_interleave(chosen, torch.tensor(lengths)).nonzero().flatten().to(self.device)


def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan) -> Tensor:
    """Grouped-query attention over packed runs, scaled by 1/sqrt(d).

    Args:
        q: [sum of queries, heads, d].
        k, v: [sum of keys, kv_heads, d]; query head j uses kv head j // (heads / kv_heads).

    Returns:
        [sum of queries, heads, d].
    """
    assert sum(plan.queries) == len(q) and sum(plan.keys) == len(k), (q.shape, k.shape, plan.runs)
    if backend(q.device, q.dtype) == "sdpa":
        return _sdpa(q, k, v, plan)
    if len(plan.parts) == 1:
        return _xformers(q, k, v, plan.parts[0][0])
    out = torch.empty_like(q)
    for bias, rows, columns in plan.parts:
        seen = (x.index_select(0, columns) for x in (k, v))
        out[rows] = _xformers(q.index_select(0, rows), *seen, bias)
    return out


def _sdpa(q: Tensor, k: Tensor, v: Tensor, plan: Plan) -> Tensor:
    out = []
    parts = zip(q.split(plan.queries), k.split(plan.keys), v.split(plan.keys), strict=True)
    for run, (q_run, k_run, v_run) in zip(plan.runs, parts, strict=True):
        mask, square = None, run.causal and run.queries == run.keys
        if run.causal and 1 < run.queries < run.keys:
            mask = torch.ones(run.queries, run.keys, dtype=torch.bool, device=q.device)
            mask = mask.tril(run.keys - run.queries)
        out.append(_heads_first(q_run[None], k_run[None], v_run[None], mask, is_causal=square)[0])
    return torch.cat(out)


def _heads_first(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, is_causal: bool = False) -> Tensor:
    """SDPA on [B, n, heads, d] tensors with grouped heads."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=is_causal, enable_gqa=q.shape[1] != k.shape[1]
    )
    return out.transpose(1, 2)


def bias_for(runs: list[Run], device: torch.device | None = None):
    """The xformers bias of runs that share one rule."""
    from xformers.ops.fmha.attn_bias import BlockDiagonalCausalFromBottomRightMask, BlockDiagonalMask

    cls = BlockDiagonalCausalFromBottomRightMask if runs[0].causal else BlockDiagonalMask
    return cls.from_seqlens([r.queries for r in runs], [r.keys for r in runs], device=device)


def _xformers(q: Tensor, k: Tensor, v: Tensor, bias) -> Tensor:
    from xformers.ops import memory_efficient_attention

    n, heads, d = q.shape
    groups = k.shape[1]
    share = heads // groups
    q5 = q.reshape(1, n, groups, share, d)
    k5, v5 = (x[None, :, :, None].expand(1, len(x), groups, share, d) for x in (k, v))
    return memory_efficient_attention(q5, k5, v5, attn_bias=bias).reshape(n, heads, d)


class PackedAttention:
    """Attention within one packed training sequence, without a cache."""

    def __init__(self, layout: Layout, dtype: torch.dtype) -> None:
        self.layout = layout
        self.device = layout.positions.device
        self.padded = backend(self.device, dtype) == "sdpa"
        if self.padded:
            self._prepare_padded()
            return
        self.keys = torch.cat(layout.visible).to(self.device)
        seen = zip(layout.blocks, layout.visible, strict=True)
        self.plan = Plan([Run(block.length, len(keys), block.causal) for block, keys in seen], self.device)

    def _prepare_padded(self) -> None:
        """Samples of similar length side by side in padded batches: a loop over many short ones would be slower."""
        groups: list[list[tuple[int, int]]] = []
        for span in sorted(self.layout.samples, key=lambda span: span[1]):
            if not groups or span[1] > LONGEST_OVER_SHORTEST * groups[-1][0][1]:
                groups.append([])
            groups[-1].append(span)
        order = torch.cat([torch.arange(start, start + length) for spans in groups for start, length in spans])
        self.order, self.inverse = order.to(self.device), torch.argsort(order).to(self.device)
        self.batches = [self._padded(spans) for spans in groups]

    def _padded(self, spans: list[tuple[int, int]]) -> tuple[Tensor, tuple[int, int], Tensor | None]:
        """Of one batch: the slots of its tokens, its shape, and its mask."""
        longest = max(length for _, length in spans)
        slots = torch.cat([i * longest + torch.arange(length) for i, (_, length) in enumerate(spans)])
        mask = torch.zeros(len(spans), longest, longest, dtype=torch.bool)
        mask[:, :, 0] = True  # padding rows must see something: their result is dropped
        for i, (start, length) in enumerate(spans):
            mask[i, :length, :length] = self._sample_mask(start, length)
        bias = None if mask.all() else mask[:, None].to(self.device)
        return slots.to(self.device), (len(spans), longest), bias

    def _sample_mask(self, start: int, length: int) -> Tensor:
        inside = [
            block
            for block, begin in zip(self.layout.blocks, self.layout.block_starts, strict=False)
            if start <= begin < start + length
        ]
        return Layout(tuple(inside), torch.zeros(length, dtype=torch.long), torch.zeros(0, dtype=torch.long)).mask()

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [N, heads, d], k and v [N, kv_heads, d] in sequence order; returns [N, heads, d].

        Under autocast the norms leave q and k in float32; they take the dtype of v.
        """
        q, k = q.to(v.dtype), k.to(v.dtype)
        if not self.padded:
            return attend(q, *(x.index_select(0, self.keys) for x in (k, v)), self.plan)
        sizes = [len(slots) for slots, _, _ in self.batches]
        sorted_parts = (rows(x, self.order).split(sizes) for x in (q, k, v))
        out = []
        for (slots, shape, bias), *parts in zip(self.batches, *sorted_parts, strict=True):
            padded = (
                x.new_zeros(shape[0] * shape[1], *x.shape[1:]).index_copy(0, slots, x).view(*shape, *x.shape[1:])
                for x in parts
            )
            out.append(rows(_heads_first(*padded, bias).reshape(-1, *q.shape[1:]), slots))
        return rows(torch.cat(out), self.inverse)
