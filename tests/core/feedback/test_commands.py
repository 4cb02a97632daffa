"""``python -m core feedback``: accounts from the machine itself, and the check of the log."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from pydicom.data import get_testdata_file

from core.__main__ import main
from core.commands.store import studio_store
from core.feedback.projects import NewItem
from core.feedback.rubric import RUBRICS
from core.feedback.studio import StudioStore
from core.sequence import NOTICE
from tests.core.data.builders import dicom_bytes
from tests.core.feedback.builders import picture
from tests.core.feedback.team import Team

PASSWORD = "correct horse"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the feedback, as the settings name it."""
    monkeypatch.setenv("UNIMED_DATA", str(tmp_path))
    monkeypatch.delenv("UNIMED_DATABASE", raising=False)
    monkeypatch.delenv("UNIMED_PICTURES", raising=False)
    monkeypatch.setenv("UNIMED_PASSWORD", PASSWORD)
    return tmp_path


@pytest.fixture
def store(data: Path) -> Iterator[StudioStore]:
    with StudioStore(f"sqlite:///{data}/feedback.sqlite", data / "pictures") as store:
        yield store


def add(name: str, role: str) -> int:
    return main(["feedback", "user", name, "--role", role])


def test_accounts_are_made_on_the_machine(store: StudioStore, capsys: pytest.CaptureFixture) -> None:
    assert add("rita", "rater") == 2
    assert "first account must be a maintainer's" in capsys.readouterr().err
    assert add("mona", "maintainer") == 0
    assert "mona can log in as maintainer" in capsys.readouterr().out
    assert add("rita", "rater") == 0
    for name, role, why in [
        ("rita", "rater", "already"),
        ("x y", "rater", "characters"),
        ("eve", "king", "Unknown role"),
    ]:
        assert add(name, role) == 2
        assert why in capsys.readouterr().err
    mona = store.people.of_token(store.people.log_in("mona", PASSWORD))
    assert [(person.login, person.role) for person in store.people.everyone(mona)] == [
        ("mona", "maintainer"),
        ("rita", "rater"),
    ]
    assert list(store.verify()) == []


