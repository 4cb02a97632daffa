"""Agreement on where something is wrong, and the way to the item on which raters disagree; on both databases."""

from __future__ import annotations

import numpy as np
import pytest

from core.feedback.judged import disputes, item_at, judged_item
from core.feedback.masks import dice
from core.feedback.regions import region_agreement
from tests.core.feedback.team import Team, told_apart


def box(x0: int, x1: int) -> dict:
    return {"label": "blur", "kind": "box", "x0": x0, "y0": 0, "x1": x1, "y1": 4}


def test_dice_is_what_two_masks_share() -> None:
    a, b = np.zeros((2, 4), bool), np.zeros((2, 4), bool)
    assert dice(a, b) == 1
    a[0], b[0, :2] = True, True
    assert dice(a, a) == 1 and dice(a, b) == dice(b, a) == pytest.approx(2 * 2 / 6) and dice(a, ~a) == 0


def test_marks_of_two_raters_are_laid_over_each_other(team: Team) -> None:
    project = team.project(count=4)
    # Of the items one is marked alike, one by half, one by one rater alone, one by nobody.
    said = {
        "(0)": ([box(0, 4)], [box(0, 4)]),
        "(1)": ([box(0, 4)], [box(2, 6)]),
        "(2)": ([box(0, 4)], []),
        "(3)": ([], []),
    }
    for n, rater in enumerate(team.raters):
        while (task := team.next(rater, project)) is not None:
            (regions,) = (pair[n] for name, pair in said.items() if name in told_apart(task))
            team.submit(rater, task, regions=regions)
    found = region_agreement(team.store.database, project)
    assert (found.pairs, found.both_pairs, found.items, found.marked) == (3, 2, 3, 3)
    assert found.dice == pytest.approx((1 + 0.5 + 0) / 3) and found.both == pytest.approx(0.75)
    assert region_agreement(team.store.database, project, most=1).items == 1


def test_nothing_marked_is_no_agreement(team: Team) -> None:
    project = team.project(count=1)
    team.judge_all(team.raters[0], project)
    assert region_agreement(team.store.database, project).dice is None


def test_from_a_dispute_to_what_was_said_without_names(team: Team) -> None:
    project, (rita, ralf) = team.project(count=3), team.raters
    team.judge_all(rita, project, 1)
    first = team.next(ralf, project)
    team.submit(ralf, first, 5)
    count, ((place, item, why),) = disputes(team.store.database, project, 10)
    assert count == 1 and why == "anatomy: 1 to 5" and item_at(team.store.database, project, place) == item
    team.submit(team.adjudicator, team.next(team.adjudicator, project), 3)
    said = judged_item(team.store.database, project, item)
    assert [one.answer["scores"]["anatomy"] for one in said] == [1, 5, 3]
    assert [one.purpose for one in said] == ["judge", "judge", "adjudicate"]
    assert said[0].outputs[0].prompt == told_apart(first)
    assert not {person.id for person in (rita, ralf, team.adjudicator)} & {one.rater for one in said}
    assert item_at(team.store.database, project, 99) is None
