"""The log of the studio: who did what, when and why, each event chained to the one before by its hash.

``verify`` reads the log and the tables again and tells every row that is not as it was left: changed, deleted, put in
or put elsewhere. It holds against edits of the database file, not against somebody who also knows how to write the
whole log anew; the hash of the newest event, kept elsewhere, shows that as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from datetime import datetime

from sqlalchemy import inspect, select
from sqlalchemy.orm import Session

from core.feedback.models import Base, Case, Generation, ModelVersion, Response, utc_now
from core.feedback.studio_models import (
    Assignment,
    AuditEvent,
    AuditHead,
    Item,
    Judgement,
    Member,
    Project,
    User,
)

LOGGED = (User, Project, Member, Judgement)
"""Each row of these has the digest of its newest state in the log; items have one for all that came together."""
NEVER = "0" * 64
WORKING = ("taken", "disputed", "withdrawn_at")
"""Columns of an item that are written over; the last has an event of its own."""
ITEMS_OF = "items of a project"
BATCH = 2000


def canonical(value: object) -> bytes:
    """The one JSON of a value: sorted keys, no blanks, moments in UTC."""

    def plain(other: object) -> str:
        if isinstance(other, datetime):
            return other.isoformat(timespec="microseconds")
        raise TypeError(f"Not for the log: {other!r}")

    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=plain).encode()


def sha256(value: object) -> str:
    return hashlib.sha256(canonical(value)).hexdigest()


def digest(row: Base, without: tuple[str, ...] = ()) -> str:
    """Of all columns of a row, by their names."""
    names = [attribute.key for attribute in inspect(type(row)).column_attrs]
    return sha256({name: getattr(row, name) for name in names if name not in without})


def key_of(row: Base) -> str:
    return "/".join(map(str, inspect(row).mapper.primary_key_from_instance(row)))


def record(
    session: Session, user_id: str | None, action: str, row: Base, *, before: dict | None = None,
    after: dict | None = None, reason: str | None = None, said_at: datetime | None = None,
) -> None:  # fmt: skip
    """Logs what has become of a row, in the transaction that does it.

    Args:
        user_id: who did it; None for the program.
        before, after: what of it a reader of the log should see. Nothing that may have to be forgotten.
        said_at: by the clock of the person.
    """
    session.flush()
    after = {**(after or {}), "sha256": digest(row)}
    append(session, user_id, action, row.__tablename__, key_of(row), before, after, reason, said_at)


def append(
    session: Session, user_id: str | None, action: str, subject: str, subject_id: str, before: dict | None,
    after: dict | None, reason: str | None = None, said_at: datetime | None = None,
) -> None:  # fmt: skip
    """Adds an event at the end of the log. Two writers do so one after the other."""
    head = session.scalars(select(AuditHead).with_for_update()).one()
    event = AuditEvent(
        seq=head.seq + 1, at=utc_now(), said_at=said_at, user_id=user_id, action=action, subject=subject,
        subject_id=subject_id, before=before, after=after, reason=reason, previous=head.hash,
    )  # fmt: skip
    event.hash = digest(event, without=("hash",))
    head.seq, head.hash = event.seq, event.hash
    session.add(event)
    session.flush()


def content(session: Session, response_ids: list[str]) -> list[dict] | None:
    """All that is shown of an item, as its digest is made of it; None where a response is gone."""
    query = select(Response, Generation, ModelVersion, Case)
    query = query.join(Generation, Response.generation_id == Generation.id).join(ModelVersion)
    query = query.outerjoin(Case, Generation.case_id == Case.id).where(Response.id.in_(response_ids))
    found = {response.id: (response, *rest) for response, *rest in session.execute(query)}
    return [_shown(*found[one]) for one in response_ids] if len(found) == len(response_ids) else None


def _shown(response: Response, generation: Generation, version: ModelVersion, case: Case | None) -> dict:
    return {
        "response": [response.id, response.kind, response.text, response.sha256],
        "generation": [generation.id, generation.task, generation.prompt, generation.inputs, generation.seed],
        "model": [version.name, version.fingerprint],
        "patient": case and case.patient_hash,
    }


def record_items(session: Session, user_id: str, project_id: str) -> None:
    """Logs all items of a project, after some were added."""
    session.flush()
    query = select(Item).where(Item.project_id == project_id).order_by(Item.place)
    items = session.scalars(query.execution_options(yield_per=BATCH))
    append(session, user_id, "add items", ITEMS_OF, project_id, None, items_digest(items))


def items_digest(items: Iterable[Item]) -> dict:
    """Of the items of a project, in their order."""
    chain, count = hashlib.sha256(), 0
    for item in items:
        chain.update(digest(item, without=WORKING).encode())
        count += 1
    return {"items": count, "sha256": chain.hexdigest()}


# Looking again -------------------------------------------------------------------------------------------------------


def verify(session: Session) -> Iterator[str]:
    """Every place where log and tables are not as they were left, in words. Nothing when all is well."""
    newest: dict[tuple[str, str], str | None] = {}
    withdrawn: set[str] = set()
    yield from _chain(session, newest, withdrawn)
    for table in LOGGED:
        yield from _rows(session, table, newest)
    yield from _items(session, newest, withdrawn)
    yield from _links(session)


def _chain(session: Session, newest: dict, withdrawn: set[str]) -> Iterator[str]:
    previous, seq = NEVER, 0
    for event in _all(session, AuditEvent):
        if event.seq != seq + 1:
            yield f"audit_events: {seq + 1} to {event.seq - 1} are missing"
        if event.previous != previous:
            yield f"audit_events: {event.seq} does not follow the one before"
        if event.hash != digest(event, without=("hash",)):
            yield f"audit_events: {event.seq} was changed"
        previous, seq = event.hash, event.seq
        newest[event.subject, event.subject_id] = event.after and event.after.get("sha256")
        if event.subject == Item.__tablename__ and event.action == "withdraw":
            withdrawn.add(event.subject_id)
    head = session.scalars(select(AuditHead)).one_or_none()
    if head is None or (head.seq, head.hash) != (seq, previous):
        yield f"audit_head: the log ends at {seq}, and should end at {head.seq if head else 'a place that is gone'}"


def _rows(session: Session, table: type[Base], newest: dict) -> Iterator[str]:
    name, seen = table.__tablename__, set()
    for row in _all(session, table):
        key = key_of(row)
        seen.add(key)
        if (name, key) not in newest:
            yield f"{name}: {key} was put in"
        elif newest[name, key] != digest(row):
            yield f"{name}: {key} was changed"
    for (subject, key), after in newest.items():
        if subject == name and after is not None and key not in seen:
            yield f"{name}: {key} was deleted"


def _items(session: Session, newest: dict, withdrawn: set[str]) -> Iterator[str]:
    for project_id in session.scalars(select(Project.id).order_by(Project.id)):
        query = select(Item).where(Item.project_id == project_id).order_by(Item.place)
        found = list(session.scalars(query.execution_options(yield_per=BATCH)))
        expected = newest.get((ITEMS_OF, project_id), items_digest([])["sha256"])
        if items_digest(found)["sha256"] != expected:
            yield f"items: those of project {project_id} were changed"
        for start in range(0, len(found), BATCH):
            yield from _contents(session, found[start : start + BATCH], withdrawn)
    known = select(Project.id)
    for stray in session.scalars(select(Item.id).where(Item.project_id.not_in(known))):
        yield f"items: {stray} belongs to no project"


def _contents(session: Session, items: list[Item], withdrawn: set[str]) -> Iterator[str]:
    for item in items:
        if (item.withdrawn_at is not None) != (item.id in withdrawn):
            yield f"items: {item.id} was changed"
        elif item.withdrawn_at is None:
            shown = content(session, item.response_ids)
            if shown is None or sha256(shown) != item.content_sha256:
                yield f"items: what {item.id} shows was changed"


def _links(session: Session) -> Iterator[str]:
    """Judgements whose assignment says something else than they do."""
    query = select(Judgement.id).outerjoin(Assignment, Judgement.assignment_id == Assignment.id)
    same = (
        (Assignment.item_id == Judgement.item_id)
        & (Assignment.user_id == Judgement.user_id)
        & (Assignment.purpose == Judgement.purpose)
        & (Assignment.occasion == Judgement.occasion)
    )
    for stray in session.scalars(query.where(Assignment.id.is_(None) | ~same)):
        yield f"assignments: that of judgement {stray} was changed"


def _all(session: Session, table: type[Base]) -> Iterator[Base]:
    """Every row, in the order of its key, without keeping them."""
    keys = inspect(table).primary_key
    rows = session.scalars(select(table).order_by(*keys).execution_options(yield_per=BATCH))
    for row in rows:
        yield row
        session.expunge(row)
