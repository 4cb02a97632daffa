"""The registry of learned model versions: what each was made of, how it did against its parent, and which is served.

At most one version is promoted; where none is, the base is served. Promoting, rolling back and retiring are one
transaction each, with a reason, and stand in the log.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.errors import FeedbackError
from core.feedback import audit, descent, runs
from core.feedback.database import Database
from core.feedback.gate import EVEN, Gate, gate_of, score
from core.feedback.judged import judged, rater_name
from core.feedback.models import ModelVersion, utc_now
from core.feedback.people import Person
from core.feedback.screen import screened
from core.feedback.settling import settled
from core.feedback.studio_models import VERSION_STATES as STATES
from core.feedback.studio_models import Judgement, Project, Snapshot, SnapshotPart, Training
from core.lineage import Lineage

CANDIDATE, PROMOTED, RETIRED = STATES
BATCH = 500


@dataclass(frozen=True)
class VersionInfo:
    """
    Attributes:
        tainted: its snapshot, or that of a learned version that it was made of, was emptied by a withdrawal.
        project_id: the project that compares it with its parent.
        created_at: when it was trained.
    """

    id: str
    name: str
    fingerprint: str
    state: str
    lineage: Lineage
    snapshot_id: str
    tainted: bool
    project_id: str | None
    created_at: datetime
    promoted_at: datetime | None


@dataclass(frozen=True)
class Basis:
    """How many judgements of one rater a version rests on, and how many of these were withdrawn since. ``rater`` is
    the same name as in the project's statistics and tells nothing."""

    project: str
    rater: str
    judgements: int
    withdrawn: int


