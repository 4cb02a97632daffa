"""From a folder with a manifest to a checkpoint that answers and draws, in a few steps."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from safetensors.torch import load_file

from core.errors import ImageError, SettingsError
from core.inference.generator import Generator
from core.inference.once import run_task
from core.model.checkpoint import load
from core.sequence import Image
from core.tasks import TASKS
from core.training.autoencoder import AutoencoderRecipe, train_autoencoder
from core.training.recipe import build_recipe
from core.training.trainer import TrainRecipe, train_model

COLUMNS = ("path", "modality", "source", "tier", "split", "patient", "label", "mask", "view")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six random breast scans and six fundi with masks, a third of them test data."""
    root, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    rows = []
    for source in ("busi", "fundus_drive"):
        for i in range(6):
            name = f"{source}_{i}"
            PILImage.fromarray(random.integers(0, 255, (70, 90, 3), dtype=np.uint8)).save(root / f"{name}.png")
            PILImage.fromarray(random.integers(0, 255, (70, 90), dtype=np.uint8)).save(root / f"{name}_mask.png")
            row = dict.fromkeys(COLUMNS, "") | {"path": f"{name}.png", "source": source, "tier": "A", "patient": name}
            row["split"], row["label"] = "test" if i > 3 else "train", "benign"
            row["mask"] = f"{name}_mask.png" if source == "fundus_drive" else ""
            rows.append(row)
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return root


@pytest.fixture(scope="module")
def autoencoder(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("autoencoder")
    recipe = AutoencoderRecipe(
        "autoencoder", str(data), str(out), steps=2, seconds=60, ch=8, ch_mult=(1, 1, 1, 1), norm_num_groups=4,
        size=32, batch=2, simulated_oct=2,
    )  # fmt: skip
    return train_autoencoder(recipe)


def recipe(data, autoencoder, out, **keys) -> TrainRecipe:
    small = dict(
        hidden_size=64, num_hidden_layers=2, intermediate_size=64, vit_hidden_size=48, vit_layers=1, vocab_size=400,
        image_size=64, vit_size=56, samples_per_step=6, simulated_oct=2, variants=1, warmup_steps=1, version="tiny v7",
    )  # fmt: skip
    return TrainRecipe("model", str(data), str(autoencoder), str(out), **small | dict(seconds=60, steps=3) | keys)


@pytest.mark.parametrize("bf16", [False, True])
def test_recipes_make_a_checkpoint_that_goes_on(data, autoencoder, tmp_path, bf16):
    first = train_model(recipe(data, autoencoder, tmp_path / "first", bf16=bf16))
    second = train_model(recipe(data, autoencoder, tmp_path / "second", init=str(first), steps=2))
    before, after = (load(str(folder), torch.device("cpu"), torch.float32) for folder in (first, second))
    assert after.name == "tiny v7" and "virtual_staining" in after.model.config.untrained_tasks
    weights = after.model.state_dict()
    changed = [name for name, value in before.model.state_dict().items() if not torch.equal(value, weights[name])]
    assert changed and not [name for name in changed if name.startswith("vae.")], "the autoencoder is frozen"
    image = Image(PILImage.new("RGB", (80, 60)))
    answer = run_task(Generator(after), TASKS["segmentation"], [image], "vessels", steps=2)
    assert answer.images[0].pixels.size[0] <= 64


def test_an_autoencoder_goes_on_from_its_weights(data, autoencoder, tmp_path):
    keys = dict(ch=8, ch_mult=(1, 1, 1, 1), norm_num_groups=4, size=32, batch=2, simulated_oct=2, bf16=True)
    again = AutoencoderRecipe(
        "autoencoder", str(data), str(tmp_path), steps=1, seconds=60, learning_rate=0.0, init=str(autoencoder), **keys
    )
    train_autoencoder(again)
    before, after = (load_file(folder / "ae.safetensors") for folder in (autoencoder, tmp_path))
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_wrong_recipe_is_a_sentence(data, tmp_path):
    with pytest.raises(SettingsError, match="No autoencoder there"):
        train_model(recipe(data, tmp_path / "nowhere", tmp_path / "out"))
    values = {"kind": "autoencoder", "data": ".", "out": ".", "steps": 1, "seconds": "soon"}
    with pytest.raises(SettingsError, match="seconds must be of type float: 'soon'"):
        build_recipe(AutoencoderRecipe, values)


def test_a_folder_without_a_manifest_is_refused(tmp_path, autoencoder):
    with pytest.raises(ImageError, match=r"manifest\.csv"):
        train_model(recipe(tmp_path, autoencoder, tmp_path / "out"))
