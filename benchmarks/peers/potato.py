"""Potato, with a server for each project and its answers in a folder."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
from playwright.sync_api import Page

from benchmarks.peers import Kind, Tool, all_there, wait

FIELDS = ("left", "right")


def configuration(kind: Kind) -> dict:
    pictures = FIELDS[: len(kind.items[0])]
    return {
        "annotation_task_name": kind.name, "task_dir": ".", "output_annotation_dir": "answers",
        "data_files": ["items.jsonl"], "item_properties": {"id_key": "id", "text_key": "left"},
        "require_password": False, "user_config": {"allow_all_users": True, "users": []},
        "instance_display": {
            "layout": {"direction": "horizontal"},
            "fields": [{"key": name, "type": "image", "display_options": {"zoomable": True}} for name in pictures],
        },
        "annotation_schemes": [choices(*question) for question in kind.questions],
    }  # fmt: skip


def choices(name: str, values: list[str], keys: str) -> dict:
    """A question of which one answer is chosen by a key of its own."""
    labels = [{"name": value, "key_value": key} for value, key in zip(values, keys, strict=True)]
    scheme = {"annotation_type": "radio", "name": name, "description": name, "horizontal": True}
    return scheme | {"label_requirement": {"required": True}, "labels": labels}


@contextmanager
def running(home: Path, folder: Path, port: int, kind: Kind) -> Iterator[None]:
    """A server with one project, as its documentation starts it. ``home`` is its virtual environment."""
    folder.mkdir(parents=True)
    items = [{"id": f"item {n}"} | dict(zip(FIELDS, item, strict=False)) for n, item in enumerate(kind.items)]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, items)), encoding="utf-8")
    (folder / "config.yaml").write_text(json.dumps(configuration(kind)), encoding="utf-8")
    command = [home / "bin" / "potato", "start", "config.yaml", "-p", str(port), "--host", "127.0.0.1"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            wait(client, "/", process)
        yield
    finally:
        process.terminate()
        process.wait(60)


def steps(kind: Kind) -> list[str]:
    """There is no key for a closer look."""
    look = [f">.zoom-in >> nth={n}" for n in range(len(kind.items[0]))]
    if kind.by == "keys":
        return [*look, *(keys[len(keys) // 2] for _, _, keys in kind.questions), "ArrowRight"]
    answers = [f">.annotation-form.radio >> nth={n} >> label >> nth=0" for n in range(len(kind.questions))]
    return [*look, *answers, ">#next-btn"]


@contextmanager
def tool(home: Path, folder: Path, ports: list[int], kinds: list[Kind]) -> Iterator[Tool]:
    at = {kind.name: port for kind, port in zip(kinds, ports, strict=True)}

    def enter(page: Page, kind: str) -> None:
        page.goto(f"http://127.0.0.1:{at[kind]}/")
        page.fill("#login-email", "rita")
        page.keyboard.press("Enter")

    def stored(kind: str) -> int:
        questions = next(len(one.questions) for one in kinds if one.name == kind)
        state = json.loads((folder / kind / "answers" / "rita" / "user_state.json").read_text(encoding="utf-8"))
        return sum(len(answers) == questions for answers in state["instance_id_to_label_to_value"].values())

    listens = "typeof isLoading !== 'undefined' && !isLoading && currentInstance"
    shown = f"{listens} && {all_there('img.display-image')}"
    with ExitStack() as servers:
        for kind in kinds:
            servers.enter_context(running(home, folder / kind.name, at[kind.name], kind))
        yield Tool({kind.name: steps(kind) for kind in kinds}, shown, enter, stored)
