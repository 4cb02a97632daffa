"""From a project's items to judgements: what comes next for whom, what was entered, what counts.

What was entered is saved with every field and comes back, also to another browser. What was said for good is never
changed: a revision is a new version of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

from sqlalchemy import and_, delete, or_, select, update
from sqlalchemy.orm import Session

from core.errors import AccessError, FeedbackError
from core.feedback import audit, trust
from core.feedback.answers import checked
from core.feedback.counting import counting, dispute, newest
from core.feedback.database import Database
from core.feedback.dealing import Dealer
from core.feedback.models import utc_now
from core.feedback.outputs import Shown, output_of, responses_of, shown
from core.feedback.people import Person
from core.feedback.projects import need_part
from core.feedback.rubric import Plan, Rubric
from core.feedback.screen import screened
from core.feedback.studio_models import Assignment, Draft, Item, Judgement, Project

PACE_OF = 20
"""Judgements that the time for the remaining ones is estimated from."""
DAY_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Task:
    """An item in somebody's hands.

    Attributes:
        order: which output stands where on the screen, as indices of ``shown.outputs``.
        draft: what was entered so far, or the answer that counts where it was given.
        version: of the answer that counts; 0 before there is one.
        revisable: whether that may still be changed.
        others: for an adjudicator, the raters' answers without their names.
        why: for an adjudicator, what they disagree on.
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
            project = _held(session, project_id)
            need_part(session, person, project, purpose)
            now = utc_now()
            assignment = Dealer(session, person, project, purpose, now).next()
            return assignment and _task(session, project, assignment, now)

    def get(self, person: Person, assignment_id: str) -> Task:
        """An item that this person has, or has judged.

        Raises:
            AccessError: it is not this person's.
            FeedbackError: it was withdrawn.
        """
        with self._database.reading() as session:
            assignment = _own(session, person, assignment_id)
            project = session.get_one(Project, assignment.project_id)
            need_part(session, person, project, assignment.purpose)
            return _task(session, project, assignment, utc_now())

    def before(self, person: Person, project_id: str, purpose: str = "judge", after: str | None = None) -> Task:
        """What this person has judged last, or last before another one that they have judged.

        Raises:
            AccessError: the project is not open to this person in this part, or the other one is not theirs.
            FeedbackError: there is none.
        """
        with self._database.reading() as session:
            project = session.get(Project, project_id)
            need_part(session, person, project, purpose)
            query = select(Assignment).join(Item, Assignment.item_id == Item.id).where(
                Assignment.user_id == person.id, Assignment.project_id == project_id, Assignment.purpose == purpose,
                Assignment.submitted_at.is_not(None), Item.withdrawn_at.is_(None),
            )  # fmt: skip
            if after is not None:
                other = _own(session, person, after)
                same = and_(Assignment.submitted_at == other.submitted_at, Assignment.id < other.id)
                query = query.where(or_(Assignment.submitted_at < other.submitted_at, same))
            found = session.scalar(query.order_by(Assignment.submitted_at.desc(), Assignment.id.desc()).limit(1))
            if found is None:
                raise FeedbackError("There is nothing before this one")
            return _task(session, project, found, utc_now())

    # What is entered

    def save(self, person: Person, assignment_id: str, answer: dict, active_seconds: float) -> None:
        """Keeps what was entered so far, and the item a while longer.

        Raises:
            AccessError: it is not this person's.
            FeedbackError: a part of it cannot be stored: of that part what was saved before stays, and all else is
                saved; or the item was withdrawn, or the time for corrections is over.
        """
        with self._database.writing() as session:
            assignment = _own(session, person, assignment_id)
            project = session.get_one(Project, assignment.project_id)
            need_part(session, person, project, assignment.purpose, hold=True)
            said, refused = _savable(session, project, assignment, answer)
            plan, now = Plan.from_json(project.plan), utc_now()
            _need_revisable(assignment, plan, now)
            leased = (
                Assignment.id == assignment_id, Assignment.submitted_at.is_(None), Assignment.leased_until.is_not(None),
            )  # fmt: skip
            # Asked anew, not of what was read above: others may have taken it back since.
            until = now + timedelta(minutes=plan.lease_minutes)
            session.execute(update(Assignment).where(*leased).values(leased_until=until))
            values = {"answer": said, "active_seconds": _seconds(active_seconds), "saved_at": now}
            insert = self._database.insert(Draft).values(assignment_id=assignment_id, **values)
            session.execute(insert.on_conflict_do_update(index_elements=["assignment_id"], set_=values))
        if refused is not None:
            raise FeedbackError(refused.what, value=refused.value, remedy="All else is saved. Change it and try again")

    def submit(
        self, person: Person, assignment_id: str, answer: dict, active_seconds: float, said_at: datetime,
        reason: str = "",
    ) -> int:  # fmt: skip
        """Writes an answer down for good, and returns its version. A second one is a revision with its reason; the
        same answer again is none.

        Raises:
            AccessError: it is not this person's.
            FeedbackError: something is missing, the item was withdrawn, or the time for corrections is over.
        """
        with self._database.writing() as session:
            assignment = _own(session, person, assignment_id)
            project = _held(session, assignment.project_id)
            session.refresh(assignment)  # others may have taken it back before we held the project
            need_part(session, person, project, assignment.purpose, hold=True)
            said = _checked(session, project, assignment, answer) | {"shown": assignment.shown}
            last = newest(session, assignment_id)
            if last is not None and last.answer == said:
                return last.version
            if last is not None:
                _need_revisable(assignment, Plan.from_json(project.plan), utc_now())
                if not (reason := screened(reason).strip()):
                    raise FeedbackError("A revision needs a reason", remedy="Say in a few words why")
            judgement = Judgement(
                assignment_id=assignment_id, project_id=project.id, item_id=assignment.item_id, user_id=person.id,
                purpose=assignment.purpose, occasion=assignment.occasion, version=last.version + 1 if last else 1,
                answer=said, reason=reason if last else None, active_seconds=_seconds(active_seconds), said_at=said_at,
            )  # fmt: skip
            session.add(judgement)
            session.execute(delete(Draft).where(Draft.assignment_id == assignment_id))
            self._settle(session, project, assignment)
            # The reason stands with the judgement alone: what is in the log cannot be forgotten.
            audit.record(
                session, person.id, "revise" if last else "judge", judgement,
                before=last and {"version": last.version, "sha256": audit.digest(last)},
                after={"version": judgement.version, "item": judgement.item_id}, said_at=said_at,
            )  # fmt: skip
            trust.follow(session, project, session.get_one(Item, assignment.item_id))
            return judgement.version

    @staticmethod
    def _settle(session: Session, project: Project, assignment: Assignment) -> None:
        """Brings the item and the assignment up to date with what was said."""
        item = session.get_one(Item, assignment.item_id)
        if assignment.submitted_at is None:
            if assignment.leased_until is None and assignment.purpose == "judge" and assignment.occasion == 0:
                item.taken += 1  # it was taken back meanwhile; what was done is kept all the same
            assignment.submitted_at = assignment.leased_until = utc_now()
        if assignment.purpose == "judge":
            item.disputed = dispute(project.kind, Plan.from_json(project.plan), counting(session, [item.id])[item.id])

    # How far it is

    def progress(self, person: Person, project_id: str, purpose: str = "judge") -> Progress:
        """
        Raises:
            AccessError: the project is not open to this person in this part.
        """
        with self._database.reading() as session:
            project = session.get(Project, project_id)
            need_part(session, person, project, purpose)
            dealer = Dealer(session, person, project, purpose, utc_now())
            paces, (done, left) = dealer.paces(PACE_OF), dealer.standing()
        return Progress(done, done + left, left * median(paces) if paces else None)


