"""From a project's items to judgements: what comes next for whom, what was entered, what counts.

No item is lost or given twice when somebody disappears: an item that is taken is leased, and goes back to the queue
when the lease has run out. What was entered is saved with every field and comes back, also to another browser.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

from sqlalchemy import delete, exists, func, select, update
from sqlalchemy.orm import Session, aliased

from core.errors import AccessError, FeedbackError
from core.feedback import audit
from core.feedback.answers import checked, disputed
from core.feedback.database import Database
from core.feedback.models import Response, utc_now
from core.feedback.outputs import Shown, output_of, shown
from core.feedback.people import Person
from core.feedback.projects import need_part
from core.feedback.rubric import Plan, Rubric
from core.feedback.screen import screened
from core.feedback.studio_models import Assignment, Draft, Item, Judgement, Member, Project

PRIME = 2_147_483_647
"""Places are permuted modulo this prime: another order for each person, which the database can sort by."""
PACE_OF = 20
"""Judgements that the time for the remaining ones is estimated from."""


@dataclass(frozen=True)
class Task:
    """An item in somebody's hands.

    Attributes:
        order: which output stands where on the screen, as indices of ``shown.outputs``.
        draft: what was entered so far, or the answer that counts where it was given.
        version: of the answer that counts; 0 before there is one.
        revisable: whether that may still be changed.
        others: for an adjudicator, the raters' answers without their names.
    """

    id: str
    project_id: str
    kind: str
    rubric: Rubric
    shown: Shown
    order: list[int]
    draft: dict
    active_seconds: float
    version: int
    revisable: bool
    others: list[dict]
    why: str | None = None


@dataclass(frozen=True)
class Progress:
    """How far somebody is in a project. ``seconds`` is what the rest will take at the pace of late; None at first."""

    done: int
    total: int
    seconds: float | None


class Queue:
    def __init__(self, database: Database) -> None:
        self._database = database

    # What comes next

    def next(self, person: Person, project_id: str, purpose: str = "judge") -> Task | None:
        """What this person is at, or else the next item for them; None when there is nothing (or nothing yet).

        Raises:
            AccessError: the project is not open to this person in this part.
        """
        with self._database.writing() as session:
            project, plan = self._open(session, person, project_id, purpose)
            now = utc_now()
            _take_back(session, project_id, now)
            assignment = self._unfinished(session, person, project_id, purpose) or self._new(
                session, person, project, plan, purpose, now
            )
            if assignment is None:
                return None
            assignment.leased_until = now + timedelta(minutes=plan.lease_minutes)
            return _task(session, project, plan, assignment, now)

    def get(self, person: Person, assignment_id: str) -> Task:
        """An item that this person has, or has judged.

        Raises:
            AccessError: it is not this person's.
        """
        with self._database.reading() as session:
            assignment = _own(session, person, assignment_id)
            project = session.get_one(Project, assignment.project_id)
            need_part(session, person, project, assignment.purpose)
            return _task(session, project, Plan.from_json(project.plan), assignment, utc_now())

    def history(self, person: Person, project_id: str, purpose: str = "judge", limit: int = 50) -> list[str]:
        """The items that this person has judged, the newest first."""
        with self._database.reading() as session:
            need_part(session, person, session.get(Project, project_id), purpose)
            query = select(Assignment.id).where(
                Assignment.user_id == person.id, Assignment.project_id == project_id, Assignment.purpose == purpose,
                Assignment.submitted_at.is_not(None),
            ).order_by(Assignment.submitted_at.desc()).limit(limit)  # fmt: skip
            return list(session.scalars(query))

    def _open(self, session: Session, person: Person, project_id: str, purpose: str) -> tuple[Project, Plan]:
        project = session.get(Project, project_id, with_for_update=True)  # one at a time deals items out
        need_part(session, person, project, purpose)
        return project, Plan.from_json(project.plan)

    @staticmethod
    def _unfinished(session: Session, person: Person, project_id: str, purpose: str) -> Assignment | None:
        query = select(Assignment).where(
            Assignment.user_id == person.id, Assignment.project_id == project_id, Assignment.purpose == purpose,
            Assignment.submitted_at.is_(None), Assignment.leased_until.is_not(None),
        ).order_by(Assignment.assigned_at).limit(1)  # fmt: skip
        return session.scalar(query)

    def _new(
        self, session: Session, person: Person, project: Project, plan: Plan, purpose: str, now: datetime
    ) -> Assignment | None:
        mine = aliased(Assignment)
        had = exists().where(mine.item_id == Item.id, mine.user_id == person.id, mine.purpose == purpose)
        free = select(Item).where(Item.project_id == project.id, Item.withdrawn_at.is_(None))
        if purpose == "adjudicate":
            others = aliased(Assignment)
            taken = exists().where(
                others.item_id == Item.id, others.purpose == purpose, others.leased_until.is_not(None)
            )
            query = free.where(Item.disputed.is_not(None), ~taken).order_by(Item.place)
            return self._assign(session, person, session.scalar(query.limit(1)), purpose, 0, now, plan)
        query = free.where(~had)
        if plan.design == "open":
            query = query.where(Item.taken < plan.overlap)
        elif plan.design == "split":
            query = query.where(Item.place % plan.groups == self._group(session, person, project.id, plan))
        seed = random.Random(f"{plan.order_seed}/{person.id}")
        factor, shift = seed.randrange(1, 2**31), seed.randrange(2**31)
        ordered = query.order_by((Item.place * factor + shift) % PRIME)
        item = session.scalar(ordered.limit(1))
        if item is not None:
            return self._assign(session, person, item, purpose, 0, now, plan) or self._again(
                session, person, project.id, plan, now
            )
        return self._back(session, person, project, plan, now) or self._again(session, person, project.id, plan, now)

    def _back(self, session: Session, person: Person, project: Project, plan: Plan, now: datetime) -> Assignment | None:
        """An item that was taken back from this person, if it still needs somebody."""
        query = select(Assignment).join(Item, Assignment.item_id == Item.id).where(
            Assignment.user_id == person.id, Assignment.project_id == project.id, Assignment.purpose == "judge",
            Assignment.submitted_at.is_(None), Assignment.leased_until.is_(None), Item.withdrawn_at.is_(None),
        )  # fmt: skip
        if plan.design == "open":
            query = query.where(Item.taken < plan.overlap)
        assignment = session.scalar(query.order_by(Assignment.assigned_at).limit(1))
        if assignment is not None and assignment.occasion == 0:
            session.get_one(Item, assignment.item_id).taken += 1
        return assignment

    def _again(self, session: Session, person: Person, project_id: str, plan: Plan, now: datetime) -> Assignment | None:
        """An item for the second time, once the washout is over."""
        second = aliased(Assignment)
        had = exists().where(second.item_id == Item.id, second.user_id == person.id, second.occasion == 1)
        query = select(Item).join(Assignment, Assignment.item_id == Item.id).where(
            Item.project_id == project_id, Item.repeated, Item.withdrawn_at.is_(None), ~had,
            Assignment.user_id == person.id, Assignment.purpose == "judge", Assignment.occasion == 0,
            Assignment.submitted_at <= now - timedelta(days=plan.washout_days),
        ).order_by(Assignment.submitted_at)  # fmt: skip
        return self._assign(session, person, session.scalar(query.limit(1)), "judge", 1, now, plan)

    @staticmethod
    def _group(session: Session, person: Person, project_id: str, plan: Plan) -> int:
        query = select(Member.user_id).where(Member.project_id == project_id, Member.purpose == "judge")
        return sorted(session.scalars(query)).index(person.id) % plan.groups

    @staticmethod
    def _assign(
        session: Session, person: Person, item: Item | None, purpose: str, occasion: int, now: datetime, plan: Plan
    ) -> Assignment | None:
        if item is None:
            return None
        order = list(range(len(item.response_ids)))
        random.SystemRandom().shuffle(order)
        assignment = Assignment(
            project_id=item.project_id, item_id=item.id, user_id=person.id, purpose=purpose, occasion=occasion,
            shown=order, assigned_at=now, leased_until=now + timedelta(minutes=plan.lease_minutes),
        )  # fmt: skip
        session.add(assignment)
        if purpose == "judge" and occasion == 0:
            item.taken += 1
        session.flush()
        return assignment

    # What is entered

    def save(self, person: Person, assignment_id: str, answer: dict, active_seconds: float) -> None:
        """Keeps what was entered so far, and the item a while longer.

        Raises:
            AccessError: it is not this person's.
            FeedbackError: a part of it cannot be stored; what was saved before stays.
        """
        with self._database.writing() as session:
            assignment = _own(session, person, assignment_id)
            project = session.get_one(Project, assignment.project_id)
            need_part(session, person, project, assignment.purpose)
            said = _checked(session, project, assignment, answer, complete=False)
            now = utc_now()
            if assignment.submitted_at is None:
                lease = timedelta(minutes=Plan.from_json(project.plan).lease_minutes)
                assignment.leased_until = assignment.leased_until and now + lease
            values = {"answer": said, "active_seconds": _seconds(active_seconds), "saved_at": now}
            insert = self._database.insert(Draft).values(assignment_id=assignment_id, **values)
            session.execute(insert.on_conflict_do_update(index_elements=["assignment_id"], set_=values))

    def submit(
        self, person: Person, assignment_id: str, answer: dict, active_seconds: float, said_at: datetime,
        reason: str = "",
    ) -> int:  # fmt: skip
        """Writes an answer down for good, and returns its version. A second one is a revision with its reason; the
        same answer again is none.

        Raises:
            AccessError: it is not this person's.
            FeedbackError: something is missing, or the time for corrections is over.
        """
        with self._database.writing() as session:
            assignment = _own(session, person, assignment_id)
            project = session.get(Project, assignment.project_id, with_for_update=True)
            need_part(session, person, project, assignment.purpose)
            item, plan, now = session.get_one(Item, assignment.item_id), Plan.from_json(project.plan), utc_now()
            if item.withdrawn_at is not None:
                raise FeedbackError("This case was withdrawn", remedy="Go on with the next one")
            said = _checked(session, project, assignment, answer) | {"shown": assignment.shown}
            last = _newest(session, assignment_id)
            if last is not None:
                if last.answer == said:
                    return last.version
                _need_revisable(assignment, plan, now)
                if not (reason := screened(reason).strip()):
                    raise FeedbackError("A revision needs a reason", remedy="Say in a few words why")
            judgement = Judgement(
                assignment_id=assignment_id, project_id=project.id, item_id=item.id, user_id=person.id,
                purpose=assignment.purpose, occasion=assignment.occasion, version=last.version + 1 if last else 1,
                answer=said, reason=reason or None, active_seconds=_seconds(active_seconds), said_at=said_at,
            )  # fmt: skip
            session.add(judgement)
            session.execute(delete(Draft).where(Draft.assignment_id == assignment_id))
            if last is None:
                if assignment.leased_until is None and assignment.purpose == "judge" and assignment.occasion == 0:
                    item.taken += 1  # it was taken back meanwhile
                assignment.submitted_at = assignment.leased_until = now
            before = last and {"version": last.version, "sha256": audit.digest(last)}
            audit.record(
                session, person.id, "revise" if last else "judge", judgement, before=before,
                after={"version": judgement.version, "item": item.id}, reason=judgement.reason, said_at=said_at,
            )  # fmt: skip
            if assignment.purpose == "judge":
                item.disputed = _dispute(session, project, plan, item)
            return judgement.version

    # How far it is

    def progress(self, person: Person, project_id: str, purpose: str = "judge") -> Progress:
        with self._database.reading() as session:
            project = session.get(Project, project_id)
            need_part(session, person, project, purpose)
            plan = Plan.from_json(project.plan)
            own = (
                Judgement.user_id == person.id, Judgement.project_id == project_id, Judgement.purpose == purpose,
                Judgement.version == 1,
            )  # fmt: skip
            done = session.scalar(select(func.count()).select_from(Judgement).where(*own))
            query = select(Judgement.active_seconds).where(*own).order_by(Judgement.created_at.desc()).limit(PACE_OF)
            paces = list(session.scalars(query))
            left = self._left(session, person, project_id, plan, purpose)
        return Progress(done, done + left, left * median(paces) if paces else None)

    def _left(self, session: Session, person: Person, project_id: str, plan: Plan, purpose: str) -> int:
        """Items that would come to this person if nobody else went on."""
        judged = exists().where(
            Assignment.item_id == Item.id, Assignment.user_id == person.id, Assignment.purpose == purpose,
            Assignment.submitted_at.is_not(None),
        )  # fmt: skip
        held = exists().where(
            Assignment.item_id == Item.id, Assignment.user_id == person.id, Assignment.purpose == purpose,
            Assignment.leased_until.is_not(None),
        )  # fmt: skip
        query = select(func.count()).select_from(Item)
        query = query.where(Item.project_id == project_id, Item.withdrawn_at.is_(None), ~judged)
        if purpose == "adjudicate":
            others = exists().where(
                Assignment.item_id == Item.id, Assignment.purpose == purpose, Assignment.submitted_at.is_not(None)
            )
            return session.scalar(query.where(Item.disputed.is_not(None), ~others))
        if plan.design == "open":
            query = query.where((Item.taken < plan.overlap) | held)
        elif plan.design == "split":
            query = query.where(Item.place % plan.groups == self._group(session, person, project_id, plan))
        twice = exists().where(
            Assignment.item_id == Item.id, Assignment.user_id == person.id, Assignment.occasion == 1,
            Assignment.submitted_at.is_not(None),
        )  # fmt: skip
        again = select(func.count()).select_from(Item).where(
            Item.project_id == project_id, Item.withdrawn_at.is_(None), Item.repeated, judged, ~twice
        )  # fmt: skip
        return session.scalar(query) + session.scalar(again)


def _take_back(session: Session, project_id: str, now: datetime) -> None:
    """Ends the leases that have run out. What was entered stays, for when that person comes back."""
    expired = (
        Assignment.project_id == project_id, Assignment.submitted_at.is_(None), Assignment.leased_until <= now,
    )  # fmt: skip
    query = select(Assignment.item_id).where(*expired, Assignment.purpose == "judge", Assignment.occasion == 0)
    for item_id in session.scalars(query).all():
        session.execute(update(Item).where(Item.id == item_id).values(taken=Item.taken - 1))
    session.execute(update(Assignment).where(*expired).values(leased_until=None))


def _own(session: Session, person: Person, assignment_id: str) -> Assignment:
    assignment = session.get(Assignment, assignment_id)
    if assignment is None or assignment.user_id != person.id:
        raise AccessError("There is no such item for you", remedy="Go on with the next one")
    return assignment


def _outputs(session: Session, item: Item) -> list:
    responses = {r.id: r for r in session.scalars(select(Response).where(Response.id.in_(item.response_ids)))}
    return [output_of(responses[one]) for one in item.response_ids]


def _checked(session: Session, project: Project, assignment: Assignment, answer: dict, complete: bool = True) -> dict:
    outputs = _outputs(session, session.get_one(Item, assignment.item_id))
    return checked(project.kind, Rubric.from_json(project.rubric), outputs, answer, complete=complete)


def _newest(session: Session, assignment_id: str) -> Judgement | None:
    query = select(Judgement).where(Judgement.assignment_id == assignment_id, Judgement.withdrawn_at.is_(None))
    return session.scalar(query.order_by(Judgement.version.desc()).limit(1))


def _need_revisable(assignment: Assignment, plan: Plan, now: datetime) -> None:
    if now - assignment.submitted_at > timedelta(minutes=plan.correction_minutes):
        raise FeedbackError("The time for corrections is over", remedy="Ask a maintainer for an adjudication")


def _seconds(value: float) -> float:
    return min(max(float(value), 0.0), 24 * 3600.0)


def _task(session: Session, project: Project, plan: Plan, assignment: Assignment, now: datetime) -> Task:
    item = session.get_one(Item, assignment.item_id)
    if item.withdrawn_at is not None:
        raise FeedbackError("This case was withdrawn", remedy="Go on with the next one")
    draft, last = session.get(Draft, assignment.id), _newest(session, assignment.id)
    others: list[dict] = []
    if assignment.purpose == "adjudicate":
        others = [j.answer for j in counting(session, item.id) if j.occasion == 0]
    inside = last is None or now - assignment.submitted_at <= timedelta(minutes=plan.correction_minutes)
    return Task(
        assignment.id, project.id, project.kind, Rubric.from_json(project.rubric), shown(session, item),
        assignment.shown, draft.answer if draft else last.answer if last else {},
        draft.active_seconds if draft else 0.0, last.version if last else 0, inside, others, item.disputed,
    )  # fmt: skip


def counting(session: Session, item_id: str, purpose: str = "judge") -> list[Judgement]:
    """The judgements of an item that count: the newest version of each that was not withdrawn."""
    newest: dict[str, Judgement] = {}
    query = select(Judgement).where(Judgement.item_id == item_id, Judgement.purpose == purpose)
    for judgement in session.scalars(query.order_by(Judgement.version)):
        if judgement.withdrawn_at is None:
            newest[judgement.assignment_id] = judgement
    return sorted(newest.values(), key=lambda judgement: judgement.id)


def _dispute(session: Session, project: Project, plan: Plan, item: Item) -> str | None:
    said = [judgement.answer for judgement in counting(session, item.id) if judgement.occasion == 0]
    needed = plan.overlap if plan.design == "open" else 2
    return disputed(project.kind, said, plan.dispute_range) if len(said) >= needed else None
