"""Accounts, roles and logins of the studio; on both databases."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import pytest
import sqlalchemy as sa

from core.errors import AccessError, FeedbackError
from core.feedback.models import Base, utc_now
from core.feedback.people import LOGIN_LASTS, Person
from core.feedback.studio import StudioStore
from tests.core.feedback.team import account

PASSWORD = "correct horse"


@pytest.fixture
def mona(studio: StudioStore) -> Person:
    return account(studio, None, "mona", "maintainer")


def stored(engine: sa.Engine) -> str:
    with engine.connect() as connection:
        return repr([connection.execute(sa.select(table)).all() for table in Base.metadata.sorted_tables])


def test_a_local_account_from_its_making_to_its_end(studio: StudioStore, mona: Person, engine: sa.Engine) -> None:
    people = studio.people
    rita = people.add(mona, "rita", "rater", PASSWORD)
    token, second = people.log_in("rita", PASSWORD), people.log_in("rita", PASSWORD)
    assert people.of_token(token) == Person(rita, "rita", "rater")
    assert PASSWORD not in stored(engine) and token not in stored(engine)
    assert "$argon2id$" in stored(engine)
    people.log_out(token)
    assert people.of_token(token) is None and people.of_token(second) is not None
    people.disable(mona, rita)
    assert people.of_token(second) is None
    for name in ("rita", "nobody"):
        with pytest.raises(AccessError, match="Name or password is wrong"):
            people.log_in(name, PASSWORD)
    assert [person.login for person in people.everyone(mona)] == ["mona"]
    for call in (
        lambda: people.change_role(mona, rita, "maintainer"),
        lambda: people.disable(mona, rita),
        lambda: people.change_password(mona, rita, PASSWORD),
    ):
        with pytest.raises(FeedbackError, match="no such account"):
            call()


def test_only_the_right_password_opens(studio: StudioStore, mona: Person) -> None:
    studio.people.add(mona, "rita", "rater", PASSWORD)
    for name, password in [
        ("rita", "correct hors"),
        ("rita", ""),
        ("rita", PASSWORD + " "),
        ("Rita", PASSWORD),
        ("mona", PASSWORD),  # she has none here
        ("mona", ""),
    ]:
        with pytest.raises(AccessError, match="Name or password is wrong"):
            studio.people.log_in(name, password)
    for token in ("", "x" * 43):
        assert studio.people.of_token(token) is None


def test_a_login_ends_by_itself(studio: StudioStore, mona: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    studio.people.add(mona, "rita", "rater", PASSWORD)
    token = studio.people.log_in("rita", PASSWORD)
    monkeypatch.setattr("core.feedback.people.utc_now", lambda: utc_now() + LOGIN_LASTS - timedelta(minutes=1))
    assert studio.people.of_token(token) is not None
    monkeypatch.setattr("core.feedback.people.utc_now", lambda: utc_now() + LOGIN_LASTS)
    assert studio.people.of_token(token) is None


def test_a_new_password_ends_the_logins(studio: StudioStore, mona: Person) -> None:
    rita = studio.people.add(mona, "rita", "rater", PASSWORD)
    token = studio.people.log_in("rita", PASSWORD)
    person = studio.people.of_token(token)
    for old, new, error in [
        ("wrong horse", "another horse", AccessError), ("", "another horse", AccessError),
        (PASSWORD, "too short", FeedbackError),
    ]:  # fmt: skip
        with pytest.raises(error):
            studio.people.change_own_password(person, old, new)
    assert studio.people.of_token(token) == person
    fresh = studio.people.change_own_password(person, PASSWORD, "another horse")
    assert studio.people.of_token(token) is None and studio.people.of_token(fresh) == person
    with pytest.raises(AccessError):
        studio.people.log_in("rita", PASSWORD)
    assert studio.people.log_in("rita", "another horse")
    with pytest.raises(AccessError, match="Ask a maintainer"):
        studio.people.change_password(person, rita, "a third horse")
    studio.people.change_password(mona, rita, "a third horse")
    assert studio.people.log_in("rita", "a third horse")
    ralf = studio.people.add(mona, "ralf", "rater", PASSWORD)
    with pytest.raises(AccessError):
        studio.people.change_password(person, ralf, "mine now, ralf")
    with pytest.raises(FeedbackError, match="password elsewhere"):
        studio.people.change_password(mona, mona.id, "another horse")
    with pytest.raises(AccessError):
        studio.people.change_own_password(mona, "", "another horse")
    assert studio.people.has_password(person) and not studio.people.has_password(mona)


def test_a_role_counts_from_the_next_request(studio: StudioStore, mona: Person) -> None:
    rita = studio.people.add(mona, "rita", "rater", PASSWORD)
    token = studio.people.log_in("rita", PASSWORD)
    studio.people.change_role(mona, rita, "maintainer")
    assert len(studio.people.everyone(studio.people.of_token(token))) == 2
    studio.people.change_role(mona, rita, "rater")
    with pytest.raises(AccessError, match="Ask a maintainer"):
        studio.people.everyone(studio.people.of_token(token))


def test_an_account_of_an_identity_provider(studio: StudioStore, mona: Person) -> None:
    subject = "https://login.example|42"
    rita = studio.people.add(mona, "rita@clinic.example", "rater", subject=subject)
    assert studio.people.of_subject(subject) == Person(rita, "rita@clinic.example", "rater")
    assert studio.people.of_subject("https://login.example|4") is None
    with pytest.raises(FeedbackError, match="such an account already"):
        studio.people.add(mona, "again", "rater", subject=subject)
    with pytest.raises(AccessError):
        studio.people.log_in("rita@clinic.example", "")
    studio.people.disable(mona, rita)
    assert studio.people.of_subject(subject) is None


def test_accounts_that_cannot_be(studio: StudioStore, mona: Person) -> None:
    add = studio.people.add
    add(mona, "rita", "rater", PASSWORD)
    add(mona, "ralf", "rater", PASSWORD)  # a second one without a subject
    for why, call in [
        ("such an account already", lambda: add(mona, "rita", "rater", PASSWORD)),
        ("too short", lambda: add(mona, "new", "rater", "too short")),
        ("Unknown role", lambda: add(mona, "new", "king", PASSWORD)),
        ("other characters", lambda: add(mona, "a b", "rater", PASSWORD)),
        ("other characters", lambda: add(mona, "", "rater", PASSWORD)),
        ("other characters", lambda: add(mona, "x" * 101, "rater", PASSWORD)),
        ("not both", lambda: add(mona, "new", "rater")),
        ("not both", lambda: add(mona, "new", "rater", PASSWORD, subject="x")),
        ("Unknown role", lambda: studio.people.change_role(mona, mona.id, "king")),
        ("no such account", lambda: studio.people.change_role(mona, "nobody", "rater")),
    ]:
        with pytest.raises(FeedbackError, match=why):
            call()
    assert len(studio.people.everyone(mona)) == 3


def test_the_first_account_is_a_maintainers_and_the_last_maintainer_stays(studio: StudioStore) -> None:
    with pytest.raises(FeedbackError, match="first account must be"):
        studio.people.add(None, "rita", "rater", PASSWORD)
    mona = account(studio, None, "mona", "maintainer")
    max_ = account(studio, mona, "max", "maintainer")
    studio.people.disable(max_, mona.id)
    for call in (
        lambda: studio.people.disable(max_, max_.id),
        lambda: studio.people.change_role(max_, max_.id, "rater"),
        lambda: studio.withdraw_person(max_, max_.id),
    ):
        with pytest.raises(FeedbackError, match="last maintainer"):
            call()
    assert [person.role for person in studio.people.everyone(max_)] == ["maintainer"]


def test_two_maintainers_who_end_each_other_at_once_leave_one(open_studio: Callable[[], StudioStore]) -> None:
    store = open_studio()
    mona = account(store, None, "mona", "maintainer")
    max_ = account(store, mona, "max", "maintainer")
    together = threading.Barrier(2)

    def end(own: StudioStore, by: Person, other: Person) -> None:
        together.wait()
        with suppress(FeedbackError):
            own.people.disable(by, other.id)

    threads = [threading.Thread(target=end, args=(open_studio(), *pair)) for pair in ((mona, max_), (max_, mona))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.people.everyone(mona)) == 1
    assert list(store.verify()) == []
