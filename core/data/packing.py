"""Which token sees which, and how training samples become one packed sequence.

``Layout`` is the one description that training, prefill, decoding and denoising share.

A *block* is a run of tokens under one rule (a text, or an image with its two markers). A query sees

- every token of earlier blocks of its own sample, unless that block is noised, and
- of its own block all tokens (image) or those up to itself (text, ``causal``).

Sources: spec sections 7 and 11.2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import torch
from torch import Tensor

from core.data.tokenizer import Tokenizer
from core.data.transforms import position_ids


@dataclass(frozen=True)
class Block:
    """``length`` consecutive tokens of one sample.

    ``causal`` says that a token sees only its predecessors in the block (text); ``noised`` that later
    blocks do not see it (an image with a loss, or one being drawn).
    """

    sample: int
    length: int
    causal: bool
    noised: bool = False


@dataclass(frozen=True)
class Layout:
    """A packed sequence of N tokens.

    Attributes:
        blocks: consecutive blocks, N tokens in total; those of one sample follow each other.
        positions: rotary position of each token [N].
        latents: indices of the tokens that the generating expert computes, ascending, on the CPU; the
            understanding expert computes the rest: text, markers and ViT tokens.
    """

    blocks: tuple[Block, ...]
    positions: Tensor
    latents: Tensor

    @cached_property
    def _others(self) -> Tensor:
        keep = torch.ones(len(self.positions), dtype=torch.bool)
        keep[self.latents] = False
        return keep.nonzero().flatten()

    @cached_property
    def gen(self) -> Tensor:
        """``latents`` on the device of the positions."""
        return self.latents.to(self.positions.device)

    @cached_property
    def und(self) -> Tensor:
        """Indices of the tokens that the understanding expert computes, ascending."""
        return self._others.to(self.positions.device)

    @cached_property
    def experts(self) -> Tensor:
        """Indices of all tokens, the understanding expert's first."""
        return torch.cat([self._others, self.latents]).to(self.positions.device)

    @cached_property
    def merge(self) -> Tensor:
        """Puts ``cat([und tokens, gen tokens])`` back into sequence order: the inverse of ``experts``."""
        return torch.argsort(torch.cat([self._others, self.latents])).to(self.positions.device)

    @cached_property
    def block_starts(self) -> list[int]:
        starts = [0]
        for block in self.blocks:
            starts.append(starts[-1] + block.length)
        return starts

    @cached_property
    def samples(self) -> list[tuple[int, int]]:
        """Start and length of each sample, in order."""
        out: list[list[int]] = []
        last = None
        for start, block in zip(self.block_starts, self.blocks, strict=False):
            if block.sample != last:
                out.append([start, 0])
                last = block.sample
            out[-1][1] += block.length
        return [(start, length) for start, length in out]

    @cached_property
    def visible(self) -> list[Tensor]:
        """For each block the indices of the tokens that its queries see, its own block last."""
        out, clean, last = [], [], None
        for start, block in zip(self.block_starts, self.blocks, strict=False):
            if block.sample != last:
                clean, last = [], block.sample
            own = torch.arange(start, start + block.length)
            out.append(torch.cat([*clean, own]))
            if not block.noised:
                clean.append(own)
        return out

    def mask(self) -> Tensor:
        """Dense rule [N, N], True where the row may see the column. For tests and small packs."""
        n = len(self.positions)
        device = self.positions.device

        def per_token(values: list) -> Tensor:
            lengths = torch.tensor([b.length for b in self.blocks])
            return torch.repeat_interleave(torch.tensor(values), lengths).to(device)

        sample = per_token([b.sample for b in self.blocks])
        block = per_token(list(range(len(self.blocks))))
        causal = per_token([b.causal for b in self.blocks])
        noised = per_token([b.noised for b in self.blocks])
        index = torch.arange(n, device=device)
        same = block[:, None] == block[None, :]
        earlier = (block[None, :] < block[:, None]) & ~noised[None, :]
        within = same & (~causal[:, None] | (index[None, :] <= index[:, None]))
        return (sample[:, None] == sample[None, :]) & (earlier | within)


@dataclass(frozen=True)
class TextItem:
    """A text of a training sample: ids without markers. With ``loss`` the model learns to write it.

    ``next_label``, if given, is what the end marker should predict (a start-of-image marker, say).
    """

    ids: list[int]
    loss: bool = False
    droppable: bool = False
    next_label: int | None = None


@dataclass(frozen=True)
class ViTItem:
    """An image to understand: patches [h*w, p*p*3]."""

    patches: Tensor
    grid: tuple[int, int]
    droppable: bool = False


@dataclass(frozen=True)
class LatentItem:
    """An image as clean latent tokens [h*w, 64]. With ``loss`` the model learns to draw it."""

    tokens: Tensor
    grid: tuple[int, int]
    loss: bool = False
    droppable: bool = False


Item = TextItem | ViTItem | LatentItem


@dataclass(frozen=True)
class DropRates:
    """Probabilities of leaving out a droppable condition, so that guidance has its contexts (section 11.3)."""

    text: float = 0.1
    vit: float = 0.3
    vae: float = 0.3

    def of(self, item: Item) -> float:
        return {TextItem: self.text, ViTItem: self.vit, LatentItem: self.vae}[type(item)]


