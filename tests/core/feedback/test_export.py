"""Files are written while judgements are read: none is kept, whatever the kind of file, and no half file is left."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet
import pytest

from core.errors import FeedbackError
from core.feedback import export, judged
from core.feedback.judged import Judged
from core.feedback.layouts import ROWS
from tests.core.feedback.said import DRAWN, image, rated, text
from tests.core.feedback.team import Team

SPAN = {"start": 0, "end": 4, "error": "severity", "significant": True, "laterality": False, "measurement": False}


def many(count: int) -> list[Judged]:
    """Of which the later ones have parts that the first ones lack."""
    found = []
    for n in range(count):
        spans = [SPAN] if n >= count // 2 else []
        found.append(rated(1 + n % 5, text(f"text {n}"), item=f"{n:04}", answer={"spans": spans}))
    return found


@pytest.mark.parametrize("layout", ["trl_unpaired", "report_errors", "label_studio"])
def test_all_kinds_of_files_hold_the_same_rows_in_batches(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "BATCH", 7)
    found = many(40)
    expected = list(ROWS[layout](found, export.Counter()))
    for ending in (".jsonl", ".csv", ".parquet"):
        assert export._write(layout, iter(found), export.Counter(), tmp_path / f"data{ending}") == len(expected)
    lines = (tmp_path / "data.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == json.loads(json.dumps(expected))
    with (tmp_path / "data.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [list(row) for row in rows] == [list(row) for row in expected]
    assert [json.loads(row["images"]) for row in rows if layout == "trl_unpaired"] == [
        row["images"] for row in expected if layout == "trl_unpaired"
    ]
    flat = [{n: json.dumps(v) if isinstance(v, dict) else v for n, v in row.items()} for row in expected]
    assert pyarrow.parquet.read_table(tmp_path / "data.parquet") == pyarrow.Table.from_pylist(flat)


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_a_row_is_written_before_the_next_judgement_is_read(ending: str, tmp_path: Path) -> None:
    here: list[Judged] = []

    def one_by_one() -> Iterator[Judged]:
        for one in many(50):
            here.append(one)
            yield here.pop()
            assert len(list(tmp_path.glob("*.part"))) == 1

    assert export._write("label_studio", one_by_one(), export.Counter(), tmp_path / f"data{ending}") == 50


def test_a_project_is_read_in_small_parts(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judged, "BATCH", 2)
    project = team.project(count=5)
    team.judge_all(team.raters[0], project)
    read: list[int] = []
    batch = judged._batch
    monkeypatch.setattr(
        judged, "_batch", lambda session, of, items: read.append(len(items)) or batch(session, of, items)
    )
    found = judged.judged(team.store.database, project)
    first = next(found)
    assert read == [2], "the rest waits in the database"
    assert [first.place, *(one.place for one in found)] == [0, 1, 2, 3, 4]
    assert read == [2, 2, 1]


def test_an_export_that_fails_leaves_the_file_before_it_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("before")

    def broken() -> Iterator[Judged]:
        yield rated(4, image(DRAWN))
        raise FeedbackError("The database went away")

    with pytest.raises(FeedbackError):
        export._write("imrmc", broken(), export.Counter(), path)
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_nothing_judged_is_an_empty_file(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"data{ending}"
    assert export._write("imrmc", iter(()), export.Counter(), path) == 0
    assert path.is_file()
