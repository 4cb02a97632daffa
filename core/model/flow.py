"""Flow matching: schedule, time embedding, guidance and the Euler step (spec sections 6.2 and 9)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.config import ImageSampling

TIME_WIDTH = 256


def sinusoid(t: Tensor) -> Tensor:
    """Times [n] in [0, 1] to [n, 256] in float32: cosines first; the time is not scaled by 1000."""
    half = TIME_WIDTH // 2
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, device=t.device).float() / half)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


class TimeEmbedder(nn.Module):
    """Sinusoid, linear, SiLU, linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(TIME_WIDTH, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        return self.fc2(F.silu(self.fc1(sinusoid(t).to(self.fc1.weight.dtype))))


def shifted(u: Tensor, shift: float) -> Tensor:
    """Moves times towards noise: shift * u / (1 + (shift - 1) * u)."""
    return shift * u / (1 + (shift - 1) * u)


def schedule(num_timesteps: int, shift: float) -> tuple[Tensor, Tensor]:
    """Times at which the velocity is taken and the step sizes, both [num_timesteps - 1], from 1 downwards."""
    times = shifted(torch.linspace(1, 0, num_timesteps), shift)
    return times[:-1], times[:-1] - times[1:]


def active_scales(t: float, settings: ImageSampling) -> tuple[float, float]:
    """Text and image guidance scale at time t; both 1 outside the interval (lower bound exclusive).

    Times are float32, so the bounds are compared as float32 too: 0.4 is the bound 0.4, not a little above it. Without
    text guidance the image scale has no effect (spec section 9.5), so it is 1 too.
    """
    low, high = torch.tensor(settings.cfg_interval, dtype=torch.float32).tolist()
    if not low < t <= high or settings.cfg_text_scale <= 1:
        return 1.0, 1.0
    return settings.cfg_text_scale, max(settings.cfg_img_scale, 1.0)


def guided(
    full: Tensor, text_free: Tensor | None, image_free: Tensor | None, scales: tuple[float, float],
    settings: ImageSampling,
) -> Tensor:  # fmt: skip
    """Velocity [n, 64] of one image under text and image guidance with renormalisation.

    Args:
        full, text_free, image_free: velocities in the three contexts; a branch whose scale is 1 may be None.
        scales: text and image scale at this time, as ``active_scales`` gives them.
    """
    text_scale, image_scale = scales
    if text_scale <= 1:
        return full
    v = text_free + text_scale * (full - text_free)
    if settings.cfg_renorm_type == "text_channel":
        v = v * _shrink(full, v, settings.cfg_renorm_min, dim=-1)
        return image_free + image_scale * (v - image_free) if image_scale > 1 else v
    if image_scale > 1:
        v = image_free + image_scale * (v - image_free)
    dim = -1 if settings.cfg_renorm_type == "channel" else None
    return v * _shrink(full, v, settings.cfg_renorm_min, dim)


def _shrink(reference: Tensor, v: Tensor, minimum: float, dim: int | None) -> Tensor:
    """The factor in [minimum, 1] that takes v's norm to the reference's; over all values, or for each token."""
    if dim is None:
        ratio = torch.linalg.vector_norm(reference) / (torch.linalg.vector_norm(v) + 1e-8)
    else:
        norms = (torch.linalg.vector_norm(x, dim=dim, keepdim=True) for x in (reference, v))
        ratio = next(norms) / (next(norms) + 1e-8)
    return ratio.clamp(min=minimum, max=1.0)


def noised(clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t = (1 - t) * clean + t * noise; tokens [n, 64], times [n]."""
    return (1 - t[:, None]) * clean + t[:, None] * noise
