"""A snapshot as a folder: whole, with nothing that names a judgement, a project or a person."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image as PILImage

from core.errors import FeedbackError
from core.feedback import snapshot_folder
from core.feedback.projects import NewItem
from core.feedback.rubric import Plan
from core.feedback.snapshots import Rules, SnapshotInfo
from core.training.sources import from_folder, from_store
from tests.core.feedback.builders import picture
from tests.core.feedback.team import Team, filled


@pytest.fixture
def made(team: Team) -> SnapshotInfo:
    """One of texts and drawn pictures."""
    rate = team.project("rate", items=[NewItem((one,)) for one in team.outputs()], plan=Plan(overlap=1))
    team.judge_all(team.raters[0], rate, scores={"anatomy": 5, "overall": 5})
    return team.store.snapshots.make(team.maintainer, Rules((filled(team), rate)))


def write(team: Team, sha256: str, folder: Path) -> dict:
    return snapshot_folder.write(team.store.snapshots, team.store.blobs, sha256, folder)


def test_the_folder_holds_all_that_a_learner_needs_and_nobodys_name(
    team: Team, made: SnapshotInfo, tmp_path: Path
) -> None:
    about = write(team, made.sha256[:10], tmp_path / "out")
    assert about == json.loads((tmp_path / "out" / "snapshot.json").read_text())
    assert (about["sha256"], about["judgements"]) == (made.sha256, 10) and "projects" not in about["rules"]
    here, there = from_store(team.store, made.sha256), from_folder(tmp_path / "out")
    assert (there.sha256, there.judgements, there.counts()) == (here.sha256, here.judgements, here.counts())
    without = [{key: value for key, value in one.items() if key != "judgements"} for one in here.signals]
    assert [{key: value for key, value in one.items() if key != "judgements"} for one in there.signals] == without
    assert {one["judgements"] for one in there.signals} == {1, 2}
    drawn = picture(100, generated=True)
    assert there.picture(drawn.sha256).tobytes() == drawn.pixels.tobytes()
    assert PILImage.open(tmp_path / "out" / "pictures" / f"{drawn.sha256}.png").text, "it says that it is drawn"
    shown = {s["sha256"] for one in here.signals for s in (*one["inputs"], one["chosen"]) if s and s["type"] == "image"}
    assert {path.stem for path in (tmp_path / "out" / "pictures").iterdir()} == shown
    written = "".join(path.read_text() for path in (tmp_path / "out").glob("*.json*"))
    hidden = {one for signal in here.signals for one in signal["judgements"]} | set(made.rules.projects)
    assert not any(one in written for one in {*hidden, *(person.id for person in team.raters), "rita", "mona"})


def test_what_was_changed_on_the_way_is_not_learned_from(team: Team, made: SnapshotInfo, tmp_path: Path) -> None:
    write(team, made.sha256, out := tmp_path / "out")
    signals, (first, second, *_) = out / "signals.jsonl", sorted((out / "pictures").iterdir())
    first.write_bytes(second.read_bytes())
    source = from_folder(out)
    assert source.picture(second.stem)
    with pytest.raises(FeedbackError, match=r"picture .* was changed.*Write it again"):
        source.picture(first.stem)
    signals.write_text(signals.read_text().replace("Good.", "Bad."))
    with pytest.raises(FeedbackError, match=r"signals are not those .*Write it again"):
        from_folder(out)


def test_a_folder_that_is_not_empty_is_left_alone(team: Team, made: SnapshotInfo, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(team, made.sha256, tmp_path / "out")
    with pytest.raises(FeedbackError, match="not empty"):
        write(team, made.sha256, tmp_path / "out")
    for sha256, why in (("", "no such snapshot"), ("f" * 64, "no such snapshot")):
        with pytest.raises(FeedbackError, match=why):
            write(team, sha256, tmp_path / "other")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FeedbackError, match="cannot be written"):
        write(team, made.sha256, tmp_path / "file" / "out")
    assert (tmp_path / "file").read_text() == "mine" and not (tmp_path / "other").exists()


def test_nothing_that_was_withdrawn_is_written(
    team: Team, made: SnapshotInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = team.store.snapshots.read

    def withdrawn_after(sha256: str) -> list[dict]:
        found = read(sha256)
        monkeypatch.setattr(team.store.snapshots, "read", read)
        team.store.withdraw_person(team.maintainer, team.raters[0].id)
        return found

    monkeypatch.setattr(team.store.snapshots, "read", withdrawn_after)
    with pytest.raises(FeedbackError, match="was emptied"):
        write(team, made.sha256, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))
