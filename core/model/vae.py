"""The autoencoder: diffusers' ``AutoencoderKL`` in FLUX's sizes, with FLUX's key names on disk (spec section 5)."""

from __future__ import annotations

import re

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from core.config import VAEConfig


class Autoencoder(nn.Module):
    """Pixels [B, 3, H, W] in [-1, 1] to scaled latents [B, z, H/8, W/8] and back."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        levels = len(config.ch_mult)
        self.kl = AutoencoderKL(
            in_channels=config.in_channels,
            out_channels=config.in_channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=tuple(config.ch * m for m in config.ch_mult),
            layers_per_block=config.num_res_blocks,
            latent_channels=config.z_channels,
            norm_num_groups=config.norm_num_groups,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior, each [B, z, h, w]; neither scaled nor clamped."""
        return self.kl.encoder(pixels).chunk(2, dim=1)

    def scale(self, z: Tensor) -> Tensor:
        """Raw latents to those that the transformer sees."""
        return self.config.scale_factor * (z - self.config.shift_factor)

    def encode(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Scaled latents; with ``noise`` (standard normal, same shape) a posterior sample, without it the mean."""
        mean, logvar = self.moments(pixels)
        return self.scale(mean if noise is None else mean + torch.exp(logvar / 2) * noise)

    def decode(self, z: Tensor) -> Tensor:
        """Pixels [B, 3, H, W], not clamped, from scaled latents."""
        return self.kl.decoder(z / self.config.scale_factor + self.config.shift_factor)


_NAMES = (
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_([qkv])\.", r"mid.attn_1.\1."),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    (r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2"),
    (r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample."),
    (r"up_blocks\.(\d+)\.resnets\.(\d+)", r"up.\1.block.\2"),
    (r"up_blocks\.(\d+)\.upsamplers\.0\.", r"up.\1.upsample."),
    (r"conv_shortcut", "nin_shortcut"),
    (r"conv_norm_out", "norm_out"),
)


def flux_key(module_key: str, config: VAEConfig) -> str:
    """Name in ``ae.safetensors`` of a tensor of ``Autoencoder``. FLUX counts the decoder's levels from the finest."""
    key = module_key.removeprefix("kl.")
    for pattern, name in _NAMES:
        key = re.sub(pattern, name, key)
    last = len(config.ch_mult) - 1
    return re.sub(r"\bup\.(\d+)", lambda m: f"up.{last - int(m[1])}", key)


def flux_shape(module_key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape on disk of a tensor of ``Autoencoder``: FLUX writes the attention's projections as 1x1 convolutions."""
    is_projection = re.search(r"attentions\.0\.to_\w+(\.0)?\.weight$", module_key)
    return (*shape, 1, 1) if is_projection else tuple(shape)
