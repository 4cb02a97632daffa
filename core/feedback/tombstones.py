"""What stays of a judgement that was withdrawn: that there was one, when and by whom, and nothing of what it said."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from core.feedback import audit, snapshots
from core.feedback.studio_models import Assignment, Draft, Item, Judgement, Project

BATCH = 500


def hold_projects(session: Session, project_ids: Iterable[str]) -> list[Project]:
    """Nobody deals from them or submits to them until the transaction ends."""
    query = select(Project).where(Project.id.in_(set(project_ids))).order_by(Project.id)
    return list(session.scalars(query.with_for_update()))


def bury(session: Session, by: str | None, judgements: Iterable[Judgement], now: datetime) -> int:
    """Empties judgements for good, and the snapshots that rest on them; returns how many judgements those were."""
    buried: list[str] = []
    for judgement in judgements:
        judgement.answer = judgement.salt = None
        judgement.reason = None if judgement.version == 1 else "withdrawn"
        judgement.active_seconds = 0.0
        judgement.withdrawn_at = now
        audit.record(session, by, audit.WITHDRAW, judgement)
        buried.append(judgement.id)
    snapshots.empty(session, by, buried, now)
    return len(buried)


def withdraw_items(session: Session, by: str | None, gone: Collection[str], now: datetime) -> tuple[int, int]:
    """Takes the items that show one of the responses that will be gone out of their projects, and all that was said of
    them. Returns how many items and judgements those were.

    Args:
        by: the id of who does it; None for the program.
    """
    found: dict[str, list[str]] = {}
    query = select(Item.project_id, Item.id, Item.response_ids).where(Item.withdrawn_at.is_(None)).order_by(Item.place)
    for project_id, item_id, shown in session.execute(query) if gone else ():
        if not gone.isdisjoint(shown):
            found.setdefault(project_id, []).append(item_id)
    buried = 0
    for project in hold_projects(session, found):
        ids = found[project.id]
        for start in range(0, len(ids), BATCH):
            buried += _withdraw(session, by, ids[start : start + BATCH], now)
        audit.record_items(session, by, project.id, "withdraw items")
    return sum(map(len, found.values())), buried


def _withdraw(session: Session, by: str | None, item_ids: list[str], now: datetime) -> int:
    for item in session.scalars(select(Item).where(Item.id.in_(item_ids))):
        item.gold = item.disputed = None  # the answer that is known to be right may say what was shown
        item.withdrawn_at = now
    for item_id in item_ids:
        audit.append(session, by, audit.WITHDRAW, Item.__tablename__, item_id, None, {"at": now.isoformat()})
    of = select(Assignment.id).where(Assignment.item_id.in_(item_ids))
    session.execute(delete(Draft).where(Draft.assignment_id.in_(of)), execution_options={"synchronize_session": False})
    query = select(Judgement).where(Judgement.item_id.in_(item_ids), Judgement.withdrawn_at.is_(None))
    return bury(session, by, session.scalars(query).all(), now)
