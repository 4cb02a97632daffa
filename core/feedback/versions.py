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

from core.errors import FeedbackError, UniMedError
from core.feedback import audit, descent, gate, promotion, runs
from core.feedback.database import Database
from core.feedback.gate import Gate
from core.feedback.judged import rater_name
from core.feedback.models import ModelVersion, utc_now
from core.feedback.people import Person
from core.feedback.screen import screened
from core.feedback.studio_models import VERSION_STATES as STATES
from core.feedback.studio_models import Judgement, Project, Snapshot, SnapshotPart, Training
from core.lineage import Lineage, checked_name

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


def comparison_name(version_id: str) -> str:
    """Of the project that compares a version with its parent. Raters read it, and it must not tell them which side is
    whose."""
    return f"Comparison {version_id[:8]}"


class Versions:
    def __init__(self, database: Database) -> None:
        self._database, self._told = database, set()

    def register(self, by: Person, lineage: Lineage, fingerprint: str) -> str:
        """Writes down that a version was learned from a snapshot, as a candidate. Returns its id; the same again
        returns the same, and adds the evaluation of its tasks where there was none.

        Args:
            fingerprint: of base and adapter together, as its outputs carry it.

        Raises:
            AccessError: only a maintainer may.
            CheckpointError: it has a name that no version can have.
            FeedbackError: there is no such snapshot, it was emptied, the parent is not registered, or another version
                has that name.
        """
        by.need("maintainer")
        checked_name(lineage.name)
        lineage.moment()
        if lineage.parent == lineage.name:
            remedy = "Give it another name than its parent's"
            raise FeedbackError("A version cannot be made of itself", value=lineage.name, remedy=remedy)
        with self._database.writing() as session:
            audit.hold(session)
            snapshot = session.scalar(select(Snapshot).where(Snapshot.sha256 == lineage.snapshot))
            if snapshot is None:
                what, remedy = "What it learned from is not in this database", "Register it where its snapshot was made"
                raise FeedbackError(what, value=lineage.snapshot, remedy=remedy)
            version_id = runs.model_version(self._database, session, lineage.name, fingerprint)
            version = session.get_one(ModelVersion, version_id)
            if (known := session.get(Training, version_id)) is not None and known.snapshot_id == snapshot.id:
                _evaluated(session, by, known, lineage)
                return version_id
            if known is not None or version.name != lineage.name:
                remedy = "Give this one another name"
                raise FeedbackError("Another version has that name", value=lineage.name, remedy=remedy)
            if snapshot.emptied_at is not None:
                what, remedy = "The snapshot was withdrawn meanwhile", "Make it again, and learn from that"
                raise FeedbackError(what, value=lineage.snapshot[:12], remedy=remedy)
            version.parent_id = _parent(self._database, session, lineage)
            training = Training(
                version_id=version_id, snapshot_id=snapshot.id, state=CANDIDATE, lineage=lineage.to_json()
            )
            session.add(training)
            audit.record(session, by.id, "register", training, after={"name": lineage.name, "state": CANDIDATE})
            return version_id

    def taken(self, name: str) -> bool:
        """Whether something has that name already, as outputs carry it."""
        with self._database.reading() as session:
            return session.scalar(select(ModelVersion.id).where(ModelVersion.name == name)) is not None

    def all(self) -> list[VersionInfo]:
        """The newest first. A row that is damaged is left out, which stderr tells once."""
        with self._database.reading() as session:
            tainted = descent.tainted(session)
            query = select(Training, ModelVersion).join(ModelVersion, Training.version_id == ModelVersion.id)
            found = []
            for training, version in session.execute(query):
                try:
                    found.append(_info(version, training, tainted))
                except (UniMedError, KeyError, TypeError, ValueError) as error:
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
                remedy = "Name a project in which people compare outputs"
                raise FeedbackError("There is no such project that compares", value=project_id, remedy=remedy)
            if training.project_id != project_id:
                training.project_id = project_id
                audit.record(session, by.id, "link", training, after={"project": project_id})

    def leave(self, by: Person, version_id: str, repository: str) -> None:
        """Logs that a version is put into a repository of the hub, before it is.

        Raises:
            AccessError: only a maintainer may.
            FeedbackError: there is no such version, or it rests on something that was withdrawn.
        """
        by.need("maintainer")
        with self._database.writing() as session:
            audit.hold(session)
            training = _existing(session, version_id)
            promotion.need_whole(session, training)
            after = {"name": training.lineage["name"], "repository": repository}
            audit.record(session, by.id, "push", training, after=after)

    # How it did

    def gate(self, version_id: str) -> Gate:
        """
        Raises:
            FeedbackError: there is no such version.
        """
        with self._database.reading() as session:
            training = _existing(session, version_id)
            ours = session.get_one(ModelVersion, version_id).fingerprint
        if training.project_id is None:
            return gate.gate_of([])
        return gate.gate(self._database, training.project_id, ours, training.lineage["parent_fingerprint"])

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
                query = select(SnapshotPart.snapshot_id).distinct()
                seen |= set(session.scalars(query.where(SnapshotPart.judgement_id.in_(ids[start : start + BATCH]))))
        return self.learned_from(seen) if seen else []

    def learned_from(self, snapshot_ids: Collection[str]) -> list[VersionInfo]:
        """Every version that has seen one of the snapshots, and all that were made of such; the newest first."""
        found = self.all()
        seen = {one.id for one in found if one.snapshot_id in snapshot_ids}
        with self._database.reading() as session:
            made_of = descent.parents(session)
        return [one for one in found if not seen.isdisjoint(descent.line(one.id, made_of))]

    # What is served

    def promote(self, by: Person, version_id: str, reason: str) -> None:
        """Serves a version from now on. The one that was served retires, and is what a roll back returns to.

        Raises:
            AccessError: only a maintainer may.
            FeedbackError: there is no such version, it is promoted already, or it may not be
                (``core.feedback.promotion``); or there is no reason.
        """
        by.need("maintainer")
        reason = _reason(reason)
        with self._database.writing() as session:
            audit.hold(session)  # nothing is said or withdrawn until the end
            training = _existing(session, version_id)
            if training.state == PROMOTED:
                remedy = "Nothing is left to do"
                raise FeedbackError("That version is promoted already", value=training.lineage["name"], remedy=remedy)
            former, how = promotion.served(session), self.gate(version_id)
            promotion.need_fit(session, training, former, how)
            if former is not None:
                _change(session, by, "retire", former, RETIRED, reason)
            training.replaced_id = former and former.version_id
            why = {"gate": asdict(how), "tasks": promotion.tasks(training)}
            _change(session, by, "promote", training, PROMOTED, reason, why)

    def former(self) -> str | None:
        """The name of what a roll back would serve; None for the base."""
        with self._database.reading() as session:
            last = promotion.served(session)
            former = last and promotion.former(session, last)
            return former and former.lineage["name"]

    def roll_back(self, by: Person, reason: str, served: str | None = None) -> str | None:
        """Serves again what the promoted version had replaced; a version that is tainted by now is passed over. Returns
        its name; None for the base.

        Args:
            served: id of the version that whoever asks takes for the promoted one.

        Raises:
            AccessError: only a maintainer may.
            FeedbackError: none is promoted, another one than ``served`` is, or there is no reason.
        """
        by.need("maintainer")
        reason = _reason(reason)
        with self._database.writing() as session:
            audit.hold(session)
            if (last := promotion.served(session)) is None:
                raise FeedbackError("No version is promoted", remedy="The base is served already")
            if served not in (None, last.version_id):
                remedy = "Look at what is served now, and decide again"
                raise FeedbackError("Somebody else has changed it meanwhile", value=last.lineage["name"], remedy=remedy)
            former = promotion.former(session, last)
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


