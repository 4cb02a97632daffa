"""A version folder is its base with everything that was learned since, however many times."""

import dataclasses
import shutil

import pytest
import torch
from peft import PeftModel

from core.errors import CheckpointError
from core.lineage import Lineage
from core.model.adapter import WEIGHTS, add_adapter, write_adapter
from core.model.checkpoint import load
from core.training.recipe import LORA_TARGETS

CPU = torch.device("cpu")
UND = r"language_model\.layers\.\d+\.und\.(q|k|v|o|gate|up|down)_proj"


def learn_something(model, rank, targets, seed):
    """An adapter that changes its layers at random."""
    peft = add_adapter(model, rank, 2 * rank, targets, seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.05)
    return peft


def written(folder, peft, base, parent=None):
    folder.mkdir()
    write_adapter(peft, folder, parent)
    about = Lineage(folder.name, "base", base.folder.name, base.base_fingerprint, "0" * 64, {}, 0, {}, "", {}, "")
    about.write(folder)
    return folder


def same(first, second):
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in second)


@pytest.fixture
def base(tiny_checkpoint, monkeypatch):
    monkeypatch.setenv("UNIMED_MODEL", str(tiny_checkpoint))
    return load(tiny_checkpoint, CPU, torch.float32)


def test_a_child_of_another_size_and_other_layers_holds_its_parent(base, tmp_path):
    first = written(tmp_path / "first", learn_something(base.model, 4, LORA_TARGETS, 0), base)
    loaded = load(first, CPU, torch.float32)
    assert loaded.name == "first" and loaded.base_fingerprint == load(base.folder).fingerprint != loaded.fingerprint
    peft = learn_something(loaded.model, 2, UND, 1)
    second = written(tmp_path / "second", peft, loaded, parent=first)
    shutil.rmtree(first)
    child = load(second, CPU, torch.float32)
    same(child.model.state_dict(), peft.merge_and_unload().state_dict())
    assert child.fingerprint not in (loaded.fingerprint, child.base_fingerprint)
    other = PeftModel.from_pretrained(load(base.folder, CPU, torch.float32).model, str(second))  # as others read it
    same(other.merge_and_unload().state_dict(), child.model.state_dict())


def test_what_cannot_be_merged_is_said_in_a_sentence(base, tmp_path, monkeypatch):
    folder = written(tmp_path / "v", learn_something(base.model, 2, UND, 0), base)
    about = Lineage.read(folder)
    dataclasses.replace(about, base_fingerprint="f" * 64).write(folder)
    with pytest.raises(CheckpointError, match="base of v is not here"):
        load(folder)
    about.write(folder)
    (folder / WEIGHTS).write_bytes(b"cut off")
    with pytest.raises(CheckpointError, match="adapter cannot be read"):
        load(folder)
    (folder / "version.json").write_text('{"name": "v"')
    with pytest.raises(CheckpointError, match="damaged"):
        load(folder)


def test_in_bfloat16_what_was_learned_is_not_rounded_away(base, tmp_path):
    """A change far below the step between two bfloat16 weights still changes what the model computes as in float32."""
    peft = learn_something(base.model, 4, LORA_TARGETS, 0)
    with torch.no_grad():
        for name, p in base.model.named_parameters():
            if "lora_B" in name:
                p.mul_(0.01)
    folder = written(tmp_path / "v", peft, base)
    wide, plain = load(folder, CPU, torch.float32).model, load(base.folder, CPU, torch.float32).model
    narrow, rounded = load(folder, CPU, torch.bfloat16).model, load(base.folder, CPU, torch.bfloat16).model
    layer, x = "language_model.layers.0.und.q_proj", torch.randn(64, base.model.config.llm.hidden_size)
    # What the adapter adds, apart from the rounding of everything else.
    learned = wide.get_submodule(layer)(x) - plain.get_submodule(layer)(x)
    lora = narrow.get_submodule(layer)
    added = lora.lora_B["default"](lora.lora_A["default"](x)) * lora.scaling["default"]
    torch.testing.assert_close(added, learned, rtol=1e-2, atol=1e-5)
    assert torch.equal(lora.base_layer.weight, rounded.get_submodule(layer).weight)
    assert {p.dtype for name, p in narrow.named_parameters() if "lora_" in name} == {torch.float32}
