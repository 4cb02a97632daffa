"""The tables of the demo's feedback: what was generated, what visitors said of it, and under which consent. Those of
the studio stand in ``core.feedback.studio_models``.

Everything of a visitor hangs on a consent, and goes with it. What a model and what a person says are different rows:
a correction is a response of its own that points at the one it corrects.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Annotated
from uuid import uuid4

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    MetaData,
    SmallInteger,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

TRUST = ("untrusted", "confirmed", "rejected")
"""What a clinician makes of a judgement. Public ones begin untrusted."""
CHOICES = ("left", "right", "tie", "both_bad", "cannot_judge")
KINDS = ("text", "image")
AUTHORS = ("model", "person")


class UTCDateTime(TypeDecorator[datetime]):
    """A moment, in UTC on both databases: SQLite would forget the zone, PostgreSQL would answer in the server's."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError(f"A moment needs a time zone: {value!r}")
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def utc_now() -> datetime:
    return datetime.now(UTC)


def new_id() -> str:
    return str(uuid4())


def new_salt() -> str:
    return secrets.token_hex(16)


def one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    """The constraint that a column holds one of the values. It stands in ``__table_args__``: on a column alembic
    would not see it."""
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


def some(condition: str, in_sqlite: str | None = None) -> dict:
    """The options of an index of some rows only. SQLite uses it where a query says the very same."""
    return {"postgresql_where": text(condition), "sqlite_where": text(in_sqlite or condition)}


Id = Annotated[str, mapped_column(String(36), primary_key=True, default=new_id)]
Sha256 = Annotated[str, mapped_column(String(64))]
Words = Annotated[str, mapped_column(Text)]
Word = Annotated[str, mapped_column(String(32))]
Created = Annotated[datetime, mapped_column(UTCDateTime, default=utc_now)]
Salt = Annotated[str | None, mapped_column(String(32), default=new_salt)]
"""Part of a row's digest, and forgotten with what the row said: or else that could be guessed from the digest."""
OfConsent = Annotated[str, mapped_column(ForeignKey("consents.id"))]


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )
    type_annotation_map = {datetime: UTCDateTime} | dict.fromkeys(
        (dict, list[dict], list[str], list[int]), JSON(none_as_null=True)
    )


class Consent(Base):
    """A visitor's permission to keep what they make and say. Of the withdrawal code only the digest is known.

    After the withdrawal or the expiry the row stays, empty of all that hung on it.
    """

    __tablename__ = "consents"
    __table_args__ = (CheckConstraint("expires_at >= given_at", name="order"), Index(None, "expires_at"))

    id: Mapped[Id]
    code_hash: Mapped[Sha256] = mapped_column(unique=True)
    text_version: Mapped[Words]
    given_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    withdrawn_at: Mapped[datetime | None]


class ModelVersion(Base):
    """A checkpoint by the name that its outputs carry, and the digest of its weights."""

    __tablename__ = "model_versions"
    __table_args__ = (Index(None, "parent_id"),)

    id: Mapped[Id]
    name: Mapped[str] = mapped_column(String(200), unique=True)
    fingerprint: Mapped[Words]
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("model_versions.id"))
    created_at: Mapped[Created]


class Case(Base):
    """A patient's examination that generations are about. The patient is known by a digest of source and name there:
    enough to withdraw and to keep a patient on one side of a split."""

    __tablename__ = "cases"
    __table_args__ = (UniqueConstraint("patient_hash", "name"),)

    id: Mapped[Id]
    patient_hash: Mapped[Sha256]
    name: Mapped[str] = mapped_column(String(200))
    source: Mapped[Words]
    created_at: Mapped[Created]


class Secret(Base):
    """What turns those digests into names for exports; it leaves the database with no export. One row."""

    __tablename__ = "secrets"
    __table_args__ = (CheckConstraint("id = 1", name="one"),)

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    value: Mapped[Sha256]


