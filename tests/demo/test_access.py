"""The demo for everybody: by keyboard, for those who do not see it, in the dark, and in German."""

from __future__ import annotations

import re
import string

import pytest
from playwright.sync_api import Locator, Page, expect

from core.tasks import TASKS
from demo.handlers import SCAN_TASKS
from demo.strings import TABLE
from tests.browser import PHONE, WIDE, Checker
from tests.demo.conftest import OpenPage
from tests.demo.steps import CT, TITLES, ask, done, example_scan, go, opened, press, run

GRADIOS_OWN = {
    ("aria-required-children", ".examples"): "the chat's examples are buttons in a list without list items",
    ("aria-required-parent", ".thumbnail-wrapper"): "a file in the message box is a list item without a list",
}
"""What axe finds inside of Gradio's widgets, where no parameter and no style reaches: (rule, selector)."""

pytestmark = [
    # playwright leaves an event loop to the garbage collector
    pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


# For those who do not see it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "scheme"),
    [(WIDE, "light"), (PHONE, "dark")],
    ids=["desk-light", "phone-dark"],
)
def test_no_page_has_a_serious_barrier(open_page: OpenPage, axe: str, size: dict, scheme: str) -> None:
    page = open_page(viewport=size, color_scheme=scheme)
    dark = page.evaluate("document.body.classList.contains('dark')")
    assert dark == (scheme == "dark")
    checker = Checker(page, axe, GRADIOS_OWN)
    checker.look("workbench, empty")
    page.locator("#message input[type=file]").set_input_files(CT)
    expect(page.locator("#message img")).to_be_visible()
    page.locator("#answer").get_by_label("Text, then image").check()
    ask(page, "What is this?")
    bench = go(page, "Workbench")
    done(bench)
    unfold(bench)
    checker.look("workbench, answered")
    example_scan(page)
    for task in SCAN_TASKS:
        room = go(page, "Scan", TITLES[task.name])
        unfold(room)
        run(page, task.name, task.examples[0] if task.prompt_label else "")
        checker.look(f"scan, {task.name}", f"#task-{task.name}")
    room = go(page, "Scan", TITLES["vqa"])
    press(room, "Does it depend on the image?")
    expect(room.get_by_role("heading", name="Blank picture")).to_be_visible()
    done(room)
    unfold(go(page, "Scan"))
    checker.look("scan")
    for name in ("Draw", "Compare"):
        room = go(page, name)
        unfold(room)
        press(room, name)
        done(room)
        checker.look(name)
    press(room, "Equally good")
    expect(room.get_by_text("Your vote")).to_be_visible()
    checker.look("Compare, voted")
    about = go(page, "About & privacy")
    unfold(about)
    press(about, "Withdraw and delete")
    expect(about.get_by_role("alert")).to_be_visible()
    checker.look("About & privacy")
    assert checker.found == {}


def unfold(room: Locator) -> None:
    """Opens what is folded."""
    folded = room.locator(".label-wrap:not(.open):visible")
    for left in range(folded.count(), 0, -1):
        expect(folded).to_have_count(left)
        folded.first.click()
    expect(folded).to_have_count(0)


# By keyboard ----------------------------------------------------------------------------------------------------------


SEEN = "e => getComputedStyle(e).outlineStyle !== 'none' || getComputedStyle(e).boxShadow !== 'none'"
"""Whether one sees that an element has the focus."""


