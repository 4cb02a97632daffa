"""The log: whatever the studio does fits it, and whatever is done behind the studio's back does not.

The random edits below are of the tables and columns that ``core.feedback.verification`` says it covers, of no
other: not of drafts, leases, logins, consents, nor of what visitors said (for what that counts see ``test_trust``)."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from core.feedback.models import Base
from core.feedback.projects import NewItem
from core.feedback.rubric import Plan
from core.feedback.snapshots import Rules
from core.feedback.studio import StudioStore
from tests.core.feedback.team import NOON, Team, answer

EDITS = 100
WATCHED = (
    "users", "projects", "members", "items", "assignments", "judgements", "snapshots", "snapshot_signals",
    "snapshot_parts", "audit_events", "audit_head",
)  # fmt: skip
SHOWN = ("responses", "generations", "model_versions")
"""Of these a row that is put in is shown by no item."""
OPEN = {("responses", "trust"), ("model_versions", "parent_id")} | {
    ("assignments", name) for name in ("assigned_at", "leased_until", "submitted_at")
}
"""What may change: what a clinician makes of a visitor's text, which version another one came of, when an item was in
whose hands."""
ROWS = {"assignments": "id IN (SELECT assignment_id FROM judgements WHERE withdrawn_at IS NULL)"}
"""Of an assignment without a judgement nothing is known."""


def fill(store: StudioStore) -> Team:
    """Projects of each kind, with judgements, a revision, disputes, an adjudication and withdrawals."""
    team = Team.of(store, 3)
    for kind in ("rate", "compare", "correct"):
        project = team.project(kind, 3, repeated=True)
        for rater, score in zip(team.raters, (1, 4, 5), strict=True):
            team.judge_all(rater, project, score)
        team.submit(team.adjudicator, team.next(team.adjudicator, project), 2)
    task = store.queue.before(team.raters[0], project)
    team.submit(team.raters[0], task, 3, reason="Looked again.")
    gone = team.outputs(count=2, model="third", patient="gone")
    gold = {"scores": {"anatomy": 1, "overall": 1}}
    stays = team.outputs(count=2, model="third", patient="stays")
    items = [NewItem((one,), gold=gold) for one in (*gone, *stays)]
    project = team.project(items=items, name="patients", plan=Plan(design="split"))
    for rater in team.raters:
        team.judge_all(rater, project)
    store.people.change_role(team.maintainer, team.raters[1].id, "adjudicator")
    store.withdraw_person(team.maintainer, team.raters[2].id)
    store.withdraw_patient(team.maintainer, "archive", "gone")
    store.projects.change_state(team.maintainer, project, "closed")
    projects = tuple(one.id for one in store.projects.of(team.maintainer))
    store.snapshots.make(team.maintainer, Rules(projects, 0.2, 0, 0.0))
    return team


def test_what_the_studio_does_fits_its_log(studio: StudioStore, engine: sa.Engine) -> None:
    """The studio fixture looks whether it does."""
    assert studio.log_head() == (0, "0" * 64)
    team = fill(studio)
    assert list(studio.verify()) == []
    events = Base.metadata.tables["audit_events"]
    with engine.connect() as connection:
        rows = connection.execute(sa.select(events).order_by(events.c.seq)).all()
    assert (rows[-1].seq, rows[-1].hash) == studio.log_head() and len(rows) == rows[-1].seq
    assert {row.user_id for row in rows if row.action == "judge"} == {
        rater.id for rater in [*team.raters, team.adjudicator]
    }
    (revised,) = [row for row in rows if row.action == "revise"]
    assert revised.before["version"] == 1 and revised.after["version"] == 2
    assert revised.said_at == NOON and revised.at.utcoffset() is not None
    assert "Looked again" not in repr(rows)  # what a person wrote must be forgettable, and the log is not


def test_an_edit_is_found_on_both_databases(open_studio: Callable[[], StudioStore], engine: sa.Engine) -> None:
    store = open_studio()
    team = Team.of(store)
    team.judge_all(team.raters[0], team.project())
    assert list(store.verify()) == []
    judgements = Base.metadata.tables["judgements"]
    with engine.begin() as connection:
        key = connection.scalar(sa.select(judgements.c.id).limit(1))
        said = answer(score=5) | {"shown": [0]}
        connection.execute(sa.update(judgements).where(judgements.c.id == key).values(answer=said))
    assert list(store.verify()) == [f"judgements: {key} was changed"]


def test_an_order_on_the_screen_that_was_changed_is_found_on_both_databases(
    open_studio: Callable[[], StudioStore], engine: sa.Engine
) -> None:
    store = open_studio()
    team = Team.of(store)
    team.judge_all(team.raters[0], team.project("compare"), 1)
    assignments, judgements = (Base.metadata.tables[name] for name in ("assignments", "judgements"))
    with engine.begin() as connection:
        key, shown = connection.execute(sa.select(assignments.c.id, assignments.c.shown).limit(1)).one()
        of = sa.select(judgements.c.id).where(judgements.c.assignment_id == key)
        judgement = connection.scalar(of)
        connection.execute(sa.update(assignments).where(assignments.c.id == key).values(shown=shown[::-1]))
    assert list(store.verify()) == [f"assignments: the order in which judgement {judgement} was shown was changed"]


def test_a_log_whose_end_was_cut_off_is_found(open_studio: Callable[[], StudioStore], engine: sa.Engine) -> None:
    """Also where its head was set back with it, as long as a row shows it or the hash was written down elsewhere."""
    store = open_studio()
    team = Team.of(store)
    team.judge_all(team.raters[0], team.project(count=1))
    seq, newest = store.log_head()
    with engine.begin() as connection:
        before = connection.execute(sa.text("SELECT hash FROM audit_events WHERE seq = :n"), {"n": seq - 1}).scalar()
        connection.execute(sa.text("DELETE FROM audit_events WHERE seq = :n"), {"n": seq})
        connection.execute(sa.text("UPDATE audit_head SET seq = :n, hash = :h"), {"n": seq - 1, "h": before})
    assert any("was put in" in finding for finding in store.verify())
    assert store.log_head() != (seq, newest)


# 100 edits -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a studio that is closed."""
    folder = tmp_path_factory.mktemp("filled")
    with StudioStore(f"sqlite:///{folder}/feedback.db", folder / "pictures") as store:
        fill(store)
        assert list(store.verify()) == []
    return folder / "feedback.db"


