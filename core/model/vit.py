"""SigLIP vision encoder over packed images of any size, and the connector into the decoder (spec section 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.config import ViTConfig
from core.model.attention import Plan, Run, attend


class ViTBlock(nn.Module):
    """Pre-norm transformer block with full attention inside each image."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.head_dim = width // config.num_attention_heads
        self.norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(width, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, width)

    def forward(self, x: Tensor, plan: Plan) -> Tensor:
        y = self.norm1(x)
        q, k, v = (proj(y).unflatten(-1, (-1, self.head_dim)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        x = x + self.out_proj(attend(q, k, v, plan).flatten(-2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x)), approximate="tanh"))


class VisionEncoder(nn.Module):
    """Patches [n, p*p*3] of packed images to features [n, width]; images never see each other."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.patch_embedding = nn.Linear(config.patch_dim, config.hidden_size)
        self.position_embedding = nn.Embedding(config.patches_per_side**2, config.hidden_size)
        self.layers = nn.ModuleList(ViTBlock(config) for _ in range(config.used_layers))
        self.post_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def embed(self, patches: Tensor, position_ids: Tensor) -> Tensor:
        return self.patch_embedding(patches) + self.position_embedding(position_ids)

    def forward(self, patches: Tensor, position_ids: Tensor, lengths: list[int]) -> Tensor:
        """``lengths`` counts the patches of each image, in order."""
        plan = Plan([Run(n, n, causal=False) for n in lengths], patches.device)
        x = self.embed(patches, position_ids)
        for layer in self.layers:
            x = layer(x, plan)
        return self.post_norm(x)


class Connector(nn.Module):
    """Two linear layers with tanh-GELU from the encoder's width to the decoder's."""

    def __init__(self, vit_width: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vit_width, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def sincos_table(side: int, width: int) -> Tensor:
    """2-D sine-cosine table [side*side, width] in float32, row = r * side + c (spec section 6.1).

    The first half of the width encodes the column, the second the row; each half is sines, then cosines.
    """
    frequencies = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], -1)
    columns = axis[None].expand(side, side, -1)
    rows = axis[:, None].expand(side, side, -1)
    return torch.cat([columns, rows], -1).reshape(side * side, width).float()
