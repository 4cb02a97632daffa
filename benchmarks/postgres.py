"""A PostgreSQL server of one's own, in a folder, for tests and measurements."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS = 60


class NoServer(Exception):
    """PostgreSQL cannot run here; the message says why."""


class Cluster:
    """A server on a socket in its own folder, which must be empty.

    Args:
        options: for the server, as on its command line.

    Raises:
        NoServer: its programs are not installed, or nobody is there to run them as.
    """

    def __init__(self, folder: Path, options: str = "") -> None:
        self._programs, self._prefix = _programs(), _prefix()
        self._folder, self._data = folder, folder / "data"
        self._options = f"-c listen_addresses='' -c unix_socket_directories={folder} {options}"
        (folder / "out").touch()
        if self._prefix:
            shutil.chown(folder, "postgres", "postgres")
        self._call("initdb", "-D", str(self._data), "-U", "tester", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")

    def url(self, database: str) -> str:
        return f"postgresql://tester@/{database}?host={self._folder}"

    def is_running(self) -> bool:
        command = [*self._prefix, str(self._programs / "pg_ctl"), "-D", str(self._data), "status"]
        return subprocess.run(command, cwd=self._folder, capture_output=True, timeout=SECONDS).returncode == 0

    def start(self) -> None:
        log = str(self._folder / "log")
        self._call("pg_ctl", "-D", str(self._data), "-w", "-l", log, "-o", self._options, "start")

    def stop(self) -> None:
        self._call("pg_ctl", "-D", str(self._data), "-w", "-m", "immediate", "stop")

    def _call(self, program: str, *arguments: str) -> None:
        command = [*self._prefix, str(self._programs / program), *arguments]
        with (self._folder / "out").open("ab") as out:  # no pipe: the server would hold it open
            done = subprocess.run(command, cwd=self._folder, stdout=out, stderr=out, timeout=SECONDS)
        if done.returncode:
            raise RuntimeError((self._folder / "out").read_text())


@contextmanager
def running(folder: Path, options: str = "") -> Iterator[Cluster]:
    """A cluster that is started, and stopped in the end."""
    cluster = Cluster(folder, options)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()


def _programs() -> Path:
    """The folder of the server programs; Debian keeps them off the PATH."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in folders:
        if (folder / "pg_ctl").is_file():
            return folder
    raise NoServer("PostgreSQL's server programs (initdb, pg_ctl) are not installed")


def _prefix() -> list[str]:
    """What to write before a command: the server refuses to run as root."""
    if os.getuid() != 0:
        return []
    if shutil.which("runuser") is None or subprocess.run(["id", "postgres"], capture_output=True).returncode:
        raise NoServer("PostgreSQL does not run as root, and there is no user postgres to run it as")
    return ["runuser", "-u", "postgres", "--"]
