"""Trains the unified model on packed samples of every task: a first, simple form for the nano checkpoint.

The autoencoder is frozen; its posteriors are computed once and sampled anew at each use. The weights that
are saved are an exponential moving average.
"""

from __future__ import annotations

import math
import random
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PILImage
from safetensors.torch import load_file
from tokenizers import Tokenizer as BPE
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn

from core.config import ImageSampling, LLMConfig, ModelConfig, ResizeRule, TextSampling, ViTConfig, read_vae_config
from core.data.packing import DropRates, Item, LatentItem, Pack, TextItem, ViTItem, pack
from core.data.tokenizer import BOS, EOI, EOS, SOI, Tokenizer
from core.data.transforms import patchify, resize, to_tensor
from core.errors import SettingsError
from core.model.checkpoint import expected_tensors, load, save, write_config
from core.model.unified import UnifiedModel
from core.tasks import TASKS
from core.training.objective import packed_losses
from core.training.pictures import Picture, load_pictures, simulated_oct
from core.training.samples import all_texts, caption, degraded, edits, question, report

TRAINED_TASKS = ("vqa", "report", "text_to_image", "super_resolution", "segmentation", "cross_modal")


@dataclass(frozen=True)
class TrainRecipe:
    """Sizes, data and optimisation of a small model. ``seconds`` bounds the run.

    ``init`` names a checkpoint folder to go on from; its sizes, tokenizer and autoencoder are kept. ``bf16`` runs the
    matrix products in bfloat16; weights, losses and the optimizer stay in float32.
    """

    kind: str
    data: str
    autoencoder: str
    out: str
    seconds: float
    steps: int = 1_000_000
    hidden_size: int = 256
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    intermediate_size: int = 512
    vit_hidden_size: int = 192
    vit_layers: int = 4
    vocab_size: int = 2048
    image_size: int = 128
    vit_size: int = 126
    samples_per_step: int = 48
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    ema_decay: float = 0.998
    understanding: float = 0.45
    text_to_image: float = 0.35
    drop_text: float = 0.1
    drop_vit: float = 0.3
    drop_vae: float = 0.3
    mse_weight: float = 1.0
    simulated_oct: int = 500
    variants: int = 2
    bf16: bool = False
    seed: int = 0
    init: str = ""
    version: str = "nano v0"


@dataclass
class View:
    """One rendering of a picture as the model takes it: 8-bit ViT pixels and the autoencoder's posterior.

    ``vit`` comes after the autoencoder's resize, as where something is drawn; ``direct`` is the picture itself, as in
    question answering.
    """

    vit: np.ndarray
    direct: np.ndarray
    mean: Tensor
    std: Tensor


def nano_config(recipe: TrainRecipe) -> ModelConfig:
    """The model's configuration from the recipe and the autoencoder's folder."""
    vae = read_vae_config(Path(recipe.autoencoder))
    stride = vae.downsample * 2
    vit_rule = ResizeRule(recipe.vit_size, 56, 14)
    return ModelConfig(
        llm=LLMConfig(
            recipe.hidden_size, recipe.num_hidden_layers, recipe.num_attention_heads, recipe.num_key_value_heads,
            recipe.intermediate_size, recipe.vocab_size,
        ),
        vit=ViTConfig(
            recipe.vit_hidden_size, recipe.vit_layers + 1, 4, 2 * recipe.vit_hidden_size + 128,
            image_size=recipe.vit_size,
        ),
        vae=vae,
        max_latent_size=recipe.image_size // stride,
        vae_resize=ResizeRule(recipe.image_size, 32, stride),
        vit_resize=vit_rule,
        chat_resize=vit_rule,
        image=ImageSampling(
            num_timesteps=25, timestep_shift=1.0, cfg_text_scale=3.0, cfg_img_scale=1.5, cfg_interval=(0.0, 1.0),
            size=(recipe.image_size, recipe.image_size),
        ),
        text=TextSampling(max_new_tokens=64),
        version=recipe.version,
        untrained_tasks=tuple(name for name in TASKS if name not in TRAINED_TASKS),
    )  # fmt: skip


