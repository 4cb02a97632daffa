"""Streamlit's own websocket and addresses, as used by somebody with a rater's login who writes the messages by hand.

What a maintainer's page needs (hashes, names of widgets) is taken from a maintainer's own session, so that nothing is
refused only because it was guessed wrongly; and every attack is shown to work for the maintainer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPConnection

import httpx
import pytest
from streamlit.proto.BackMsg_pb2 import BackendOperationRequest, BackMsg, InstallSkillsRequestPayload
from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.proto.Common_pb2 import FileURLsRequest
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState, WidgetStates
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from benchmarks.studio_raters import start_studio
from core.feedback.people import Person
from core.feedback.rubric import RUBRICS
from core.feedback.studio import StudioStore
from studio.server import API, COOKIE, OWN_HEADER
from tests.browser import free_port
from tests.studio.conftest import PASSWORD, House, Studio, furnish, open_store

SECRETS = ("nano-secret", "ffffffff", "timesteps", "4711", "Theirs", "ralf", "rolf", "mona", "argon2", "sqlite")
"""What rita must not see: versions, settings, seeds, another project, other people, where it is kept."""
MAINTAINERS_OWN = ("Add somebody", "Make it", "Progress and export", "Prepare the file")
SECONDS = 20


@dataclass
class Answer:
    """All that a page sends in one run."""

    messages: list[ForwardMsg]

    @property
    def text(self) -> str:
        """Of Arrow tables as well: their words stand in them as they are."""
        return "\n".join(map(str, self.messages))

    @property
    def elements(self) -> list:
        return [m.delta.new_element for m in self.messages if m.delta.WhichOneof("type") == "new_element"]

    @property
    def pages(self) -> dict[str, str]:
        """Hashes of the pages by their address."""
        return {page.url_pathname: page.page_script_hash for m in self.messages for page in m.navigation.app_pages}

    def widget(self, label: str) -> str:
        """The id of the first widget with a label."""
        every = [getattr(element, element.WhichOneof("type")) for element in self.elements]
        kinds = {"text_input", "selectbox", "radio", "button"}
        named = [e for e, of in zip(every, self.elements, strict=True) if of.WhichOneof("type") in kinds]
        return next(widget.id for widget in named if widget.label == label)


class Session:
    """A session of Streamlit's, as a browser opens it."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    def send(self, **message: object) -> None:
        self._socket.send(BackMsg(**message).SerializeToString())

    def run(self, page: str = "", query: str = "", **widgets: str | bool) -> Answer:
        """Runs the script, with a page's hash and what somebody has entered, until it has finished."""
        states = [
            WidgetState(id=name, trigger_value=True) if value is True else WidgetState(id=name, string_value=value)
            for name, value in widgets.items()
        ]
        state = ClientState(page_script_hash=page, query_string=query, widget_states=WidgetStates(widgets=states))
        self.send(rerun_script=state)
        messages = []
        while not messages or messages[-1].WhichOneof("type") != "script_finished":
            messages.append(ForwardMsg.FromString(self._socket.recv(timeout=SECONDS)))
        return Answer(messages)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    data, port = tmp_path_factory.mktemp("studio"), free_port()
    store = open_store(data)
    house = furnish(store)
    _judge(store, house)
    process = start_studio(data, port, log=data / "said.log")
    yield Studio(f"http://127.0.0.1:{port}/", data, process, store, house.people)
    process.terminate()
    process.wait(60)
    store.close()


def _judge(store: StudioStore, house: House) -> None:
    """An answer of ralf's, so that there is something to export and to hide."""
    ralf = house.people["ralf"]
    task = store.queue.next(ralf, house.project)
    said = {"scores": {criterion.name: 4 for criterion in RUBRICS["edit"].criteria}, "opened": True}
    store.queue.submit(ralf, task.id, said, 3.0, datetime.now(UTC))


Open = Callable[..., Session]


@pytest.fixture
def opened(studio: Studio) -> Iterator[Open]:
    """Opens sessions: as somebody by name, with a token, or without a login."""
    url = studio.url.replace("http", "ws") + "_stcore/stream"
    with ExitStack() as sockets:

        def open_session(name: str = "", token: str = "", origin: str | None = studio.url.rstrip("/")) -> Session:
            token = studio.store.people.log_in(name, PASSWORD) if name else token
            headers = {"Cookie": f"{COOKIE}={token}"} if token else {}
            socket = connect(url, origin=origin, additional_headers=headers, subprotocols=["streamlit"], proxy=None)
            return Session(sockets.enter_context(socket))

        yield open_session


@pytest.fixture
def mona(studio: Studio) -> Person:
    return studio.people["mona"]


def client(studio: Studio, name: str = "") -> httpx.Client:
    client = httpx.Client(base_url=studio.url, headers={OWN_HEADER: "1"}, trust_env=False)
    if name:
        client.cookies.set(COOKIE, studio.store.people.log_in(name, PASSWORD))
    return client


