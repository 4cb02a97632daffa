"""What the board's server gives away, and to whom."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from core.feedback.projects import NewItem
from core.feedback.rubric import OVERALL, RUBRICS, Plan, Rubric
from core.feedback.studio import StudioStore
from studio.server import API, COOKIE, OWN_HEADER, Tickets, routes
from tests.core.feedback.builders import picture
from tests.studio.conftest import PASSWORD, furnish, open_store

SECRETS = ("nano-secret", "ffffffff", "timesteps", "rita", "mona", "4711")
OWN = {OWN_HEADER: "1"}
SCORES = {criterion.name: 4 for criterion in RUBRICS["edit"].criteria}


@dataclass
class Doors:
    store: StudioStore
    project: str
    other: str
    app: Starlette

    def client(self, name: str = "") -> TestClient:
        client = TestClient(self.app, headers=OWN)
        if name:
            assert client.post(f"{API}/enter", json={"login": name, "password": PASSWORD}).status_code == 200
        return client


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    with open_store(tmp_path_factory.mktemp("doors")) as store:
        house = furnish(store)
        yield Doors(store, house.project, house.other, Starlette(routes=routes(store, Tickets())))


def said(assignment: str, **answer: object) -> dict:
    answer = {"scores": SCORES, "opened": True} | answer
    return {"assignment": assignment, "answer": answer, "seconds": 3.0, "said_at": datetime.now(UTC).isoformat()}


def test_who_is_not_logged_in_gets_nothing(house: Doors) -> None:
    client = house.client()
    for path in ("next", "item", "save", "submit"):
        answer = client.post(f"{API}/{path}", json={"project": house.project})
        assert answer.status_code == 401 and "not logged in" in answer.json()["error"]
    assert client.get(f"{API}/picture/x/output/0").status_code == 401
    assert client.post(f"{API}/enter", json={"login": "rita", "password": "wrong password"}).status_code == 403
    assert client.post(f"{API}/enter", json={"login": "nobody", "password": PASSWORD}).status_code == 403


class Address:
    """A browser of nobody's at an address, at a studio of its own that has just begun."""

    def __init__(self, app: Starlette, host: str) -> None:
        self._client = TestClient(app, headers=OWN, client=(host, 50_000))

    def enter(self, name: str, password: str = PASSWORD) -> str:
        """What is said of it; nothing where it opens."""
        return self._client.post(f"{API}/enter", json={"login": name, "password": password}).json().get("error", "")


def test_wrong_passwords_have_to_wait_where_they_come_from(house: Doors) -> None:
    app = Starlette(routes=routes(house.store, Tickets()))
    attacker, clinic = Address(app, "10.0.0.1"), Address(app, "10.0.0.2")
    for _ in range(10):
        assert "wrong" in attacker.enter("rolf", "wrong password")
    assert "Wait five minutes" in attacker.enter("rolf")
    assert attacker.enter("ralf") == "" and clinic.enter("rolf") == "", "nobody is locked out by another"


