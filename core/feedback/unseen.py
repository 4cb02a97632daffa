"""Requests that a snapshot has not learned from: on these a new version is compared with the old one."""

from __future__ import annotations

import json
from dataclasses import dataclass

from sqlalchemy import select

from core.feedback.database import Database
from core.feedback.models import Case, Generation, ModelVersion
from core.feedback.runs import is_import, pseudonym, secret_of
from core.feedback.signals import group_of
from core.feedback.snapshots import TRAIN


@dataclass(frozen=True)
class Request:
    """
    Attributes:
        inputs: segments as ``core.sequence`` writes them.
        case_id: the examination that it is about; None where no patient is known.
    """

    task: str
    inputs: list[dict]
    case_id: str | None


def unseen(database: Database, signals: list[dict], limit: int) -> list[Request]:
    """Requests of the tasks that a snapshot is about, of patients that it did not train on: those that it held out
    first, then others in the store, the newest first. What visitors brought is theirs, and not among them."""
    learned = {one["group"] for one in signals if one["split"] == TRAIN}
    held_out = {one["group"] for one in signals} - learned
    found: dict[str, tuple[bool, Request]] = {}
    query = select(Generation, Case).join(ModelVersion, Generation.model_version_id == ModelVersion.id)
    query = query.outerjoin(Case, Generation.case_id == Case.id)
    tasks = {one["task"] for one in signals}
    query = query.where(Generation.task.in_(tasks), Generation.consent_id.is_(None), ~is_import())
    with database.reading() as session:
        secret = secret_of(session)
        for generation, case in session.execute(query.order_by(Generation.created_at.desc(), Generation.id)):
            group = group_of(case and pseudonym(secret, case.patient_hash), generation.inputs)
            key = json.dumps([generation.task, generation.inputs], sort_keys=True)
            if group not in learned and generation.inputs and key not in found:
                request = Request(generation.task, generation.inputs, generation.case_id)
                found[key] = group not in held_out, request
    return [request for _, request in sorted(found.values(), key=lambda one: one[0])][:limit]
