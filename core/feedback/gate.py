"""How a version did against the one that it was made of, in a blinded comparison: the gate before it may be served."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean

from core.feedback.settling import Settled
from core.feedback.signals import winner

EVEN = 0.5
"""The win rate of a version that is as good as its parent."""
Z = 1.959963984540054
"""Of a normal distribution, for intervals of 95%."""


@dataclass(frozen=True)
class Gate:
    """How a version did against its parent in what counts of the comparison.

    Attributes:
        wins, ties, losses: items, by the mean over their raters.
        rate: share of wins, where ties and what was bad on both sides count half. None without items.
        low, high: Wilson's interval of 95% over the items.
    """

    wins: int
    ties: int
    losses: int
    rate: float | None
    low: float | None
    high: float | None


def score(item: Settled, name: str, parent: str) -> float | None:
    """The mean over raters: 1 where the version wins, 0 where its parent does. None where the item shows not one of
    each."""
    models = [output.model for output in item.item.outputs]
    if models.count(name) != 1 or models.count(parent) != 1:
        return None
    new, old = models.index(name), models.index(parent)
    first, second = sorted((new, old))
    scores = {new: 1.0, old: 0.0, None: EVEN}
    return fmean(scores[winner(one.answer, first, second)] for one in item.said)


def gate_of(scores: list[float]) -> Gate:
    wins, losses = sum(one > EVEN for one in scores), sum(one < EVEN for one in scores)
    if not scores:
        return Gate(0, 0, 0, None, None, None)
    count, rate = len(scores), fmean(scores)
    middle, spread = rate + Z**2 / (2 * count), Z * math.sqrt(rate * (1 - rate) / count + (Z / (2 * count)) ** 2)
    low, high = ((middle + sign * spread) / (1 + Z**2 / count) for sign in (-1, 1))
    return Gate(wins, count - wins - losses, losses, rate, max(0.0, low), min(1.0, high))
