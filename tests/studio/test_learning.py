"""From twenty ratings to a candidate with the command itself: the page starts it, it is killed, and goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from benchmarks.studio_raters import start_studio
from core.config import versions_folder
from core.lineage import is_learned
from tests.browser import free_port
from tests.studio.conftest import SECONDS, LogIn, Studio, open_store
from tests.studio.test_studio import go
from tests.studio.test_versions import PROJECT, compared, learn, process_of, version

LONG = 240_000

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
    people, process = compared(store), start_studio(data, port, settings)
    yield Studio(f"http://127.0.0.1:{port}/", data, process, store, people)
    process.terminate()
    process.wait(SECONDS)
    store.close()


def test_twenty_ratings_become_a_candidate(studio: Studio, log_in: LogIn) -> None:
    page = log_in("mona")
    go(page, "Snapshots")
    page.get_by_label("Projects").click()
    page.get_by_role("option", name=PROJECT).click()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Make a snapshot").click()
    page.get_by_role("link", name="Learn from it").click()
    page.get_by_role("spinbutton", name="Requests to compare").fill("10")
    learn(page, "sharper")
    expect(page.get_by_text("Learning: 0 of 1")).to_be_visible(timeout=LONG)
    process_of(studio, "sharper").kill()
    expect(page.get_by_text("It was cut off")).to_be_visible()
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_text("sharper is learned, and a candidate now.")).to_be_visible(timeout=LONG)
    made = version(studio, "sharper")
    assert made.state == "candidate" and made.lineage.judgements == 40
    assert is_learned(versions_folder(studio.data) / "sharper")
    (project,) = [one for one in studio.store.projects.of(studio.people["mona"]) if one.id == made.project_id]
    assert project.items == 2
    (snapshot,) = studio.store.snapshots.all(studio.people["mona"])
    if held_out := snapshot.counts.get("pair, test"):
        expect(page.get_by_text(f"On {held_out} pairs of images that were held out")).to_be_visible()
    expect(page.get_by_role("button", name="Promote")).to_be_disabled()
    assert list(studio.store.verify()) == []
