"""A version that leaves, and comes back: as a whole checkpoint, through the hub, and into the folder of versions."""

import json

import pytest
import torch
from safetensors.torch import save_file

from core.errors import CheckpointError
from core.lineage import Lineage
from core.model.adapter import CONFIG, WEIGHTS, add_adapter, write_adapter
from core.model.checkpoint import load
from core.model.exchange import FILES, checked, merge, place, pull, push
from tests.core.feedback.hub import Hub, Repo

CPU = torch.device("cpu")
TARGETS = r"language_model\.layers\.\d+\.und\.(q|k|v|o)_proj"
TOKEN, REPO = "hf_secretsecretsecret", "clinic/nano-2"


@pytest.fixture
def hub():
    hub = Hub(TOKEN)
    yield hub
    hub.close()


@pytest.fixture
def base(tiny_checkpoint, monkeypatch):
    monkeypatch.setenv("UNIMED_MODEL", str(tiny_checkpoint))
    return load(tiny_checkpoint, CPU, torch.float32)


@pytest.fixture
def version(base, tmp_path):
    return learned(base, tmp_path / "nano-2")


def learned(base, folder, seed=0, name="nano-2"):
    """A version that differs from its base, with what a run leaves beside it."""
    peft = add_adapter(base.model, 2, 4, TARGETS, seed)
    with torch.no_grad():
        for key, parameter in base.model.named_parameters():
            if "lora_B" in key:
                parameter.normal_(std=0.05)
    (folder / "state").mkdir(parents=True)
    (folder / "state" / "save.pt").write_bytes(b"of the run")
    write_adapter(peft, folder, None)
    peft.unload()
    digest = base.base_fingerprint
    about = Lineage(name, base.name, base.folder.name, digest, digest, "0" * 64, {}, 0, {}, "", {}, "")
    about.write(folder)
    (folder / "README.md").write_text("# nano-2\n")
    return folder


def test_a_merged_version_is_the_same_model_and_needs_no_base(base, version, tmp_path, monkeypatch):
    whole = load(version, CPU, torch.float32)
    merge(version, tmp_path / "out", torch.float32)
    monkeypatch.setenv("UNIMED_MODEL", str(tmp_path / "none"))
    found = load(tmp_path / "out", CPU, torch.float32)
    assert found.name == "nano-2" and found.lineage is None
    state = whole.model.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in found.model.state_dict().items())
    of_base = load(base.folder, CPU, torch.float32).model.state_dict()
    assert any(not torch.equal(tensor, state[key]) for key, tensor in of_base.items())
    assert (tmp_path / "out" / "README.md").read_text() == "# nano-2\n"
    with pytest.raises(CheckpointError, match="not empty"):
        merge(version, tmp_path / "out", torch.float32)


def test_a_version_comes_back_from_the_hub_as_it_was_pushed(hub, version, tmp_path):
    push(version, REPO, TOKEN, hub.url)
    assert hub.repos[REPO].private and set(hub.repos[REPO].head) == {".gitattributes", *FILES}
    pull(REPO, tmp_path / "pulled", TOKEN, hub.url)
    for name in FILES:
        assert (tmp_path / "pulled" / name).read_bytes() == (version / name).read_bytes()
    assert checked(tmp_path / "pulled") == checked(version)


def test_a_version_is_not_put_where_everybody_can_read_it(hub, version):
    hub.repos[REPO] = Repo(private=False)
    with pytest.raises(CheckpointError, match="Everybody can read"):
        push(version, REPO, TOKEN, hub.url)
    assert len(hub.repos[REPO].commits) == 1


def test_what_the_hub_refuses_is_a_sentence_without_the_token(hub, version, tmp_path):
    hub.refuses = 403
    with pytest.raises(CheckpointError, match="hub does not take or give") as refused:
        push(version, REPO, TOKEN, hub.url)
    assert TOKEN not in str(refused.value) and "403" in str(refused.value)
    with pytest.raises(CheckpointError, match="hub does not take or give"):
        pull(REPO, tmp_path / "pulled", TOKEN, "http://127.0.0.1:1")
    for repo, token in (("clinic/none", TOKEN), (REPO, "hf_wrong"), ("no/such/name", TOKEN)):
        with pytest.raises(CheckpointError, match="hub does not take or give"):
            pull(repo, tmp_path / "pulled", token, hub.url)


def test_a_repository_of_something_else_is_no_version(hub, tmp_path):
    hub.repos[REPO] = Repo(private=True)
    hub.repos[REPO].commits.append({"model.safetensors": b"x"})
    pull(REPO, tmp_path / "pulled", TOKEN, hub.url)
    with pytest.raises(CheckpointError, match="no folder of a learned version"):
        checked(tmp_path / "pulled")


@pytest.mark.parametrize("lacks", [CONFIG, WEIGHTS])
def test_half_a_version_is_refused(version, lacks):
    (version / lacks).unlink()
    with pytest.raises(CheckpointError, match=f"lacks a file: '{lacks}'"):
        checked(version)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"name": "../../outside"}, "cannot have that name"),
        ({"name": ".hidden"}, "cannot have that name"),
        ({"base_fingerprint": "0" * 64}, "The base of nano-2 is not here: tiny"),
    ],
)
def test_a_version_that_lies_elsewhere_or_has_no_base_here_is_refused(version, tmp_path, change, why):
    about = json.loads((version / "version.json").read_text()) | change | {"base": "tiny"}
    (version / "version.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match=why):
        place(version, tmp_path / "versions")
    assert not (tmp_path / "versions").exists() and not (tmp_path.parent / "outside").exists()


def test_a_version_is_placed_once_and_never_over_another(base, version, tmp_path):
    versions = tmp_path / "versions"
    assert place(version, versions) == (versions / "nano-2", True)
    assert {path.name for path in (versions / "nano-2").iterdir()} == set(FILES)
    assert place(version, versions) == place(versions / "nano-2", versions) == (versions / "nano-2", False)
    with pytest.raises(CheckpointError, match="Another version has that name"):
        place(learned(base, tmp_path / "other", seed=1), versions)
    assert [path.name for path in versions.iterdir()] == ["nano-2"]


def test_no_byte_of_an_adapter_can_be_changed_unseen(base, version):
    """Also in the middle of what is larger than both ends."""
    save_file({"x": torch.zeros(3 << 18)}, version / WEIGHTS)
    before = checked(version)[1]
    content = bytearray((version / WEIGHTS).read_bytes())
    content[len(content) // 2] ^= 1
    (version / WEIGHTS).write_bytes(content)
    weights = checked(version)[1]
    (version / CONFIG).write_text((version / CONFIG).read_text() + " ")
    assert len({before, weights, checked(version)[1]}) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"signals": [3]}, {"signals": {"pair, train": "3"}}, {"metrics": []}, {"recipe": "x"}, {"judgements": "6"},
        {"metrics": {"tasks": {"vqa": 1}}}, {"metrics": {"tasks": ["vqa"]}}, {"name": None}, {"created_at": 3},
    ],
)  # fmt: skip
def test_a_version_of_others_that_says_something_else_than_it_should_is_damaged(version, change):
    about = json.loads((version / "version.json").read_text())
    (version / "version.json").write_text(json.dumps(about | change))
    with pytest.raises(CheckpointError, match=r"version.json is damaged: 'nano-2'. Copy it again"):
        Lineage.read(version)
