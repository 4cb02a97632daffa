"""A small checkpoint with random weights and what our model computes from it.

Recorded once parity with the reference had been shown, so that a clone without the reference vectors still
tests the function. ``python -m tests.golden`` records it anew, which is right only while parity holds.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

from core.config import ImageSampling, TextSampling
from core.data.packing import DropRates, LatentItem, TextItem, ViTItem, pack
from core.data.transforms import patchify, resize, to_tensor
from core.inference.events import SegmentDone
from core.inference.generator import Generator
from core.inference.session import Contexts, Turn
from core.model.checkpoint import load, official_key
from core.model.objective import packed_losses
from core.model.unified import LatentPiece, TextPiece
from core.sequence import Image, Text

FOLDER = Path(__file__).parent
CHECKPOINT = FOLDER / "tiny"
EXPECTED = FOLDER / "expected.safetensors"
SETTINGS = ImageSampling(
    num_timesteps=5, cfg_text_scale=4.0, cfg_img_scale=1.5, cfg_interval=(0.0, 1.0), size=(32, 48)
)


def picture(width: int, height: int) -> Image:
    """A smooth picture with some texture, the same everywhere."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [127 + 120 * np.sin(x / (5 + c) + c) * np.cos(y / (7 - c)) for c in range(3)]
    return Image(PILImage.fromarray(np.stack(channels, -1).astype(np.uint8)))


def golden_generator(device: str = "cpu", dtype: torch.dtype = torch.float32) -> Generator:
    return Generator(load(CHECKPOINT, torch.device(device), dtype))


def compute() -> dict[str, Tensor]:
    """Everything that is recorded, by name."""
    torch.manual_seed(0)
    generator = golden_generator()
    return {**context(generator), **_autoencoder(generator), **_turns(generator), **_training(generator)}


def context(generator: Generator) -> dict[str, Tensor]:
    """Caches, logits and velocities of an edit context."""
    model, tokenizer, out = generator.model, generator.tokenizer, {}
    contexts = Contexts(model, sees_latents=True)

    def run(pieces):
        return model.step(pieces, tokenizer.soi, tokenizer.eoi)

    small = resize(picture(90, 61).pixels, generator.config.vae_resize)
    out["resized"] = torch.from_numpy(np.array(small))
    run(contexts.add_image(generator.latent_piece(contexts.full, small, torch.Generator().manual_seed(1))))
    seen = resize(small, generator.config.vit_resize)
    run(contexts.add_image(generator.vit_piece(contexts.full, seen)))
    contexts.after_image()
    run(contexts.add_text(tokenizer.segment("Segment the vessels.")))
    out["keys"], out["values"] = contexts.full.keys, contexts.full.values
    (out["logits"],) = run([TextPiece(contexts.full.fork(), [tokenizer.bos], logits=True)])
    noise = torch.randn(6, generator.config.latent_dim, generator=torch.Generator().manual_seed(2))
    grid = torch.tensor([0, 1, 2, 16, 17, 18])
    for t in (1.0, 0.6, 0.05):
        caches = (contexts.full, contexts.text_free, contexts.image_free)
        out[f"velocities.{t}"] = torch.cat(run([LatentPiece(kv, noise, grid, t) for kv in caches]))
    return out


def _autoencoder(generator: Generator) -> dict[str, Tensor]:
    pixels = to_tensor(picture(48, 32).pixels)[None]
    with torch.inference_mode():
        mean, logvar = generator.model.vae.moments(pixels)
        z = generator.model.vae.encode(pixels, torch.ones_like(mean))
        return {"mean": mean, "logvar": logvar, "z": z, "decoded": generator.model.vae.decode(z)}


def _turns(generator: Generator) -> dict[str, Tensor]:
    """Whole turns: pixels of what was drawn, ids of what was written."""
    out = {}
    plans = {
        "draw": ([Text("A chest X-ray.")], ("image",), SETTINGS, False),
        "edit": ([picture(90, 61), Text("Segment the vessels.")], ("image",), SETTINGS, False),
        "channel": ([picture(61, 90), Text("Go")], ("image",), replace(SETTINGS, cfg_renorm_type="channel"), False),
        "text_channel": (
            [picture(61, 90), Text("Go")], ("image",),
            replace(SETTINGS, cfg_renorm_type="text_channel", cfg_img_scale=2.0, timestep_shift=1.0), False,
        ),
        "think": ([picture(90, 61), Text("Which organ is shown?")], ("image",), SETTINGS, True),
        "interleaved": ([picture(90, 61), Text("Explain.")], ("text", "image", "text"), SETTINGS, False),
    }  # fmt: skip
    for name, (inputs, outputs, settings, think) in plans.items():
        turn = Turn(
            generator.session(), inputs, outputs, seed=7, image=settings, text=TextSampling(max_new_tokens=8),
            think=think,
        )  # fmt: skip
        segments = [e.segment for e in generator.stream(turn) if isinstance(e, SegmentDone)]
        for i, segment in enumerate(segments):
            if isinstance(segment, Text):
                ids = generator.tokenizer.encode(segment.text)
                out[f"{name}.{i}"] = torch.tensor(ids, dtype=torch.long)
            else:
                out[f"{name}.{i}"] = torch.from_numpy(np.array(segment.pixels))
    return out


def _training(generator: Generator) -> dict[str, Tensor]:
    """Losses and gradient norms of one pack with every kind of item."""
    model, tokenizer, config = generator.model, generator.tokenizer, generator.config
    g = torch.Generator().manual_seed(3)
    vit = resize(picture(60, 60).pixels, config.vit_resize)
    sides = (vit.height // 14, vit.width // 14)
    seen = ViTItem(patchify(to_tensor(vit), 14), sides, droppable=True)
    clean, target = (LatentItem(torch.randn(6, 64, generator=g), (2, 3), loss) for loss in (False, True))
    asked = TextItem(tokenizer.encode("Which organ is shown?"), droppable=True)
    told = TextItem(tokenizer.encode("The chest."), loss=True, next_label=tokenizer.soi)
    packed = pack(
        [[seen, asked, told], [clean, seen, asked, target, clean, told], [asked, target]], tokenizer,
        (config.vit_table_side, config.max_latent_size), DropRates(0.3, 0.3, 0.3),
        lambda: torch.rand((), generator=g).item(), lambda: torch.randn((), generator=g),
    )  # fmt: skip
    trained = {n: p for n, p in model.named_parameters() if not n.startswith("vae.") and not n.endswith("pos_embed")}
    for parameter in trained.values():
        parameter.requires_grad_(True)
    losses = packed_losses(model, packed, torch.randn(packed.latents.shape, generator=g), shift=2.0)
    losses.total().backward()
    norms = [float(trained[n].grad.norm()) for n in sorted(trained, key=official_key)]
    return {"ce": losses.ce.detach(), "mse": losses.mse.detach(), "gradient_norms": torch.tensor(norms)}
