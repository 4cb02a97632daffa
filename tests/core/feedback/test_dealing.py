"""Who gets which item next, whoever comes, goes and comes back; on both databases."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from core.errors import FeedbackError
from core.feedback.answers import MOST_POINTS
from core.feedback.dealing import Dealer
from core.feedback.models import Base, utc_now
from core.feedback.projects import NewItem
from core.feedback.rubric import Plan
from core.feedback.studio import StudioStore
from core.feedback.studio_models import Project
from core.sequence import Text
from tests.core.feedback.builders import picture
from tests.core.feedback.team import (
    Clock,
    Team,
    account,
    judgements,
    told_apart,
)

# Dealing


def test_nobody_is_dealt_more_than_the_overlap(open_studio: Callable[[], StudioStore], engine: sa.Engine) -> None:
    """Four raters at once, each with a connection of their own."""
    team = Team.of(open_studio(), 4)
    project, together, errors = team.project(count=6), threading.Barrier(4), []
    stores = [open_studio() for _ in team.raters]

    def rate(number: int) -> None:
        try:
            together.wait()
            replace(team, store=stores[number]).judge_all(team.raters[number], project)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=rate, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    said = judgements(engine, "item_id", "user_id")
    assert len(set(said)) == len(said) == 12
    assert set(Counter(item for item, _ in said).values()) == {2}
    assert list(team.store.verify()) == []


def test_two_who_ask_at_once_get_one_item_between_them(open_studio: Callable[[], StudioStore]) -> None:
    team = Team.of(open_studio())
    project, together, got = team.project(count=1, plan=Plan(overlap=1)), threading.Barrier(2), []
    stores = [open_studio(), open_studio()]

    def ask(number: int) -> None:
        together.wait()
        got.append(stores[number].queue.next(team.raters[number], project))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 2 and got.count(None) == 1


def test_asking_again_gives_the_same_item(team: Team) -> None:
    project, rita = team.project(), team.raters[0]
    first = team.next(rita, project)
    assert team.next(rita, project) == first
    assert team.store.queue.get(rita, first.id) == first


def test_the_item_of_who_vanishes_comes_to_another_and_their_draft_waits(
    team: Team, clock: Clock, engine: sa.Engine
) -> None:
    project, (rita, ralf) = team.project(count=1, plan=Plan(overlap=1)), team.raters
    hers = team.next(rita, project)
    team.store.queue.save(rita, hers.id, {"scores": {"anatomy": 2}, "comment": "Blurred at the rim."}, 30.0)
    assert team.next(ralf, project) is None
    clock.move(minutes=61)
    his = team.next(ralf, project)
    assert told_apart(his) == told_apart(hers) and his.draft == {} and his.id != hers.id
    assert team.next(rita, project) is None
    clock.move(minutes=61)  # now he is gone as well
    back = team.next(rita, project)
    assert back.id == hers.id and back.active_seconds == 30.0
    assert back.draft["scores"] == {"anatomy": 2} and back.draft["comment"] == "Blurred at the rim."
    assert team.next(ralf, project) is None
    team.submit(rita, back)
    team.submit(ralf, his)  # what he did is not thrown away when he comes back late
    assert sorted(judgements(engine, "user_id", "version")) == sorted([(rita.id, 1), (ralf.id, 1)])
    assert team.next(rita, project) is None and team.next(ralf, project) is None
    with engine.connect() as connection:
        assert connection.scalar(sa.select(Base.metadata.tables["items"].c.taken)) == 2


def test_who_comes_back_finds_their_draft_before_anything_new(team: Team, clock: Clock) -> None:
    project, (rita, _) = team.project(), team.raters
    hers = team.next(rita, project)
    team.store.queue.save(rita, hers.id, {"comment": "Mine."}, 1.0)
    clock.move(minutes=61)
    assert team.next(rita, project).id == hers.id


def test_a_refused_field_does_not_take_the_others_along(team: Team) -> None:
    project, (rita, _) = team.project(), team.raters
    task, save = team.next(rita, project), team.store.queue.save
    save(rita, task.id, {"scores": {"anatomy": 2}, "comment": "Blurred."}, 1.0)
    box = {"label": "blur", "kind": "box", "x0": 1, "y0": 1, "x1": 5, "y1": 5}
    new = {"scores": {"anatomy": 4}, "regions": [box], "comment": "Blurred since 3.4.2019."}
    with pytest.raises(FeedbackError, match=r"a date.*All else is saved"):
        save(rita, task.id, new, 2.0)
    draft = team.next(rita, project).draft
    assert (draft["scores"], draft["regions"], draft["comment"]) == ({"anatomy": 4}, [box], "Blurred.")
    stroke = {"label": "blur", "kind": "brush", "width": 2, "points": [[1, 1]] * (MOST_POINTS + 1)}
    with pytest.raises(FeedbackError, match=r"too many points: 5001.*All else is saved"):
        save(rita, task.id, {**new, "comment": "", "regions": [stroke]}, 3.0)
    draft = team.next(rita, project).draft
    assert (draft["regions"], draft["comment"]) == ([box], "")


def test_a_long_report_can_be_corrected(team: Team) -> None:
    ref = team.store.add_run(
        team.maintainer, task="report", inputs=[picture(1)], outputs=[Text("Since 3.4.2019. " + "Clear. " * 500)],
        settings={}, seed=0, model_name="m", model_fingerprint="f", key="long",
    )  # fmt: skip
    project = team.project("correct", items=[NewItem(ref.response_ids)])
    task = team.next(team.raters[0], project)
    assert team.submit(team.raters[0], task, text=task.shown.outputs[0]["text"] + "No effusion.") == 1


def test_saving_keeps_the_item(team: Team, clock: Clock) -> None:
    project, (rita, ralf) = team.project(count=1, plan=Plan(overlap=1)), team.raters
    task = team.next(rita, project)
    for seconds in range(4):
        clock.move(minutes=40)
        team.store.queue.save(rita, task.id, {}, seconds)
        assert team.next(ralf, project) is None


def test_a_save_that_comes_after_the_item_was_given_away_does_not_take_it_back(team: Team, clock: Clock) -> None:
    project, (rita, ralf) = team.project(count=1, plan=Plan(overlap=1)), team.raters
    task = team.next(rita, project)
    clock.move(minutes=61)
    his = team.next(ralf, project)
    team.store.queue.save(rita, task.id, {"comment": "Late."}, 1.0)
    assert team.next(rita, project) is None
    assert team.next(ralf, project).id == his.id


def test_an_item_that_is_given_away_while_its_answer_arrives_is_counted_twice_as_it_was_judged(
    team: Team, open_studio: Callable[[], StudioStore], engine: sa.Engine
) -> None:
    project, (rita, ralf) = team.project(count=1, plan=Plan(overlap=1)), team.raters
    task = team.next(rita, project)
    with open_studio().database.writing() as session:
        held = session.get(Project, project, with_for_update=True)
        arrives = threading.Thread(target=team.submit, args=(rita, task))
        arrives.start()
        arrives.join(0.3)
        assert arrives.is_alive()
        assert Dealer(session, ralf, held, "judge", utc_now() + timedelta(hours=2)).next() is not None
    arrives.join()
    assert [user for (user,) in judgements(engine, "user_id")] == [rita.id]
    with engine.connect() as connection:
        assert connection.scalar(sa.select(Base.metadata.tables["items"].c.taken)) == 2


def test_crossed_everybody_rates_everything_in_an_order_of_their_own(team: Team) -> None:
    project = team.project(count=12, plan=Plan(design="crossed", overlap=1))
    orders = [[told_apart(task) for task in team.judge_all(rater, project)] for rater in team.raters]
    assert len(set(orders[0])) == 12 and sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


def test_split_readers_and_items_are_dealt_into_groups(studio: StudioStore) -> None:
    team = Team.of(studio, 3)
    project = team.project(count=7, plan=Plan(design="split", groups=2))
    first = team.next(team.raters[1], project)
    later = account(studio, team.maintainer, "late", "rater")
    studio.projects.add_member(team.maintainer, project, later.id)
    assert team.next(team.raters[1], project) == first
    got = [{told_apart(task) for task in team.judge_all(rater, project)} for rater in (*team.raters, later)]
    assert got[0] == got[2] and got[1] == got[3]
    assert got[0].isdisjoint(got[1]) and len(got[0]) + len(got[1]) == 7
    assert {len(got[0]), len(got[1])} == {3, 4}
    assert told_apart(first) in got[1]


def test_a_repeat_comes_after_the_washout_and_as_if_it_were_new(team: Team, clock: Clock, engine: sa.Engine) -> None:
    project, rita = team.project(count=2, plan=Plan(washout_days=14), repeated=True), team.raters[0]
    first = team.judge_all(rater := rita, project)
    team.judge_all(team.raters[1], project)
    assert team.next(rater, project) is None
    assert team.store.queue.progress(rita, project).total == 4
    clock.move(days=13, hours=23)
    assert team.next(rita, project) is None
    clock.move(hours=2)
    again = team.next(rita, project)
    assert again.id not in {task.id for task in first}
    assert (again.draft, again.version) == ({}, 0)
    clock.move(hours=2)
    assert team.next(rita, project).id == again.id  # also when the lease has run out
    team.submit(rita, again, score=1)
    assert len(team.judge_all(rita, project)) == 1
    assert team.next(rita, project) is None
    said = judgements(engine, "item_id", "occasion", user_id=rita.id)
    assert sorted(Counter(said).values()) == [1, 1, 1, 1] and Counter(o for _, o in said) == {0: 2, 1: 2}
    assert team.next(team.adjudicator, project) is None  # with oneself nobody disagrees


# How far it is


def test_progress_counts_what_is_done_and_what_may_still_come(team: Team) -> None:
    project, (rita, ralf) = team.project(count=4), team.raters
    queue = team.store.queue
    assert (queue.progress(rita, project).done, queue.progress(rita, project).total) == (0, 4)
    assert queue.progress(rita, project).seconds is None
    task = team.next(rita, project)
    assert queue.progress(rita, project).total == 4
    team.submit(rita, task)
    team.submit(rita, task, 3, reason="A revision is no further item.")
    progress = queue.progress(rita, project)
    assert (progress.done, progress.total, progress.seconds) == (1, 4, 3 * 12.5)
    team.judge_all(rita, project)
    assert queue.progress(rita, project).seconds == 0
    assert (queue.progress(ralf, project).done, queue.progress(ralf, project).total) == (0, 4)


def test_progress_leaves_out_what_others_have_taken(studio: StudioStore) -> None:
    team = Team.of(studio, 3)
    project = team.project(count=4, plan=Plan(overlap=1))
    team.next(team.raters[0], project)
    team.submit(team.raters[1], team.next(team.raters[1], project))
    totals = [studio.queue.progress(rater, project).total for rater in team.raters]
    assert totals == [3, 3, 2]  # their own, and the two that nobody has