@dataclass
class Pack:
    """Training samples as one sequence of N tokens. ``*_index`` are places in the sequence.

    Attributes:
        text_ids: ids of all text and marker tokens, with ``text_index``.
        vit_patches: patches of all images to understand, with their position ids, places and lengths.
        latents: clean latent tokens [n, 64], with position ids; their places are ``layout.latents``.
        raw_times: one standard normal draw for each image with a loss, -inf for clean ones [n].
        mse_index: places of the latent tokens with a loss.
        labels: ids to predict at ``ce_index``; ``ce_weights`` are 1/sqrt(length of the text with its end).
    """

    layout: Layout
    text_ids: Tensor
    text_index: Tensor
    vit_patches: Tensor
    vit_position_ids: Tensor
    vit_index: Tensor
    vit_lengths: list[int]
    latents: Tensor
    latent_position_ids: Tensor
    raw_times: Tensor
    mse_index: Tensor
    labels: Tensor
    ce_index: Tensor
    ce_weights: Tensor

    def to(self, device: torch.device) -> Pack:
        """The pack with its tensors on a device; the layout's ``latents`` stay on the CPU, where plans are made."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in moved.items()}
        return Pack(**moved | {"layout": replace(self.layout, positions=self.layout.positions.to(device))})


@dataclass
class _Columns:
    """The lists that a pack grows from."""

    blocks: list[Block] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    text_ids: list[int] = field(default_factory=list)
    text_index: list[int] = field(default_factory=list)
    vit: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    vit_index: list[int] = field(default_factory=list)
    latents: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    latent_index: list[int] = field(default_factory=list)
    raw_times: list[Tensor] = field(default_factory=list)
    mse_index: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    ce_index: list[int] = field(default_factory=list)
    ce_weights: list[float] = field(default_factory=list)


def pack(
    samples: list[list[Item]], tokenizer: Tokenizer, sides: tuple[int, int], rates: DropRates,
    uniform: Callable[[], float], normal: Callable[[], Tensor],
) -> Pack:  # fmt: skip
    """Concatenates samples; each has its own positions and is invisible to the others (section 11).

    Args:
        sides: of the ViT's and of the latents' position tables.
        uniform: draws from [0, 1), one for each droppable item in order; it is dropped below its rate.
        normal: draws the raw time of an image with a loss, a scalar tensor.
    """
    c = _Columns()
    for number, items in enumerate(samples):
        position = 0
        for item in items:
            is_text = isinstance(item, TextItem)
            if item.droppable and uniform() < rates.of(item):
                position += 0 if is_text else 1
                continue
            if is_text:
                _pack_text(c, number, position, item, tokenizer)
                position += len(item.ids) + 2
            else:
                _pack_image(c, number, position, item, tokenizer, sides, normal)
                position += 0 if isinstance(item, LatentItem) and item.loss else 1
    return _finish(c)


def _pack_text(c: _Columns, sample: int, position: int, item: TextItem, tokenizer: Tokenizer) -> None:
    start, ids = len(c.positions), [tokenizer.bos, *item.ids, tokenizer.eos]
    c.blocks.append(Block(sample, len(ids), causal=True))
    c.positions.extend(range(position, position + len(ids)))
    c.text_index.extend(range(start, start + len(ids)))
    c.text_ids.extend(ids)
    if item.loss:
        c.labels.extend(ids[1:])
        c.ce_index.extend(range(start, start + len(ids) - 1))
        c.ce_weights.extend([(len(ids) - 1) ** -0.5] * (len(ids) - 1))
    if item.next_label is not None:
        c.labels.append(item.next_label)
        c.ce_index.append(start + len(ids) - 1)
        c.ce_weights.append(1.0)


def _pack_image(
    c: _Columns, sample: int, position: int, item: ViTItem | LatentItem, tokenizer: Tokenizer,
    sides: tuple[int, int], normal: Callable[[], Tensor],
) -> None:  # fmt: skip
    start, count = len(c.positions), item.grid[0] * item.grid[1]
    inside = range(start + 1, start + 1 + count)
    drawn = isinstance(item, LatentItem) and item.loss
    c.blocks.append(Block(sample, count + 2, causal=False, noised=drawn))
    c.positions.extend([position] * (count + 2))
    c.text_index.extend((start, start + count + 1))
    c.text_ids.extend((tokenizer.soi, tokenizer.eoi))
    if isinstance(item, ViTItem):
        c.vit.append((item.patches, position_ids(*item.grid, sides[0])))
        c.vit_index.extend(inside)
        return
    c.latents.append((item.tokens, position_ids(*item.grid, sides[1])))
    c.latent_index.extend(inside)
    c.raw_times.append((normal() if drawn else torch.tensor(float("-inf"))).expand(count))
    if drawn:
        c.mse_index.extend(inside)


def _finish(c: _Columns) -> Pack:
    def joined(parts: list[Tensor], empty: Tensor) -> Tensor:
        return torch.cat(parts) if parts else empty

    none, no_ids = torch.zeros(0), torch.zeros(0, dtype=torch.long)
    return Pack(
        layout=Layout(tuple(c.blocks), torch.tensor(c.positions), torch.tensor(c.latent_index, dtype=torch.long)),
        text_ids=torch.tensor(c.text_ids),
        text_index=torch.tensor(c.text_index),
        vit_patches=joined([p for p, _ in c.vit], none),
        vit_position_ids=joined([i for _, i in c.vit], no_ids),
        vit_index=torch.tensor(c.vit_index, dtype=torch.long),
        vit_lengths=[len(p) for p, _ in c.vit],
        latents=joined([p for p, _ in c.latents], none),
        latent_position_ids=joined([i for _, i in c.latents], no_ids),
        raw_times=joined(c.raw_times, none),
        mse_index=torch.tensor(c.mse_index, dtype=torch.long),
        labels=torch.tensor(c.labels, dtype=torch.long),
        ce_index=torch.tensor(c.ce_index, dtype=torch.long),
        ce_weights=torch.tensor(c.ce_weights),
    )
