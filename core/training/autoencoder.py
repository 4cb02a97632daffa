"""Trains a small autoencoder in FLUX's layout: L1 and gradient loss on random crops, a whisper of KL.

Writes ``ae.safetensors`` (official key names) and ``vae_config.json`` into the output folder. The latents'
shift and scale are measured at the end, so that the transformer sees zero mean and unit variance.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PILImage
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from tqdm import tqdm

from core.config import VAEConfig
from core.data.records import open_picture, read_records
from core.errors import RecordError
from core.model.checkpoint import pick_device
from core.model.vae import Autoencoder, flux_key, flux_shape
from core.training.recipe import binding
from core.training.state import RunStates, begin_optimizer

LONGEST_SIDE = 192


@dataclass(frozen=True)
class AutoencoderRecipe:
    """``bf16`` runs the convolutions in bfloat16; weights, losses and the optimizer stay in float32."""

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
    seed: int = 0
    save_every: int = 500


def train_autoencoder(recipe: AutoencoderRecipe) -> Path:
    """Runs the recipe, or goes on where it was cut off, and returns the output folder.

    What is random in a step depends on its number alone, as in the trainer.
    """
    states = RunStates(Path(recipe.out))
    with states.locked():
        return _train(recipe, states)


def _train(recipe: AutoencoderRecipe, states: RunStates) -> Path:
    torch.manual_seed(recipe.seed)
    device, _ = pick_device()
    pictures, sources = load_pictures(Path(recipe.records), ("train", "val"))
    weights = _source_weights(sources)
    config = VAEConfig(
        ch=recipe.ch, ch_mult=recipe.ch_mult, num_res_blocks=recipe.num_res_blocks, z_channels=recipe.z_channels,
        norm_num_groups=recipe.norm_num_groups,
    )  # fmt: skip
    model = Autoencoder(config).train()
    _initialise(model, recipe)
    model.to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=0, fused=True
    )
    begin_optimizer(model, optimizer)
    state = {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer)}
    done, bound = 0, binding(recipe, "records")
    if states.steps():
        done = states.last()
        states.check(done, bound)
        states.load(done, state)
        set_optimizer_state_dict(model, optimizer, state["optimizer"])
    print(f"{len(pictures)} pictures, {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    for step in (bar := tqdm(range(done, recipe.steps), initial=done, total=recipe.steps, unit="step")):
        cosine = 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
        optimizer.param_groups[0]["lr"] = recipe.learning_rate * min(1, (step + 1) / 100) * cosine
        rng = np.random.default_rng([recipe.seed, step])
        chosen = rng.choice(len(pictures), recipe.batch, p=weights)
        pixels = torch.stack([_crop(pictures[i], recipe.size, rng) for i in chosen])
        noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
        loss, psnr = _loss(model, recipe, pixels.to(device), noise)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}", psnr=f"{psnr:.2f}")
        if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
            state = {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer)}
            states.save(step + 1, state, bound, keep=2)
    return _finish(model.cpu(), config, recipe, pictures, weights, np.random.default_rng([recipe.seed, recipe.steps]))


def _loss(
    model: Autoencoder, recipe: AutoencoderRecipe, pixels: Tensor, noise: torch.Generator
) -> tuple[Tensor, float]:
    """The loss of a batch [B, 3, H, W], and its PSNR in dB."""
    with torch.autocast(pixels.device.type, torch.bfloat16, enabled=recipe.bf16):
        mean, logvar = (m.float() for m in model.moments(pixels))
        logvar = logvar.clamp(-12, 6)
        drawn = torch.randn(mean.shape, generator=noise).to(mean.device)
        decoded = model.decode(model.scale(mean + torch.exp(logvar / 2) * drawn)).float()
    kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum() / recipe.batch
    difference = decoded - pixels
    loss = difference.abs().mean() + recipe.squared_weight * difference.square().mean()
    loss = loss + recipe.gradient_weight * _gradient_loss(difference) + recipe.kl_weight * kl
    return loss, -10 * math.log10((difference.detach() / 2).square().mean().item())


@torch.no_grad()
def _initialise(model: Autoencoder, recipe: AutoencoderRecipe) -> None:
    """Almost no posterior noise: at unit noise the decoder learns to ignore the latent."""
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
