"""A tiny model with random weights, the same on every machine, for tests that only need one that runs; a browser."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn

from core.config import ImageSampling, LLMConfig, ModelConfig, ResizeRule, TextSampling, VAEConfig, ViTConfig
from core.data.tokenizer import BOS, EOI, EOS, SOI
from core.inference.generator import Generator
from core.model import checkpoint
from core.model.unified import UnifiedModel
from tests.browser import BROWSERS, chromium

AXE = "axe-core@4.11.1"
TINY = ModelConfig(
    llm=LLMConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        vocab_size=304,
    ),
    vit=ViTConfig(
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        image_size=224,
        patch_size=14,
    ),
    vae=VAEConfig(ch=8, ch_mult=(1, 1, 2, 2), num_res_blocks=1, norm_num_groups=4),
    max_latent_size=16,
    vae_resize=ResizeRule(128, 32, 16),
    vit_resize=ResizeRule(126, 28, 14),
    chat_resize=ResizeRule(126, 28, 14),
    image=ImageSampling(num_timesteps=6, size=(64, 64)),
    text=TextSampling(max_new_tokens=12),
)

WORDS = (
    "What imaging modality is this? Which organ is shown? Is there an abnormality?",
    "Segment the vessels. Convert this image to T2-weighted MRI. Increase the resolution of this image.",
    "A chest X-ray. An axial brain MRI, T2-weighted. A fundus photograph of the eye. The image shows the chest.",
)


def write_tokenizer(folder: Path) -> None:
    """A byte-level BPE of 300 tokens trained on a few sentences, with the four markers."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[BOS, EOS, SOI, EOI],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(WORDS, trainer)
    bpe.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a checkpoint with random weights, a third of a million parameters."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    checkpoint.write_config(TINY, folder)
    write_tokenizer(folder)
    random = torch.Generator().manual_seed(0)
    model = UnifiedModel(TINY)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5, generator=random)
            else:
                nn.init.normal_(parameter, mean=1.0, std=0.1, generator=random)
    checkpoint.save(model, folder, torch.float32, like=folder)
    return folder


@pytest.fixture(scope="session")
def tiny_generator(tiny_checkpoint: Path) -> Generator:
    """A generator over the tiny checkpoint on the CPU."""
    return Generator(checkpoint.load(tiny_checkpoint, torch.device("cpu"), torch.float32))


@pytest.fixture(scope="session")
def browser_type_launch_args() -> dict:
    """What pytest-playwright starts: the browser of the system."""
    if (browser := chromium()) is None:
        pytest.skip(f"no browser installed: needs one of {', '.join(BROWSERS)}")
    return browser


@pytest.fixture(scope="session")
def axe(pytestconfig: pytest.Config) -> str:
    """The checker of accessibility as a script for the page. npm fetches it once."""
    folder = pytestconfig.cache.mkdir("axe")
    script = folder / f"{AXE}.js"
    if not script.is_file():
        if (npm := shutil.which("npm")) is None:
            pytest.skip(f"no npm, which fetches {AXE}")
        command = [npm, "pack", AXE, "--silent", "--pack-destination", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode:
            pytest.skip(f"npm could not fetch {AXE}: {done.stderr.strip()[:200]}")
        with tarfile.open(folder / done.stdout.split()[-1]) as package:
            script.write_bytes(package.extractfile("package/axe.min.js").read())
    return script.read_text(encoding="utf-8")
