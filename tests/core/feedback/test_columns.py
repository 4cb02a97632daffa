"""The columns that statistics read in one narrow query are those that all judgements make; on both databases."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from core.feedback.columns import by_day, columns
from core.feedback.judged import judged
from core.feedback.projects import NewItem
from core.feedback.rubric import Plan
from core.feedback.standing import standings, table
from tests.core.feedback.said import columns_of
from tests.core.feedback.team import MODEL, OTHER, Clock, Team, answer


def same(team: Team, project: str, criterion: str) -> None:
    database = team.store.database
    narrow, wide = columns(database, project, criterion), columns_of(judged(database, project), criterion)
    judged_items = [narrow.items[n] for n in np.unique(narrow.item)]
    assert judged_items == wide.items, "in the order of their places; others are there as well"
    assert [narrow.items[n] for n in narrow.item] == [wide.items[n] for n in wide.item]
    for name in {field.name for field in fields(wide)} - {"items", "item", "sides"}:
        np.testing.assert_equal(getattr(narrow, name), getattr(wide, name), name)
    if narrow.models:
        np.testing.assert_equal(narrow.sides[np.unique(narrow.item)], wide.sides)


def test_scores_revisions_repeats_gold_and_what_is_left_out(team: Team, clock: Clock) -> None:
    gold = {"scores": {"anatomy": 4, "overall": 5}}
    made = [NewItem((one,), gold=gold, repeated=True) for one in team.outputs(count=5, patient="7")]
    project = team.project(items=made, plan=Plan(design="crossed", washout_days=1))
    rita, ralf = team.raters
    for n, rater in enumerate((rita, ralf)):
        first = team.next(rater, project)
        team.submit(rater, first, cannot_judge="other" if n else None, **({"scores": {}} if n else {}))
        team.submit(rater, first, 2, reason="Looked again.")
        team.judge_all(rater, project, 1 + 3 * n)
    clock.move(days=2)
    team.submit(rita, team.next(rita, project), 2)
    team.submit(team.adjudicator, team.next(team.adjudicator, project), 3)
    for criterion in ("anatomy", "overall"):
        same(team, project, criterion)
    found = columns(team.store.database, project, "anatomy")
    assert len(found.value) == 11 and set(found.gold) == set(found.raters) and len(found.repeats) == 1
    team.store.withdraw_person(team.maintainer, ralf.id)
    same(team, project, "anatomy")
    team.store.withdraw_patient(team.maintainer, "archive", "7")
    assert len(columns(team.store.database, project, "anatomy").value) == 0


def test_choices_ties_and_who_made_which_side(team: Team) -> None:
    pairs = zip(team.outputs(count=4), team.outputs(count=4, model=OTHER), strict=True)
    project = team.project("compare", items=[NewItem(pair[:: 1 if n % 2 else -1]) for n, pair in enumerate(pairs)])
    rita, ralf = team.raters
    team.judge_all(rita, project, 1)
    for choice in ("tie", "both_bad", 0, 1):
        said = answer("compare") | {"choices": {"anatomy": choice, "overall": "tie"}}
        team.submit(ralf, team.next(ralf, project), **said)
    same(team, project, "anatomy")
    assert columns(team.store.database, project, "anatomy").models == [OTHER, MODEL]


def test_a_project_of_corrections_has_no_values(team: Team) -> None:
    project = team.project("correct", count=2)
    nothing = columns(team.store.database, project, None)
    assert nothing.raters == standings(nothing) == [] and table(nothing)[2].shape == (0, 0)
    assert by_day(team.store.database, project) == {}
    team.judge_all(team.raters[0], project)
    same(team, project, "nothing is asked")
    assert list(by_day(team.store.database, project).values()) == [2]