def test_pictures_lie_where_the_settings_say(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIMED_PICTURES", f"file://{data}/elsewhere")
    with studio_store() as store:
        sha256 = store.blobs.put(picture(1))
    assert (data / "elsewhere" / sha256[:2] / f"{sha256}.png").is_file()
    monkeypatch.setenv("UNIMED_PICTURES", "nothing://elsewhere")
    assert main(["feedback", "verify"]) == 2


def test_the_password_is_asked_for_twice(
    store: StudioStore, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UNIMED_PASSWORD")
    typed = iter([PASSWORD, PASSWORD + "!", PASSWORD, PASSWORD, "short", "short"])
    monkeypatch.setattr("core.commands.feedback.getpass", lambda prompt: next(typed))
    assert add("mona", "maintainer") == 2
    assert "differ" in capsys.readouterr().err
    assert add("mona", "maintainer") == 0
    assert store.people.log_in("mona", PASSWORD)
    assert add("rita", "rater") == 2
    assert "too short" in capsys.readouterr().err
    assert PASSWORD not in "".join(capsys.readouterr())


def test_verify_says_what_it_found(store: StudioStore, data: Path, capsys: pytest.CaptureFixture) -> None:
    add("mona", "maintainer")
    add("rita", "rater")
    capsys.readouterr()
    assert main(["feedback", "verify"]) == 0
    events, newest = store.log_head()
    out = capsys.readouterr().out
    assert events == 2 and out.startswith("2 events") and newest in out
    with closing(sqlite3.connect(data / "feedback.sqlite")) as file:
        file.execute("UPDATE users SET role = 'maintainer' WHERE login = 'rita'")
        file.execute("DELETE FROM audit_events WHERE seq = 1")
        file.commit()
    assert main(["feedback", "verify"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("users: ") and line.endswith("was changed") for line in lines)
    assert any("1 to 1 are missing" in line for line in lines)
    assert newest not in "".join(lines)


def test_outputs_come_into_the_store_to_be_rated(
    store: StudioStore, tiny_checkpoint: Path, capsys: pytest.CaptureFixture
) -> None:
    add("mona", "maintainer")
    add("rita", "rater")
    mona, scan = store.people.named("mona"), str(get_testdata_file("CT_small.dcm", download=False))
    model = ["--model", str(tiny_checkpoint), "--by", "mona", "--task"]
    for _ in range(2):  # the second time stores nothing
        assert main(["feedback", "run", *model, "super_resolution", "--steps", "2", "--seeds", "3", scan]) == 0
        assert main(["feedback", "run", *model, "vqa", "--prompt", "Which organ is shown?", scan]) == 0
    assert (len(store.projects.responses(mona, "image")), len(store.projects.responses(mona, "text"))) == (3, 1)
    assert len(store.projects.groups(mona, "image")) == 3
    for wrong, why in [
        (["super_resolution"], "needs files"),
        (["text_to_image", "--prompt", "A CT.", scan], "takes no file"),
        (["vqa", "--prompt", "Which?", scan, "--by", "rita"], "not for you"),
        (["vqa", "--prompt", "Which?", scan, "--by", "nobody"], "no such account"),
    ]:
        assert main(["feedback", "run", *model, *wrong]) == 2
        assert why in capsys.readouterr().err


def test_slices_of_one_patient_are_one_patients(
    store: StudioStore, data: Path, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture
) -> None:
    add("mona", "maintainer")
    files = []
    for seed, patient in enumerate(("P-1", "P-1", "P-2")):
        pixels = np.random.default_rng(seed).integers(0, 2000, (16, 12), dtype=np.uint16)
        files.append(tmp_path / f"{seed}.dcm")
        files[-1].write_bytes(dicom_bytes(pixels, PatientID=patient))
    picture(1).pixels.save(tmp_path / "p.png")
    run = ["feedback", "run", "--model", str(tiny_checkpoint), "--by", "mona", "--task", "vqa", "--prompt", "Which?"]
    assert main([*run, *map(str, files), str(tmp_path / "p.png")]) == 0
    with closing(sqlite3.connect(data / "feedback.sqlite")) as file:
        assert file.execute("SELECT count(*) FROM cases").fetchone() == (3,)
    mona = store.people.named("mona")
    assert store.withdraw_patient(mona, "DICOM", "P-1").generations == 2
    assert len(store.projects.responses(mona, "text")) == 2


def test_an_import_becomes_a_project(store: StudioStore, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    add("mona", "maintainer")
    mona = store.people.named("mona")
    folder, by = tmp_path / "scans", ["--by", "mona"]
    folder.mkdir()
    picture(1).pixels.save(folder / "a.png")
    (folder / "b.txt").write_text("x")
    new = ["--project", "Quality", "--rubric", "training data"]
    assert main(["feedback", "import", "folder", str(folder), *by, *new]) == 0
    said = capsys.readouterr().out
    assert "left out: 1 (The file is not a picture of a supported kind; first: file 2 of 2" in said
    assert "Quality is a draft with 1 items" in said
    (project,) = store.projects.of(mona)
    assert (project.name, project.items, project.rubric) == ("Quality", 1, RUBRICS["training data"])
    picture(2).pixels.save(folder / "c.png")
    for wrong, why in [
        (["folder", str(folder), *new], "has items already"), (["excel", str(folder)], "Unknown kind of import"),
        (["coco", str(folder)], "There must be one"), (["folder", str(folder), "--rubric", "x"], "Unknown rubric"),
    ]:  # fmt: skip
        assert main(["feedback", "import", *wrong, *by]) == 2
        assert why in capsys.readouterr().err
    store.projects.make(mona, "Empty", "rate", RUBRICS["image"])
    assert main(["feedback", "import", "folder", str(folder), *by, "--project", "Empty"]) == 0
    assert "Empty is a draft with 2 items" in capsys.readouterr().out


def test_a_person_and_a_patient_are_withdrawn_on_the_machine(store: StudioStore, capsys: pytest.CaptureFixture) -> None:
    team = Team.of(store)
    project = team.project(items=[NewItem((one,)) for one in team.outputs(count=2, patient="Doe")])
    by = ["--by", "mona"]
    for rater in team.raters:
        team.judge_all(rater, project)
    store.people.disable(team.maintainer, team.raters[0].id)

    def withdraw(*rest: str) -> tuple[int, str]:
        status = main(["feedback", "withdraw", *rest])
        return status, "".join(capsys.readouterr())

    assert withdraw("person", "rita", *by) == (0, "Withdrawn: rita, with 2 judgements\n")
    for wrong, why in [
        (["person", "rita", *by], "no such account"), (["person", "judith", "--by", "ralf"], "not for you"),
        (["patient", "ward", "Doe", *by], "Use one of archive"),
        (["patient", "archive", "Roe", *by], "nothing of such"),
        (["patient", "archive", "Doe", "--by", "ralf"], "not for you"),
    ]:  # fmt: skip
        status, said = withdraw(*wrong)
        assert status == 2 and why in said and "Roe" not in said
    assert withdraw("patient", "archive", "Doe", *by) == (0, "Withdrawn: 2 runs, 2 items, 2 judgements\n")
    assert list(store.verify()) == []


def test_a_project_is_exported_as_files_and_as_a_folder(
    store: StudioStore, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    team = Team.of(store)
    project = team.project("rate", 2)
    for rater in team.raters:
        team.judge_all(rater, project)
    (name,) = [one.name for one in store.projects.of(team.maintainer) if one.id == project]
    out, by = tmp_path / "out", ["--by", team.maintainer.login]

    def export(layout: str, path: str, *rest: str) -> int:
        return main(["feedback", "export", name, layout, str(out / path), *(rest or by)])

    for path in ("imrmc.csv", "imrmc.jsonl", "imrmc.parquet"):
        assert export("imrmc", path) == 0
    lines = (out / "imrmc.jsonl").read_text().splitlines()
    assert len(lines) == 4 and set(json.loads(lines[0])) == {"readerID", "caseID", "modalityID", "score"}
    assert len((out / "imrmc.csv").read_text().splitlines()) == 5
    assert pyarrow.parquet.read_table(out / "imrmc.parquet").num_rows == 4
    assert export("trl_preference", "pairs.csv") == 0 and "left out: 4 (not a pair of texts)" in capsys.readouterr().out
    assert export("coco", "coco.json") == 0
    waiting = team.project("rate", 3, name="waiting")
    team.judge_all(team.raters[0], project)
    team.submit(team.raters[0], team.next(team.raters[0], waiting))
    losses = store.exports.write(team.maintainer, waiting, "imrmc", out / "waiting.csv")
    assert losses["an item that nobody has judged"] == 2
    assert export("label_studio", "hub") == 0
    assert len((out / "hub" / "data.jsonl").read_text().splitlines()) == 2
    assert len(list((out / "hub" / "images").glob("*.png"))) == 4, "two inputs and two outputs"
    marked = [NOTICE.encode() in path.read_bytes() for path in (out / "hub" / "images").glob("*.png")]
    assert sorted(marked) == [False, False, True, True], "drawn ones say that they are"
    assert "2 raters about 2 items" in (out / "hub" / "README.md").read_text()
    for layout, path, rest, why in [
        ("nothing", "x.jsonl", by, "Unknown layout"),
        ("imrmc", "x.docx", by, "Unknown kind of file"),
        ("coco", "x.csv", by, "Unknown kind of file"),
        ("imrmc", "x.csv", ["--by", team.raters[0].login], "not for you"),
    ]:
        assert export(layout, path, *rest) == 2
        assert why in capsys.readouterr().err
    assert main(["feedback", "export", "Nothing", "imrmc", "x.csv", *by]) == 2
