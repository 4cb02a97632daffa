"""Crops of pictures, and their autoencoder posteriors, computed once and kept on disk.

The autoencoder never trains, so a picture's posterior is a constant. Each picture is encoded alone: in a padded batch
the borders of the smaller ones would change (spec section 11.5). Values are float16, on disk and without a cache, so
that both give the same run. 128 px take 16 KB.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image as PILImage
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.data.transforms import to_tensor
from core.errors import ImageError
from core.model.unified import UnifiedModel

Posterior = tuple[Tensor, Tensor]
"""Scaled mean and standard deviation, each [z, h, w] in float16."""
MIRRORED = ("histopathology", "endoscopy", "OCT")
"""Modalities in which left and right mean nothing."""


@dataclass(frozen=True)
class Crop:
    """A part of a picture, as fractions of its sides; the first variant is the whole."""

    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0
    mirrored: bool = False

    @classmethod
    def variant(cls, number: int, modality: str) -> Crop:
        """The same for every picture, so that a source and its target stay aligned."""
        if number == 0:
            return cls()
        rng = random.Random(number)
        left, top, right, bottom = (round(rng.uniform(0, 0.08), 3) for _ in range(4))
        return cls(left, top, 1 - right, 1 - bottom, number % 2 == 1 and modality in MIRRORED)

    def of(self, image: PILImage.Image) -> PILImage.Image:
        w, h = image.size
        box = (round(self.left * w), round(self.top * h), round(self.right * w), round(self.bottom * h))
        image = image if box == (0, 0, w, h) else image.crop(box)
        return image.transpose(PILImage.Transpose.FLIP_LEFT_RIGHT) if self.mirrored else image


class PosteriorCache:
    """A folder of posteriors; with an empty name nothing is kept.

    The folder's name holds a digest of the autoencoder and of its resize rule: another autoencoder has another folder.
    """

    def __init__(self, model: UnifiedModel, folder: str) -> None:
        self.model = model
        self.folder = Path(folder) / _digest(model) if folder else None

    def posterior(self, sha256: str, crop: Crop, picture: Callable[[], PILImage.Image]) -> Posterior:
        """Of one crop of the file with this digest; ``picture`` gives the crop, already resized."""
        if self.folder is None:
            return self.encode(picture())
        path = self.path(sha256, crop)
        found = self._read(path)
        if found is None:
            found = self.encode(picture())
            self._write(path, found)
        return found

    def path(self, sha256: str, crop: Crop) -> Path:
        """Where the posterior of a crop is kept."""
        name = hashlib.sha256(f"{sha256}/{crop}".encode()).hexdigest()
        return self.folder / name[:2] / f"{name[:32]}.safetensors"

    @torch.no_grad()
    def encode(self, picture: PILImage.Image) -> Posterior:
        mean, logvar = self.model.vae.moments(to_tensor(picture)[None].to(self.model.device, self.model.dtype))
        scale = self.model.config.vae.scale_factor
        both = self.model.vae.scale(mean), torch.exp(logvar.float() / 2) * scale
        return tuple(x[0].to("cpu", torch.float16) for x in both)

    def _read(self, path: Path) -> Posterior | None:
        """None where there is none, or where it is damaged: then it is computed again."""
        if not path.is_file():
            return None
        try:
            tensors = load_file(path)
            return tensors["mean"], tensors["std"]
        except (SafetensorError, KeyError):
            return None

    def _write(self, path: Path, posterior: Posterior) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}.part")
            save_file({"mean": posterior[0].contiguous(), "std": posterior[1].contiguous()}, part)
            part.replace(path)
        except (OSError, SafetensorError) as error:
            what, remedy = f"A posterior cannot be cached ({error})", "Free some space, or set another cache="
            raise ImageError(what, value=str(path.parent), remedy=remedy) from error


def _digest(model: UnifiedModel) -> str:
    """Sixteen digits over the autoencoder's weights, its scaling and the resize rule."""
    digest = hashlib.sha256(f"{model.config.vae} {model.config.vae_resize}".encode())
    for name, tensor in sorted(model.vae.state_dict().items()):
        digest.update(name.encode() + tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
