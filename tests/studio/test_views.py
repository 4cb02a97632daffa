"""Pages whose forms are more than one call of the store, without a browser."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from streamlit.testing.v1 import AppTest

from core.feedback.gate import gate_of
from core.feedback.projects import NewItem
from core.feedback.snapshots import Rules
from core.feedback.store import FeedbackStore
from core.feedback.studio import StudioStore
from core.feedback.studio_models import Judgement
from core.model.fingerprint import learned_fingerprint
from core.sequence import Text
from studio.base import Base
from studio.runs import Runs
from studio.views.projects import _named
from tests.core.feedback.builders import add, picture
from tests.core.feedback.team import Team, filled, lineage
from tests.studio.conftest import open_store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StudioStore]:
    with open_store(tmp_path) as store:
        monkeypatch.setattr("studio.context.store", lambda: store)
        yield store
        assert list(store.verify()) == []


@pytest.fixture
def team(store: StudioStore) -> Team:
    return Team.of(store)


def projects() -> None:
    from studio import context
    from studio.views import projects

    projects.show(context.store().people.named("mona"))


def items() -> None:
    from studio import context
    from studio.views import items

    mona = context.store().people.named("mona")
    items.show(mona, context.store().projects.of(mona)[0])


def rights() -> None:
    from studio import context
    from studio.views import rights

    context.say_done()
    rights.show(context.store().people.named("mona"))


def versions() -> None:
    from studio import context
    from studio.views import versions

    context.say_done()
    versions.show(context.store().people.named("mona"))


def opened(page: object) -> AppTest:
    app = AppTest.from_function(page, default_timeout=30).run()
    assert not app.exception
    return app


def press(app: AppTest, label: str) -> None:
    next(button for button in app.button if button.label == label).click().run()
    assert not app.exception


def test_who_has_left_and_a_patient_are_withdrawn(team: Team) -> None:
    team.outputs(count=2, patient="7")
    team.store.people.disable(team.maintainer, team.raters[0].id)
    app = opened(rights)
    person, source = app.selectbox
    assert person.options == ["judith", "mona", "ralf", "rita"] and source.options == ["archive"]
    person.select(team.raters[0].id)
    app.text_input[0].input("ralf")
    press(app, "Withdraw the person")
    assert "differ" in app.error[0].value
    app.text_input[0].input("rita")
    press(app, "Withdraw the person")
    assert "rita" not in app.selectbox[0].options and "0 judgements" in app.success[0].value
    app.text_input[1].input("7")
    press(app, "Withdraw the patient")
    assert "Choose a source" in app.error[0].value
    app.selectbox[1].select("archive")
    press(app, "Withdraw the patient")
    assert "Withdrawn: 2 runs" in app.success[0].value and app.selectbox[1].options == []


def test_a_project_that_cannot_be_keeps_no_name(team: Team) -> None:
    before = team.project(count=3)
    team.judge_all(team.raters[0], before)
    gold = team.store.projects
    with team.store.database.reading() as session:
        judgement = session.scalar(sa.select(Judgement.id))
    gold.mark_gold(team.maintainer, judgement)
    app = opened(projects)
    app.text_input[0].input("Quality")
    next(one for one in app.selectbox if one.label == "With the gold items of the project").select(before).run()
    press(app, "Make it")
    made = {one.name: one for one in gold.of(team.maintainer)}["Quality"]
    assert made.items == 3, "the gold item is among them once"
    assert len(gold.gold_items(team.maintainer, made.id)) == 1


def test_a_decision_by_hand_rests_on_the_judgement_that_was_chosen(team: Team, tmp_path: Path) -> None:
    with FeedbackStore(f"sqlite:///{tmp_path / 'feedback.sqlite'}", tmp_path / "pictures") as visits:
        code = visits.give_consent()
        run = add(visits, code, "run", inputs=[picture(1)], outputs=[Text("A text.")])
        visits.rate(code, run.response_ids[0], 1)
    project = team.project(items=[NewItem(run.response_ids)])
    (rita, ralf), say = team.raters, {"scores": {"anatomy": 3, "overall": 3}}
    team.submit(rita, team.next(rita, project), **say)
    team.submit(ralf, team.next(ralf, project), scores={}, cannot_judge="other")
    app = opened(items)
    app.number_input[0].set_value(1).run()
    ground = next(one for one in app.selectbox if one.label.startswith("Whether it counts"))
    assert len(ground.options) == 1, "ralf could not judge it"
    assert all(one.disabled for one in app.button if one.label in ("Confirmed", "Rejected"))
    with team.store.database.reading() as session:
        judgement = session.scalar(sa.select(Judgement.id).where(Judgement.user_id == rita.id))
    ground.select(judgement).run()
    press(app, "Confirmed")
    newest = team.store.events(team.maintainer, 1)[0]
    assert (newest.action, newest.after["trust"], newest.after["judgement"]) == ("decide trust", "confirmed", judgement)


def test_files_of_one_name_are_all_taken() -> None:
    class Sent:
        def __init__(self, name: str, content: bytes) -> None:
            self.name, self._content = name, content

        def getvalue(self) -> bytes:
            return self._content

    sent = [Sent(name, bytes([n])) for n, name in enumerate(("a.png", "a (2).png", "a.png", "a.png", "b"))]
    named = _named(sent)
    assert list(named.values()) == [bytes([n]) for n in range(5)]
    assert list(named) == ["a.png", "a (2).png", "a (3).png", "a (4).png", "b"]


@pytest.fixture
def here(team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A version nano-2 that wins all comparisons with its base, and its files. Returns its snapshot's digest."""
    folder, snapshot = tmp_path / "versions", team.store.snapshots.make(team.maintainer, Rules((filled(team),)))
    about = lineage("nano-2", snapshot.sha256)
    (folder / "nano-2").mkdir(parents=True)
    about.write(folder / "nano-2")
    fingerprint = learned_fingerprint(about.base_fingerprint, folder / "nano-2")
    team.store.versions.register(team.maintainer, about, fingerprint)
    monkeypatch.setattr("studio.context.runs", lambda: Runs(folder))
    monkeypatch.setattr("studio.context.person", lambda: team.store.people.named("mona"))
    monkeypatch.setattr("studio.views.versions.base", lambda: Base(about.base, about.base_fingerprint, "nano.json"))
    monkeypatch.setattr("studio.views.versions.learning.unseen", lambda *_: [None] * 3)
    won = gate_of([1.0] * 40)
    monkeypatch.setattr(team.store.versions, "gate", lambda _: won)
    project = filled(team, name="beside")
    team.store.versions.link(team.maintainer, team.store.versions.all()[0].id, project)
    return snapshot.sha256


