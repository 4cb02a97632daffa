"""Snapshots: what was to be learned from projects at one moment, never changed, named by its content.

Of a withdrawn judgement nothing stays in them: a snapshot that rests on one is emptied in the same transaction, and can
be made again without it, which gives another hash. Which model versions have seen it stays known.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from core.errors import FeedbackError
from core.feedback import audit, descent, visitors
from core.feedback.columns import columns
from core.feedback.database import Database
from core.feedback.judged import Judged, judged
from core.feedback.leaving import TAINTED, Losses
from core.feedback.models import ModelVersion, new_id, utc_now
from core.feedback.people import Person
from core.feedback.settling import WAITING, settled
from core.feedback.signals import Signal, signals
from core.feedback.standing import standings
from core.feedback.studio_models import Judgement, Project, Snapshot, SnapshotPart, SnapshotSignal, Training

TRAIN, TEST = "train", "test"
BATCH = 500
LISTED = "Copy its SHA-256 from the page Snapshots"


@dataclass(frozen=True)
class Rules:
    """
    Attributes:
        projects: ids of what the signals come from.
        test_share: of the patients (or requests, where none is known) whose signals are held out.
        seed: of that split.
        least_gold: raters who are right on fewer of the gold items are mistrusted; 0 trusts everybody.
        visitors: whether what visitors of the demo said counts, where it was confirmed in one of the projects.
    """

    projects: tuple[str, ...]
    test_share: float = 0.2
    seed: int = 0
    least_gold: float = 0.0
    visitors: bool = False

    def __post_init__(self) -> None:
        if not self.projects:
            raise FeedbackError("A snapshot needs a project", remedy="Choose one or more")
        if not 0 <= self.test_share < 1 or not 0 <= self.least_gold <= 1:
            what = "Patients kept aside must be at least 0% and below 100%, and gold items 0% to 100%"
            raise FeedbackError(what, value=f"{self.test_share:.0%} and {self.least_gold:.0%}")


@dataclass(frozen=True)
class SnapshotInfo:
    """
    Attributes:
        counts: of signals by kind and split, and of what was left out, by the reason.
        emptied: whether something that it rests on was withdrawn.
        versions: names of the model versions that were trained on it, or on top of one that was.
    """

    id: str
    sha256: str
    rules: Rules
    counts: dict
    created_at: datetime
    replaces: str | None
    emptied: bool
    versions: tuple[str, ...]


class Snapshots:
    def __init__(self, database: Database) -> None:
        self._database = database

    def make(self, by: Person, rules: Rules, replaces: str | None = None) -> SnapshotInfo:
        """Writes down what can be learned now. The same content gives the snapshot that is there.

        Raises:
            AccessError: only a maintainer may.
            FeedbackError: there is no such project, or nothing to learn.
        """
        by.need("maintainer")
        losses: Losses = Counter()
        mistrusted = {project_id: self._mistrusted(project_id, rules) for project_id in rules.projects}
        with self._database.reading() as session:
            tainted = descent.tainted_weights(session)
        found: list[Signal] = []
        for project_id in rules.projects:
            said = _untainted(judged(self._database, project_id), tainted, losses)
            found += signals(settled(said, losses, mistrusted[project_id]), losses)
        with self._database.writing() as session:
            audit.hold(session)
            if descent.tainted_weights(session) != tainted:
                raise _withdrawn()
            if rules.visitors:
                of_visitors = visitors.confirmed(session, mistrusted, utc_now(), losses, tainted)
                found += _only_new(of_visitors, found, losses)
            contents = [signal.to_json() | {"split": split(signal.group, rules)} for signal in found]
            if not contents:
                raise _nothing(losses)
            name = digest(asdict(rules), contents)
            there = session.scalar(select(Snapshot).where(Snapshot.sha256 == name))
            if there is None:
                _need_all(session, contents)
                there = self._write(session, by, rules, name, contents, losses, replaces)
            return _info(session, there)

    def _mistrusted(self, project_id: str, rules: Rules) -> set[str]:
        """The raters of a project whose word does not count."""
        with self._database.reading() as session:
            if session.get(Project, project_id) is None:
                raise FeedbackError("There is no such project", value=project_id, remedy="Look at the list of projects")
        if not rules.least_gold:
            return set()
        standing = standings(columns(self._database, project_id, None))
        return {one.rater for one in standing if one.gold is not None and one.gold < rules.least_gold}

    @staticmethod
    def _write(
        session: Session, by: Person, rules: Rules, name: str, contents: list[dict], losses: Losses,
        replaces: str | None,
    ) -> Snapshot:  # fmt: skip
        counts = dict(Counter(f"{one['kind']}, {one['split']}" for one in contents)) | {"left out": dict(losses)}
        snapshot = Snapshot(
            id=new_id(), sha256=name, rules=asdict(rules), counts=counts, replaces_id=replaces, created_by=by.id
        )
        session.add(snapshot)
        session.flush()
        parts = _parts(contents)
        rows = [{"snapshot_id": snapshot.id, "place": i, "content": one} for i, one in enumerate(contents)]
        of = [{"snapshot_id": snapshot.id, "judgement_id": one} for one in parts]
        for table, values in ((SnapshotSignal, rows), (SnapshotPart, of)):
            for start in range(0, len(values), BATCH):
                session.execute(insert(table), values[start : start + BATCH])
        audit.record(session, by.id, "make", snapshot, after={"signals": len(contents), "sha256 of content": name})
        return snapshot

    def again(self, by: Person, snapshot_id: str) -> SnapshotInfo:
        """The snapshot once more, by the same rules, out of what is there now.

        Raises:
            AccessError: only a maintainer may.
            FeedbackError: there is no such snapshot, or nothing to learn any more.
        """
        by.need("maintainer")
        with self._database.reading() as session:
            rules = _rules(_existing(session, snapshot_id))
        return self.make(by, rules, replaces=snapshot_id)

    def all(self, by: Person) -> list[SnapshotInfo]:
        """The newest first."""
        by.need("maintainer")
        with self._database.reading() as session:
            return [
                _info(session, one) for one in session.scalars(select(Snapshot).order_by(Snapshot.created_at.desc()))
            ]

    def find(self, sha256: str) -> SnapshotInfo:
        """The snapshot whose SHA-256 begins so.

        Raises:
            FeedbackError: there is none, or more than one.
        """
        with self._database.reading() as session:
            query = select(Snapshot).where(Snapshot.sha256.startswith(sha256, autoescape=True)).limit(2)
            found = session.scalars(query).all() if sha256 else []
            if len(found) != 1:
                what = "Several snapshots begin so" if found else "There is no such snapshot"
                raise FeedbackError(what, value=sha256, remedy=LISTED)
            return _info(session, found[0])

    def read(self, sha256: str) -> list[dict]:
        """The signals of a snapshot, each with its ``split``.

        Raises:
            FeedbackError: there is none, it was emptied, or it is not as it was written.
        """
        with self._database.reading(snapshot=True) as session:
            snapshot = _named(session, sha256)
            if snapshot.emptied_at is not None:
                remedy = "Make it again: something that it rests on was withdrawn"
                raise FeedbackError("The snapshot was emptied", value=sha256, remedy=remedy)
            contents = read(session, snapshot)
            if digest(snapshot.rules, contents) != sha256:
                raise FeedbackError("The snapshot is not as it was written", value=sha256, remedy="Make it again")
            return contents


def split(group: str, rules: Rules) -> str:
    """On which side a patient is: the same in every snapshot with the same seed and share."""
    drawn = int(hashlib.sha256(f"{rules.seed}/{group}".encode()).hexdigest()[:8], 16) / 16**8
    return TEST if drawn < rules.test_share else TRAIN


def digest(rules: dict, contents: list[dict]) -> str:
    """
    Args:
        rules: as they are written down: a snapshot keeps its name when later rules say more.
    """
    return audit.sha256([rules, contents])


def read(session: Session, snapshot: Snapshot) -> list[dict]:
    query = select(SnapshotSignal.content).where(SnapshotSignal.snapshot_id == snapshot.id)
    return list(session.scalars(query.order_by(SnapshotSignal.place)))


def verify(session: Session) -> Iterator[str]:
    """Every snapshot whose signals or parts are not as they were written, in words."""
    for snapshot in session.scalars(select(Snapshot).order_by(Snapshot.id)).all():
        contents = read(session, snapshot)
        if snapshot.emptied_at is not None:
            if contents:
                yield f"snapshot_signals: {snapshot.id} was emptied, and has some"
            continue
        query = select(SnapshotPart.judgement_id).where(SnapshotPart.snapshot_id == snapshot.id)
        whole = digest(snapshot.rules, contents) == snapshot.sha256
        if not whole or sorted(session.scalars(query)) != _parts(contents):
            yield f"snapshot_signals: those of {snapshot.id} were changed"


def empty(
    session: Session, by: str | None, judgement_ids: Collection[str], now: datetime, visitors: bool = False
) -> int:  # fmt: skip
    """Empties the snapshots that rest on judgements which are being withdrawn. Returns how many those were.

    Args:
        visitors: only those that learned from visitors, one of whom withdraws what these judgements have confirmed.
    """
    found: dict[str, Snapshot] = {}
    ids = sorted(judgement_ids)
    for start in range(0, len(ids), BATCH):
        query = select(Snapshot).join(SnapshotPart, SnapshotPart.snapshot_id == Snapshot.id)
        query = query.where(SnapshotPart.judgement_id.in_(ids[start : start + BATCH]), Snapshot.emptied_at.is_(None))
        found |= {one.id: one for one in session.scalars(query) if not visitors or _rules(one).visitors}
    for snapshot_id, snapshot in sorted(found.items()):
        of = delete(SnapshotSignal).where(SnapshotSignal.snapshot_id == snapshot_id)
        session.execute(of, execution_options={"synchronize_session": False})
        snapshot.emptied_at = now
        audit.record(session, by, audit.WITHDRAW, snapshot)
    return len(found)


def _untainted(found: Iterable[Judged], tainted: Collection[str], losses: Losses) -> Iterator[Judged]:
    """Leaves out what was said of an output that carries on something withdrawn."""
    for one in found:
        if any(output.fingerprint in tainted for output in one.outputs):
            losses[TAINTED] += 1
        else:
            yield one


def _only_new(found: Iterable[Signal], known: list[Signal], losses: Losses) -> Iterator[Signal]:
    """Leaves out what clinicians have said themselves: it would count twice."""
    seen = {_lesson(signal) for signal in known}
    for signal in found:
        if _lesson(signal) in seen:
            losses["of a visitor, and said by clinicians as well"] += 1
            continue
        seen.add(_lesson(signal))
        yield signal


def _lesson(signal: Signal) -> bytes:
    return audit.canonical([signal.kind, signal.task, signal.inputs, signal.chosen, signal.rejected])


def _info(session: Session, snapshot: Snapshot) -> SnapshotInfo:
    return SnapshotInfo(
        snapshot.id, snapshot.sha256, _rules(snapshot), snapshot.counts, snapshot.created_at, snapshot.replaces_id,
        snapshot.emptied_at is not None, tuple(_versions(session, snapshot.id)),
    )  # fmt: skip


def _versions(session: Session, snapshot_id: str) -> list[str]:
    """Names of the versions that were trained on a snapshot, and of all that were made of these."""
    trained = select(Training.version_id.label("id")).where(Training.snapshot_id == snapshot_id).cte(recursive=True)
    seen = trained.union(select(ModelVersion.id).where(ModelVersion.parent_id == trained.c.id))
    return list(
        session.scalars(select(ModelVersion.name).where(ModelVersion.id.in_(select(seen.c.id))).order_by("name"))
    )


def _rules(snapshot: Snapshot) -> Rules:
    return Rules(**snapshot.rules | {"projects": tuple(snapshot.rules["projects"])})


def _parts(contents: list[dict]) -> list[str]:
    """The judgements that signals rest on."""
    return sorted({one for content in contents for one in content["judgements"]})


def _need_all(session: Session, contents: list[dict]) -> None:
    """
    Raises:
        FeedbackError: a judgement was withdrawn since it was read.
    """
    ids = _parts(contents)
    for start in range(0, len(ids), BATCH):
        some = Judgement.id.in_(ids[start : start + BATCH])
        if session.scalar(select(Judgement.id).where(some, Judgement.withdrawn_at.is_not(None)).limit(1)):
            raise _withdrawn()


def _nothing(losses: Losses) -> FeedbackError:
    left = "; ".join(f"{count} {reason}" for reason, count in losses.items())
    what = f"There is nothing to learn yet. Left out: {left}" if left else "There is nothing to learn yet"
    waiting = "Let as many people judge as each item needs, or make a project with one person to an item"
    return FeedbackError(what, remedy=waiting if WAITING in losses else "Judge more first")


def _withdrawn() -> FeedbackError:
    return FeedbackError("Something was withdrawn meanwhile", remedy="Make the snapshot again")


def _named(session: Session, sha256: str) -> Snapshot:
    snapshot = session.scalar(select(Snapshot).where(Snapshot.sha256 == sha256))
    if snapshot is None:
        raise FeedbackError("There is no such snapshot", value=sha256, remedy=LISTED)
    return snapshot


def _existing(session: Session, snapshot_id: str) -> Snapshot:
    snapshot = session.get(Snapshot, snapshot_id)
    if snapshot is None:
        raise FeedbackError("There is no such snapshot", value=snapshot_id, remedy=LISTED)
    return snapshot
