"""Rating projects: what is asked, which items, who takes part."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Text, cast, func, insert, select
from sqlalchemy.orm import Session, aliased

from core.errors import AccessError, FeedbackError
from core.feedback import audit
from core.feedback.answers import checked
from core.feedback.database import Database
from core.feedback.models import Generation, Response, new_id
from core.feedback.outputs import output_of
from core.feedback.people import Person
from core.feedback.rubric import Plan, Rubric
from core.feedback.studio_models import KINDS, PURPOSES, STATES, Item, Member, Project, User

BATCH = 500


@dataclass(frozen=True)
class NewItem:
    """
    Attributes:
        response_ids: one response; several of one prompt for a comparison.
        gold: the answer that is known to be right; raters who give another are told nothing.
        repeated: that it comes to the same person twice.
    """

    response_ids: tuple[str, ...]
    gold: dict | None = None
    repeated: bool = False


@dataclass(frozen=True)
class ProjectInfo:
    id: str
    name: str
    kind: str
    state: str
    rubric: Rubric
    plan: Plan
    items: int


class Projects:
    def __init__(self, database: Database) -> None:
        self._database = database

    def make(self, by: Person, name: str, kind: str, rubric: Rubric, plan: Plan | None = None) -> str:
        """A new project without items, still closed to raters. Returns its id."""
        by.need("maintainer")
        if kind not in KINDS:
            raise FeedbackError("Unknown kind of project", value=kind, remedy=f"Use one of {', '.join(KINDS)}")
        if not (name := name.strip()) or len(name) > 200:
            raise FeedbackError("A project needs a name of up to 200 characters", value=name)
        if not rubric.criteria and kind != "correct":
            raise FeedbackError("The rubric asks for nothing", remedy="Choose at least one criterion")
        with self._database.writing() as session:
            if session.scalar(select(Project.id).where(Project.name == name)):
                raise FeedbackError("There is a project of that name", value=name, remedy="Choose another one")
            project = Project(
                name=name, kind=kind, rubric=rubric.to_json(), plan=(plan or Plan()).to_json(), state="draft",
                created_by=by.id,
            )  # fmt: skip
            session.add(project)
            audit.record(session, by.id, "make", project, after={"kind": kind, "state": "draft"})
            return project.id

    def add_items(self, by: Person, project_id: str, items: Iterable[NewItem]) -> int:
        """Adds items, in an order that the plan's seed decides; only while the project is a draft. Returns how many
        it has now.

        Raises:
            FeedbackError: the project has begun, or an item cannot be judged in it.
        """
        by.need("maintainer")
        with self._database.writing(pictures="kept") as session:  # no response is withdrawn meanwhile
            project = _existing(session, project_id)
            if project.state != "draft":
                raise FeedbackError("The project has begun: its items stay", value=project.name, remedy="Make another")
            rows, rubric = list(items), Rubric.from_json(project.rubric)
            random.Random(Plan.from_json(project.plan).order_seed).shuffle(rows)
            first = session.scalar(select(func.count()).where(Item.project_id == project_id))
            for start in range(0, len(rows), BATCH):
                batch = rows[start : start + BATCH]
                ids = {one for new in batch for one in new.response_ids}
                shown = audit.contents(session, ids)
                outputs = {r.id: r for r in session.scalars(select(Response).where(Response.id.in_(ids)))}
                values = [self._item(project, rubric, new, outputs, shown) for new in batch]
                session.execute(insert(Item), [{**of, "place": first + start + i} for i, of in enumerate(values)])
            audit.record_items(session, by.id, project_id)
            return first + len(rows)

    @staticmethod
    def _item(
        project: Project, rubric: Rubric, new: NewItem, there: dict[str, Response], digests: dict[str, str]
    ) -> dict:
        ids = list(new.response_ids)
        shown = audit.content(digests, ids)
        if not ids or shown is None or len(set(ids)) < len(ids):
            raise FeedbackError("An item needs responses that are there, each once", value=ids)
        if (len(ids) > 1) != (project.kind == "compare"):
            raise FeedbackError(f"A project of the kind {project.kind} cannot have {len(ids)} outputs to an item")
        responses = [there[one] for one in ids]
        if project.kind == "correct" and responses[0].kind != "text":
            raise FeedbackError("Only a text can be corrected", value=ids[0], remedy="Rate the image instead")
        outputs = [output_of(response) for response in responses]
        gold = new.gold and checked(project.kind, rubric, outputs, new.gold | {"opened": True})
        return {
            "id": new_id(), "project_id": project.id, "response_ids": ids, "content_sha256": shown,
            "gold": gold, "repeated": new.repeated, "taken": 0,
        }  # fmt: skip

    def add_member(self, by: Person, project_id: str, user_id: str, purpose: str = "judge") -> None:
        """Lets somebody take part: as a rater, or as the adjudicator of what the raters disagree on.

        Raises:
            FeedbackError: somebody who has rated in it cannot adjudicate, nor the other way round.
        """
        by.need("maintainer")
        with self._database.writing() as session:
            project = _existing(session, project_id)
            user = session.get(User, user_id)
            if user is None or user.disabled_at is not None:
                raise FeedbackError("There is no such account", value=user_id)
            if purpose not in PURPOSES:
                raise FeedbackError("Unknown part", value=purpose, remedy=f"Use one of {', '.join(PURPOSES)}")
            if purpose == "adjudicate" and user.role == "rater":
                raise FeedbackError("A rater cannot adjudicate", value=user.login, remedy="Change the role first")
            parts = session.scalars(
                select(Member.purpose).where(Member.project_id == project_id, Member.user_id == user_id)
            ).all()
            if purpose in parts:
                return
            if parts:
                raise FeedbackError("Nobody can rate and adjudicate in one project", value=user.login)
            place = session.scalar(
                select(func.count()).where(Member.project_id == project.id, Member.purpose == purpose)
            )
            member = Member(project_id=project.id, user_id=user_id, purpose=purpose, place=place)
            session.add(member)
            audit.record(session, by.id, "let take part", member)

    def change_state(self, by: Person, project_id: str, state: str) -> None:
        """Opens a project to its raters, or closes it."""
        by.need("maintainer")
        if state not in STATES[1:]:
            raise FeedbackError("Unknown state", value=state, remedy="Use open or closed")
        with self._database.writing() as session:
            project = _existing(session, project_id)
            if session.scalar(select(Item.id).where(Item.project_id == project_id).limit(1)) is None:
                raise FeedbackError("The project has no items", value=project.name, remedy="Add some")
            before, project.state = {"state": project.state}, state
            audit.record(session, by.id, "change state", project, before=before, after={"state": state})

    def of(self, person: Person) -> list[ProjectInfo]:
        """The projects that somebody sees: a maintainer all, others those that they take part in and that are open."""
        with self._database.reading() as session:
            query = select(Project).order_by(Project.created_at)
            if person.role != "maintainer":
                own = select(Member.project_id).where(Member.user_id == person.id)
                query = query.where(Project.id.in_(own), Project.state == "open")
            return [_info(session, project) for project in session.scalars(query)]

    def takes_part(self, person: Person, project_id: str, purpose: str) -> bool:
        with self._database.reading() as session:
            return session.get(Member, (project_id, person.id, purpose)) is not None

    def responses(self, by: Person, kind: str, task: str = "", limit: int = 1000) -> list[str]:
        """What there is to rate: the newest responses of models, by their kind (text or image) and task."""
        by.need("maintainer")
        query = select(Response.id).join(Generation, Response.generation_id == Generation.id)
        query = query.where(Response.author == "model", Response.kind == kind)
        if task:
            query = query.where(Generation.task == task)
        with self._database.reading() as session:
            return list(session.scalars(query.order_by(Generation.created_at.desc(), Response.place).limit(limit)))

    def pairs(self, by: Person, kind: str, task: str = "", limit: int = 1000) -> list[tuple[str, str]]:
        """What there is to compare: responses of two generations with one task, prompt and input, but of different
        versions, settings or seeds."""
        by.need("maintainer")
        one, other, first, second = aliased(Generation), aliased(Generation), aliased(Response), aliased(Response)
        query = (
            select(first.id, second.id)
            .join(one, first.generation_id == one.id)
            .join(other, (other.task == one.task) & (other.prompt == one.prompt) & (other.id > one.id))
            .join(second, (second.generation_id == other.id) & (second.place == first.place))
            .where(first.author == "model", second.author == "model", first.kind == kind, second.kind == kind)
            .where(cast(one.inputs, Text) == cast(other.inputs, Text))
        )
        if task:
            query = query.where(one.task == task)
        with self._database.reading() as session:
            found = session.execute(query.order_by(one.created_at.desc(), first.place).limit(limit))
            return [(a, b) for a, b in found]

    def get(self, person: Person, project_id: str) -> ProjectInfo:
        """
        Raises:
            AccessError: there is none that this person sees.
        """
        with self._database.reading() as session:
            project = session.get(Project, project_id)
            if project is not None and person.role != "maintainer":
                need_part(session, person, project)
            if project is None:
                raise _unseen()
            return _info(session, project)


def need_part(
    session: Session, person: Person, project: Project | None, purpose: str | None = None, *, hold: bool = False
) -> None:
    """
    Args:
        hold: that nobody ends or withdraws the account until the transaction ends.

    Raises:
        AccessError: the project is not open to this person, or not there; it does not tell which.
    """
    if project is not None and project.state == "open" and (purpose != "adjudicate" or person.role != "rater"):
        query = select(Member.purpose).join(User, Member.user_id == User.id)
        query = query.where(Member.project_id == project.id, User.id == person.id, User.disabled_at.is_(None))
        if hold:
            query = query.with_for_update(read=True, key_share=True, of=User)
        parts = session.scalars(query).all()
        if purpose in parts or (purpose is None and parts):
            return
    raise _unseen()


def _info(session: Session, project: Project) -> ProjectInfo:
    last = session.scalar(select(func.max(Item.place)).where(Item.project_id == project.id))  # none is ever deleted
    rubric, plan = Rubric.from_json(project.rubric), Plan.from_json(project.plan)
    return ProjectInfo(
        project.id, project.name, project.kind, project.state, rubric, plan, 0 if last is None else last + 1
    )


def _existing(session: Session, project_id: str) -> Project:
    project = session.get(Project, project_id, with_for_update=True)
    if project is None:
        raise FeedbackError("There is no such project", value=project_id)
    return project


def _unseen() -> AccessError:
    return AccessError("There is no such project for you", remedy="Ask a maintainer to let you take part")
