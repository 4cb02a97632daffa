"""From ratings to a served version and back, as a maintainer does it: learning is started from the page, in processes
that really run and are really killed. What they run is a stand-in that learns nothing (``tests.studio.stand_in``)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator

import psutil
import pytest
from playwright.sync_api import Page, expect

from benchmarks.studio_raters import start_studio
from core.config import versions_folder
from core.feedback.outputs import made_by
from core.feedback.people import Person
from core.feedback.projects import NewItem
from core.feedback.studio import StudioStore
from core.feedback.versions import VersionInfo, comparison_name
from core.sequence import Text
from tests.browser import Checker, free_port
from tests.core.feedback.builders import picture
from tests.core.feedback.team import Team
from tests.studio.conftest import PASSWORD, SECONDS, LogIn, Studio, open_store
from tests.studio.hands import go, pick, still
from tests.studio.stand_in import HELD_AT, STEPS

PROJECT, FIRST, SECOND = "Twenty pairs", "sharper-1", "sharper-2"
MODULE = "tests.studio.stand_in"

pytestmark = [
    pytest.mark.usefixtures("browser_name"),  # or pytest would not keep the order of this file
    pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def compared(store: StudioStore) -> dict[str, Person]:
    """Two raters have compared twenty pairs, each of a patient of its own."""
    store.people.add(None, "mona", "maintainer", PASSWORD)
    people = {"mona": store.people.named("mona")}
    for name, role in (("rita", "rater"), ("ralf", "rater"), ("ada", "adjudicator")):
        store.people.add(people["mona"], name, role, PASSWORD)
        people[name] = store.people.named(name)
    team = Team(store, people["mona"], people["ada"], [people["rita"], people["ralf"]])
    items = []
    for n in range(20):
        shown, better, worse = (picture(100 * k + n, generated=k > 0) for k in range(3))
        refs = [
            store.add_run(
                team.maintainer, task="super_resolution", inputs=[shown, Text(f"Sharper ({n}).")], outputs=[drawn],
                settings={}, seed=n, model_name=name, model_fingerprint=name * 8, key=f"{name} {n}",
                case=("archive", str(n), "1"),
            )
            for name, drawn in (("nano-a", better), ("nano-b", worse))
        ]  # fmt: skip
        items.append(NewItem(tuple(ref.response_ids[0] for ref in refs)))
    project = team.project("compare", items=items, name=PROJECT)
    for rater in team.raters:
        team.judge_all(rater, project, choices={"anatomy": 0, "overall": 0})
    return people


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    data, port = tmp_path_factory.mktemp("studio"), free_port()
    store = open_store(data)
    people, process = compared(store), start_studio(data, port, module=MODULE)
    studio = Studio(f"http://127.0.0.1:{port}/", data, process, store, people)
    yield studio
    studio.process.terminate()  # it may be another one by now
    studio.process.wait(SECONDS)
    store.close()


def version(studio: Studio, name: str) -> VersionInfo:
    return next(one for one in studio.store.versions.all() if one.name == name)


def throw_away(page: Page) -> None:
    """Once more than once: what was learned is gone then."""
    page.get_by_role("button", name=re.compile("^Throw .* away$")).click()
    page.get_by_role("button", name="Yes, throw it away").click()


def make_snapshot(page: Page) -> None:
    """Of the project, and on to the form for learning from it."""
    go(page, "Snapshots")
    pick(page, page.get_by_label("Projects"), PROJECT)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Make a snapshot").click()
    page.get_by_role("link", name="Learn from it").click()


def learn(page: Page, name: str, recipe: str = "") -> None:
    """Fills the form in and presses the button."""
    if recipe:
        pick(page, page.get_by_role("combobox", name="Recipe"), recipe)
    page.get_by_label("Name of the new version").fill(name)
    page.get_by_label("Name of the new version").press("Tab")
    page.get_by_role("button", name="Learn from it").click()


def judge(studio: Studio, name: str, wins: int) -> None:
    """One rater compares a version with its parent: in the first of the requests it is better."""
    project = version(studio, name).project_id
    team = Team(studio.store, studio.people["mona"], studio.people["ada"], [studio.people["rita"]])
    done = 0
    while (task := team.next(team.raters[0], project)) is not None:
        team.submit(team.raters[0], task, choices={"overall": 1 if done < wins else 0})
        done += 1


def process_of(studio: Studio, name: str) -> psutil.Process:
    return psutil.Process(json.loads((versions_folder(studio.data) / name / "run.json").read_text())["pid"])


def test_from_a_snapshot_to_a_candidate_while_everything_is_killed(studio: Studio, log_in: LogIn) -> None:
    (hold := studio.data / "hold").touch()
    page = log_in("mona")
    make_snapshot(page)
    expect(page.get_by_label("Name of the new version")).to_have_value("nano-v1-" + snapshot(studio)[:6])
    learn(page, FIRST)
    expect(page.get_by_text(f"Learning: {HELD_AT} of {STEPS}")).to_be_visible()
    expect(page.get_by_test_id("stVegaLiteChart")).to_be_visible()
    expect(page.get_by_role("button", name="Learn from it")).to_have_count(0)
    run = process_of(studio, FIRST)
    assert os.getpgid(run.pid) == run.pid, "in a process group of its own"
    studio.process.kill()
    studio.process.wait()
    port = int(studio.url.rstrip("/").rpartition(":")[2])
    studio.process = start_studio(studio.data, port, module=MODULE)
    page.goto(f"{studio.url}versions")
    expect(page.get_by_text(f"Learning: {HELD_AT} of {STEPS}")).to_be_visible()
    assert run.is_running()
    run.kill()
    expect(page.get_by_text("It was cut off")).to_be_visible()
    hold.unlink()
    expect(page.get_by_text("Press Go on: it continues from its last save.")).to_be_visible()
    page.get_by_role("button", name=f"Go on with {FIRST}").click()
    expect(page.get_by_text(f"{FIRST} is learned, and a candidate now.")).to_be_visible()
    rows = (versions_folder(studio.data) / FIRST / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == list(range(STEPS)), "it went on where it was cut off"
    assert version(studio, FIRST).state == "candidate"


def snapshot(studio: Studio) -> str:
    return next(one.sha256 for one in studio.store.snapshots.all(studio.people["mona"]) if not one.emptied)


def test_a_run_that_cannot_be_or_is_stopped_says_so(studio: Studio, log_in: LogIn) -> None:
    page = log_in("mona")
    page.goto(f"{studio.url}versions")
    for name, told in (("../etc", "cannot have that name"), (FIRST, "There is a version or a run of that name")):
        learn(page, name)
        expect(page.get_by_text(told)).to_be_visible()
    learn(page, "broken", "broken")
    expect(page.get_by_text("It failed. The recipe has an unknown key")).to_be_visible()
    throw_away(page)
    expect(page.get_by_text("is thrown away")).to_be_visible()
    assert not (versions_folder(studio.data) / "broken").exists()
    (hold := studio.data / "hold").touch()
    learn(page, "stopped", "default")
    expect(page.get_by_text(f"Learning: {HELD_AT} of {STEPS}")).to_be_visible()
    page.get_by_role("button", name="Stop stopped", exact=True).click()
    expect(page.get_by_text("It was stopped.")).to_be_visible()
    hold.unlink()
    throw_away(page)
    expect(page.get_by_text("What stopped had learned is thrown away")).to_be_visible()


def test_only_a_better_version_is_served_and_one_press_takes_it_back(studio: Studio, log_in: LogIn) -> None:
    page = log_in("mona")
    page.goto(f"{studio.url}versions")
    expect(page.get_by_text("It cannot be promoted yet: nobody's comparisons count yet.")).to_be_visible()
    expect(page.get_by_role("button", name=f"Promote {FIRST}", exact=True)).to_be_disabled()
    still(page)
    comparison = comparison_name(version(studio, FIRST).id)
    page.get_by_text(f"The project: {comparison}").click()
    expect(page.get_by_role("button", name="Let them take part")).to_be_visible()
    pick(page, page.get_by_role("combobox", name="People"), "rita")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Let them take part").click()
    expect(page.get_by_text(f"rita: raters of {comparison}")).to_be_visible()
    still(page)
    page.get_by_text(f"The project: {comparison}").click()
    page.get_by_role("button", name="Open to its raters").click()
    expect(page.get_by_text(f"{comparison} is open to its raters")).to_be_visible()
    judge(studio, FIRST, wins=36)
    page.goto(f"{studio.url}versions")
    expect(page.get_by_text("36 wins, 0 ties, 4 losses on 40 requests")).to_be_visible()
    expect(page.get_by_role("img", name="Win rate 90%")).to_be_visible()
    page.get_by_role("button", name=f"Promote {FIRST}", exact=True).click()
    expect(page.get_by_text("That needs a reason")).to_be_visible()
    expect(page.get_by_text("It is worse than its parent at vqa.")).to_be_visible()
    page.get_by_label("Reason").fill("Better on what was held out")
    page.get_by_role("button", name=f"Promote {FIRST}", exact=True).click()
    expect(page.get_by_text(f"{FIRST} is served from now on")).to_be_visible()
    assert studio.store.versions.served() == FIRST
    page.get_by_role("button", name="Go back to the base, nano v1").click()
    expect(page.get_by_text("nano v1 is served again")).to_be_visible()
    assert studio.store.versions.served() is None


def test_a_version_that_is_not_better_cannot_be_promoted(studio: Studio, log_in: LogIn) -> None:
    page = log_in("mona")
    page.goto(f"{studio.url}versions")
    pick(page, page.get_by_role("combobox", name="Start from"), FIRST)
    expect(page.get_by_label("Name of the new version")).to_have_value(f"{FIRST}-{snapshot(studio)[:6]}")
    learn(page, SECOND)
    expect(page.get_by_text(f"{SECOND} is learned, and a candidate now.")).to_be_visible()
    project = version(studio, SECOND).project_id
    studio.store.projects.add_member(studio.people["mona"], project, studio.people["rita"].id)
    studio.store.projects.change_state(studio.people["mona"], project, "open")
    judge(studio, SECOND, wins=21)
    page.goto(f"{studio.url}versions")
    expect(page.get_by_text("must lie above 50%")).to_be_visible()
    expect(page.get_by_role("button", name=f"Promote {SECOND}", exact=True)).to_be_disabled()


def test_an_output_leads_to_what_was_said(studio: Studio, log_in: LogIn) -> None:
    page, told = log_in("mona"), "rests on 40 judgements by 2 raters in 1 project."
    made = studio.store.projects.responses(studio.people["mona"], "text", "report")
    for wanted in (FIRST, next(one for one in made if made_by(studio.store.database, one) == [FIRST])):
        page.goto(f"{studio.url}versions")
        page.get_by_label("An output's id").fill(wanted)
        page.get_by_label("An output's id").press("Enter")
        expect(page.get_by_text(f"{FIRST}: {told}")).to_be_visible()
        drawing = page.locator("[data-testid=stGraphVizChart] text")
        for words in (f"Project {PROJECT}", snapshot(studio)[:8], SECOND, "nano v1"):
            expect(drawing.filter(has_text=words).first).to_be_visible()
        assert not {"rita", "ralf"} & set(" ".join(drawing.all_text_contents()).split()), "raters are not named"
    page.get_by_label("An output's id").fill("nothing of ours")
    page.get_by_label("An output's id").press("Enter")
    expect(page.get_by_text("There is no version and no output of that name")).to_be_visible()
    go(page, "Progress")
    page.get_by_label("Or any item, by its number").fill("1")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Made by nano-").first.click()
    expect(page.get_by_text("which was not learned here")).to_be_visible()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_has_no_serious_barrier_and_asks_nobody_else(
    studio: Studio, log_in: LogIn, axe: str, width: int
) -> None:
    page, asked = log_in("mona", width), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{studio.url}versions?of={SECOND}")
    expect(page.locator("[data-testid=stGraphVizChart] text").filter(has_text=SECOND)).to_be_visible()
    checker = Checker(page, axe)
    checker.look("versions")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert checker.found == {}
    assert [url for url in asked if not url.startswith((studio.url, "data:", "blob:"))] == []


def test_a_rater_sees_no_version(studio: Studio, log_in: LogIn) -> None:
    page = log_in("rita")
    for path in ("", f"versions?of={FIRST}"):
        page.goto(f"{studio.url}{path}")
        expect(page.get_by_text("rita, rater")).to_be_visible()
        if not path:  # the projects, among them the comparison: its name must not tell which side is whose
            page.get_by_label("Project").click()
            expect(page.get_by_role("option", name=comparison_name(version(studio, FIRST).id))).to_be_visible()
        assert FIRST not in page.content() and SECOND not in page.content()


def test_what_has_seen_a_withdrawn_patient_is_named_and_learned_again(studio: Studio, log_in: LogIn) -> None:
    page, emptied = log_in("mona"), snapshot(studio)
    go(page, "Rights and log")
    expect(page.get_by_text("No judgement was withdrawn yet.")).to_be_visible()
    pick(page, page.get_by_role("combobox", name="Source"), "archive")
    page.get_by_role("textbox", name="Patient").fill("3")
    page.get_by_role("button", name="Withdraw the patient").click()
    expect(page.get_by_text(f"These versions had seen them: {SECOND}, {FIRST}.")).to_be_visible()
    expect(page.get_by_text("2 judgements, seen by 2 of the learned versions")).to_be_visible()
    page.get_by_role("link", name="Learn again without").click()
    expect(page.get_by_text("It has learned from something that was withdrawn since.")).to_have_count(2)
    still(page)
    page.get_by_text("Retired versions: 1").click()
    page.get_by_role("button", name=f"Learn {FIRST} again without it").click()
    expect(page.get_by_text(f"The form below is filled in as for {FIRST}: press Learn from it.")).to_be_visible()
    expect(page.get_by_role("link", name="To the form, which is filled in")).to_have_count(1)
    again = snapshot(studio)
    assert again != emptied
    expect(page.get_by_label("Name of the new version")).to_have_value(f"nano-v1-{again[:6]}")
    learn(page, "sharper-3")
    expect(page.get_by_text("sharper-3 is learned, and a candidate now.")).to_be_visible()
    made = version(studio, "sharper-3")
    assert made.lineage.snapshot == again and not made.tainted
    page.goto(f"{studio.url}versions?of={FIRST}")
    expect(page.get_by_text("of which 2 were withdrawn since")).to_be_visible()
    expect(page.locator("[data-testid=stGraphVizChart] text").filter(has_text="⚠ withdrawn since")).to_have_count(4)
    assert list(studio.store.verify()) == []
