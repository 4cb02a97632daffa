"""The elements that show pictures, in a browser: what they draw, what a person can do with them, what they tell."""

from __future__ import annotations

import base64
import functools
import html
import http.server
import io
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image as PILImage
from PIL import ImageDraw
from playwright.sync_api import Browser, ConsoleMessage, Error, Locator, Page, expect
from pydicom import dcmread
from pydicom.data import get_testdata_file

from core.data.greyscale import Rescale, Window, render
from tests.browser import ROOT

RED, BLUE = (200, 40, 40), (40, 40, 200)
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
LIGHTEST = [252, 253, 191]  # of the colour map
KEY = "scan-7"
HOSTILE = "<img src=x onerror=window.harmed=1>"
SHELL = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,"><link rel="stylesheet" href="elements.css"><script type="module" src="index.js"></script>
<body style="margin: 8px"><main></main><div style="height: 3000px"></div>"""

pytestmark = [
    # playwright leaves an event loop to the garbage collector
    pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Says nothing."""


@dataclass(frozen=True)
class Site:
    url: str
    ct: np.ndarray
    """CT_small as stored, which it serves as ``ct.bin``; ``slice-0.bin`` to ``slice-4.bin`` hold 100 * i everywhere."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server with the script, the style and some pictures."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "core" / "elements", folder, dirs_exist_ok=True)
    (folder / "index.html").write_text(SHELL)
    PILImage.new("RGB", (100, 80), RED).save(folder / "red.png")
    PILImage.new("RGB", (200, 160), RED).save(folder / "red-large.png")
    PILImage.new("RGB", (100, 80), BLUE).save(folder / "blue.png")
    spot, mask = PILImage.new("RGB", (100, 80), RED), PILImage.new("RGB", (100, 80))
    ImageDraw.Draw(spot).rectangle((10, 20, 29, 39), fill=(140, 40, 40))
    ImageDraw.Draw(mask).rectangle((25, 20, 74, 59), fill="white")
    spot.save(folder / "spot.png")
    mask.save(folder / "mask.png")
    ct = dcmread(get_testdata_file("CT_small.dcm", download=False)).pixel_array
    (folder / "ct.bin").write_bytes(ct.astype("<i2").tobytes())
    for index in range(5):
        (folder / f"slice-{index}.bin").write_bytes(np.full((128, 128), 100 * index, "<i2").tobytes())
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Site(f"http://127.0.0.1:{server.server_port}/", ct)
        server.shutdown()
        thread.join()


Show = Callable[..., Locator]


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    """One page for all tests, which each load it anew."""
    with browser.new_context() as context:
        yield context.new_page()


@pytest.fixture
def show(page: Page, site: Site) -> Iterator[Show]:
    """Puts an element into the page as gr.HTML does, and remembers what it tells. The page must say no error."""
    errors: list[str] = []

    def fell(error: Error) -> None:
        errors.append(str(error))

    def said(line: ConsoleMessage) -> None:
        if line.type in ("error", "warning"):
            errors.append(line.text)

    page.on("pageerror", fell)
    page.on("console", said)

    def put(name: str, size: dict = WIDE, **attributes: object) -> Locator:
        page.set_viewport_size(size)
        page.goto(site.url)
        page.evaluate(
            "markup => { window.told = []; addEventListener('um-change', e => told.push(e.detail));"
            " document.querySelector('main').innerHTML = markup; }",
            markup(name, **attributes),
        )
        return page.locator(name)

    yield put
    page.remove_listener("pageerror", fell)
    page.remove_listener("console", said)
    assert errors == []


def markup(name: str, **attributes: object) -> str:
    parts = [f'{key.replace("_", "-")}="{html.escape(str(value))}"' for key, value in attributes.items()]
    return f"<{name} {' '.join(parts)}></{name}>"


def compare(show: Show, mode: str, size: dict = WIDE, **attributes: object) -> Locator:
    given = {"before": "red.png", "after": "blue.png", "modes": "slider side difference overlay", "mode": mode}
    element = show("um-compare", size, **(given | attributes))
    page_until(element, "e => e.ready")
    return element


def viewer(show: Show, size: dict = WIDE, **attributes: object) -> Locator:
    given = {"src": "ct.bin", "rows": 128, "cols": 128, "slope": 1, "intercept": -1024, "center": 40, "width": 400}
    given["key"] = KEY
    element = show("um-window", size, **(given | {"units": "HU", "spacing": "0.66 0.66", "alt": "CT"} | attributes))
    page_until(element, "e => e.seen && !e.frame")
    return element


def pick(show: Show, size: dict = WIDE, **attributes: object) -> Locator:
    element = show("um-pick", size, **({"src": "red.png", "alt": "A picture"} | attributes))
    page_until(element, "e => e.columns")
    return element


def page_until(element: Locator, condition: str) -> None:
    element.page.wait_for_function(f"e => ({condition})(e)", arg=element.element_handle())


def told(page: Page, count: int = 1) -> dict:
    """The newest of at least so many events."""
    page.wait_for_function("count => told.length >= count", arg=count)
    return page.evaluate("told.at(-1)")


def frame(page: Page) -> None:
    """Waits until all that was asked for is drawn."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def canvas(element: Locator, index: int = 0) -> np.ndarray:
    """RGBA of a canvas, [H, W, 4]."""
    frame(element.page)
    url = element.locator("canvas").nth(index).evaluate("canvas => canvas.toDataURL()")
    return np.asarray(PILImage.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGBA"))


def seen(element: Locator, x: float, y: float, view: int = 0) -> tuple[int, ...]:
    """RGB on the screen at a place of a view, in shares of its sides."""
    frame(element.page)
    shot = element.locator(".um-view").nth(view).screenshot()
    picture = PILImage.open(io.BytesIO(shot)).convert("RGB")
    return picture.getpixel((int(x * picture.width), int(y * picture.height)))


def spot(element: Locator, x: float, y: float, view: int = 0) -> tuple[float, float]:
    """Where on the page a place of a view is."""
    box = element.locator(".um-view").nth(view).bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def drag(element: Locator, start: tuple[float, float], end: tuple[float, float]) -> None:
    mouse = element.page.mouse
    mouse.move(*spot(element, *start))
    mouse.down()
    mouse.move(*spot(element, *end), steps=4)
    mouse.up()


def places(element: Locator) -> list[list[float]]:
    """Where the pictures lie in their views, in shares of those."""
    return element.evaluate(
        "e => [...e.querySelectorAll('.um-view')].map(v => { const a = v.getBoundingClientRect(),"
        " b = v.querySelector('img, canvas').getBoundingClientRect();"
        " return [(b.x - a.x) / a.width, (b.y - a.y) / a.height, b.width / a.width]; })"
    )


def close(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return all(abs(a - b) <= 2 for a, b in zip(found, wanted, strict=True))


# <um-compare> ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_the_slider_divides_before_and_after(show: Show, size: dict) -> None:
    element = compare(show, "slider", size)
    assert close(seen(element, 0.3, 0.2), RED) and close(seen(element, 0.7, 0.2), BLUE)
    expect(element.locator(".um-label")).to_have_text("Before")
    expect(element.locator(".um-badge")).to_have_text("AI-generated")
    slider = element.get_by_role("slider", name="Divider")
    slider.focus()
    for _ in range(30):
        slider.press("ArrowRight")
    assert slider.input_value() == "80"
    assert close(seen(element, 0.7, 0.2), RED) and close(seen(element, 0.9, 0.2), BLUE)
    drag(element, (0.8, 0.5), (0.1, 0.5))
    assert abs(int(slider.input_value()) - 10) <= 1
    assert close(seen(element, 0.2, 0.2), BLUE)


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_both_sides_zoom_and_move_together(show: Show, size: dict) -> None:
    element = compare(show, "side", size)
    assert close(seen(element, 0.5, 0.5), RED) and close(seen(element, 0.5, 0.5, view=1), BLUE)
    left, right = (element.locator(".um-view").nth(i).bounding_box() for i in (0, 1))
    assert (right["y"] > left["y"]) == (size is PHONE) and (right["x"] > left["x"]) == (size is WIDE)
    element.get_by_role("button", name="Zoom in").click()
    element.get_by_role("button", name="Zoom in").click()
    first, second = places(element)
    assert first == pytest.approx(second) and first[2] == pytest.approx(2.25, rel=1e-3)
    drag(element, (0.5, 0.5), (0.6, 0.4))
    assert places(element)[0][:2] == pytest.approx([first[0] + 0.1, first[1] - 0.1], abs=0.02)
    assert places(element)[0] == pytest.approx(places(element)[1])
    element.get_by_role("button", name="1:1").click()
    assert places(element)[1] == pytest.approx([0, 0, 1], abs=1e-6)


def test_keys_zoom_and_move(show: Show) -> None:
    element = compare(show, "side")
    stage = element.locator(".um-stage")
    for key, zoom in (("+", 1.5), ("+", 2.25), ("-", 1.5), ("0", 1)):
        stage.press(key)
        assert places(element)[0][2] == pytest.approx(zoom, rel=1e-3)
    stage.press("+")
    stage.press("ArrowRight")
    assert places(element)[0][0] == pytest.approx(-0.35, abs=0.01)


def test_one_picture_alone_zooms_and_moves(show: Show) -> None:
    element = show("um-compare", WIDE, before="red.png", before_label="Source", alone="")
    page_until(element, "e => e.ready")
    assert close(seen(element, 0.5, 0.5), RED) and element.locator(".um-view").count() == 1
    assert element.get_by_role("radio").count() == 0 and element.get_by_text("Source").is_visible()
    element.locator(".um-stage").press("+")
    drag(element, (0.5, 0.5), (0.6, 0.5))
    ((x, _, zoom),) = places(element)
    assert zoom == pytest.approx(1.5, rel=1e-3) and x == pytest.approx(-0.15, abs=0.02)


def test_the_wheel_scrolls_the_page_until_the_picture_is_clicked(show: Show, page: Page) -> None:
    element = compare(show, "slider")
    page.mouse.move(*spot(element, 0.25, 0.25))
    page.mouse.wheel(0, 100)
    page.wait_for_function("scrollY > 0")
    assert places(element)[0][2] == pytest.approx(1)
    page.evaluate("scrollTo(0, 0)")
    page.mouse.click(*spot(element, 0.25, 0.25))
    page.mouse.wheel(0, -400)
    page_until(element, "e => e.zoom > 1.2")
    x, y, zoom = places(element)[0]
    assert (x, y) == pytest.approx((0.25 * (1 - zoom), 0.25 * (1 - zoom)), abs=0.02)  # around the pointer
    assert page.evaluate("scrollY") == 0


def test_two_fingers_zoom(show: Show) -> None:
    element = compare(show, "side")
    left, right, wider = (spot(element, x, 0.5) for x in (0.4, 0.6, 0.8))
    for kind, finger, (x, y) in (("down", 2, left), ("down", 3, right), ("move", 3, wider), ("up", 3, wider)):
        element.evaluate(
            "(e, [kind, pointerId, clientX, clientY]) => { e.stage.setPointerCapture = () => {};"
            " e.querySelector('.um-view').dispatchEvent(new PointerEvent(`pointer${kind}`,"
            " { pointerId, clientX, clientY, bubbles: true, pointerType: 'touch' })); }",
            [kind, finger, x, y],
        )
    assert places(element)[0][2] == pytest.approx(2, rel=0.02)


def test_large_zoom_shows_pixels(show: Show) -> None:
    element = compare(show, "slider")
    rendering = "e => getComputedStyle(e.querySelector('img')).imageRendering"
    assert element.evaluate(rendering) == "auto"
    for _ in range(4):
        element.locator(".um-stage").press("+")
    assert element.evaluate(rendering) == "pixelated"


@pytest.mark.parametrize("after", ["red.png", "red-large.png"])
def test_the_difference_of_equal_pictures_is_black(show: Show, after: str) -> None:
    element = compare(show, "difference", after=after)
    found = canvas(element)
    assert found.shape[:2] == ((80, 100) if after == "red.png" else (160, 200))
    assert (found[..., :3] == 0).all() and (found[..., 3] == 255).all()
    expect(element.locator(".um-legend")).to_have_text("0no difference")


def test_the_difference_is_light_where_it_is_large(show: Show) -> None:
    element = compare(show, "difference", after="spot.png")  # a third of 200 - 140
    found = canvas(element)
    assert (found[20:40, 10:30, :3] == LIGHTEST).all() and (found[:, 30:, :3] == 0).all()
    expect(element.locator(".um-legend")).to_have_text("020 grey levels")
    expect(element.locator(".um-badge")).to_be_visible()


def test_a_given_difference_is_shown_instead(show: Show) -> None:
    element = compare(show, "difference", difference="mask.png")
    found = canvas(element)
    assert (found[20:60, 25:75, :3] == LIGHTEST).all() and (found[:20, :, :3] == 0).all()
    expect(element.locator(".um-legend")).to_have_text("0255 grey levels")


def test_a_mask_is_laid_over(show: Show) -> None:
    element = compare(show, "overlay", after="mask.png", overlay_color="#0000ff")
    assert close(seen(element, 0.1, 0.5), RED) and close(seen(element, 0.5, 0.5), (100, 20, 148))
    tint, edge = canvas(element), canvas(element, 1)
    assert (tint[20:60, 25:75] == (0, 0, 255, 255)).all() and tint[..., 3].sum() == 255 * 50 * 40
    assert (edge[20, 25:75, 3] == 255).all() and (edge[21:59, 26:74, 3] == 0).all()
    slider = element.get_by_role("slider", name="Opacity")
    slider.press("Home")
    assert close(seen(element, 0.5, 0.5), RED) and seen(element, 0.255, 0.5)[2] > 200  # the outline stays
    slider.press("End")
    assert close(seen(element, 0.5, 0.5), (0, 0, 255))


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_the_scale_bar_is_as_long_as_it_says(show: Show, size: dict) -> None:
    element = compare(show, "slider", size, spacing="0.7 0.7")
    for _ in range(2):
        bar, view = element.locator(".um-scale").bounding_box(), element.locator(".um-view").bounding_box()
        zoom, mm = places(element)[0][2], float(element.locator(".um-scale").inner_text().removesuffix(" mm"))
        assert bar["width"] == pytest.approx(mm / (70 / view["width"]) * zoom, abs=1)
        element.get_by_role("button", name="Zoom in").click()
    compare(show, "slider", size)
    expect(element.locator(".um-scale")).to_be_hidden()


def test_pixels_that_are_not_square_are_shown_in_their_shape(show: Show) -> None:
    box = compare(show, "slider", spacing="2 1").locator(".um-view").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(100 / 160, rel=0.01)


def test_only_the_modes_that_are_listed_can_be_chosen(show: Show, page: Page) -> None:
    element = compare(show, "side", modes="side difference nonsense")
    group = element.get_by_role("radiogroup", name="View")
    assert group.get_by_role("radio").count() == 2
    group.get_by_role("radio", name="Side by side").press("ArrowRight")
    expect(group.get_by_role("radio", name="Difference")).to_be_checked()
    expect(element.locator("canvas")).to_be_visible()


# <um-window> ----------------------------------------------------------------------------------------------------------


def test_windows_are_those_of_the_core(show: Show, site: Site) -> None:
    element = viewer(show)
    cases = [(40, 400, "LINEAR"), (-600, 1500, "LINEAR"), (50, 1, "LINEAR"), (30.5, 81.3, "LINEAR")]
    cases += [(40, 400, "LINEAR_EXACT"), (100, 0.5, "LINEAR_EXACT"), (40, 300, "SIGMOID")]
    for center, width, function in cases:
        element.evaluate(
            "(e, values) => ['center', 'width', 'function'].forEach((n, i) => e.setAttribute(n, values[i]))",
            [center, width, function],
        )
        wanted = render(site.ct, Rescale(1, -1024), Window(center, width, function)).astype(int)
        found = canvas(element)
        assert np.abs(found[..., 0] - wanted).max() <= 1
        assert (found[..., 0] == found[..., 1]).all() and (found[..., 3] == 255).all()


def test_inversion_slope_and_padding_are_those_of_the_core(show: Show, site: Site) -> None:
    padding = int(site.ct[0, 0])
    given = {"slope": 0.25, "intercept": -100, "center": 60, "width": 300, "inverted": "", "padding": padding}
    wanted = render(site.ct, Rescale(0.25, -100), Window(60, 300), padding=(padding, padding), invert=True)
    found = canvas(viewer(show, **given))[..., 0]
    assert np.abs(found - wanted.astype(int)).max() <= 1 and found[0, 0] == 0


def test_dragging_turns_the_window(show: Show, page: Page) -> None:
    element = viewer(show)
    before = canvas(element)
    drag(element, (0.3, 0.5), (0.5, 0.5))
    found = told(page)
    assert found["width"] > 450 and found["center"] == 40 and found["slice"] == 0
    assert (canvas(element) != before).any()
    drag(element, (0.5, 0.5), (0.5, 0.3))
    found = told(page, 2)
    assert found["center"] > 60
    expect(element.get_by_label("Center")).to_have_value(str(found["center"]))
    page.mouse.dblclick(*spot(element, 0.5, 0.5))
    assert told(page, 3) == {"center": 40, "width": 400, "slice": 0, "key": KEY}
    assert (canvas(element) == before).all()


def test_keys_fields_and_presets_turn_the_window(show: Show, page: Page) -> None:
    presets = json.dumps([{"name": "Lung", "center": -600, "width": 1500}, {"name": "Broken", "center": "x"}, None])
    element = viewer(show, presets=presets)
    stage = element.locator(".um-stage")
    for key in ("ArrowUp", "ArrowRight", "Shift+ArrowUp", "Shift+ArrowLeft"):
        stage.press(key)
    assert told(page) == {"center": 51, "width": 391, "slice": 0, "key": KEY}
    assert element.get_by_role("button", name="Broken").count() == 0
    element.get_by_role("button", name="Lung").click()
    assert told(page, 2) == {"center": -600, "width": 1500, "slice": 0, "key": KEY}
    expect(element.get_by_role("button", name="Lung")).to_have_attribute("aria-pressed", "true")
    element.get_by_label("Width").fill("81.5")
    assert told(page, 3)["width"] == 81.5
    element.get_by_label("Width").fill("-5")
    element.get_by_label("Center").fill("")
    element.get_by_role("button", name="Reset").click()
    assert told(page, 4) == {"center": 40, "width": 400, "slice": 0, "key": KEY}
    expect(element.get_by_label("Width")).to_have_value("400")


def test_the_value_under_the_pointer_is_told(show: Show, page: Page, site: Site) -> None:
    element = viewer(show, PHONE)
    page.mouse.move(*spot(element, 70.5 / 128, 30.5 / 128))
    value = int(site.ct[30, 70]) - 1024
    expect(element.locator(".um-readout")).to_have_text(f"{value} HU · x 70, y 30 px · 46.2, 19.8 mm")


def test_lengths_are_measured(show: Show, page: Page) -> None:
    element = viewer(show, spacing="2 0.5")
    ruler = element.get_by_role("button", name="Measure")
    ruler.click()
    for x, y in ((0.25, 0.25), (0.75, 0.5)):
        page.mouse.click(*spot(element, x, y))
    wanted = np.hypot(64 * 0.5, 32 * 2)
    found = element.get_by_role("status").inner_text()
    assert float(found.removeprefix("Length ").removesuffix(" mm")) == pytest.approx(wanted, abs=0.3)
    assert element.evaluate("e => e.center") == 40  # measuring turns no window
    element.evaluate("e => e.removeAttribute('spacing')")
    page_until(element, "e => e.told.textContent.endsWith('px')")
    ruler.click()
    expect(element.get_by_role("status")).to_be_empty()


def test_lengths_are_measured_by_keys(show: Show) -> None:
    element = viewer(show, spacing="0.5")
    element.get_by_role("button", name="Measure").press("Enter")
    stage = element.locator(".um-stage")
    for key in ("ArrowLeft", "Enter", *["ArrowRight"] * 3, *["ArrowDown"] * 4, "Enter"):
        stage.press(key)
    expect(element.get_by_role("status")).to_have_text("Length 2.5 mm")


def test_slices_are_fetched_by_their_number(show: Show, page: Page) -> None:
    element = viewer(show, src="slice-%7Bslice%7D.bin", intercept=0, slice=2, slices=5, center=200, width=401)
    middle = canvas(element)[0, 0, 0]
    stage = element.locator(".um-stage")
    stage.press("ArrowUp")  # the window stays when the slice changes
    stage.press("PageDown")
    assert told(page) == {"center": 201, "width": 401, "slice": 3, "key": KEY}
    expect(element.locator(".um-counter")).to_have_text("4 / 5")
    page_until(element, "e => !e.stage.classList.contains('um-stale')")
    assert canvas(element)[0, 0, 0] > middle
    page.mouse.move(*spot(element, 0.5, 0.5))
    page.mouse.wheel(0, -100)
    assert told(page, 2)["slice"] == 2
    slider = element.get_by_role("slider", name="Slice")
    slider.press("Home")
    assert told(page, 3)["slice"] == 0
    page_until(element, "e => e.seen.slice === 0")
    assert canvas(element)[0, 0, 0] < middle


def test_a_slice_that_comes_from_the_server_keeps_the_window(show: Show, page: Page) -> None:
    element = viewer(show, src="slice-1.bin", slice=1, slices=5)
    stage = element.locator(".um-stage")
    stage.press("ArrowUp")
    stage.press("PageDown")
    assert told(page) == {"center": 41, "width": 400, "slice": 2, "key": KEY}
    assert element.evaluate("e => e.stage.classList.contains('um-stale')")  # until the slice is there
    answer = "(e, given) => Object.entries(given).forEach(([name, value]) => e.setAttribute(name, value))"
    element.evaluate(answer, {"src": "slice-2.bin", "slice": 2})
    page_until(element, "e => e.seen.slice === 2 && !e.stage.classList.contains('um-stale')")
    assert element.evaluate("e => [e.center, e.slice]") == [41, 2]
    element.evaluate(answer, {"src": "ct.bin", "slice": 0, "center": 300})  # another scan, which nobody asked for
    page_until(element, "e => e.seen.url === 'ct.bin'")
    assert element.evaluate("e => [e.center, e.slice]") == [300, 0]


def test_a_coloured_picture_has_no_window(show: Show, page: Page) -> None:
    element = viewer(show, src="red.png", rgb="")
    found = canvas(element)
    assert found.shape == (80, 100, 4) and (found[..., :3] == RED).all()
    assert element.get_by_role("spinbutton").count() == 0
    page.mouse.move(*spot(element, 0.505, 0.505))
    expect(element.locator(".um-readout")).to_have_text("x 50, y 40 px · 33.0, 26.4 mm")


# <um-pick> ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("scale", [1, 10])
def test_points_and_boxes_are_in_pixels_of_the_picture(show: Show, page: Page, size: dict, scale: int) -> None:
    attributes = {} if scale == 1 else {"width": 100 * scale, "height": 80 * scale}
    element = pick(show, size, **attributes)
    page.mouse.click(*spot(element, 0.305, 0.505))
    found = told(page)
    assert found["kind"] == "point"
    assert (found["x"], found["y"]) == pytest.approx((30.5 * scale - 0.5, 40.4 * scale - 0.5), abs=0.3 * scale + 0.5)
    drag(element, (0.6, 0.7), (0.2, 0.3))
    found = told(page, 2)
    assert found.pop("kind") == "box"
    assert list(found.values()) == pytest.approx([20 * scale, 24 * scale, 60 * scale, 56 * scale], abs=0.3 * scale + 1)
    drag(element, (0.5, 0.5), (1.5, 0.2))
    assert told(page, 3)["x1"] == 100 * scale  # no further than the picture
    assert all(isinstance(value, int) for key, value in told(page, 3).items() if key != "kind")


def test_points_and_boxes_are_set_by_keys(show: Show, page: Page) -> None:
    element = pick(show)
    stage, words = element.locator(".um-stage"), element.get_by_role("status")
    expect(words).to_have_text("Nothing is marked")
    for key in ("ArrowLeft", "ArrowUp", "Enter"):
        stage.press(key)
    assert told(page) == {"kind": "point", "x": 49, "y": 39}
    expect(words).to_have_text("Point at x 49, y 39")
    for key in ("Shift+ArrowRight", "Shift+ArrowRight", "Shift+ArrowDown"):
        stage.press(key)
    assert told(page, 2) == {"kind": "box", "x0": 49, "y0": 39, "x1": 52, "y1": 41}
    stage.press("Escape")
    assert told(page, 3) == {"kind": "none"}
    element.get_by_role("button", name="Clear").click()
    assert told(page, 4) == {"kind": "none"}


def test_only_allowed_marks_can_be_set(show: Show, page: Page) -> None:
    element = pick(show, modes="text point")
    expect(element.get_by_role("status")).to_have_text("Nothing is marked: the text alone counts")
    drag(element, (0.2, 0.2), (0.6, 0.6))
    assert told(page)["kind"] == "point"


def test_a_mark_goes_with_its_picture(show: Show, page: Page) -> None:
    element = pick(show)
    page.mouse.click(*spot(element, 0.5, 0.5))
    element.evaluate("e => e.setAttribute('src', 'blue.png')")
    assert told(page, 2) == {"kind": "none"}


# Within a page --------------------------------------------------------------------------------------------------------


def test_what_is_told_arrives_in_a_text_box(show: Show, page: Page) -> None:
    element = pick(show, to="where")
    page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<div id=where><textarea></textarea></div>');"
        "window.typed = []; where.addEventListener('input', e => typed.push(e.target.value));"
        "where.addEventListener('keypress', e => typed.push(e.target.value))"  # what Gradio's own `input` waits for
    )
    page.mouse.click(*spot(element, 0.5, 0.5))
    assert [json.loads(value) for value in page.evaluate("typed")] == 2 * [{"kind": "point", "x": 50, "y": 40}]


@pytest.mark.parametrize(
    ("put", "label"), [(lambda show: compare(show, "side", before_label="First"), "First"), (pick, "Clear")]
)
def test_elements_survive_what_gradio_does_to_them(show: Show, page: Page, put: Callable, label: str) -> None:
    """It sets attributes, and removes the children that its new markup does not have; pages move elements, too."""
    element = put(show)
    element.locator(".um-stage").focus()
    element.evaluate("e => { e.setAttribute('src', 'spot.png'); [...e.childNodes].forEach(n => e.removeChild(n)); }")
    assert element.evaluate("e => e.contains(document.activeElement)")
    element.evaluate("e => { const main = e.parentNode; e.remove(); main.append(e); }")
    expect(element.get_by_text(label)).to_have_count(1)
    page.evaluate("document.querySelector('main').innerHTML += ''")  # parsed anew, with the old children
    expect(element.get_by_text(label)).to_have_count(1)
    expect(element.locator(".um-body")).to_have_count(1)


def test_attributes_can_change_at_any_time(show: Show, page: Page) -> None:
    element = compare(show, "slider")
    element.get_by_role("radio", name="Side by side").check()
    element.evaluate("e => { e.setAttribute('after', 'red.png'); e.setAttribute('after-label', 'Redrawn'); }")
    expect(element.locator(".um-badge")).to_have_text("Redrawn")
    page_until(element, "e => e.ready")
    assert close(seen(element, 0.5, 0.5, view=1), RED)
    expect(element.get_by_role("radio", name="Side by side")).to_be_checked()  # the person's choice stays


def test_words_come_from_outside(show: Show) -> None:
    element = compare(show, "overlay", after="mask.png", strings=json.dumps({"opacity": "Deckkraft"}))
    expect(element.get_by_role("slider", name="Deckkraft")).to_be_visible()
    expect(element.get_by_role("radio", name="Side by side")).to_have_count(1)
    element = compare(show, "overlay", after="mask.png", strings="no JSON")
    expect(element.get_by_role("slider", name="Opacity")).to_be_visible()


def test_markup_in_attributes_is_shown_as_text(show: Show, page: Page) -> None:
    hostile = dict.fromkeys(("before_label", "after_label", "before_alt", "after_alt", "overlay_color"), HOSTILE)
    element = compare(show, "overlay", after="mask.png", strings=json.dumps({"side": HOSTILE}), **hostile)
    expect(element.locator(".um-label")).to_have_text(HOSTILE)
    expect(element.get_by_text(HOSTILE)).to_have_count(3)
    presets = json.dumps([{"name": HOSTILE, "center": 1, "width": 2}])
    element = viewer(show, presets=presets, units=HOSTILE, label=HOSTILE, alt=HOSTILE)
    expect(element.get_by_role("button", name=HOSTILE)).to_be_visible()
    page.mouse.move(*spot(element, 0.5, 0.5))
    expect(element.locator(".um-readout")).to_contain_text(HOSTILE)
    assert element.locator("img").count() == 0 and page.evaluate("window.harmed") is None


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/x.png", "//localhost/x.png", "javascript:window.harmed=1", ""])
def test_nothing_comes_from_another_site(show: Show, page: Page, address: str) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for name, attributes in (
        ("um-compare", {"before": "red.png", "after": address}),
        ("um-window", {"src": address, "rows": 1, "cols": 1}),
        ("um-pick", {"src": address}),
    ):
        element = show(name, **attributes)
        expect(element.get_by_role("alert")).to_have_text("The picture cannot be shown")
    assert all(url.startswith((page.url, "data:,")) for url in asked) and page.evaluate("window.harmed") is None


def test_values_of_another_size_are_not_shown(show: Show) -> None:
    element = show("um-window", src="ct.bin", rows=100, cols=128, center=0, width=100)
    expect(element.get_by_role("alert")).to_have_text("The picture cannot be shown")


@pytest.mark.parametrize(
    "put", [lambda *a: compare(a[0], "side", a[1]), viewer, pick], ids=["compare", "window", "pick"]
)
def test_elements_fit_a_phone(show: Show, page: Page, put: Callable) -> None:
    put(show, PHONE)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
