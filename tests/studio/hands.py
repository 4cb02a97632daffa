"""What hands do on the studio's pages."""

from __future__ import annotations

from contextlib import suppress

from playwright.sync_api import Locator, Page, TimeoutError, expect


def go(page: Page, name: str) -> None:
    """Chooses a page; on a phone the pages stand in a menu."""
    page.get_by_role("link", name=name, exact=True).first.click()


def still(page: Page) -> None:
    """Waits until the page is drawn: what is drawn anew would close a list that is open."""
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")


def pick(page: Page, field: Locator, option: str) -> None:
    """Chooses from a list. What is drawn anew closes a list that is open: then it is opened again."""
    for _ in range(5):
        field.click()
        with suppress(TimeoutError):
            return page.get_by_role("option", name=option).click(timeout=4000)
    raise AssertionError(f"No option {option}")


def choose(page: Page, project: str) -> None:
    """Another project: once the board is there, which takes the focus."""
    expect(page.locator(".ub-item h2, .ub-empty").first).to_be_visible()
    pick(page, page.get_by_label("Project"), project)
