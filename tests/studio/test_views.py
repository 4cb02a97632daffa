"""Pages whose forms are more than one call of the store, without a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from core.feedback.studio import StudioStore
from tests.core.feedback.team import Team
from tests.studio.conftest import open_store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StudioStore]:
    with open_store(tmp_path) as store:
        monkeypatch.setattr("studio.context.store", lambda: store)
        yield store
        assert list(store.verify()) == []


@pytest.fixture
def team(store: StudioStore) -> Team:
    return Team.of(store)


def rights() -> None:
    from studio import context
    from studio.views import rights

    rights.show(context.store().people.named("mona"))


def opened(page: object) -> AppTest:
    app = AppTest.from_function(page, default_timeout=30).run()
    assert not app.exception
    return app


def press(app: AppTest, label: str) -> None:
    next(button for button in app.button if button.label == label).click().run()
    assert not app.exception


def test_who_has_left_and_a_patient_are_withdrawn(team: Team) -> None:
    team.outputs(count=2, patient="7")
    team.store.people.disable(team.maintainer, team.raters[0].id)
    app = opened(rights)
    person, source = app.selectbox
    assert person.options == ["judith", "mona", "ralf", "rita"] and source.options == ["archive"]
    person.select(team.raters[0].id)
    app.text_input[0].input("ralf")
    press(app, "Withdraw the person")
    assert "differ" in app.error[0].value
    app.text_input[0].input("rita")
    press(app, "Withdraw the person")
    assert "rita" not in app.selectbox[0].options and "0 judgements" in app.success[0].value
    app.text_input[1].input("7")
    press(app, "Withdraw the patient")
    assert "Choose a source" in app.error[0].value
    app.selectbox[1].select("archive")
    press(app, "Withdraw the patient")
    assert "Withdrawn: 2 runs" in app.success[0].value and app.selectbox[1].options == []
