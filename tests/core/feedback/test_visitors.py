"""What visitors say is learned from once a clinician has confirmed it, and no longer than both stand by it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
import sqlalchemy as sa

from core.errors import FeedbackError
from core.feedback import audit
from core.feedback.judged import outputs_of
from core.feedback.models import utc_now
from core.feedback.projects import NewItem
from core.feedback.rubric import Plan
from core.feedback.snapshots import Rules, SnapshotInfo, digest
from core.feedback.store import FeedbackStore
from core.feedback.studio_models import Snapshot
from core.sequence import Text
from tests.core.feedback.builders import add, picture
from tests.core.feedback.team import FINGERPRINT, Team, filled, lineage

BETTER = "The brain, without a lesion."


class Visit:
    """A visitor's two answers to one request, and what another visitor says of them."""

    def __init__(self, store: FeedbackStore) -> None:
        self.store, self.code, self.other = store, store.give_consent(), store.give_consent()
        self.left, self.right = (
            add(store, self.code, key, inputs=[picture(1)], outputs=[Text(f"{key}.")]) for key in ("left", "right")
        )
        self.text = self.left.response_ids[0]
        self.correction = store.correct(self.other, self.text, BETTER)
        store.rate(self.other, self.text, -1)
        store.compare(self.other, self.left.id, self.right.id, "right")


@pytest.fixture
def visit(store: FeedbackStore) -> Visit:
    return Visit(store)


def rated(team: Team, response_id: str, overall: int, name: str = "rated", overlap: int = 2) -> str:
    """A project in which one of two raters has said something: it does not count by itself yet."""
    project = team.project(items=[NewItem((response_id,))], name=name, plan=Plan(overlap=overlap))
    rater = team.raters[0]
    team.submit(rater, team.next(rater, project), scores={"anatomy": 3, "overall": overall})
    return project


def learn(team: Team, *projects: str, visitors: bool = True) -> SnapshotInfo:
    return team.store.snapshots.make(team.maintainer, Rules(projects, visitors=visitors))


def read(team: Team, made: SnapshotInfo) -> list[dict]:
    return team.store.snapshots.read(made.sha256)


def test_only_what_was_confirmed_is_learned_from_and_only_when_asked(team: Team, visit: Visit) -> None:
    confirmed, doubtful = rated(team, visit.text, 1), rated(team, visit.correction, 3, "doubtful")
    with pytest.raises(FeedbackError, match="nothing to learn"):
        learn(team, confirmed, visitors=False)
    with pytest.raises(FeedbackError, match="nothing to learn"):
        learn(team, doubtful)
    (thumb,) = read(team, learn(team, confirmed, doubtful))
    assert (thumb["kind"], thumb["chosen"], thumb["rejected"]) == ("unpaired", None, {"type": "text", "text": "left."})
    assert thumb["task"] == "interleaved" and thumb["inputs"][0]["sha256"] == picture(1).sha256
    assert len(thumb["judgements"]) == 1 and not thumb["edit"]


def test_a_confirmed_correction_is_imitated_and_put_before_what_it_corrects(team: Team, visit: Visit) -> None:
    sft, pair = read(team, learn(team, rated(team, visit.correction, 5)))
    assert (sft["kind"], sft["chosen"], sft["edit"]) == ("sft", {"type": "text", "text": BETTER}, False)
    assert (pair["kind"], pair["edit"], pair["rejected"]["text"]) == ("pair", True, "left.")


def test_a_confirmed_vote_is_a_pair(team: Team, visit: Visit) -> None:
    items = [NewItem((visit.text, visit.right.response_ids[0]))]
    project = team.project("compare", items=items, plan=Plan(overlap=2))
    team.submit(team.raters[0], team.next(team.raters[0], project), choices={"anatomy": 1, "overall": 1})
    (pair,) = read(team, learn(team, project))
    assert (pair["kind"], pair["chosen"]["text"], pair["rejected"]["text"]) == ("pair", "right.", "left.")
    team.submit(team.raters[1], team.next(team.raters[1], project), choices={"anatomy": 1, "overall": 1})
    made = learn(team, project)
    assert len(read(team, made)) == 1, "clinicians say the same, which does not count twice"
    assert made.counts["left out"] == {"of a visitor, and said by clinicians as well": 1}


def test_what_was_rejected_or_confirmed_elsewhere_is_not_learned_from(team: Team, visit: Visit) -> None:
    rated(team, visit.text, 1, "elsewhere")
    rejects = rated(team, visit.correction, 1)
    with pytest.raises(FeedbackError, match="nothing to learn"):
        learn(team, rejects)


def emptied(team: Team) -> bool:
    (one,) = team.store.snapshots.all(team.maintainer)
    return one.emptied


def test_a_snapshot_goes_with_the_judgement_that_confirmed(team: Team, visit: Visit) -> None:
    project = rated(team, visit.text, 1)
    made = learn(team, project)
    version = team.store.versions.register(team.maintainer, lineage("nano-2", made.sha256), "2" * 64)
    team.store.withdraw_person(team.maintainer, team.raters[0].id)
    assert emptied(team) and [one.id for one in team.store.versions.all() if one.tainted] == [version]
    with pytest.raises(FeedbackError, match="nothing to learn"):
        learn(team, project)


