"""Judgements with all that they are about, as exports and statistics read them: no login names, none withdrawn."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache

from sqlalchemy import Row, func, select
from sqlalchemy.orm import Session

from core.feedback.database import Database
from core.feedback.rubric import Plan
from core.feedback.runs import pseudonym, secret_of, with_origins
from core.feedback.studio_models import Item, Judgement, Member, Project, User

BATCH = 500
VISITOR = "a visitor's correction"
"""In place of the model's name."""
SAID = Judgement.__table__.c


@dataclass(frozen=True)
class Output:
    """A response with where it comes from. ``patient`` is this store's name of a case's patient."""

    id: str
    kind: str
    text: str | None
    sha256: str | None
    width: int | None
    height: int | None
    generation_id: str
    task: str
    prompt: str
    inputs: list[dict]
    settings: dict
    seed: int
    model: str
    fingerprint: str
    patient: str | None


@dataclass(frozen=True)
class Judged:
    """The answer of one person about one item that counts: the newest version.

    Attributes:
        rater: a name that is the same within a project and tells nothing.
        needed: how many raters the plan asks for the item.
        dispute_range: a difference of scores that is a dispute.
        kind: rate, compare or correct; ``answer`` is laid out as in ``core.feedback.answers``.
    """

    id: str
    project: str
    kind: str
    rubric: dict
    item: str
    place: int
    gold: dict | None
    rater: str
    purpose: str
    occasion: int
    version: int
    answer: dict
    active_seconds: float
    created_at: datetime
    outputs: tuple[Output, ...]
    needed: int = 1
    dispute_range: int = 2


def judged(database: Database, project_id: str) -> Iterator[Judged]:
    """All judgements of a project that count, item by item in their order."""
    last = -1
    while True:
        with database.reading() as session:
            project = session.get_one(Project, project_id)
            query = select(Item).where(Item.project_id == project_id, Item.withdrawn_at.is_(None), Item.place > last)
            items = list(session.scalars(query.order_by(Item.place).limit(BATCH)))
            batch = list(_batch(session, project, items))
        yield from batch
        if len(items) < BATCH:
            return
        last = items[-1].place


def unjudged(database: Database, project_id: str) -> int:
    """How many items of a project nobody has judged yet."""
    with database.reading() as session:
        of_project = Judgement.project_id == project_id, Judgement.withdrawn_at.is_(None)
        judged_ones = select(Judgement.item_id).where(*of_project)
        there = Item.project_id == project_id, Item.withdrawn_at.is_(None)
        return session.scalar(select(func.count()).where(*there, Item.id.not_in(judged_ones)))


def judged_item(database: Database, project_id: str, item_id: str) -> list[Judged]:
    """The judgements of one item that count."""
    with database.reading() as session:
        query = select(Item).where(Item.id == item_id, Item.project_id == project_id, Item.withdrawn_at.is_(None))
        return list(_batch(session, session.get_one(Project, project_id), list(session.scalars(query))))


def disputes(database: Database, project_id: str, limit: int) -> tuple[int, list[tuple[int, str, str]]]:
    """How many items call for an adjudicator, and place, id and reason of the first of them."""
    query = select(Item.place, Item.id, Item.disputed).where(
        Item.project_id == project_id, Item.withdrawn_at.is_(None), Item.disputed.is_not(None)
    )  # fmt: skip
    with database.reading() as session:
        count = session.scalar(select(func.count()).select_from(query.subquery()))
        return count, [tuple(row) for row in session.execute(query.order_by(Item.place).limit(limit))]


def item_at(database: Database, project_id: str, place: int) -> str | None:
    """The item at a place; None where it is not there, or was withdrawn."""
    query = select(Item.id).where(Item.project_id == project_id, Item.place == place, Item.withdrawn_at.is_(None))
    with database.reading() as session:
        return session.scalar(query)


def _batch(session: Session, project: Project, items: list[Item]) -> Iterator[Judged]:
    outputs = outputs_of(session, [one for item in items for one in item.response_ids])
    plan = Plan.from_json(project.plan)
    needed = _needed(session, project, plan)
    newest: dict[str, dict[str, Row]] = {item.id: {} for item in items}
    query = select(
        SAID.id, SAID.assignment_id, SAID.item_id, SAID.user_id, SAID.purpose, SAID.occasion, SAID.version,
        SAID.answer, SAID.active_seconds, SAID.created_at,
    ).where(SAID.item_id.in_(newest), SAID.withdrawn_at.is_(None))  # fmt: skip
    for judgement in session.connection().execute(query.order_by(SAID.version)):  # rows cost a third of objects
        newest[judgement.item_id][judgement.assignment_id] = judgement
    for item in items:
        shown = tuple(outputs[one] for one in item.response_ids if one in outputs)
        if len(shown) < len(item.response_ids):
            continue
        for judgement in sorted(newest[item.id].values(), key=lambda found: (found.created_at, found.id)):
            yield Judged(
                judgement.id, project.name, project.kind, project.rubric, item.id, item.place, item.gold,
                rater_name(project.id, judgement.user_id), judgement.purpose, judgement.occasion, judgement.version,
                judgement.answer, judgement.active_seconds, judgement.created_at, shown, needed(item),
                plan.dispute_range,
            )  # fmt: skip


def _needed(session: Session, project: Project, plan: Plan) -> Callable[[Item], int]:
    """How many raters the plan asks for an item: where it names no number, all of the project or the item's group."""
    if plan.design == "open":
        return lambda item: plan.overlap
    query = select(Member.place).join(User, Member.user_id == User.id)
    of = Member.project_id == project.id, Member.purpose == "judge", User.disabled_at.is_(None)
    places = list(session.scalars(query.where(*of)))
    if plan.design == "crossed":
        return lambda item: max(1, len(places))
    groups = Counter(place % plan.groups for place in places)
    return lambda item: max(1, groups[item.place % plan.groups])


def outputs_of(session: Session, ids: Collection[str]) -> dict[str, Output]:
    """Responses by their ids, each with where it comes from."""
    secret = secret_of(session)
    return {
        response.id: Output(
            response.id,
            response.kind,
            response.text,
            response.sha256,
            response.width,
            response.height,
            generation.id,
            generation.task,
            generation.prompt,
            generation.inputs,
            generation.settings,
            generation.seed,
            version.name if response.author == "model" else VISITOR,
            version.fingerprint,
            case and pseudonym(secret, case.patient_hash),
        )
        for response, generation, version, case in session.execute(with_origins(ids))
    }


@cache
def rater_name(project_id: str, user_id: str) -> str:
    """The same within a project, and nothing that tells who it is."""
    return "rater-" + hashlib.sha256(f"{project_id}/{user_id}".encode()).hexdigest()[:8]
