"""The whole model: it knows tokens, patches and latents, and nothing of text, files or widgets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.config import ModelConfig
from core.data.packing import Block, Layout
from core.model.attention import Plan, Run, attend
from core.model.cache import KVCache
from core.model.flow import TimeEmbedder
from core.model.transformer import MixtureOfTransformers
from core.model.vae import Autoencoder
from core.model.vit import Connector, VisionEncoder, sincos_table


@dataclass(frozen=True)
class TextPiece:
    """Token ids [n] that go into a context, markers included. With ``logits`` the last one's are returned."""

    cache: KVCache
    ids: list[int]
    logits: bool = False


@dataclass(frozen=True)
class ViTPiece:
    """An image to understand: patches [n, p*p*3] and their position ids [n] go into a context."""

    cache: KVCache
    patches: Tensor
    position_ids: Tensor


@dataclass(frozen=True)
class LatentPiece:
    """Latent tokens [n, 64] with position ids [n] at time t.

    A clean image (``t`` 0) goes into the context; a noised one leaves no trace and its velocity is returned.
    """

    cache: KVCache
    tokens: Tensor
    position_ids: Tensor
    t: float = 0.0

    @property
    def clean(self) -> bool:
        return self.t == 0.0


Piece = TextPiece | ViTPiece | LatentPiece


