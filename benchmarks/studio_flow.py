"""How quick rating is, beside Label Studio and Potato with the same items: ``python -m benchmarks.studio_flow``.

Two kinds of items: a picture with seven questions of five answers each, and two pictures of which the better one is
chosen, where a tie and two bad ones are allowed. Every picture is looked at in its full size, or as near to it as the
tool comes. A browser does them by the quickest way that each tool has: by keys, with clicks where there is no key, and
comparisons also by clicks alone. What is timed lies between one item on the screen and the next, without any thinking:
what the tool itself takes. How many answers were stored whole is counted in the end.

``--peers FOLDER`` holds a virtual environment for each of the others; one that is missing is left out::

    python3.11 -m venv FOLDER/label-studio && FOLDER/label-studio/bin/pip install label-studio==1.23.2
    python3.11 -m venv FOLDER/potato && FOLDER/potato/bin/pip install potato-annotation==2.12.1
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
from PIL import Image as PILImage
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.peers import Kind, Tool, all_there, label_studio, potato
from core.feedback.people import Person
from core.feedback.projects import NewItem
from core.feedback.rubric import OVERALL, RUBRICS, Plan, Rubric
from core.feedback.studio import StudioStore
from core.sequence import Image, Text
from tests.browser import WIDE, chromium, free_port
from tests.studio.conftest import PASSWORD, open_store, start

RESULTS = Path(__file__).parent / "results"
SIDE = 512
LOCAL = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
"""Nobody waits for a site that the page wants to report to."""
LAST_MS = 2000
"""Behind the last item nothing is shown that could be waited for."""
RUBRIC = RUBRICS["edit"]
KEYS = ("12345", "qwert", "asdfg", "zxcvb", "67890", "yuiop", "hjkln")
PAIR = ("overall", ["A", "Tie", "B", "Both bad"], "1234")


def draw(folder: Path, count: int) -> None:
    """Grey pictures with some structure and some noise, named by their numbers."""
    for seed in range(count):
        random = np.random.default_rng(seed)
        coarse = PILImage.fromarray(random.integers(0, 255, (32, 32), np.uint8)).resize((SIDE, SIDE), PILImage.BICUBIC)
        fine = np.asarray(coarse).astype(int) + random.integers(-8, 8, (SIDE, SIDE))
        PILImage.fromarray(fine.clip(0, 255).astype(np.uint8)).convert("RGB").save(folder / f"{seed}.png")


def kinds(at: str, count: int) -> list[Kind]:
    """What is rated, with pictures from an address."""
    names = [criterion.name for criterion in RUBRIC.criteria]
    questions = [(name, list("12345"), keys) for name, keys in zip(names, KEYS, strict=True)]
    pictures = [f"{at}/{number}.png" for number in range(2 * count)]
    pairs = list(zip(pictures[::2], pictures[1::2], strict=True))
    return [
        Kind("rating", "keys", questions, [(one,) for one in pictures[:count]]),
        Kind("comparison", "keys", [PAIR], pairs),
        Kind("comparison_by_clicks", "clicks", [PAIR], pairs),
    ]


@contextmanager
def hosted(folder: Path) -> Iterator[str]:
    """Pictures for those that take them by their address."""

    class Handler(SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            self.send_header("Access-Control-Allow-Origin", "*")
            super().end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


# Our studio


@contextmanager
def ours(folder: Path, pictures: Path, port: int, of: list[Kind]) -> Iterator[Tool]:
    with open_store(folder) as store:
        people, projects = {}, {}
        for kind in of:  # somebody for each: whoever has several projects chooses between them
            first = next(iter(people.values()), None)
            store.people.add(first, kind.name, "maintainer", PASSWORD)
            people[kind.name] = store.people.of_token(store.people.log_in(kind.name, PASSWORD))
            projects[kind.name] = project(store, people[kind.name], pictures, kind)
        process = start(folder, port)

        def enter(page: Page, kind: str) -> None:
            page.goto(f"http://127.0.0.1:{port}/")
            page.get_by_label("Name").fill(kind)
            page.get_by_label("Password").fill(PASSWORD)
            page.get_by_role("button", name="Log in").click()

        pictured = all_there(".ub-pictures > :not(.ub-marking, .ub-full) img")
        shown = f"!document.querySelector('.ub-full[open]') && {pictured}"
        try:
            stored = {name: functools.partial(store.queue.progress, people[name], projects[name]) for name in people}
            yield Tool({kind.name: steps(kind) for kind in of}, shown, enter, lambda kind: stored[kind]().done)
        finally:
            process.terminate()
            process.wait(60)


def project(store: StudioStore, by: Person, pictures: Path, kind: Kind) -> str:
    made, items = {}, []
    for name in dict.fromkeys(Path(address).name for item in kind.items for address in item):
        with PILImage.open(pictures / name) as file:
            output = Image(file.convert("RGB"))
        made[name] = store.add_run(
            by, task="super_resolution", inputs=[Text("Sharpen it.")], outputs=[output], settings={}, seed=0,
            model_name="model", model_fingerprint="f" * 64, key=name,
        ).response_ids[0]  # fmt: skip
    items = [NewItem(tuple(made[Path(address).name] for address in item)) for item in kind.items]
    rates = len(kind.items[0]) == 1
    rubric = RUBRIC if rates else Rubric((OVERALL,))
    found = store.projects.make(by, kind.name, "rate" if rates else "compare", rubric, Plan(overlap=1))
    store.projects.add_items(by, found, items)
    store.projects.add_member(by, found, by.id)
    store.projects.change_state(by, found, "open")
    return found


def steps(kind: Kind) -> list[str]:
    if kind.by == "keys":
        return ["f", *(["4"] * len(KEYS) if len(kind.questions) > 1 else ["1"]), "Enter"]
    return [">text=Full size [F]", ">.ub-full .ub-buttons button[aria-pressed] >> nth=0", ">text=Submit [Enter]"]


# All of them


def drive(page: Page, tool: Tool, kind: Kind) -> dict:
    """Does all items of a kind, and tells what each has taken. The first is left out: it warms up."""
    tool.open(page, kind.name)
    seconds, now = [], shown(page, tool, None)
    for number in range(len(kind.items)):
        begun = time.perf_counter()
        for step in tool.steps[kind.name]:
            if step.startswith(">"):
                page.locator(step[1:]).dispatch_event("click")  # no pointer has to get there
            else:
                page.keyboard.press(step)
        if number < len(kind.items) - 1:
            now = shown(page, tool, now)
            seconds.append(time.perf_counter() - begun)
    page.wait_for_timeout(LAST_MS)
    clicks = sum(step.startswith(">") for step in tool.steps[kind.name])
    p50, p95 = np.percentile(seconds[1:], (50, 95)).round(3).tolist()
    return {
        "keys": len(tool.steps[kind.name]) - clicks, "clicks": clicks, "steps": tool.steps[kind.name],
        "p50_s": p50, "p95_s": p95, "items": len(kind.items), "stored": tool.stored(kind.name),
    }  # fmt: skip


def shown(page: Page, tool: Tool, last: str | None) -> str:
    """Waits until another item is on the screen."""
    script = f"(last) => {{ const now = {tool.shown}; return now && now !== last ? now : null; }}"
    return page.wait_for_function(script, arg=last, polling="raf").json_value()


def measure(browser: Browser, tool: Tool, of: list[Kind]) -> dict:
    found = {}
    for kind in of:
        with browser.new_context(viewport=WIDE, locale="en-US") as context:
            found[kind.name] = drive(context.new_page(), tool, kind)
    return found


def run(peers: Path | None, count: int) -> dict:
    found = {}
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        pictures = folder / "pictures"
        pictures.mkdir()
        draw(pictures, 2 * count)
        options = chromium() or sys.exit("error: no browser installed")
        browser = playwright.chromium.launch(**options | {"args": [*options["args"], LOCAL]})
        with hosted(pictures) as address:
            of = kinds(address, count)
            with ours(folder / "ours", pictures, free_port(), of) as tool:
                found["ours"] = measure(browser, tool, of)
            if peers and (home := peers / "label-studio").is_dir():
                with label_studio.tool(home, folder / "label-studio", free_port(), of) as tool:
                    found["label_studio"] = measure(browser, tool, of)
            if peers and (home := peers / "potato").is_dir():
                with potato.tool(home, folder / "potato", [free_port() for _ in of], of) as tool:
                    found["potato"] = measure(browser, tool, of)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studio_flow", description=__doc__)
    parser.add_argument("--peers", type=Path, metavar="FOLDER", help="with the other tools; see above")
    parser.add_argument("--items", type=int, default=40, help="of each kind (40)")
    options = parser.parse_args()
    found = run(options.peers, options.items)
    ratios = {
        kind: {name: round(found[name][kind]["p50_s"] / of["p50_s"], 2) for name in found if name != "ours"}
        for kind, of in found["ours"].items()
    }
    command = f"python -m benchmarks.studio_flow --items {options.items}{' --peers FOLDER' if options.peers else ''}"
    result = {"date": date.today().isoformat(), "command": command, "cores": os.cpu_count(), **found, "to_ours": ratios}
    print(json.dumps(result, indent=1))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{result['date']}_studio_flow.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