class Generation(Base):
    """One run of a model: what went in, with which settings. ``inputs`` are segments as ``core.sequence`` writes
    them, and ``prompt`` is what a person wrote of them."""

    __tablename__ = "generations"
    __table_args__ = (
        CheckConstraint("seed >= 0", name="seed"),
        Index(None, "consent_id"),
        Index(None, "model_version_id"),
        Index(None, "case_id"),
        Index(None, "created_at", "id"),
    )

    id: Mapped[Id]
    task: Mapped[Word]
    prompt: Mapped[Words]
    inputs: Mapped[list[dict]]
    settings: Mapped[dict]
    seed: Mapped[int] = mapped_column(BigInteger)
    model_version_id: Mapped[str] = mapped_column(ForeignKey("model_versions.id"))
    consent_id: Mapped[OfConsent | None]
    """Of the visitor who made it; a maintainer's own and imported ones have none."""
    case_id: Mapped[str | None] = mapped_column(ForeignKey("cases.id"))
    created_at: Mapped[Created]


class GenerationPicture(Base):
    """That a generation needs a picture, as input or as output: where no row says so, the file may go."""

    __tablename__ = "generation_pictures"
    __table_args__ = (Index(None, "sha256"),)

    generation_id: Mapped[str] = mapped_column(ForeignKey("generations.id", ondelete="CASCADE"), primary_key=True)
    sha256: Mapped[Sha256] = mapped_column(primary_key=True)


class Response(Base):
    """One answer: an output of the model, or a person's correction of one. ``place`` counts within the generation."""

    __tablename__ = "responses"
    __table_args__ = (
        one_of("kind", KINDS),
        one_of("author", AUTHORS),
        one_of("trust", TRUST),
        CheckConstraint("place >= 0", name="place"),
        CheckConstraint(
            "(kind = 'text' AND text IS NOT NULL AND sha256 IS NULL)"
            " OR (kind = 'image' AND text IS NULL AND sha256 IS NOT NULL)",
            name="content",
        ),
        CheckConstraint(
            "(author = 'model' AND corrects_id IS NULL AND consent_id IS NULL AND trust IS NULL)"
            " OR (author = 'person' AND trust IS NOT NULL)",
            name="origin",
        ),
        Index(None, "generation_id", "place"),
        Index(None, "corrects_id"),
        Index(None, "consent_id"),
    )

    id: Mapped[Id]
    generation_id: Mapped[str] = mapped_column(ForeignKey("generations.id", ondelete="CASCADE"))
    place: Mapped[int] = mapped_column(SmallInteger)
    kind: Mapped[Word]
    text: Mapped[Words | None]
    sha256: Mapped[Sha256 | None]
    width: Mapped[int | None]
    height: Mapped[int | None]
    """Of an image, in pixels."""
    author: Mapped[Word]
    corrects_id: Mapped[str | None] = mapped_column(ForeignKey("responses.id", ondelete="CASCADE"))
    consent_id: Mapped[OfConsent | None]
    """Of the person who wrote it; the model's own hang on the generation's."""
    trust: Mapped[Word | None]
    created_at: Mapped[Created]


class Rating(Base):
    """A thumb up (+1) or down (-1), one for each response and consent."""

    __tablename__ = "ratings"
    __table_args__ = (
        CheckConstraint("value IN (-1, 1)", name="value"),
        one_of("trust", TRUST),
        UniqueConstraint("response_id", "consent_id"),
        Index(None, "consent_id"),
    )

    id: Mapped[Id]
    response_id: Mapped[str] = mapped_column(ForeignKey("responses.id", ondelete="CASCADE"))
    consent_id: Mapped[OfConsent]
    value: Mapped[int] = mapped_column(SmallInteger)
    comment: Mapped[Words | None]
    created_at: Mapped[Created]
    trust: Mapped[Word] = mapped_column(default=TRUST[0])


class Comparison(Base):
    """A vote between two generations, left and right as they were shown."""

    __tablename__ = "comparisons"
    __table_args__ = (
        one_of("choice", CHOICES),
        one_of("trust", TRUST),
        CheckConstraint("left_generation_id <> right_generation_id", name="sides"),
        Index(None, "left_generation_id"),
        Index(None, "right_generation_id"),
        Index(None, "consent_id"),
    )

    id: Mapped[Id]
    left_generation_id: Mapped[str] = mapped_column(ForeignKey("generations.id", ondelete="CASCADE"))
    right_generation_id: Mapped[str] = mapped_column(ForeignKey("generations.id", ondelete="CASCADE"))
    choice: Mapped[Word]
    comment: Mapped[Words | None]
    consent_id: Mapped[OfConsent]
    created_at: Mapped[Created]
    trust: Mapped[Word] = mapped_column(default=TRUST[0])
