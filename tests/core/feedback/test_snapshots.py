"""Snapshots of what can be learned, on both databases: immutable, by content, without what was withdrawn."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from core.errors import AccessError, FeedbackError
from core.feedback.snapshots import Rules
from core.feedback.studio import StudioStore
from tests.core.feedback.team import FINGERPRINT, Team, filled, lineage


def test_a_snapshot_is_named_by_its_content_and_splits_by_patient(team: Team) -> None:
    rules = Rules((filled(team, 12),), test_share=0.5)
    made = team.store.snapshots.make(team.maintainer, rules)
    assert team.store.snapshots.make(team.maintainer, rules) == made, "nothing has changed"
    signals = team.store.snapshots.read(made.sha256)
    assert {one["kind"] for one in signals} == {"pair"} and len(signals) == 12
    assert {one["split"] for one in signals} == {"train", "test"}
    assert made.counts["pair, train"] + made.counts["pair, test"] == 12
    other = team.store.snapshots.make(team.maintainer, Rules(rules.projects, 0.5, seed=1))
    assert other.sha256 != made.sha256 and {one.id for one in team.store.snapshots.all(team.maintainer)} == {
        made.id, other.id,
    }  # fmt: skip


def test_whoever_withdraws_empties_the_snapshots_and_the_versions_that_saw_them_are_known(team: Team) -> None:
    store, by = team.store, team.maintainer
    project, untouched = filled(team), filled(team, name="of one rater")
    made = store.snapshots.make(by, Rules((project,)))
    store.versions.register(by, lineage("nano-2", made.sha256), FINGERPRINT + "nano-2")
    store.versions.register(by, lineage("nano-3", made.sha256, parent="nano-2"), "3" * 64)
    other = Team(store, by, team.adjudicator, [team.adjudicator])
    with pytest.raises(AccessError):
        store.snapshots.make(other.raters[0], Rules((untouched,)))

    store.withdraw_person(by, team.raters[0].id)
    (emptied,) = store.snapshots.all(by)
    assert emptied.emptied and emptied.versions == ("nano-2", "nano-3")
    with pytest.raises(FeedbackError, match="was emptied"):
        store.snapshots.read(made.sha256)
    with pytest.raises(FeedbackError, match=r"nothing to learn yet.*not yet said by all"):
        store.snapshots.again(by, made.id)


def test_a_snapshot_is_made_again_without_a_patient(team: Team) -> None:
    store, by = team.store, team.maintainer
    made = store.snapshots.make(by, Rules((filled(team),)))
    store.withdraw_patient(by, "archive", "one 1")
    again = store.snapshots.again(by, made.id)
    assert again.sha256 != made.sha256 and again.replaces == made.id and not again.emptied
    assert len(store.snapshots.read(again.sha256)) == 2


@pytest.mark.parametrize(
    ("edit", "finding"),
    [
        (
            "UPDATE snapshot_signals SET place = place + 10 WHERE place = 0",
            "snapshot_signals: those of {} were changed",
        ),
        ("DELETE FROM snapshot_signals WHERE place = 1", "snapshot_signals: those of {} were changed"),
        ("DELETE FROM snapshot_parts", "snapshot_signals: those of {} were changed"),
        ("UPDATE snapshots SET replaces_id = id", "snapshots: {} was changed"),
    ],
)
def test_edits_of_a_snapshot_are_found(
    open_studio: Callable[[], StudioStore], engine: sa.Engine, edit: str, finding: str
) -> None:
    team = Team.of(open_studio())
    made = team.store.snapshots.make(team.maintainer, Rules((filled(team),)))
    with engine.begin() as connection:
        connection.execute(sa.text(edit))
    assert list(team.store.verify()) == [finding.format(made.id)]
    if "DELETE FROM snapshot_signals" in edit:
        with pytest.raises(FeedbackError, match="not as it was written"):
            team.store.snapshots.read(made.sha256)