def test_another_clinicians_word_takes_the_place_of_one_that_is_withdrawn(team: Team, visit: Visit) -> None:
    project = rated(team, visit.text, 1, overlap=3)
    team.submit(team.raters[1], team.next(team.raters[1], project), scores={"anatomy": 3, "overall": 1})
    (before,) = read(team, learn(team, project))
    grounds = {rater.id: _said(team, rater.id) for rater in team.raters}
    (first,) = [rater for rater, said in grounds.items() if said == before["judgements"][0]]
    team.store.withdraw_person(team.maintainer, first)
    (after,) = read(team, learn(team, project))
    assert after["judgements"] == [said for rater, said in grounds.items() if rater != first]


def _said(team: Team, user_id: str) -> str:
    with team.store.database.reading() as session:
        return session.scalar(sa.text("SELECT id FROM judgements WHERE user_id = :id"), {"id": user_id})


@pytest.mark.parametrize("whose", ["who said it", "whose answers it is about"])
@pytest.mark.parametrize("expired", [False, True])
def test_a_snapshot_goes_with_the_visitors_consent(team: Team, visit: Visit, whose: str, expired: bool) -> None:
    items = [NewItem((visit.text, visit.right.response_ids[0]))]
    compare = team.project("compare", items=items, plan=Plan(overlap=2))
    team.submit(team.raters[0], team.next(team.raters[0], compare), choices={"anatomy": 1, "overall": 1})
    correct = team.project("correct", items=[NewItem((visit.text,))], plan=Plan(overlap=2))
    team.submit(team.raters[0], team.next(team.raters[0], correct), text=BETTER)
    made = learn(team, compare, correct, rated(team, visit.text, 1))
    assert sorted(one["kind"] for one in read(team, made)) == ["pair", "pair", "sft", "unpaired"]
    other = team.store.snapshots.make(team.maintainer, Rules((team_project(team),), visitors=False))
    if expired:
        visit.store.purge_expired(utc_now() + timedelta(days=400))
    else:
        visit.store.withdraw(visit.other if whose == "who said it" else visit.code)
    with pytest.raises(FeedbackError, match="was emptied"):
        team.store.snapshots.read(made.sha256)
    assert team.store.snapshots.read(other.sha256), "it learned nothing from visitors"


def team_project(team: Team) -> str:
    """One that clinicians alone have judged."""
    project = team.project("correct", count=1, name="their own")
    for rater in team.raters:
        team.judge_all(rater, project)
    return project


def test_a_visitor_who_withdraws_is_listed_with_the_versions_that_had_learned_from_it(team: Team, visit: Visit) -> None:
    project, clean = rated(team, visit.text, 1), team_project(team)
    made, without = learn(team, project, clean), learn(team, clean, visitors=False)
    for name, of in (("nano-2", made), ("other-2", without)):
        team.store.versions.register(team.maintainer, lineage(name, of.sha256), FINGERPRINT + name)
    visit.store.withdraw(visit.other)
    (found,) = team.store.withdrawals(team.maintainer, 9)
    assert (found.judgements, [one.name for one in found.versions]) == (0, ["nano-2"])
    team.store.withdraw_person(team.maintainer, team.raters[1].id)
    assert [one.judgements for one in team.store.withdrawals(team.maintainer, 9)] == [1, 0]
    assert len(team.store.withdrawals(team.maintainer, 1)) == 1


def test_what_visitors_say_of_a_tainted_version_is_not_learned(team: Team, visit: Visit) -> None:
    project, clean = rated(team, visit.text, 1), team_project(team)
    with team.store.database.reading() as session:
        output = outputs_of(session, [visit.text])[visit.text]
    gone = team.store.snapshots.make(team.maintainer, Rules((filled(team),)))
    team.store.versions.register(team.maintainer, lineage(output.model, gone.sha256), output.fingerprint)
    assert "unpaired" in {one["kind"] for one in read(team, learn(team, project, clean))}
    team.store.withdraw_patient(team.maintainer, "archive", "one 1")
    made = learn(team, project, clean)
    assert "unpaired" not in {one["kind"] for one in read(team, made)}
    assert made.counts["left out"]["made by a version that rests on something withdrawn"] == 2


def test_a_thumb_that_was_turned_since_still_takes_the_snapshot_along(team: Team, visit: Visit) -> None:
    project = rated(team, visit.text, 1)
    learn(team, project)
    visit.store.rate(visit.other, visit.text, 1)
    assert not emptied(team)
    with pytest.raises(FeedbackError, match="nothing to learn"):
        learn(team, project)
    visit.store.withdraw(visit.other)
    assert emptied(team)


def test_a_consent_that_has_expired_and_is_not_yet_purged_gives_nothing(
    team: Team, open_store: Callable[..., FeedbackStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    visit = Visit(open_store(kept=timedelta(days=1)))
    project = rated(team, visit.text, 1)
    monkeypatch.setattr("core.feedback.snapshots.utc_now", lambda: utc_now() + timedelta(days=2))
    with pytest.raises(FeedbackError, match="consent has expired"):
        learn(team, project)


def test_the_rules_of_before_keep_the_name_of_their_snapshot(team: Team) -> None:
    """A snapshot from before visitors counted has rules that do not speak of them."""
    made = team.store.snapshots.make(team.maintainer, Rules((team_project(team),)))
    contents = team.store.snapshots.read(made.sha256)
    with team.store.database.writing() as session:
        row = session.get_one(Snapshot, made.id)
        row.rules = {key: value for key, value in row.rules.items() if key != "visitors"}
        row.sha256 = digest(row.rules, contents)
        audit.record(session, None, "make", row)
        name = row.sha256
    assert name != made.sha256 and team.store.snapshots.read(name) == contents
    assert not team.store.snapshots.all(team.maintainer)[0].rules.visitors
