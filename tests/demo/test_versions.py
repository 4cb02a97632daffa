"""A version that is learned while the demo runs: it appears, is compared blind, is promoted, and is rolled back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from tests.browser import WIDE
from tests.core.inference.learned import School
from tests.demo.conftest import SOON, Demo, running
from tests.demo.steps import arrive, ask, done, example_scan, fits, go, press, run

pytestmark = [
    # playwright leaves an event loop to the garbage collector
    pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
IN_SERVICE = "In service: tiny"


@pytest.fixture
def lone_demo(tiny_checkpoint: Path, tmp_path: Path) -> Iterator[Demo]:
    """With one checkpoint, and so without anything to choose."""
    with running(tmp_path, "--model", tiny_checkpoint) as demo:
        yield demo


@pytest.fixture
def school(lone_demo: Demo, tiny_checkpoint: Path) -> Iterator[School]:
    school = School(lone_demo.data, tiny_checkpoint)
    yield school
    school.close()


def offered(field: Locator, name: str) -> Locator:
    """The option of this name; the field is entered again until it is there."""
    page, option = field.page, field.page.get_by_role("option", name=name, exact=True)
    for _ in range(20):
        field.click()
        with suppress(AssertionError):
            expect(option).to_be_visible(timeout=1000)
            return option
        field.press("Escape")
        page.locator("h1").first.click()
    raise AssertionError(f"{name} was never offered")


def answered_by(page: Page, name: str) -> None:
    """A request whose version was left as it was is answered by this one, and says so."""
    room = run(page, "segmentation", "spine")
    room.get_by_text("Details: model").click()
    expect(room.locator("dd").filter(has_text=re.compile(f"^{name}$"))).to_be_visible()
    expect(room.locator("dd").filter(has_text="with 6 judgements")).to_have_count(0 if name == "tiny" else 1)


def test_a_version_is_offered_compared_promoted_and_rolled_back_without_a_restart(
    lone_demo: Demo, school: School, new_context: Callable[..., BrowserContext]
) -> None:
    page = new_context(viewport=WIDE, locale="en-US").new_page()
    page.set_default_timeout(SOON)
    expect.set_options(timeout=SOON)
    arrive(page, lone_demo.url)
    example_scan(page)
    answered_by(page, "tiny")
    room = go(page, "Compare")
    press(room, "Advanced ▼")
    one, two = page.locator("#side-one input"), page.locator("#side-two input")
    expect(one).to_have_value(IN_SERVICE)

    school.learn("learned-1", seed=1)
    offered(two, "learned-1").click()
    expect(two).to_have_value("learned-1")
    room.get_by_label("I agree that").check()
    press(room, "Compare")
    done(room)
    assert "learned" not in room.locator(".several").inner_text()
    press(room, "A is better")
    expect(room.get_by_text(re.compile("[AB] was: learned-1"))).to_contain_text(school.snapshot[:12])
    expect(room.get_by_text(re.compile("[AB] was: tiny,"))).to_be_visible()
    assert fits(page)
    left, right = [one for one in lone_demo.kept()["generations"] if one["consent_id"]]
    assert left["model_version_id"] != right["model_version_id"]
    assert left["settings"] == right["settings"] and left["seed"] == right["seed"]

    go(page, "Workbench")
    ask(page, "Hello")
    done(go(page, "Workbench"))
    school.compare("learned-1")
    school.promote("learned-1")
    go(page, "Compare")
    offered(one, "In service: learned-1").click()
    answered_by(page, "learned-1")
    bench = go(page, "Workbench")
    ask(page, "And now?")
    ended = bench.get_by_text("Details: model")
    expect(ended).to_have_count(2)
    ended.last.click()
    expect(bench.locator("dd").filter(has_text=re.compile("^tiny$")).last).to_be_visible()
    arrive(page)
    about = go(page, "About & privacy")
    expect(about.get_by_role("button", name="In service: learned-1")).to_be_visible()
    expect(about.get_by_text("Learned for a test.")).to_be_visible()

    school.roll_back()
    press(go(page, "Compare"), "Advanced ▼")
    offered(one, IN_SERVICE).click()
    answered_by(page, "tiny")
    arrive(page)
    press(go(page, "Compare"), "Advanced ▼")
    expect(two).to_have_value("tiny")
