"""Both rules of attention, against xformers' own biases and against the specification's dense mask."""

import random

import pytest
import torch
from torch import Tensor

from core.data.packing import Block, Layout
from core.model.attention import PackedAttention, Plan, Run, attend, bias_for


def dense(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention spelled out: [N, h, d] over [M, g, d] under a boolean mask [N, M]."""
    share = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
    scores = torch.einsum("nhd,mhd->hnm", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("hnm,mhd->nhd", scores.masked_fill(~mask, float("-inf")).softmax(-1), v)


CPU = torch.device("cpu")


def qkv(queries: int, keys: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(n, h, 8, generator=g) for n, h in ((queries, 4), (keys, 2), (keys, 2)))


@pytest.mark.parametrize("causal", [True, False])
def test_runs_follow_xformers_bias(causal):
    pytest.importorskip("xformers", reason="no wheel for this platform")
    runs = [Run(3, 7, causal), Run(1, 5, causal), Run(4, 4, causal), Run(2, 9, causal)]
    q, k, v = qkv(sum(r.queries for r in runs), sum(r.keys for r in runs))
    bias = bias_for(runs).materialize((len(q), len(k)))
    assert torch.allclose(attend(q, k, v, Plan(runs, CPU)), dense(q, k, v, bias == 0), atol=1e-5)


def test_runs_of_both_rules_mix():
    pytest.importorskip("xformers", reason="no wheel for this platform")
    runs = [Run(3, 7, True), Run(2, 6, False), Run(1, 4, True)]
    q, k, v = qkv(6, 17)
    alone, start = [], (0, 0)
    for run in runs:
        a, b = start
        bias = bias_for([run]).materialize((run.queries, run.keys))
        part = q[a : a + run.queries], k[b : b + run.keys], v[b : b + run.keys]
        alone.append(dense(*part, bias == 0))
        start = (a + run.queries, b + run.keys)
    assert torch.allclose(attend(q, k, v, Plan(runs, CPU)), torch.cat(alone), atol=1e-5)


def random_layout(seed: int) -> Layout:
    rng = random.Random(seed)
    blocks = [
        Block(sample, rng.randint(1, 5), causal := rng.random() < 0.5, not causal and rng.random() < 0.5)
        for sample in range(rng.randint(1, 4))
        for _ in range(rng.randint(1, 5))
    ]
    n = sum(b.length for b in blocks)
    return Layout(tuple(blocks), torch.zeros(n, dtype=torch.long), torch.zeros(0, dtype=torch.long))


def specified_mask(layout: Layout) -> Tensor:
    """Section 11.2 word by word: same sample, and [k <= q or same full block], and not [k in another noise block]."""
    owner = [(i, b) for i, b in enumerate(layout.blocks) for _ in range(b.length)]
    n = len(owner)
    mask = torch.zeros(n, n, dtype=torch.bool)
    for q, (i, a) in enumerate(owner):
        for k, (j, b) in enumerate(owner):
            within = i == j and not a.causal
            mask[q, k] = a.sample == b.sample and (k <= q or within) and not (b.noised and i != j)
    return mask


@pytest.mark.parametrize("seed", range(60))
def test_layout_mask_is_the_specified_one(seed):
    layout = random_layout(seed)
    assert torch.equal(layout.mask(), specified_mask(layout))


@pytest.mark.parametrize("seed", range(20))
def test_packed_attention_follows_the_dense_mask_on_both_paths(seed):
    layout = random_layout(seed)
    n = len(layout.positions)
    q, k, v = qkv(n, n, seed)
    expected = dense(q, k, v, layout.mask())
    assert torch.allclose(PackedAttention(layout, torch.float32)(0, q, k, v), expected, atol=1e-5)
    runs = [Run(b.length, len(s), b.causal) for b, s in zip(layout.blocks, layout.visible, strict=True)]
    gathered = torch.cat(layout.visible)
    assert torch.allclose(attend(q, k[gathered], v[gathered], Plan(runs, CPU)), expected, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(5))
def test_cuda_equals_cpu(seed):
    layout = random_layout(seed)
    n = len(layout.positions)
    q, k, v = (x.repeat(1, 1, 8) for x in qkv(n, n, seed))
    runs = [Run(b.length, len(s), b.causal) for b, s in zip(layout.blocks, layout.visible, strict=True)]
    gathered = torch.cat(layout.visible)
    expected = attend(q, k[gathered], v[gathered], Plan(runs, CPU))
    plan = Plan(runs, torch.device("cuda"))
    ours = attend(*(x.cuda().bfloat16() for x in (q, k[gathered], v[gathered])), plan)
    assert torch.allclose(ours.float().cpu(), expected, atol=3e-2)
