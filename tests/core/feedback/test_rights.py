"""Withdrawing what is kept of a person and of a patient; on both databases. The log fits the tables after it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from core.errors import AccessError, FeedbackError
from core.feedback.models import Base, utc_now
from core.feedback.projects import NewItem
from core.feedback.rights import Withdrawn
from core.feedback.rubric import Plan
from core.feedback.store import FeedbackStore
from core.feedback.studio import StudioStore
from core.sequence import Text
from tests.core.feedback.builders import add, picture
from tests.core.feedback.team import NOON, Team, answer

TABLES = Base.metadata.tables


@pytest.fixture
def team(studio: StudioStore) -> Team:
    return Team.of(studio, 3)


def rows(engine: sa.Engine, table: str, **of: object) -> list[sa.Row]:
    with engine.connect() as connection:
        return connection.execute(sa.select(TABLES[table]).filter_by(**of)).all()


def everything(engine: sa.Engine) -> str:
    return repr([rows(engine, table) for table in TABLES])


def files(folder: Path) -> set[str]:
    return {path.stem for path in folder.rglob("*.png")}


def test_a_gold_answer_goes_with_the_person_that_it_is_from(team: Team, engine: sa.Engine) -> None:
    project, projects, (rita, ralf, _) = team.project(count=2), team.store.projects, team.raters
    team.judge_all(rita, project, 5, comment="Words of hers.")
    for one in rows(engine, "judgements"):
        projects.mark_gold(team.maintainer, one.id)
    copied = team.project(items=projects.gold_items(team.maintainer, project), name="checked")
    team.judge_all(ralf, copied, 5)
    assert "of hers" not in repr(rows(engine, "items"))
    team.store.withdraw_person(team.maintainer, rita.id)
    assert [one.gold for one in rows(engine, "items")] == [None] * 4
    assert projects.gold_items(team.maintainer, copied) == []


def test_a_person_who_withdraws_leaves_tombstones_and_the_items_go_to_others(team: Team, engine: sa.Engine) -> None:
    store, project, (rita, ralf, rosa) = team.store, team.project(count=2), team.raters
    task = team.next(rita, project)
    team.submit(rita, task, 1, comment="Words of hers.")
    team.submit(rita, task, 2, reason="Reason of hers.", comment="Words of hers.")
    held = team.next(rita, project)
    store.queue.save(rita, held.id, {"comment": "Words of hers, not finished."}, 1.0)
    team.judge_all(ralf, project, 5)
    assert team.next(team.adjudicator, project) is not None
    assert team.next(rosa, project) is None  # both items have two people

    assert store.withdraw_person(team.maintainer, rita.id) == Withdrawn(0, 0, 2)
    said = rows(engine, "judgements", user_id=rita.id)
    assert [(j.version, j.answer, j.salt, j.reason) for j in said] == [
        (1, None, None, None),
        (2, None, None, "withdrawn"),
    ]
    assert all(j.withdrawn_at and j.active_seconds == 0 for j in said)
    (user,) = rows(engine, "users", id=rita.id)
    assert user.login == f"withdrawn-{rita.id}" and user.disabled_at
    assert (user.password_hash, user.subject, user.salt) == (None, None, None)
    kept = everything(engine)
    assert "of hers" not in kept and "rita" not in kept
    assert rows(engine, "drafts") == []
    assert list(store.verify()) == []

    assert store.people.of_subject("test|rita") is None
    for call in (lambda: team.next(rita, project), lambda: team.submit(rita, held)):
        with pytest.raises(AccessError):
            call()
    assert store.queue.progress(team.adjudicator, project, "adjudicate").total == 0  # nobody disagrees any more
    assert len(team.judge_all(rosa, project, 5)) == 2
    assert store.withdraw_person(team.maintainer, rita.id) == Withdrawn(0, 0, 0)
    with pytest.raises(FeedbackError, match="no such account"):
        store.withdraw_person(team.maintainer, "nobody")


def test_who_has_left_can_still_be_withdrawn(team: Team, engine: sa.Engine) -> None:
    store, project, (rita, *others), by = team.store, team.project(count=1), team.raters, team.maintainer
    team.judge_all(rita, project, comment="Words of hers.")
    store.people.disable(by, rita.id)
    assert rita not in store.people.everyone(by) and store.people.to_withdraw(by)[rita.id] == "rita"
    assert store.withdraw_person(by, rita.id) == Withdrawn(0, 0, 1)
    assert set(store.people.to_withdraw(by)) == {by.id, team.adjudicator.id, *(one.id for one in others)}
    assert "of hers" not in everything(engine)


def test_the_sources_of_patients_are_those_that_are_kept(team: Team) -> None:
    store, by = team.store, team.maintainer
    assert store.sources(by) == []
    for n, (source, patient) in enumerate([("ward", "1"), ("archive", "1"), ("archive", "2")]):
        store.add_run(
            by, task="report", inputs=[picture(n)], outputs=[Text("None.")], settings={}, seed=0, model_name="m",
            model_fingerprint="f", key=str(n), case=(source, patient, ""),
        )  # fmt: skip
    assert store.sources(by) == ["archive", "ward"]
    store.withdraw_patient(by, "ward", "1")
    assert store.sources(by) == ["archive"]


def test_what_an_adjudicator_who_withdraws_has_settled_is_open_again(team: Team, engine: sa.Engine) -> None:
    store, ada = team.store, team.adjudicator
    project = team.project(count=1)
    for rater, score in zip(team.raters[:2], (1, 5), strict=True):
        team.judge_all(rater, project, score)
    team.submit(ada, team.next(ada, project), 3)
    assert store.withdraw_person(team.maintainer, ada.id) == Withdrawn(0, 0, 1)
    store.people.add(team.maintainer, "adam", "adjudicator", subject="test|adam")
    adam = store.people.of_subject("test|adam")
    store.projects.add_member(team.maintainer, project, adam.id, "adjudicate")
    task = store.queue.next(adam, project, "adjudicate")
    assert len(task.others) == 2
    assert store.queue.submit(adam, task.id, answer(), 1.0, NOON) == 1


def test_a_patient_who_withdraws_takes_pictures_items_and_judgements_along(
    team: Team, engine: sa.Engine, pictures: Path
) -> None:
    store, by, rita = team.store, team.maintainer, team.raters[0]
    gone, stays = team.outputs(count=2, patient="Doe"), team.outputs(count=2, model="second", patient="Roe")
    texts = team.outputs("text", 1, model="third", patient="Doe")
    gold = {"scores": {"anatomy": 1, "overall": 1}, "comment": "Gold of Doe."}
    rate = team.project(items=[NewItem((one,), gold=gold if one in gone else None) for one in (*gone, *stays)])
    compare = team.project("compare", items=[NewItem(pair) for pair in zip(gone, stays, strict=True)])
    correct = team.project("correct", items=[NewItem((texts[0],))])
    for project in (rate, compare):
        team.judge_all(rita, project)
    task = team.next(rita, correct)
    team.submit(rita, task, text="Correction for Doe.")
    held = team.next(team.raters[1], correct)
    store.queue.save(team.raters[1], held.id, {"text": "Draft about Doe."}, 1.0)
    drawn, source = picture(100, generated=True).sha256, picture(0).sha256
    assert {drawn, source} <= files(pictures)

    assert store.withdraw_patient(by, "archive", "Doe") == Withdrawn(generations=3, items=5, judgements=5)
    kept = everything(engine)
    assert "Doe" not in kept and not any(one in repr(rows(engine, "responses")) for one in (*gone, *texts))
    assert len(rows(engine, "cases")) == 2  # those of Roe
    assert list(store.verify()) == []
    assert {drawn, source} <= files(pictures)  # the other model has drawn the same from the same
    for person, project in [(rita, correct), (team.raters[1], correct), (team.raters[1], compare)]:
        assert team.next(person, project) is None
    for call in (
        lambda: store.queue.get(rita, task.id),
        lambda: store.queue.save(team.raters[1], held.id, {}, 1.0),
        lambda: team.submit(team.raters[1], held),
    ):
        with pytest.raises(FeedbackError, match="case was withdrawn"):
            call()
    with pytest.raises(FeedbackError, match="nothing before"):
        store.queue.before(rita, correct)
    assert len(team.judge_all(team.raters[1], rate)) == 2
    with pytest.raises(FeedbackError, match="nothing of such a patient"):
        store.withdraw_patient(by, "archive", "Doe")

    assert store.withdraw_patient(by, "archive", "Roe").generations == 2
    assert files(pictures) == set()


def test_who_holds_an_item_that_is_withdrawn_goes_on_with_the_next(team: Team) -> None:
    (gone,), rest = team.outputs(count=1, patient="Doe"), team.outputs(count=4, model="second")[1:]
    project = team.project(items=[NewItem((one,)) for one in (gone, *rest)], plan=Plan(design="crossed"))
    rita = team.raters[0]
    for _ in range(4):
        task = team.next(rita, project)
        if task.shown.outputs[0]["sha256"] == picture(100).sha256:
            break
        team.submit(rita, task)
    else:
        pytest.fail("The patient's item did not come")
    team.store.withdraw_patient(team.maintainer, "archive", "Doe")
    after = team.judge_all(rita, project)
    assert task.id not in {one.id for one in after}


def test_withdrawals_in_the_midst_of_rating(open_studio: Callable[[], StudioStore], engine: sa.Engine) -> None:
    """Nothing that is withdrawn is said after it, nobody else is held up, and the log fits at every moment."""
    team = Team.of(open_studio(), 4)
    ids = team.outputs(count=6, patient="Doe") + team.outputs(count=6, model="second")
    project = team.project(items=[NewItem((one,)) for one in ids], plan=Plan(design="crossed"))
    stores, errors, begun = [open_studio() for _ in team.raters], [], threading.Barrier(5)

    def rate(number: int) -> None:
        own, rater = replace(team, store=stores[number]), team.raters[number]
        begun.wait()
        while True:
            try:
                own.judge_all(rater, project, number + 1)
                return
            except AccessError as error:
                if number:
                    errors.append(error)
                return
            except FeedbackError as error:
                if "withdrawn" not in str(error):
                    errors.append(error)
                    return

    threads = [threading.Thread(target=rate, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    begun.wait()
    found = list(team.store.verify())
    team.store.withdraw_person(team.maintainer, team.raters[0].id)
    found += team.store.verify()
    team.store.withdraw_patient(team.maintainer, "archive", "Doe")
    for thread in threads:
        found += team.store.verify()
        thread.join()
    assert errors == [] and found == [] and list(team.store.verify()) == []
    gone = {item.id for item in rows(engine, "items") if item.withdrawn_at}
    said = {(j.item_id, j.user_id) for j in rows(engine, "judgements") if j.answer}
    assert len(gone) == 6 and not any(item in gone or user == team.raters[0].id for item, user in said)
    assert len(said) == 3 * 6


def test_a_visitor_who_withdraws_takes_their_items_out_of_the_studio(
    team: Team, open_store: Callable[..., FeedbackStore], engine: sa.Engine
) -> None:
    demo, store = open_store(), team.store
    code, other = demo.give_consent(), demo.give_consent()
    mine = add(demo, code, outputs=[Text("An answer to me.")])
    theirs = add(demo, other, outputs=[Text("An answer to them.")])
    correction = demo.correct(code, theirs.response_ids[0], "My correction.")
    second = demo.correct(other, correction, "Their correction of mine.")
    shown = [mine.response_ids[0], theirs.response_ids[0], correction, second]
    project = team.project("correct", items=[NewItem((one,)) for one in shown])
    team.judge_all(team.raters[0], project)
    assert list(store.verify()) == []

    demo.withdraw(code)
    assert list(store.verify()) == []
    gone = {item.response_ids[0] for item in rows(engine, "items") if item.withdrawn_at}
    assert gone == {mine.response_ids[0], correction, second}
    assert sum(j.answer is None for j in rows(engine, "judgements")) == 3
    assert "to me" not in everything(engine) and "orrection" not in repr(rows(engine, "responses"))
    assert len(team.judge_all(team.raters[1], project)) == 1

    demo.withdraw(other)
    assert all(item.withdrawn_at for item in rows(engine, "items"))


def test_an_expired_consent_takes_its_items_along(team: Team, open_store: Callable[..., FeedbackStore]) -> None:
    demo = open_store(kept=timedelta(days=1))
    ref = add(demo, demo.give_consent(), outputs=[Text("An answer.")])
    project = team.project("correct", items=[NewItem(ref.response_ids)])
    team.next(team.raters[0], project)
    demo.purge_expired(utc_now() + timedelta(days=2))
    assert team.next(team.raters[0], project) is None
