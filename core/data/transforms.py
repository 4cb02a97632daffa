"""From an RGB picture to what the model takes: resized pixels, patches and position ids (spec section 3)."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

from core.config import ResizeRule


def resized_size(width: int, height: int, rule: ResizeRule, image_count: int = 1) -> tuple[int, int]:
    """(width, height) after the rule: multiples of the stride, inside the limits as far as they can be met together.

    Steps 1 to 3 of section 3.2; the area limit scales linearly and the last step may undercut the short side,
    both as in the reference.
    """

    def scale_by(w: int, h: int, k: float) -> tuple[int, int]:
        return _to_stride(round(w * k), rule.stride), _to_stride(round(h * k), rule.stride)

    k = min(rule.max_image_size / max(width, height), 1.0)
    k = max(k, rule.min_image_size / min(width, height))
    width, height = scale_by(width, height, k)
    limit = rule.max_pixels / image_count
    if width * height > limit:
        width, height = scale_by(width, height, limit / (width * height))
    if max(width, height) > rule.max_image_size:
        width, height = scale_by(width, height, rule.max_image_size / max(width, height))
    return width, height


def _to_stride(value: float, stride: int) -> int:
    return max(stride, round(value / stride) * stride)


def resize(image: PILImage.Image, rule: ResizeRule, image_count: int = 1) -> PILImage.Image:
    """The RGB picture in the size that the rule gives, bicubic; untouched when it has that size already."""
    size = resized_size(*image.size, rule, image_count)
    return image if size == image.size else image.resize(size, PILImage.Resampling.BICUBIC)


def to_tensor(image: PILImage.Image) -> Tensor:
    """Float pixels [3, H, W] in [-1, 1]."""
    array = np.array(image, dtype=np.uint8)
    return (torch.from_numpy(array).permute(2, 0, 1).float() / 255 - 0.5) / 0.5


def to_image(pixels: Tensor) -> PILImage.Image:
    """RGB picture from decoder output [3, H, W]; values are truncated, not rounded, as in the reference (5.4)."""
    unit = (pixels.float() * 0.5 + 0.5).clamp(0, 1)
    return PILImage.fromarray((unit.permute(1, 2, 0) * 255).to(torch.uint8).cpu().numpy())


def patchify(pixels: Tensor, patch: int) -> Tensor:
    """[C, h*p, w*p] to [h*w, p*p*C]; rows first, inside a patch the channel runs fastest."""
    c, height, width = pixels.shape
    grid = pixels.reshape(c, height // patch, patch, width // patch, patch)
    return grid.permute(1, 3, 2, 4, 0).reshape(-1, patch * patch * c)


def unpatchify(tokens: Tensor, height: int, width: int, patch: int) -> Tensor:
    """[h*w, p*p*C] to [C, h*p, w*p], the inverse of ``patchify``; height and width count patches."""
    grid = tokens.reshape(height, width, patch, patch, -1)
    return grid.permute(4, 0, 2, 1, 3).reshape(-1, height * patch, width * patch)


def position_ids(height: int, width: int, side: int, *, interpolate: bool = False) -> Tensor:
    """Rows of a side-by-side position table for a grid of ``height`` x ``width`` patches, row-major [h*w].

    With ``interpolate`` the grid is stretched over the whole table instead of starting at its corner.
    """
    rows, columns = torch.arange(height), torch.arange(width)
    if interpolate:
        rows, columns = rows * side // height, columns * side // width
    return (rows[:, None] * side + columns).flatten()
