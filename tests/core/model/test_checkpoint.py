"""Loading: every official tensor is accounted for, and everything that can be wrong is named."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.config import ROOT, ModelConfig
from core.errors import CheckpointError, SettingsError
from core.model import checkpoint
from core.model.checkpoint import expected_tensors, load, save
from core.model.unified import UnifiedModel
from tests.conftest import TINY

FULL_KEYS = ROOT.parent / "shared" / "spec" / "full_keys.txt"


@pytest.fixture(scope="module")
def full_entries():
    with torch.device("meta"):
        model = UnifiedModel(ModelConfig())
    main, vae = expected_tensors(model)
    return model, main, vae


def test_official_model_has_1467_tensors(full_entries):
    _, main, vae = full_entries
    assert (len(main), len(vae)) == (1223, 244)
    sizes = [sum(torch.Size(e.shape).numel() for e in part) for part in (main, vae)]
    assert sizes == [14_607_260_128, 83_819_683]
    keys = {e.key for e in main + vae}
    assert len(keys) == 1467
    for part in (
        "language_model.model.layers.27.self_attn.q_norm_moe_gen.weight",
        "language_model.model.layers.0.mlp_moe_gen.down_proj.weight",
        "language_model.model.norm_moe_gen.weight",
        "vit_model.vision_model.encoder.layers.25.mlp.fc2.bias",
        "time_embedder.mlp.2.bias",
        "latent_pos_embed.pos_embed",
        "decoder.up.3.upsample.conv.weight",
        "encoder.mid.attn_1.proj_out.weight",
    ):
        assert part in keys


@pytest.mark.skipif(not FULL_KEYS.is_file(), reason="the list of official tensors is not beside this clone")
def test_official_names_and_shapes(full_entries):
    _, main, vae = full_entries
    lines = [line.split(None, 1) for line in FULL_KEYS.read_text().splitlines() if line and line[0] != "#"]
    official = {key: tuple(int(n) for n in re.findall(r"\d+", shape)) for key, shape in lines}
    assert {e.key: e.shape for e in main + vae} == official


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))


def edit(path: Path, change) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


KEY = "language_model.model.layers.1.self_attn.k_proj_moe_gen.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(KEY), f"lacks 1 tensor.*{re.escape(KEY)}"),
        (lambda t: t.update({"vae_model.x": torch.zeros(1)}), r"1 extra tensor.*vae_model\.x"),
        (lambda t: t.update({KEY: torch.zeros(7)}), rf"{re.escape(KEY)} has shape \(7,\), expected \(32,\)"),
    ],
)
def test_wrong_tensors_are_named(folder, change, message):
    edit(folder / "ema.safetensors", change)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


REQUIRED = ("llm_config.json", "vit_config.json", "tokenizer.json", "ema.safetensors", "ae.safetensors")


@pytest.mark.parametrize("name", REQUIRED)
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load(folder)


def test_truncated_weights_and_broken_json_are_named(folder):
    data = (folder / "ae.safetensors").read_bytes()
    (folder / "ae.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"ae\.safetensors is damaged"):
        load(folder)
    (folder / "llm_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"llm_config\.json is not valid JSON"):
        load(folder)


def test_too_little_memory_is_refused_before_reading(tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(checkpoint.psutil, "virtual_memory", lambda: type("M", (), {"available": 1000})())
    with pytest.raises(CheckpointError, match=r"need .* GiB"):
        load(tiny_checkpoint, torch.device("cpu"))


def test_device_and_dtype_can_be_chosen(tiny_checkpoint, monkeypatch):
    monkeypatch.setenv("UNIMED_DEVICE", "cpu")
    monkeypatch.setenv("UNIMED_DTYPE", "bfloat16")
    info = load(tiny_checkpoint).info()
    assert (info["device"], info["dtype"]) == ("cpu", "bfloat16")
    for name, wrong in (("UNIMED_DTYPE", "int3"), ("UNIMED_DEVICE", "abacus")):
        with monkeypatch.context() as patch, pytest.raises(SettingsError, match=wrong):
            patch.setenv(name, wrong)
            load(tiny_checkpoint)


def test_unknown_folder_says_what_to_do():
    with pytest.raises(CheckpointError, match="Give a folder or a hub id"):
        load("no such folder")


def test_bf16_weights_file_comes_first(folder):
    shutil.copy(folder / "ema.safetensors", folder / "ema_bf16.safetensors")
    assert load(folder).weights == "ema_bf16.safetensors"


def test_round_trip_is_exact_and_indexed(tiny_checkpoint, tmp_path):
    first = load(tiny_checkpoint)
    save(first.model, tmp_path / "again", torch.float32, like=tiny_checkpoint)
    second = load(tmp_path / "again")
    for (name, a), b in zip(first.model.state_dict().items(), second.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    index = json.loads((tmp_path / "again" / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(index.values()) == {"ema.safetensors", "ae.safetensors"}
    assert len(index) == first.info()["tensors"]


MEASURE = """
import sys, torch
from pathlib import Path
from core.model import checkpoint
def anonymous():
    return next(int(l.split()[1]) for l in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in l) / 1024
checkpoint.load(sys.argv[1], torch.device("cpu"), torch.float32)
before = anonymous()
loaded = checkpoint.load(sys.argv[2], torch.device("cpu"), torch.float32)
print(anonymous() - before, loaded.info()["bytes"] / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loading_never_holds_a_second_copy(tiny_checkpoint, tmp_path, dtype):
    """In its own dtype a model on the CPU is the mapped file itself; converted, it is held once."""
    config = replace(TINY, llm=replace(TINY.llm, hidden_size=256, vocab_size=100_000))
    checkpoint.write_config(config, tmp_path)
    shutil.copy(tiny_checkpoint / "tokenizer.json", tmp_path)
    save(UnifiedModel(config), tmp_path, dtype, like=tmp_path)
    arguments = [sys.executable, "-c", MEASURE, str(tiny_checkpoint), str(tmp_path)]
    run = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    grown, size = (float(n) for n in run.stdout.split())
    assert size > 190
    assert grown < (0.1 if dtype == torch.float32 else 1.15) * size


def test_loaded_models_are_for_inference(tiny_checkpoint):
    model = load(tiny_checkpoint).model
    assert not any(p.is_meta or p.requires_grad for p in model.state_dict(keep_vars=True).values())
