"""Feedback of visitors counts once a clinician agrees, and no longer than that."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from core.errors import AccessError, FeedbackError
from core.feedback.judged import VISITOR, judged
from core.feedback.models import utc_now
from core.feedback.projects import NewItem
from core.feedback.store import FeedbackStore
from core.sequence import Text
from tests.core.feedback.builders import add, picture
from tests.core.feedback.team import Team

BETTER = "The brain, without a lesion."


class Visit:
    """A visitor's runs, with a correction, thumbs and a vote."""

    def __init__(self, store: FeedbackStore) -> None:
        self.store, self.code = store, store.give_consent()
        self.left, self.right = (
            add(store, self.code, key, inputs=[picture(1)], outputs=[Text(f"{key}.")]) for key in ("left", "right")
        )
        self.text = self.left.response_ids[0]
        self.correction = store.correct(self.code, self.text, BETTER)
        self.up = store.rate(self.code, self.text, 1)
        self.down = store.rate(store.give_consent(), self.text, -1)
        self.vote = store.compare(self.code, self.left.id, self.right.id, "left")


@pytest.fixture
def visit(store: FeedbackStore) -> Visit:
    return Visit(store)


def trust(engine: sa.Engine, table: str, row_id: str) -> str:
    with engine.connect() as connection:
        return connection.scalar(sa.text(f"SELECT trust FROM {table} WHERE id = :id"), {"id": row_id})


def judge(team: Team, project: str, who: int = 0, **said: object) -> None:
    rater = team.raters[who]
    team.submit(rater, team.next(rater, project), **said)


def rating(overall: int) -> dict:
    return {"scores": {"anatomy": 3, "overall": overall}}


@pytest.mark.parametrize(
    ("overall", "expected"), [(5, "confirmed"), (4, "confirmed"), (3, "untrusted"), (2, "rejected")]
)
def test_a_correction_counts_as_it_is_rated(
    team: Team, visit: Visit, engine: sa.Engine, overall: int, expected: str
) -> None:
    assert team.store.projects.responses(team.maintainer, "text", source="corrections") == [visit.correction]
    project = team.project(items=[NewItem((visit.correction,))])
    judge(team, project, **rating(overall))
    assert trust(engine, "responses", visit.correction) == expected
    (one,) = judged(team.store.database, project)
    assert one.outputs[0].model == VISITOR, "no model is praised or blamed for it"


def test_thumbs_follow_the_rating_of_what_they_are_about(team: Team, visit: Visit, engine: sa.Engine) -> None:
    project = team.project(items=[NewItem((visit.text,))])
    judge(team, project, **rating(1))
    assert (trust(engine, "ratings", visit.up), trust(engine, "ratings", visit.down)) == ("rejected", "confirmed")
    judge(team, project, 1, **rating(5))
    assert (trust(engine, "ratings", visit.up), trust(engine, "ratings", visit.down)) == ("untrusted", "untrusted")
    team.submit(team.adjudicator, team.next(team.adjudicator, project), **rating(5))
    assert (trust(engine, "ratings", visit.up), trust(engine, "ratings", visit.down)) == ("confirmed", "rejected")
    team.store.withdraw_person(team.maintainer, team.adjudicator.id)
    assert (trust(engine, "ratings", visit.up), trust(engine, "ratings", visit.down)) == ("untrusted", "untrusted")
    team.store.withdraw_person(team.maintainer, team.raters[0].id)
    assert trust(engine, "ratings", visit.up) == "confirmed"
    visit.store.rate(visit.code, visit.text, -1)
    assert trust(engine, "ratings", visit.up) == "untrusted" and list(team.store.verify()) == []


def test_an_accepted_text_confirms_its_thumb_and_the_same_correction(
    team: Team, visit: Visit, engine: sa.Engine
) -> None:
    project = team.project("correct", items=[NewItem((visit.text,))])
    judge(team, project, text="left.")
    assert (
        trust(engine, "ratings", visit.up) == "confirmed"
        and trust(engine, "responses", visit.correction) == "untrusted"
    )
    judge(team, project, 1, text=BETTER)
    assert trust(engine, "responses", visit.correction) == "confirmed"