class Vandal:
    """Edits a database file without the program."""

    def __init__(self, path: Path, seed: int) -> None:
        self._random = random.Random(seed)
        self._file = sqlite3.connect(path, isolation_level=None)
        self._file.execute("PRAGMA foreign_keys=OFF")
        self._file.execute("PRAGMA ignore_check_constraints=ON")

    def close(self) -> None:
        self._file.close()

    def edit(self) -> str:
        """Does one thing that changes what the rows say, and returns in words what."""
        while True:
            table = self._random.choice(WATCHED + SHOWN)
            ways = [self._change, self._delete, self._swap] + [self._insert] * (table not in SHOWN)
            before = set(self._file.execute(f"SELECT * FROM {table}"))
            self._file.execute("BEGIN")
            try:
                done = self._random.choice(ways)(table)
            except sqlite3.IntegrityError:
                done = None
            if done and set(self._file.execute(f"SELECT * FROM {table}")) != before:
                self._file.execute("COMMIT")
                return f"{table}: {done}"
            self._file.execute("ROLLBACK")

    def _columns(self, table: str) -> list[str]:
        names = [row[1] for row in self._file.execute(f"PRAGMA table_info({table})")]
        return [name for name in names if (table, name) not in OPEN]

    def _rows(self, table: str, count: int) -> list[int]:
        found = [row for (row,) in self._file.execute(f"SELECT rowid FROM {table} WHERE {ROWS.get(table, 'TRUE')}")]
        return self._random.sample(found, min(count, len(found)))

    def _change(self, table: str) -> str:
        column, (row,) = self._random.choice(self._columns(table)), self._rows(table, 1)
        (value,) = self._file.execute(f"SELECT {column} FROM {table} WHERE rowid = {row}").fetchone()
        other = self._other(column, value)
        self._file.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = {row}", (other,))
        return f"{column} of row {row}: {value!r} became {other!r}"

    def _other(self, column: str, value: object) -> object:
        if column == "repeated":
            return 1 - value
        if isinstance(value, int | float):
            return value + self._random.choice([1, -1])
        if value is None:
            return "2026-01-01 00:00:00.000000" if column.endswith("_at") else "1"
        digits = "0123456789" if column in ("at",) or column.endswith("_at") else "0123456789abcdefghijklmnopqrstuvwxyz"
        places = [place for place, letter in enumerate(value) if letter in digits]
        if not places or self._random.random() < 0.1:
            return None
        place = self._random.choice(places)
        return value[:place] + self._random.choice(digits.replace(value[place], "")) + value[place + 1 :]

    def _delete(self, table: str) -> str:
        (row,) = self._rows(table, 1)
        self._file.execute(f"DELETE FROM {table} WHERE rowid = {row}")
        return f"row {row} deleted"

    def _insert(self, table: str) -> str:
        """A copy of a row with another key, and other values where they must be their own."""
        (row,) = self._rows(table, 1)
        names = [name for _, name, *_ in self._file.execute(f"PRAGMA table_info({table})")]
        values = dict(
            zip(names, self._file.execute(f"SELECT * FROM {table} WHERE rowid = {row}").fetchone(), strict=True)
        )
        for name in {"id", "login", "subject", "name", "place", "version", "seq", "user_id"} & values.keys():
            if values[name] is not None:
                values[name] = values[name] + 1000 if isinstance(values[name], int) else f"{values[name][:-1]}~"
        marks = ", ".join("?" * len(names))
        self._file.execute(f"INSERT INTO {table} VALUES ({marks})", list(values.values()))
        return f"copy of row {row} put in"

    def _swap(self, table: str) -> str | None:
        """Two rows change places: their keys, their order, or what they say."""
        column, rows = self._random.choice(self._columns(table)), self._rows(table, 2)
        if len(rows) < 2:
            return None
        values = [self._file.execute(f"SELECT {column} FROM {table} WHERE rowid = {row}").fetchone()[0] for row in rows]
        if values[0] == values[1]:
            return None
        keys = self._file.execute(
            f"SELECT {', '.join(self._keys(table))} FROM {table} WHERE rowid = {rows[0]}"
        ).fetchone()
        free = -1 if isinstance(values[0], int) else "~"
        self._file.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = {rows[0]}", (free,))
        first = -1 if column == "seq" and table == "audit_events" else rows[0]  # that is the rowid itself
        self._file.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = {rows[1]}", (values[0],))
        self._file.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = {first}", (values[1],))
        return f"{column} of rows {rows} swapped ({keys})"

    def _keys(self, table: str) -> list[str]:
        return [name for _, name, *_, key in self._file.execute(f"PRAGMA table_info({table})") if key]


