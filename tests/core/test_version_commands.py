"""``python -m core versions``: a version that was trained elsewhere is registered, compared, served, and taken back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from core.__main__ import main
from core.config import ROOT
from core.feedback.gate import LEAST_ITEMS
from core.feedback.projects import NewItem
from core.feedback.rubric import Plan
from core.feedback.snapshots import Rules
from core.feedback.studio import StudioStore
from core.lineage import Lineage
from core.model.adapter import WEIGHTS, add_adapter, write_adapter
from core.model.checkpoint import load
from core.sequence import Text
from tests.core.feedback.builders import picture
from tests.core.feedback.hub import Hub
from tests.core.feedback.team import Team, filled

NAME = "nano-2"
TOKEN = "hf_secretsecretsecret"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path) -> Path:
    monkeypatch.setenv("UNIMED_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("UNIMED_MODEL", str(tiny_checkpoint))
    for name in ("UNIMED_DATABASE", "UNIMED_PICTURES", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "data"


@pytest.fixture
def team(data: Path) -> Iterator[Team]:
    with StudioStore(f"sqlite:///{data}/feedback.sqlite", data / "pictures") as store:
        yield Team.of(store)


@pytest.fixture
def snapshot(team: Team) -> str:
    return team.store.snapshots.make(team.maintainer, Rules((filled(team),))).sha256


@pytest.fixture
def trained(snapshot: str, tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """The folder of a version, as a run on another machine leaves it."""
    return learned(tmp_path / "elsewhere", snapshot, tiny_checkpoint)


def learned(folder: Path, snapshot: str, checkpoint: Path) -> Path:
    base = load(checkpoint, torch.device("cpu"), torch.float32)
    folder.mkdir()
    write_adapter(add_adapter(base.model, 2, 4, r".*\.und\.q_proj", 0), folder, None)
    Lineage(
        NAME, base.name, base.base_name, base.base_fingerprint, base.fingerprint, snapshot, {"pair, train": 3}, 6, {},
        "", {}, "2026-03-01T12:00:00+00:00",
    ).write(folder)  # fmt: skip
    return folder


def better(team: Team) -> None:
    """A comparison in which the version wins against its parent throughout."""
    (one,) = team.store.versions.all()
    weights = {NAME: one.fingerprint, one.lineage.parent: one.lineage.base_fingerprint}
    pairs = [
        [
            team.store.add_run(
                team.maintainer, task="report", inputs=[picture(n)], outputs=[Text(f"Of {name}.")], settings={}, seed=0,
                model_name=name, model_fingerprint=fingerprint, key=f"{name} {n}",
            ).response_ids[0]
            for name, fingerprint in weights.items()
        ]
        for n in range(LEAST_ITEMS)
    ]  # fmt: skip
    project = team.project("compare", items=[NewItem(tuple(pair)) for pair in pairs], name="gate", plan=Plan(overlap=1))
    team.judge_all(team.raters[0], project, choices={"anatomy": 0, "overall": 0})
    team.store.versions.link(team.maintainer, one.id, project)


def versions(*arguments: object) -> int:
    return main(["versions", *map(str, arguments)])


def test_a_version_is_registered_served_and_taken_back(
    team: Team, trained: Path, data: Path, capsys: pytest.CaptureFixture
) -> None:
    assert versions("add", trained, "--by", "mona") == versions("add", trained, "--by", "mona") == 0
    (one,) = team.store.versions.all()
    assert one.fingerprint == load(data / "versions" / NAME).fingerprint
    why = ("--by", "mona", "--reason", "It is better.")
    assert versions("promote", NAME, *why) == 2
    assert "was not compared with its parent" in capsys.readouterr().err
    better(team)
    assert versions("promote", NAME, *why) == versions("list") == 0
    out = capsys.readouterr().out
    assert f"{NAME}: promoted. Of " in out and "wins 100% (72% to 100%)" in out and f"Served: {NAME}\n" in out
    assert versions("retire", NAME, *why) == 2
    assert versions("back", "--by", "rita", "--reason", "No.") == 2
    assert "Ask a maintainer" in capsys.readouterr().err
    assert versions("back", *why) == 0 and "Served: the base" in capsys.readouterr().out
    assert versions("lineage", NAME) == 0
    told = json.loads(capsys.readouterr().out)
    assert [of["name"] for of in told["versions"]] == [NAME] and told["versions"][0]["state"] == "retired"
    assert [of["judgements"] for of in told["rests_on"]] == [3, 3] and "rita" not in str(told)
    assert versions("lineage", "nano-9") == 2 and NAME in capsys.readouterr().err
    assert list(team.store.verify()) == []


def test_a_version_from_a_database_of_others_is_refused_and_leaves_nothing(
    team: Team, data: Path, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture
) -> None:
    assert versions("add", learned(tmp_path / "foreign", "0" * 64, tiny_checkpoint), "--by", "mona") == 2
    assert "What it learned from is not in this database" in capsys.readouterr().err
    assert team.store.versions.all() == [] and not list((data / "versions").iterdir())


def test_a_snapshot_is_written_for_another_machine(
    team: Team, snapshot: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["feedback", "snapshot", snapshot[:12], str(tmp_path / "out")]) == 0
    assert "pair, " in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "snapshot.json").read_text())["sha256"] == snapshot
    assert main(["feedback", "snapshot", snapshot, str(tmp_path / "out")]) == 2


def test_a_version_is_merged_into_a_whole_checkpoint(
    trained: Path, data: Path, tmp_path: Path, team: Team, capsys: pytest.CaptureFixture
) -> None:
    assert versions("add", trained, "--by", "mona") == 0
    assert versions("merge", NAME, tmp_path / "whole", "--dtype", "float32") == 0
    assert load(tmp_path / "whole").name == NAME
    assert versions("merge", "nano-9", tmp_path / "other") == 2
    weights = data / "versions" / NAME / WEIGHTS
    kept = weights.read_bytes()
    weights.write_bytes(kept + b"x")
    assert versions("merge", NAME, tmp_path / "other") == 2
    assert "not those that were registered" in capsys.readouterr().err
    weights.write_bytes(kept)
    team.store.withdraw_person(team.maintainer, team.raters[0].id)
    assert versions("merge", NAME, tmp_path / "other") == 2 and "was withdrawn" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_version_goes_over_the_hub_from_one_process_to_another(
    trained: Path, data: Path, team: Team, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert versions("add", trained, "--by", "mona") == 0
    where = ("push", NAME, "clinic/nano-2", "--by")
    assert versions(*where, "mona") == 2 and "HF_TOKEN" in capsys.readouterr().err
    hub = Hub(TOKEN)
    try:
        own = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(data / "hub"), "OMP_NUM_THREADS": "1"}

        def run(*arguments: str) -> subprocess.CompletedProcess:
            command = [sys.executable, "-m", "core", "versions", *arguments]
            return subprocess.run(command, cwd=ROOT, env=os.environ | own, capture_output=True, text=True, timeout=300)

        assert "Ask a maintainer" in run(*where, "rita").stderr and not hub.repos
        pushed = run(*where, "mona")
        (event,) = [one for one in team.store.events(team.maintainer, 9) if one.action == "push"]
        assert (event.who, event.after["name"], event.after["repository"]) == ("mona", NAME, "clinic/nano-2")
        assert pushed.returncode == 0, pushed.stderr
        kept = {path.name: path.read_bytes() for path in (data / "versions" / NAME).iterdir()}
        shutil.rmtree(data / "versions" / NAME)
        pulled = run("pull", "clinic/nano-2", "--by", "mona")
        assert pulled.returncode == 0, pulled.stderr
        assert {path.name: path.read_bytes() for path in (data / "versions" / NAME).iterdir()} == kept
    finally:
        hub.close()
    team.store.withdraw_person(team.maintainer, team.raters[0].id)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert versions(*where, "mona") == 2 and "was withdrawn" in capsys.readouterr().err
    assert list(team.store.verify()) == []