def train_tokenizer(texts: list[str], vocab_size: int, folder: Path) -> Tokenizer:
    """A byte-level BPE with the official marker strings, written as ``tokenizer.json``."""
    bpe = BPE(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    markers = ["<|endoftext|>", BOS, EOS, SOI, EOI]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=markers, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    bpe.save(str(folder / "tokenizer.json"))
    return Tokenizer(bpe)


def initialise(model: UnifiedModel) -> None:
    """Normal weights of deviation 0.02, residual outputs smaller; the second expert starts as a copy of the first."""
    depth = model.config.llm.num_hidden_layers
    for name, module in model.named_modules():
        if name.startswith("vae.") or not isinstance(module, (nn.Linear, nn.Embedding)):
            continue
        residual = name.endswith(("o_proj", "down_proj", "out_proj")) or re.fullmatch(r"vit\.layers\.\d+\.fc2", name)
        nn.init.normal_(module.weight, std=0.02 / math.sqrt(2 * depth) if residual else 0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for linear in (model.vit.patch_embedding, model.vae2llm):
        nn.init.xavier_uniform_(linear.weight)
    for layer in model.language_model.layers:
        layer.gen.load_state_dict(layer.und.state_dict())
    nn.init.zeros_(model.llm2vae.weight)


class Views:
    """Renderings of pictures, each computed once: ``variants`` random crops of the image, its mask, a coarse copy."""

    def __init__(self, model: UnifiedModel, recipe: TrainRecipe) -> None:
        self.model, self.recipe = model, recipe
        self.views: dict[tuple[int, int, str], View] = {}

    @torch.no_grad()
    def prepare(self, pictures: list[Picture]) -> None:
        pending: list[tuple[tuple[int, int, str], PILImage.Image]] = []
        rng = random.Random(self.recipe.seed)
        for index, picture in enumerate(pictures):
            for variant in range(self.recipe.variants):
                box, flip = _crop_box(picture.image.size, rng, variant), variant % 2 == 1 and _may_flip(picture)
                images = {"image": picture.image}
                if picture.mask is not None:
                    images["mask"] = picture.mask.convert("RGB")
                for key, image in images.items():
                    image = image.crop(box)
                    pending.append(((index, variant, key), _flipped(image) if flip else image))
                if variant == 0:
                    pending.append(((index, 0, "coarse"), degraded(picture.image)))
        by_size: dict[tuple[int, int], list] = {}
        for key, image in pending:
            config = self.model.config
            small = resize(image, config.vae_resize)
            seen = [np.asarray(resize(*pair)) for pair in ((small, config.vit_resize), (image, config.chat_resize))]
            by_size.setdefault(small.size, []).append((key, small, seen))
        for group in by_size.values():
            for start in range(0, len(group), 16):
                part = group[start : start + 16]
                mean, logvar = self.model.vae.moments(torch.stack([to_tensor(small) for _, small, _ in part]))
                mean, std = self.model.vae.scale(mean), torch.exp(logvar / 2) * self.model.config.vae.scale_factor
                for (key, _, seen), m, s in zip(part, mean.half(), std.half(), strict=True):
                    self.views[key] = View(*seen, m.clone(), s.clone())

    def vit_item(self, key: tuple[int, int, str], *, droppable: bool = False, direct: bool = False) -> ViTItem:
        array = self.views[key].direct if direct else self.views[key].vit
        patch = self.model.config.vit.patch_size
        pixels = torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 127.5 - 1
        return ViTItem(patchify(pixels, patch), (array.shape[0] // patch, array.shape[1] // patch), droppable)

    def latent_item(self, key: tuple[int, int, str], loss: bool, droppable: bool) -> LatentItem:
        view, patch = self.views[key], self.model.config.latent_patch_size
        z = view.mean.float() + view.std.float() * torch.randn(view.mean.shape)
        return LatentItem(patchify(z, patch), (z.shape[1] // patch, z.shape[2] // patch), loss, droppable)


def _crop_box(size: tuple[int, int], rng: random.Random, variant: int) -> tuple[int, int, int, int]:
    """The whole picture for the first variant; for others all but up to a tenth of each side."""
    if variant == 0:
        return (0, 0, *size)
    left, top, right, bottom = (rng.uniform(0, 0.06) for _ in range(4))
    width, height = size
    return int(left * width), int(top * height), int((1 - right) * width), int((1 - bottom) * height)


def _may_flip(picture: Picture) -> bool:
    """Left and right mean nothing in these."""
    return picture.modality in ("histopathology", "endoscopy", "OCT") or picture.source == "us_hc18"


def _flipped(image: PILImage.Image) -> PILImage.Image:
    return image.transpose(PILImage.Transpose.FLIP_LEFT_RIGHT)


class SampleMaker:
    """Draws training samples: which picture, which task, which wording."""

    def __init__(self, pictures: list[Picture], views: Views, tokenizer: Tokenizer, recipe: TrainRecipe) -> None:
        self.pictures, self.views, self.tokenizer, self.recipe = pictures, views, tokenizer, recipe
        self.rng = random.Random(recipe.seed + 1)
        self.aligned = {p.name: i for i, p in enumerate(pictures)}
        labelled = [i for i, p in enumerate(pictures) if p.modality]
        self.all = _by_modality(pictures, range(len(pictures)))
        self.labelled = _by_modality(pictures, labelled)
        self.editable = _by_modality(pictures, [i for i in labelled if len(edits(pictures[i])) > 1])

    def sample(self) -> list[Item]:
        draw = self.rng.random()
        if draw < self.recipe.understanding:
            return self._understanding(self._pick(self.all))
        if draw < self.recipe.understanding + self.recipe.text_to_image:
            return self._text_to_image(self._pick(self.labelled))
        return self._edit(self._pick(self.editable if self.rng.random() < 0.7 else self.labelled))

    def _pick(self, groups: list[list[int]]) -> int:
        return self.rng.choice(self.rng.choice(groups))

    def _text(self, text: str, **flags) -> TextItem:
        return TextItem(self.tokenizer.encode(text), **flags)

    def _variant(self) -> int:
        return self.rng.randrange(self.recipe.variants)

    def _understanding(self, index: int) -> list[Item]:
        picture = self.pictures[index]
        image = self.views.vit_item((index, self._variant(), "image"), direct=True)
        if picture.modality and self.rng.random() < 0.2:
            asked, answer = TASKS["report"].instruction(wording=self.rng.randrange(3)), report(picture)
        else:
            asked, answer = question(picture, self.rng)
        return [image, self._text(asked), self._text(answer, loss=True)]

    def _text_to_image(self, index: int) -> list[Item]:
        target = self.views.latent_item((index, self._variant(), "image"), loss=True, droppable=False)
        return [self._text(caption(self.pictures[index], self.rng), droppable=True), target]

    def _edit(self, index: int) -> list[Item]:
        picture, variant = self.pictures[index], self._variant()
        task, prompt, target = self.rng.choice(edits(picture))
        source, key = (index, variant, "image"), (index, variant, target)
        if task == "super_resolution":
            source, key = (index, 0, "coarse"), (index, 0, "image")
        elif target.startswith("aligned:"):
            key, source = (self._sibling(picture, target.removeprefix("aligned:")), 0, "image"), (index, 0, "image")
        instruction = TASKS[task].instruction(prompt, self.rng.randrange(3))
        return [
            self.views.latent_item(source, loss=False, droppable=True),
            self.views.vit_item(source, droppable=True),
            self._text(instruction, droppable=True),
            self.views.latent_item(key, loss=True, droppable=False),
        ]

    def _sibling(self, picture: Picture, detail: str) -> int:
        """Index of the same slice in another MRI sequence."""
        volume, _, place = picture.name.partition("#")
        z = place.partition("/")[2]
        names = {"T1-weighted": "t1", "contrast-enhanced T1-weighted": "t1c", "T2-weighted": "t2", "FLAIR": "flair"}
        return self.aligned[f"{volume}#{names[detail]}/{z}"]


def _by_modality(pictures: list[Picture], chosen) -> list[list[int]]:
    """Indices grouped by modality, so that each modality is drawn equally often."""
    groups: dict[str, list[int]] = {}
    for index in chosen:
        groups.setdefault(pictures[index].modality or "unknown", []).append(index)
    return list(groups.values())


def train_model(recipe: TrainRecipe) -> Path:
    """Runs the recipe and returns the checkpoint folder."""
    torch.manual_seed(recipe.seed)
    out = Path(recipe.out)
    if not recipe.init and not (Path(recipe.autoencoder) / "ae.safetensors").is_file():
        raise SettingsError("No autoencoder there", value=recipe.autoencoder, remedy="Train it first, see the recipes")
    pictures = load_pictures(Path(recipe.data), ("train", "val"))
    pictures += simulated_oct(recipe.simulated_oct, recipe.seed)
    if recipe.init:
        start_from = load(recipe.init, torch.device("cpu"), torch.float32)
        model, tokenizer = start_from.model, start_from.tokenizer
        model.requires_grad_(True)
        model.latent_pos_embed.requires_grad_(False)
        model.vit_pos_embed.requires_grad_(False)
        save(model, out, torch.bfloat16, like=start_from.folder)
    else:
        model, tokenizer = _fresh(recipe, pictures, out)
    views = Views(model, recipe)
    start = time.monotonic()
    views.prepare(pictures)
    print(f"{len(pictures)} pictures, {len(views.views)} views in {time.monotonic() - start:.0f} s", flush=True)
    _loop(model, SampleMaker(pictures, views, tokenizer, recipe), recipe, out)
    return out


def _fresh(recipe: TrainRecipe, pictures: list[Picture], out: Path) -> tuple[UnifiedModel, Tokenizer]:
    """A new model around the recipe's autoencoder, and a tokenizer of the training texts."""
    tokenizer = train_tokenizer(all_texts(pictures, recipe.seed), recipe.vocab_size, out)
    config = nano_config(recipe)
    write_config(config, out)
    model = UnifiedModel(config)
    initialise(model)
    weights = load_file(Path(recipe.autoencoder) / "ae.safetensors")
    _, entries = expected_tensors(model)
    parameters = model.state_dict()
    for entry in entries:
        parameters[entry.parameter].copy_(weights[entry.key].reshape(parameters[entry.parameter].shape))
    return model, tokenizer


def _loop(model: UnifiedModel, maker: SampleMaker, recipe: TrainRecipe, out: Path) -> None:
    model.vae.requires_grad_(False)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    ema = {n: p.detach().clone() for n, p in trained.items()}
    print(f"{sum(p.numel() for p in trained.values()) / 1e6:.2f} M trained parameters", flush=True)
    optimizer = torch.optim.AdamW(
        trained.values(), lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=recipe.weight_decay, fused=True
    )
    sides = (model.config.vit_table_side, model.config.max_latent_size)
    rates = DropRates(recipe.drop_text, recipe.drop_vit, recipe.drop_vae)
    start = saved = time.monotonic()
    ce_mean = mse_mean = 0.0
    for step in range(recipe.steps):
        progress = max(step / recipe.steps, (time.monotonic() - start) / recipe.seconds)
        if progress >= 1:
            break
        warm = min(1.0, (step + 1) / recipe.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        optimizer.param_groups[0]["lr"] = recipe.learning_rate * warm * (0.02 + 0.98 * cosine)
        packed: Pack = pack(
            [maker.sample() for _ in range(recipe.samples_per_step)], maker.tokenizer, sides, rates,
            maker.rng.random, lambda: torch.randn(()),
        )  # fmt: skip
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
            losses = packed_losses(model, packed, torch.randn(packed.latents.shape), model.config.timestep_shift)
        loss = losses.total(mse_weight=recipe.mse_weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        decay = min(recipe.ema_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(ema.values()), list(trained.values()), 1 - decay)
        if len(losses.ce):  # a pack may hold no answer, or nothing to draw
            ce_mean += (losses.ce.mean().item() - ce_mean) * (0.05 if step else 1)
        if len(losses.mse):
            mse_mean += (losses.mse.mean().item() - mse_mean) * (0.05 if step else 1)
        if step % 50 == 0:
            tokens = len(packed.layout.positions)
            elapsed = time.monotonic() - start
            print(
                f"step {step} ce {ce_mean:.3f} mse {mse_mean:.4f} norm {norm:.2f} tokens {tokens} {elapsed:.0f} s",
                flush=True,
            )
        if time.monotonic() - saved > 300:
            saved = time.monotonic()
            _save_average(model, trained, ema, out)
    _save_average(model, trained, ema, out)


def _save_average(model: UnifiedModel, trained: dict, ema: dict, out: Path) -> None:
    """Writes the averaged weights and goes on with the trained ones."""
    backup = {n: p.detach().clone() for n, p in trained.items()}
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(ema[name])
        save(model, out, torch.bfloat16, like=out)
        for name, parameter in trained.items():
            parameter.copy_(backup[name])