def _evaluated(session: Session, by: Person, known: Training, lineage: Lineage) -> None:
    """Takes up how a registered version does its tasks, where that was not measured before."""
    if "tasks" in lineage.metrics and "tasks" not in known.lineage["metrics"]:
        known.lineage = known.lineage | {"metrics": lineage.metrics}
        after = {"name": lineage.name, "tasks": promotion.tasks(known)}
        audit.record(session, by.id, "evaluate", known, after=after)


def _parent(database: Database, session: Session, lineage: Lineage) -> str:
    """The id of what a version was made of: the base, or a learned version with those weights.

    Raises:
        FeedbackError: it is neither.
    """
    if lineage.parent_fingerprint == lineage.base_fingerprint:
        return runs.model_version(database, session, lineage.parent, lineage.base_fingerprint)
    learned = select(ModelVersion.id).join(Training, Training.version_id == ModelVersion.id)
    of = ModelVersion.name == lineage.parent, ModelVersion.fingerprint == lineage.parent_fingerprint
    if (found := session.scalar(learned.where(*of))) is None:
        remedy = "Register its parent first"
        raise FeedbackError("What the version was made of is not registered", value=lineage.parent, remedy=remedy)
    return found


def _change(
    session: Session, by: Person, action: str, training: Training, state: str, reason: str, more: dict | None = None
) -> None:  # fmt: skip
    before, training.state = {"state": training.state}, state
    if state == PROMOTED:
        training.promoted_at = utc_now()
    after = {"name": training.lineage["name"], "state": state} | (more or {})
    audit.record(session, by.id, action, training, before=before, after=after, reason=reason)


def _existing(session: Session, version_id: str) -> Training:
    if (training := session.get(Training, version_id)) is None:
        raise FeedbackError("There is no such version", value=version_id, remedy="Look at the list of versions")
    return training


def _reason(reason: str) -> str:
    if not (reason := screened(reason).strip()):
        raise FeedbackError("That needs a reason", remedy="Say in a few words why")
    return reason


def _info(version: ModelVersion, training: Training, tainted: set[str]) -> VersionInfo:
    lineage = Lineage(**{field.name: training.lineage[field.name] for field in fields(Lineage)})
    return VersionInfo(
        version.id, version.name, version.fingerprint, training.state, lineage, training.snapshot_id,
        version.id in tainted, training.project_id, lineage.moment(), training.promoted_at,
    )  # fmt: skip
