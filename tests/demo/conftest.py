"""The real demo in a process of its own, and a real browser."""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
START_SECONDS = 120
DEAD_PROXY = {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9", "NO_PROXY": "", "no_proxy": ""}
"""As behind a hospital's proxy, which cannot reach this machine's own addresses."""


@dataclass(frozen=True)
class Demo:
    """A running demo: its address, its process, and the folder that its temporary files are in."""

    url: str
    process: subprocess.Popen
    folder: Path

    def files(self, ending: str = "") -> list[Path]:
        return [path for path in self.folder.rglob(f"*{ending}") if path.is_file()]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "app.py"), *map(str, arguments)]


@pytest.fixture(scope="session")
def demo(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    folder, port = tmp_path_factory.mktemp("uploads"), free_port()
    log = folder.parent / "demo.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            command("--port", port, "--model", tiny_checkpoint),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "TMPDIR": str(folder), **DEAD_PROXY},
        )
    try:
        deadline, line = time.monotonic() + START_SECONDS, ""
        while "runs at" not in line:
            ready, _, _ = select.select([process.stdout], [], [], max(0, deadline - time.monotonic()))
            line = process.stdout.readline() if ready else ""
            assert line, f"The demo did not start: {log.read_text()}"
        yield Demo(f"http://127.0.0.1:{port}/", process, folder)
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()
    assert "Traceback" not in log.read_text()
    assert not list(folder.iterdir()), "The demo left files behind"


@pytest.fixture(scope="session")
def browser_type_launch_args() -> dict:
    """What pytest-playwright starts: the browser of the system."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser installed: needs one of {', '.join(BROWSERS)}")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    return {"executable_path": path, "args": quiet}
