"""What a visitor does in a browser, a step at a time, and what must then be there."""

from __future__ import annotations

import io
import json
import re
from urllib.parse import urljoin

import numpy as np
from PIL import Image as PILImage
from playwright.sync_api import Locator, Page, Response, expect
from pydicom.data import get_testdata_file

from core.tasks import TASKS
from demo.strings import TABLE

CT = str(get_testdata_file("CT_small.dcm", download=False))
TITLES = {name: TABLE[f"task {name}"]["en"] for name in TASKS}
"""What the tab of a task says."""


def arrive(page: Page, url: str = "") -> None:
    """Loads the demo, or loads it again, and waits until it knows its visit."""
    page.goto(url) if url else page.reload()
    page.wait_for_function("sessionStorage.getItem('unimed-visit')")


def go(page: Page, *names: str) -> Locator:
    """Chooses a tab, and one inside of it; on a phone some of them stand in a menu. Returns what it shows."""
    inside = page.locator("body")
    for name in names:
        bar = inside.locator(".tab-wrapper").first
        tab, menu = bar.get_by_role("tab", name=name, exact=True), bar.locator(".overflow-menu")
        expect(tab.or_(menu.locator("> button")).first).to_be_visible()
        if tab.is_visible():
            tab.click()
        else:
            menu.locator("> button").click()
            menu.get_by_role("button", name=name, exact=True).click()
        expect(tab).to_have_attribute("aria-selected", "true")
        inside = page.locator(f"#{tab.get_attribute('aria-controls')}")
    return inside


def press(room: Locator, name: str) -> None:
    room.get_by_role("button", name=name, exact=True).click()


def choose_number(room: Locator, name: str, value: int) -> None:
    """Types a setting. A slider that has only just appeared forgets what is typed, so that it is typed again."""
    field, slider = room.get_by_label(f"number input for {name}"), room.get_by_label(f"range slider for {name}")
    while slider.input_value() != str(value):
        field.fill(str(value))
        field.press("Tab")
        slider.page.wait_for_timeout(500)


def done(room: Locator) -> None:
    """The request of a page has ended well."""
    expect(room.get_by_text(re.compile(r"^Done in [\d.]+ s\.$"))).to_be_visible()


def ask(page: Page, text: str) -> None:
    box = page.locator("#message textarea")
    box.fill(text)
    box.press("Enter")


def fits(page: Page) -> bool:
    """Whether nothing sticks out sideways."""
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def picture(page: Page, path: str) -> PILImage.Image:
    """A picture that the server has for the page."""
    answer = page.request.get(urljoin(page.url, path))
    assert answer.ok, path
    return PILImage.open(io.BytesIO(answer.body()))


def upload_scan(page: Page, *paths: object) -> Locator:
    """Opens files on the scan's page, which must then show their first picture. Returns the viewer."""
    scan = go(page, "Scan")
    scan.locator("#scan-upload input[type=file]").set_input_files([str(path) for path in paths])
    return opened(scan)


def opened(scan: Locator) -> Locator:
    viewer = scan.locator("um-window")
    expect(viewer.locator("canvas")).to_be_visible()
    expect(viewer.locator(".um-stale")).to_have_count(0)
    return viewer


def example_scan(page: Page, name: str = "CT of the spine") -> Locator:
    scan = go(page, "Scan")
    press(scan, name)
    return opened(scan)


def run(page: Page, task: str, prompt: str = "") -> Locator:
    """Runs a task on the open scan. Returns its tab."""
    room = go(page, "Scan", TITLES[task])
    if prompt:
        room.get_by_label(TABLE[f"prompt {task}"]["en"], exact=True).fill(prompt)
    results = room.locator("um-compare").first
    earlier = results.get_attribute("before") if results.count() else None
    press(room, "Run")
    if earlier:
        expect(results).not_to_have_attribute("before", earlier)
    done(room)
    return room


def shown(page: Page) -> np.ndarray:
    """What the model is shown of the open scan, as the server has laid it beside a mask."""
    room = run(page, "segmentation", "spine")
    return np.asarray(picture(page, room.locator("um-compare").get_attribute("before")).convert("RGB"))


def looking(page: Page, **view: float) -> object:
    """While this block runs, the server hears that the viewer is set like this."""

    def heard(answer: Response) -> bool:
        sent = (answer.request.post_data_json or {}).get("data") if answer.request.method == "POST" else None
        return bool(sent) and str(sent[0]).startswith("{") and view.items() <= json.loads(sent[0]).items()

    return page.expect_response(heard)
