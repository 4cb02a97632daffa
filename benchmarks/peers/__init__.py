"""Other tools that people rate with, each in a virtual environment of its own: what a benchmark needs of one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from subprocess import Popen

import httpx
from playwright.sync_api import Page

SECONDS = 300


@dataclass(frozen=True)
class Kind:
    """Items of one kind.

    Attributes:
        by: "keys", with clicks where a tool has none, or "clicks".
        questions: name, answers, and a key for each answer where a tool wants one.
        items: the pictures of each, by their addresses; one or two.
    """

    name: str
    by: str
    questions: list[tuple[str, list[str], str]]
    items: list[tuple[str, ...]]


@dataclass(frozen=True)
class Tool:
    """A tool that runs, with a project for each kind.

    Attributes:
        steps: for one item of a kind: keys, and selectors of what is clicked, with a ``>`` before them.
        shown: JavaScript, what tells the item on the screen from others, once the tool listens to keys and its pictures
            are there; something false before.
        open: leads somebody who is not logged in to the first item of a kind.
        stored: how many items of a kind have all of their answers.
    """

    steps: dict[str, list[str]]
    shown: str
    open: Callable[[Page, str], None]
    stored: Callable[[str], int]


def all_there(images: str) -> str:
    """JavaScript: the addresses of pictures once all of them are there, by a selector."""
    found = f"[...document.querySelectorAll('{images}')]"
    return f"({found}.length && {found}.every((i) => i.complete && i.naturalWidth) && {found}.map((i) => i.src).join())"


def wait(client: httpx.Client, path: str, process: Popen) -> None:
    """Until a server answers."""
    deadline = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            client.get(path).raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise SystemExit(f"error: {process.args[0]} did not start; see the log in its folder")
