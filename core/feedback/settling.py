"""On which items there is a word that counts: the one rule for whatever is learned or exported as training data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from core.feedback.answers import disputed
from core.feedback.judged import Judged
from core.feedback.leaving import Losses

WAITING = "not yet said by all"


@dataclass(frozen=True)
class Settled:
    """An item, and what was said of it that counts: by an adjudicator, or by the raters."""

    item: Judged
    said: tuple[Judged, ...]


def settled(found: Iterable[Judged], losses: Losses, mistrusted: Collection[str] = ()) -> Iterator[Settled]:
    """An adjudicator's word counts alone. Without one it is the first judgements of all raters who could judge, once
    all have judged whom the plan asks for, unless they are disputed. Of items by which raters are checked nothing
    counts: of those the answer is known, and theirs may be wrong.

    Args:
        found: judgements, item by item.
        losses: counts the judgements that do not count, by the reason.
        mistrusted: raters whose word does not count.
    """
    for group in _by_item(found):
        if group[0].gold is not None:
            losses["of a gold item, by which raters are checked"] += len(group)
            continue
        said = _last_word(group, losses, mistrusted)
        able = tuple(one for one in said if one.answer["cannot_judge"] is None)
        if len(able) < len(said):
            losses["could not be judged"] += len(said) - len(able)
        if able:
            yield Settled(able[0], able)


def decided(found: Iterable[Judged]) -> set[str]:
    """Ids of the items of which all has been said, be it that nobody could judge them."""
    return {group[0].item for group in _by_item(found) if _last_word(group, Counter(), ())}


def _by_item(found: Iterable[Judged]) -> Iterator[list[Judged]]:
    for _, group in groupby(found, key=lambda one: one.item):
        yield list(group)


def _last_word(group: list[Judged], losses: Losses, mistrusted: Collection[str]) -> list[Judged]:
    firsts = [one for one in group if one.purpose == "judge" and not one.occasion]
    decided = [one for one in group if one.purpose == "adjudicate"]
    said = [one for one in firsts if one.rater not in mistrusted]
    for reason, count in (
        ("a repeated judgement", len(group) - len(firsts) - len(decided)),
        ("an adjudicator has decided", len(firsts) + len(decided) - 1 if decided else 0),
        ("of a mistrusted rater", 0 if decided else len(firsts) - len(said)),
    ):
        if count:
            losses[reason] += count
    if decided:
        return decided[-1:]
    if len(firsts) < group[0].needed:
        losses[WAITING] += len(said)
        return []
    if disputed(group[0].kind, [one.answer for one in said], group[0].dispute_range):
        losses["disputed, and not decided"] += len(said)
        return []
    return said
