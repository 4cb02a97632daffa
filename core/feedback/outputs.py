"""What a rater is shown of an item: the request and the outputs, and nothing of who made them."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from core.errors import FeedbackError
from core.feedback.answers import Output
from core.feedback.database import Database
from core.feedback.models import Generation, ModelVersion, Response
from core.feedback.studio_models import Item

UNKNOWN = 1_000_000


@dataclass(frozen=True)
class Shown:
    """An item on a rater's screen. It holds no model, version, settings, seed or other rater.

    Attributes:
        task: empty where nothing was asked for, as of pictures that were brought along: they may stand beside drawn
            ones, and its name would tell them apart.
        inputs: segments of the request as ``core.sequence`` writes them.
        outputs: texts, or pictures by their SHA-256, in the item's order.
    """

    task: str
    inputs: list[dict]
    outputs: list[dict]


def output_of(response: Response) -> Output:
    """What an answer about it is checked against. A picture whose size was not written down may be marked anywhere."""
    return Output(response.text, response.width or UNKNOWN, response.height or UNKNOWN)


def responses_of(session: Session, item: Item) -> list[Response]:
    """
    Raises:
        FeedbackError: the item was withdrawn.
    """
    found = {r.id: r for r in session.scalars(select(Response).where(Response.id.in_(item.response_ids)))}
    if item.withdrawn_at is not None or len(found) < len(item.response_ids):
        raise FeedbackError("This case was withdrawn", remedy="Go on with the next one")
    return [found[one] for one in item.response_ids]


def shown(session: Session, item: Item) -> Shown:
    """
    Raises:
        FeedbackError: the item was withdrawn.
    """
    responses = responses_of(session, item)
    generation = session.get_one(Generation, responses[0].generation_id)
    names = ("kind", "text", "sha256", "width", "height")
    outputs = [{name: getattr(response, name) for name in names} for response in responses]
    return Shown(generation.task if generation.inputs else "", generation.inputs, outputs)


def made_by(database: Database, wanted: str) -> list[str]:
    """Names of the model versions that have made an output.

    Args:
        wanted: the id of a response or of its generation, or the SHA-256 of a picture, which several may have made.
    """
    of = or_(Response.id == wanted, Response.generation_id == wanted, Response.sha256 == wanted.lower())
    query = select(ModelVersion.name).join(Generation, Generation.model_version_id == ModelVersion.id)
    query = query.join(Response, Response.generation_id == Generation.id).where(Response.author == "model", of)
    with database.reading() as session:
        return list(session.scalars(query.distinct().order_by(ModelVersion.name)))
