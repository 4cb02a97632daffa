"""Withdrawing what is kept of a person who has rated, and of a patient who was shown."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from core.errors import FeedbackError
from core.feedback import audit, forgetting, tombstones, trust
from core.feedback.blobs import Blobs
from core.feedback.counting import counting, dispute
from core.feedback.database import Database
from core.feedback.models import Case, Generation, GenerationPicture, Response, utc_now
from core.feedback.people import Person, existing, keep_one_maintainer
from core.feedback.projects import GROUND
from core.feedback.rubric import Plan
from core.feedback.runs import patient_hash, pseudonym, secret_of
from core.feedback.studio_models import (
    Assignment,
    Draft,
    Item,
    Judgement,
    Login,
    Member,
    Project,
    Snapshot,
    SnapshotPart,
)
from core.feedback.tombstones import BATCH
from core.feedback.versions import VersionInfo, Versions


@dataclass(frozen=True)
class Withdrawn:
    """How much was taken back."""

    generations: int
    items: int
    judgements: int


@dataclass(frozen=True)
class Withdrawal:
    """What was withdrawn at one moment, by whomever: how many judgements, and versions that had seen one of them. There
    are none where a visitor has withdrawn what judgements had confirmed; the versions had seen that."""

    at: datetime
    judgements: int
    versions: list[VersionInfo]


def withdrawals(database: Database, by: Person, limit: int) -> list[Withdrawal]:
    """Withdrawals that took judgements along, or emptied a snapshot, the newest first.

    Raises:
        AccessError: only a maintainer may.
    """
    by.need("maintainer")
    at = Judgement.withdrawn_at
    with database.reading() as session:
        query = select(at, func.count()).where(at.is_not(None)).group_by(at).order_by(at.desc())
        counted = session.execute(query.limit(limit)).all()
        # One of those that a snapshot rests on tells which versions have seen it.
        query = select(at, func.min(Judgement.id)).join(SnapshotPart, SnapshotPart.judgement_id == Judgement.id)
        query = query.where(at.is_not(None)).group_by(at, SnapshotPart.snapshot_id)
        seen: dict[datetime, list[str]] = {}
        for moment, judgement_id in session.execute(query):
            seen.setdefault(moment, []).append(judgement_id)
        emptied: dict[datetime, list[str]] = {}
        said = select(at).where(at.is_not(None))
        query = select(Snapshot.emptied_at, Snapshot.id).where(Snapshot.emptied_at.is_not(None))
        query = query.where(Snapshot.emptied_at.not_in(said))
        for moment, snapshot_id in session.execute(query):
            emptied.setdefault(moment, []).append(snapshot_id)
    versions = Versions(database)
    found = [Withdrawal(moment, count, versions.touched(seen.get(moment, []))) for moment, count in counted]
    found += [Withdrawal(moment, 0, versions.learned_from(ids)) for moment, ids in emptied.items()]
    return sorted(found, key=lambda one: one.at, reverse=True)[:limit]


def withdraw_person(database: Database, by: Person, user_id: str) -> Withdrawn:
    """Ends an account and takes its name and all that it has said away. Its judgements stay as rows that say nothing,
    and the items go to others. What adjudicators made of it stays: that is theirs.

    Raises:
        AccessError: only a maintainer may.
        FeedbackError: there is no such account, or it is the last maintainer's.
    """
    by.need("maintainer")
    now = utc_now()
    with database.writing() as session:
        parts = select(Member.project_id).where(Member.user_id == user_id)
        gold = _gold_of(session, user_id)
        held = tombstones.hold_projects(session, {*session.scalars(parts), *gold})
        projects = [project for project in held if project.id in set(session.scalars(parts))]
        user = existing(session, user_id, disabled=True)
        user.login, user.password_hash, user.subject, user.salt = f"withdrawn-{user.id}", None, None, None
        user.disabled_at = user.disabled_at or now
        keep_one_maintainer(session)
        audit.record(session, by.id, audit.WITHDRAW, user)
        query = select(Judgement).where(Judgement.user_id == user_id, Judgement.withdrawn_at.is_(None))
        judgements = session.scalars(query.order_by(Judgement.id)).all()
        _forget_gold(session, by.id, gold)
        buried = tombstones.bury(session, by.id, judgements, now)
        _give_back(session, user_id)
        for project in projects:
            judged = {one.item_id for one in judgements if one.project_id == project.id}
            _settle(session, project, sorted(judged))
    database.forget()
    return Withdrawn(0, 0, buried)


def withdraw_patient(database: Database, blobs: Blobs, by: Person, source: str, patient: str) -> Withdrawn:
    """Deletes a patient's examinations and all that models made of them, and takes them out of the projects with what
    was said of them. A picture stays where another generation needs it.

    Raises:
        AccessError: only a maintainer may.
        FeedbackError: there is nothing of such a patient; or a picture cannot be deleted, which a sweep tries again.
    """
    by.need("maintainer")
    with database.writing(pictures="deleted") as session:
        known = patient_hash(source, patient)
        names = known, pseudonym(secret_of(session), known)
        cases = session.scalars(select(Case.id).where(Case.patient_hash.in_(names))).all()
        if not cases:
            remedy = "Write source and patient as they were when it was stored"
            raise FeedbackError("There is nothing of such a patient", remedy=remedy)
        own = select(Generation.id).where(Generation.case_id.in_(cases))
        generations = session.scalar(select(func.count()).select_from(own.subquery()))
        shown = set(session.scalars(select(Response.id).where(Response.generation_id.in_(own))))
        pictures = set(
            session.scalars(select(GenerationPicture.sha256).where(GenerationPicture.generation_id.in_(own)))
        )
        items, judgements = tombstones.withdraw_items(session, by.id, shown, utc_now())
        for case_id in cases:
            audit.append(session, by.id, audit.WITHDRAW, Case.__tablename__, case_id, None, None)
        unread = {"synchronize_session": False}
        session.execute(delete(Generation).where(Generation.case_id.in_(cases)), execution_options=unread)
        session.execute(delete(Case).where(Case.id.in_(cases)), execution_options=unread)
    forgetting.delete_unneeded(database, blobs, pictures)
    database.forget()
    return Withdrawn(generations, items, judgements)


def _gold_of(session: Session, user_id: str) -> dict[str, list[str]]:
    """The items whose gold answer is from somebody, by project."""
    own = set(session.scalars(select(Judgement.id).where(Judgement.user_id == user_id)))
    query = select(Item.project_id, Item.id, Item.gold).where(Item.gold.is_not(None))
    found: dict[str, list[str]] = {}
    for project_id, item_id, gold in session.execute(query) if own else ():
        if gold.get(GROUND) in own:
            found.setdefault(project_id, []).append(item_id)
    return found


def _forget_gold(session: Session, by: str, gold: dict[str, list[str]]) -> None:
    for project_id, item_ids in sorted(gold.items()):
        for start in range(0, len(item_ids), BATCH):
            for item in session.scalars(select(Item).where(Item.id.in_(item_ids[start : start + BATCH]))):
                item.gold = None
        audit.record_items(session, by, project_id, "withdraw gold")


def _give_back(session: Session, user_id: str) -> None:
    """Empties somebody's hands: their items are free again, and neither drafts nor logins stay."""
    own = Assignment.user_id == user_id
    counted = own, Assignment.purpose == "judge", Assignment.occasion == 0, Assignment.leased_until.is_not(None)
    for item_id in session.scalars(select(Assignment.item_id).where(*counted)).all():
        session.execute(update(Item).where(Item.id == item_id).values(taken=Item.taken - 1))
    session.execute(update(Assignment).where(own).values(leased_until=None))
    unread = {"synchronize_session": False}
    drafts = delete(Draft).where(Draft.assignment_id.in_(select(Assignment.id).where(own)))
    session.execute(drafts, execution_options=unread)
    session.execute(delete(Login).where(Login.user_id == user_id), execution_options=unread)


def _settle(session: Session, project: Project, item_ids: list[str]) -> None:
    """Whether items are still disputed, and what follows of them for what visitors said."""
    plan = Plan.from_json(project.plan)
    for start in range(0, len(item_ids), BATCH):
        some = item_ids[start : start + BATCH]
        said = counting(session, some)
        for item in session.scalars(select(Item).where(Item.id.in_(some), Item.withdrawn_at.is_(None))):
            item.disputed = dispute(project.kind, plan, said[item.id])
            trust.follow(session, project, item)
