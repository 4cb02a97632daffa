"""What visitors of the demo say is marked once a clinician agrees: untrusted feedback becomes confirmed or rejected.
What is confirmed may be learned from (``core.feedback.visitors``).

It follows from what is said in the studio of the same output, and goes back with it: a thumb or a correction from how
the output was rated or whether it was accepted, a vote from who has won. Where clinicians differ, nothing follows until
an adjudicator has decided. Somebody may decide by hand as well, and then nothing follows any more. The log has every
change with the judgement that it rests on, and nothing of what was said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.errors import FeedbackError
from core.feedback import audit
from core.feedback.answers import BAD, GOOD, OVERALL
from core.feedback.counting import counting
from core.feedback.database import Database
from core.feedback.models import TRUST, Comparison, Rating, Response
from core.feedback.people import Person
from core.feedback.studio_models import AuditEvent, Item, Judgement, Project

UNTRUSTED, CONFIRMED, REJECTED = TRUST
TABLES = {table.__tablename__: table for table in (Rating, Response, Comparison)}
"""Of what visitors say: thumbs, corrections, votes."""
FOLLOW, DECIDE = "trust follows", "decide trust"

Feedback = Rating | Response | Comparison
Verdict = Callable[[Feedback, dict], bool | None]
"""Whether a clinician's answer agrees with a visitor; None where it says nothing of it."""


@dataclass(frozen=True)
class Said:
    """What a visitor said that a judgement bears on. ``what`` is a text, a thumb (+1 or -1) or the side of a vote."""

    table: str
    id: str
    trust: str
    what: str | int
    comment: str | None


class Trust:
    def __init__(self, database: Database) -> None:
        self._database = database

    def about(self, by: Person, judgement_id: str) -> list[Said]:
        """
        Raises:
            AccessError: ``by`` is neither adjudicator nor maintainer.
            FeedbackError: there is no such judgement, or it was withdrawn.
        """
        by.need("adjudicator", "maintainer")
        with self._database.reading() as session:
            judgement = _existing(session, judgement_id)
            return [_said(row) for row, _ in _bearing(session, session.get_one(Item, judgement.item_id))]

    def decide(self, by: Person, table: str, row_id: str, trust: str, judgement_id: str) -> None:
        """Confirms or rejects what a visitor said, for good, on the ground of a judgement.

        Raises:
            AccessError: ``by`` is neither adjudicator nor maintainer.
            FeedbackError: there is no such judgement, or nothing of the kind that it bears on, or it says that it
                cannot be judged.
        """
        by.need("adjudicator", "maintainer")
        if trust not in (CONFIRMED, REJECTED):
            raise FeedbackError("Unknown trust", value=trust, remedy=f"Use {CONFIRMED} or {REJECTED}")
        with self._database.writing() as session:
            judgement = _existing(session, judgement_id)
            if judgement.answer["cannot_judge"] is not None:
                raise FeedbackError("Who cannot judge it is no ground", remedy="Choose another judgement")
            item = session.get_one(Item, judgement.item_id)
            if (table, row_id) not in {(row.__tablename__, row.id) for row, _ in _bearing(session, item)}:
                raise FeedbackError("The judgement is not about that", value=row_id, remedy="Choose one that is")
            audit.hold(session)
            if (row := session.get(TABLES[table], row_id, with_for_update=True)) is None:
                raise FeedbackError("There is no such feedback", value=row_id, remedy="It may be withdrawn")
            _change(session, by.id, DECIDE, row, trust, item, judgement.id)


def follow(session: Session, project: Project, item: Item) -> None:
    """Brings what visitors said up to date with what clinicians say now of an item."""
    if item.withdrawn_at is not None:
        return
    if not (bearing := list(_bearing(session, item, project.kind))):
        return
    said = counting(session, [item.id], "adjudicate")[item.id] or counting(session, [item.id])[item.id]
    said = [one for one in said if one.answer["cannot_judge"] is None]
    audit.hold(session)  # before the rows, as whoever withdraws does
    for row, verdict in bearing:
        now = session.get(type(row), row.id, with_for_update=True, populate_existing=True)
        if now is None:
            continue
        trust, told = _agreed(now, verdict, said)
        same = now.trust == trust and (trust == UNTRUSTED or ground(session, now) is not None)
        if not same and _may_follow(session, now, trust, item):
            _change(session, told and told.user_id, FOLLOW, now, trust, item, told and told.id)


def ground(session: Session, row: Feedback) -> Judgement | None:
    """The judgement by which something counts for what it does; None where that was withdrawn."""
    last = _last(session, row)
    found = last and last.after["judgement"] and session.get(Judgement, last.after["judgement"])
    return found if found and found.withdrawn_at is None else None


