"""The tables: made by migrations, the same as the models, on both databases."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from core.errors import FeedbackError
from core.feedback import database, studio_models  # noqa: F401  its tables, too
from core.feedback.models import Base
from core.feedback.store import FeedbackStore
from core.feedback.studio import StudioStore
from tests.core.feedback.builders import add
from tests.core.feedback.team import Team, account

LATER = """
import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    for table in ("consents", "generations", "responses"):
        with op.batch_alter_table(table, recreate="auto") as batch:
            batch.add_column(sa.Column("later", sa.Text, nullable=False, server_default="x"))
            batch.create_check_constraint(f"ck_{table}_later", "later <> ''")


def downgrade() -> None:
    raise NotImplementedError
"""


def str_of(index: dict) -> dict[str, str]:
    """The options of an index: which rows it holds is an object, which is never the same."""
    return {name: str(value) for name, value in index.get("dialect_options", {}).items()}


def described(engine: sa.Engine) -> dict:
    """Everything that a database says of its tables but alembic's own."""
    inspector = sa.inspect(engine)
    found = {}
    for table in sorted(set(inspector.get_table_names()) - {"alembic_version"}):
        columns = [
            (c["name"], str(c["type"]), c["nullable"], getattr(c["type"], "timezone", None))
            for c in inspector.get_columns(table)
        ]
        parts = [
            inspector.get_check_constraints(table),
            inspector.get_unique_constraints(table),
            inspector.get_foreign_keys(table),
            [index | {"dialect_options": str_of(index)} for index in inspector.get_indexes(table)],
            [inspector.get_pk_constraint(table)],
        ]
        found[table] = [sorted(columns), *(sorted(map(repr, part)) for part in parts)]
    return found


