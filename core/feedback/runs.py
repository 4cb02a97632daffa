"""How a run of a model is written down, and what it is called."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from uuid import UUID, uuid5

from sqlalchemy import ColumnElement, Select, func, or_, select
from sqlalchemy.orm import Session

from core.errors import FeedbackError
from core.feedback.blobs import Blobs
from core.feedback.database import Database
from core.feedback.models import Case, Generation, GenerationPicture, ModelVersion, Response, Secret
from core.feedback.screen import screened, storable
from core.sequence import Image, Segment, Sequence, Text

IMPORT = "import"
"""The name of what was not made here, in place of a model's."""
PSEUDONYM = "P-"
"""Begins the name of a patient in an export."""


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


def keep(
    database: Database, blobs: Blobs, owner: str, whose: Callable[[Session], dict], *, task: str, inputs: Sequence,
    outputs: list[Segment], settings: dict, seed: int, model_name: str, model_fingerprint: str, key: str,
    generated: Collection[str] = (),
) -> GenerationRef:  # fmt: skip
    """Stores a run of a model with its pictures. A second call with the same key and owner stores nothing, and returns
    the first.

    Args:
        owner: the id that the run's own is made from.
        whose: called in the transaction: the columns that say whose the run is, if it still may be stored.
        generated: texts among the inputs that a model wrote in earlier turns: kept as they are, and marked.

    Raises:
        FeedbackError: a text seems to identify a patient, or it cannot be written.
    """
    found = ref(owner, key, len(outputs))
    parts = [described(segment, generated) for segment in inputs]
    pictures = {s.sha256: s for s in [*inputs, *outputs] if isinstance(s, Image)}
    values = {
        "id": found.id,
        "task": task,
        "prompt": "\n".join(part["text"] for part in parts if "text" in part and "generated" not in part),
        "inputs": parts,
        "settings": json_able(settings),
        "seed": int(seed),
    }
    for image in pictures.values():
        blobs.put(image)
    with database.writing(pictures="kept") as session:
        values |= whose(session)
        for image in pictures.values():  # again, where a withdrawal has deleted the file since
            blobs.put(image)
        values["model_version_id"] = model_version(database, session, model_name, model_fingerprint)
        if database.add_new(session, Generation, values):
            session.add_all(GenerationPicture(generation_id=found.id, sha256=sha256) for sha256 in pictures)
            session.add_all(response(found, place, output) for place, output in enumerate(outputs))
            return found
        query = select(func.count()).where(Response.generation_id == found.id, Response.author == "model")
        return ref(owner, key, session.scalar(query))


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


def is_import() -> ColumnElement[bool]:
    """That a model version stands for something that no model of ours made."""
    return or_(ModelVersion.name == IMPORT, ModelVersion.name.like(f"{IMPORT} %"))


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


def whose_picture(patient: str | None, sha256: str) -> tuple[str, str]:
    """Source and patient of a picture: the patient that its header names, or else the picture itself stands for one."""
    return ("DICOM", patient) if patient else ("file", sha256)


def patient_hash(source: str, patient: str) -> str:
    """All that is kept of a patient's name or number in a source."""
    return hashlib.sha256(f"{source}\0{patient}".encode()).hexdigest()


def secret_of(session: Session) -> bytes:
    """What makes this store's names of patients its own."""
    return bytes.fromhex(session.scalars(select(Secret.value)).one())


def pseudonym(secret: bytes, patient_hash: str) -> str:
    """The name of a patient in what leaves the store: from the digest alone, numbers of six digits could be found by
    trying them. Of a name that came back with an import, that name."""
    if patient_hash.startswith(PSEUDONYM):
        return patient_hash
    return PSEUDONYM + hmac.digest(secret, patient_hash.encode(), "sha256").hex()[: 64 - len(PSEUDONYM)]


def case(database: Database, session: Session, source: str, patient_hash: str, name: str) -> str:
    """The id of a patient's examination, which is new when it was not seen before."""
    of = {"patient_hash": patient_hash, "name": name}
    database.add_new(session, Case, {**of, "source": source})
    return session.scalars(select(Case.id).filter_by(**of)).one()


def with_origins(response_ids: Collection[str]) -> Select:
    """Responses, each with its generation, model version and case (None where there is none)."""
    query = select(Response, Generation, ModelVersion, Case).select_from(Response)
    query = query.join(Generation, Response.generation_id == Generation.id)
    query = query.join(ModelVersion, Generation.model_version_id == ModelVersion.id)
    return query.outerjoin(Case, Generation.case_id == Case.id).where(Response.id.in_(response_ids))


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
