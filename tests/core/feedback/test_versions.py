"""The registry of learned versions, on both databases: what each has seen, its gate, and which is served."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command

from core.config import ROOT
from core.errors import AccessError, FeedbackError, UniMedError
from core.feedback import database
from core.feedback.gate import LEAST_ITEMS, gate_of
from core.feedback.models import Base
from core.feedback.outputs import made_by
from core.feedback.projects import NewItem
from core.feedback.rubric import Plan
from core.feedback.snapshots import Rules, SnapshotInfo
from core.feedback.studio import StudioStore
from core.feedback.versions import Basis, VersionInfo
from tests.core.feedback.builders import picture
from tests.core.feedback.team import FINGERPRINT, MODEL, Team, filled, judgements, lineage, report

NEW, OLD, TIE, BOTH_BAD = 0, 1, "tie", "both_bad"


def snapshot(team: Team, name: str = "one") -> SnapshotInfo:
    return team.store.snapshots.make(team.maintainer, Rules((filled(team, name=name),)))


def registered(team: Team, name: str, of: SnapshotInfo, parent: str = MODEL, day: int = 1) -> str:
    at = f"2026-03-{day:02}T12:00:00+00:00"
    return team.store.versions.register(
        team.maintainer, lineage(name, of.sha256, parent, at), FINGERPRINT + name
    )  # fmt: skip


def compare(team: Team, version_id: str, *said: object, gold: int = 0) -> str:
    """A project that compares a version with its parent, linked to it: an item for each of ``said``, which the first
    rater says of it, and some that the version has lost, by which raters are checked."""
    one = info(team, version_id)
    new = team.outputs(count=len(said) + gold, model=one.name, patient="Doe")
    old = team.outputs(count=len(said) + gold, model=one.lineage.parent, patient="Doe")
    known = {"choices": {"anatomy": OLD, "overall": OLD}}
    items = [NewItem(pair, gold=known if i >= len(said) else None) for i, pair in enumerate(zip(new, old, strict=True))]
    project = team.project("compare", items=items, name=f"compare {one.name}", plan=Plan(overlap=1))
    team.store.versions.link(team.maintainer, version_id, project)
    places = {picture(n).sha256: n for n in range(len(items))}
    while (task := team.next(team.raters[0], project)) is not None:
        place = places[task.shown.inputs[0]["sha256"]]
        choice = said[place] if place < len(said) else OLD
        team.submit(team.raters[0], task, choices={"anatomy": choice, "overall": choice})
    return project


def better(team: Team, name: str, of: SnapshotInfo, parent: str = MODEL, day: int = 1) -> str:
    """A version that may be promoted."""
    version_id = registered(team, name, of, parent, day)
    compare(team, version_id, *[NEW] * LEAST_ITEMS)
    return version_id


def info(team: Team, version_id: str) -> VersionInfo:
    return next(one for one in team.store.versions.all() if one.id == version_id)


def states(store: StudioStore) -> dict[str, str]:
    return {one.name: one.state for one in store.versions.all()}


# Registering ---------------------------------------------------------------------------------------------------------


def test_a_version_is_registered_once_with_all_that_it_was_made_of(team: Team) -> None:
    store, of = team.store, snapshot(team)
    first = registered(team, "nano-2", of)
    assert registered(team, "nano-2", of) == first
    child = registered(team, "nano-3", of, parent="nano-2", day=2)
    newest, oldest = store.versions.all()
    assert (newest.id, oldest.id, newest.lineage.parent) == (child, first, "nano-2")
    assert oldest.lineage == lineage("nano-2", of.sha256, created_at="2026-03-01T12:00:00+00:00")
    assert {one.state for one in (newest, oldest)} == {"candidate"} and store.versions.served() is None
    assert (oldest.snapshot_id, oldest.fingerprint, oldest.tainted) == (of.id, FINGERPRINT + "nano-2", False)
    events = [event for event in store.events(team.maintainer, 100) if event.action == "register"]
    assert [event.after["name"] for event in events] == ["nano-3", "nano-2"]


def test_what_is_evaluated_after_it_was_registered_is_taken_up(team: Team) -> None:
    of = lineage("nano-2", snapshot(team).sha256)
    version_id = team.store.versions.register(team.maintainer, of, FINGERPRINT + "nano-2")
    rows = [{"task": "vqa", "metric": "accuracy", "worse": True}]
    measured = replace(of, metrics=of.metrics | {"tasks": rows})
    for one in (measured, measured, of):  # the last one, as from an older copy of its folder, takes nothing back
        assert team.store.versions.register(team.maintainer, one, FINGERPRINT + "nano-2") == version_id
    assert info(team, version_id).lineage == measured
    (event,) = [event for event in team.store.events(team.maintainer, 100) if event.action == "evaluate"]
    assert event.after["tasks"] == {"measured": 1, "worse": ["vqa"]}
    assert list(team.store.verify()) == []


def test_a_base_that_has_made_nothing_here_is_written_down(team: Team, engine: sa.Engine) -> None:
    made = replace(lineage("nano-2", snapshot(team).sha256, parent="elsewhere"), parent_fingerprint=FINGERPRINT + MODEL)
    team.store.versions.register(team.maintainer, made, "2" * 64)
    versions = Base.metadata.tables["model_versions"]
    with engine.connect() as connection:
        of = sa.select(versions.c.fingerprint).where(versions.c.name == "elsewhere")
        assert connection.scalar(of) == FINGERPRINT + MODEL


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"snapshot": "0" * 64}, "not in this database"),
        ({"parent": "nano-2"}, "made of itself"),
        ({"created_at": "2026-03-01"}, "no moment"),
        ({"name": MODEL, "parent": "other"}, "Another version has that name"),
        ({"parent_fingerprint": "9" * 64}, "not registered.*Register its parent first"),
        ({"name": "../nano"}, "cannot have that name"),
        ({"name": "nano 2"}, "cannot have that name"),
    ],
)
def test_a_lineage_that_cannot_be_is_refused(team: Team, change: dict, why: str) -> None:
    made = replace(lineage("nano-2", snapshot(team).sha256), **change)
    with pytest.raises(UniMedError, match=why):
        team.store.versions.register(team.maintainer, made, "2" * 64)
    assert team.store.versions.all() == []


def test_another_snapshot_or_other_weights_under_the_same_name_are_refused(team: Team) -> None:
    first, second = snapshot(team), snapshot(team, "two")
    registered(team, "nano-2", first)
    with pytest.raises(FeedbackError, match="Another version has that name"):
        registered(team, "nano-2", second)
    with pytest.raises(FeedbackError, match="Another version has that name"):
        team.store.versions.register(team.maintainer, lineage("nano-2", first.sha256), "other weights")
    assert len(team.store.versions.all()) == 1


def test_only_a_maintainer_changes_the_registry(team: Team) -> None:
    versions, rater, made = team.store.versions, team.raters[0], snapshot(team)
    version_id = better(team, "nano-2", made)
    for call in (
        lambda: versions.register(rater, lineage("nano-3", made.sha256), "3" * 64),
        lambda: versions.link(rater, version_id, info(team, version_id).project_id),
        lambda: versions.promote(rater, version_id, "Better."),
        lambda: versions.roll_back(rater, "Worse."),
        lambda: versions.retire(rater, version_id, "Worse."),
    ):
        with pytest.raises(AccessError):
            call()
    assert states(team.store) == {"nano-2": "candidate"}


# The gate ------------------------------------------------------------------------------------------------------------


def test_the_gate_counts_items_and_leaves_out_those_by_which_raters_are_checked(team: Team) -> None:
    version_id = registered(team, "nano-2", snapshot(team))
    empty = team.store.versions.gate(version_id)
    assert (empty.wins, empty.ties, empty.losses, empty.rate, empty.low, empty.high) == (0, 0, 0, None, None, None)
    compare(team, version_id, NEW, NEW, NEW, OLD, TIE, BOTH_BAD, gold=3)
    gate = team.store.versions.gate(version_id)
    assert (gate.wins, gate.ties, gate.losses) == (3, 2, 1)
    assert (gate.items, gate.judged, gate.open) == (6, 6, 0)
    assert gate == gate_of([1, 1, 1, 0, 0.5, 0.5]) and gate.rate == pytest.approx(4 / 6)


def test_the_same_weights_count_under_any_name(team: Team) -> None:
    """As where a version was learned from the hub, and the clinic's base is a folder."""
    of = replace(lineage("nano-2", snapshot(team).sha256, parent="hub/nano"), parent_fingerprint=FINGERPRINT + MODEL)
    version_id = team.store.versions.register(team.maintainer, of, FINGERPRINT + "nano-2")
    pairs = zip(team.outputs(count=2, model="nano-2"), team.outputs(count=2), strict=True)
    project = team.project("compare", items=[NewItem(pair) for pair in pairs], plan=Plan(overlap=1))
    team.store.versions.link(team.maintainer, version_id, project)
    team.judge_all(team.raters[0], project, choices={"anatomy": NEW, "overall": NEW})
    assert team.store.versions.gate(version_id).wins == 2


