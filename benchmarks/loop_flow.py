"""From twenty ratings to a version that is served, and back, in a browser: ``python -m benchmarks.loop_flow``.

The demo and the studio run as `make run` starts them, on the shipped checkpoint. What is rated are two sampled answers
to a question about each of fifty simulated retinas. The rater goes by a rule that is stated here: the shorter answer is
better. One who thinks would take longer: what is timed is what the tools take.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import httpx
from gradio_client import Client, handle_file
from playwright.sync_api import Page, expect, sync_playwright

from core.config import NANO, ROOT
from core.data.oct_phantom import b_scan
from core.feedback.people import Person
from core.feedback.projects import NewItem
from core.feedback.rubric import OVERALL, Plan, Rubric
from core.feedback.studio import StudioStore
from core.inference.generator import Generator
from core.inference.once import run_task
from core.model.checkpoint import load
from core.sequence import Image
from core.tasks import TASKS
from tests.browser import WIDE, chromium, free_port
from tests.studio.conftest import PASSWORD, open_store
from tests.studio.hands import choose, go, pick, still

RESULTS = Path(__file__).parent / "results"
EYES, RATED = 50, 20
FINDINGS = ("normal", "drusen", "fluid")
QUESTION = "Tell me what this picture shows."
LONG_MS = 200_000
NAME = "shorter"


def fill(store: StudioStore, by: Person) -> None:
    """Two answers that differ to the question about each eye; an open project of the first ones."""
    generator, task, items = Generator(load(NANO)), TASKS["vqa"], []
    for eye in range(EYES):
        picture, ids, texts = Image(b_scan(eye, FINDINGS[eye % 3]).convert("RGB")), [], set()
        for seed in range(8):
            if len(texts) == 2:
                break
            answer = run_task(generator, task, [picture], QUESTION, seed, temperature=1.0)
            if answer.text in texts:
                continue
            texts.add(answer.text)
            ids += store.add_run(
                by, task=task.name, inputs=task.build([picture], QUESTION), outputs=answer.segments, seed=seed,
                settings={}, model_name=generator.checkpoint.name, key=f"{eye} {seed}",
                model_fingerprint=generator.checkpoint.fingerprint, case=("simulated", str(eye), ""),
            ).response_ids  # fmt: skip
        if len(ids) == 2:
            items.append(NewItem(tuple(ids)))
    project = store.projects.make(by, "Shorter", "compare", Rubric((OVERALL,)), Plan(overlap=1), items[:RATED])
    store.projects.add_member(by, project, by.id)
    store.projects.change_state(by, project, "open")


@contextmanager
def programs(data: Path) -> Iterator[tuple[str, str]]:
    """Addresses of the demo and of the studio."""
    ports = [free_port(), free_port()]
    given = {name: value for name, value in os.environ.items() if not name.startswith("UNIMED_")}
    command = [sys.executable, "app.py", "--studio", "--port", str(ports[0]), "--studio-port", str(ports[1])]
    process = subprocess.Popen(command, cwd=ROOT, env=given | {"UNIMED_DATA": str(data)})
    addresses = [f"http://127.0.0.1:{port}/" for port in ports]
    try:
        for address in (f"{addresses[0]}gradio_api/app_id", f"{addresses[1]}_stcore/health"):
            wait(lambda address=address: httpx.get(address, trust_env=False).is_success)
        yield addresses[0], addresses[1]
    finally:
        process.terminate()
        process.wait(60)


def wait(ready, seconds: float = 300.0) -> float:
    """How long it took until something was so."""
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        try:
            if ready():
                return time.perf_counter() - start
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise TimeoutError("It never was so")


def rate(page: Page, count: int) -> float:
    """Judges what comes by keys: the shorter answer. Returns the seconds of one (median)."""
    seconds, texts, chosen = [], page.locator(".ub-text p"), page.locator(".ub-rows input:checked")
    for number in range(count):
        expect(page.locator(".ub-standing")).to_contain_text(f"{number} of {count}")
        page.locator(".ub-item h2").focus()  # not the list of projects, which takes keys for itself
        start = time.perf_counter()
        first, second = texts.all_inner_texts()
        page.keyboard.press("1" if len(first) <= len(second) else "3")
        expect(chosen).to_have_count(1)
        page.keyboard.press("Enter")
        expect(page.locator(".ub-standing")).to_contain_text(f"{number + 1} of {count}")
        seconds.append(time.perf_counter() - start)
    expect(page.locator(".ub-empty")).to_be_visible()
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loop_flow", description=__doc__)
    parser.parse_args()
    expect.set_options(timeout=LONG_MS)
    with tempfile.TemporaryDirectory() as name, open_store(Path(name)) as store, sync_playwright() as playwright:
        data, found = Path(name), {}
        store.people.add(None, "mona", "maintainer", PASSWORD)
        mona = store.people.named("mona")
        fill(store, mona)
        b_scan(EYES, "normal").save(picture := data / "eye.png")
        with programs(data) as (demo, studio):
            browser = playwright.chromium.launch(**(chromium() or sys.exit("error: no browser installed")))
            page = browser.new_context(viewport=WIDE, locale="en-US").new_page()
            page.set_default_timeout(LONG_MS)
            start = time.perf_counter()
            through(page, demo, studio, store, mona, picture, found)
            found["all of it, s"] = round(time.perf_counter() - start, 1)
            assert list(store.verify()) == []
    result = {"date": date.today().isoformat(), "command": "python -m benchmarks.loop_flow", "cores": os.cpu_count()}
    result |= {"base": load(NANO).name, "rated": RATED, **found}
    print(json.dumps(result, indent=1))
    path = RESULTS / f"{result['date']}_loop_flow.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def through(
    page: Page, demo: str, studio: str, store: StudioStore, mona: Person, picture: Path, found: dict
) -> None:  # fmt: skip
    """The whole way."""
    page.goto(studio)
    page.get_by_label("Name").fill("mona")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    start = time.perf_counter()
    found["one rating, s (median)"] = round(rate(page, RATED), 3)
    found["all ratings, s"] = round(time.perf_counter() - start, 1)

    go(page, "Snapshots")
    pick(page, page.get_by_label("Projects"), "Shorter")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Make a snapshot").click()
    page.get_by_role("link", name="Learn from it").click()
    page.get_by_label("Name of the new version").fill(NAME)
    page.get_by_label("Name of the new version").press("Tab")
    start = time.perf_counter()
    page.get_by_role("button", name="Learn from it").click()
    expect(page.get_by_text("Learning:")).to_be_visible()
    found["from the button to the first progress, s"] = round(time.perf_counter() - start, 1)
    expect(page.get_by_text(f"{NAME} is learned, and a candidate now.")).to_be_visible()
    found["from the button to the candidate, s"] = round(time.perf_counter() - start, 1)
    found["until the demo's Compare offers it, s"] = round(offered(page, demo), 1)

    (version,) = store.versions.all()
    (project,) = [one for one in store.projects.of(mona) if one.id == version.project_id]
    take_part(page, project.name)
    go(page, "Rate")
    choose(page, project.name)
    start = time.perf_counter()
    rate(page, project.items)
    gate = store.versions.gate(version.id)
    found["the blinded comparison"] = {
        "items": gate.items, "wins": gate.wins, "ties": gate.ties, "losses": gate.losses,
        "rate": round(gate.rate, 3), "low": round(gate.low, 3), "s": round(time.perf_counter() - start, 1),
    }  # fmt: skip

    client = Client(demo, verbose=False)
    go(page, "Versions")
    page.get_by_label(f"Reason, about {NAME}").fill("Shorter answers, as wanted")
    page.get_by_role("button", name=f"Promote {NAME}", exact=True).click()
    found["from Promote to an answer by it, s"] = round(wait(lambda: by_whom(client, picture) == NAME), 1)
    page.get_by_role("button", name="Go back to").click()
    found["from Go back to an answer by the base, s"] = round(wait(lambda: by_whom(client, picture) != NAME), 1)


def take_part(page: Page, project: str) -> None:
    """The maintainer is going to judge the comparison herself."""
    still(page)
    page.get_by_text(f"The project: {project}").click()
    pick(page, page.get_by_role("combobox", name="People"), "mona")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Let them take part").click()
    expect(page.get_by_text(f"mona: raters of {project}")).to_be_visible()


def offered(page: Page, demo: str) -> float:
    """How long it takes until a page of the demo offers the candidate."""
    start, tab = time.perf_counter(), page.context.new_page()
    tab.goto(demo)
    tab.get_by_role("tab", name="Compare", exact=True).click()
    tab.get_by_role("button", name="Advanced ▼").last.click()
    tab.locator("#side-two input").click()
    expect(tab.get_by_role("option", name=NAME)).to_be_visible()
    tab.close()
    return time.perf_counter() - start


def by_whom(client: Client, picture: Path) -> str:
    """The version that answers a program now."""
    return client.predict(handle_file(str(picture)), QUESTION, 0, api_name="/vqa")[-1]["model"]


if __name__ == "__main__":
    main()
