"""Reads the log and the tables again, and tells every row that is not as the studio left it: changed, deleted, put in
or put elsewhere.

That covers accounts, projects, members, items and all that they show, judgements, who had which item before them and in
which order it stood on the screen, snapshots, what was trained on them and is served, and what visitors' feedback
counts for. It does not cover what is written over or goes by itself (drafts, leases, logins), nor visitors' consents
and what their thumbs, votes and comments say. The files of pictures are compared with their names whenever one is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import Row, Select, func, inspect, select, tuple_
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from core.errors import FeedbackError
from core.feedback import audit, descent, snapshots
from core.feedback.audit import BATCH, ITEMS_OF, NEVER, WITHDRAW
from core.feedback.counting import counting, dispute
from core.feedback.models import Base, Rating
from core.feedback.rubric import Plan
from core.feedback.studio_models import (
    Assignment,
    AuditEvent,
    AuditHead,
    Item,
    Judgement,
    Member,
    Project,
    Snapshot,
    Training,
    User,
)
from core.feedback.trust import TABLES, UNTRUSTED

LOGGED = (User, Project, Member, Judgement, Snapshot, Training)
"""Each row of these has the digest of its newest state in the log; items have one for all of a project."""
ITEMS = 500
"""So many items are looked at together."""
UNREADABLE = (SQLAlchemyError, FeedbackError, ValueError, TypeError, KeyError, AttributeError)
"""What comes of values that nobody here would write."""


def verify(session: Session) -> Iterator[str]:
    """Every place where log and tables are not as they were left, in words. Nothing when all is well."""
    log = _Log()
    yield from log.read(session)
    for table in LOGGED:
        yield from _rows(session, table, log)
    yield from _items(session, log)
    yield from _assignments(session)
    yield from _orders(session)
    yield from _snapshots(session)
    yield from _versions(session)
    for table in TABLES.values():
        yield from _trust(session, table, log)


class _Log:
    """What the log says of every row.

    Attributes:
        digests: of the newest state, by table and key.
        withdrawn: when items were withdrawn.
        trust: what visitors' feedback counts for, by table and key.
    """

    def __init__(self) -> None:
        self.digests: dict[str, dict[str, str]] = {}
        self.withdrawn: dict[str, str] = {}
        self.trust: dict[str, dict[str, str]] = {}

    def read(self, session: Session) -> Iterator[str]:
        previous, seq = NEVER, 0
        for key, event in _all(session, AuditEvent):
            if event is None:
                yield f"audit_events: {key} cannot be read"
                continue
            if event.seq != seq + 1:
                yield f"audit_events: {seq + 1} to {event.seq - 1} are missing"
            if event.previous != previous:
                yield f"audit_events: {event.seq} does not follow the one before"
            if event.hash != audit.digest(event, without=("hash",)):
                yield f"audit_events: {event.seq} was changed"
            previous, seq = event.hash, event.seq
            self._note(event)
        try:
            ends = [tuple(row) for row in session.execute(select(AuditHead.id, AuditHead.seq, AuditHead.hash))]
        except UNREADABLE:
            ends = []
        if ends != [(1, seq, previous)]:
            yield f"audit_head: the log ends at {seq}, and not where it should: {ends}"

    def _note(self, event: AuditEvent) -> None:
        after = event.after if isinstance(event.after, dict) else {}
        if "sha256" in after:
            self.digests.setdefault(event.subject, {})[event.subject_id] = after["sha256"]
        elif "trust" in after:
            self.trust.setdefault(event.subject, {})[event.subject_id] = after["trust"]
        elif event.subject == Item.__tablename__ and event.action == WITHDRAW:
            self.withdrawn[event.subject_id] = after.get("at", "")


def _rows(session: Session, table: type[Base], log: _Log) -> Iterator[str]:
    name = table.__tablename__
    expected = log.digests.pop(name, {})
    for key, row in _all(session, table):
        if key not in expected:
            yield f"{name}: {key} was put in"
        elif row is None or audit.digest(row) != expected[key]:
            yield f"{name}: {key} was changed"
        expected.pop(key, None)
    for key in expected:
        yield f"{name}: {key} was deleted"


def _items(session: Session, log: _Log) -> Iterator[str]:
    expected = log.digests.pop(ITEMS_OF, {})
    for project_id in session.scalars(select(Project.id).order_by(Project.id)).all():
        keys = session.execute(select(Item.id).where(Item.project_id == project_id).order_by(Item.place)).all()
        digests: list[str] = []
        for start in range(0, len(keys), ITEMS):
            some = keys[start : start + ITEMS]
            found = _read(session, Item, select(Item).where(Item.id.in_([key for (key,) in some])), some)
            digests += ["" if item is None else audit.item_digest(item) for _, item in found]
            items = [item for _, item in found if item is not None]
            yield from _contents(session, items, log)
            yield from _standing(session, project_id, items)
            session.expunge_all()
        if audit.items_digest(digests) != expected.get(project_id, audit.items_digest([])):
            yield f"items: those of project {project_id} were changed"
    known = select(Project.id)
    for stray in session.scalars(select(Item.id).where(Item.project_id.not_in(known))).all():
        yield f"items: {stray} belongs to no project"


def _contents(session: Session, items: list[Item], log: _Log) -> Iterator[str]:
    """Items that show something else than when they were made."""
    there: list[Item] = []
    for item in items:
        at = item.withdrawn_at and item.withdrawn_at.isoformat()
        if at != log.withdrawn.get(item.id):
            yield f"items: the withdrawal of {item.id} was changed"
        elif at is None:
            there.append(item)
    try:
        ids = {one for item in there for one in item.response_ids}
        digests = audit.contents(session, ids)
        wrong = [item for item in there if audit.content(digests, item.response_ids) != item.content_sha256]
    except UNREADABLE:
        if len(there) == 1:
            yield f"items: what {there[0].id} shows cannot be read"
            return
        for item in there:
            yield from _contents(session, [item], log)
        return
    for item in wrong:
        yield f"items: what {item.id} shows was changed"


def _standing(session: Session, project_id: str, items: list[Item]) -> Iterator[str]:
    """Items that are further, or less far, than what was said of them tells."""
    there = {item.id: item for item in items}
    held = Assignment.purpose == "judge", Assignment.occasion == 0, Assignment.leased_until.is_not(None)
    query = select(Assignment.item_id, func.count()).where(Assignment.item_id.in_(there), *held)
    taken = {item_id: count for item_id, count in session.execute(query.group_by(Assignment.item_id))}
    try:
        project = session.get_one(Project, project_id)
        said = counting(session, there)
        disputes = {item_id: dispute(project.kind, Plan.from_json(project.plan), said[item_id]) for item_id in there}
    except UNREADABLE:
        disputes = {item.id: item.disputed for item in items}  # what cannot be read was told of before
    for item in there.values():
        if (item.taken, item.disputed) != (taken.get(item.id, 0), disputes[item.id]):
            yield f"items: how far {item.id} is was changed"


def _assignments(session: Session) -> Iterator[str]:
    """Judgements whose assignment says something else than they do, and assignments that lost theirs."""
    query = select(Judgement.id).outerjoin(Assignment, Judgement.assignment_id == Assignment.id)
    same = (
        (Assignment.project_id == Judgement.project_id)
        & (Assignment.item_id == Judgement.item_id)
        & (Assignment.user_id == Judgement.user_id)
        & (Assignment.purpose == Judgement.purpose)
        & (Assignment.occasion == Judgement.occasion)
        & (Assignment.submitted_at.is_not(None) | Judgement.withdrawn_at.is_not(None))
    )
    for stray in session.scalars(query.where(Assignment.id.is_(None) | ~same)).all():
        yield f"assignments: that of judgement {stray} was changed"
    query = select(Assignment.id).outerjoin(Judgement, Judgement.assignment_id == Assignment.id)
    for stray in session.scalars(query.where(Assignment.submitted_at.is_not(None), Judgement.id.is_(None))).all():
        yield f"assignments: {stray} has no judgement"


def _orders(session: Session) -> Iterator[str]:
    """Assignments whose outputs stood in another order on the screen than their judgement says."""
    query = select(Judgement.id, Judgement.answer["shown"], Assignment.shown)
    query = query.join(Assignment, Judgement.assignment_id == Assignment.id).where(Judgement.withdrawn_at.is_(None))
    keys = select(Judgement.id).where(Judgement.withdrawn_at.is_(None)).order_by(Judgement.id).limit(BATCH)
    found = session.scalars(keys).all()
    while found:
        try:
            rows = session.execute(query.where(Judgement.id.between(found[0], found[-1]))).all()
        except UNREADABLE:
            rows = [(key, *_order(session, query, key)) for key in found]
        for key, said, shown in rows:
            if said != shown or shown is None:
                yield f"assignments: the order in which judgement {key} was shown was changed"
        found = session.scalars(keys.where(Judgement.id > found[-1])).all()


def _order(session: Session, query: Select, key: str) -> tuple[object, object]:
    """What a judgement and its assignment say of the order; nothing where that cannot be read."""
    try:
        row = session.execute(query.where(Judgement.id == key)).first()
    except UNREADABLE:
        return None, None
    return (row[1], row[2]) if row else ("no assignment", "no assignment")


def _snapshots(session: Session) -> Iterator[str]:
    try:
        yield from snapshots.verify(session)
    except UNREADABLE:
        yield "snapshot_signals: some cannot be read"


def _versions(session: Session) -> Iterator[str]:
    try:
        yield from descent.verify(session)
    except UNREADABLE:
        yield "trainings: some cannot be read"


def _trust(session: Session, table: type[Base], log: _Log) -> Iterator[str]:
    """Feedback of visitors that counts for something else than the log says. A thumb that is given anew is untrusted
    again."""
    name, expected = table.__tablename__, log.trust.get(table.__tablename__, {})
    query = select(table.id, table.trust).where(table.trust != UNTRUSTED).order_by(table.id)
    for key, found in session.execute(query.execution_options(yield_per=BATCH)):
        if expected.get(key) != found:
            yield f"{name}: what {key} counts for was changed"
    settled = [key for key, trust in expected.items() if trust != UNTRUSTED and table is not Rating]
    for start in range(0, len(settled), ITEMS):
        query = select(table.id).where(table.id.in_(settled[start : start + ITEMS]), table.trust == UNTRUSTED)
        for key in session.scalars(query):
            yield f"{name}: what {key} counts for was changed"


# Reading -------------------------------------------------------------------------------------------------------------


def _all(session: Session, table: type[Base]) -> Iterator[tuple[str, Base | None]]:
    """Every row with its key, in the order of the keys, without keeping them; None for one that cannot be read."""
    columns = inspect(table).primary_key
    here, keys = tuple_(*columns), select(*columns).order_by(*columns).limit(BATCH)
    found = session.execute(keys).all()
    while found:
        first, last = tuple_(*found[0]), tuple_(*found[-1])
        for key, row in _read(session, table, select(table).where(here >= first, here <= last), found):
            yield "/".join(map(str, key)), row
        session.expunge_all()
        found = session.execute(keys.where(here > last)).all()


def _read(
    session: Session, table: type[Base], query: Select, keys: Sequence[Row]
) -> list[tuple[tuple, Base | None]]:  # fmt: skip
    """The rows of a query, in the order of their keys."""
    try:
        rows = {tuple(inspect(row).identity): row for row in session.scalars(query)}
    except UNREADABLE:
        rows = {tuple(key): _one(session, table, tuple(key)) for key in keys}
    return [(tuple(key), rows.get(tuple(key))) for key in keys]


def _one(session: Session, table: type[Base], key: tuple) -> Base | None:
    try:
        return session.get(table, key)
    except UNREADABLE:
        return None
