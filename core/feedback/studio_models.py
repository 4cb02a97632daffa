"""The tables of the studio: who rates what, in which project, what they said, and the log of all of it.

What is said is never changed: a rating that is revised gets a new version, and the earlier ones stay. Only drafts and
leases are written over. Every other row has its digest in the log (``core.feedback.audit``).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from sqlalchemy import CheckConstraint, ForeignKey, Index, SmallInteger, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from core.feedback.models import Base, Created, Id, Salt, Sha256, Word, Words, one_of, some

ROLES = ("rater", "adjudicator", "maintainer")
KINDS = ("rate", "compare", "correct")
"""What a project asks for: a rating of one output, a comparison of several, a corrected text."""
STATES = ("draft", "open", "closed")
PURPOSES = ("judge", "adjudicate")
VERSION_STATES = ("candidate", "promoted", "retired")
"""Of a learned model version. At most one is promoted at a time."""

OfUser = Annotated[str, mapped_column(ForeignKey("users.id"))]
OfProject = Annotated[str, mapped_column(ForeignKey("projects.id"))]
OfItem = Annotated[str, mapped_column(ForeignKey("items.id"))]


class User(Base):
    """A person with a local password, or one whom an identity provider knows (``subject``: issuer and subject).

    Who has withdrawn stays as a row without name, so that nothing that hung on it points nowhere.
    """

    __tablename__ = "users"
    __table_args__ = (one_of("role", ROLES),)

    id: Mapped[Id]
    login: Mapped[str] = mapped_column(String(200), unique=True)
    role: Mapped[Word]
    password_hash: Mapped[Words | None]
    subject: Mapped[str | None] = mapped_column(String(500), unique=True)
    salt: Mapped[Salt]
    created_at: Mapped[Created]
    disabled_at: Mapped[datetime | None]


class Login(Base):
    """A browser in which somebody is logged in. Of its token only the digest is known."""

    __tablename__ = "logins"
    __table_args__ = (Index(None, "user_id"),)

    token_hash: Mapped[Sha256] = mapped_column(primary_key=True)
    user_id: Mapped[OfUser]
    created_at: Mapped[Created]
    expires_at: Mapped[datetime]


class Project(Base):
    """What is asked of whom. ``rubric`` and ``plan`` are dataclasses of ``core.feedback.rubric`` as JSON."""

    __tablename__ = "projects"
    __table_args__ = (one_of("kind", KINDS), one_of("state", STATES))

    id: Mapped[Id]
    name: Mapped[str] = mapped_column(String(200), unique=True)
    kind: Mapped[Word]
    rubric: Mapped[dict]
    plan: Mapped[dict]
    state: Mapped[Word]
    created_by: Mapped[OfUser]
    created_at: Mapped[Created]


class Member(Base):
    """That somebody takes part in a project, as what, and as which one of those: groups are dealt by ``place``."""

    __tablename__ = "members"
    __table_args__ = (Index(None, "user_id"), one_of("purpose", PURPOSES))

    project_id: Mapped[OfProject] = mapped_column(primary_key=True)
    user_id: Mapped[OfUser] = mapped_column(primary_key=True)
    purpose: Mapped[Word] = mapped_column(primary_key=True)
    place: Mapped[int] = mapped_column(SmallInteger)


class Item(Base):
    """Something to be judged: one response, or several to be compared. ``gold`` is the answer that is known to be
    right, by which raters are checked; ``repeated`` that it comes once more to the same person. ``content_sha256`` is
    the digest of all that is shown, so that no judgement can be moved under another output. ``taken`` and ``disputed``
    say how far it is, and are written over."""

    __tablename__ = "items"
    __table_args__ = (
        UniqueConstraint("project_id", "place"),
        Index(None, "project_id", "taken", "withdrawn_at", "place"),
        Index("ix_items_disputed", "project_id", "place", **some("disputed IS NOT NULL")),
        Index("ix_items_repeated", "project_id", **some("repeated", "repeated = 1")),
        Index("ix_items_withdrawn", "project_id", **some("withdrawn_at IS NOT NULL")),
    )

    id: Mapped[Id]
    project_id: Mapped[OfProject]
    place: Mapped[int]
    response_ids: Mapped[list[str]]
    content_sha256: Mapped[Sha256]
    gold: Mapped[dict | None]
    repeated: Mapped[bool]
    taken: Mapped[int] = mapped_column(SmallInteger, default=0)
    """How many people have judged it, or have it in their hands, for the first time."""
    disputed: Mapped[Words | None]
    """Why it calls for an adjudicator."""
    withdrawn_at: Mapped[datetime | None]


class Assignment(Base):
    """An item in somebody's hands, for the first time (``occasion`` 0) or again. Until ``leased_until`` nobody else
    gets it in their place; None when it was taken back. ``shown`` is the order of the responses on the screen."""

    __tablename__ = "assignments"
    __table_args__ = (
        UniqueConstraint("item_id", "user_id", "purpose", "occasion"),
        one_of("purpose", PURPOSES),
        Index(None, "user_id", "project_id", "purpose", "submitted_at", "occasion"),
        Index(None, "project_id", "submitted_at", "leased_until"),
    )

    id: Mapped[Id]
    project_id: Mapped[OfProject]
    item_id: Mapped[OfItem]
    user_id: Mapped[OfUser]
    purpose: Mapped[Word]
    occasion: Mapped[int] = mapped_column(SmallInteger)
    shown: Mapped[list[int]]
    assigned_at: Mapped[Created]
    leased_until: Mapped[datetime | None]
    submitted_at: Mapped[datetime | None]


class Draft(Base):
    """What somebody has entered so far; saved with every field."""

    __tablename__ = "drafts"

    assignment_id: Mapped[str] = mapped_column(ForeignKey("assignments.id", ondelete="CASCADE"), primary_key=True)
    answer: Mapped[dict]
    active_seconds: Mapped[float]
    saved_at: Mapped[datetime]


class Judgement(Base):
    """A rating, comparison, correction or adjudication: ``answer`` is a dataclass of ``core.feedback.answers`` as JSON.
    A version is never changed; the newest of an assignment counts. Of a withdrawn one the answer is gone."""

    __tablename__ = "judgements"
    __table_args__ = (
        UniqueConstraint("assignment_id", "version"),
        one_of("purpose", PURPOSES),
        CheckConstraint("version >= 1", name="version"),
        CheckConstraint("version = 1 OR reason IS NOT NULL", name="reason"),
        Index(None, "item_id"),
        Index(None, "user_id", "project_id"),
    )

    id: Mapped[Id]
    assignment_id: Mapped[str] = mapped_column(ForeignKey("assignments.id"))
    project_id: Mapped[OfProject]
    item_id: Mapped[OfItem]
    user_id: Mapped[OfUser]
    purpose: Mapped[Word]
    occasion: Mapped[int] = mapped_column(SmallInteger)
    version: Mapped[int] = mapped_column(SmallInteger)
    answer: Mapped[dict | None]
    salt: Mapped[Salt]
    reason: Mapped[Words | None]
    active_seconds: Mapped[float]
    said_at: Mapped[datetime]
    """By the clock of the person's browser."""
    created_at: Mapped[Created]
    withdrawn_at: Mapped[datetime | None]


