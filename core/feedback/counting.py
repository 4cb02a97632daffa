"""Which judgements of an item count, and whether they call for an adjudicator."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.feedback.answers import disputed
from core.feedback.rubric import Plan
from core.feedback.studio_models import Judgement


def newest(session: Session, assignment_id: str) -> Judgement | None:
    """What somebody has said last of an item in their hands; None before they have, or when it was withdrawn."""
    query = select(Judgement).where(Judgement.assignment_id == assignment_id, Judgement.withdrawn_at.is_(None))
    return session.scalar(query.order_by(Judgement.version.desc()).limit(1))


def counting(session: Session, item_ids: Collection[str], purpose: str = "judge") -> dict[str, list[Judgement]]:
    """The judgements of items that count, by item: the newest version of each person's first one, unless it was
    withdrawn. Their order tells nothing of who they are from."""
    found: dict[str, dict[str, Judgement]] = {item_id: {} for item_id in item_ids}
    query = select(Judgement).where(
        Judgement.item_id.in_(item_ids), Judgement.purpose == purpose, Judgement.occasion == 0,
        Judgement.withdrawn_at.is_(None),
    )  # fmt: skip
    for judgement in session.scalars(query.order_by(Judgement.version)):
        found[judgement.item_id][judgement.assignment_id] = judgement
    return {item_id: sorted(of.values(), key=lambda one: one.id) for item_id, of in found.items()}


def dispute(kind: str, plan: Plan, said: list[Judgement]) -> str | None:
    """Why the judgements that count call for an adjudicator; None when they do not, or when some are still to come."""
    needed = plan.overlap if plan.design == "open" else 2
    if len(said) < needed:
        return None
    return disputed(kind, [judgement.answer for judgement in said], plan.dispute_range)
