"""Trains a small autoencoder in FLUX's layout: L1 and gradient loss on random crops, a whisper of KL.

Writes ``ae.safetensors`` (official key names) and ``vae_config.json`` into the output folder. The latents'
shift and scale are measured at the end, so that the transformer sees zero mean and unit variance.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PILImage
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.config import VAEConfig
from core.data.records import open_picture, read_records
from core.errors import RecordError
from core.model.vae import Autoencoder, flux_key, flux_shape

LONGEST_SIDE = 192


@dataclass(frozen=True)
class AutoencoderRecipe:
    """``init`` names a folder with an ``ae.safetensors`` of the same sizes to go on from.

    ``bf16`` runs the convolutions in bfloat16; weights, losses and the optimizer stay in float32.
    """

    kind: str
    records: str
    out: str
    steps: int
    ch: int = 16
    ch_mult: tuple[int, ...] = (1, 2, 4, 8)
    num_res_blocks: int = 1
    z_channels: int = 16
    norm_num_groups: int = 8
    size: int = 128
    batch: int = 8
    learning_rate: float = 1e-3
    kl_weight: float = 1e-6
    gradient_weight: float = 1.0
    squared_weight: float = 0.0
    bf16: bool = False
    init: str = ""
    seed: int = 0


def train_autoencoder(recipe: AutoencoderRecipe) -> Path:
    """Runs the recipe and returns the output folder."""
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    pictures, sources = load_pictures(Path(recipe.records), ("train", "val"))
    weights = _source_weights(sources)
    config = VAEConfig(
        ch=recipe.ch, ch_mult=recipe.ch_mult, num_res_blocks=recipe.num_res_blocks, z_channels=recipe.z_channels,
        norm_num_groups=recipe.norm_num_groups,
    )  # fmt: skip
    model = Autoencoder(config).train()
    _initialise(model, recipe)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=0, fused=True
    )
    print(f"{len(pictures)} pictures, {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    start = time.monotonic()
    for step in range(recipe.steps):
        cosine = 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
        rate = recipe.learning_rate * min(1, (step + 1) / 100) * cosine
        optimizer.param_groups[0]["lr"] = rate
        chosen = rng.choice(len(pictures), recipe.batch, p=weights)
        pixels = torch.stack([_crop(pictures[i], recipe.size, rng) for i in chosen])
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
            mean, logvar = (m.float() for m in model.moments(pixels))
            logvar = logvar.clamp(-12, 6)
            drawn = model.decode(model.scale(mean + torch.exp(logvar / 2) * torch.randn_like(logvar))).float()
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum() / recipe.batch
        difference = drawn - pixels
        loss = difference.abs().mean() + recipe.squared_weight * difference.square().mean()
        loss = loss + recipe.gradient_weight * _gradient_loss(difference) + recipe.kl_weight * kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            psnr = -10 * math.log10((difference.detach() / 2).square().mean().item())
            elapsed = time.monotonic() - start
            print(f"step {step} loss {loss.item():.4f} psnr {psnr:.2f} kl {kl.item():.0f} {elapsed:.0f} s", flush=True)
        if step % 500 == 499:
            _save(model, config, Path(recipe.out))
    return _finish(model, config, recipe, pictures, weights, rng)


@torch.no_grad()
def _initialise(model: Autoencoder, recipe: AutoencoderRecipe) -> None:
    """Weights to go on from; else almost no posterior noise: at unit noise the decoder learns to ignore the latent."""
    if recipe.init:
        stored = load_file(Path(recipe.init) / "ae.safetensors")
        for name, parameter in model.state_dict().items():
            parameter.copy_(stored[flux_key(name, model.config)].reshape(parameter.shape))
        return
    model.kl.encoder.conv_out.weight[recipe.z_channels :] = 0
    model.kl.encoder.conv_out.bias[recipe.z_channels :] = -6


def _finish(model, config, recipe, pictures, weights, rng) -> Path:
    """Measures the latents' statistics, saves, and reports the PSNR on the unseen test split."""
    model.eval()
    out = Path(recipe.out)
    with torch.no_grad():
        chosen = rng.choice(len(pictures), 256, p=weights)
        latents = torch.cat([
            model.moments(torch.stack([_crop(pictures[i], recipe.size, rng) for i in part]))[0]
            for part in np.array_split(chosen, 16)
        ])  # fmt: skip
        config = dataclasses.replace(
            config, scale_factor=round(1 / latents.std().item(), 4), shift_factor=round(latents.mean().item(), 4)
        )
        _save(model, config, out)
        model.config = config
        test, _ = load_pictures(Path(recipe.records), ("test",))
        test = [test[i] for i in rng.permutation(len(test))[:256]]
        scores = []
        for picture in test:
            pixels = _crop(picture, recipe.size, rng)[None]
            error = (model.decode(model.encode(pixels)).clamp(-1, 1) - pixels) / 2
            scores.append(-10 * math.log10(error.square().mean().item()))
    if not scores:
        return out
    print(f"test PSNR mean {np.mean(scores):.2f} dB, worst {np.min(scores):.2f} dB, n {len(scores)}", flush=True)
    return out