def grounds(session: Session, consent_id: str) -> set[str]:
    """The judgements on which it ever rested what a visitor's feedback counts for."""
    found: set[str] = set()
    for name, table in TABLES.items():
        own = select(table.id).where(table.consent_id == consent_id)
        events = select(AuditEvent.after).where(AuditEvent.subject == name, AuditEvent.subject_id.in_(own))
        found |= {after["judgement"] for after in session.scalars(events) if after["judgement"]}
    return found


def _last(session: Session, row: Feedback) -> AuditEvent | None:
    """The newest event that says what something counts for."""
    of = AuditEvent.subject == row.__tablename__, AuditEvent.subject_id == row.id
    return session.scalar(select(AuditEvent).where(*of).order_by(AuditEvent.seq.desc()).limit(1))


def _agreed(row: Feedback, verdict: Verdict, said: list[Judgement]) -> tuple[str, Judgement | None]:
    """What follows for a row, and the judgement that it follows from."""
    verdicts = [(verdict(row, one.answer), one) for one in said]
    told = [(agrees, one) for agrees, one in verdicts if agrees is not None]
    if len({agrees for agrees, _ in told}) != 1:
        return UNTRUSTED, None
    agrees, judgement = told[-1]
    return CONFIRMED if agrees else REJECTED, judgement


def _may_follow(session: Session, row: Feedback, trust: str, item: Item) -> bool:
    """Not what somebody decided by hand, and back to untrusted only what rests on this item. A thumb that the visitor
    has changed since is a new one."""
    last = _last(session, row)
    if last is None or last.at < row.created_at:
        return trust != UNTRUSTED
    return last.action == FOLLOW and (trust != UNTRUSTED or last.after["item"] == item.id)


def _change(
    session: Session, user_id: str | None, action: str, row: Feedback, trust: str, item: Item, judgement_id: str | None
) -> None:  # fmt: skip
    before, row.trust = {"trust": row.trust}, trust
    after = {"trust": trust, "item": item.id, "judgement": judgement_id}
    audit.append(session, user_id, action, row.__tablename__, row.id, before, after)


def _bearing(session: Session, item: Item, kind: str | None = None) -> Iterator[tuple[Feedback, Verdict]]:
    """What visitors said of what an item shows, each with how an answer bears on it."""
    kind = kind or session.get_one(Project, item.project_id).kind
    shown = {r.id: r for r in session.scalars(select(Response).where(Response.id.in_(item.response_ids)))}
    if kind == "compare":
        generations = [shown[one].generation_id for one in item.response_ids]
        votes = select(Comparison).where(
            Comparison.left_generation_id.in_(generations), Comparison.right_generation_id.in_(generations)
        )
        for vote in session.scalars(votes.order_by(Comparison.id)):
            yield vote, lambda row, answer: _vote_agrees(row, answer, generations)
        return
    (output,) = shown.values()
    for thumb in session.scalars(select(Rating).where(Rating.response_id == output.id).order_by(Rating.id)):
        yield thumb, lambda row, answer: _same(_is_good(answer, output.text), row.value > 0)
    if output.author == "person":
        yield output, lambda row, answer: _is_good(answer, row.text)
    elif kind == "correct":
        for better in session.scalars(select(Response).where(Response.corrects_id == output.id).order_by(Response.id)):
            yield better, lambda row, answer: True if answer["text"] == row.text else None


def _same(good: bool | None, thumb: bool) -> bool | None:
    return None if good is None else good == thumb


def _is_good(answer: dict, text: str | None) -> bool | None:
    """Whether somebody finds an output good; None where they do neither that nor find it bad."""
    if "text" not in answer:
        score = answer["scores"].get(OVERALL)
        return None if score is None or BAD < score < GOOD else score >= GOOD
    if any(span["significant"] for span in answer["spans"]):
        return False
    return True if answer["text"] == text else None


def _vote_agrees(vote: Comparison, answer: dict, generations: list[str]) -> bool | None:
    choice = answer["choices"].get(OVERALL)
    if not isinstance(choice, int):
        return True if choice is not None and choice == vote.choice else None
    chosen = {"left": vote.left_generation_id, "right": vote.right_generation_id}.get(vote.choice)
    winner = generations[choice]
    if chosen is None or winner not in (vote.left_generation_id, vote.right_generation_id):
        return None
    return chosen == winner


def _existing(session: Session, judgement_id: str) -> Judgement:
    found = session.get(Judgement, judgement_id)
    if found is None or found.withdrawn_at is not None:
        raise FeedbackError("There is no such judgement", value=judgement_id, remedy="It may be withdrawn")
    return found


def _said(row: Feedback) -> Said:
    what = {"ratings": "value", "responses": "text", "comparisons": "choice"}[row.__tablename__]
    comment = None if isinstance(row, Response) else row.comment
    return Said(row.__tablename__, row.id, row.trust, getattr(row, what), comment)