class Snapshot(Base):
    """What was to be learned at one moment. It is never changed, but emptied when a judgement that it rests on is
    withdrawn; another one then stands in its place (``replaces``). ``sha256`` is over its rules and signals."""

    __tablename__ = "snapshots"

    id: Mapped[Id]
    sha256: Mapped[Sha256] = mapped_column(unique=True)
    rules: Mapped[dict]
    """``core.feedback.snapshots.Rules`` as JSON."""
    counts: Mapped[dict]
    """Of signals by kind and split, of what was left out by its reason, of projects, items and raters."""
    replaces_id: Mapped[str | None] = mapped_column(ForeignKey("snapshots.id"))
    created_by: Mapped[OfUser]
    created_at: Mapped[Created]
    emptied_at: Mapped[datetime | None]


class SnapshotSignal(Base):
    """A signal of a snapshot, ``core.feedback.signals.Signal`` as JSON with its split."""

    __tablename__ = "snapshot_signals"

    snapshot_id: Mapped[str] = mapped_column(ForeignKey("snapshots.id", ondelete="CASCADE"), primary_key=True)
    place: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    content: Mapped[dict]


class SnapshotPart(Base):
    """That a snapshot rests on a judgement. It stays when that is withdrawn."""

    __tablename__ = "snapshot_parts"
    __table_args__ = (Index(None, "judgement_id"),)

    snapshot_id: Mapped[str] = mapped_column(ForeignKey("snapshots.id", ondelete="CASCADE"), primary_key=True)
    judgement_id: Mapped[str] = mapped_column(ForeignKey("judgements.id"), primary_key=True)


class Training(Base):
    """That a model version was trained on a snapshot, on top of its parent, and whether it is served."""

    __tablename__ = "trainings"
    __table_args__ = (
        one_of("state", VERSION_STATES),
        Index(None, "snapshot_id"),
        Index(None, "state", unique=True, **some("state = 'promoted'")),
    )

    version_id: Mapped[str] = mapped_column(ForeignKey("model_versions.id"), primary_key=True)
    snapshot_id: Mapped[str] = mapped_column(ForeignKey("snapshots.id"))
    state: Mapped[Word]
    lineage: Mapped[dict]
    """``core.lineage.Lineage`` as JSON."""
    project_id: Mapped[OfProject | None]
    """That compares it with its parent."""
    promoted_at: Mapped[datetime | None]
    replaced_id: Mapped[str | None] = mapped_column(ForeignKey("trainings.version_id"))
    """What was promoted before it."""


class AuditEvent(Base):
    """Something that was done: who, what, before, after, when on both clocks, and why. ``hash`` is over all of it and
    over the hash of the event before."""

    __tablename__ = "audit_events"
    __table_args__ = (Index(None, "subject", "subject_id"),)

    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    said_at: Mapped[datetime | None]
    user_id: Mapped[str | None] = mapped_column(String(36))
    action: Mapped[Word]
    subject: Mapped[Word]
    subject_id: Mapped[str] = mapped_column(String(120))
    before: Mapped[dict | None]
    after: Mapped[dict | None]
    reason: Mapped[Words | None]
    previous: Mapped[Sha256]
    hash: Mapped[Sha256]


class AuditHead(Base):
    """The newest event of the log, so that its end cannot be cut off unseen. One row."""

    __tablename__ = "audit_head"
    __table_args__ = (CheckConstraint("id = 1", name="one"),)

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    seq: Mapped[int]
    hash: Mapped[Sha256]
