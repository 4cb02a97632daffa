"""Label Studio's community edition, with a database of its own in a folder."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from playwright.sync_api import Page

from benchmarks.peers import Kind, Tool, all_there, wait

MAIL, PASSWORD, TOKEN = "rita@example.org", "correct horse", "0123456789abcdef" * 2 + "01234567"
SUBMIT = '[aria-label="Submit current annotation"]'
IMAGES = '<Image name="left" value="$left" zoomControl="true"/>', '<Image name="right" value="$right" zoomControl="true"/>'


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
    pictures = "".join(IMAGES[: len(kind.items[0])])
    questions = "".join(choices(*question) for question in kind.questions)
    layout = f'<View><View style="display: flex">{pictures}</View>{questions}</View>'
    made = client.post("/api/projects", json={"title": kind.name, "label_config": layout}).raise_for_status().json()
    tasks = [dict(zip(("left", "right"), item, strict=False)) for item in kind.items]
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
