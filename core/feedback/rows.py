"""Everything that the store keeps, generation by generation, as JSON-able dicts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from sqlalchemy import Select, and_, or_, select
from sqlalchemy.orm import Session

from core.feedback.database import Database
from core.feedback.models import Comparison, Consent, Generation, ModelVersion, Rating, Response

BATCH = 100


def rows(database: Database, now: datetime) -> Iterator[dict]:
    """What no consent has taken back, oldest first, in one short transaction for every ``BATCH`` generations.

    A generation has its ``responses``, the ``ratings`` of these, and the ``comparisons`` in which it was shown on the
    left. ``consent_id`` tells what came from the same visitor.
    """
    last: tuple[datetime, str] | None = None
    while True:
        with database.reading() as session:
            query = select(Generation, ModelVersion, Consent).join(Consent).join(ModelVersion)
            query = valid(query, now).order_by(Generation.created_at, Generation.id).limit(BATCH)
            if last is not None:
                at, after = Generation.created_at, Generation.id
                query = query.where(or_(at > last[0], and_(at == last[0], after > last[1])))
            found = session.execute(query).all()
            batch = [_generation(*row) for row in found]
            _fill(session, {entry["id"]: entry for entry in batch}, now)
            if found:
                last = found[-1].Generation.created_at, found[-1].Generation.id
        yield from batch
        if len(found) < BATCH:
            return


def valid(query: Select, now: datetime) -> Select:
    """Restricts a query that joins the consents to those that hold."""
    return query.where(Consent.withdrawn_at.is_(None), Consent.expires_at > now)


def _generation(generation: Generation, version: ModelVersion, consent: Consent) -> dict:
    return {
        **_values(generation, "id", "task", "prompt", "inputs", "settings", "seed", "consent_id", "created_at"),
        "model": {"name": version.name, "fingerprint": version.fingerprint},
        "consent_text_version": consent.text_version,
        "responses": [],
        "ratings": [],
        "comparisons": [],
    }


def _fill(session: Session, generations: dict[str, dict], now: datetime) -> None:
    """Adds what people and models said about the generations."""
    names = ("id", "place", "kind", "text", "sha256", "author", "corrects_id", "consent_id", "trust", "created_at")
    query = select(Response).outerjoin(Consent, Response.consent_id == Consent.id)
    holds = and_(Consent.withdrawn_at.is_(None), Consent.expires_at > now)
    query = query.where(Response.generation_id.in_(generations), or_(Response.consent_id.is_(None), holds))
    for response in session.scalars(query.order_by(Response.place, Response.created_at, Response.id)):
        generations[response.generation_id]["responses"].append(_values(response, *names))

    names = ("id", "response_id", "consent_id", "value", "comment", "trust", "created_at")
    query = select(Rating, Response.generation_id).join(Response).join(Consent, Rating.consent_id == Consent.id)
    query = valid(query.where(Response.generation_id.in_(generations)), now)
    for rating, generation_id in session.execute(query.order_by(Rating.created_at, Rating.id)):
        generations[generation_id]["ratings"].append(_values(rating, *names))

    names = (
        "id",
        "left_generation_id",
        "right_generation_id",
        "consent_id",
        "choice",
        "comment",
        "trust",
        "created_at",
    )
    query = select(Comparison).join(Consent, Comparison.consent_id == Consent.id)
    query = valid(query.where(Comparison.left_generation_id.in_(generations)), now)
    for comparison in session.scalars(query.order_by(Comparison.created_at, Comparison.id)):
        generations[comparison.left_generation_id]["comparisons"].append(_values(comparison, *names))


def _values(row: object, *names: str) -> dict:
    values = {name: getattr(row, name) for name in names}
    return {name: v.isoformat() if isinstance(v, datetime) else v for name, v in values.items()}