def test_raters_who_differ_count_by_their_mean_once_an_adjudicator_need_not_decide(team: Team) -> None:
    version_id = registered(team, "nano-2", snapshot(team))
    pairs = zip(team.outputs(count=2, model="nano-2"), team.outputs(count=2), strict=True)
    project = team.project("compare", items=[NewItem(pair) for pair in pairs], plan=Plan(overlap=2))
    team.store.versions.link(team.maintainer, version_id, project)
    for rater, choice in zip(team.raters, (NEW, OLD), strict=True):
        team.judge_all(rater, project, choices={"anatomy": choice, "overall": choice})
    gate = team.store.versions.gate(version_id)
    assert gate.rate is None and (gate.open, gate.items) == (2, 2), "disputed"
    team.submit(team.adjudicator, team.next(team.adjudicator, project), choices={"anatomy": 0, "overall": NEW})
    gate = team.store.versions.gate(version_id)
    assert (gate.wins, gate.ties, gate.losses, gate.judged, gate.open) == (1, 0, 0, 1, 1)


def test_wilsons_interval() -> None:
    """Figures of Newcombe, Statistics in Medicine 17 (1998), Table I."""
    for wins, count, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        gate = gate_of([1.0] * wins + [0.0] * (count - wins))
        assert (gate.low, gate.high) == pytest.approx((low, high), abs=5e-5)


