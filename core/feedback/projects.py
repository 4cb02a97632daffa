"""Rating projects: what is asked, which items, who takes part."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations, groupby, islice

from sqlalchemy import Select, Text, cast, func, insert, or_, select
from sqlalchemy.orm import Session

from core.errors import AccessError, FeedbackError
from core.feedback import audit
from core.feedback.answers import checked
from core.feedback.database import Database
from core.feedback.models import Consent, Generation, ModelVersion, Response, new_id, utc_now
from core.feedback.outputs import output_of
from core.feedback.people import Person
from core.feedback.rubric import Plan, Rubric
from core.feedback.runs import is_import
from core.feedback.studio_models import KINDS, PURPOSES, STATES, Item, Judgement, Member, Project, User

BATCH = 500
GROUND = "judgement"
"""In a gold answer: the judgement that it was taken from."""
SOURCES = ("models", "demo", "runs", "imports", "corrections")
"""Where outputs to rate may be from."""


@dataclass(frozen=True)
class NewItem:
    """
    Attributes:
        response_ids: one response; several of one prompt for a comparison.
        gold: the answer that is known to be right, or what of it is known; raters who give another are told nothing.
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

    def make(
        self, by: Person, name: str, kind: str, rubric: Rubric, plan: Plan | None = None, items: Iterable[NewItem] = ()
    ) -> str:  # fmt: skip
        """A new project, still closed to raters. Returns its id.

        Args:
            items: see ``add_items``. Where one is refused there is no project either.

        Raises:
            FeedbackError: the project cannot be, or an item cannot be judged in it.
        """
        by.need("maintainer")
        if kind not in KINDS:
            raise FeedbackError("Unknown kind of project", value=kind, remedy=f"Use one of {', '.join(KINDS)}")
        if not (name := name.strip()) or len(name) > 200:
            raise FeedbackError("A project needs a name of up to 200 characters", value=name)
        if not rubric.criteria and kind != "correct":
            raise FeedbackError("The rubric asks for nothing", remedy="Choose at least one criterion")
        with self._database.writing(pictures="kept") as session:  # no response is withdrawn meanwhile
            if session.scalar(select(Project.id).where(Project.name == name)):
                raise FeedbackError("There is a project of that name", value=name, remedy="Choose another one")
            project = Project(
                name=name, kind=kind, rubric=rubric.to_json(), plan=(plan or Plan()).to_json(), state="draft",
                created_by=by.id,
            )  # fmt: skip
            session.add(project)
            audit.record(session, by.id, "make", project, after={"kind": kind, "state": "draft"})
            if rows := list(items):
                self._add(session, by, project, rows)
            return project.id

    def add_items(self, by: Person, project_id: str, items: Iterable[NewItem]) -> int:
        """Adds items, in an order that the plan's seed decides; only while the project is a draft. Of two that show the
        same the one with a gold answer stays. Returns how many it has now.

        Raises:
            FeedbackError: the project has begun, or an item cannot be judged in it, or is in it twice.
        """
        by.need("maintainer")
        with self._database.writing(pictures="kept") as session:  # no response is withdrawn meanwhile
            project = _existing(session, project_id)
            if project.state != "draft":
                raise FeedbackError("The project has begun: its items stay", value=project.name, remedy="Make another")
            return self._add(session, by, project, list(items))

    def _add(self, session: Session, by: Person, project: Project, items: list[NewItem]) -> int:
        there = session.scalars(select(Item.response_ids).where(Item.project_id == project.id)).all()
        rows, rubric = _each_once(items, there), Rubric.from_json(project.rubric)
        random.Random(Plan.from_json(project.plan).order_seed).shuffle(rows)
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            ids = {one for new in batch for one in new.response_ids}
            shown = audit.contents(session, ids)
            outputs = {r.id: r for r in session.scalars(select(Response).where(Response.id.in_(ids)))}
            values = [self._item(project, rubric, new, outputs, shown) for new in batch]
            session.execute(insert(Item), [{**of, "place": len(there) + start + i} for i, of in enumerate(values)])
        audit.record_items(session, by.id, project.id)
        return len(there) + len(rows)

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
        given = (new.gold or {}) | {"opened": True}
        ground = {name: given.pop(name) for name in (GROUND,) if name in given}
        gold = new.gold and checked(project.kind, rubric, outputs, given, complete=False) | ground
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

    def responses(
        self, by: Person, kind: str, task: str = "", limit: int = 1000, source: str = "models"
    ) -> list[str]:  # fmt: skip
        """What there is to rate, the newest first, by its kind (text or image) and task.

        Args:
            source: one of ``SOURCES``: all that models made and that was imported, or of it what visitors of the demo
                have kept, what maintainers ran, what was imported; or the corrections that visitors wrote.
        """
        by.need("maintainer")
        if source not in SOURCES:
            raise FeedbackError("Unknown source", value=source, remedy=f"Use one of {', '.join(SOURCES)}")
        query = _there(select(Response.id), kind, task, "person" if source == "corrections" else "model")
        if source == "demo":
            query = query.where(Generation.consent_id.is_not(None))
        elif source in ("runs", "imports"):
            query = query.where(Generation.consent_id.is_(None), is_import() if source == "imports" else ~is_import())
        with self._database.reading() as session:
            return list(session.scalars(query.order_by(Generation.created_at.desc(), Response.place).limit(limit)))

    def groups(self, by: Person, kind: str, task: str = "", size: int = 2, limit: int = 1000) -> list[tuple[str, ...]]:
        """What there is to compare: each ``size`` of the models' responses to one task, prompt and input, which differ
        in version, settings or seed. Those of the newest requests come first. What was made of nothing, as pictures of
        a folder, has no like.

        Args:
            kind: text or image.
            limit: so many groups at most.
        """
        by.need("maintainer")
        request = Generation.task, Generation.prompt, cast(Generation.inputs, Text), Response.place
        newest = func.max(Generation.created_at).over(partition_by=request).label("newest")
        query = _there(select(Response.id, newest, *request), kind, task, "model")
        query = query.where(cast(Generation.inputs, Text) != "[]")
        query = query.order_by(newest.desc(), *request, Generation.created_at, Response.id)
        query = query.execution_options(yield_per=BATCH)
        with self._database.reading() as session, session.execute(query) as rows:
            of_requests = groupby(rows, key=lambda row: tuple(row[1:]))
            groups = (group for _, of in of_requests for group in combinations([row.id for row in of], size))
            return list(islice(groups, limit))

    def gold_items(self, by: Person, project_id: str) -> list[NewItem]:
        """The items of a project whose right answer is known, to be put among those of another one of the same kind
        and rubric."""
        by.need("maintainer")
        with self._database.reading() as session:
            query = select(Item).where(Item.project_id == project_id, Item.withdrawn_at.is_(None))
            items = session.scalars(query.where(Item.gold.is_not(None)).order_by(Item.place))
            return [NewItem(tuple(item.response_ids), item.gold) for item in items]

    def mark_gold(self, by: Person, judgement_id: str) -> None:
        """Takes what somebody has said of an item as the answer that is known to be right: by it the others are
        checked.

        Raises:
            FeedbackError: there is no such judgement, it was withdrawn, or it says that it cannot be judged.
        """
        by.need("maintainer")
        with self._database.writing() as session:
            project_id = session.scalar(select(Judgement.project_id).where(Judgement.id == judgement_id))
            if project_id is not None:
                _existing(session, project_id)
            judgement = session.get(Judgement, judgement_id)
            if judgement is None or judgement.answer is None:
                raise FeedbackError("There is no such judgement", value=judgement_id)
            if judgement.answer["cannot_judge"] is not None:
                raise FeedbackError("Who cannot judge it knows no right answer", remedy="Choose another judgement")
            item = session.get_one(Item, judgement.item_id)
            # Without free words; and with what it rests on, so that it goes when that is withdrawn.
            said = {name: value for name, value in judgement.answer.items() if name not in ("shown", "comment")}
            item.gold = said | {GROUND: judgement.id}
            audit.record_items(session, by.id, project_id, "mark gold")

    def members(self, by: Person, project_id: str) -> list[tuple[str, str]]:
        """The login names of those who take part, each with the part."""
        by.need("maintainer")
        with self._database.reading() as session:
            query = select(User.login, Member.purpose).join(Member, Member.user_id == User.id)
            query = query.where(Member.project_id == project_id).order_by(Member.purpose.desc(), Member.place)
            return [(login, purpose) for login, purpose in session.execute(query)]