def connect_raw(studio: Studio) -> closing[HTTPConnection]:
    """A client that does not tidy up paths."""
    return closing(HTTPConnection("127.0.0.1", int(studio.url.rstrip("/").rpartition(":")[2]), timeout=SECONDS))


def nothing_of(text: str, *, but: tuple[str, ...] = ()) -> None:
    assert not [one for one in (*SECRETS, *MAINTAINERS_OWN) if one in text and one not in but]


def test_a_rater_is_shown_no_page_of_maintainers_whatever_their_session_asks_for(studio: Studio, opened: Open) -> None:
    maintainer, rater = opened("mona"), opened("rita")
    pages = maintainer.run().pages
    assert {"projects", "progress", "people", "adjudicate"} <= set(pages)
    shown = [maintainer.run(hash_).text for hash_ in pages.values()]
    assert all(any(one in text for text in shown) for one in (*MAINTAINERS_OWN, "ralf", "Theirs")), "the attack works"
    first = rater.run()
    assert set(first.pages) == {"", "account", "leave"}
    (project,) = [one for one in studio.store.projects.of(studio.people["mona"]) if one.name == "Theirs"]
    queries = ["", f"project={project.id}&purpose=adjudicate", "role=maintainer&person=mona", "embed=true&p=people"]
    for page in (*pages.values(), "x" * 32):
        if page != pages.get("leave"):
            for query in queries:
                text = rater.run(page, query).text
                nothing_of(text.replace(query, ""))
                assert project.id not in text.replace(query, "")


def test_a_rater_fills_in_no_form_of_maintainers(studio: Studio, opened: Open, mona: Person) -> None:
    maintainer, rater, nobody = opened("mona"), opened("rita"), opened()
    pages = maintainer.run().pages
    people, projects = (maintainer.run(pages[name]) for name in ("people", "projects"))
    name, password, add = (people.widget(label) for label in ("Name", "Password", "Add"))

    def added(login: str) -> dict[str, str | bool]:
        return {name: login, password: PASSWORD, add: True}

    (project,) = [one for one in studio.store.projects.of(mona) if one.name == "Theirs"]
    close = next(e.button.id for e in projects.elements if f"close-{project.id}" in e.button.id)
    made = {projects.widget("Name"): "Rita's own", projects.widget("Make it"): True}
    for session in (rater, nobody):
        for page in ("", pages["people"], pages["projects"]):
            for entered in (added("eve"), made, {close: True}):
                nothing_of(session.run(page, **entered).text.replace("Rita's own", ""))
    everyone = {one.login for one in studio.store.people.everyone(mona)}
    assert "eve" not in everyone and {p.name: p.state for p in studio.store.projects.of(mona)} == {
        "Ours": "open", "Theirs": "open",
    }  # fmt: skip
    maintainer.run(pages["people"], **added("erin"))
    assert "erin" in {one.login for one in studio.store.people.everyone(mona)}, "the attack works"


def test_an_export_is_prepared_and_fetched_by_maintainers_alone(studio: Studio, opened: Open) -> None:
    maintainer, rater = opened("mona"), opened("rita")
    page = maintainer.run().pages["progress"]
    form = maintainer.run(page)
    wanted = {form.widget("Layout"): "label_studio", form.widget("Prepare the file"): True}
    (url,) = [e.download_button.url for e in maintainer.run(page, **wanted).elements if e.download_button.url]
    nothing_of(rater.run(page, **wanted).text)
    with client(studio, "mona") as own, client(studio, "rita") as other, client(studio) as nobody:
        assert "annotations" in own.get(url).text, "the attack works"
        for refused in (other.get(url), nobody.get(url), nobody.get(url, headers={"Range": "bytes=0-10"})):
            assert refused.status_code == 404
            nothing_of(refused.text)


def test_a_role_that_goes_takes_the_open_session_along(studio: Studio, opened: Open, mona: Person) -> None:
    people, max_ = studio.store.people, studio.people["rolf"]
    session = opened("rolf")
    assert "people" not in session.run().pages
    people.change_role(mona, max_.id, "maintainer")
    page = session.run().pages["people"]
    form = session.run(page)
    entered = {form.widget("Name"): "eve", form.widget("Password"): PASSWORD, form.widget("Add"): True}
    people.change_role(mona, max_.id, "rater")
    nothing_of(session.run(page, **entered).text, but=("rolf",))
    assert "eve" not in {one.login for one in people.everyone(mona)}


def test_without_a_login_that_lasts_there_is_the_login_page_and_nothing_else(
    studio: Studio, opened: Open, mona: Person
) -> None:
    pages = opened("mona").run().pages
    ended = studio.store.people.log_in("rita", PASSWORD)
    session = opened(token=ended)
    assert "rita, rater" in session.run().text
    studio.store.people.log_out(ended)
    for one in (session, opened(token=ended), opened(token="x" * 43), opened(), opened(origin=None)):
        for page in ("", pages["people"]):
            text = one.run(page).text
            assert "unimed_enter" in text and "rita" not in text
            nothing_of(text)


