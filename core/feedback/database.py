"""The database behind the feedback store: SQLite in a file or PostgreSQL, brought up to date when it is opened."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Lock
from typing import Literal

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from core.errors import FeedbackError, StorageError
from core.feedback.models import Base

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"
WAIT_SECONDS = 30.0
"""So long a write waits for the others."""
CONNECTIONS = 20
"""So many connections to PostgreSQL are kept open; more, up to ten, are made for a moment."""
_alembic = Lock()
"""Alembic keeps what it works on in its modules: one migration at a time in a process."""
_MIGRATION_LOCK, _PICTURE_LOCK = 0x556E694D01, 0x556E694D02


class Database:
    """Short transactions on the tables of ``core.feedback.models``.

    Args:
        url: ``sqlite:///FILE`` or ``postgresql://USER:PASSWORD@HOST/NAME``.

    Raises:
        FeedbackError: the URL or the database cannot be used, or a newer program has changed the tables.
    """

    def __init__(self, url: str) -> None:
        self._url = _checked(url)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        # SQLite lets one write at a time, and makes the others look again after a while that grows: some would hardly
        # ever get their turn. In a lock they go on at once.
        self._turn = Lock() if self.is_sqlite else nullcontext()
        with self._translated(opening=True):
            if self.is_sqlite:
                Path(self._url.database).parent.mkdir(parents=True, exist_ok=True)
            self._engine = _engine(self._url, self.is_sqlite)
            try:
                self._upgrade()
            except BaseException:
                self._engine.dispose()
                raise

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def reading(self, snapshot: bool = False) -> Iterator[Session]:
        """A transaction that changes nothing.

        Args:
            snapshot: whether all that is read is of one moment. In SQLite it always is.

        Raises:
            StorageError: the database does not answer.
        """
        engine = self._engine
        if snapshot and not self.is_sqlite:
            engine = engine.execution_options(isolation_level="REPEATABLE READ")
        with self._translated(), Session(engine) as session:
            yield session

    @contextmanager
    def writing(self, pictures: Literal["kept", "deleted"] | None = None) -> Iterator[Session]:
        """A transaction that is kept whole when the block ends, and dropped when it raises.

        Args:
            pictures: "kept" when the rows need picture files, "deleted" when files are going to be deleted because no
                row needs them: the two never happen at once. In SQLite no two writes do.

        Raises:
            StorageError: the database does not answer, or cannot be written.
        """
        engine = self._engine.execution_options(writes=True)
        with self._turn, self._translated(), Session(engine, expire_on_commit=False) as session, session.begin():
            if pictures and not self.is_sqlite:
                shared = "_shared" if pictures == "kept" else ""
                session.execute(text(f"SELECT pg_advisory_xact_lock{shared}({_PICTURE_LOCK})"))
            yield session

    def insert(self, table: type[Base]) -> sqlite.Insert | postgresql.Insert:
        """An INSERT that can say what to do on a conflict, which both databases write alike."""
        return (sqlite if self.is_sqlite else postgresql).insert(table.__table__)

    def add_new(self, session: Session, table: type[Base], values: dict) -> bool:
        """Inserts a row, unless there is one with the same id or name already. Whether it did."""
        insert = self.insert(table).values(values).on_conflict_do_nothing()
        # Without the option the count is unknown for PostgreSQL.
        return session.execute(insert, execution_options={"preserve_rowcount": True}).rowcount == 1

    def forget(self) -> None:
        """Clears what SQLite's log remembers of deleted rows. PostgreSQL does so by itself (autovacuum)."""
        if self.is_sqlite:
            with self._translated(), self._engine.connect() as connection:
                connection.connection.driver_connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _upgrade(self) -> None:
        """Makes the tables, or brings them up to date. Of several processes one does it while the others wait."""
        script = ScriptDirectory.from_config(configuration())
        with self._engine.connect() as connection:
            if _revision(connection, script) == script.get_current_head():
                return
        with self._engine.execution_options(writes=True, migrates=True).connect() as connection, connection.begin():
            if not self.is_sqlite:
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
            if _revision(connection, script) == script.get_current_head():
                return
            with _alembic:
                command.upgrade(configuration(connection), "head")
            if self.is_sqlite and (broken := connection.exec_driver_sql("PRAGMA foreign_key_check").first()):
                raise FeedbackError("Rows would lose what they point at", value=tuple(broken))

    @contextmanager
    def _translated(self, opening: bool = False) -> Iterator[None]:
        """Turns the database's errors into ours, which a visitor may see: they hold neither what a person wrote, as
        the messages of the database may, nor where it runs, unless it is being opened. The log has the reason."""
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error, CommandError, OSError) as error:
            cause = getattr(error, "orig", None) or error
            problem = reason = type(cause).__name__
            if isinstance(cause, OSError):
                problem = reason = cause.strerror or reason
            elif isinstance(error, OperationalError | sqlite3.OperationalError):
                reason = str(cause).strip().partition("\n")[0]
                problem = reason if self.is_sqlite or opening else problem
            if not opening:
                log.error("The feedback database cannot be used (%s)", reason)
            raise StorageError(
                f"The feedback database cannot be used ({problem})",
                value=self._url.render_as_string(hide_password=True) if opening else None,
                remedy="Nothing was stored. Check that the database is there and can be written, and try again",
            ) from None


def configuration(connection: Connection | None = None) -> Config:
    """Alembic's configuration, for a connection that is open."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


def _revision(connection: Connection, script: ScriptDirectory) -> str | None:
    """The revision of the tables; None where there are none."""
    revision = MigrationContext.configure(connection).get_current_revision()
    if revision is not None and revision not in {known.revision for known in script.walk_revisions()}:
        raise FeedbackError(
            "The feedback database was changed by a newer program",
            value=revision,
            remedy="Update this program, or name another database",
        )
    return revision


def _checked(url: str) -> URL:
    """The parsed URL.

    Raises:
        FeedbackError: it names no database that can be used.
    """
    remedy = "Use sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME"
    try:
        parsed = make_url(url)
        kind = parsed.get_backend_name()
    except (ArgumentError, ValueError):
        parsed, kind = None, ""
    if parsed is not None and kind in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if kind != "sqlite":
        raise FeedbackError("That is no URL of a database", remedy=remedy)  # it may hold a password: no value
    if parsed.database in (None, "", ":memory:"):
        raise FeedbackError("The feedback must outlive the program, so it needs a file", value=url, remedy=remedy)
    return parsed


def _engine(url: URL, is_sqlite: bool) -> Engine:
    if not is_sqlite:
        return create_engine(url, pool_pre_ping=True, pool_size=CONNECTIONS, hide_parameters=True)
    engine = create_engine(url, connect_args={"timeout": WAIT_SECONDS}, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # transactions begin where we say so, below
        _use_log(connection)
        connection.execute("PRAGMA synchronous=FULL")  # what was acknowledged survives a power cut
        connection.execute("PRAGMA secure_delete=ON")  # what is withdrawn is overwritten

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        options = connection.get_execution_options()
        # While a migration rebuilds a table, its rows must not be deleted with the old one.
        connection.exec_driver_sql(f"PRAGMA foreign_keys={'OFF' if options.get('migrates') else 'ON'}")
        # A transaction that reads first and then writes would fail where another has written in between.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("writes") else "BEGIN")

    return engine


def _use_log(connection: sqlite3.Connection) -> None:
    """Lets readers and one writer work at once (WAL). SQLite does not wait for others by itself here."""
    deadline = time.monotonic() + WAIT_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