def _each_once(items: list[NewItem], there: Iterable[list[str]]) -> list[NewItem]:
    """New items without those that a gold one among them stands for.

    Raises:
        FeedbackError: some are twice in the project all the same.
    """
    before, found, twice = {frozenset(ids) for ids in there}, {}, 0
    for new in items:
        of = frozenset(new.response_ids)
        known, other = new.gold is not None, found.get(of)
        if of in before or (other is not None and known == (other.gold is not None)):
            twice += 1
        elif other is None or known:
            found[of] = new
    if twice:
        what = f"{twice} of {len(items)} items show what another one of the project shows"
        raise FeedbackError(what, remedy="Leave them out; somebody rates twice what is marked as repeated")
    return list(found.values())


def _there(query: Select, kind: str, task: str, author: str) -> Select:
    """Restricts a query of responses to those that may be judged, of a kind and perhaps a task."""
    query = query.join(Generation, Response.generation_id == Generation.id)
    query = query.join(ModelVersion, Generation.model_version_id == ModelVersion.id)
    query = query.outerjoin(Consent, func.coalesce(Response.consent_id, Generation.consent_id) == Consent.id)
    query = query.where(Response.kind == kind, or_(Consent.id.is_(None), Consent.expires_at > utc_now()))
    query = query.where(Response.author == author)
    return query.where(Generation.task == task) if task else query


def need_part(session: Session, person: Person, project: Project | None, purpose: str, *, hold: bool = False) -> None:
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
        if purpose in parts:
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
