"""What every page of the studio needs: the store, who is there, and the components that speak to the server."""

from __future__ import annotations

import re
import time
from functools import cache
from html import escape
from urllib.parse import urlencode, urlsplit

import streamlit as st

from core.config import data_folder, database_url, pictures_place, versions_folder
from core.errors import UniMedError
from core.feedback.people import Person
from core.feedback.studio import StudioStore
from studio.runs import Runs
from studio.server import API, COOKIE, Tickets

IDENTITY = ("redirect_uri", "cookie_secret", "client_id", "client_secret", "server_metadata_url")
"""What ``[auth]`` in Streamlit's secrets.toml has to say of an identity provider."""
FRESH_SECONDS = 300
"""Streamlit remembers for a month whom a provider has vouched for. Only what it has just said opens a login of ours."""

_FORM = """
export default function({ parentElement, data }) {
  const form = parentElement.querySelector("form"), told = parentElement.querySelector("[role=alert]");
  form.onsubmit = async (event) => {
    event.preventDefault();
    told.textContent = "";
    const body = JSON.stringify(Object.fromEntries(new FormData(form)));
    const answer = await fetch(`${data.api}/${data.door}`, { method: "POST", body,
      headers: { "content-type": "application/json", "x-unimed-studio": "1" } }).catch(() => null);
    if (answer?.ok) return data.then ? location.assign(data.then) : location.reload();
    told.textContent = answer ? (await answer.json()).error : "The studio does not answer.";
  };
}
"""
_ENTER_HTML = """
<form style="display: grid; gap: 0.7rem; max-width: 22rem">
  <label>Name<br><input name="login" autocomplete="username" required></label>
  <label>Password<br><input name="password" type="password" autocomplete="current-password" required></label>
  <button>Log in</button><p role="alert"></p>
</form>
"""
_PASSWORD_HTML = """
<form style="display: grid; gap: 0.7rem; max-width: 22rem">
  <label>Old password<br><input name="old" type="password" autocomplete="current-password" required></label>
  <label>New password<br><input name="new" type="password" autocomplete="new-password" required></label>
  <label>The new one again<br><input name="again" type="password" autocomplete="new-password" required></label>
  <button>Change the password</button><p role="alert"></p>
</form>
"""
_FORM_CSS = """
label { font-size: 0.9rem; } p { margin: 0; color: var(--st-text-color); font-weight: 600; }
input { width: 100%; box-sizing: border-box; font: inherit; padding: 0.5rem; border-radius: 4px;
  border: 1px solid var(--st-border-color);
  color: inherit; background: var(--st-secondary-background-color); }
button { font: inherit; padding: 0.5rem; border: 0; border-radius: 4px; background: #0f766e; color: #fff; }
:is(input, button):focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 2px; }
"""
_REDEEM = """
export default function({ parentElement, data }) {
  const told = parentElement.querySelector("[role=alert]");
  if (told.dataset.once) return;
  told.dataset.once = "1";
  fetch(`${data.api}/ticket`, { method: "POST", body: JSON.stringify({ ticket: data.ticket }),
    headers: { "content-type": "application/json", "x-unimed-studio": "1" } })
    .then(async (answer) => answer.ok ? location.reload() : (told.textContent = (await answer.json()).error))
    .catch(() => { told.textContent = "The studio does not answer."; });
}
"""
_LEAVE = """
export default function({ data }) {
  fetch(`${data.api}/leave`, { method: "POST", body: "{}", headers: { "x-unimed-studio": "1" } })
    .finally(() => location.assign(data.then));
}
"""
_BOARD = """
export default function({ parentElement, data }) {
  const root = parentElement.querySelector(".ub");
  const wanted = JSON.stringify(data);
  if (root.dataset.of !== wanted) {
    root.dataset.of = wanted;
    root.board?.close();
    for (const name of ["elements/elements.css", "board/board.css"]) {
      const href = `${data.api}/${name}`;
      if (document.querySelector(`link[href="${href}"]`)) continue;
      document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href }));
    }
    import(`${location.origin}${data.api}/board/board.js`).then(({ Board }) => {
      if (root.dataset.of === wanted) root.board = new Board(root, data.api, data.project, data.purpose);
    });
  }
  return () => root.board?.close();
}
"""


