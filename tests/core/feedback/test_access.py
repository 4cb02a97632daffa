"""What a rater reaches of others, of other projects and of where an item comes from: nothing; on both databases."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from core.errors import AccessError
from core.feedback.models import Base
from core.feedback.projects import NewItem
from tests.core.feedback.team import (
    FINGERPRINT,
    MODEL,
    NOON,
    OTHER,
    RUBRIC,
    SEED,
    SETTING,
    Team,
    answer,
)


def test_a_rater_reaches_nothing_of_another(team: Team) -> None:
    project, (rita, ralf), queue = team.project(), team.raters, team.store.queue
    task = team.next(rita, project)
    team.submit(rita, task)
    held = team.next(rita, project)
    for one in (task.id, held.id, "", "nobody's", project):
        for call in (
            lambda one=one: queue.get(ralf, one),
            lambda one=one: queue.save(ralf, one, {}, 1.0),
            lambda one=one: queue.submit(ralf, one, answer(), 1.0, NOON),
        ):
            with pytest.raises(AccessError, match="no such item for you"):
                call()
    for after in (task.id, held.id, "nobody's"):
        with pytest.raises(AccessError, match="no such item for you"):
            queue.before(ralf, project, after=after)


def test_a_rater_reaches_no_other_project(team: Team) -> None:
    store, by, (rita, ralf) = team.store, team.maintainer, team.raters
    other = store.projects.make(by, "other", "rate", RUBRIC)
    store.projects.add_items(by, other, [NewItem((one,)) for one in team.outputs()])
    store.projects.add_member(by, other, ralf.id)
    closed = team.project(name="closed")
    left = team.next(rita, closed)
    store.projects.change_state(by, closed, "closed")
    for project, person in [(other, ralf), (other, rita), (closed, rita), ("none", rita), (closed, team.adjudicator)]:
        purpose = "adjudicate" if person is team.adjudicator else "judge"
        for call in (
            lambda of=(person, project, purpose): store.queue.next(*of),
            lambda of=(person, project, purpose): store.queue.progress(*of),
            lambda of=(person, project, purpose): store.queue.before(*of),
        ):
            with pytest.raises(AccessError, match="no such project for you"):
                call()
        assert store.projects.of(person) == []
    for call in (
        lambda: store.queue.get(rita, left.id),
        lambda: store.queue.save(rita, left.id, {}, 1.0),
        lambda: team.submit(rita, left),
    ):
        with pytest.raises(AccessError):
            call()
    store.projects.change_state(by, other, "open")
    assert store.queue.next(ralf, other) and [one.name for one in store.projects.of(ralf)] == ["other"]
    for purpose in ("adjudicate", "", "maintain"):
        with pytest.raises(AccessError):
            store.queue.next(ralf, other, purpose)
    with pytest.raises(AccessError):
        store.queue.next(rita, other)


def test_what_is_a_maintainers_is_refused_to_others(team: Team) -> None:
    store, project = team.store, team.project()
    for person in (*team.raters, team.adjudicator):
        for call in (
            lambda by=person: store.people.add(by, "eve", "maintainer", "long enough"),
            lambda by=person: store.people.everyone(by),
            lambda by=person: store.people.to_withdraw(by),
            lambda by=person: store.sources(by),
            lambda by=person: store.people.change_role(by, by.id, "maintainer"),
            lambda by=person: store.people.change_password(by, team.maintainer.id, "long enough"),
            lambda by=person: store.people.disable(by, team.maintainer.id),
            lambda by=person: store.projects.make(by, "mine", "rate", RUBRIC),
            lambda by=person: store.projects.add_items(by, project, []),
            lambda by=person: store.projects.add_member(by, project, by.id),
            lambda by=person: store.projects.change_state(by, project, "closed"),
            lambda by=person: store.projects.responses(by, "image"),
            lambda by=person: store.projects.groups(by, "image"),
            lambda by=person: store.withdraw_person(by, by.id),
            lambda by=person: store.withdraw_patient(by, "archive", "1"),
            lambda by=person: store.add_run(
                by, task="t", inputs=[], outputs=[], settings={}, seed=0, model_name="m", model_fingerprint="f", key="k"
            ),
        ):
            with pytest.raises(AccessError):
                call()
    with pytest.raises(AccessError):  # nor does a maintainer rate where nobody has let them in
        store.queue.next(team.maintainer, project)


def test_a_role_that_is_taken_away_and_an_account_that_has_ended_reach_nothing(team: Team) -> None:
    store, by, project = team.store, team.maintainer, team.project()
    rita = team.raters[0]
    task = team.next(rita, project)
    store.people.disable(by, rita.id)
    store.people.change_role(by, team.adjudicator.id, "rater")
    demoted = store.people.of_subject("test|judith")
    for call in (
        lambda: store.queue.next(rita, project),
        lambda: store.queue.save(rita, task.id, {}, 1.0),
        lambda: team.submit(rita, task),
        lambda: store.queue.next(demoted, project, "adjudicate"),
    ):
        with pytest.raises(AccessError):
            call()


@pytest.mark.parametrize("kind", ["rate", "compare", "correct"])
def test_a_task_names_neither_model_nor_person(team: Team, engine: sa.Engine, kind: str) -> None:
    project = team.project(kind, 1)
    for rater, score in zip(team.raters, (1, 4), strict=True):
        task = team.next(rater, project)
        team.submit(rater, task, score)
    tasks = repr([task, team.store.queue.get(team.raters[1], task.id), team.next(team.adjudicator, project)])
    with engine.connect() as connection:
        versions = connection.scalars(sa.select(Base.metadata.tables["model_versions"].c.id)).all()
        runs = connection.scalars(sa.select(Base.metadata.tables["generations"].c.id)).all()
    people = [team.maintainer, team.adjudicator, *team.raters]
    names = [MODEL, OTHER, FINGERPRINT, str(SEED), SETTING, "scheduler", *versions, *runs]
    names += [name for person in people for name in (person.id, person.login)]
    assert versions and runs
    assert [name for name in names if name in tasks] == []