# Promoting -----------------------------------------------------------------------------------------------------------


def test_what_is_not_shown_to_be_better_is_not_promoted(team: Team) -> None:
    versions, by = team.store.versions, team.maintainer
    version_id = registered(team, "nano-2", snapshot(team))
    with pytest.raises(FeedbackError, match="not compared"):
        versions.promote(by, version_id, "Better.")
    project = compare(team, version_id, *[NEW] * 6, *[TIE] * 4)
    with pytest.raises(FeedbackError, match=r"not shown to be better .* it wins 80%"):
        versions.promote(by, version_id, "Better.")
    with pytest.raises(FeedbackError, match="no such project that compares"):
        versions.link(by, version_id, team.project(count=1))
    assert info(team, version_id).project_id == project
    with pytest.raises(FeedbackError, match="no such version"):
        versions.promote(by, "x", "Better.")
    other = better(team, "nano-3", snapshot(team, "two"))
    with pytest.raises(FeedbackError, match="needs a reason"):
        versions.promote(by, other, " ")
    assert set(states(team.store).values()) == {"candidate"} and versions.served() is None


def test_a_version_is_not_promoted_while_its_comparison_goes_well_for_a_moment(team: Team) -> None:
    versions, by = team.store.versions, team.maintainer
    version_id = registered(team, "nano-2", snapshot(team))
    pairs = zip(team.outputs(count=14, model="nano-2"), team.outputs(count=14), strict=True)
    project = team.project("compare", items=[NewItem(pair) for pair in pairs], plan=Plan(overlap=1))
    versions.link(by, version_id, project)
    for said in range(14):
        with pytest.raises(FeedbackError, match=f"not finished: {said} of 14 judged"):
            versions.promote(by, version_id, "Better.")
        task, choices = team.next(team.raters[0], project), {"anatomy": NEW, "overall": NEW}
        if said < 4:
            team.submit(team.raters[0], task, choices={}, cannot_judge="other")
        else:
            team.submit(team.raters[0], task, choices=choices)
    gate = versions.gate(version_id)
    assert (gate.counted, gate.judged, gate.open) == (10, 14, 0), "what nobody can judge holds nothing up"
    versions.promote(by, version_id, "Better.")


