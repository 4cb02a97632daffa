"""How the feedback store forgets: consents that end, and pictures that nobody needs any more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from sqlalchemy import ColumnElement, Select, delete, func, or_, select
from sqlalchemy.orm import Session

from core.feedback import audit, models, snapshots, tombstones, trust
from core.feedback.blobs import Blobs
from core.feedback.database import Database
from core.feedback.models import Comparison, Generation, GenerationPicture, Rating, Response

ORPHAN_AGE = timedelta(hours=1)
"""So old is a picture that no row needs before it is swept: its row may be about to be written."""
BATCH = 500


@dataclass(frozen=True)
class Summary:
    """How much is kept of a visitor."""

    generations: int
    responses: int
    """Of the model to them, and corrections by them."""
    ratings: int
    comparisons: int
    pictures: int


def summary(session: Session, consent_id: str) -> Summary:
    own = _own_generations(consent_id)
    pictures = select(GenerationPicture.sha256).where(GenerationPicture.generation_id.in_(own)).distinct()
    return Summary(
        generations=_count(session, own),
        responses=_count(session, select(Response.id).where(_own_response(consent_id))),
        ratings=_count(session, select(Rating.id).where(Rating.consent_id == consent_id)),
        comparisons=_count(session, select(Comparison.id).where(Comparison.consent_id == consent_id)),
        pictures=_count(session, pictures),
    )


def end_consent(database: Database, blobs: Blobs, consent_id: str, now: datetime) -> int:
    """Deletes all that hangs on a consent, and marks it as withdrawn; the studio's items that showed some of it are
    withdrawn as well, and the snapshots that learned from it are emptied. Returns how many rows were its own.

    Raises:
        FeedbackError: the database cannot be written, and nothing has changed; or a picture cannot be deleted.
    """
    with database.writing(pictures="deleted") as session:
        # Held until the end, so that nothing can be added meanwhile.
        consent = session.get_one(models.Consent, consent_id, with_for_update=True)
        if consent.withdrawn_at is not None:
            return 0
        kept = summary(session, consent_id)
        own = _own_generations(consent_id)
        query = select(GenerationPicture.sha256).where(GenerationPicture.generation_id.in_(own)).distinct()
        pictures = session.scalars(query).all()
        tombstones.withdraw_items(session, None, set(session.scalars(_with_corrections(consent_id))), now)
        audit.hold(session)  # no snapshot is made of it meanwhile
        snapshots.empty(session, None, trust.grounds(session, consent_id), now, visitors=True)
        for rows in (Rating, Comparison, Response, Generation):  # their rows take along what others said of them
            session.execute(delete(rows).where(rows.consent_id == consent_id))
        consent.withdrawn_at = now
    delete_unneeded(database, blobs, pictures)
    database.forget()
    return kept.generations + kept.responses + kept.ratings + kept.comparisons


def delete_unneeded(database: Database, blobs: Blobs, candidates: Iterable[str]) -> int:
    """Deletes those of the pictures that no row needs, and returns how many those were.

    Raises:
        FeedbackError: one cannot be deleted.
    """
    deleted, rest = 0, iter(candidates)
    while some := list(islice(rest, BATCH)):
        with database.writing(pictures="deleted") as session:
            needed = select(GenerationPicture.sha256).where(GenerationPicture.sha256.in_(some))
            for sha256 in set(some) - set(session.scalars(needed)):
                blobs.delete(sha256)
                deleted += 1
    return deleted


def _own_generations(consent_id: str) -> Select:
    return select(Generation.id).where(Generation.consent_id == consent_id)


def _own_response(consent_id: str) -> ColumnElement[bool]:
    return or_(Response.consent_id == consent_id, Response.generation_id.in_(_own_generations(consent_id)))


def _with_corrections(consent_id: str) -> Select:
    """Its responses and the corrections of these, by whomever: they go along."""
    found = select(Response.id).where(_own_response(consent_id)).cte(recursive=True)
    found = found.union(select(Response.id).where(Response.corrects_id == found.c.id))
    return select(found.c.id)


def _count(session: Session, query: Select) -> int:
    return session.scalar(select(func.count()).select_from(query.subquery()))
