"""A new model: a tokenizer of the records' texts and random weights around a trained autoencoder."""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer as BPE
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from torch import nn

from core.config import ImageSampling, LLMConfig, ModelConfig, ResizeRule, TextSampling, ViTConfig, read_vae_config
from core.data.records import read_records
from core.data.tokenizer import BOS, EOI, EOS, SOI
from core.errors import SettingsError
from core.model.checkpoint import expected_tensors, save, write_config
from core.model.unified import UnifiedModel
from core.tasks import TASKS
from core.training.recipe import FreshRecipe


def make_fresh(recipe: FreshRecipe) -> Path:
    """Writes a checkpoint folder in the official layout, in float32, and returns it."""
    torch.manual_seed(recipe.seed)
    out, weights = Path(recipe.out), Path(recipe.autoencoder) / "ae.safetensors"
    if not weights.is_file():
        raise SettingsError("No autoencoder there", value=recipe.autoencoder, remedy="Train it first, see the recipes")
    texts = [m.value for r in read_records(Path(recipe.records), ("train",)) for m in r.message]
    texts += [text for task in TASKS.values() for text in (*task.templates, *task.examples)]
    train_tokenizer(texts, recipe.vocab_size, out)
    config = nano_config(recipe)
    write_config(config, out)
    model = UnifiedModel(config)
    initialise(model)
    stored, parameters = load_file(weights), model.state_dict()
    for entry in expected_tensors(model)[1]:
        parameters[entry.parameter].copy_(stored[entry.key].reshape(parameters[entry.parameter].shape))
    save(model, out, torch.float32, like=out)
    return out


def nano_config(recipe: FreshRecipe) -> ModelConfig:
    """The model's configuration from the recipe and the autoencoder's folder."""
    vae = read_vae_config(Path(recipe.autoencoder))
    stride = vae.downsample * 2
    vit_rule = ResizeRule(recipe.vit_size, 56, 14)
    drawing = dict(timestep_shift=1.0, cfg_interval=(0.0, 1.0), size=(recipe.image_size, recipe.image_size))
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
            num_timesteps=recipe.num_timesteps, cfg_text_scale=recipe.cfg_text_scale, cfg_img_scale=1.0, **drawing
        ),
        edit=ImageSampling(num_timesteps=recipe.edit_timesteps, cfg_text_scale=1.0, cfg_img_scale=1.0, **drawing),
        text=TextSampling(max_new_tokens=64),
        untrained_tasks=tuple(TASKS),
    )  # fmt: skip


def train_tokenizer(texts: list[str], vocab_size: int, folder: Path) -> None:
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