def load_pictures(records: Path, splits: tuple[str, ...]) -> tuple[list[PILImage.Image], list[str]]:
    """Every image that is drawn or drawn from, once, and where it comes from; masks count as a source of their own."""
    found: dict[str, tuple[str, str]] = {}
    for record in read_records(records, splits):
        if record.sub_task_type in ("text_to_image", "segmentation"):
            source = "mask" if record.sub_task_type == "segmentation" else record.dataset
            found.setdefault(record.output_img[0], (source, record.place))
    pictures = []
    for path, (_, place) in found.items():
        image = open_picture(records.parent, path, place)
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), PILImage.Resampling.LANCZOS)
        pictures.append(image)
    if not pictures:
        raise RecordError("The records have no image to draw", value=splits, remedy="Build records of the train split")
    return pictures, [source for source, _ in found.values()]


def _source_weights(sources: list[str]) -> np.ndarray:
    """Sampling probabilities that soften the imbalance between sources: a source's share is its square root."""
    _, inverse, counts = np.unique(sources, return_inverse=True, return_counts=True)
    weights = np.sqrt(counts)[inverse] / counts[inverse]
    return weights / weights.sum()


def _crop(image: PILImage.Image, size: int, rng: np.random.Generator) -> Tensor:
    """A random crop [3, size, size] in [-1, 1] of the picture at a random scale; black where it is too small."""
    k = rng.uniform(size, 1.4 * size) / max(image.size)
    image = image.resize((max(8, round(image.width * k)), max(8, round(image.height * k))), PILImage.Resampling.BICUBIC)
    x = rng.integers(min(0, image.width - size), max(0, image.width - size) + 1)
    y = rng.integers(min(0, image.height - size), max(0, image.height - size) + 1)
    array = np.asarray(image.crop((x, y, x + size, y + size)), dtype=np.float32)
    if rng.random() < 0.5:
        array = array[:, ::-1]
    return torch.from_numpy(array / 127.5 - 1).permute(2, 0, 1)


def _gradient_loss(d: Tensor) -> Tensor:
    """Mean absolute value of the horizontal and vertical steps of a difference of images."""
    return (d[..., 1:, :] - d[..., :-1, :]).abs().mean() + (d[..., 1:] - d[..., :-1]).abs().mean()


def _save(model: Autoencoder, config: VAEConfig, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    tensors = {
        flux_key(k, config): v.reshape(flux_shape(k, v.shape)).to(torch.bfloat16).contiguous()
        for k, v in model.state_dict().items()
    }
    save_file(tensors, out / "ae.safetensors.part")
    (out / "ae.safetensors.part").replace(out / "ae.safetensors")
    (out / "vae_config.json").write_text(json.dumps(dataclasses.asdict(config), indent=1) + "\n", encoding="utf-8")
