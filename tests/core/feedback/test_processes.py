"""Several processes share a store, and one that is killed loses nothing that it was told is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from core.config import ROOT
from core.errors import FeedbackError
from core.feedback.store import FeedbackStore
from core.sequence import Text
from tests.core.feedback.builders import add, picture

Start = Callable[..., subprocess.Popen]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs processes that fork")


@pytest.fixture
def start(url: str, pictures: Path) -> Iterator[Start]:
    """Starts writers."""
    with ExitStack() as stack:

        def start(*names: str, count: int, shared: int = 0) -> subprocess.Popen:
            command = [sys.executable, "-m", "tests.core.feedback.writer", url, str(pictures), str(count), str(shared)]
            pipe = subprocess.PIPE
            process = subprocess.Popen([*command, *names], cwd=ROOT, text=True, stdin=pipe, stdout=pipe)
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


def test_eight_processes_lose_and_double_nothing(start: Start, url: str, pictures: Path) -> None:
    own, shared = 4, 3
    names = [f"writer{n}" for n in range(8)]
    writers = start(*names, count=own, shared=shared)  # all of them find an empty database
    assert [writers.stdout.readline() for _ in names] == ["open\n"] * 8
    with FeedbackStore(url, pictures) as store:
        code = store.give_consent()
        out, _ = writers.communicate(f"{code}\n" * 8, timeout=120)
        assert writers.returncode == 0
        acknowledged = {tuple(line.split()) for line in out.splitlines()}
        rows = list(store.rows())
        assert len({row["id"] for row in rows}) == len(rows) == 8 * own + shared
        rated = {(row["id"], rating["id"]) for row in rows for rating in row["ratings"]}
        assert rated == acknowledged and len(rated) == 8 * own
        assert {row["model"]["name"] for row in rows} == {"nano"}
        check_pictures(store, rows)


def check_pictures(store: FeedbackStore, rows: list[dict]) -> None:
    for row in rows:
        assert len(row["responses"]) == 2
        for entry in (*row["inputs"], *row["responses"]):
            assert not entry.get("sha256") or store.blobs.read(entry["sha256"])


def test_a_killed_writer_loses_nothing_that_was_acknowledged(start: Start, url: str, pictures: Path) -> None:
    writer = start("killed", count=10**6)
    assert writer.stdout.readline() == "open\n"
    with FeedbackStore(url, pictures) as store:
        code = store.give_consent()
    writer.stdin.write(f"{code}\n")
    writer.stdin.flush()
    acknowledged = {tuple(writer.stdout.readline().split()) for _ in range(20)}
    os.kill(writer.pid, signal.SIGKILL)
    acknowledged |= {tuple(line.split()) for line in writer.stdout.read().splitlines()}
    writer.wait(timeout=60)
    with FeedbackStore(url, pictures) as store:
        rows = list(store.rows())
        assert acknowledged <= {(row["id"], rating["id"]) for row in rows for rating in row["ratings"]}
        check_pictures(store, rows)
        store.rate(code, add(store, code, "after").response_ids[0], 1)
        store.withdraw(code)
        assert list(store.rows()) == []


def test_a_full_disk_loses_nothing(store: FeedbackStore, url: str, pictures: Path) -> None:
    import resource

    code = store.give_consent()
    ref = add(store, code)
    store.rate(code, ref.response_ids[0], 1, "Kept.")
    before = list(store.rows())
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, old[1]))
    try:
        with pytest.raises(FeedbackError, match="picture cannot be stored"):
            add(store, code, "second", inputs=[picture(7, side=200)])
        if url.startswith("sqlite"):  # the server writes PostgreSQL's files, not this process
            with pytest.raises(FeedbackError, match="database cannot be used") as refused:
                add(store, code, "second", outputs=[Text("A long answer. " * 5000)])
            assert "long answer" not in str(refused.value)
            with pytest.raises(FeedbackError, match="database cannot be used"):
                store.rate(code, ref.response_ids[0], -1, "Replaced?")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert list(store.rows()) == before
    add(store, code, "second", inputs=[picture(7, side=200)])
    assert len(list(store.rows())) == 2
