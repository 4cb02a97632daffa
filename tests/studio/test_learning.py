"""From twenty ratings to a candidate with the command itself: the page starts it, it is killed, and goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from benchmarks.studio_raters import start_studio
from core.config import versions_folder
from core.lineage import is_learned
from core.sequence import Text
from tests.browser import free_port
from tests.core.feedback.builders import picture
from tests.studio.conftest import SECONDS, LogIn, Studio, open_store
from tests.studio.test_versions import compared, learn, make_snapshot, process_of, version

LONG = 240_000
MORE = 10
"""Requests of patients that nobody has judged."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[Studio]:
    data, port = tmp_path_factory.mktemp("studio"), free_port()
    store = open_store(data)
    settings = {"UNIMED_MODEL": str(tiny_checkpoint), "OMP_NUM_THREADS": "1"}
    people = compared(store)
    for n in range(20, 20 + MORE):
        drawn = picture(n, generated=True)
        store.add_run(
            people["mona"], task="super_resolution", inputs=[picture(n), Text(f"Sharper ({n}).")], outputs=[drawn],
            settings={}, seed=n, model_name="nano-a", model_fingerprint="nano-a" * 8, key=f"more {n}",
            case=("archive", str(n), "1"),
        )  # fmt: skip
    process = start_studio(data, port, settings)
    yield Studio(f"http://127.0.0.1:{port}/", data, process, store, people)
    process.terminate()
    process.wait(SECONDS)
    store.close()


def kill_while_it_learns(studio: Studio, name: str) -> None:
    """As soon as it has said that it does: the page looks too seldom to see that of a run of one step."""
    progress = versions_folder(studio.data) / name / "progress.json"
    for _ in range(LONG // 20):
        if progress.is_file():
            process_of(studio, name).kill()
            return
        time.sleep(0.02)
    raise AssertionError("It does not begin")


def test_twenty_ratings_become_a_candidate(studio: Studio, log_in: LogIn) -> None:
    page = log_in("mona")
    make_snapshot(page)
    page.get_by_role("spinbutton", name="Requests to compare").fill("10")
    learn(page, "sharper")
    kill_while_it_learns(studio, "sharper")
    expect(page.get_by_text("It was cut off")).to_be_visible()
    page.get_by_role("button", name="Go on with sharper").click()
    expect(page.get_by_text("sharper is learned, and a candidate now.")).to_be_visible(timeout=LONG)
    made = version(studio, "sharper")
    assert made.state == "candidate" and made.lineage.judgements == 40
    assert is_learned(versions_folder(studio.data) / "sharper")
    (project,) = [one for one in studio.store.projects.of(studio.people["mona"]) if one.id == made.project_id]
    assert 0 < project.items <= MORE
    (snapshot,) = studio.store.snapshots.all(studio.people["mona"])
    if held_out := snapshot.counts.get("pair, test"):
        expect(page.get_by_text(f"On {held_out} pairs of images that were kept aside")).to_be_visible()
    expect(page.get_by_role("button", name="Promote sharper")).to_be_disabled()
    assert list(studio.store.verify()) == []