def promote(app: AppTest) -> object:
    return next(button for button in app.button if button.label == r"Promote nano\-2")


def test_what_the_demo_cannot_answer_with_is_not_promoted(here: str, tmp_path: Path) -> None:
    app = opened(versions)
    assert not promote(app).disabled
    assert "Its tasks were not measured (UNIMED_RECORDS is not set)." in [one.value for one in app.warning]
    folder = tmp_path / "versions" / "nano-2"
    (folder / "adapter_model.safetensors").write_text("of somebody else")
    app = opened(versions)
    assert promote(app).disabled and any("not those that were registered" in one.value for one in app.markdown)
    shutil.rmtree(folder)
    app = opened(versions)
    assert promote(app).disabled and any("its files are not here" in one.value for one in app.markdown)


def test_the_form_knows_the_size_of_the_base_and_says_where_requests_are_too_few(here: str) -> None:
    app = opened(versions)
    assert next(one for one in app.selectbox if one.label == "Recipe").value == "nano.json"
    assert app.number_input[0].min == 10 and app.number_input[0].value == 40
    assert any(one.value.startswith("Only 3 requests are there") for one in app.warning)
    assert any("feedback run FILE... --task report --by mona" in one.value for one in app.code)


def test_what_is_about_pictures_is_learned_by_their_recipe(here: str, team: Team) -> None:
    project = team.project()
    for rater in team.raters:
        team.judge_all(rater, project, scores={"anatomy": 5, "overall": 5})
    drawn = team.store.snapshots.make(team.maintainer, Rules((project,)))
    app = opened(versions)
    chosen, recipe = (next(one for one in app.selectbox if one.label == of) for of in ("Snapshot", "Recipe"))
    assert (chosen.value, recipe.value) == (drawn.sha256, "nano_images.json")
    chosen.select(here).run()
    assert next(one for one in app.selectbox if one.label == "Recipe").value == "nano.json"


def test_a_run_that_learns_from_something_withdrawn_is_named(here: str, team: Team, tmp_path: Path) -> None:
    (folder := tmp_path / "versions" / "nano-3").mkdir()
    order = {"name": "nano-3", "snapshot": here, "base": None, "recipe": "nano.json", "compare": 40}
    (folder / "run.json").write_text(json.dumps(order))
    assert "Go on with nano\\-3" in [button.label for button in opened(versions).button]
    assert not any("nano" in one.value for one in opened(rights).warning)
    team.store.withdraw_person(team.maintainer, team.raters[0].id)
    told = "It learns from something that was withdrawn: stop it and throw it away."
    app = opened(versions)
    assert told in [one.value for one in app.error]
    assert "Go on with nano\\-3" not in [button.label for button in app.button]
    assert any(one.value == f"{told} nano\\-3" for one in opened(rights).warning)


def test_a_version_of_another_base_is_learned_again_on_the_new_one(
    team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = team.store.snapshots.make(team.maintainer, Rules((filled(team),)))
    team.store.versions.register(team.maintainer, lineage("nano-2", snapshot.sha256), "f" * 64)
    other = team.store.snapshots.make(team.maintainer, Rules((filled(team, name="two"),)))
    monkeypatch.setattr("studio.context.runs", lambda: Runs(tmp_path / "versions"))
    here = Base("tiny", lineage("", "").base_fingerprint)
    monkeypatch.setattr("studio.views.versions.base", lambda: here)
    assert r"Learn nano\-2 again on the new base" not in [button.label for button in opened(versions).button]
    monkeypatch.setattr("studio.views.versions.base", lambda: Base("larger", "9" * 64))
    app = opened(versions)
    chosen = next(one for one in app.selectbox if one.label == "Snapshot")
    assert chosen.value == other.sha256, "the newest"
    press(app, r"Learn nano\-2 again on the new base")
    chosen, start = (next(one for one in app.selectbox if one.label == of) for of in ("Snapshot", "Start from"))
    assert chosen.value == snapshot.sha256 and start.options == ["larger, the base (served now)"]
    assert any("no recipe is the one that it was learned by" in one.value for one in app.success)
    assert app.text_input(key="new name").value == f"larger-{snapshot.sha256[:6]}"