class UnifiedModel(nn.Module):
    """Mixture-of-Transformers decoder, vision encoder, connector, flow head and autoencoder."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.llm.hidden_size
        self.config = config
        self.language_model = MixtureOfTransformers(config.llm)
        self.vit = VisionEncoder(config.vit)
        self.connector = Connector(config.vit.hidden_size, width)
        self.time_embedder = TimeEmbedder(width)
        self.vae2llm = nn.Linear(config.latent_dim, width)
        self.llm2vae = nn.Linear(width, config.latent_dim)
        latent_table = sincos_table(config.max_latent_size, width)
        vit_table = sincos_table(config.vit_table_side, width)
        self.latent_pos_embed = nn.Parameter(latent_table, requires_grad=False)
        self.vit_pos_embed = nn.Parameter(vit_table, requires_grad=False)
        self.vae = Autoencoder(config.vae)

    @property
    def device(self) -> torch.device:
        return self.latent_pos_embed.device

    @property
    def dtype(self) -> torch.dtype:
        return self.latent_pos_embed.dtype

    def new_cache(self) -> KVCache:
        """An empty context."""
        return KVCache(self.config.llm, self.device, self.dtype)

    def embed_text(self, ids: Tensor) -> Tensor:
        """[n] to [n, H]."""
        return self.language_model.embed_tokens(ids)

    def embed_vit(self, patches: Tensor, position_ids: Tensor, lengths: list[int]) -> Tensor:
        """Packed patches of images to what enters the decoder [n, H]."""
        return self.connector(self.vit(patches, position_ids, lengths)) + self.vit_pos_embed[position_ids]

    def embed_latent(self, tokens: Tensor, position_ids: Tensor, t: Tensor) -> Tensor:
        """Latent tokens [n, 64] at times [n] to what enters the decoder [n, H]."""
        return self.vae2llm(tokens) + self.time_embedder(t) + self.latent_pos_embed[position_ids]

    def logits(self, und_hidden: Tensor) -> Tensor:
        return self.language_model.lm_head(und_hidden)

    def velocity(self, gen_hidden: Tensor) -> Tensor:
        return self.llm2vae(gen_hidden)

    @torch.inference_mode()
    def step(self, pieces: list[Piece], soi: int, eoi: int) -> list[Tensor | None]:
        """One packed forward pass over pieces of any kinds, each in its own context.

        A context may take part several times if nothing, or only one piece, writes into it.

        Returns:
            For each piece: logits [V] of its last token, velocity [n, 64], or None.
        """
        layout, und, gen = self.pack(pieces, soi, eoi)
        writers = [id(p.cache) for p, b in zip(pieces, layout.blocks, strict=True) if not b.noised]
        assert len(writers) == len(set(writers)), "two pieces write into one context"
        for piece, block in zip(pieces, layout.blocks, strict=True):
            if not block.noised:
                piece.cache.reserve(block.length)
        und, gen = self.language_model(und, gen, layout, CachedAttention(pieces, layout))
        for piece, block in zip(pieces, layout.blocks, strict=True):
            if not block.noised:
                piece.cache.advance(block.length, block.length if block.causal else 1)
        return self._read_out(pieces, und, gen)

    def pack(self, pieces: list[Piece], soi: int, eoi: int) -> tuple[Layout, Tensor, Tensor]:
        """Layout and embeddings of both experts' tokens, in sequence order."""
        ids: list[int] = []
        slots: list[int] = []  # rows of ``und`` that hold text; the others hold ViT tokens
        blocks, positions, gen_index = [], [], []
        start = rows = 0
        for i, piece in enumerate(pieces):
            first = piece.cache.position
            if isinstance(piece, TextPiece):
                n, und_count, text = len(piece.ids), len(piece.ids), piece.ids
                blocks.append(Block(i, n, causal=True))
                positions.append(torch.arange(first, first + n))
                slots.extend(range(rows, rows + n))
            else:
                is_vit = isinstance(piece, ViTPiece)
                inside = len(piece.position_ids)
                n, und_count, text = inside + 2, inside + 2 if is_vit else 2, [soi, eoi]
                blocks.append(Block(i, n, causal=False, noised=not is_vit and not piece.clean))
                positions.append(torch.full((n,), first))
                slots.extend((rows, rows + und_count - 1))
                if not is_vit:
                    gen_index.append(torch.arange(start + 1, start + 1 + inside))
            ids.extend(text)
            rows += und_count
            start += n
        latents = torch.cat(gen_index) if gen_index else torch.zeros(0, dtype=torch.long)
        layout = Layout(tuple(blocks), torch.cat(positions).to(self.device), latents)
        vits = [p for p in pieces if isinstance(p, ViTPiece)]
        und = self.embed_text(torch.tensor(ids, device=self.device))
        if vits:
            seen = self.embed_vit(
                torch.cat([p.patches for p in vits]).to(self.device, self.dtype),
                torch.cat([p.position_ids for p in vits]).to(self.device),
                [len(p.position_ids) for p in vits],
            )
            text_rows = torch.tensor(slots)
            others = torch.ones(rows, dtype=torch.bool).index_fill(0, text_rows, False).nonzero().flatten()
            und = torch.cat([und, seen])[torch.argsort(torch.cat([text_rows, others])).to(self.device)]
        return layout, und, self._embed_latents([p for p in pieces if isinstance(p, LatentPiece)])

    def _embed_latents(self, pieces: list[LatentPiece]) -> Tensor:
        if not pieces:
            return torch.empty(0, self.config.llm.hidden_size, device=self.device, dtype=self.dtype)
        times = torch.cat([torch.full((len(p.tokens),), p.t) for p in pieces])
        return self.embed_latent(
            torch.cat([p.tokens.to(self.device) for p in pieces]).to(self.dtype),
            torch.cat([p.position_ids for p in pieces]).to(self.device),
            times.to(self.device),
        )

    def _read_out(self, pieces: list[Piece], und: Tensor, gen: Tensor) -> list[Tensor | None]:
        out: list[Tensor | None] = []
        und_row = gen_row = 0
        for piece in pieces:
            result = None
            if isinstance(piece, TextPiece):
                und_row += len(piece.ids)
                if piece.logits:
                    result = self.logits(und[und_row - 1])
            elif isinstance(piece, ViTPiece):
                und_row += len(piece.position_ids) + 2
            else:
                und_row += 2
                if not piece.clean:
                    result = self.velocity(gen[gen_row : gen_row + len(piece.tokens)])
                gen_row += len(piece.tokens)
            out.append(result)
        return out


class CachedAttention:
    """Attention of a packed step: each piece sees its whole context, and itself fully or causally."""

    def __init__(self, pieces: list[Piece], layout: Layout) -> None:
        self.pieces, self.blocks = pieces, layout.blocks
        runs = [Run(b.length, p.cache.length + b.length, b.causal) for p, b in zip(pieces, layout.blocks, strict=True)]
        self.plan = Plan(runs, layout.positions.device)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        lengths = [b.length for b in self.blocks]
        seen = [
            piece.cache.extended(layer, k_own, v_own, commit=not block.noised)
            for piece, block, k_own, v_own in zip(
                self.pieces, self.blocks, k.split(lengths), v.split(lengths), strict=True
            )
        ]
        if len(seen) == 1:
            return attend(q, *seen[0], self.plan)
        return attend(q, torch.cat([s[0] for s in seen]), torch.cat([s[1] for s in seen]), self.plan)