@cache
def store() -> StudioStore:
    """The studio's store, which is the demo's as well; one for all pages and for the server.

    Raises:
        FeedbackError: the database cannot be used.
    """
    folder = data_folder()
    return StudioStore(database_url(folder), pictures_place(folder))


@cache
def runs() -> Runs:
    """The runs that learn from snapshots."""
    return Runs(versions_folder(data_folder()))


@cache
def tickets() -> Tickets:
    """What passes from a page to the server."""
    return Tickets()


@st.cache_resource
def _components() -> dict:
    make = st.components.v2.component
    return {
        "enter": make("unimed_enter", html=_ENTER_HTML, css=_FORM_CSS, js=_FORM),
        "password": make("unimed_password", html=_PASSWORD_HTML, css=_FORM_CSS, js=_FORM),
        "redeem": make("unimed_redeem", html='<p role="alert"></p>', js=_REDEEM),
        "leave": make("unimed_leave", html="<p>Logging out…</p>", js=_LEAVE),
        "board": make("unimed_board", html='<div class="ub"></div>', js=_BOARD, isolate_styles=False),
    }


def person() -> Person | None:
    """Who is logged in, read anew with every run."""
    token = st.context.cookies.get(COOKIE, "")
    return store().people.of_token(token) if token else None


def provider() -> str | None:
    """Where people log in beside the studio's own accounts; None where nothing is configured."""
    said = st.secrets.get("auth", {}) if st.secrets.load_if_toml_exists() else {}
    return urlsplit(said["server_metadata_url"]).hostname if all(said.get(name) for name in IDENTITY) else None


def enter() -> None:
    """The ways in: a name and a password, or an identity provider where there is one."""
    host = provider()
    if host and st.user.is_logged_in and abs(time.time() - float(st.user.get("iat", 0))) < FRESH_SECONDS:
        subject = f"{st.user.iss}|{st.user.sub}"
        if store().people.of_subject(subject):
            _components()["redeem"](data={"api": API, "ticket": tickets().give(subject)}, key="redeem")
            return
        st.warning(f"{host} knows you, but you have no account here. Ask a maintainer to add one with this subject:")
        st.code(subject, language=None)
    if host and st.button(f"Log in with {host}"):
        st.login()
    _components()["enter"](data={"api": API, "door": "enter"}, key="enter")


def password(then: str) -> None:
    """A form for another password of one's own, which leads to the address ``then``."""
    _components()["password"](data={"api": API, "door": "password", "then": then}, key="password")


def leave() -> None:
    """Ends our login, and what Streamlit remembers of an identity provider."""
    then = "/auth/logout" if st.user.get("is_logged_in") else "/"
    _components()["leave"](data={"api": API, "then": then}, key="leave")


def board(project_id: str, purpose: str) -> None:
    data = {"api": API, "project": project_id, "purpose": purpose}
    _components()["board"](data=data, key="board")


def done(what: str) -> None:
    """Runs the page again, and says on it what was done."""
    st.session_state.setdefault("done", []).append(what)
    st.rerun()


def say_done() -> None:
    for what in st.session_state.pop("done", []):
        st.success(re.sub(r"(?<!\\)\$", r"\\$", what))  # unless it is plain already


def problem(error: UniMedError) -> None:
    """What went wrong, as plain text."""
    st.error(str(error).replace("$", "\\$"))


def plain(text: str) -> str:
    """Words of others in a line of Markdown, of which nothing is meant."""
    return re.sub(r"([\\`*_{}\[\]()<>#+.!|$~:-])", r"\\\1", text)


def heading(name: str, state: str = "") -> None:
    """The name of a version, however long, and its state."""
    told = f" <span style='font-weight: 400'>({escape(state)})</span>" if state else ""
    st.html(f"<h4 style='margin: 0; padding: 0; overflow-wrap: anywhere'>{escape(name)}{told}</h4>")


def link(label: str, page: str, **asks: str) -> None:
    """A link to another page of the studio, or to the same one that is asked for something."""
    query = f"?{urlencode(asks)}" if asks else ""
    st.html(f"<a href='{page}{escape(query)}' style='color: inherit'>{escape(label)}</a>")
