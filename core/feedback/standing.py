"""How a project stands: the pace of each rater, how often they are right where it is known, and whether they repeat
themselves; and the tables that statistics of agreement are made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from statistics import median

import numpy as np

from core.feedback.judged import Judged, Output
from core.feedback.masks import dice, rasterised

CLOSE = 1
"""A score of a gold item is right within so much."""
OVERLAP = 0.5
"""Regions are right from so much of overlap (Dice)."""
VERDICTS = {"tie": -1.0, "both_bad": -2.0}


@dataclass(frozen=True)
class RaterStanding:
    """
    Attributes:
        seconds: median time on an item, idle time removed.
        gold: share of right answers to gold items; scores count within ``CLOSE``, regions from ``OVERLAP``. None
            without such items.
        repeats: share of criteria that were answered alike the second time. None without repeats.
        unable: share of items that could not be judged.
    """

    rater: str
    done: int
    seconds: float
    gold: float | None
    repeats: float | None
    unable: float


def standings(found: Iterable[Judged]) -> list[RaterStanding]:
    """Of the raters of a project, who has done most first."""
    by_rater: dict[str, list[Judged]] = defaultdict(list)
    for one in found:
        if one.purpose == "judge":
            by_rater[one.rater].append(one)
    standing = [_standing(rater, said) for rater, said in by_rater.items()]
    return sorted(standing, key=lambda one: (-one.done, one.rater))


def _standing(rater: str, said: list[Judged]) -> RaterStanding:
    right = [_right(one) for one in said if one.gold is not None and one.occasion == 0]
    right = [found for found in right if found is not None]
    first = {one.item: one for one in said if one.occasion == 0}
    alike = [
        _value(one, name) == _value(first[one.item], name)
        for one in said
        if one.occasion and one.item in first
        for name in criteria(one)
    ]
    unable = sum(one.answer["cannot_judge"] is not None for one in said)
    seconds = median(one.active_seconds for one in said)
    return RaterStanding(rater, len(said), seconds, _share(right), _share(alike), unable / len(said))


def criteria(one: Judged) -> list[str]:
    return [criterion["name"] for criterion in one.rubric["criteria"]]


def table(found: Iterable[Judged], criterion: str) -> tuple[list[str], list[str], np.ndarray]:
    """Raters, items, and what each has said of each: float of shape (raters, items), with NaN where nothing was.
    Choices are numbers of outputs, ties and ``both bad`` negative; first judgements only."""
    raters: dict[str, int] = {}
    items: dict[str, int] = {}
    cells: list[tuple[int, int, float]] = []
    for one in found:
        if one.purpose != "judge" or one.occasion or (value := _value(one, criterion)) is None:
            continue
        cells.append((raters.setdefault(one.rater, len(raters)), items.setdefault(one.item, len(items)), value))
    values = np.full((len(raters), len(items)), np.nan)
    for rater, item, value in cells:
        values[rater, item] = value
    return list(raters), list(items), values


def contests(found: Iterable[Judged], criterion: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Models, and how often each has won against each other and tied with it: two tables of shape (items, models,
    models). Of several outputs the chosen one has won against all others; ``both bad`` counts as nothing, and so does
    a model against itself."""
    models: dict[str, int] = {}
    outcomes: dict[str, list[tuple[int, int, bool]]] = {}
    for one in found:
        choice = one.answer.get("choices", {}).get(criterion)
        if one.purpose != "judge" or one.occasion or one.answer["cannot_judge"] is not None or choice == "both_bad":
            continue
        sides = [models.setdefault(output.model, len(models)) for output in one.outputs]
        pairs = combinations(sides, 2) if choice == "tie" else ((sides[choice], side) for side in sides)
        outcomes.setdefault(one.item, []).extend((a, b, choice == "tie") for a, b in pairs if a != b)
    wins = np.zeros((len(outcomes), len(models), len(models)), int)
    ties = np.zeros_like(wins)
    for item, of_item in enumerate(outcomes.values()):
        for first, second, tied in of_item:
            (ties if tied else wins)[item, first, second] += 1
    return list(models), wins, ties + ties.swapaxes(1, 2)


def _value(one: Judged, criterion: str) -> float | None:
    if one.answer["cannot_judge"] is not None:
        return None
    said = one.answer.get("scores", one.answer.get("choices", {})).get(criterion)
    return None if said is None else VERDICTS.get(said, said)


def _right(one: Judged) -> bool | None:
    """Whether an answer says what is known; None where nothing that it says is."""
    said, gold, output = one.answer, one.gold, one.outputs[0]
    if said["cannot_judge"] is not None or gold.get("cannot_judge") is not None:
        return (said["cannot_judge"] is None) == (gold.get("cannot_judge") is None)
    known = [said["text"] == gold["text"]] if gold.get("text") else []
    known += [said["choices"].get(name) == choice for name, choice in gold.get("choices", {}).items()]
    known += [abs(said["scores"][name] - score) <= CLOSE for name, score in gold.get("scores", {}).items()]
    for label in {region["label"] for region in gold.get("regions", [])} if output.width else ():
        known.append(dice(_marked(gold, label, output), _marked(said, label, output)) >= OVERLAP)
    return all(known) if known else None


def _marked(answer: dict, label: str, output: Output) -> np.ndarray:
    """All that is marked as something: bool of shape (height, width)."""
    marked = np.zeros((output.height, output.width), bool)
    for region in answer["regions"]:
        if region["label"] == label:
            marked |= rasterised(region, output.width, output.height)
    return marked


def _share(values: list[bool]) -> float | None:
    return sum(values) / len(values) if values else None
