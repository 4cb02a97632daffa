"""The databases that the feedback store is tested on: SQLite in a file, and a PostgreSQL server of our own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa

from core.feedback.store import FeedbackStore
from core.feedback.studio import StudioStore
from tests.core.feedback.team import Clock, Team

numbers = count()


def _programs() -> Path | None:
    """The folder of PostgreSQL's server programs; Debian keeps them off the PATH."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "pg_ctl").is_file()), None)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """URL of an empty cluster on a socket in a folder of its own, with ``{}`` for the name of a database."""
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL's server programs (initdb, pg_ctl) are not installed")
    prefix: list[str] = []
    if os.getuid() == 0:  # the server refuses to run as root
        if shutil.which("runuser") is None or subprocess.run(["id", "postgres"], capture_output=True).returncode:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres to run it as")
        prefix = ["runuser", "-u", "postgres", "--"]
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    data = folder / "data"

    def call(program: str, *arguments: str) -> None:
        command = [*prefix, str(programs / program), *arguments]
        with (folder / "out").open("ab") as out:  # no pipe: the server would hold it open
            done = subprocess.run(command, cwd=folder, stdout=out, stderr=out, timeout=60)
        assert done.returncode == 0, (folder / "out").read_text()

    try:
        (folder / "out").touch()
        if prefix:
            shutil.chown(folder, "postgres", "postgres")
        call("initdb", "-D", str(data), "-U", "tester", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off -c timezone=Asia/Tokyo"
        call("pg_ctl", "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql://tester@/{{}}?host={folder}"
        finally:
            call("pg_ctl", "-D", str(data), "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store/feedback.db"
    server = request.getfixturevalue("postgresql_server")
    name = f"feedback{next(numbers)}"
    engine = sa.create_engine(server.format("postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server.format(name)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return tmp_path / "pictures"


@pytest.fixture
def open_store(url: str, pictures: Path) -> Iterator[Callable[..., FeedbackStore]]:
    """Opens the store, as often as wanted."""
    with ExitStack() as opened:
        yield lambda **options: opened.enter_context(FeedbackStore(url, pictures, **options))


@pytest.fixture
def store(open_store: Callable[..., FeedbackStore]) -> FeedbackStore:
    return open_store()


@pytest.fixture
def open_studio(url: str, pictures: Path) -> Iterator[Callable[[], StudioStore]]:
    """Opens the studio's side of the store, as often as wanted."""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(StudioStore(url, pictures))


@pytest.fixture
def studio(open_studio: Callable[[], StudioStore]) -> Iterator[StudioStore]:
    """Whatever a test does with it: its log fits its tables in the end."""
    store = open_studio()
    yield store
    assert list(store.verify()) == []


@pytest.fixture
def team(studio: StudioStore) -> Team:
    return Team.of(studio)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    """The database behind the store's back."""
    engine = sa.create_engine(url)
    yield engine
    engine.dispose()
