"""From a folder with a manifest to a scored checkpoint, by the commands and recipes that make nano, in small."""

import json
import subprocess
import sys

from core.config import ROOT


def core(*arguments: object) -> str:
    command = [sys.executable, "-m", "core", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_smoke_recipe_goes_from_a_manifest_to_a_score(manifest, tmp_path):
    records, out, score = tmp_path / "data.jsonl", tmp_path / "run", tmp_path / "score"
    core("records", "build", manifest, "--out", records, "--max-side", 64, "--simulated-oct", 4)
    assert "no problems" in core("records", "check", records)
    core("train", "core/training/recipes/smoke.json", f"records={records}", f"out={out}")
    core("evaluate", "--records", records, "--model", out, "--out", score, "--limit", 1)
    result = json.loads((score / "metrics.json").read_text())
    assert {row["task"] for row in result["rows"]} >= {"vqa", "text_to_image", "segmentation", "super_resolution"}
    assert (score / "index.html").is_file()


def test_nano_recipes_run_in_their_order(records, tmp_path):
    """The shipped recipes of every stage, cut down to a few steps of a tiny model."""
    recipes, small = "core/training/recipes/nano", [f"records={records}"]
    autoencoder, before = tmp_path / "autoencoder", tmp_path / "fresh"
    core("train", f"{recipes}/autoencoder.json", *small, f"out={autoencoder}", "steps=2", "batch=2", "size=32", "ch=8")
    sizes = ["hidden_size=64", "num_hidden_layers=2", "vit_hidden_size=48", "vit_layers=1", "vocab_size=400"]
    sizes += [f"autoencoder={autoencoder}", "image_size=64"]
    core("train", f"{recipes}/fresh.json", *small, f"out={before}", *sizes)
    for stage in (1, 2, 3):
        out = tmp_path / f"stage{stage}"
        keys = ["steps=2", "tokens_per_pack=150", f"cache={tmp_path / 'latents'}"]
        core("train", f"{recipes}/stage{stage}.json", *small, f"init={before}", f"out={out}", *keys)
        before = out
    info = json.loads(core("info", "--model", before))
    assert info["model"] == "nano v1"