@pytest.mark.parametrize("seed", range(EDITS))
def test_an_edit_behind_the_studios_back_is_found(filled: Path, tmp_path: Path, seed: int) -> None:
    path = Path(shutil.copy(filled, tmp_path))
    with closing(Vandal(path, seed)) as vandal:
        done = vandal.edit()
    with StudioStore(f"sqlite:///{path}", tmp_path / "pictures") as store:
        assert list(store.verify()), done


def test_the_edits_are_of_every_kind(filled: Path, tmp_path: Path) -> None:
    """Or else the test above would promise too much."""
    done = []
    for seed in range(EDITS):
        with closing(Vandal(Path(shutil.copy(filled, tmp_path)), seed)) as vandal:
            done.append(vandal.edit())
    assert {one.partition(":")[0] for one in done} == {*WATCHED, *SHOWN}
    for kind in ("became", "deleted", "put in", "swapped"):
        assert sum(kind in one for one in done) >= 10


@pytest.mark.parametrize("value", ["'{'", "'null'", "x'ff'", "CAST(x'ff' AS TEXT)", "1e999"])
def test_values_that_nobody_would_write_are_found_and_not_a_failure(filled: Path, tmp_path: Path, value: str) -> None:
    columns = {
        "judgements": ["answer", "created_at", "active_seconds", "version"],
        "projects": ["plan", "rubric", "kind"],
        "items": ["response_ids", "gold", "place", "taken"],
        "audit_events": ["after", "before", "at", "hash"],
        "users": ["login", "created_at"],
        "members": ["place"],
        "generations": ["inputs", "settings", "created_at"],
        "audit_head": ["hash", "seq"],
        "assignments": ["shown", "occasion"],
        "snapshots": ["rules", "counts", "created_at"],
        "snapshot_signals": ["content"],
    }
    for table, names in columns.items():
        for name in names:
            path = Path(shutil.copy(filled, tmp_path))
            with closing(sqlite3.connect(path)) as file:
                file.execute("PRAGMA ignore_check_constraints=ON")
                row = file.execute(f"SELECT rowid, {name} FROM {table} WHERE {name} IS NOT NULL").fetchone()
                file.execute(f"UPDATE {table} SET {name} = {value} WHERE rowid = {row[0]}")
                file.commit()
            with StudioStore(f"sqlite:///{path}", tmp_path / "pictures") as store:
                assert list(store.verify()), (table, name, json.dumps(row[1]))
