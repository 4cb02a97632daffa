"""Label Studio's community edition, with a database of its own in a folder.

At scale by itself: ``python -m benchmarks.peers.label_studio HOME --tasks N --ratings N``. No agreement is timed: only
its Enterprise edition computes one.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import date
from pathlib import Path

import httpx
import numpy as np
from playwright.sync_api import Page

from benchmarks.peers import Kind, Tool, all_there, wait
from tests.browser import free_port

MAIL, PASSWORD, TOKEN = "rita@example.org", "correct horse", "0123456789abcdef" * 2 + "01234567"
SUBMIT = '[aria-label="Submit current annotation"]'
FIELDS = ("left", "right")

FROM_API, UNFINISHED = 500, 1000
"""Tasks that come through its API, and tasks that lack a rating."""


def settings(folder: Path) -> dict[str, str]:
    """Its environment: nothing is sent or asked elsewhere."""
    off = dict.fromkeys(("COLLECT_ANALYTICS", "LATEST_VERSION_CHECK", "DEBUG"), "false")
    silent = {"SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "", "LOG_LEVEL": "ERROR"}
    return os.environ | off | silent | {"LABEL_STUDIO_BASE_DATA_DIR": str(folder)}


@contextmanager
def running(home: Path, folder: Path, port: int) -> Iterator[tuple[httpx.Client, subprocess.Popen]]:
    """A server as its documentation starts it on one's own machine, and a client of its API.

    Args:
        home: its virtual environment.
        folder: for its database, SQLite.
    """
    folder.mkdir(exist_ok=True)
    command = [home / "bin" / "label-studio", "start", "--no-browser", "--port", str(port), "--data-dir", folder]
    command += ["--username", MAIL, "--password", PASSWORD, "--user-token", TOKEN, "--enable-legacy-api-token"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=settings(folder), stdout=log, stderr=log)
    address, headers = f"http://127.0.0.1:{port}", {"Authorization": f"Token {TOKEN}"}
    try:
        with httpx.Client(base_url=address, headers=headers, trust_env=False, timeout=3600) as client:
            wait(client, "/health", process)
            yield client, process
    finally:
        process.terminate()
        process.wait(60)


def choices(name: str, values: list[str], keys: str) -> str:
    """A question of which one answer is chosen by a key of its own."""
    inside = "".join(f'<Choice value="{v}" hotkey="{k}"/>' for v, k in zip(values, keys, strict=True))
    attributes = f'name="{name}" toName="left" choice="single-radio" showInLine="true" required="true"'
    return f'<Header value="{name}"/><Choices {attributes}>{inside}</Choices>'


def project(client: httpx.Client, kind: Kind) -> int:
    fields = FIELDS[: len(kind.items[0])]
    pictures = "".join(f'<Image name="{name}" value="${name}" zoomControl="true"/>' for name in fields)
    questions = "".join(choices(*question) for question in kind.questions)
    layout = f'<View><View style="display: flex">{pictures}</View>{questions}</View>'
    made = client.post("/api/projects", json={"title": kind.name, "label_config": layout}).raise_for_status().json()
    tasks = [dict(zip(fields, item, strict=True)) for item in kind.items]
    client.post(f"/api/projects/{made['id']}/import", json=tasks).raise_for_status()
    return made["id"]


def steps(kind: Kind) -> list[str]:
    """The key of the full size is that of the last picture alone; the others have a menu."""
    pictures, by_keys = len(kind.items[0]), kind.by == "keys"
    menus = range(pictures - 1 if by_keys else pictures)
    look = [f">{what} >> nth={n}" for n in menus for what in (".lsf-flyoutmenu__icon", "text=Zoom to actual size")]
    if by_keys:
        return [*look, "Shift+2", *(keys[len(keys) // 2] for _, _, keys in kind.questions), "Control+Enter"]
    return [*look, *(f">.lsf-choices >> nth={n} >> label >> nth=0" for n in range(len(kind.questions))), f">{SUBMIT}"]


@contextmanager
def tool(home: Path, folder: Path, port: int, kinds: list[Kind]) -> Iterator[Tool]:
    with running(home, folder, port) as (client, _):
        address = f"http://127.0.0.1:{port}"
        projects = {kind.name: (project(client, kind), len(kind.questions)) for kind in kinds}

        def enter(page: Page, kind: str) -> None:
            page.goto(f"{address}/user/login", wait_until="domcontentloaded")
            page.fill("[name=email]", MAIL)
            page.fill("[name=password]", PASSWORD)
            page.click("button[type=submit]")
            page.wait_for_url(f"{address}/", wait_until="domcontentloaded")
            stream = f"{address}/projects/{projects[kind][0]}/data?labeling=1"
            page.goto(stream, wait_until="domcontentloaded")

        def stored(kind: str) -> int:
            number, questions = projects[kind]
            tasks = client.get(f"/api/projects/{number}/export", params={"exportType": "JSON"}).json()
            return sum(len(annotation["result"]) == questions for task in tasks for annotation in task["annotations"])

        shown = f"document.querySelector('{SUBMIT}:not(:disabled)') && {all_there('img[alt=image]')}"
        yield Tool({kind.name: steps(kind) for kind in kinds}, shown, enter, stored)


# At scale


def fill(client: httpx.Client, database: Path, tasks: int, ratings: int) -> dict:
    """A project of tasks with two scores from each of ``ratings`` people, but for the last tasks, which lack one.

    The first tasks come through its API, which is timed. The others are copies of their rows, which is quicker.
    """
    questions = [(name, list("12345"), keys) for name, keys in (("prompt", "12345"), ("overall", "67890"))]
    number = project(client, Kind("scale", "keys", questions, [("http://127.0.0.1/0.png",)]))
    client.patch(f"/api/projects/{number}", json={"maximum_annotations": ratings}).raise_for_status()
    people = []
    for n in range(ratings):
        body = {"email": f"rater{n}@example.org", "username": f"rater{n}"}
        people.append(client.post("/api/users/", json=body).raise_for_status().json()["id"])
    said = [
        {"from_name": name, "to_name": "left", "type": "choices", "value": {"choices": [score]}}
        for name, score in (("prompt", "3"), ("overall", "4"))
    ]
    given = [{"completed_by": person, "result": said, "lead_time": 9.0} for person in people]
    whole = {"data": {"left": "http://127.0.0.1/1.png"}, "annotations": given}
    begun = time.perf_counter()
    client.post(f"/api/projects/{number}/import", json=[whole] * FROM_API).raise_for_status()
    seconds = time.perf_counter() - begun
    with closing(sqlite3.connect(database, timeout=60)) as rows:
        copy(rows, number, tasks - FROM_API - 1)
        rows.commit()
    return {"project": number, "ratings_per_s_through_api": round(FROM_API * ratings / seconds)}


def copy(rows: sqlite3.Connection, number: int, count: int) -> None:
    """Copies the last task that came through the API; the last of the copies lack a rating."""
    rows.row_factory = sqlite3.Row
    task = dict(rows.execute("SELECT * FROM task WHERE project_id = ? ORDER BY id DESC LIMIT 1", (number,)).fetchone())
    given = [dict(row) for row in rows.execute("SELECT * FROM task_completion WHERE task_id = ?", (task["id"],))]
    first, rating = task["id"] + 1, rows.execute("SELECT max(id) FROM task_completion").fetchone()[0]

    def insert(table: str, made: Iterator[dict], names: dict) -> None:
        marks = ", ".join(f":{name}" for name in names)
        rows.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", made)

    def missing(n: int) -> int:
        return int(n >= count - UNFINISHED)

    insert("task", (
        task | {"id": first + n, "inner_id": task["inner_id"] + 1 + n, "is_labeled": 1 - missing(n),
                "total_annotations": len(given) - missing(n)} for n in range(count)
    ), task)  # fmt: skip
    insert("task_completion", (
        one | {"id": rating + 1 + n * len(given) + place, "task_id": first + n, "unique_id": uuid.uuid4().hex}
        for n in range(count) for place, one in enumerate(given[missing(n) :])
    ), given[0])  # fmt: skip


def timed(client: httpx.Client, calls: int, method: str, path: str, **body: object) -> dict:
    seconds = []
    for _ in range(calls):
        begun = time.perf_counter()
        client.request(method, path, **body).raise_for_status()
        seconds.append(time.perf_counter() - begun)
    return quantiles(seconds)


def quantiles(seconds: list[float]) -> dict:
    p50, p95 = np.percentile(seconds, (50, 95))
    return {"calls": len(seconds), "p50_s": round(p50, 3), "p95_s": round(p95, 3)}


def rating(client: httpx.Client, number: int, calls: int) -> dict:
    """What somebody who rates waits for."""
    waits: dict[str, list[float]] = {"next": [], "submit": []}
    for _ in range(calls):
        begun = time.perf_counter()
        task = client.get(f"/api/projects/{number}/next").raise_for_status().json()["id"]
        waits["next"].append(time.perf_counter() - begun)
        said = [{"from_name": "overall", "to_name": "left", "type": "choices", "value": {"choices": ["4"]}}]
        begun = time.perf_counter()
        client.post(f"/api/tasks/{task}/annotations/", json={"result": said}).raise_for_status()
        waits["submit"].append(time.perf_counter() - begun)
    return {name: quantiles(seconds) for name, seconds in waits.items()}


def export(client: httpx.Client, number: int, path: Path, process: int) -> dict:
    """All of it as JSON; memory is that of the server's process at its highest."""
    before, begun = peak(process), time.perf_counter()
    with client.stream("GET", f"/api/projects/{number}/export", params={"exportType": "JSON"}) as answer:
        answer.raise_for_status()
        with path.open("wb") as file:
            for part in answer.iter_bytes():
                file.write(part)
    seconds = time.perf_counter() - begun
    size = round(path.stat().st_size / 2**20, 1)
    return {"s": round(seconds, 1), "file_mib": size, "peak_mib": peak(process), "peak_before_mib": before}