def test_a_few_items_are_not_enough(team: Team) -> None:
    version_id = registered(team, "nano-2", snapshot(team))
    compare(team, version_id, *[NEW] * (LEAST_ITEMS - 1), gold=3)
    with pytest.raises(FeedbackError, match=r"Too few items .*: 9, and 10 must.*more requests to compare"):
        team.store.versions.promote(team.maintainer, version_id, "Better.")


def test_a_version_replaces_its_parent_alone(team: Team) -> None:
    versions, by, of = team.store.versions, team.maintainer, snapshot(team)
    first, second = better(team, "nano-2", of), better(team, "other-2", of, day=2)
    child = better(team, "nano-3", of, "nano-2", day=3)
    with pytest.raises(FeedbackError, match=rf"not made of what is served.*--base {MODEL}, and compare"):
        versions.promote(by, child, "Better than what is not served.")
    versions.promote(by, first, "Better.")
    with pytest.raises(FeedbackError, match=r"not made of what is served.*--base nano-2, and compare"):
        versions.promote(by, second, "Better than the base.")
    assert versions.served() == "nano-2"
    versions.retire(by, second, "Too late.")
    versions.roll_back(by, "It blurs.")
    versions.promote(by, second, "A retired one.")
    assert versions.served() == "other-2"


def test_the_log_says_which_tasks_became_worse(team: Team) -> None:
    versions, by, of = team.store.versions, team.maintainer, snapshot(team)
    rows = [{"task": "vqa", "worse": True}, {"task": "report", "worse": False}]
    made = replace(lineage("nano-2", of.sha256), metrics={"tasks": rows})
    version_id = versions.register(by, made, FINGERPRINT + "nano-2")
    compare(team, version_id, *[NEW] * LEAST_ITEMS)
    child = better(team, "nano-3", of, "nano-2", day=2)
    versions.promote(by, version_id, "Better.")
    versions.promote(by, child, "Better.")
    said = [one.after["tasks"] for one in team.store.events(by, 9) if one.action == "promote"]
    assert said == [{"measured": 0, "worse": []}, {"measured": 2, "worse": ["vqa"]}]


def test_a_roll_back_takes_back_what_was_seen_and_nothing_newer(team: Team) -> None:
    versions, by, of = team.store.versions, team.maintainer, snapshot(team)
    first, second = better(team, "nano-2", of), better(team, "nano-3", of, "nano-2", day=2)
    versions.promote(by, first, "Better.")
    versions.promote(by, second, "Better still.")
    with pytest.raises(FeedbackError, match="Somebody else has changed it meanwhile"):
        versions.roll_back(by, "It blurs.", served=first)
    assert versions.served() == "nano-3"
    assert versions.roll_back(by, "It blurs.", served=second) == "nano-2"


