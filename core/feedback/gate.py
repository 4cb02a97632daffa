"""How a version did against the one that it was made of, in a blinded comparison: the gate before it may be served."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from statistics import fmean

from sqlalchemy import select

from core.feedback.database import Database
from core.feedback.judged import VISITOR, judged
from core.feedback.settling import Settled, decided, settled
from core.feedback.signals import winner
from core.feedback.studio_models import Item

EVEN = 0.5
"""The win rate of a version that is as good as its parent."""
LEAST_ITEMS = 10
"""Of fewer, chance alone makes too many versions look better."""
Z = 1.959963984540054
"""Of a normal distribution, for intervals of 95%."""


@dataclass(frozen=True)
class Gate:
    """How a version did against its parent in what counts of the comparison.

    Attributes:
        wins, ties, losses: items, by the mean over their raters.
        rate: share of wins, where ties and what was bad on both sides count half. None without items.
        low, high: Wilson's interval of 95% over the items.
        items: of the comparison, without those by which raters are checked.
        open: those of them of which not all has been said yet. Until there is none, the interval means nothing: who
            looks again and again finds a good moment.
    """

    wins: int
    ties: int
    losses: int
    rate: float | None
    low: float | None
    high: float | None
    items: int
    open: int

    @property
    def counted(self) -> int:
        """Items that count. What nobody could judge is judged, and does not."""
        return self.wins + self.ties + self.losses

    @property
    def judged(self) -> int:
        return self.items - self.open


def gate(database: Database, project_id: str, ours: str, theirs: str) -> Gate:
    """How a version stands against its parent in a project that compares them, by the fingerprints of both: the same
    weights may go by several names."""
    found = list(judged(database, project_id))
    of = Item.project_id == project_id, Item.withdrawn_at.is_(None), Item.gold.is_(None)
    with database.reading() as session:
        items = set(session.scalars(select(Item.id).where(*of)))
    scores = [one for item in settled(found, Counter()) if (one := score(item, ours, theirs)) is not None]
    return gate_of(scores, len(items), len(items - decided(found)))


def score(item: Settled, ours: str, theirs: str) -> float | None:
    """The mean over raters: 1 where the version wins, 0 where its parent does. None where the item shows not one of
    each."""
    made_by = [None if output.model == VISITOR else output.fingerprint for output in item.item.outputs]
    if made_by.count(ours) != 1 or made_by.count(theirs) != 1:
        return None
    new, old = made_by.index(ours), made_by.index(theirs)
    first, second = sorted((new, old))
    scores = {new: 1.0, old: 0.0, None: EVEN}
    return fmean(scores[winner(one.answer, first, second)] for one in item.said)


def gate_of(scores: list[float], items: int | None = None, still_open: int = 0) -> Gate:
    """From the scores of what counts, one an item.

    Args:
        items: of the comparison; without a number, those that count.
        still_open: those that are not judged yet.
    """
    items = len(scores) if items is None else items
    wins, losses = sum(one > EVEN for one in scores), sum(one < EVEN for one in scores)
    if not scores:
        return Gate(0, 0, 0, None, None, None, items, still_open)
    count, rate = len(scores), fmean(scores)
    middle, spread = rate + Z**2 / (2 * count), Z * math.sqrt(rate * (1 - rate) / count + (Z / (2 * count)) ** 2)
    low, high = ((middle + sign * spread) / (1 + Z**2 / count) for sign in (-1, 1))
    ties = count - wins - losses
    return Gate(wins, ties, losses, rate, max(0.0, low), min(1.0, high), items, still_open)
