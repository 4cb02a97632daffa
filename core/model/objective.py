"""The training objective of a packed sequence: cross entropy on texts, squared error on velocities (section 11.6)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.data.packing import Pack
from core.model.attention import PackedAttention, rows
from core.model.flow import noised, shifted
from core.model.unified import UnifiedModel


@dataclass
class Losses:
    """Unreduced losses: ``ce`` [labels], ``mse`` [latent tokens with a loss, 64], and the final hidden states."""

    ce: Tensor
    mse: Tensor
    und_hidden: Tensor
    gen_hidden: Tensor

    def sums(self) -> tuple[Tensor, Tensor]:
        """Over tokens; the squared error is a mean over channels first. A pack without one kind has a zero for it."""
        return self.ce.sum(), self.mse.sum() / max(1, self.mse.shape[-1])

    def total(self) -> Tensor:
        """The objective of this pack alone."""
        return normalised(self.sums(), (len(self.ce), len(self.mse)))


def normalised(
    sums: tuple[Tensor, Tensor], counts: tuple[float, float], weights: tuple[float, float] = (1.0, 1.0)
) -> Tensor:
    """Cross entropy and squared error, each over the number of its tokens, of a pack or of all packs of a step."""
    return sum(weight * total / max(1, count) for total, count, weight in zip(sums, counts, weights, strict=True))


def packed_losses(model: UnifiedModel, pack: Pack, noise: Tensor, shift: float) -> Losses:
    """Runs a pack through the model.

    Args:
        noise: standard normal [n, 64], a row for every latent token, clean ones included.
        shift: of the training times towards noise.
    """
    layout = pack.layout
    und = model.embed_text(pack.text_ids)
    if len(pack.vit_index):
        seen = model.embed_vit(pack.vit_patches, pack.vit_position_ids, pack.vit_lengths)
        order = torch.argsort(torch.cat([pack.text_index, pack.vit_index]))
        und = rows(torch.cat([und, seen]), order)
    gen = und.new_zeros(0, und.shape[1])
    if len(pack.latents):
        t = shifted(torch.sigmoid(pack.raw_times), shift)
        gen = model.embed_latent(noised(pack.latents, noise, t), pack.latent_position_ids, t)
    und, gen = model.language_model(und, gen, layout, PackedAttention(layout, _compute_dtype(und)))
    learned = torch.searchsorted(layout.und, pack.ce_index)
    ce = F.cross_entropy(model.logits(rows(und, learned)).float(), pack.labels, reduction="none")
    learned = torch.searchsorted(layout.gen, pack.mse_index)
    target = (noise - pack.latents)[learned] if len(learned) else gen.new_zeros(0, model.config.latent_dim)
    mse = (model.velocity(rows(gen, learned)).float() - target).square()
    return Losses(ce, mse, und, gen)


def _compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype that matrix products of x come out in."""
    device = x.device.type
    able = torch.amp.is_autocast_available(device)  # not so on the meta device
    return torch.get_autocast_dtype(device) if able and torch.is_autocast_enabled(device) else x.dtype


class Objective(nn.Module):
    """``packed_losses`` as a module with tensors for a result, which is what FSDP can shard."""

    def __init__(self, model: UnifiedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pack: Pack, noise: Tensor, shift: float) -> tuple[Tensor, Tensor]:
        """``Losses.sums`` of the pack."""
        return packed_losses(self.model, pack, noise, shift).sums()