def test_promotion_retires_the_former_and_a_roll_back_returns_to_it(team: Team) -> None:
    versions, by, of = team.store.versions, team.maintainer, snapshot(team)
    first, second = better(team, "nano-2", of), better(team, "nano-3", of, "nano-2", day=2)
    versions.promote(by, first, "Better.")
    assert versions.served() == "nano-2" and info(team, first).promoted_at is not None
    versions.promote(by, second, "Better still.")
    assert versions.served() == "nano-3" and states(team.store) == {"nano-2": "retired", "nano-3": "promoted"}
    with pytest.raises(FeedbackError, match="promoted already"):
        versions.promote(by, second, "Again.")
    with pytest.raises(FeedbackError, match=r"no candidate.*Roll back"):
        versions.retire(by, second, "Worse.")
    assert versions.former() == "nano-2"
    assert versions.roll_back(by, "It blurs.") == "nano-2" == versions.served()
    assert versions.former() is None
    assert versions.roll_back(by, "It blurs as well.") is None and versions.served() is None
    assert set(states(team.store).values()) == {"retired"}
    with pytest.raises(FeedbackError, match="No version is promoted"):
        versions.roll_back(by, "Again.")
    said = [(one.action, one.after["name"], one.reason) for one in team.store.events(by, 6)]
    assert said == [
        ("roll back", "nano-2", "It blurs as well."),
        ("promote", "nano-2", "It blurs."),
        ("roll back", "nano-3", "It blurs."),
        ("promote", "nano-3", "Better still."),
        ("retire", "nano-2", "Better still."),
        ("promote", "nano-2", "Better."),
    ]
    versions.promote(by, first, "It was right.")
    assert versions.roll_back(by, "No.") is None


def test_a_candidate_is_put_aside(team: Team) -> None:
    version_id = better(team, "nano-2", snapshot(team))
    team.store.versions.retire(team.maintainer, version_id, "It hangs.")
    assert states(team.store) == {"nano-2": "retired"}
    with pytest.raises(FeedbackError, match="no candidate"):
        team.store.versions.retire(team.maintainer, version_id, "Again.")


def test_who_promote_at_once_leave_one_promoted(team: Team, open_studio: Callable[[], StudioStore]) -> None:
    of = snapshot(team)
    ids = [better(team, f"nano-{n}", of, day=n) for n in (2, 3)]
    stores, together, errors = [open_studio() for _ in range(4)], threading.Barrier(4), []

    def promote(number: int) -> None:
        together.wait()
        try:
            stores[number].versions.promote(team.maintainer, ids[number % 2], "Better.")
        except FeedbackError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=promote, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 3
    assert all("promoted already" in error or "not made of what is served" in error for error in errors)
    assert sorted(states(team.store).values()) == ["candidate", "promoted"]


# Withdrawals ---------------------------------------------------------------------------------------------------------


def test_what_was_withdrawn_taints_every_version_that_saw_it_and_their_children(team: Team, engine: sa.Engine) -> None:
    store, by = team.store, team.maintainer
    gone, stays = snapshot(team), snapshot(team, "two")
    first, other = better(team, "nano-2", gone), better(team, "other-2", stays, day=2)
    child = registered(team, "nano-3", stays, parent="nano-2", day=3)
    store.versions.promote(by, first, "Better.")
    seen = [key for (key,) in judgements(engine, "id", project_id=gone.rules.projects[0])]
    unseen = [key for (key,) in judgements(engine, "id", project_id=stays.rules.projects[0])]
    assert [one.name for one in store.versions.touched(seen[:1])] == ["nano-3", "nano-2"]
    assert [one.name for one in store.versions.touched([*unseen[:1], *seen])] == ["nano-3", "other-2", "nano-2"]
    assert store.versions.touched([]) == []

    store.withdraw_patient(by, "archive", "one 1")
    assert {one.name: one.tainted for one in store.versions.all()} == {
        "nano-2": True, "nano-3": True, "other-2": False,
    }  # fmt: skip
    assert store.versions.served() == "nano-2", "it is for a person to roll back"
    assert [one.name for one in store.versions.touched(seen[:1])] == ["nano-3", "nano-2"]
    (withdrawal,) = store.withdrawals(by, 9)
    assert [one.name for one in withdrawal.versions] == ["nano-3", "nano-2"] and withdrawal.judgements == 2
    compare(team, child, *[NEW] * LEAST_ITEMS)
    with pytest.raises(FeedbackError, match=r"withdrawn.*Make its snapshot again"):
        store.versions.promote(by, child, "Better.")

    assert store.versions.roll_back(by, "Tainted.") is None
    store.versions.promote(by, other, "Not tainted.")
    assert store.versions.roll_back(by, "No.") is None
    again = store.snapshots.again(by, gone.id)
    anew = better(team, "nano-4", again, day=4)
    assert not info(team, anew).tainted
    store.versions.promote(by, anew, "Without what was withdrawn.")


