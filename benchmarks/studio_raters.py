"""The studio under fire: ``python -m benchmarks.studio_raters``.

``--raters`` processes rate at once over HTTP, ``--ratings`` in all, on SQLite and then on PostgreSQL. Meanwhile the
studio is killed ``--kills`` times (SIGKILL) and started again, and the disk is filled once. Every rating carries a
nonce. In the end the database itself is searched: each that was acknowledged must be there once, with the answer, rater
and item that were sent, and each that is there must have been sent; drafts are what was saved last, and the log fits
the tables.

A time is that of the attempt that came through, from sending to the whole answer, as the rater sees it. Attempts that
were cut off or refused, and the waits after them, are counted and not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from math import ceil
from pathlib import Path
from threading import Thread

import httpx
import numpy as np
from PIL import Image as PILImage

from benchmarks.diaries import Diary, problems, summary
from benchmarks.disk import Disk, NoDisk, small_disk
from benchmarks.postgres import Cluster, running
from benchmarks.rater import PASSWORD
from core.config import ROOT
from core.feedback.projects import NewItem
from core.feedback.rubric import RUBRICS, Plan
from core.feedback.studio import StudioStore
from core.sequence import Image, Text

RESULTS = Path(__file__).parent / "results"
PORT = 7997
OVERLAP = 4
PICTURES, SIDE = 20, 128
START_SECONDS, END_SECONDS = 120, 7200
FULL_SECONDS = 5
"""So long the disk is full."""


def start_studio(
    data: Path, port: int, settings: dict[str, str] | None = None, log: Path | None = None, module: str = "studio.app"
) -> subprocess.Popen:  # fmt: skip
    """Starts the studio and waits until it answers.

    Args:
        settings: as environment variables, on top of the folder of its data; those of this machine do not count.
        log: what it writes goes there.
        module: what is run: the studio, or what starts it.
    """
    given = {name: value for name, value in os.environ.items() if name != "SPACE_ID" and not name.startswith("UNIMED_")}
    given |= {"UNIMED_DATA": str(data)} | (settings or {})
    command = [sys.executable, "-m", module, "--port", str(port)]
    with ExitStack() as stack:
        out = stack.enter_context(log.open("ab")) if log else None
        process = subprocess.Popen(command, cwd=ROOT, env=given, stdout=out, stderr=out)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"The studio did not start: it ended with {process.returncode}")
        try:
            httpx.get(f"http://127.0.0.1:{port}/_stcore/health", trust_env=False).raise_for_status()
            return process
        except httpx.HTTPError:
            time.sleep(0.05)
    process.kill()
    raise RuntimeError("The studio did not answer")


# Before --------------------------------------------------------------------------------------------------------------


def prepare(store: StudioStore, raters: int, ratings: int) -> str:
    """Accounts, and an open project with a little more than there is to rate. Returns its id."""
    people, random = store.people, np.random.default_rng(0)
    people.add(None, "mona", "maintainer", PASSWORD)
    mona = people.named("mona")
    pictures = [
        Image(PILImage.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)), generated=n >= PICTURES)
        for n in range(2 * PICTURES)
    ]
    items = []
    for n in range(ceil(ratings / OVERLAP) + raters):
        run = store.add_run(
            mona, task="super_resolution", inputs=[pictures[n % PICTURES], Text(f"Sharpen it, item {n}.")],
            outputs=[pictures[PICTURES + n % PICTURES]], settings={}, seed=n, model_name="nano",
            model_fingerprint="f" * 64, key=str(n),
        )  # fmt: skip
        items.append(NewItem(run.response_ids))
    project = store.projects.make(mona, "Fire", "rate", RUBRICS["edit"], Plan(overlap=OVERLAP))
    store.projects.add_items(mona, project, items)
    for number in range(raters):
        store.projects.add_member(mona, project, people.add(mona, f"rater{number}", "rater", PASSWORD))
    store.projects.change_state(mona, project, "open")
    return project


# During --------------------------------------------------------------------------------------------------------------


@dataclass
class House:
    """A studio that is being used, and what may happen to it."""

    port: int
    data: Path
    database: str
    log: Path
    disk: Disk | None
    cluster: Cluster | None
    down: float = 0.0
    """Seconds for which it was down."""

    def start(self) -> None:
        self.process = start_studio(self.data, self.port, {"UNIMED_DATABASE": self.database}, self.log)

    def kill(self) -> None:
        begin = time.perf_counter()
        self.process.kill()
        self.process.wait()
        self.start()
        self.down += time.perf_counter() - begin

    def fill(self) -> str:
        """Takes all room away for a while. Returns how."""
        begin = time.perf_counter()
        if self.disk is not None:
            self.disk.fill()
            time.sleep(FULL_SECONDS)
            self.disk.free()
            how = "file system without room"
            if self.cluster is not None and not self.cluster.is_running():
                self.cluster.start()  # it gives up where it can write no log: whoever runs it starts it again
                how += ", PostgreSQL went down and was started again"
        elif self.cluster is None and sys.platform == "linux":
            import resource

            _, most = limits = resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (4096, most))
            time.sleep(FULL_SECONDS)
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, limits)
            how = "limit of the process"
        else:
            return "not filled: no file system can be mounted here"
        self.down += time.perf_counter() - begin
        return how


class Crew:
    """Raters who work in processes of their own."""

    def __init__(self, port: int, project: str, raters: int, ratings: int, think: float) -> None:
        self.diaries = [Diary() for _ in range(raters)]
        self._processes, self._readers = [], []
        for number, diary in enumerate(self.diaries):
            share = ratings // raters + (number < ratings % raters)
            given = str(port), project, str(number), str(share), str(think)
            command = [sys.executable, "-m", "benchmarks.rater", *given]
            process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE)
            reader = Thread(target=lambda out=process.stdout, of=diary: [of.note(line) for line in out], daemon=True)
            reader.start()
            self._processes.append(process)
            self._readers.append(reader)

    def submitted(self) -> int:
        return sum(len(diary.submitted) for diary in self.diaries)

    def is_working(self) -> bool:
        return any(reader.is_alive() for reader in self._readers)

    def send_home(self) -> None:
        for process, reader in zip(self._processes, self._readers, strict=True):
            process.kill()
            process.wait()
            reader.join()
            process.stdout.close()


def under_fire(house: House, crew: Crew, ratings: int, kills: int) -> str:
    """Kills the studio at random moments, and fills the disk in the middle, until all have done their share. Returns
    how the disk was filled."""
    moments = sorted(random.sample(range(ratings // 20, ratings * 19 // 20), kills + 1)) if kills else []
    deadline, filled = time.monotonic() + END_SECONDS, "not filled"

    def is_going(until: int) -> bool:
        return crew.is_working() and crew.submitted() < until and time.monotonic() < deadline

    for place, moment in enumerate(moments):
        while is_going(moment):
            time.sleep(0.02)
        time.sleep(random.random() / 5)
        if place == len(moments) // 2:
            filled = house.fill()
        else:
            house.kill()
    while is_going(ratings + 1):  # more than there are: until they have gone home
        time.sleep(0.1)
    return filled


# The whole -----------------------------------------------------------------------------------------------------------


@contextmanager
def a_house(kind: str, folder: Path, port: int) -> Iterator[House]:
    """A place for a studio, on a small disk where one can be mounted. The studio does not run yet."""
    with ExitStack() as stack:
        try:
            disk = stack.enter_context(small_disk(folder))
        except NoDisk:
            disk = None
        room = disk.folder if disk else folder
        data, database, cluster = room / "studio", f"sqlite:///{room / 'studio' / 'feedback.sqlite'}", None
        if kind == "postgresql":
            (room / "pg").mkdir()
            folder.chmod(0o755)
            cluster = stack.enter_context(running(room / "pg"))
            database = cluster.url("postgres")
        house = House(port, data, database, folder / "log", disk, cluster)
        yield house


def measure(kind: str, port: int, raters: int, ratings: int, kills: int, think: float = 0.0) -> dict:
    """One run on one kind of database."""
    with tempfile.TemporaryDirectory(prefix="fire-") as folder, a_house(kind, Path(folder), port) as house:
        with StudioStore(house.database, house.data / "pictures") as store:
            project = prepare(store, raters, ratings)
        house.start()
        start = time.perf_counter()
        crew = Crew(port, project, raters, ratings, think)
        try:
            filled = under_fire(house, crew, ratings, kills)
            seconds = time.perf_counter() - start
        finally:
            crew.send_home()
            house.process.terminate()
            house.process.wait()
        found = list(problems(house.database, house.data / "pictures", crew.diaries, ratings, OVERLAP))
        tracebacks = house.log.read_text().count("Traceback")
    return {
        "problems": len(found), "first_problems": found[:20], "tracebacks": tracebacks, "kills": kills, "disk": filled,
        **summary(crew.diaries, seconds, house.down),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studio_raters", description=__doc__)
    parser.add_argument("--raters", type=int, default=30)
    parser.add_argument("--ratings", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=10, help="0 leaves the disk alone as well (10)")
    parser.add_argument("--think", type=float, default=0.0, help="mean pause before each save, in seconds (none)")
    options = parser.parse_args()
    result = {
        "date": date.today().isoformat(),
        "command": " ".join(["python -m benchmarks.studio_raters", *sys.argv[1:]]),
        "cores": os.cpu_count(),
    }
    for kind in ("sqlite", "postgresql"):
        result[kind] = measure(kind, PORT, options.raters, options.ratings, options.kills, options.think)
    print(json.dumps(result, indent=1, ensure_ascii=False))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{result['date']}_studio_raters.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