@pytest.mark.parametrize(
    ("winner", "expected"), [(0, "confirmed"), (1, "rejected"), ("tie", "untrusted"), ("both_bad", "untrusted")]
)
def test_a_vote_follows_who_has_won(
    team: Team, visit: Visit, engine: sa.Engine, winner: int | str, expected: str
) -> None:
    project = team.project("compare", items=[NewItem((visit.text, visit.right.response_ids[0]))])
    judge(team, project, choices={"anatomy": 1, "overall": winner})
    assert trust(engine, "comparisons", visit.vote) == expected


def test_somebody_decides_by_hand_and_that_stays(team: Team, visit: Visit, engine: sa.Engine) -> None:
    project = team.project(items=[NewItem((visit.correction,))])
    judge(team, project, **rating(3))
    with engine.connect() as connection:
        judgement = connection.scalar(sa.text("SELECT id FROM judgements"))
    told = team.store.trust.about(team.adjudicator, judgement)
    assert [(one.table, one.trust, one.what) for one in told] == [("responses", "untrusted", BETTER)]
    decide = team.store.trust.decide
    for by, row, value, of, error in [
        (team.raters[0], visit.correction, "confirmed", judgement, AccessError),
        (team.adjudicator, visit.correction, "untrusted", judgement, FeedbackError),
        (team.adjudicator, visit.text, "confirmed", judgement, FeedbackError),
        (team.adjudicator, visit.correction, "confirmed", "none", FeedbackError),
    ]:
        with pytest.raises(error):
            decide(by, "responses", row, value, of)
    judge(team, project, 1, scores={}, cannot_judge="other")
    with engine.connect() as connection:
        unable = connection.scalar(sa.text("SELECT id FROM judgements WHERE id <> :id"), {"id": judgement})
    with pytest.raises(FeedbackError, match="no ground"):
        decide(team.adjudicator, "responses", visit.correction, "confirmed", unable)
    decide(team.adjudicator, "responses", visit.correction, "confirmed", judgement)
    assert trust(engine, "responses", visit.correction) == "confirmed"
    with engine.connect() as connection:
        events = connection.execute(
            sa.text("SELECT action, user_id FROM audit_events WHERE subject_id = :id"), {"id": visit.correction}
        ).all()
        log = str(connection.execute(sa.text("SELECT before, after, reason FROM audit_events")).all())
    assert events == [("decide trust", team.adjudicator.id)] and BETTER not in log and judgement in log


def test_an_edit_behind_the_studios_back_is_found_and_a_withdrawal_is_none(
    team: Team, visit: Visit, engine: sa.Engine
) -> None:
    project = team.project(items=[NewItem((visit.correction,)), NewItem((visit.text,))])
    while (task := team.next(team.raters[0], project)) is not None:
        team.submit(team.raters[0], task, **rating(5))
    edits = [("responses", visit.correction, "untrusted"), ("responses", visit.correction, "rejected"),
             ("ratings", visit.down, "confirmed"), ("comparisons", visit.vote, "confirmed")]  # fmt: skip
    for table, row_id, value in edits:
        before = trust(engine, table, row_id)
        for now, found in ((value, 1), (before, 0)):
            with engine.begin() as connection:
                connection.execute(sa.text(f"UPDATE {table} SET trust = :v WHERE id = :id"), {"v": now, "id": row_id})
            assert len([one for one in team.store.verify() if row_id in one]) == found
    visit.store.withdraw(visit.code)
    assert list(team.store.verify()) == []


def test_only_what_still_has_consent_is_offered(team: Team, visit: Visit, engine: sa.Engine) -> None:
    team.outputs("text", 2)
    found = {source: len(team.store.projects.responses(team.maintainer, "text", source=source))
             for source in ("models", "demo", "runs", "imports", "corrections")}  # fmt: skip
    assert found == {"models": 4, "demo": 2, "runs": 2, "imports": 0, "corrections": 1}
    with engine.begin() as connection:
        past = {"then": (utc_now() - timedelta(days=1)).replace(tzinfo=None), "given": "2020-01-01 00:00:00"}
        connection.execute(sa.text("UPDATE consents SET expires_at = :then, given_at = :given"), past)
    for source, count in (("models", 2), ("demo", 0), ("corrections", 0)):
        assert len(team.store.projects.responses(team.maintainer, "text", source=source)) == count
    with pytest.raises(FeedbackError, match="Unknown source"):
        team.store.projects.responses(team.maintainer, "text", source="elsewhere")