def test_a_rater_who_withdraws_after_the_promotion_leaves_the_version_tainted(team: Team) -> None:
    store, by = team.store, team.maintainer
    version_id = better(team, "nano-2", snapshot(team))
    store.versions.promote(by, version_id, "Better.")
    basis = store.versions.judgements(version_id)
    assert len(basis) == 2 and {(one.project, one.judgements, one.withdrawn) for one in basis} == {("one", 3, 0)}
    assert all(one.rater.startswith("rater-") and "rita" not in one.rater for one in basis)
    store.withdraw_person(by, team.raters[1].id)
    found = info(team, version_id)
    assert (found.state, found.tainted) == ("promoted", True)
    assert sorted(one.withdrawn for one in store.versions.judgements(version_id)) == [0, 3]


def test_withdrawals_name_what_had_seen_them_the_newest_first(team: Team) -> None:
    store, by = team.store, team.maintainer
    registered(team, "nano-2", snapshot(team))
    filled(team, name="two")
    store.withdraw_patient(by, "archive", "two 1")
    store.withdraw_patient(by, "archive", "one 1")
    assert [[one.name for one in withdrawal.versions] for withdrawal in store.withdrawals(by, 9)] == [["nano-2"], []]
    assert len(store.withdrawals(by, 1)) == 1
    with pytest.raises(AccessError):
        store.withdrawals(team.raters[0], 9)


def test_what_a_tainted_version_has_made_is_learned_from_no_more(team: Team) -> None:
    store, by = team.store, team.maintainer
    registered(team, "nano-2", snapshot(team))
    texts = [(report(team, f"{n} well.", f"two {n}", "nano-2"), report(team, "Bad.", f"two {n}")) for n in range(3)]
    project = team.project("compare", items=[NewItem(pair) for pair in texts], name="two", plan=Plan(overlap=2))
    for rater in team.raters:
        team.judge_all(rater, project, choices={"anatomy": NEW, "overall": NEW})
    rules = Rules((project, filled(team, name="three")))
    assert sum("well" in str(one) for one in store.snapshots.read(store.snapshots.make(by, rules).sha256)) == 3
    store.withdraw_patient(by, "archive", "one 1")
    made = store.snapshots.make(by, rules)
    assert not any("well" in str(one) for one in store.snapshots.read(made.sha256))
    assert made.counts["left out"] == {"made by a version that rests on something withdrawn": 6}


def test_an_output_leads_to_the_version_that_made_it(team: Team) -> None:
    (ours,), (theirs,) = team.outputs(count=1, model="nano-2"), team.outputs(count=1, model="nano-3")
    database, drawn = team.store.database, picture(100, generated=True).sha256
    assert made_by(database, ours) == ["nano-2"] and made_by(database, theirs) == ["nano-3"]
    assert made_by(database, drawn.upper()) == ["nano-2", "nano-3"], "both have drawn the same"
    assert made_by(database, picture(0).sha256) == made_by(database, "") == [], "nobody has made what was asked about"


def test_a_child_rests_on_what_its_parents_learned_from(team: Team) -> None:
    first, second = snapshot(team), snapshot(team, "two")
    registered(team, "nano-2", first)
    child = registered(team, "nano-3", second, parent="nano-2", day=2)
    basis = team.store.versions.judgements(child)
    assert [(one.project, one.judgements) for one in basis] == [("one", 3), ("one", 3), ("two", 3), ("two", 3)]
    assert isinstance(basis[0], Basis)


