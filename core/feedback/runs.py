"""How a run of a model is written down, and what it is called."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID, uuid5

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.errors import FeedbackError
from core.feedback.database import Database
from core.feedback.models import Case, ModelVersion, Response
from core.feedback.screen import screened, storable
from core.sequence import Segment, Text


@dataclass(frozen=True)
class GenerationRef:
    """A stored generation, and its responses in the order of the outputs."""

    id: str
    response_ids: tuple[str, ...]


def derived_id(owner: str, *parts: str) -> str:
    """An id that is the same for the same parts of the same owner, and that nobody else can guess or take."""
    return str(uuid5(UUID(owner), json.dumps(parts)))


def ref(consent_id: str, key: str, responses: int) -> GenerationRef:
    generation_id = derived_id(consent_id, "generation", key)
    places = (derived_id(generation_id, "response", str(place)) for place in range(responses))
    return GenerationRef(generation_id, tuple(places))


def described(segment: Segment, generated: Collection[str]) -> dict:
    """A segment of the input. A text is screened, unless it is among the ``generated`` ones, and marked as such.

    Raises:
        FeedbackError: a text seems to identify a patient.
    """
    if not isinstance(segment, Text):
        return segment.to_json()
    if segment.text in generated:
        return {**segment.to_json(), "text": storable(segment.text), "generated": True}
    return {**segment.to_json(), "text": screened(segment.text)}


def response(generation: GenerationRef, place: int, output: Segment) -> Response:
    """The row of an output."""
    is_text = isinstance(output, Text)
    return Response(
        id=generation.response_ids[place],
        generation_id=generation.id,
        place=place,
        kind="text" if is_text else "image",
        text=storable(output.text) if is_text else None,
        sha256=None if is_text else output.sha256,
        width=None if is_text else output.pixels.width,
        height=None if is_text else output.pixels.height,
        author="model",
    )


def model_version(database: Database, session: Session, name: str, fingerprint: str) -> str:
    """The id of a model version, which is new when its name or its weights are. Where the name is taken by other
    weights, the digest is appended to it."""
    for tried in (name, f"{name} {fingerprint[:12]}"):
        query = select(ModelVersion).where(ModelVersion.name == tried)
        found = session.scalar(query)
        if found is None:
            database.add_new(session, ModelVersion, {"name": tried, "fingerprint": fingerprint})
            found = session.scalars(query).one()
        if found.fingerprint == fingerprint:
            return found.id
    raise FeedbackError("Two model versions have the same name", value=name, remedy="Rename one of them")


def patient_hash(source: str, patient: str) -> str:
    """All that is kept of a patient's name or number in a source."""
    return hashlib.sha256(f"{source}\0{patient}".encode()).hexdigest()


def case(database: Database, session: Session, source: str, patient: str, name: str) -> str:
    """The id of a patient's examination, which is new when it was not seen before."""
    of = {"patient_hash": patient_hash(source, patient), "name": name}
    database.add_new(session, Case, {**of, "source": source})
    return session.scalars(select(Case.id).filter_by(**of)).one()


def json_able(settings: dict) -> dict:
    """The settings as they come back from the database.

    Raises:
        FeedbackError: they cannot be written as JSON.
    """
    try:
        return json.loads(json.dumps(settings, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise FeedbackError(
            f"The settings cannot be stored ({error})", remedy="Use finite numbers and texts"
        ) from error