def test_the_migrations_make_what_the_models_say(url: str, store: FeedbackStore, engine: sa.Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    migrated = described(engine)
    with engine.begin() as connection:
        command.downgrade(database.configuration(connection), "base")
    assert described(engine) == {}
    Base.metadata.create_all(engine)
    assert described(engine) == migrated
    checks = [c for table in Base.metadata.tables.values() for c in table.constraints if "ck_" in str(c.name)]
    assert sum(len(part[1]) for part in migrated.values()) == len(checks) == 24


def test_the_studios_tables_come_to_the_rows_of_before_and_go_again(
    url: str, engine: sa.Engine, tmp_path: Path, pictures: Path
) -> None:
    """A database of the demo alone is brought up to date with all that it holds, and back; the studio's rows go."""
    (tmp_path / "store").mkdir()
    with engine.begin() as connection:
        command.upgrade(database.configuration(connection), "0001")
    old = described(engine)
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    rows = {
        "consents": {"id": "c", "code_hash": "h" * 64, "text_version": "1", "given_at": moment, "expires_at": moment},
        "model_versions": {"id": "v", "name": "nano", "fingerprint": "f", "created_at": moment},
        "generations": {
            "id": "g", "task": "t", "prompt": "p", "inputs": [], "settings": {}, "seed": 1, "model_version_id": "v",
            "consent_id": "c", "created_at": moment,
        },
        "generation_pictures": {"generation_id": "g", "sha256": "s" * 64},
        "responses": {
            "id": "r", "generation_id": "g", "place": 0, "kind": "text", "text": "x", "author": "model",
            "created_at": moment,
        },
        "ratings": {
            "id": "a", "response_id": "r", "consent_id": "c", "value": 1, "created_at": moment, "trust": "untrusted",
        },
    }  # fmt: skip
    with engine.begin() as connection:
        for table, values in rows.items():
            connection.execute(sa.insert(sa.Table(table, sa.MetaData(), autoload_with=connection)).values(**values))

    def kept() -> dict:
        tables = {name: Base.metadata.tables[name] for name in rows}
        with engine.connect() as connection:
            return {
                name: [tuple(row) for row in connection.execute(sa.select(*(table.c[key] for key in rows[name])))]
                for name, table in tables.items()
            }

    before = kept()
    assert before["ratings"] and before["generations"][0][-1] == moment
    with StudioStore(url, pictures) as studio:
        assert kept() == before
        mona = account(studio, None, "mona", "maintainer")
        team = Team(studio, mona, account(studio, mona, "ada", "adjudicator"), [account(studio, mona, "rita", "rater")])
        team.judge_all(team.raters[0], team.project(count=2))
        assert list(studio.verify()) == []
    with engine.begin() as connection:
        command.downgrade(database.configuration(connection), "0001")
    assert described(engine) == old
    assert kept() == {**before, "model_versions": kept()["model_versions"]}
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM responses")) == 1
    with StudioStore(url, pictures) as studio:
        assert kept()["ratings"] == before["ratings"] and list(studio.verify()) == []


def test_many_open_an_empty_database_at_once(url: str, tmp_path: Path) -> None:
    urls = [url.replace("feedback.db", f"feedback{n}.db") for n in range(10 if url.startswith("sqlite") else 1)]
    together, opened, errors = threading.Barrier(6), [], []

    def open_all() -> None:
        for one in urls:
            together.wait()
            try:
                opened.append(FeedbackStore(one, tmp_path))
            except FeedbackError as error:
                errors.append(error)

    threads = [threading.Thread(target=open_all) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in opened:
        store.close()
    assert errors == [] and len(opened) == 6 * len(urls)


def test_a_later_migration_keeps_the_rows(
    open_store: Callable[..., FeedbackStore], engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite cannot add a constraint: alembic copies the table, and what hangs on its rows must not go with the old."""
    store = open_store()
    code = store.give_consent()
    ref = add(store, code)
    store.rate(code, ref.response_ids[0], 1)
    before = list(store.rows())
    shutil.copytree(database.MIGRATIONS, tmp_path / "migrations")
    (tmp_path / "migrations" / "versions" / "0003_later.py").write_text(LATER)
    monkeypatch.setattr(database, "MIGRATIONS", tmp_path / "migrations")
    later = open_store()
    assert list(later.rows()) == before
    assert "later" in {column["name"] for column in sa.inspect(engine).get_columns("responses")}
    assert later.withdraw(code) == 4


def test_a_database_of_a_newer_program_is_refused_and_left_alone(
    open_store: Callable[..., FeedbackStore], engine: sa.Engine
) -> None:
    store = open_store()
    add(store, store.give_consent())
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(FeedbackError, match=r"newer program: '9999'.*Update"):
        open_store()
    assert len(list(store.rows())) == 1


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("mysql://a:secret@b/c", "no URL"),
        ("feedback.db", "no URL"),
        ("", "no URL"),
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
        ("postgresql://me:secret@127.0.0.1:1/feedback", "cannot be used .*me:\\*\\*\\*@"),
        ("postgres://me:secret@127.0.0.1:1/feedback", "cannot be used"),
    ],
)
def test_a_url_that_cannot_be_used_is_a_sentence_without_the_password(tmp_path: Path, url: str, why: str) -> None:
    with pytest.raises(FeedbackError, match=why) as refused:
        FeedbackStore(url, tmp_path)
    assert "secret" not in str(refused.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Remember the milk. " * 200)
    for path in (tmp_path / "notes.txt", tmp_path / "notes.txt" / "feedback.db", tmp_path):
        with pytest.raises(FeedbackError, match="cannot be used"):
            FeedbackStore(f"sqlite:///{path}", tmp_path)
    assert (tmp_path / "notes.txt").read_text().startswith("Remember the milk.")


def test_the_database_itself_refuses_what_makes_no_sense(store: FeedbackStore, engine: sa.Engine) -> None:
    code = store.give_consent()
    response = add(store, code).response_ids[0]
    store.rate(code, response, 1)
    for change in (
        "UPDATE ratings SET value = 5",
        "UPDATE ratings SET trust = 'maybe'",
        "UPDATE responses SET kind = 'sound'",
        "UPDATE responses SET text = NULL WHERE kind = 'text'",
        "UPDATE responses SET trust = 'confirmed'",
        "UPDATE consents SET expires_at = '2001-01-01'",
        "UPDATE generations SET seed = -1",
    ):
        with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
            connection.execute(sa.text(change))


def test_moments_are_utc_whatever_the_zone(store: FeedbackStore, engine: sa.Engine) -> None:
    moment = datetime(2024, 3, 1, 0, 30, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    versions = Base.metadata.tables["model_versions"]
    with engine.begin() as connection:
        connection.execute(versions.insert().values(name="m", fingerprint="f", created_at=moment))
        read = connection.scalar(sa.select(versions.c.created_at))
    assert read == moment and read.tzinfo is UTC
    with pytest.raises(sa.exc.StatementError, match="time zone"), engine.begin() as connection:
        connection.execute(versions.insert().values(name="n", fingerprint="f", created_at=moment.replace(tzinfo=None)))