# Behind the program's back -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "finding"),
    [
        ("UPDATE trainings SET state = 'promoted'", "trainings: {} was changed"),
        ("UPDATE trainings SET project_id = NULL", "trainings: {} was changed"),
        ("UPDATE model_versions SET parent_id = id WHERE id = '{}'", "model_versions: what {} was made of was changed"),
        ("UPDATE model_versions SET fingerprint = 'x' WHERE name = '" + MODEL + "'",
         "model_versions: what {} was made of was changed"),
    ],
)  # fmt: skip
def test_edits_of_the_registry_are_found(
    open_studio: Callable[[], StudioStore], engine: sa.Engine, edit: str, finding: str
) -> None:
    team = Team.of(open_studio())
    version_id = better(team, "nano-2", snapshot(team))
    assert list(team.store.verify()) == []
    with engine.begin() as connection:
        connection.execute(sa.text(edit.format(version_id)))
    assert finding.format(version_id) in list(team.store.verify())


def test_the_database_itself_lets_one_be_promoted(team: Team, engine: sa.Engine) -> None:
    of = snapshot(team)
    for n in (2, 3):
        registered(team, f"nano-{n}", of)
    with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
        connection.execute(sa.text("UPDATE trainings SET state = 'promoted'"))


def test_what_was_trained_before_there_was_a_registry_is_a_candidate(
    open_studio: Callable[[], StudioStore], engine: sa.Engine
) -> None:
    team = Team.of(open_studio())
    of = snapshot(team)
    first = better(team, "nano-2", of)
    registered(team, "nano-3", of, parent="nano-2", day=2)
    team.store.versions.promote(team.maintainer, first, "Better.")
    with engine.begin() as connection:
        command.downgrade(database.configuration(connection), "0005")
    store = open_studio()
    assert states(store) == {"nano-2": "candidate", "nano-3": "candidate"} and list(store.verify()) == []
    for one in store.versions.all():
        at = one.lineage.created_at
        assert replace(one.lineage, signals={"pair, train": 3}, judgements=6, recipe={"steps": 2}) == lineage(
            one.name, of.sha256, MODEL if one.name == "nano-2" else "nano-2", at
        )


def test_a_version_of_before_whose_parent_nobody_wrote_down_is_listed_all_the_same(
    open_studio: Callable[[], StudioStore], engine: sa.Engine
) -> None:
    team = Team.of(open_studio())
    version_id = registered(team, "nano-2", snapshot(team))
    with engine.begin() as connection:
        command.downgrade(database.configuration(connection), "0005")
        connection.execute(sa.text("UPDATE model_versions SET parent_id = NULL"))
    store = open_studio()
    (one,) = store.versions.all()
    assert (one.name, one.lineage.parent, store.versions.gate(version_id).rate) == ("nano-2", "", None)
    assert list(store.verify()) == []


def test_what_was_withdrawn_while_a_version_was_learned_is_not_registered(team: Team) -> None:
    of = snapshot(team)
    known = registered(team, "nano-2", of)
    team.store.withdraw_person(team.maintainer, team.raters[0].id)
    with pytest.raises(FeedbackError, match=r"withdrawn meanwhile.*Make it again"):
        registered(team, "nano-3", of)
    assert registered(team, "nano-2", of) == known and states(team.store) == {"nano-2": "candidate"}


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_processes_that_are_killed_while_they_promote_leave_one_or_none_and_a_whole_log(
    team: Team, url: str, pictures: Path, engine: sa.Engine
) -> None:
    of, drawn = snapshot(team), random.Random(0)
    ids = [better(team, "nano-2", of), better(team, "nano-3", of, "nano-2", day=2)]
    worker = [sys.executable, "-m", "tests.core.feedback.promoter", url, str(pictures), *ids]
    for _ in range(4):
        with ExitStack() as stack:
            processes = []
            for _ in range(2):
                process = subprocess.Popen(worker, cwd=ROOT, text=True, stdout=subprocess.PIPE)
                stack.enter_context(process)
                stack.callback(process.kill)
                processes.append(process)
            for process in processes:
                for _ in range(drawn.randint(1, 12)):
                    assert process.stdout.readline().strip() in ("nano-2", "nano-3", "None")
            for process in processes:
                os.kill(process.pid, signal.SIGKILL)
                process.wait(timeout=60)
        found = states(team.store)
        assert list(found.values()).count("promoted") <= 1 and list(team.store.verify()) == []
        assert team.store.versions.served() in {None, *(name for name, state in found.items() if state == "promoted")}
