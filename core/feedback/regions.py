"""How far raters agree on where something is wrong: Dice of what each has marked on the same image."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import combinations

from sqlalchemy import select

from core.feedback.database import Database
from core.feedback.judged import Judged, judged_item
from core.feedback.masks import dice, marked
from core.feedback.studio_models import Item, Judgement

MOST_ITEMS = 500


@dataclass(frozen=True)
class RegionAgreement:
    """
    Attributes:
        dice: mean over pairs of raters of an item of whom one at least has marked something; None without pairs.
        pairs: of them.
        both: mean over the pairs in which both have; None without such.
        both_pairs: of those.
        items: that were looked at.
        marked: items on which somebody has marked something; of many a sample is looked at.
    """

    dice: float | None
    pairs: int
    both: float | None
    both_pairs: int
    items: int
    marked: int


def region_agreement(database: Database, project_id: str, most: int = MOST_ITEMS, seed: int = 0) -> RegionAgreement:
    """Of first judgements in which the item could be judged.

    Args:
        most: so many items are looked at, drawn with the seed, where more are marked.
    """
    regions = Judgement.answer["regions"].as_string()
    query = select(Judgement.item_id).join(Item, Judgement.item_id == Item.id).distinct().where(
        Judgement.project_id == project_id, Judgement.purpose == "judge", Judgement.occasion == 0,
        Judgement.withdrawn_at.is_(None), Item.withdrawn_at.is_(None), regions.is_not(None), regions != "[]",
    )  # fmt: skip
    with database.reading() as session:
        of_marked = sorted(session.scalars(query))
    looked = of_marked if len(of_marked) <= most else random.Random(seed).sample(of_marked, most)
    found = [pair for item in looked for pair in _pairs(judged_item(database, project_id, item))]
    alone = [one for one, _ in found]
    both = [one for one, of_both in found if of_both]
    return RegionAgreement(_mean(alone), len(alone), _mean(both), len(both), len(looked), len(of_marked))


def _pairs(said: list[Judged]) -> list[tuple[float, bool]]:
    """Dice of each pair of raters, and whether both have marked something."""
    able = [one for one in said if one.purpose == "judge" and not one.occasion and one.answer["cannot_judge"] is None]
    sized = [one for one in able if one.outputs[0].width]
    masks = [marked(one.answer, one.outputs[0].width, one.outputs[0].height) for one in sized]
    return [(dice(a, b), bool(a.any() and b.any())) for a, b in combinations(masks, 2) if a.any() or b.any()]


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
