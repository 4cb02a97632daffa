"""How a project stands: the pace of each rater, how often they are right where it is known, and whether they repeat
themselves; and the tables that statistics of agreement are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core.feedback.columns import BOTH_BAD, TIE, Columns


@dataclass(frozen=True)
class RaterStanding:
    """
    Attributes:
        seconds: median time on an item, idle time removed.
        gold: share of right answers to gold items. None without such items.
        repeats: share of criteria that were answered alike the second time. None without repeats.
        unable: share of items that could not be judged.
    """

    rater: str
    done: int
    seconds: float
    gold: float | None
    repeats: float | None
    unable: float


def standings(said: Columns) -> list[RaterStanding]:
    """Of the raters of a project, who has done most first."""
    if not said.rater.size:
        return []
    order = np.argsort(said.rater, kind="stable")
    raters, starts = np.unique(said.rater[order], return_index=True)
    seconds, unable = (np.split(of[order], starts[1:]) for of in (said.seconds, said.unable))
    found = [
        RaterStanding(
            name := said.raters[rater], len(took), float(np.median(took)), said.gold.get(name), said.repeats.get(name),
            float(could_not.mean()),
        )
        for rater, took, could_not in zip(raters, seconds, unable, strict=True)
    ]  # fmt: skip
    return sorted(found, key=lambda one: (-one.done, one.rater))


def table(said: Columns) -> tuple[list[str], list[str], np.ndarray]:
    """Raters, items, and what each has said of each: float of shape (raters, items), with NaN where nothing was.
    First judgements only; raters and items of whom there is none are left out."""
    first = (said.occasion == 0) & ~np.isnan(said.value)
    raters, rater = np.unique(said.rater[first], return_inverse=True)
    items, item = np.unique(said.item[first], return_inverse=True)
    values = np.full((len(raters), len(items)), np.nan)
    values[rater, item] = said.value[first]
    return [said.raters[n] for n in raters], [said.items[n] for n in items], values


def contests(said: Columns) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Models, and how often each has won against each other and tied with it: two tables of shape (items, models,
    models). Of several outputs the chosen one has won against all others; ``both bad`` counts as nothing, and so does
    a model against itself."""
    counted = (said.occasion == 0) & ~np.isnan(said.value) & (said.value != BOTH_BAD)
    items, item = np.unique(said.item[counted], return_inverse=True)
    sides, choice = said.sides[said.item[counted]], said.value[counted].astype(int)
    present = np.unique(sides[sides >= 0])  # the models that were judged, which get new numbers
    sides = np.where(sides < 0, -1, np.searchsorted(present, sides))
    models = [said.models[n] for n in present]
    wins = np.zeros((len(items), len(models), len(models)), int)
    ties = np.zeros_like(wins)
    for a in range(sides.shape[1]):
        for b in range(sides.shape[1]):
            met = (sides[:, a] >= 0) & (sides[:, b] >= 0) & (sides[:, a] != sides[:, b])
            for outcomes, when in ((wins, choice == a), (ties, choice == TIE)):
                of = met & when
                np.add.at(outcomes, (item[of], sides[of, a], sides[of, b]), 1)
    return models, wins, ties


def spread(values: np.ndarray, categories: tuple[int, ...]) -> np.ndarray:
    """How often each rater has given each value, as shares: of shape (raters, categories)."""
    counts = np.stack([(values == one).sum(axis=1) for one in categories], axis=1)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
