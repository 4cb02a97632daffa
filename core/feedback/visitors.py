"""What can be learned from visitors of the demo: only what a clinician has confirmed (``core.feedback.trust``).

==========  ==========================================================================================================
said        becomes
==========  ==========================================================================================================
thumb       ``unpaired``: more like the output, or less
correction  ``sft`` of it, and where a model wrote what it corrects a ``pair``: it over that
vote        ``pair`` of the outputs, where both are one output of the same request
==========  ==========================================================================================================

It counts in the projects where it was confirmed, and rests on the judgement that did so: it goes with that judgement,
as with the consent of whoever said it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.feedback.judged import Output, outputs_of, rater_name
from core.feedback.leaving import TAINTED, Losses
from core.feedback.models import Comparison, Consent, Generation, ModelVersion, Rating, Response
from core.feedback.signals import PAIR, SFT, UNPAIRED, Signal, group_of, request, segment
from core.feedback.studio_models import Item, Judgement
from core.feedback.trust import CONFIRMED, TABLES, Feedback, ground

SIDES = ("left", "right")


def confirmed(
    session: Session, projects: Mapping[str, Collection[str]], now: datetime, losses: Losses,
    tainted: Collection[str] = (),
) -> Iterator[Signal]:  # fmt: skip
    """Everything that was confirmed in projects and has consent.

    Args:
        projects: ids, each with the raters there whose word does not count.
        losses: counts what is left out, by the reason.
        tainted: fingerprints of the models of whose outputs nothing counts.
    """
    for table in TABLES.values():
        for row in session.scalars(select(table).where(table.trust == CONFIRMED).order_by(table.id)).all():
            judgement = ground(session, row)
            if judgement is None:
                losses["of a visitor, and what confirmed it was withdrawn"] += 1
            elif judgement.project_id not in projects:
                continue
            elif rater_name(judgement.project_id, judgement.user_id) in projects[judgement.project_id]:
                losses["of a visitor, confirmed by a mistrusted rater"] += 1
            elif session.get_one(Item, judgement.item_id).gold is not None:
                losses["of a visitor, confirmed on a gold item"] += 1
            elif not _has_consent(session, row, now):
                losses["of a visitor whose consent has expired"] += 1
            elif _made_by(session, row, tainted):
                losses[TAINTED] += 1
            else:
                yield from _learned(session, row, judgement, losses)


def _learned(session: Session, row: Feedback, judgement: Judgement, losses: Losses) -> Iterator[Signal]:
    if isinstance(row, Rating):
        output = outputs_of(session, [row.response_id])[row.response_id]
        sides = (segment(output), None) if row.value > 0 else (None, segment(output))
        yield _signal(UNPAIRED, output, judgement, *sides)
    elif isinstance(row, Response):
        yield from _corrected(session, row, judgement)
    else:
        yield from _voted(session, row, judgement, losses)


def _corrected(session: Session, row: Response, judgement: Judgement) -> Iterator[Signal]:
    found = outputs_of(session, [row.id, row.corrects_id])
    correction, wrong = found[row.id], found[row.corrects_id]
    yield _signal(SFT, correction, judgement, segment(correction))
    if session.get_one(Response, row.corrects_id).author == "model" and segment(wrong) != segment(correction):
        yield _signal(PAIR, correction, judgement, segment(correction), segment(wrong), edit=True)


def _voted(session: Session, row: Comparison, judgement: Judgement, losses: Losses) -> Iterator[Signal]:
    if row.choice not in SIDES:
        losses["a visitor's vote for neither"] += 1
        return
    left, right = (_outputs(session, one) for one in (row.left_generation_id, row.right_generation_id))
    if len(left) != 1 or len(right) != 1 or request(left[0]) != request(right[0]):
        losses["a visitor's vote between different requests, or several outputs"] += 1
        return
    better, worse = (left[0], right[0]) if row.choice == "left" else (right[0], left[0])
    if segment(better) != segment(worse):
        yield _signal(PAIR, better, judgement, segment(better), segment(worse))


def _outputs(session: Session, generation_id: str) -> list[Output]:
    """What a model made in a run."""
    of = Response.generation_id == generation_id, Response.author == "model"
    ids = session.scalars(select(Response.id).where(*of).order_by(Response.place)).all()
    found = outputs_of(session, ids)
    return [found[one] for one in ids]


def _has_consent(session: Session, row: Feedback, now: datetime) -> bool:
    """Whether who said it, and who made the runs that it is about, still let it be kept."""
    runs = select(Generation.consent_id).where(Generation.id.in_(_runs(session, row)))
    ids = {row.consent_id, *session.scalars(runs)} - {None}
    valid = select(Consent.id).where(Consent.id.in_(ids), Consent.withdrawn_at.is_(None), Consent.expires_at > now)
    return len(session.scalars(valid).all()) == len(ids)


def _made_by(session: Session, row: Feedback, fingerprints: Collection[str]) -> bool:
    """Whether one of these models has made what it is about."""
    query = select(ModelVersion.fingerprint).join(Generation, Generation.model_version_id == ModelVersion.id)
    return not set(session.scalars(query.where(Generation.id.in_(_runs(session, row))))).isdisjoint(fingerprints)


def _runs(session: Session, row: Feedback) -> list[str]:
    """Ids of the generations that it is about."""
    if isinstance(row, Comparison):
        return [row.left_generation_id, row.right_generation_id]
    return [session.get_one(Response, row.response_id if isinstance(row, Rating) else row.id).generation_id]


def _signal(
    kind: str, output: Output, judgement: Judgement, chosen: dict | None, rejected: dict | None = None,
    edit: bool = False,
) -> Signal:  # fmt: skip
    group = group_of(output.patient, output.inputs)
    return Signal(
        kind, output.task, output.inputs, chosen, rejected, 1.0, [], group, [judgement.id], edit
    )  # fmt: skip