class Versions:
    def __init__(self, database: Database) -> None:
        self._database, self._told = database, set()

    def register(self, by: Person, lineage: Lineage, fingerprint: str) -> str:
        """Writes down that a version was learned from a snapshot, as a candidate. Returns its id; the same again
        returns the same.

        Args:
            fingerprint: of base and adapter together, as its outputs carry it.

        Raises:
            AccessError: only a maintainer may.
            FeedbackError: there is no such snapshot, or another version has that name.
        """
        by.need("maintainer")
        _created(lineage)
        if lineage.parent == lineage.name:
            raise FeedbackError("A version cannot be made of itself", value=lineage.name)
        with self._database.writing() as session:
            audit.hold(session)
            snapshot = session.scalar(select(Snapshot).where(Snapshot.sha256 == lineage.snapshot))
            if snapshot is None:
                what, remedy = "What it learned from is not in this database", "Register it where its snapshot was made"
                raise FeedbackError(what, value=lineage.snapshot, remedy=remedy)
            version_id = runs.model_version(self._database, session, lineage.name, fingerprint)
            version = session.get_one(ModelVersion, version_id)
            known = session.get(Training, version_id)
            if known is not None and known.snapshot_id == snapshot.id:
                return version_id
            if known is not None or version.name != lineage.name:
                remedy = "Give this one another name"
                raise FeedbackError("Another version has that name", value=lineage.name, remedy=remedy)
            version.parent_id = _parent(self._database, session, lineage)
            training = Training(
                version_id=version_id, snapshot_id=snapshot.id, state=CANDIDATE, lineage=lineage.to_json()
            )
            session.add(training)
            audit.record(session, by.id, "register", training, after={"name": lineage.name, "state": CANDIDATE})
            return version_id

    def all(self) -> list[VersionInfo]:
        """The newest first. A row that is damaged is left out, which stderr tells once."""
        with self._database.reading() as session:
            tainted = descent.tainted(session)
            query = select(Training, ModelVersion).join(ModelVersion, Training.version_id == ModelVersion.id)
            found = []
            for training, version in session.execute(query):
                try:
                    found.append(_info(version, training, tainted))
                except (FeedbackError, KeyError, TypeError, ValueError) as error:
                    if version.name not in self._told:
                        what = f"What the registry holds of version {version.name} is damaged ({type(error).__name__})"
                        print(what, file=sys.stderr, flush=True)
                    self._told.add(version.name)
        return sorted(found, key=lambda one: (one.created_at, one.name), reverse=True)

    def served(self) -> str | None:
        """The name of the promoted version; None where the base is served."""
        query = select(ModelVersion.name).join(Training, Training.version_id == ModelVersion.id)
        with self._database.reading() as session:
            return session.scalar(query.where(Training.state == PROMOTED))

    def link(self, by: Person, version_id: str, project_id: str) -> None:
        """Names the blinded project that compares a version with its parent.

        Raises:
            AccessError: only a maintainer may.
            FeedbackError: there is no such version or project, or the project compares nothing.
        """
        by.need("maintainer")
        with self._database.writing() as session:
            audit.hold(session)
            training = _existing(session, version_id)
            project = session.get(Project, project_id)
            if project is None or project.kind != "compare":
                raise FeedbackError("There is no such project that compares", value=project_id)
            if training.project_id != project_id:
                training.project_id = project_id
                audit.record(session, by.id, "link", training, after={"project": project_id})

    # How it did

    def gate(self, version_id: str) -> Gate:
        """
        Raises:
            FeedbackError: there is no such version.
        """
        with self._database.reading() as session:
            project_id = _existing(session, version_id).project_id
            version = session.get_one(ModelVersion, version_id)
            names = version.name, session.get_one(ModelVersion, version.parent_id).name
        if project_id is None:
            return gate_of([])
        items = settled(judged(self._database, project_id), Counter())
        return gate_of([of for item in items if (of := score(item, *names)) is not None])

    def judgements(self, version_id: str) -> list[Basis]:
        """What the snapshots rest on that a version and its learned parents were trained on.

        Raises:
            FeedbackError: there is no such version.
        """
        with self._database.reading() as session:
            _existing(session, version_id)
            made_of = descent.parents(session)
            of = select(Training.snapshot_id).where(Training.version_id.in_(list(descent.line(version_id, made_of))))
            query = select(
                Project.id, Project.name, Judgement.user_id, Judgement.id, Judgement.withdrawn_at.is_not(None)
            )
            query = query.join(Project, Judgement.project_id == Project.id)
            query = query.join(SnapshotPart, SnapshotPart.judgement_id == Judgement.id)
            rows = {tuple(row) for row in session.execute(query.where(SnapshotPart.snapshot_id.in_(of)))}
        whose = [((name, rater_name(project, user)), gone) for project, name, user, _, gone in rows]
        said, withdrawn = Counter(one for one, _ in whose), Counter(one for one, gone in whose if gone)
        return [Basis(*one, said[one], withdrawn[one]) for one in sorted(said)]

    def touched(self, judgement_ids: Collection[str]) -> list[VersionInfo]:
        """Every version that has seen one of the judgements, and all that were made of such; the newest first."""
        ids, seen = sorted(judgement_ids), set()
        with self._database.reading() as session:
            for start in range(0, len(ids), BATCH):
                query = select(Training.version_id).join(SnapshotPart, SnapshotPart.snapshot_id == Training.snapshot_id)
                seen |= set(session.scalars(query.where(SnapshotPart.judgement_id.in_(ids[start : start + BATCH]))))
            made_of = descent.parents(session)
        return [one for one in self.all() if not seen.isdisjoint(descent.line(one.id, made_of))]

    # What is served

    def promote(self, by: Person, version_id: str, reason: str) -> None:
        """Serves a version from now on. The one that was served retires, and is what a roll back returns to.

        Raises:
            AccessError: only a maintainer may.
            FeedbackError: there is no such version, it is promoted already, or it may not be: it is tainted, was not
                compared with its parent, or is not shown to be better; or there is no reason.
        """
        by.need("maintainer")
        reason = _reason(reason)
        with self._database.writing() as session:
            audit.hold(session)  # nothing is said or withdrawn until the end
            training = _existing(session, version_id)
            if training.state == PROMOTED:
                raise FeedbackError("That version is promoted already", value=training.lineage["name"])
            gate = self._may_be_promoted(session, training)
            former = _promoted(session)
            if former is not None:
                _change(session, by, "retire", former, RETIRED, reason)
            training.replaced_id = former and former.version_id
            _change(session, by, "promote", training, PROMOTED, reason, {"gate": asdict(gate)})

    def _may_be_promoted(self, session: Session, training: Training) -> Gate:
        name = training.lineage["name"]
        if training.version_id in descent.tainted(session):
            remedy = "Make its snapshot again, and learn from that one"
            raise FeedbackError("The version rests on something that was withdrawn", value=name, remedy=remedy)
        if training.project_id is None:
            remedy = "Have it compared blindly with its parent first"
            raise FeedbackError("The version was not compared with its parent", value=name, remedy=remedy)
        gate = self.gate(training.version_id)
        if gate.low is None or gate.low <= EVEN:
            found = "nothing counts yet"
            if gate.low is not None:
                found = f"it wins {gate.rate:.0%}, which may be {gate.low:.0%} to {gate.high:.0%}"
            what = f"The version is not shown to be better than its parent: {found}"
            remedy = "The lower end must lie above 50%: have more items judged, or learn from more"
            raise FeedbackError(what, value=name, remedy=remedy)
        return gate

    def former(self) -> str | None:
        """The name of what a roll back would serve; None for the base."""
        with self._database.reading() as session:
            last = _promoted(session)
            former = last and _former(session, last)
            return former and former.lineage["name"]

    def roll_back(self, by: Person, reason: str) -> str | None:
        """Serves again what the promoted version had replaced; a version that is tainted by now is passed over. Returns
        its name; None for the base.

        Raises:
            AccessError: only a maintainer may.
            FeedbackError: none is promoted, or there is no reason.
        """
        by.need("maintainer")
        reason = _reason(reason)
        with self._database.writing() as session:
            audit.hold(session)
            if (last := _promoted(session)) is None:
                raise FeedbackError("No version is promoted", remedy="The base is served already")
            former = _former(session, last)
            last.replaced_id = None
            _change(session, by, "roll back", last, RETIRED, reason)
            if former is None:
                return None
            _change(session, by, "promote", former, PROMOTED, reason)
            return former.lineage["name"]

    def retire(self, by: Person, version_id: str, reason: str) -> None:
        """Puts a candidate aside.

        Raises:
            AccessError: only a maintainer may.
            FeedbackError: there is no such candidate, or no reason.
        """
        by.need("maintainer")
        reason = _reason(reason)
        with self._database.writing() as session:
            audit.hold(session)
            training = _existing(session, version_id)
            if training.state != CANDIDATE:
                remedy = "Roll back to retire what is served" if training.state == PROMOTED else "It is retired already"
                raise FeedbackError("That version is no candidate", value=training.lineage["name"], remedy=remedy)
            _change(session, by, "retire", training, RETIRED, reason)