def _held(session: Session, project_id: str) -> Project | None:
    """The project, which nobody else deals from or submits to until the transaction ends."""
    return session.get(Project, project_id, with_for_update=True)


def _own(session: Session, person: Person, assignment_id: str) -> Assignment:
    assignment = session.get(Assignment, assignment_id)
    if assignment is None or assignment.user_id != person.id:
        raise AccessError("There is no such item for you", remedy="Go on with the next one")
    return assignment


def _checked(session: Session, project: Project, assignment: Assignment, answer: dict, complete: bool = True) -> dict:
    responses = responses_of(session, session.get_one(Item, assignment.item_id))
    outputs, rubric = [output_of(response) for response in responses], Rubric.from_json(project.rubric)
    return checked(project.kind, rubric, outputs, answer, complete=complete)


def _savable(
    session: Session, project: Project, assignment: Assignment, answer: dict
) -> tuple[dict, FeedbackError | None]:
    """What of an answer can be saved, and why the rest of it cannot. In place of a part that is refused stands what was
    saved before."""
    try:
        return _checked(session, project, assignment, answer, complete=False), None
    except FeedbackError as error:
        refused, draft = error, session.get(Draft, assignment.id)
    parts = {}
    for name, value in answer.items():
        try:
            _checked(session, project, assignment, {name: value}, complete=False)
            parts[name] = value
        except FeedbackError:
            if draft is not None and name in draft.answer:
                parts[name] = draft.answer[name]
    return _checked(session, project, assignment, parts, complete=False), refused


def _is_revisable(assignment: Assignment, plan: Plan, now: datetime) -> bool:
    until = assignment.submitted_at and assignment.submitted_at + timedelta(minutes=plan.correction_minutes)
    return until is None or now <= until


def _need_revisable(assignment: Assignment, plan: Plan, now: datetime) -> None:
    if not _is_revisable(assignment, plan, now):
        raise FeedbackError("The time for corrections is over", remedy="Ask a maintainer for an adjudication")


def _seconds(value: float) -> float:
    return min(float(value), DAY_SECONDS) if value > 0 else 0.0


def _task(session: Session, project: Project, assignment: Assignment, now: datetime) -> Task:
    item, plan = session.get_one(Item, assignment.item_id), Plan.from_json(project.plan)
    draft, last = session.get(Draft, assignment.id), newest(session, assignment.id)
    others: list[dict] = []
    if assignment.purpose == "adjudicate":
        others = [_plain(judgement.answer) for judgement in counting(session, [item.id])[item.id]]
    return Task(
        assignment.id, project.id, project.kind, Rubric.from_json(project.rubric), shown(session, item),
        assignment.shown, draft.answer if draft else _plain(last.answer) if last else {},
        draft.active_seconds if draft else 0.0, last.version if last else 0, _is_revisable(assignment, plan, now),
        others, item.disputed if assignment.purpose == "adjudicate" else None,
    )  # fmt: skip


def _plain(answer: dict) -> dict:
    """An answer as it was given: without the order on the screen, which is written down with it."""
    return {name: value for name, value in answer.items() if name != "shown"}
