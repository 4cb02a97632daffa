"""How a project stands: who is right, who repeats themselves, and who wins."""

from __future__ import annotations

import numpy as np

from core.feedback.standing import contests, standings, table
from tests.core.feedback.said import DRAWN, OTHER, columns_of, compared, image, one, rated, text

UNABLE = {"cannot_judge": "other"}


def test_each_rater_has_their_own_pace_and_rightness() -> None:
    gold = {"scores": {"overall": 5}, "cannot_judge": None}
    found = [
        rated(4, image(DRAWN), item="1", gold=gold), rated(2, image(DRAWN), item="2", gold=gold),
        rated(4, image(DRAWN), item="1", occasion=1), rated(3, image(DRAWN), item="2", occasion=1),
        rated(1, image(DRAWN), item="3", answer=UNABLE),
        rated(5, image(DRAWN), item="1", rater="rater-2"),
        rated(1, image(DRAWN), item="1", rater="judge", purpose="adjudicate"),
    ]  # fmt: skip
    first, second = standings(columns_of(found, "overall"))
    assert (first.rater, first.done, first.seconds, first.unable) == ("rater-1", 5, 12.5, 0.2)
    assert first.gold == 0.5, "four is close to five, two is not"
    assert first.repeats == 0.5, "one of the two scores is another one"
    assert (second.rater, second.gold, second.repeats, second.unable) == ("rater-2", None, None, 0.0)


def test_corrections_and_choices_are_right_or_not() -> None:
    written, chosen = {"text": "right"}, {"choices": {"overall": 1}}
    corrected = [
        one("correct", {"text": "right", "spans": []}, text("wrong"), item="1", gold=written),
        one("correct", {"text": "wrong", "spans": []}, text("wrong"), item="2", gold=written),
    ]
    found = [
        compared(1, image(DRAWN), image(OTHER, "2"), item="3", gold=chosen),
        compared("tie", image(DRAWN), image(OTHER, "2"), item="4", gold=chosen),
    ]
    for of_kind in (corrected, found):
        assert [standing.gold for standing in standings(columns_of(of_kind, "overall"))] == [0.5]


def test_a_table_has_gaps_where_nothing_was_said() -> None:
    found = [
        rated(4, image(DRAWN), item="a"), rated(2, image(DRAWN), item="a", rater="rater-2"),
        rated(3, image(DRAWN), item="b", rater="rater-2"), rated(5, image(DRAWN), item="b", answer=UNABLE),
        rated(1, image(DRAWN), item="a", occasion=1), rated(1, image(DRAWN), item="a", purpose="adjudicate"),
    ]  # fmt: skip
    raters, items, values = table(columns_of(found, "overall"))
    assert (raters, items) == (["rater-1", "rater-2"], ["a", "b"])
    np.testing.assert_array_equal(values, [[4, np.nan], [2, 3]])


def test_who_wins_ties_and_counts_as_nothing() -> None:
    pair = image(DRAWN), image(OTHER, "2")
    found = [
        compared(1, *pair, item="1"), compared(1, *pair, item="1", rater="rater-2"), compared("tie", *pair, item="2"),
        compared("both_bad", *pair, item="3"), compared(0, image(DRAWN), image(OTHER), item="4"),
    ]  # fmt: skip
    models, wins, ties = contests(columns_of(found, "overall"))
    assert models == ["model-1", "model-2"]
    assert wins.sum(axis=0).tolist() == [[0, 0], [2, 0]] and ties.sum(axis=0).tolist() == [[0, 1], [1, 0]]
    best_of_three = {"choices": {"overall": 2}, "ranking": [[2], [0], [1]]}
    three = one("compare", best_of_three, *(image(name * 64, name) for name in "123"))
    models, wins, _ = contests(columns_of([three], "overall"))
    assert wins[0].tolist() == [[0, 0, 0], [0, 0, 0], [1, 1, 0]]