def peak(process: int) -> int:
    found = next(line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return round(int(found.split()[1]) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.label_studio", description="Many ratings.")
    parser.add_argument("home", type=Path, help="its virtual environment; see benchmarks.studio_flow")
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--ratings", type=int, default=10, help="of each task (10)")
    parser.add_argument("--calls", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, running(options.home, Path(name), free_port()) as (client, process):
        found = fill(client, Path(name) / "label_studio.sqlite3", options.tasks, options.ratings)
        number = found.pop("project")
        view = client.post("/api/dm/views/", json={"project": number, "data": {}}).raise_for_status().json()["id"]
        listed = f"/api/tasks?page=1&page_size=30&view={view}&project={number}"
        found["task list"] = timed(client, options.calls, "GET", listed)
        found["counts above the list"] = timed(client, options.calls, "GET", f"/api/dm/project?project={number}")
        found |= rating(client, number, options.calls)
        found["export as JSON"] = export(client, number, Path(name) / "export.json", process.pid)
    command = f"python -m benchmarks.peers.label_studio HOME --tasks {options.tasks} --ratings {options.ratings}"
    result = {"date": date.today().isoformat(), "command": command, "cores": os.cpu_count(), **found}
    print(json.dumps(result, indent=1))
    path = Path(__file__).parents[1] / "results" / f"{result['date']}_label_studio.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