def tab_to(page: Page, wanted: Locator) -> None:
    """Presses Tab until something has the focus, which must then be seen."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if wanted.count() == 1 and wanted.evaluate("e => e === document.activeElement"):
            assert wanted.evaluate(SEEN)
            return
    pytest.fail(f"The keyboard does not reach {wanted}")


def test_a_task_is_run_with_tab_and_enter_only(visitor: Page) -> None:
    scan = visitor.locator("#scan")
    tab_to(visitor, visitor.get_by_role("tab", name="Scan", exact=True))
    visitor.keyboard.press("Enter")
    tab_to(visitor, scan.get_by_role("button", name="MRI of the abdomen", exact=True))
    visitor.keyboard.press("Enter")
    opened(scan)
    tab_to(visitor, scan.get_by_role("application"))
    tab_to(visitor, scan.get_by_role("tab", name=TITLES["segmentation"], exact=True))
    visitor.keyboard.press("Enter")
    room = visitor.locator("#task-segmentation")
    tab_to(visitor, room.get_by_label("Structure", exact=True))
    visitor.keyboard.type("liver")
    tab_to(visitor, room.get_by_role("button", name="Run", exact=True))
    visitor.keyboard.press("Enter")
    done(room)
    tab_to(visitor, room.get_by_role("radio", name="Overlay"))
    visitor.keyboard.press("ArrowRight")
    expect(room.get_by_role("radio", name="Slider")).to_be_checked()
    tab_to(visitor, room.get_by_role("slider", name="Divider between the pictures"))


# In German ------------------------------------------------------------------------------------------------------------

TEXTS = """() => {
  const found = new Set(), walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const { parentElement, data } = walker.currentNode;
    if (!parentElement.closest("script, style") && data.trim()) found.add(data.trim());
  }
  for (const name of ["placeholder", "aria-label", "aria-valuetext", "alt", "title"]) {
    for (const element of document.querySelectorAll(`[${name}]`)) found.add(element.getAttribute(name).trim());
  }
  return [...found];
}"""
"""All words of the page, also those that are only read out."""


def patterns(language: str) -> list[re.Pattern[str]]:
    """What the sentences of a language look like in the page: piece by piece between tags, filled with anything."""
    found = []
    for row in TABLE.values():
        pieces = [piece.strip() for piece in re.split("<[^>]+>", row[language])] if row["en"] != row["de"] else []
        for piece in pieces:
            parts = [(re.escape(text), name) for text, name, _, _ in string.Formatter().parse(piece)]
            if any(re.search("[a-z]{3}", text) for text, _ in parts):  # not only a number between signs
                found.append(re.compile("".join(text + (".+" if name is not None else "") for text, name in parts)))
    return found


def test_a_german_browser_gets_a_german_page(open_page: OpenPage) -> None:
    page = open_page(locale="de-DE")
    words: set[str] = set()
    page.locator("#message input[type=file]").set_input_files(CT)
    expect(page.get_by_text("30 Kopfangaben bei der Ankunft entfernt")).to_be_visible()
    bench = go(page, "Werkbank")
    bench.get_by_label("Text, dann Bild").check()
    ask(page, "Was ist das?")
    expect(bench.get_by_text(re.compile(r"^Fertig in [\d.]+ s\.$"))).to_be_visible()
    expect(page.locator("#conversation").get_by_text("KI-generierter Text", exact=True)).to_be_visible()
    unfold(bench)
    words.update(page.evaluate(TEXTS))
    scan = go(page, "Aufnahme")
    press(scan, "CT of the spine")
    opened(scan)
    unfold(scan)
    for task in TASKS.values():
        if not task.images:
            continue
        room = go(page, "Aufnahme", TABLE[f"task {task.name}"]["de"])
        if task.prompt_label:
            room.get_by_label(TABLE[f"prompt {task.name}"]["de"], exact=True).fill("x")
        unfold(room)
        press(room, "Ausführen")
        expect(room.get_by_text(re.compile("^Fertig in"))).to_be_visible()
        words.update(page.evaluate(TEXTS))
    expect(room.get_by_role("radio", name="Nebeneinander")).to_be_checked()
    for name, button in (("Zeichnen", "Zeichnen"), ("Vergleichen", "Vergleichen")):
        room = go(page, name)
        unfold(room)
        press(room, button)
        expect(room.get_by_text(re.compile("^Fertig in"))).to_be_visible()
        words.update(page.evaluate(TEXTS))
    press(room, "Gleich gut")
    expect(room.get_by_text("Ihre Stimme: Gleich gut.")).to_be_visible()
    about = go(page, "Modell & Datenschutz")
    unfold(about)
    words.update(page.evaluate(TEXTS))
    german = patterns("de")
    left = {w for w in words if any(p.fullmatch(w) for p in patterns("en")) and not any(p.fullmatch(w) for p in german)}
    assert left == set()
    assert words.isdisjoint(set(TABLE) - {row["de"] for row in TABLE.values()})