def test_one_password_against_many_names_has_to_wait(house: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studio.server.ALL_TRIES", 6)
    app = Starlette(routes=routes(house.store, Tickets()))
    clinic = Address(app, "10.0.0.2")
    assert clinic.enter("rita") == ""
    for n in range(6):
        assert "wrong" in Address(app, f"10.0.1.{n}").enter(f"name{n}", "wrong password")
    for n in range(3):
        assert "Wait a minute" in Address(app, f"10.0.2.{n}").enter("ralf")
    assert clinic.enter("rita") == "", "who has come in from there before does not wait"
    assert "Wait a minute" in clinic.enter("ralf")
    monkeypatch.setattr("studio.server.ALL_SECONDS", 0.0)
    assert clinic.enter("ralf") == ""


def test_a_password_is_changed_by_who_knows_it(house: Doors) -> None:
    mona, new = house.store.people.named("mona"), "a better horse"
    house.store.people.add(mona, "paula", "rater", PASSWORD)
    client, other = house.client("paula"), house.client("paula")
    app = Starlette(routes=routes(house.store, Tickets()))

    def change(old: str, again: str = new, by: TestClient = client, **of: object) -> tuple[int, str]:
        answer = by.post(f"{API}/password", json={"old": old, "new": new, "again": again}, **of)
        return answer.status_code, answer.json().get("error", "")

    assert change(PASSWORD, by=house.client())[0] == 401
    assert change(PASSWORD, headers={OWN_HEADER: ""})[0] == 403
    assert change(PASSWORD, again="another one")[1].startswith("The two new passwords differ")
    assert "old password is wrong" in change("wrong password")[1]
    assert "not logged in" not in client.post(f"{API}/next", json={"project": house.project}).json()["error"]
    assert change(PASSWORD) == (200, "")
    assert client.post(f"{API}/next", json={"project": house.project}).status_code == 403, "still logged in"
    assert other.post(f"{API}/next", json={"project": house.project}).status_code == 401
    assert Address(app, "10.0.0.1").enter("paula", new) == ""
    for _ in range(10):
        change("wrong password")
    assert "Wait five minutes" in change(new)[1], "nor does a browser that was left open tell the password"
    assert list(house.store.verify()) == []


def test_the_cookie_is_for_the_server_alone(house: Doors) -> None:
    answer = house.client().post(f"{API}/enter", json={"login": "rita", "password": PASSWORD})
    cookie = answer.headers["set-cookie"].lower()
    assert cookie.startswith(COOKIE) and "httponly" in cookie and "samesite=strict" in cookie


def test_a_page_of_another_site_can_do_nothing(house: Doors) -> None:
    client = house.client("rita")
    for path in ("next", "submit", "leave"):
        answer = client.post(f"{API}/{path}", json={"project": house.project}, headers={OWN_HEADER: ""})
        assert answer.status_code == 403


def test_a_rater_is_told_nothing_of_models_and_others(house: Doors) -> None:
    client = house.client("rita")
    task = client.post(f"{API}/next", json={"project": house.project}).json()["task"]
    assert not [secret for secret in SECRETS if secret in json.dumps(task)]
    (scan,) = [segment["src"] for segment in task["inputs"] if segment["type"] == "image"]
    for address in (scan, task["outputs"][0]["src"]):
        picture = client.get(f"/{address}")
        assert picture.status_code == 200 and "no-store" in picture.headers["cache-control"]
        assert picture.content.startswith(b"\x89PNG") and b"tEXt" not in picture.content


def shown(house: Doors, name: str, items: list[NewItem]) -> list[dict]:
    """The items of a new project, as a rater gets them one by one."""
    people, projects = house.store.people, house.store.projects
    mona, rita = (people.of_token(people.log_in(login, PASSWORD)) for login in ("mona", "rita"))
    project = projects.make(mona, name, "rate", Rubric((OVERALL,)), Plan(overlap=1))
    projects.add_items(mona, project, items)
    projects.add_member(mona, project, rita.id)
    projects.change_state(mona, project, "open")
    client, found = house.client("rita"), []
    while (task := client.post(f"{API}/next", json={"project": project}).json()["task"]) is not None:
        found.append(task)
        assert client.post(f"{API}/submit", json=said(task["id"], scores={"overall": 4})).status_code == 200
    return found


def test_nobody_can_tell_what_was_brought_along_from_what_was_drawn(house: Doors) -> None:
    mona = house.store.people.of_token(house.store.people.log_in("mona", PASSWORD))
    file = io.BytesIO()
    picture(1).pixels.save(file, "PNG")
    brought = house.store.imports.read(mona, "folder", {"one.png": file.getvalue()}).items
    drawn = house.store.add_run(
        mona, task="super_resolution", inputs=[], outputs=[picture(2)], seed=4711, settings={}, key="of nothing",
        model_name="nano-secret", model_fingerprint="f" * 64,
    )  # fmt: skip
    tasks = shown(house, "Mixed", [*brought, NewItem(drawn.response_ids)])
    for task in tasks:  # what is another one for every item
        del task["id"], task["outputs"][0]["src"], task["seconds"]
    assert len(tasks) == 2 and tasks[0] == tasks[1]
    assert "import" not in json.dumps(tasks) and "super_resolution" not in json.dumps(tasks)


def test_a_conversation_is_shown_as_it_was(house: Doors) -> None:
    mona = house.store.people.of_token(house.store.people.log_in("mona", PASSWORD))
    texts = [{"type": "text", "text": text} for text in ("Which organ?", "The liver.", "A lesion?")]
    texts[1]["generated"] = True
    task = {"data": {"task": "vqa", "inputs": texts, "output_0": "None is seen."}}
    items = house.store.imports.read(mona, "label_studio", {"tasks.json": json.dumps([task]).encode()}).items
    (found,) = shown(house, "Conversation", items)
    assert [(one["text"], one["generated"]) for one in found["inputs"]] == [
        ("Which organ?", False), ("The liver.", True), ("A lesion?", False),
    ]  # fmt: skip
    assert found["outputs"] == [{"kind": "text", "text": "None is seen."}]


def test_a_rater_reaches_no_other_item_project_or_part(house: Doors) -> None:
    rita, ralf, rolf = (house.client(name) for name in ("rita", "ralf", "rolf"))
    own = rita.post(f"{API}/next", json={"project": house.project}).json()["task"]["id"]
    for client in (ralf, rolf):
        for path, body in (("item", {"project": house.project, "before": own}), ("save", said(own)),
                           ("submit", said(own))):  # fmt: skip
            assert client.post(f"{API}/{path}", json=body).status_code == 403
        assert client.get(f"{API}/picture/{own}/output/0").status_code == 403
    assert rolf.post(f"{API}/next", json={"project": house.project}).status_code == 403
    for project in (house.other, "no-such-project", None, {"a": 1}):
        assert rita.post(f"{API}/next", json={"project": project}).status_code == 403
    adjudicates = {"project": house.project, "purpose": "adjudicate"}
    assert rita.post(f"{API}/next", json=adjudicates).status_code == 403
    assert rita.get(f"{API}/picture/{own}/output/7").status_code == 403
    for path in ("board/../server.py", "board/%2e%2e/server.py", "elements/../config.py"):
        assert rita.get(f"{API}/{path}").status_code == 404


def test_bad_requests_are_told_and_change_nothing(house: Doors) -> None:
    client = house.client("ralf")
    task = client.post(f"{API}/next", json={"project": house.project}).json()["task"]["id"]
    bad = [
        said(task, scores={}), said(task, scores={"overall": 9}), said(task, scores={"unknown": 1}),
        said(task, opened=False), said(task, comment="Jane Doe, born 12.03.1971"), said(task, unheard="of"),
        said(task, regions=[{"label": "blur", "kind": "box", "x0": 0, "y0": 0, "x1": 900, "y1": 3}]),
        said(task) | {"seconds": "many"}, said(task) | {"seconds": float("inf")},
        said(task) | {"said_at": "yesterday"}, said(task) | {"answer": []},
    ]  # fmt: skip
    for body in bad:
        answer = client.post(f"{API}/submit", content=json.dumps(body))
        assert answer.status_code == 422 and answer.json()["error"].endswith("."), body
    for content in (b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"a":' * 100_000):
        assert client.post(f"{API}/submit", content=content).status_code == 422
    assert client.post(f"{API}/submit", content=b"x" * (2 << 20)).status_code == 422
    parts = (b" " * (1 << 16) for _ in range(32))  # no length is told before
    assert "too much" in client.post(f"{API}/submit", content=parts).json()["error"]
    for text in ("\ud800", "\0", "x" * 100_000):
        for path, body in (
            ("submit", said(task) | {"assignment": text}),
            ("next", {"project": text, "purpose": text}),
            ("enter", {"login": text, "password": text}),
            ("ticket", {"ticket": text}),
        ):
            assert client.post(f"{API}/{path}", content=json.dumps(body)).status_code == 403, (path, text[:9])
        answer = client.post(f"{API}/save", content=json.dumps(said(task, comment=text)))
        assert answer.status_code in (200, 422), text[:9]
    assert client.post(f"{API}/next", json={"project": house.project}).json()["progress"]["done"] == 0


@pytest.mark.skipif(os.name != "posix", reason="needs a limit to the size of files")
def test_a_full_disk_refuses_what_may_be_sent_again(house: Doors) -> None:
    import resource

    client = house.client("ralf")
    task = client.post(f"{API}/next", json={"project": house.project}).json()["task"]["id"]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        for path in ("save", "submit", "next"):
            answer = client.post(f"{API}/{path}", json=said(task) | {"project": house.project})
            assert answer.status_code == 503 and "Nothing was stored" in answer.json()["error"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert client.post(f"{API}/save", json=said(task)).json() == {"saved": True}
    assert client.post(f"{API}/next", json={"project": house.project}).json()["progress"]["done"] == 0


def test_a_submitted_answer_comes_back_to_be_revised(house: Doors) -> None:
    client = house.client("ralf")
    task = client.post(f"{API}/next", json={"project": house.project}).json()["task"]["id"]
    assert client.post(f"{API}/submit", json=said(task)).json() == {"version": 1}
    assert client.post(f"{API}/submit", json=said(task)).json() == {"version": 1}
    back = client.post(f"{API}/item", json={"project": house.project}).json()["task"]
    assert back["id"] == task and back["answer"]["scores"] == SCORES and back["version"] == 1
    other = said(task, scores=SCORES | {"overall": 1})
    assert "needs a reason" in client.post(f"{API}/submit", json=other).json()["error"]
    client.post(f"{API}/save", json=other)
    back = client.post(f"{API}/item", json={"project": house.project}).json()["task"]
    assert back["answer"]["scores"]["overall"] == 1, "a revision that is under way is kept as well"
    assert client.post(f"{API}/submit", json=other | {"reason": "a slip"}).json() == {"version": 2}
    before = client.post(f"{API}/item", json={"project": house.project, "before": task})
    assert before.status_code == 422 and "nothing before" in before.json()["error"]
    assert list(house.store.verify()) == []


def test_whoever_leaves_is_gone(house: Doors) -> None:
    client = house.client("rita")
    token = client.cookies[COOKIE]
    client.post(f"{API}/leave", json={})
    client.cookies.set(COOKIE, token)
    assert client.post(f"{API}/next", json={"project": house.project}).status_code == 401


def test_a_login_that_somebody_else_planted_is_not_taken_over(house: Doors) -> None:
    planted = "p" * 43
    client = house.client()
    client.cookies.set(COOKIE, planted)
    client.post(f"{API}/enter", json={"login": "rita", "password": PASSWORD})
    first = client.cookies.get(COOKIE, domain="testserver.local")
    assert first not in (planted, None)
    assert house.store.people.of_token(planted) is None
    again = client.post(
        f"{API}/enter", json={"login": "rita", "password": PASSWORD}, headers={"cookie": f"{COOKIE}={first}"}
    )
    assert again.status_code == 200
    assert house.store.people.of_token(first) is None, "the login before has ended"


def test_a_ticket_opens_once_and_soon(house: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    tickets = Tickets()
    client = TestClient(Starlette(routes=routes(house.store, tickets)), headers=OWN)
    mona = house.store.people.of_token(house.store.people.log_in("mona", PASSWORD))
    house.store.people.add(mona, "nora", "rater", subject="https://login.example|1")
    ticket = tickets.give("https://login.example|1")
    assert client.post(f"{API}/ticket", json={"ticket": ticket}, headers={OWN_HEADER: ""}).status_code == 403
    answer = client.post(f"{API}/ticket", json={"ticket": ticket})
    assert answer.status_code == 200 and "httponly" in answer.headers["set-cookie"].lower()
    assert client.post(f"{API}/next", json={"project": house.project}).status_code == 403  # somebody, with no project
    late, nobodys = tickets.give("https://login.example|1"), tickets.give("https://login.example|2")
    for refused in (ticket, nobodys, "", "x" * 43, None):
        assert client.post(f"{API}/ticket", json={"ticket": refused}).status_code == 403
    monkeypatch.setattr("studio.server.TICKET_SECONDS", 0.0)
    assert client.post(f"{API}/ticket", json={"ticket": late}).status_code == 403
