"""The databases that the feedback store is tested on: SQLite in a file, and a PostgreSQL server of our own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa

from benchmarks.postgres import Cluster, NoServer, running
from core.feedback.store import FeedbackStore
from core.feedback.studio import StudioStore
from tests.core.feedback.team import Clock, Team

numbers = count()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Cluster]:
    """An empty cluster on a socket in a folder of its own: a short one, as sockets need it."""
    with tempfile.TemporaryDirectory(prefix="pg-") as folder, ExitStack() as stack:
        try:
            cluster = stack.enter_context(running(Path(folder), "-c fsync=off -c timezone=Asia/Tokyo"))
        except NoServer as error:
            pytest.skip(str(error))
        yield cluster


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store/feedback.db"
    server = request.getfixturevalue("postgresql_server")
    name = f"feedback{next(numbers)}"
    engine = sa.create_engine(server.url("postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server.url(name)


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
