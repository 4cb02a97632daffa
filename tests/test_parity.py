"""The recorded reference vectors, where they lie beside this clone; the golden set covers the rest."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from core.config import ROOT
from tests.parity.__main__ import main
from tests.parity.sensitivity import unnoticed_tensors
from tests.parity.vectors import Group

VECTORS = ROOT.parent / "shared" / "parity"
pytestmark = pytest.mark.skipif(not VECTORS.is_dir(), reason="the reference vectors are not beside this clone")


def test_parity_holds(capsys):
    assert main([str(VECTORS)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("ok")]
    assert len(lines) == 9


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(VECTORS, tmp_path / "set")
    subprocess.run(["chmod", "-R", "u+w", str(tmp_path / "set")], check=True)
    return tmp_path / "set"


@pytest.mark.parametrize(
    ("file", "tensor"),
    [
        ("ema.safetensors", "language_model.model.layers.2.self_attn.k_proj_moe_gen.bias"),
        ("ema.safetensors", "vit_model.vision_model.embeddings.position_embedding.weight"),
        ("ae.safetensors", "decoder.norm_out.bias"),
    ],
)
def test_one_percent_in_one_tensor_is_noticed(copy, file, tensor, capsys):
    tensors = load_file(copy / "ckpt" / file)
    tensors[tensor] = tensors[tensor] * 1.01
    save_file(tensors, copy / "ckpt" / file)
    assert main([str(copy)]) == 1
    assert "FAIL" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_tensor_is_noticed_but_those_that_cancel():
    assert [key for key, cancels in unnoticed_tensors(VECTORS).items() if not cancels] == []


REMOVED = {
    "00_units": "sincos.dim16_side5",
    "01_preprocess": "tiny.small_vit.patches",
    "04_understand": "vqa.step0.hidden",
    "05_vae": "mean",
    "06_generate": "edit.v_cfg.global.t0.75",
    "07_train": "all.grad.language_model.model.layers.0.mlp.down_proj.weight",
    "08_inferencer": "edit.draw1",
}


def test_missing_and_unread_arrays_fail(copy, capsys):
    for group, name in REMOVED.items():
        path = copy / "vectors" / f"{group}.safetensors"
        arrays = load_file(path)
        arrays["surprise"] = arrays.pop(name)
        save_file(arrays, path)
    assert main([str(copy)]) == 1
    out = capsys.readouterr().out
    assert [name for name in REMOVED.values() if f"missing array {name}" not in out] == []
    assert "unread array surprise" in out


def test_a_lost_gradient_fails(tmp_path):
    (tmp_path / "vectors").mkdir()
    group = Group(tmp_path, "x")
    group.problems.clear()
    group.gradient("weight", float("nan"), 1.0, 0.0)
    assert group.problems


def test_command_reports_a_folder_that_is_none(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "tests.parity", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 1 and "Traceback" not in result.stderr
