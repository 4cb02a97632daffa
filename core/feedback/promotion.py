"""Which version is served, and what speaks against serving another one, each with what to do about it."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.errors import FeedbackError
from core.feedback import descent
from core.feedback.gate import EVEN, LEAST_ITEMS, Gate
from core.feedback.models import ModelVersion
from core.feedback.studio_models import Training

LARGER = "Learn from more, or again under another name with more requests to compare"
"""A comparison is made once: more requests need another version."""


def served(session: Session) -> Training | None:
    """The promoted version; None where the base is served."""
    return session.scalar(select(Training).where(Training.state == "promoted"))


def former(session: Session, last: Training) -> Training | None:
    """What the promoted version had replaced, without those that are tainted by now; None is the base."""
    tainted, passed = descent.tainted(session), {last.version_id}
    before = last.replaced_id
    while before in tainted - passed:
        passed.add(before)
        before = session.get_one(Training, before).replaced_id
    return None if before is None or before in passed else session.get_one(Training, before)


def need_fit(session: Session, training: Training, last: Training | None, gate: Gate) -> None:
    """
    Args:
        last: what the version would replace; None for the base.
        gate: how it did against its parent.

    Raises:
        FeedbackError: it is tainted, its parent is not what is served, or it is not shown to be better than that.
    """
    need_whole(session, training)
    name = training.lineage["name"]
    _need_parent_served(session, training, last)
    if training.project_id is None:
        remedy = "Make requests of patients that nobody has judged (core feedback run), and give its `core learn` again"
        raise FeedbackError("The version was not compared with its parent", value=name, remedy=remedy)
    if gate.open:
        what = f"The comparison is not finished: {gate.judged} of {gate.items} judged"
        raise FeedbackError(what, value=name, remedy="Have the rest judged, and the disputes decided")
    if gate.low is None or gate.counted < LEAST_ITEMS:
        what = f"Too few items of the comparison count: {gate.counted}, and {LEAST_ITEMS} must"
        raise FeedbackError(what, value=name, remedy=LARGER)
    if gate.low <= EVEN:
        found = f"it wins {gate.rate:.0%}, which may be {gate.low:.0%} to {gate.high:.0%}"
        what = f"The version is not shown to be better than its parent: {found}"
        raise FeedbackError(what, value=name, remedy=f"The lower end must lie above 50%. {LARGER}")


def need_whole(session: Session, training: Training) -> None:
    """
    Raises:
        FeedbackError: the version, or one that it was made of, has seen something that was withdrawn.
    """
    if training.version_id in descent.tainted(session):
        what, remedy = "The version rests on something that was withdrawn", "Make its snapshot again, and learn from it"
        raise FeedbackError(what, value=training.lineage["name"], remedy=remedy)


def _need_parent_served(session: Session, training: Training, last: Training | None) -> None:
    parent_id = session.get_one(ModelVersion, training.version_id).parent_id
    learned = parent_id and session.get(Training, parent_id)
    if (learned and learned.version_id) != (last and last.version_id):
        base = last.lineage["name"] if last else training.lineage["base"]
        remedy = f"Learn it again with --base {base}, and compare it with that"
        raise FeedbackError("The version was not made of what is served", value=training.lineage["name"], remedy=remedy)


def tasks(training: Training) -> dict:
    """What the evaluation of a version has found, for the log: how many values it measured, and of which tasks it is
    worse than its parent."""
    found = training.lineage["metrics"].get("tasks", [])
    return {"measured": len(found), "worse": sorted({str(one.get("task")) for one in found if one.get("worse")})}
