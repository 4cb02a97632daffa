"""Projects of each kind, and from what is entered to a judgement that counts; on both databases."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
import sqlalchemy as sa

from core.errors import AccessError, FeedbackError
from core.feedback.columns import columns
from core.feedback.projects import NewItem
from core.feedback.rubric import Plan, Rubric
from core.feedback.standing import standings
from core.feedback.studio import StudioStore
from tests.core.feedback.team import (
    NOON,
    RUBRIC,
    Clock,
    Team,
    account,
    answer,
    judgements,
    told_apart,
)

# Projects


def test_a_project_of_each_kind_from_making_to_the_last_item(team: Team, engine: sa.Engine) -> None:
    for kind in ("rate", "compare", "correct"):
        project = team.project(kind, 3)
        for rater in team.raters:
            (info,) = [info for info in team.store.projects.of(rater) if info.id == project]
            assert (info.kind, info.state, info.items, info.rubric) == (kind, "open", 3, RUBRIC)
            tasks = team.judge_all(rater, project)
            assert len({told_apart(task) for task in tasks}) == 3
            assert {len(task.order) for task in tasks} == {2 if kind == "compare" else 1}
        said = judgements(engine, "item_id", "user_id", "answer", project_id=project)
        assert len({(item, user) for item, user, _ in said}) == len(said) == 6
        assert {name for *_, given in said for name in given} >= {"shown", "confidence", "comment"}


def test_what_cannot_be_asked_is_refused(team: Team) -> None:
    projects, by = team.store.projects, team.maintainer
    images, texts = team.outputs(count=2), team.outputs("text", 1)
    rate, compare, correct = (projects.make(by, kind, kind, RUBRIC) for kind in ("rate", "compare", "correct"))
    for why, call in [
        ("Unknown kind", lambda: projects.make(by, "x", "guess", RUBRIC)),
        ("needs a name", lambda: projects.make(by, " ", "rate", RUBRIC)),
        ("of that name", lambda: projects.make(by, "rate", "rate", RUBRIC)),
        ("asks for nothing", lambda: projects.make(by, "x", "rate", Rubric(()))),
        ("cannot have 2 outputs", lambda: projects.add_items(by, rate, [NewItem(tuple(images))])),
        ("cannot have 1 outputs", lambda: projects.add_items(by, compare, [NewItem((images[0],))])),
        ("each once", lambda: projects.add_items(by, compare, [NewItem((images[0], images[0]))])),
        ("that are there", lambda: projects.add_items(by, rate, [NewItem((images[0],)), NewItem(("nobody's",))])),
        ("that are there", lambda: projects.add_items(by, rate, [NewItem(())])),
        ("Only a text", lambda: projects.add_items(by, correct, [NewItem((images[0],))])),
        ("Unknown score", lambda: projects.add_items(by, rate, [NewItem((texts[0],), gold=answer(score=9))])),
        ("no such project", lambda: projects.add_items(by, "none", [NewItem((images[0],))])),
        ("no items", lambda: projects.change_state(by, rate, "open")),
        ("Unknown state", lambda: projects.change_state(by, rate, "draft")),
        ("no such account", lambda: projects.add_member(by, rate, "nobody")),
        ("A rater cannot adjudicate", lambda: projects.add_member(by, rate, team.raters[0].id, "adjudicate")),
    ]:
        with pytest.raises(FeedbackError, match=why):
            call()
    assert {project.items for project in projects.of(by)} == {0}
    projects.add_items(by, rate, [NewItem((images[0],), gold={"scores": {"anatomy": 1, "overall": 1}})])
    projects.change_state(by, rate, "open")
    with pytest.raises(FeedbackError, match="has begun"):
        projects.add_items(by, rate, [NewItem((images[1],))])


def test_a_project_whose_items_are_refused_is_not_there(team: Team) -> None:
    projects, by, (image, *_) = team.store.projects, team.maintainer, team.outputs(count=1)
    for bad in (NewItem(("nobody's",)), NewItem((image,), gold=answer(score=9))):
        with pytest.raises(FeedbackError):
            projects.make(by, "Once", "rate", RUBRIC, items=[NewItem((image,)), bad])
    assert projects.of(by) == []
    projects.make(by, "Once", "rate", RUBRIC, items=[NewItem((image,))])
    assert [(one.name, one.items, one.state) for one in projects.of(by)] == [("Once", 1, "draft")]


def test_an_output_is_in_a_project_once_and_its_gold_answer_stays(team: Team) -> None:
    projects, by = team.store.projects, team.maintainer
    (one, two, three), gold = team.outputs(count=3), {"scores": {"anatomy": 1, "overall": 1}}
    plain, known = [NewItem((of,)) for of in (one, two)], NewItem((two,), gold)
    for items in ([*plain, known], [known, *plain]):
        project = projects.make(by, f"gold at {items.index(known)}", "rate", RUBRIC, items=items)
        assert [info.items for info in projects.of(by) if info.id == project] == [2]
        assert [item.response_ids for item in projects.gold_items(by, project)] == [(two,)]
    for twice, make in [
        ("1 of 3", lambda: projects.make(by, "x", "rate", RUBRIC, items=[*plain, plain[0]])),
        ("1 of 2", lambda: projects.make(by, "x", "rate", RUBRIC, items=[known, known])),
        ("1 of 2", lambda: projects.make(by, "x", "compare", RUBRIC, items=[NewItem((one, two)), NewItem((two, one))])),
        ("2 of 3", lambda: projects.add_items(by, project, [*plain, NewItem((three,))])),
    ]:
        with pytest.raises(FeedbackError, match=f"{twice} items show what another one"):
            make()
    assert projects.add_items(by, project, [NewItem((three,))]) == 3


def test_what_is_compared_is_of_one_request(team: Team) -> None:
    one, other, third = (team.outputs(count=3, model=name) for name in ("one", "other", "third"))
    projects, by = team.store.projects, team.maintainer
    threes = {frozenset(of) for of in zip(one, other, third, strict=True)}
    assert {frozenset(group) for group in projects.groups(by, "image", size=3)} == threes
    pairs = projects.groups(by, "image")
    assert len(pairs) == len(set(pairs)) == 9 and all(any(set(pair) <= of for of in threes) for pair in pairs)
    assert projects.groups(by, "image", limit=4) == pairs[:4]
    assert projects.groups(by, "image", "editing") == projects.groups(by, "text") == []


def test_a_judgement_becomes_the_gold_answer_also_of_another_project(team: Team, engine: sa.Engine) -> None:
    project, projects = team.project(count=3), team.store.projects
    team.judge_all(team.raters[0], project, 5)
    ((judgement, answer_given),) = judgements(engine, "id", "answer")[:1]
    projects.mark_gold(team.maintainer, judgement)
    (gold,) = projects.gold_items(team.maintainer, project)
    said = {name: value for name, value in answer_given.items() if name not in ("shown", "comment")}
    assert gold.gold == said | {"judgement": judgement}
    other = team.project(items=projects.gold_items(team.maintainer, project), name="checked")
    team.judge_all(team.raters[1], other, 1)
    (standing,) = standings(columns(team.store.database, other, None))
    assert standing.gold == 0
    with pytest.raises(FeedbackError, match="no such judgement"):
        projects.mark_gold(team.maintainer, "none")
    with pytest.raises(AccessError):
        projects.mark_gold(team.raters[0], judgement)


def test_what_is_entered_comes_back_anywhere(team: Team, open_studio: Callable[[], StudioStore]) -> None:
    project, rita = team.project(), team.raters[0]
    task, queue = team.next(rita, project), team.store.queue
    entered: dict = {}
    for part in (
        {"scores": {"overall": 2}},
        {"regions": [{"label": "blur", "kind": "box", "x0": 1, "y0": 2.5, "x1": 9, "y1": 20}]},
        {"confidence": 3},
        {"comment": "Ränder unscharf 🩻"},
    ):
        entered |= part
        queue.save(rita, task.id, entered, 7.25)
        draft = open_studio().queue.next(rita, project).draft
        assert {name: draft[name] for name in entered} == entered
    for why, wrong in [
        ("Unknown score", {"scores": {"overall": 6}}),
        ("Unknown score", {"scores": {"overall": True}}),
        ("Unknown criterion", {"scores": {"beauty": 1}}),
        ("another kind", {"scores": 5}),
        ("another kind", {"regions": [7]}),
        ("Unknown score", {"scores": {"overall": {}}}),
        ("unknown part", {"model": "x"}),
        ("Unknown label", {"regions": [{"label": "x", "kind": "point", "x": 1, "y": 1}]}),
        ("outside of the image", {"regions": [{"label": "blur", "kind": "point", "x": 25, "y": 1}]}),
        ("needs numbers", {"regions": [{"label": "blur", "kind": "point", "x": float("nan"), "y": 1}]}),
        ("may identify", {"comment": "Born on 3 May 1958."}),
    ]:
        with pytest.raises(FeedbackError, match=why):
            queue.save(rita, task.id, entered | wrong, 7.25)
        assert queue.get(rita, task.id).draft == draft, "of the refused part what was saved before stays"
    assert queue.get(rita, task.id).active_seconds == 7.25


def test_an_answer_is_written_down_once_it_is_complete(team: Team, engine: sa.Engine) -> None:
    rita = team.raters[0]
    for kind, why, wrong in [
        ("rate", "no answer yet", {"scores": {"overall": 3}, "opened": True}),
        ("rate", "not opened", {"scores": {"anatomy": 1, "overall": 3}}),
        ("compare", "no answer yet", {"choices": {"overall": "tie"}, "opened": True}),
        ("correct", "text is empty", {"text": " "}),
        ("correct", "text is empty", {}),
    ]:
        project = team.project(kind, 1, name=f"{kind} {why} {len(wrong)}")
        task = team.next(rita, project)
        with pytest.raises(FeedbackError, match=why):
            team.store.queue.submit(rita, task.id, wrong, 1.0, NOON)
        assert judgements(engine, "id", project_id=project) == []
        assert team.store.queue.submit(rita, task.id, {"cannot_judge": "image quality"}, float("nan"), NOON) == 1
        ((given, seconds),) = judgements(engine, "answer", "active_seconds", project_id=project)
        assert given["cannot_judge"] == "image quality" and seconds == 0.0


def test_the_same_answer_twice_is_one(team: Team, engine: sa.Engine) -> None:
    project, rita = team.project(), team.raters[0]
    task = team.next(rita, project)
    assert [team.submit(rita, task) for _ in range(3)] == [1, 1, 1]
    assert judgements(engine, "user_id", "version", "active_seconds", "said_at") == [(rita.id, 1, 12.5, NOON)]
    assert team.next(rita, project).id != task.id
    assert team.store.queue.before(rita, project).id == task.id
    with pytest.raises(FeedbackError, match="nothing before"):
        team.store.queue.before(rita, project, after=task.id)


def test_a_ranking_may_be_half_done_in_a_draft_alone(team: Team) -> None:
    one, rita = team.outputs(count=3), team.raters[0]
    task = team.next(rita, team.project("compare", items=[NewItem(tuple(one))]))
    for ranking in ([[2]], [[2], [0]]):
        half = answer("compare") | {"ranking": ranking}
        team.store.queue.save(rita, task.id, half, 1.0)
        assert team.store.queue.get(rita, task.id).draft["ranking"] == ranking
        with pytest.raises(FeedbackError, match="not all ranked"):
            team.store.queue.submit(rita, task.id, half, 1.0, NOON)
    for wrong in ([[2], [2]], [[2], []], [[3]]):
        with pytest.raises(FeedbackError, match="ranking"):
            team.store.queue.save(rita, task.id, {"ranking": wrong}, 1.0)
    assert team.submit(rita, task, choices={"anatomy": 1, "overall": 2}, ranking=[[2], [0, 1]]) == 1


def test_all_that_was_judged_can_be_gone_back_to(team: Team) -> None:
    project, rita = team.project(count=52), team.raters[0]
    done, back, after = [task.id for task in team.judge_all(rita, project)], [], None
    for _ in done:
        after = team.store.queue.before(rita, project, after=after).id
        back.append(after)
    assert back == done[::-1] and len(back) == 52


def test_the_same_answer_twice_at_once_is_one(open_studio: Callable[[], StudioStore], engine: sa.Engine) -> None:
    team = Team.of(open_studio())
    project, rita, stores = team.project(), team.raters[0], [open_studio() for _ in range(3)]
    task, versions = team.next(rita, project), []
    threads = [
        threading.Thread(target=lambda s=s: versions.append(replace(team, store=s).submit(rita, task))) for s in stores
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert versions == [1, 1, 1] and len(judgements(engine, "id")) == 1


def test_a_revision_needs_a_reason_and_comes_in_time(team: Team, clock: Clock, engine: sa.Engine) -> None:
    project, rita = team.project(plan=Plan(correction_minutes=30)), team.raters[0]
    task = team.next(rita, project)
    team.submit(rita, task, 4)
    again = team.store.queue.get(rita, task.id)
    assert (again.version, again.revisable) == (1, True)
    assert again.draft["scores"] == {"anatomy": 4, "overall": 3}
    assert team.store.queue.submit(rita, task.id, again.draft, 12.5, NOON) == 1  # as it came back
    for wrong, why in [("", "needs a reason"), (" \n", "needs a reason"), ("Born on 3 May 1958", "may identify")]:
        with pytest.raises(FeedbackError, match=why):
            team.submit(rita, task, 2, reason=wrong)
    clock.move(minutes=29)
    assert team.submit(rita, task, 2, reason="Mistook the side.") == 2
    clock.move(minutes=2)
    for late in (lambda: team.submit(rita, task, 5, reason="x"), lambda: team.store.queue.save(rita, task.id, {}, 1)):
        with pytest.raises(FeedbackError, match="corrections is over"):
            late()
    assert not team.store.queue.get(rita, task.id).revisable
    assert team.submit(rita, task, 2) == 2
    said = judgements(engine, "version", "reason", "answer")
    assert [(v, r, a["scores"]["anatomy"]) for v, r, a in said] == [(1, None, 4), (2, "Mistook the side.", 2)]


def test_a_known_answer_is_checked_and_shown_to_nobody(team: Team) -> None:
    (response,) = team.outputs(count=1)
    gold = {"scores": {"anatomy": 1, "overall": 1}, "comment": "known-to-be-bad"}
    project = team.project(items=[NewItem((response,), gold=gold)])
    assert "known-to-be-bad" not in repr(team.next(team.raters[0], project))


# Adjudication


@pytest.mark.parametrize(
    ("kind", "first", "second", "why"),
    [
        ("rate", answer(score=5), answer(score=2), "anatomy: 2 to 5"),
        ("rate", answer(), {"cannot_judge": "other"}, "cannot judge"),
        ("compare", answer("compare", 0), answer("compare", 1), "different winners"),
        ("correct", answer("correct", 1), answer("correct", 2), "different corrections"),
        ("rate", answer(score=5), answer(score=4), None),
        ("compare", answer("compare", 1), answer("compare", 1), None),
    ],
)
def test_what_raters_disagree_on_goes_to_the_adjudicator(
    team: Team, engine: sa.Engine, kind: str, first: dict, second: dict, why: str | None
) -> None:
    project, queue, ada = team.project(kind, 1), team.store.queue, team.adjudicator
    said = {}
    for rater, given in zip(team.raters, (first, second), strict=True):
        assert team.next(ada, project) is None
        task = team.next(rater, project)
        queue.submit(rater, task.id, given, 5.0, NOON)
        said[rater.id] = task.id
    before = judgements(engine, "id", "user_id", "answer", "version", purpose="judge")
    task = team.next(ada, project)
    if why is None:
        assert task is None
        return
    assert why in task.why
    for rater in team.raters:  # they do not learn of it: it would tell what the other said
        own = queue.get(rater, said[rater.id])
        assert own.why is None and own.others == []
    assert len(task.others) == 2
    for given in (first, second):
        assert any(given.items() <= other.items() for other in task.others)
    assert not any(rater.id in repr(task) or rater.login in repr(task) for rater in team.raters)
    outcome = answer(kind, 3)
    assert queue.submit(ada, task.id, outcome, 9.0, NOON) == 1
    assert team.next(ada, project) is None
    assert judgements(engine, "id", "user_id", "answer", "version", purpose="judge") == before
    ((user, kept),) = judgements(engine, "user_id", "answer", purpose="adjudicate")
    assert user == ada.id and outcome.items() <= kept.items()


def test_a_revision_can_end_a_dispute_and_begin_one(team: Team) -> None:
    project, (rita, ralf) = team.project(count=1), team.raters
    hers = team.next(rita, project)
    team.submit(rita, hers, 5)
    his = team.next(ralf, project)
    team.submit(ralf, his, 1)
    assert team.store.queue.progress(team.adjudicator, project, "adjudicate").total == 1
    team.submit(ralf, his, 5, reason="Looked again.")
    assert team.next(team.adjudicator, project) is None
    team.submit(rita, hers, 2, reason="Looked again.")
    assert team.next(team.adjudicator, project) is not None


def test_an_adjudicator_who_vanishes_leaves_the_item_to_another_and_finds_the_draft(team: Team, clock: Clock) -> None:
    project, ada = team.project(count=1), team.adjudicator
    for rater, score in zip(team.raters, (1, 5), strict=True):
        team.judge_all(rater, project, score)
    other = account(team.store, team.maintainer, "adam", "adjudicator")
    team.store.projects.add_member(team.maintainer, project, other.id, "adjudicate")
    task, queue = team.next(ada, project), team.store.queue
    queue.save(ada, task.id, {"comment": "Begun."}, 3.0)
    assert queue.next(other, project, "adjudicate") is None
    clock.move(minutes=61)
    back = team.next(ada, project)
    assert back.id == task.id and back.draft["comment"] == "Begun."
    clock.move(minutes=61)
    his = queue.next(other, project, "adjudicate")
    assert told_apart(his) == told_apart(task) and his.draft == {}
    assert team.next(ada, project) is None
    queue.submit(other, his.id, answer(), 1.0, NOON)
    assert queue.next(other, project, "adjudicate") is None


def test_who_rates_cannot_adjudicate_in_the_same_project(team: Team) -> None:
    projects, by, project = team.store.projects, team.maintainer, team.project()
    both = account(team.store, by, "beth", "adjudicator")
    projects.add_member(by, project, both.id, "judge")
    projects.add_member(by, project, both.id, "judge")  # twice is once
    for person, purpose in [(both, "adjudicate"), (team.adjudicator, "judge")]:
        with pytest.raises(FeedbackError, match="rate and adjudicate"):
            projects.add_member(by, project, person.id, purpose)
    with pytest.raises(AccessError):
        team.store.queue.next(both, project, "adjudicate")
    with pytest.raises(AccessError):
        team.store.queue.next(team.adjudicator, project, "judge")
