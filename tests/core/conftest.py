"""A manifest, the records built from it, and a tiny fresh checkpoint: what every trainer test starts from."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image as PILImage

from core.data.build import BuildOptions, build
from core.data.manifest import COLUMNS
from core.training.autoencoder import AutoencoderRecipe, train_autoencoder
from core.training.fresh import make_fresh
from core.training.recipe import FreshRecipe, TrainRecipe

MIX = {"understanding": 0.4, "generation": 0.3, "interleaved": 0.3}


@pytest.fixture(scope="session")
def manifest(tmp_path_factory):
    """Six random breast scans and six fundi with masks, a third of them test data."""
    root, random = tmp_path_factory.mktemp("manifest"), np.random.default_rng(0)
    rows = []
    for source, modality in (("busi", "ultrasound"), ("fundus_drive", "fundus")):
        for i in range(6):
            name = f"{source}_{i}"
            PILImage.fromarray(random.integers(0, 255, (70, 90, 3), dtype=np.uint8)).save(root / f"{name}.png")
            PILImage.fromarray(random.integers(0, 255, (70, 90), dtype=np.uint8)).save(root / f"{name}_mask.png")
            row = dict.fromkeys(COLUMNS, "") | {"path": f"{name}.png", "source": source, "modality": modality}
            row |= {"tier": "A", "patient": name, "split": "test" if i > 3 else "train", "licence": "CC0"}
            row["label"] = "benign" if source == "busi" else ""
            row["mask"] = f"{name}_mask.png" if source == "fundus_drive" else ""
            rows.append(row)
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return root / "manifest.csv"


@pytest.fixture(scope="session")
def records(manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("records") / "r.jsonl"
    build(manifest, manifest.parent, out, BuildOptions(max_side=64, simulated_oct=2))
    return out


@pytest.fixture(scope="session")
def autoencoder(records, tmp_path_factory):
    out = tmp_path_factory.mktemp("autoencoder")
    recipe = AutoencoderRecipe(
        "autoencoder", str(records), str(out), steps=2, ch=8, ch_mult=(1, 1, 1, 1), norm_num_groups=4, size=32, batch=2
    )
    return train_autoencoder(recipe)


@pytest.fixture(scope="session")
def fresh(records, autoencoder, tmp_path_factory):
    return make_fresh(
        FreshRecipe(
            "fresh", str(records), str(autoencoder), str(tmp_path_factory.mktemp("fresh")), hidden_size=64,
            num_hidden_layers=2, intermediate_size=64, vit_hidden_size=48, vit_layers=1, vocab_size=400, image_size=64,
            vit_size=56,
        )
    )  # fmt: skip


@pytest.fixture
def recipe(records, fresh, tmp_path):
    """A recipe of three small steps; keyword arguments replace its keys."""

    def make(**keys) -> TrainRecipe:
        small = dict(tokens_per_pack=150, warmup_steps=1, log_every=1, learning_rate=1e-3, bf16=False, eps=1e-8)
        small["ema_decay"] = 0.9
        fixed = dict(kind="model", records=str(records), init=str(fresh), out=str(tmp_path / "run"), steps=3, mix=MIX)
        return TrainRecipe(**fixed | small | keys)

    return make


@pytest.fixture
def recipe_file(recipe, tmp_path):
    """The same as a JSON file, for commands."""

    def make(**keys):
        path = tmp_path / "recipe.json"
        path.write_text(json.dumps(dataclasses.asdict(recipe(**keys))), encoding="utf-8")
        return path

    return make
