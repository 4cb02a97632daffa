"""The real demo in a process of its own, and a real browser."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser import NOT_OURS, ROOT, WIDE, free_port
from tests.demo.steps import arrive

START_SECONDS = 120
SOON = 20_000  # milliseconds
HOSTS = ("127.0.0.1", None)  # None: data and blob addresses
DEAD_PROXY = {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9", "NO_PROXY": "", "no_proxy": ""}
"""As behind a hospital's proxy, which cannot reach this machine's own addresses."""


@dataclass(frozen=True)
class Demo:
    """A running demo: its address, its process, the folder of its temporary files, and the one of its feedback."""

    url: str
    process: subprocess.Popen
    folder: Path
    data: Path

    def files(self, ending: str = "") -> list[Path]:
        return [path for path in self.folder.rglob(f"*{ending}") if path.is_file()]

    def kept(self) -> dict[str, list[dict]]:
        """What the database of feedback holds now: the rows of every table that has any."""
        with contextlib.closing(sqlite3.connect(f"file:{self.data / 'feedback.sqlite'}?mode=ro", uri=True)) as database:
            database.row_factory = sqlite3.Row
            names = [row["name"] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            tables = {name: [dict(row) for row in database.execute(f'SELECT * FROM "{name}"')] for name in names}
        for name in ("alembic_version", "audit_head"):
            tables.pop(name)
        return {name: rows for name, rows in tables.items() if rows}


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "app.py"), *map(str, arguments)]


@contextlib.contextmanager
def running(folder: Path, *arguments: object) -> Iterator[Demo]:
    """The demo with these arguments, and with ``uploads`` and ``data`` in a folder, until the block ends.

    It must then have written no traceback, and have left no temporary file behind.
    """
    uploads, data, log = folder / "uploads", folder / "data", folder / "demo.log"
    uploads.mkdir(exist_ok=True)
    port = free_port()
    given = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
    own = {"TMPDIR": str(uploads), "UNIMED_DATA": str(data), "UNIMED_DEVICE": "cpu"}
    own["OMP_NUM_THREADS"] = "1"  # one thread drives the model, so that four drawings keep it busy on any machine
    own["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "torch")  # which torch makes and leaves
    with log.open("w") as errors:
        process = subprocess.Popen(
            command("--port", port, *arguments),
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**given, **own, **DEAD_PROXY},
        )
    try:
        deadline, told = time.monotonic() + START_SECONDS, b""
        while b"runs at" not in told:
            ready, _, _ = select.select([process.stdout], [], [], max(0, deadline - time.monotonic()))
            new = os.read(process.stdout.fileno(), 4096) if ready else b""
            assert new, f"The demo did not start: {log.read_text()}"
            told += new
        yield Demo(f"http://127.0.0.1:{port}/", process, uploads, data)
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()
    assert "Traceback" not in log.read_text()
    assert not list(uploads.iterdir()), "The demo left files behind"


@pytest.fixture(scope="session")
def second_checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint under another version's name, so that there are two to compare."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("models") / "other")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": "tiny-two"}))
    return folder


@pytest.fixture(scope="session")
def demo(tiny_checkpoint: Path, second_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    models = ("--model", tiny_checkpoint, "--model", second_checkpoint)
    with running(tmp_path_factory.mktemp("demo"), *models) as demo:
        yield demo


OpenPage = Callable[..., Page]


@pytest.fixture
def open_page(demo: Demo, new_context: Callable[..., BrowserContext]) -> Iterator[OpenPage]:
    """Opens the demo in a browser of its own, wide and English unless told otherwise. When the test ends, no page may
    have met an error, and none may have asked another host."""
    troubles = []

    def open_demo(**settings: object) -> Page:
        page = new_context(**{"viewport": WIDE, "locale": "en-US", **settings}).new_page()
        page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda asked: urlsplit(asked.url).hostname in HOSTS or troubles.append(asked.url))
        page.set_default_timeout(SOON)
        expect.set_options(timeout=SOON)
        arrive(page, demo.url)
        return page

    yield open_demo
    assert troubles == []


@pytest.fixture
def visitor(open_page: OpenPage) -> Page:
    return open_page()
