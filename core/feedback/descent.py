"""What learned versions were made of, and which of them have seen something that was withdrawn."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from core.feedback.models import ModelVersion
from core.feedback.studio_models import Snapshot, Training


def parents(session: Session) -> dict[str, str | None]:
    """The parent of every version, by their ids."""
    return {row.id: row.parent_id for row in session.execute(select(ModelVersion.id, ModelVersion.parent_id))}


def line(version_id: str | None, made_of: dict[str, str | None]) -> Iterator[str]:
    """A version and all that it was made of."""
    seen: set[str] = set()
    while version_id is not None and version_id not in seen:
        seen.add(version_id)
        yield version_id
        version_id = made_of.get(version_id)


def tainted(session: Session) -> set[str]:
    """The versions that have seen something that was withdrawn, and all that were made of these."""
    query = select(Training.version_id).join(Snapshot, Training.snapshot_id == Snapshot.id)
    emptied = set(session.scalars(query.where(Snapshot.emptied_at.is_not(None))))
    made_of = parents(session)
    return {one for one in session.scalars(select(Training.version_id)) if not emptied.isdisjoint(line(one, made_of))}


def tainted_weights(session: Session) -> set[str]:
    """Fingerprints of the versions that are tainted: what they have made is learned from no more."""
    ids = tainted(session)
    return {one.fingerprint for one in session.scalars(select(ModelVersion)) if one.id in ids}


def verify(session: Session) -> Iterator[str]:
    """Every version whose name, parent or snapshot is not what its lineage says, in words."""
    parent, of_parent = aliased(ModelVersion), aliased(Training)
    query = select(Training, ModelVersion.name, Snapshot.sha256, parent, of_parent.version_id)
    query = query.join(ModelVersion, Training.version_id == ModelVersion.id)
    query = query.join(Snapshot, Training.snapshot_id == Snapshot.id)
    query = query.outerjoin(parent, ModelVersion.parent_id == parent.id)
    query = query.outerjoin(of_parent, of_parent.version_id == parent.id).order_by(Training.version_id)
    for training, name, sha256, made_of, learned in session.execute(query):
        said = training.lineage
        there = made_of.fingerprint if made_of is not None else ""  # of before there was a registry it may be unknown
        same = there == said["parent_fingerprint"]
        same = same and (learned is not None or there == said["base_fingerprint"])
        if (name, sha256) != (said["name"], said["snapshot"]) or not same:
            yield f"model_versions: what {training.version_id} was made of was changed"
