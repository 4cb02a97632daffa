"""The studio as its people use it: a maintainer, two raters who touch no mouse, and an adjudicator."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from benchmarks.studio_raters import start_studio
from core.feedback.judged import judged
from core.feedback.projects import NewItem
from core.feedback.rubric import DEFECTS, ERRORS, OVERALL, RUBRICS, Plan, Rubric
from core.sequence import Text
from tests.browser import Checker
from tests.core.feedback.builders import picture
from tests.studio.conftest import OUTPUTS, PASSWORD, LogIn, Studio
from tests.studio.hands import choose, go, pick

NAME = "Sharper or not"
DISPUTED = 3

pytestmark = [
    pytest.mark.usefixtures("browser_name"),  # or pytest would not keep the order of this file
    # playwright leaves an event loop to the garbage collector
    pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def standing(page: Page, done: int, total: int) -> None:
    expect(page.locator(".ub-standing")).to_contain_text(f"{done} of {total}")


def look(page: Page) -> None:
    """Opens the full size, as has to be before a judgement, and closes it."""
    page.keyboard.press("f")
    expect(page.locator(".ub-full[open]")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".ub-full[open]")).to_have_count(0)


def rate(page: Page, scores: str) -> None:
    """Rates the item on the screen by keys alone."""
    look(page)
    for score in scores:
        page.keyboard.press(score)
    page.keyboard.press("Enter")


def make(studio: Studio, name: str, kind: str, rubric: Rubric, items: list[NewItem], *raters: str) -> str:
    mona = studio.people["mona"]
    project = studio.store.projects.make(mona, name, kind, rubric, Plan(overlap=1))
    studio.store.projects.add_items(mona, project, items)
    for rater in raters:
        studio.store.projects.add_member(mona, project, studio.people[rater].id)
    studio.store.projects.change_state(mona, project, "open")
    return project


def test_a_maintainer_makes_a_project(studio: Studio, log_in: LogIn) -> None:
    page, mona = log_in("mona"), studio.people["mona"]
    go(page, "Projects")
    page.get_by_label("Name").fill(NAME)
    page.get_by_label("Items at most").fill(str(OUTPUTS))
    page.get_by_role("button", name="Make it").click()
    expect(page.get_by_text(f"{NAME} – rate one output, {OUTPUTS} items, draft")).to_be_visible()
    (project,) = studio.store.projects.of(mona)
    for name in ("rita", "ralf"):
        studio.store.projects.add_member(mona, project.id, studio.people[name].id)
    studio.store.projects.add_member(mona, project.id, studio.people["ada"].id, "adjudicate")
    page.get_by_text(f"{NAME} – rate one output").click()
    page.get_by_role("button", name="Open to its raters").click()
    expect(page.get_by_text(f"{NAME} – rate one output, {OUTPUTS} items, open")).to_be_visible()


@pytest.mark.parametrize(("name", "width", "other"), [("rita", 1280, "4"), ("ralf", 390, "1")], ids=["desk", "phone"])
def test_a_rater_needs_no_mouse(studio: Studio, log_in: LogIn, name: str, width: int, other: str) -> None:
    page = log_in(name, width)
    for done in range(OUTPUTS):
        standing(page, done, OUTPUTS)
        rate(page, "44444" + (other if done < DISPUTED else "4"))
    expect(page.get_by_text("All done. Thank you!")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    (project,) = studio.store.projects.of(studio.people[name])
    assert studio.store.queue.before(studio.people[name], project.id).version == 1


def test_an_adjudicator_decides_what_is_disputed(studio: Studio, log_in: LogIn) -> None:
    page = log_in("ada")
    go(page, "Adjudicate")
    done = 0
    while page.locator(".ub-others, .ub-empty").first.is_visible() is False:
        page.wait_for_timeout(50)
    while page.locator(".ub-others").is_visible():
        expect(page.locator(".ub-others")).to_contain_text("overall: 1 to 4")
        expect(page.locator(".ub-others")).not_to_contain_text("rita")
        page.keyboard.press("f")
        for score in "333333":
            expect(page.locator(".ub-full[open] [aria-pressed]")).to_have_count(5)
            page.keyboard.press(score)
        expect(page.locator(".ub-full[open]")).to_have_count(0)  # with the last answer
        page.keyboard.press("Enter")
        done += 1
        expect(page.locator(".ub-standing")).to_contain_text(f"{done} of")
    assert 1 <= done <= 2 * DISPUTED
    expect(page.get_by_text("All done. Thank you!")).to_be_visible()


def test_a_maintainer_sees_the_agreement_and_exports(studio: Studio, log_in: LogIn, tmp_path: Path) -> None:
    page = log_in("mona")
    go(page, "Progress")
    expect(page.get_by_role("heading", name="Agreement")).to_be_visible()
    expect(page.get_by_role("heading", name="Raters", exact=True)).to_be_visible()
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
    expect(page.get_by_text("Krippendorff's alpha").first).to_be_attached()
    page.get_by_label("Or any item, by its number").fill("1")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=f"Item 1 of {OUTPUTS}")).to_be_visible()
    expect(page.get_by_text("What raters said")).to_be_visible()
    expect(page.get_by_text("Adjudication", exact=True)).to_be_visible()
    expect(page.get_by_role("img", name="Given").first).to_be_visible()
    assert "rita" not in page.content() and "ralf" not in page.content()
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
    page.get_by_test_id("stRadio").get_by_text("label_studio", exact=True).click()
    expect(page.get_by_text("Tasks with annotations")).to_be_visible()
    page.get_by_role("button", name="Prepare the file").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download", exact=True).click()
    download.value.save_as(tmp_path / "export.jsonl")
    tasks = [json.loads(line) for line in (tmp_path / "export.jsonl").read_text().splitlines()]
    assert len(tasks) == OUTPUTS and {len(task["annotations"]) for task in tasks} <= {2, 3}
    assert list(studio.store.verify()) == []


def test_a_maintainer_makes_a_snapshot_of_what_was_said(studio: Studio, log_in: LogIn) -> None:
    page, mona = log_in("mona"), studio.people["mona"]
    go(page, "Snapshots")
    pick(page, page.get_by_label("Projects"), NAME)
    page.keyboard.press("Escape")  # the list of the others
    page.get_by_role("button", name="Make a snapshot").click()
    expect(page.get_by_text("Left out: ")).to_be_visible()
    (snapshot,) = studio.store.snapshots.all(mona)
    expect(page.get_by_text(snapshot.sha256)).to_be_visible()
    signals = studio.store.snapshots.read(snapshot.sha256)
    assert {one["kind"] for one in signals} >= {"sft", "unpaired"}
    assert sum(one["kind"] == "sft" for one in signals) == OUTPUTS - len(disputed_of(studio))
    page.get_by_text("Learn also from visitors").click()
    page.get_by_role("button", name="Make a snapshot").click()
    expect(page.get_by_text("Left out: ")).to_have_count(2)
    assert [one.rules.visitors for one in studio.store.snapshots.all(mona)] == [True, False]


def disputed_of(studio: Studio) -> set[str]:
    """Items of the first project that were decided by the adjudicator, who found them neither good nor bad."""
    (project,) = [one for one in studio.store.projects.of(studio.people["mona"]) if one.name == NAME]
    return {one.item for one in judged(studio.store.database, project.id) if one.purpose == "adjudicate"}


def test_files_become_a_project(studio: Studio, log_in: LogIn, tmp_path: Path) -> None:
    for seed in (1, 2):
        picture(seed, side=64).pixels.save(tmp_path / f"{seed}.png")
    (tmp_path / "notes.txt").write_text("No picture.")
    page = log_in("mona")
    go(page, "Projects")
    page.get_by_label("Name").fill("Brought along")
    pick(page, page.get_by_label("What is judged"), "Files of mine")
    page.locator("input[type=file]").set_input_files([tmp_path / name for name in ("1.png", "2.png", "notes.txt")])
    expect(page.get_by_text("notes.txt")).to_be_visible()
    page.get_by_role("button", name="Make it").click()
    expect(page.get_by_text("Brought along – rate one output, 2 items, draft")).to_be_visible()
    expect(page.get_by_text("left out: 1")).to_be_visible()


def test_what_was_entered_survives_a_reload_a_full_disk_and_a_killed_server(studio: Studio, log_in: LogIn) -> None:
    ids = studio.store.projects.responses(studio.people["mona"], "image")[:2]
    make(studio, "Interrupted", "rate", RUBRICS["image"], [NewItem((one,)) for one in ids], "rolf")
    page = log_in("rolf")
    standing(page, 0, 2)
    for key in "523c2uuc1":  # the third score and the confidence are undone, and the latter is given anew
        page.keyboard.press(key)
    page.keyboard.press("Enter")  # too early: it is refused, and kept all the same
    expect(page.locator(".ub-fault")).to_be_visible()
    expect(page.locator(".ub-saved")).to_have_text("Saved")
    page.get_by_label("Comment").fill("A line at the left edge")
    expect(page.locator(".ub-saved")).to_have_text("Saved")
    page.reload()
    expect(page.get_by_label("Comment")).to_have_value("A line at the left edge")
    expect(page.locator("[name=ub-realism][value='5']")).to_be_checked()
    expect(page.locator("[name=ub-anatomy][value='2']")).to_be_checked()
    expect(page.locator("[name=ub-confidence][value='1']")).to_be_checked()
    expect(page.locator(".ub-rows input:checked")).to_have_count(2)
    page.route("**/save", lambda route: route.fulfill(status=503, json={"error": "The disk is full."}))
    page.get_by_label("Comment").fill("A line at the left edge, or")
    expect(page.locator(".ub-saved")).to_contain_text("Not saved yet: The disk is full.")
    page.unroute("**/save")
    expect(page.locator(".ub-saved")).to_have_text("Saved")
    page.reload()
    expect(page.get_by_label("Comment")).to_have_value("A line at the left edge, or")
    studio.process.kill()
    studio.process.wait()
    page.get_by_label("Comment").fill("A line at the left edge, and one at the right")
    expect(page.locator(".ub-saved")).to_contain_text("Not saved yet")
    studio.process = start_studio(studio.data, int(studio.url.rstrip("/").rpartition(":")[2]))
    expect(page.locator(".ub-saved")).to_have_text("Saved")
    page.reload()
    expect(page.get_by_label("Comment")).to_have_value("A line at the left edge, and one at the right")
    page.keyboard.press("Escape")


def test_two_outputs_are_compared_blind(studio: Studio, log_in: LogIn) -> None:
    ids = studio.store.projects.responses(studio.people["mona"], "image")[:4]
    rubric = Rubric((next(c for c in RUBRICS["image"].criteria if c.name == OVERALL.name),))
    pairs = [NewItem(tuple(ids[:2])), NewItem(tuple(ids[2:]))]
    project = make(studio, "A or B", "compare", rubric, pairs, "rita")
    page = log_in("rita")
    choose(page, "A or B")
    standing(page, 0, 2)
    look(page)
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    standing(page, 1, 2)
    page.get_by_role("button", name="Full size").click()
    page.get_by_role("button", name="B [3]").click()
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_text("All done. Thank you!")).to_be_visible()
    store, rita = studio.store, studio.people["rita"]
    last = store.queue.before(rita, project)
    for side, task in ((1, last), (0, store.queue.before(rita, project, after=last.id))):
        assert task.draft["choices"] == {"overall": task.order[side]}, "the side that was shown was meant"


def test_three_outputs_are_ranked(studio: Studio, log_in: LogIn) -> None:
    ids = studio.store.projects.responses(studio.people["mona"], "image")[:3]
    rubric = Rubric((next(c for c in RUBRICS["image"].criteria if c.name == OVERALL.name),))
    project = make(studio, "Three", "compare", rubric, [NewItem(tuple(ids))], "rita")
    page = log_in("rita")
    choose(page, "Three")
    standing(page, 0, 1)
    page.keyboard.press("+")
    expect(page.locator(".um-factor")).to_have_text(["1.5×"] * page.locator("um-compare").count())
    page.keyboard.press("f")
    sizes = "[...document.querySelectorAll('.ub-wall img')].map((one) => one.clientWidth / one.naturalWidth)"
    page.wait_for_function(f"{sizes}.every((share) => share >= 1 && share < 1e9)")
    for key in "33":  # the third is the best of all, and in the ranking
        page.keyboard.press(key)
    expect(page.locator(".ub-full")).to_contain_text("Ranking: C")
    page.wait_for_timeout(500)  # a half of it is saved
    for key in "1l":
        page.keyboard.press(key)
    expect(page.locator(".ub-full")).to_contain_text("Ranking: C > A = …")
    page.keyboard.press("2")
    expect(page.locator(".ub-full[open]")).to_have_count(0)  # with the last answer
    expect(page.locator(".ub-rank")).to_have_text("Ranking: C > A = B")
    expect(page.locator(".ub-fault")).to_be_hidden()
    page.keyboard.press("Enter")
    expect(page.get_by_text("All done. Thank you!")).to_be_visible()
    task = studio.store.queue.before(studio.people["rita"], project)
    third, first, second = task.order[2], task.order[0], task.order[1]
    assert task.draft["ranking"] == [[third], [first, second]] and task.draft["choices"] == {"overall": third}


def test_a_text_is_corrected_and_its_error_marked_by_keys(studio: Studio, log_in: LogIn) -> None:
    ref = studio.store.add_run(
        studio.people["mona"], task="report", inputs=[Text("Report it.")], outputs=[Text("No left effusion.")], seed=0,
        settings={}, model_name="nano-secret", model_fingerprint="f" * 64, key="text",
    )  # fmt: skip
    project = make(studio, "Reports", "correct", RUBRICS["text"], [NewItem(ref.response_ids)], "ralf")
    page = log_in("ralf")
    choose(page, "Reports")
    standing(page, 0, 1)
    passage = page.locator(".ub-passage")
    passage.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator(".ub-list q")).to_have_text("left")
    page.get_by_label("Kind of error").select_option("location")
    page.get_by_label("What it should say").fill("No right effusion.")
    expect(page.locator(".ub-difference ins")).to_have_text("right")
    expect(page.locator(".ub-difference del")).to_have_text("left")
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    expect(page.get_by_text("All done. Thank you!")).to_be_visible()
    answer = studio.store.queue.before(studio.people["ralf"], project).draft
    assert answer["text"] == "No right effusion."
    assert [(span["start"], span["end"], span["error"]) for span in answer["spans"]] == [(3, 7, "location")]


def test_somebody_changes_their_own_password(studio: Studio, log_in: LogIn) -> None:
    studio.store.people.add(studio.people["mona"], "paula", "rater", PASSWORD)
    page = log_in("paula")
    go(page, "My account")
    for old, told in (("wrong horse", "The old password is wrong"), (PASSWORD, None)):
        page.get_by_label("Old password").fill(old)
        page.get_by_label("New password").fill("a better horse")
        page.get_by_label("The new one again").fill("a better horse")
        page.get_by_role("button", name="Change the password").click()
        if told:
            expect(page.get_by_text(told)).to_be_visible()
    expect(page.get_by_text("Your password is changed.")).to_be_visible()
    expect(page.get_by_text("paula, rater")).to_be_visible()
    assert studio.store.people.log_in("paula", "a better horse")


def test_a_text_is_rated_that_is_there_to_be_read(studio: Studio, log_in: LogIn) -> None:
    mona = studio.people["mona"]
    ref = studio.store.add_run(
        mona, task="report", inputs=[Text("Report it.")], outputs=[Text("No left effusion.")], seed=0, settings={},
        model_name="nano-secret", model_fingerprint="f" * 64, key="text to be rated",
    )  # fmt: skip
    for name, rubric in (("Without errors", Rubric((OVERALL,))), ("With errors", RUBRICS["text"])):
        make(studio, name, "rate", rubric, [NewItem(ref.response_ids)], "ralf")
    page = log_in("ralf")
    for name, passages in (("Without errors", 0), ("With errors", 1)):
        choose(page, name)
        standing(page, 0, 1)
        expect(page.get_by_text("No left effusion.")).to_be_visible()
        expect(page.locator(".ub-passage")).to_have_count(passages)
        page.keyboard.press("4")
        page.keyboard.press("Enter")
        expect(page.get_by_text("All done. Thank you!")).to_be_visible()


def test_an_adjudicator_sees_what_is_disputed(studio: Studio, log_in: LogIn) -> None:
    store, mona = studio.store, studio.people["mona"]
    drawn = store.projects.responses(mona, "image")[:1]
    written = store.add_run(
        mona, task="report", inputs=[Text("Report it.")], outputs=[Text("No left effusion.")], seed=0, settings={},
        model_name="nano-secret", model_fingerprint="f" * 64, key="disputed",
    )  # fmt: skip
    box = {"label": DEFECTS[0], "kind": "box", "x0": 1, "y0": 2, "x1": 9, "y1": 7}
    span = {"start": 3, "end": 7, "error": ERRORS[0], "significant": True}
    said = [{"confidence": 3, "regions": [box], "spans": []}, {"scores": {"overall": 1}, "comment": "Flat"}]
    projects = []
    for name, one, answers in (
        ("Disputed picture", drawn[0], said),
        ("Disputed text", written.response_ids[0], [{"spans": [span]}, {}]),
    ):
        project = store.projects.make(mona, name, "rate", Rubric((OVERALL,), DEFECTS, ERRORS), Plan())
        store.projects.add_items(mona, project, [NewItem((one,))])
        store.projects.add_member(mona, project, studio.people["ada"].id, "adjudicate")
        for rater in ("rita", "ralf"):
            store.projects.add_member(mona, project, studio.people[rater].id)
        store.projects.change_state(mona, project, "open")
        for rater, answer in zip(("rita", "ralf"), answers, strict=True):
            task = store.queue.next(studio.people[rater], project)
            given = {"scores": {"overall": 4}, "opened": True} | answer
            store.queue.submit(studio.people[rater], task.id, given, 1.0, datetime.now(UTC))
        projects.append(project)
    page = log_in("ada")
    page.goto(f"{studio.url}adjudicate")
    others = page.locator(".ub-others")
    marks = ("Confidence: sure", f"{DEFECTS[0]}: box from 1, 2 to 9, 7", "Comment: Flat", "overall 1")
    for name, words in (
        ("Disputed text", (f"left {ERRORS[0]}, significant",)),
        ("Disputed picture", marks),
    ):
        choose(page, name)
        for text in words:
            expect(others).to_contain_text(text)
    page.get_by_role("button", name="Show the marks").click()
    expect(page.locator(".ub-theirs rect.ub-line")).to_be_visible()
    for project in projects:
        store.projects.change_state(mona, project, "closed")


def test_a_rater_finds_no_page_of_maintainers(studio: Studio, log_in: LogIn) -> None:
    page = log_in("rolf")
    for path in ("projects", "people", "progress", "adjudicate", "rate?project=x&purpose=adjudicate"):
        page.goto(f"{studio.url}{path}")
        expect(page.get_by_text("rolf, rater")).to_be_visible()
        for heading in ("Projects", "People", "Progress and export", "What the raters said"):
            expect(page.get_by_role("heading", name=heading)).to_have_count(0)
        assert "nano-secret" not in page.content() and "rita" not in page.content()


@pytest.mark.parametrize("width", [1280, 390])
def test_no_page_has_a_serious_barrier(studio: Studio, log_in: LogIn, axe: str, width: int) -> None:
    ids = studio.store.projects.responses(studio.people["mona"], "image")
    make(studio, f"Barriers {width}", "rate", RUBRICS["edit"], [NewItem((ids[0],))], "rolf", "mona")
    page = log_in("mona", width)
    checker = Checker(page, axe)
    expect(page.locator(".ub-item h2")).to_be_visible()
    page.keyboard.press("m")
    look(page)  # also from within the picture
    checker.look("board")
    page.keyboard.press("?")
    checker.look("keys")
    page.keyboard.press("Escape")
    for name in ("Projects", "Progress", "Snapshots", "Versions", "People", "Rights and log", "My account"):
        page.goto(f"{studio.url}{name.lower().removeprefix('my ').split()[0]}")
        expect(page.get_by_role("heading", name=name).first).to_be_visible()
        expect(page.get_by_text("mona, maintainer")).to_be_visible()
        checker = Checker(page, axe) if not page.evaluate("'axe' in window") else checker
        checker.look(name)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
    assert checker.found == {}
