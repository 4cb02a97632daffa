"""The demo as its visitors meet it in a browser: every page and what it promises, on a desk and on a phone."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image as PILImage
from playwright.sync_api import Locator, Page, expect
from pydicom import dcmread

from core.data.stack import Stack, open_stack
from core.tasks import TASKS
from demo.examples import CAPTIONS
from demo.handlers import SCAN_TASKS
from tests.browser import PHONE, WIDE
from tests.demo.conftest import Demo, OpenPage
from tests.demo.steps import (
    CT,
    TITLES,
    arrive,
    ask,
    choose_number,
    done,
    example_scan,
    fits,
    go,
    looking,
    opened,
    picture,
    press,
    run,
    shown,
    upload_scan,
)  # fmt: skip

CODE = re.compile(r"[0-9A-Z]{4}(?:-[0-9A-Z]{4}){3}")

pytestmark = [
    # playwright leaves an event loop to the garbage collector
    pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
both_sizes = pytest.mark.parametrize("size", [WIDE, PHONE], ids=["desk", "phone"])


# Workbench ------------------------------------------------------------------------------------------------------------


@both_sizes
def test_a_conversation_alternates_texts_and_images(open_page: OpenPage, demo: Demo, size: dict) -> None:
    page = open_page(viewport=size)
    bench, chat = go(page, "Workbench"), page.locator("#conversation")
    page.locator("#message input[type=file]").set_input_files(CT)
    expect(bench.get_by_text("header attributes removed on arrival")).to_be_visible()
    assert demo.files("CT_small.dcm") == []
    ask(page, "What is this?")
    expect(chat.get_by_text("AI-generated text", exact=True)).to_be_visible()
    done(bench)
    expect(chat.get_by_alt_text("Uploaded CT image, 128 by 128 pixels")).to_be_visible()
    bench.get_by_label("Text, then image").check()
    ask(page, "Say what you see, then segment the bone.")
    expect(chat.get_by_alt_text("AI-generated image", exact=True)).to_be_visible()
    done(bench)
    expect(chat.get_by_text("AI-generated text", exact=True)).to_have_count(2)
    earlier = page.locator("#images").get_by_role("button")
    expect(earlier).to_have_count(2)
    earlier.first.click()
    expect(page.locator("#message img")).to_be_visible()
    bench.get_by_label("Text", exact=True).check()
    ask(page, "And now?")
    expect(chat.get_by_alt_text("Uploaded CT image, 128 by 128 pixels")).to_have_count(2)
    done(bench)
    for image in chat.locator("figure img").all():
        width, height, ratio = image.evaluate("i => [i.width, i.height, i.naturalWidth / i.naturalHeight]")
        assert abs(width / height - ratio) < 0.02, "a picture must keep its aspect ratio"
    assert fits(page)
    press(bench, "New conversation")
    expect(chat.get_by_text("Attach a scan")).to_be_visible()
    expect(page.locator("#images")).to_be_hidden()


def test_a_template_fills_in_wording_and_kind_of_answer(visitor: Page) -> None:
    bench, text = go(visitor, "Workbench"), visitor.locator("#message textarea")
    bench.get_by_text("Simulated OCT of the retina").click()
    expect(visitor.locator("#message img")).to_be_visible()
    press(bench, "Advanced ▼")
    for task in ("segmentation", "counterfactual", "vqa"):
        bench.get_by_label("Task").click()
        bench.get_by_role("option", name=TITLES[task], exact=True).click()
        outputs, example = TASKS[task].outputs, TASKS[task].examples[0]
        expect(text).to_have_value(TASKS[task].instruction(example))
        kind = "Text, then image" if len(outputs) > 1 else outputs[0].title()
        expect(bench.get_by_label(kind, exact=True)).to_be_checked()
        expect(bench.get_by_label("number input for Timesteps")).to_be_visible(visible="image" in outputs)
        expect(bench.get_by_label("number input for Temperature")).to_be_visible(visible="text" in outputs)
        expect(visitor.locator("#message img")).to_be_visible()
    text.press("Enter")
    done(bench)
    bench.get_by_text("Details: model").click()
    expect(bench.locator("dd").filter(has_text=re.compile("^vqa$"))).to_be_visible()


def test_a_refusal_stays_until_the_next_request(visitor: Page) -> None:
    bench, box = go(visitor, "Workbench"), visitor.locator("#message textarea")
    ask(visitor, "Hello")
    done(bench)
    example_scan(visitor)
    room = run(visitor, "vqa", "Which organ is shown?")
    room.get_by_label("Question", exact=True).fill("")
    go(visitor, "Workbench")
    ask(visitor, "x" * 2001)
    refusal = bench.get_by_role("alert")
    expect(refusal).to_contain_text("2001 characters")
    go(visitor, "Scan", TITLES["vqa"])
    press(room, "Run")
    expect(room.get_by_role("alert")).to_contain_text("needs a prompt")
    run(visitor, "report")  # whatever follows a refusal has arrived by now
    go(visitor, "Scan", TITLES["vqa"])
    expect(room.get_by_role("alert")).to_contain_text("needs a prompt")
    go(visitor, "Workbench")
    expect(refusal).to_contain_text("2001 characters")
    expect(box).to_have_value("x" * 2001)
    box.fill("Hello again")
    box.press("Enter")
    done(bench)
    expect(refusal).to_have_count(0)


def slow_drawing(page: Page) -> Locator:
    """Asks for as many pictures as the model draws at a time, large and in many steps."""
    draw = go(page, "Draw")
    press(draw, "Advanced ▼")
    for name, value in (("Timesteps", 100), ("Width in pixels", 256), ("Height in pixels", 256), ("Images", 4)):
        choose_number(draw, name, value)
    press(draw, "Draw")
    return draw


def test_a_request_is_stopped_under_way_and_in_the_queue(open_page: OpenPage) -> None:
    first, second = open_page(), open_page()
    box = second.locator("#message textarea")
    box.fill("Hello")
    draw = slow_drawing(first)
    expect(draw.get_by_role("progressbar")).to_be_visible()
    press(draw, "Stop")
    expect(draw.get_by_text("Stopped.", exact=True)).to_be_visible()
    expect(draw.get_by_role("button", name="Stop", exact=True)).to_be_disabled()
    press(draw, "Draw")
    expect(draw.get_by_role("progressbar")).to_be_visible()
    waiting = slow_drawing(second)
    expect(waiting.get_by_text("Waiting for the model")).to_be_visible()
    bench = go(second, "Workbench")
    box.press("Enter")
    expect(bench.get_by_text("Waiting for the model, place")).to_be_visible()
    press(bench, "Stop")
    expect(bench.get_by_text("Stopped.", exact=True)).to_be_visible()
    expect(box).to_have_value("Hello")
    expect(second.locator("#conversation").get_by_text("Attach a scan")).to_be_visible()


# Scan -----------------------------------------------------------------------------------------------------------------


@both_sizes
def test_the_window_decides_what_the_model_is_shown(open_page: OpenPage, demo: Demo, size: dict) -> None:
    page, stack = open_page(viewport=size), open_stack([Path(CT)])
    viewer = upload_scan(page, CT)
    assert demo.files("CT_small.dcm") == []
    scan = go(page, "Scan")
    press(scan, "What was removed before anything was stored ▼")
    expect(scan.get_by_text(re.compile("^Removed .*PatientID, PatientName"))).to_be_visible()
    expect(scan.get_by_text("burned into the pixels is not removed")).to_be_visible()
    assert np.array_equal(shown(page), np.asarray(stack.picture(0).pixels))
    with looking(page, center=400, width=1800, slice=0):
        press(viewer, "Bone")
    expect(viewer.get_by_label("Center")).to_have_value("400")
    assert np.array_equal(shown(page), np.asarray(stack.picture(0, 400, 1800).pixels))
    viewer.get_by_label("Center").fill("40")
    with looking(page, center=40, width=80):
        viewer.get_by_label("Width").fill("80")
    assert np.array_equal(shown(page), np.asarray(stack.picture(0, 40, 80).pixels))
    assert fits(page)


@pytest.fixture
def nifti(tmp_path: Path) -> list[Path]:
    """A small volume of which every slice is another one."""
    values = np.random.default_rng(0).integers(0, 1000, (32, 24, 5)).astype("int16")
    nibabel.save(nibabel.Nifti1Image(values, np.diag([2.0, 2.0, 3.0, 1.0])), path := tmp_path / "volume.nii.gz")
    return [path]


@pytest.fixture
def series(tmp_path: Path) -> list[Path]:
    """Three DICOM files of one series."""
    paths = []
    for index in range(3):
        dataset = dcmread(CT)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{index + 1}"
        dataset.InstanceNumber = index + 1
        dataset.ImagePositionPatient = [0, 0, 5 * index]
        dataset.PixelData = (dataset.pixel_array // (index + 1)).tobytes()
        dataset.save_as(tmp_path / f"slice{index}.dcm")
        paths.append(tmp_path / f"slice{index}.dcm")
    return paths


@pytest.mark.parametrize("kind", ["nifti", "series"])
def test_the_slice_decides_what_the_model_is_shown(
    visitor: Page, demo: Demo, request: pytest.FixtureRequest, kind: str
) -> None:
    paths = request.getfixturevalue(kind)
    stack: Stack = open_stack(paths)
    viewer = upload_scan(visitor, *paths)
    assert demo.files(paths[0].name) == []
    slices, middle = stack.slices, stack.slices // 2
    expect(viewer.get_by_text(f"{middle + 1} / {slices}")).to_be_visible()
    assert np.array_equal(shown(visitor), np.asarray(stack.picture(middle).pixels))
    viewer.get_by_role("application").focus()
    with looking(visitor, slice=middle - 1):
        visitor.keyboard.press("PageUp")
    expect(viewer.get_by_text(f"{middle} / {slices}")).to_be_visible()
    expect(viewer.locator(".um-stale")).to_have_count(0)
    assert np.array_equal(shown(visitor), np.asarray(stack.picture(middle - 1).pixels))


@both_sizes
def test_every_task_shows_its_result(open_page: OpenPage, size: dict) -> None:
    page = open_page(viewport=size)
    example_scan(page)
    for task in SCAN_TASKS:
        room = go(page, "Scan", TITLES[task.name])
        if task.prompt_label:
            press(room, task.examples[0])
            expect(room.get_by_label(task.prompt_label, exact=True)).to_have_value(task.examples[0])
        press(room, "Run")
        done(room)
        if "image" in task.outputs:
            expect(room.locator("um-compare .um-view").first).to_be_visible()
            expect(room.locator("um-compare .um-fault")).to_be_hidden()
            expect(room.locator(".um-badge").first).to_contain_text("AI-generated")
            expect(room.get_by_text("20 mm").first).to_be_visible()
        if "text" in task.outputs:
            expect(room.get_by_text("AI-generated text", exact=True)).to_be_visible()
        room.get_by_text("Details: model").click()
        expect(room.locator("dd").filter(has_text=re.compile(f"^{task.name}$"))).to_be_visible()
        assert fits(page), task.name
    room = go(page, "Scan", TITLES["segmentation"])
    expect(room.get_by_text(re.compile(r"^Area of the mask: \d+ pixels, [\d.]+ % of the picture, [\d.]+ mm²\.$")))
    expect(room.get_by_text("mm².")).to_be_visible()


def test_a_box_restricts_the_mask(visitor: Page) -> None:
    example_scan(visitor)
    room = go(visitor, "Scan", TITLES["segmentation"])
    press(room, "Where to look: click a point or draw a box (optional) ▼")
    mark = room.locator("um-pick")
    expect(mark.locator("img")).to_be_visible()
    mark.scroll_into_view_if_needed()
    place = mark.locator(".um-view").bounding_box()
    x, y, pixel = place["x"], place["y"], place["width"] / 128
    visitor.mouse.move(x + 32.5 * pixel, y + 48.5 * pixel)
    visitor.mouse.down()
    visitor.mouse.move(x + 70 * pixel, y + 90 * pixel, steps=4)
    visitor.mouse.move(x + 79.5 * pixel, y + 95.5 * pixel)
    visitor.mouse.up()
    expect(mark.get_by_text("Box from x 32, y 48 to x 80, y 96")).to_be_visible()
    expect(room.locator("#region-segmentation textarea")).to_have_value(re.compile('"kind":"box"'))
    run(visitor, "segmentation", "spine")
    mask = np.asarray(picture(visitor, room.locator("um-compare").get_attribute("after")).convert("L"))
    assert mask.shape == (128, 128) and set(np.unique(mask)) <= {0, 255}
    outside = mask.copy()
    outside[48:96, 32:80] = 0
    assert mask.any() and not outside.any()
    expect(room.get_by_text(f"Area of the mask: {int((mask > 0).sum())} pixels")).to_be_visible()


def test_a_reference_gives_scores(visitor: Page, demo: Demo, tmp_path: Path) -> None:
    example_scan(visitor)
    room = go(visitor, "Scan", TITLES["super_resolution"])
    room.get_by_label("Coarsen the scan first").check()
    run(visitor, "super_resolution")
    scores = re.compile(r"PSNR [\d.]+ dB, SSIM -?[\d.]+\. The input itself: PSNR [\d.]+ dB, SSIM [\d.]+\.$")
    expect(room.get_by_text(scores)).to_be_visible()
    expect(room.locator("um-compare")).to_have_count(2)
    expect(room.get_by_text("Reference", exact=True)).to_be_visible()
    PILImage.new("RGB", (128, 128), (90, 90, 90)).save(path := tmp_path / "reference-of-jane-doe.png")
    room = go(visitor, "Scan", TITLES["cross_modal"])
    press(room, "Reference picture, for PSNR and SSIM (optional) ▼")
    room.locator("input[type=file]").set_input_files(str(path))
    expect(room.get_by_text("reference-of-jane-doe")).to_be_visible()
    for _ in range(2):  # the second time the upload has been read and deleted
        run(visitor, "cross_modal", "T2-weighted MRI")
        expect(room.get_by_text(scores)).to_be_visible()
        assert demo.files("doe.png") == []


def test_an_answer_is_asked_for_again_without_the_scan(visitor: Page) -> None:
    example_scan(visitor)
    room = go(visitor, "Scan", TITLES["vqa"])
    room.get_by_label("Question", exact=True).fill("Is there an abnormality?")
    press(room, "Does it depend on the image?")
    done(room)
    for name in ("Your scan", "Blank picture", "Another scan"):
        section = room.locator("section").filter(has=visitor.get_by_role("heading", name=name, exact=True))
        expect(section.get_by_role("img")).to_be_visible()
        expect(section.get_by_text("AI-generated text", exact=True)).to_be_visible()
    expect(room.get_by_text(re.compile("The answer stays the same with|All three answers differ"))).to_be_visible()


def test_a_drawn_image_becomes_the_scan(visitor: Page) -> None:
    room = go(visitor, "Scan", TITLES["cross_modal"])
    press(room, "Use as scan")
    expect(go(visitor, "Scan").get_by_role("alert")).to_contain_text("no result yet")
    example_scan(visitor, "MRI of the abdomen")
    room = run(visitor, "cross_modal", "FLAIR MRI")
    after = np.asarray(picture(visitor, room.locator("um-compare").get_attribute("after")).convert("RGB"))
    press(room, "Use as scan")
    expect(visitor.locator("um-window")).to_have_attribute("cols", str(after.shape[1]))
    assert np.array_equal(shown(visitor), after)


def test_a_task_without_a_scan_says_what_is_missing(visitor: Page) -> None:
    room = go(visitor, "Scan", TITLES["report"])
    press(room, "Run")
    expect(room.get_by_role("alert")).to_contain_text("There is no image yet")
    expect(room.get_by_role("button", name="Run", exact=True)).to_be_enabled()


# Draw -----------------------------------------------------------------------------------------------------------------


@both_sizes
def test_a_caption_is_drawn_with_two_seeds(open_page: OpenPage, size: dict) -> None:
    page = open_page(viewport=size)
    draw = go(page, "Draw")
    draw.get_by_label("fundus photograph").check()
    expect(draw.get_by_label("Caption")).to_have_value(CAPTIONS["fundus photograph"])
    choose_number(draw, "Images", 2)
    press(draw, "Draw")
    done(draw)
    expect(draw.get_by_alt_text("AI-generated image", exact=True)).to_have_count(2)
    heads = draw.get_by_role("heading").all_inner_texts()
    seeds = [int(re.fullmatch(rf"{i}: Seed (\d+)", head)[1]) for i, head in enumerate(heads, 1)]
    assert seeds[1] == seeds[0] + 1
    first, second = (picture(page, image.get_attribute("src")) for image in draw.locator("figure img").all())
    assert first.size == second.size == (64, 64) and first.info["Seed"] == str(seeds[0])
    assert not np.array_equal(np.asarray(first), np.asarray(second))
    assert fits(page)


# Compare and feedback -------------------------------------------------------------------------------------------------

VOTES = ("A is better", "Equally good", "B is better", "Both bad", "Cannot judge")


@both_sizes
def test_a_vote_is_blind_and_final(open_page: OpenPage, demo: Demo, size: dict) -> None:
    page = open_page(viewport=size)
    room, kept = go(page, "Compare"), demo.kept()
    votes = [room.get_by_role("button", name=name, exact=True) for name in VOTES]
    press(room, "Compare")
    expect(room.get_by_role("alert")).to_contain_text("There is no image yet")
    example_scan(page)
    go(page, "Compare")
    for button in votes:
        expect(button).to_be_disabled()
    press(room, "Compare")
    done(room)
    for button in votes:
        expect(button).to_be_enabled()
    expect(room.get_by_text("AI-generated text", exact=True)).to_have_count(2)
    assert "tiny" not in room.inner_text()
    votes[0].click()
    expect(room.get_by_text("Your vote: A is better. It was not kept")).to_be_visible()
    for button in votes:
        expect(button).to_be_disabled()
    assert sorted(re.findall(r"[AB] was: (tiny(?:-two)?),", room.inner_text())) == ["tiny", "tiny-two"]
    assert demo.kept() == kept
    assert fits(page)
    arrive(page)
    room = go(page, "Compare")
    expect(room.get_by_text("Your vote: A is better.")).to_be_visible()
    expect(votes[2]).to_be_disabled()
    room.get_by_label("I agree that this feedback is kept").check()
    press(room, "Compare")
    done(room)
    expect(room.get_by_text("Your vote")).to_have_count(0)
    votes[2].click()
    expect(room.get_by_text("It is kept. Your code")).to_be_visible()
    new = demo.kept()["comparisons"][len(kept.get("comparisons", [])) :]
    assert [row["choice"] for row in new] == ["right"]


def test_a_picture_can_be_compared_too(visitor: Page) -> None:
    room = go(visitor, "Compare")
    room.get_by_label("Task").click()
    room.get_by_role("option", name=TITLES["text_to_image"], exact=True).click()
    expect(room.get_by_label("Message")).to_have_value(TASKS["text_to_image"].examples[0])
    press(room, "Compare")
    done(room)
    expect(room.get_by_alt_text("AI-generated image", exact=True)).to_have_count(2)
    press(room, "Both bad")
    expect(room.get_by_text("Your vote: Both bad.")).to_be_visible()


def test_feedback_is_kept_with_consent_and_withdrawn_with_a_code(visitor: Page, demo: Demo) -> None:
    before = demo.kept()
    pictures = sorted(demo.data.rglob("*.png"))
    example_scan(visitor, "Ultrasound of the heart")
    room = run(visitor, "report")
    press(room, "Feedback on this answer ▼")
    press(room, "Send feedback")
    expect(room.get_by_role("alert")).to_contain_text("Choose thumb up or down as well")
    room.get_by_label("Bad").check()
    room.get_by_label("In a sentence (optional)").fill("It names no organ.")
    room.get_by_label("What it should have said (optional)").fill("A slice of the spine.")
    press(room, "Send feedback")
    expect(room.get_by_role("alert")).to_contain_text("Nothing was kept")
    assert demo.kept() == before
    room.get_by_label("I agree that this feedback is kept").check()
    press(room, "Send feedback")
    thanks = room.get_by_text("Thank you, it is kept.")
    expect(thanks).to_be_visible()
    code = CODE.search(thanks.inner_text())[0]
    kept = demo.kept()
    assert code not in str(kept)
    rating = kept["ratings"][-1]
    assert (rating["value"], rating["comment"], rating["trust"]) == (-1, "It names no organ.", "untrusted")
    assert kept["generations"][-1]["task"] == "report"
    assert [row["text"] for row in kept["responses"] if row["author"] == "person"][-1] == "A slice of the spine."
    assert len(list(demo.data.rglob("*.png"))) == len(pictures) + 1
    about = go(visitor, "About & privacy")
    about.get_by_label("Your code").fill("AAAA-AAAA-AAAA-AAAA")
    press(about, "Withdraw and delete")
    expect(about.get_by_role("alert")).to_be_visible()
    about.get_by_label("Your code").fill(code)
    press(about, "Withdraw and delete")
    expect(about.get_by_text("Deleted: 4 entries")).to_be_visible()
    after = demo.kept()
    for table in ("generations", "responses", "ratings", "comparisons", "generation_pictures"):
        assert after.get(table) == before.get(table), table
    assert sorted(demo.data.rglob("*.png")) == pictures


# What holds for all pages ---------------------------------------------------------------------------------------------


def test_a_reload_brings_everything_back(visitor: Page) -> None:
    chat = visitor.locator("#conversation")
    ask(visitor, "Hello, what can you draw?")
    done(go(visitor, "Workbench"))
    example_scan(visitor)
    run(visitor, "segmentation", "spine")
    draw = go(visitor, "Draw")
    press(draw, "Draw")
    done(draw)
    arrive(visitor)
    expect(visitor.get_by_text("Your last visit is back.")).to_be_visible()
    expect(chat.get_by_text("Hello, what can you draw?")).to_be_visible()
    expect(chat.get_by_text("AI-generated text", exact=True)).to_be_visible()
    scan = go(visitor, "Scan", TITLES["segmentation"])
    expect(scan.locator("um-compare .um-view").first).to_be_visible()
    opened(go(visitor, "Scan"))
    draw = go(visitor, "Draw")
    expect(draw.get_by_alt_text("AI-generated image", exact=True)).to_be_visible()
    run(visitor, "segmentation", "spine")


def test_two_tabs_of_one_visitor_do_not_meet(open_page: OpenPage) -> None:
    first, second = open_page(), open_page()
    ask(first, "Only in the first one")
    done(go(first, "Workbench"))
    arrive(second)
    expect(second.locator("#conversation").get_by_text("Attach a scan")).to_be_visible()
