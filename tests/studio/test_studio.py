"""The studio as its people use it: a maintainer, two raters who touch no mouse, and an adjudicator."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Page, expect

from core.feedback.projects import NewItem
from core.feedback.rubric import RUBRICS, Plan
from tests.studio.conftest import OUTPUTS, Studio

NAME = "Sharper or not"
SECRETS = ("nano-secret", "fingerprint", "model_version", "settings", "ffffffffffff")

pytestmark = [
    pytest.mark.usefixtures("browser_name"),
    pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def go(page: Page, name: str) -> None:
    """Chooses a page; on a phone the pages stand in a menu."""
    link = page.get_by_role("link", name=name, exact=True)
    link.first.click()


def item(page: Page) -> str:
    """Waits for the next item on the board, and returns what tells it from others."""
    return page.locator(".ub-item h2").inner_text()


def rate(page: Page, scores: str) -> None:
    """Rates the item on the screen by keys alone."""
    before = page.locator(".ub-standing").inner_text()
    page.keyboard.press("f")
    expect(page.locator(".ub-full[open]")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".ub-full[open]")).to_have_count(0)
    for score in scores:
        page.keyboard.press(score)
    page.keyboard.press("Enter")
    expect(page.locator(".ub-standing")).not_to_have_text(before)


def test_a_maintainer_makes_a_project(studio: Studio, log_in) -> None:
    page = log_in("mona")
    go(page, "Projects")
    page.get_by_label("Name").fill(NAME)
    page.get_by_label("Items at most").fill(str(OUTPUTS))
    page.get_by_role("button", name="Make it").click()
    expect(page.get_by_text(f"{NAME} – rate one output, {OUTPUTS} items, draft")).to_be_visible()
    (project,) = studio.store.projects.of(studio.people["mona"])
    for name in ("rita", "ralf"):
        studio.store.projects.add_member(studio.people["mona"], project.id, studio.people[name].id)
    studio.store.projects.add_member(studio.people["mona"], project.id, studio.people["ada"].id, "adjudicate")
    page.get_by_text(f"{NAME} – rate one output").click()
    page.get_by_role("button", name="Open to its raters").click()
    expect(page.get_by_text(f"{NAME} – rate one output, {OUTPUTS} items, open")).to_be_visible()


@pytest.mark.parametrize(("name", "width", "scores"), [("rita", 1280, "444444"), ("ralf", 390, "444441")])
def test_a_rater_needs_no_mouse(studio: Studio, log_in, name: str, width: int, scores: str) -> None:
    page = log_in(name, width)
    expect(page.locator(".ub-item h2")).to_have_text("super resolution")
    for done in range(OUTPUTS):
        expect(page.locator(".ub-standing")).to_contain_text(f"{done} of {OUTPUTS}")
        rate(page, scores if done < 3 else "444444")
    expect(page.get_by_text("All done. Thank you!")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