def test_no_other_site_opens_a_session(studio: Studio, opened: Open) -> None:
    port = studio.url.rstrip("/").rpartition(":")[2]
    for origin in ("http://evil.example", f"http://evil.example:{port}", "http://localhost:7860", "http://127.0.0.1:1",
                   f"http://localhost:{port}", "null"):  # fmt: skip
        with pytest.raises(InvalidStatus, match="403"):
            opened("rita", origin=origin)
        with client(studio, "mona") as other:
            for answer in (other.get("", headers={"Origin": origin}),
                           other.post(f"{API}/leave", json={}, headers={"Origin": origin})):  # fmt: skip
                assert answer.status_code == 404 and "access-control-allow-origin" not in answer.headers
            assert other.get("").status_code == 200


def test_streamlit_answers_nothing_but_what_the_pages_say(studio: Studio, opened: Open) -> None:
    session = opened("rita")
    id_ = next(m.new_session.initialize.session_id for m in session.run().messages if m.HasField("new_session"))
    install = BackendOperationRequest(request_id="1", session_id=id_, install_skills=InstallSkillsRequestPayload())
    session.send(load_git_info=True)
    session.send(clear_cache=True)
    session.send(set_run_on_save=True)
    session.send(debug_shutdown_runtime=True)
    session.send(file_urls_request=FileURLsRequest(request_id="1", file_names=["a.png"], session_id=id_))
    session.send(backend_operation_request=install)
    said = {message.WhichOneof("type") for message in session.run().messages}
    assert said <= {"new_session", "delta", "navigation", "session_status_changed", "session_event", "script_finished",
                    "page_info_changed", "page_config_changed", "page_not_found", "parent_message"}  # fmt: skip
    with client(studio, "rita") as rater:
        paths = [
            "metrics",
            "agent/interact",
            "agent/openapi.json",
            "agent/mcp",
            "script-health-check",
            "bidi-components/x/y",
        ]
        for path in (*paths, f"upload_file/{id_}/1"):
            for method in ("GET", "POST", "PUT", "OPTIONS"):
                answer = rater.request(method, f"_stcore/{path}", json={})
                assert answer.status_code == 404 and answer.text == "Not found", (method, path)
        assert rater.get("_stcore/health").text == "ok"
        nothing_of(rater.get("_stcore/host-config").text)


def test_no_path_leaves_the_folders_that_are_served(studio: Studio) -> None:
    up = ("board/../server.py", "board/..%2fserver.py", "board/%2e%2e%2fapp.py", "board/%252e%252e/app.py",
          "elements/..%5cconfig.py", "board//etc/passwd", "elements/%00", "board/.", "elements", "board/")  # fmt: skip
    others = ("static/../../config.py", "media/../app.py", "studio/app.py", "component/x/../../app.py", "pages.py",
              "app/static/pages.py", ".streamlit/secrets.toml")  # fmt: skip
    with client(studio, "rita") as rater:
        for path in (*(f"{API[1:]}/{one}" for one in up), *others):
            with connect_raw(studio) as raw:
                raw.putrequest("GET", f"/{path}", skip_host=True)
                raw.putheader("Host", "localhost")
                raw.endheaders()
                answer = raw.getresponse()
                said = answer.read().decode()
            assert answer.status >= 300 or "<!doctype html>" in said.lower(), path
            assert not [one for one in ("import ", "root:", "client_secret", "--st-") if one in said.partition("<")[0]]
        assert rater.get(f"{API}/board/board.js").status_code == 200


def test_every_answer_tells_browsers_what_not_to_do(studio: Studio) -> None:
    with client(studio, "rita") as rater:
        for answer in (rater.get(""), rater.get(f"{API}/board/board.js"), rater.post(f"{API}/next", json={}),
                       rater.get("_stcore/metrics")):  # fmt: skip
            assert answer.headers["x-frame-options"] == "DENY" and answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["content-security-policy"] == "frame-ancestors 'none'"
            assert answer.headers["referrer-policy"] == "same-origin"


def test_passwords_are_written_nowhere(studio: Studio, opened: Open) -> None:
    wrong, new = "a wrong battery", "a staple that is new"
    with client(studio) as visitor:
        for login, password in (("rita", wrong), ("nobody", wrong), ("rita", PASSWORD), ("\0", wrong)):
            visitor.post(f"{API}/enter", content=json.dumps({"login": login, "password": password}))
        visitor.post(f"{API}/enter", content=json.dumps({"login": ["rita"], "password": {"a": wrong}})[:-1])
    session = opened("mona")
    page = session.run().pages["people"]
    form = session.run(page)
    for login in ("rita", "not a name", "edda"):  # taken, refused and added
        session.run(page, **{form.widget("Name"): login, form.widget("Password"): new, form.widget("Add"): True})
    assert "edda" in {one.login for one in studio.store.people.everyone(studio.people["mona"])}
    for path in studio.data.rglob("*"):
        written = path.read_bytes() if path.is_file() else b""
        assert not [one for one in (wrong, new, PASSWORD) if one.encode() in written], path.name