def _parent(database: Database, session: Session, lineage: Lineage) -> str:
    """The id of what a version was made of: a learned version of that name, or else the base."""
    learned = select(ModelVersion.id).join(Training, Training.version_id == ModelVersion.id)
    found = session.scalar(learned.where(ModelVersion.name == lineage.parent))
    return found or runs.model_version(database, session, lineage.parent, lineage.base_fingerprint)


def _change(
    session: Session, by: Person, action: str, training: Training, state: str, reason: str, more: dict | None = None
) -> None:  # fmt: skip
    before, training.state = {"state": training.state}, state
    if state == PROMOTED:
        training.promoted_at = utc_now()
    after = {"name": training.lineage["name"], "state": state} | (more or {})
    audit.record(session, by.id, action, training, before=before, after=after, reason=reason)


def _promoted(session: Session) -> Training | None:
    return session.scalar(select(Training).where(Training.state == PROMOTED))


def _former(session: Session, last: Training) -> Training | None:
    """What the promoted version had replaced, without those that are tainted by now; None is the base."""
    tainted, passed = descent.tainted(session), {last.version_id}
    before = last.replaced_id
    while before in tainted - passed:
        passed.add(before)
        before = session.get_one(Training, before).replaced_id
    return None if before is None or before in passed else session.get_one(Training, before)


def _existing(session: Session, version_id: str) -> Training:
    if (training := session.get(Training, version_id)) is None:
        raise FeedbackError("There is no such version", value=version_id)
    return training


def _reason(reason: str) -> str:
    if not (reason := screened(reason).strip()):
        raise FeedbackError("That needs a reason", remedy="Say in a few words why")
    return reason


def _created(lineage: Lineage) -> datetime:
    try:
        found = datetime.fromisoformat(lineage.created_at)
    except (TypeError, ValueError):
        found = None
    if found is None or found.tzinfo is None:
        raise FeedbackError("When the version was made is no moment with a time zone", value=lineage.created_at)
    return found


def _info(version: ModelVersion, training: Training, tainted: set[str]) -> VersionInfo:
    lineage = Lineage(**{field.name: training.lineage[field.name] for field in fields(Lineage)})
    return VersionInfo(
        version.id, version.name, version.fingerprint, training.state, lineage, training.snapshot_id,
        version.id in tainted, training.project_id, _created(lineage), training.promoted_at,
    )  # fmt: skip
