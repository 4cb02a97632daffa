"""The log of the studio: who did what, when and why, each event chained to the one before by its hash.

What is logged has the digest of the row that came of it, so that ``core.feedback.verification`` can tell every row that
is not as it was left. That holds against edits of the database file, not against somebody who also knows how to write
the whole log anew; the hash of the newest event, kept elsewhere, shows that as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import inspect, select
from sqlalchemy.orm import Session

from core.feedback.models import Base, utc_now
from core.feedback.runs import with_origins
from core.feedback.studio_models import AuditEvent, AuditHead, Item, User

NEVER = "0" * 64
WORKING = ("taken", "disputed", "withdrawn_at")
"""Columns of an item that are written over: they follow from the rest, and the last from an event of its own."""
ITEMS_OF = "items of a project"
WITHDRAW = "withdraw"
BATCH = 2000


def canonical(value: object) -> bytes:
    """The one JSON of a value: sorted keys, no blanks, moments in UTC."""

    def plain(other: object) -> str:
        if isinstance(other, datetime):
            return other.astimezone(UTC).isoformat(timespec="microseconds")
        return repr(other)  # what nobody here would write

    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=plain)
    return text.encode("utf-8", "surrogatepass")


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
        before, after, reason: what of it a reader of the log should see. Nothing that may have to be forgotten.
        said_at: by the clock of the person.
    """
    session.flush()
    after = {**(after or {}), "sha256": digest(row)}
    append(session, user_id, action, row.__tablename__, key_of(row), before, after, reason, said_at)


def append(
    session: Session, user_id: str | None, action: str, subject: str, subject_id: str, before: dict | None,
    after: dict | None, reason: str | None = None, said_at: datetime | None = None,
) -> None:  # fmt: skip
    """Adds an event at the end of the log."""
    last = hold(session)
    event = AuditEvent(
        seq=last.seq + 1, at=utc_now(), said_at=said_at, user_id=user_id, action=action, subject=subject,
        subject_id=subject_id, before=before, after=after, reason=reason, previous=last.hash,
    )  # fmt: skip
    event.hash = digest(event, without=("hash",))
    last.seq, last.hash = event.seq, event.hash
    session.add(event)
    session.flush()


def hold(session: Session) -> AuditHead:
    """The end of the log, to which nobody else adds until the transaction ends. It is held last: after projects, and
    after accounts."""
    return session.scalars(select(AuditHead).with_for_update()).one()


def head(session: Session) -> tuple[int, str]:
    """How many events there are, and the hash of the newest."""
    last = session.scalars(select(AuditHead)).one()
    return last.seq, last.hash


@dataclass(frozen=True)
class Event:
    """An event as a maintainer reads it: ``who`` is a login name, or the program."""

    seq: int
    at: datetime
    said_at: datetime | None
    who: str
    action: str
    subject: str
    subject_id: str
    before: dict | None
    after: dict | None
    reason: str | None


def newest(session: Session, limit: int) -> list[Event]:
    """The newest events, the last one first."""
    query = select(AuditEvent, User.login).outerjoin(User, AuditEvent.user_id == User.id)
    return [
        Event(
            one.seq, one.at, one.said_at, login or "the program", one.action, one.subject, one.subject_id, one.before,
            one.after, one.reason,
        )
        for one, login in session.execute(query.order_by(AuditEvent.seq.desc()).limit(limit))
    ]  # fmt: skip


def record_items(session: Session, user_id: str | None, project_id: str, action: str = "add items") -> None:
    """Logs all items of a project, after some were added or changed."""
    session.flush()
    query = select(Item).where(Item.project_id == project_id).order_by(Item.place)
    items = session.scalars(query.execution_options(yield_per=BATCH))
    append(session, user_id, action, ITEMS_OF, project_id, None, {"sha256": items_digest(map(item_digest, items))})


def item_digest(item: Item) -> str:
    return digest(item, without=WORKING)


def items_digest(digests: Iterable[str]) -> str:
    """Of the items of a project, from theirs in their order."""
    chain = hashlib.sha256()
    for one in digests:
        chain.update(one.encode())
    return chain.hexdigest()


def contents(session: Session, response_ids: Collection[str]) -> dict[str, str]:
    """Digests of responses, each with the generation, model version and patient that it is from. Those that are gone
    are left out."""
    return {
        response.id: sha256([
            digest(response, without=("trust",)), digest(generation), digest(version, without=("parent_id",)),
            case and digest(case),
        ])
        for response, generation, version, case in session.execute(with_origins(response_ids))
    }  # fmt: skip


def content(digests: dict[str, str], response_ids: list[str]) -> str | None:
    """The digest of all that an item shows, from ``contents``; None where a response is gone."""
    return sha256([digests.get(one) for one in response_ids]) if digests.keys() >= set(response_ids) else None
