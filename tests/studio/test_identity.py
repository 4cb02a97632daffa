"""Logging in by an identity provider that speaks the real protocol, in a browser."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey
from playwright.sync_api import BrowserContext, Page, expect

from benchmarks.studio_raters import start_studio
from core.feedback.people import Person
from core.feedback.rubric import RUBRICS
from studio.server import COOKIE
from tests.browser import free_port
from tests.studio.conftest import PASSWORD, Studio, furnish, open_store
from tests.studio.provider import CLIENT, SECRET, Provider

pytestmark = [
    pytest.mark.usefixtures("browser_name"),
    pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
COOKIE_SECRET = "a long enough secret of the cookies"
SECRETS = """[auth]
redirect_uri = "http://127.0.0.1:{port}/oauth2callback"
cookie_secret = "{cookies}"
client_id = "{client}"
client_secret = "{secret}"
server_metadata_url = "{url}/.well-known/openid-configuration"
"""
BUTTON = "Log in with 127.0.0.1"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider().running() as running:
        yield running


@pytest.fixture(scope="module")
def studio(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A studio that trusts the provider, with items for its raters."""
    data, home, port = tmp_path_factory.mktemp("studio"), tmp_path_factory.mktemp("home"), free_port()
    (home / ".streamlit").mkdir()
    written = SECRETS.format(port=port, cookies=COOKIE_SECRET, client=CLIENT, secret=SECRET, url=provider.url)
    (home / ".streamlit" / "secrets.toml").write_text(written)
    store = open_store(data)
    house = furnish(store)
    process = start_studio(data, port, {"HOME": str(home)}, data / "said.log")
    yield Studio(f"http://127.0.0.1:{port}/", data, process, store, house.people)
    process.terminate()
    process.wait(60)
    store.close()


@pytest.fixture(autouse=True)
def honest(provider: Provider) -> None:
    provider.wrong, provider.age, provider.ended = "", 0, 0


@pytest.fixture
def visit(studio: Studio, new_context: Callable[..., BrowserContext]) -> Callable[[], Page]:
    """Opens the login page in a browser of its own."""
    expect.set_options(timeout=20_000)

    def open_page() -> Page:
        page = new_context(locale="en-US").new_page()
        page.set_default_timeout(20_000)
        page.goto(studio.url)
        return page

    return open_page


def come_in(page: Page, sub: str) -> None:
    """Logs in at the provider as somebody."""
    page.get_by_role("button", name=BUTTON).click()
    page.get_by_label("Who").fill(sub)
    page.get_by_role("button", name="Agree").click()


def account(studio: Studio, provider: Provider, sub: str, role: str = "rater") -> Person:
    subject = f"{provider.url}|{sub}"
    studio.store.people.add(studio.people["mona"], sub, role, subject=subject)
    return studio.store.people.of_subject(subject)


def agreed(studio: Studio, client: httpx.Client, sub: str) -> str:
    """Goes the way of a browser to the provider, and returns the address to which it sends somebody back."""
    passed = {"provider": "default", "exp": int(time.time()) + 60}
    token = jwt.encode({"alg": "HS256"}, passed, OctKey.import_key(COOKIE_SECRET))
    form = client.get(f"{studio.url}auth/login", params={"provider": token}, follow_redirects=True)
    code = re.search(r'name="of" value="(.+?)"', form.text)[1]
    return client.get(form.url.join("/agree"), params={"of": code, "sub": sub}).headers["location"]


def cookies(page: Page) -> dict[str, str]:
    return {cookie["name"]: cookie["value"] for cookie in page.context.cookies()}


def test_somebody_unknown_is_told_what_to_say_and_a_maintainer_lets_them_in(
    studio: Studio, provider: Provider, visit: Callable[[], Page]
) -> None:
    newcomer = visit()
    come_in(newcomer, "auth0|7")
    subject = f"{provider.url}|auth0|7"
    expect(newcomer.get_by_text("you have no account here. Ask a maintainer")).to_be_visible()
    expect(newcomer.get_by_text(subject)).to_be_visible()
    assert COOKIE not in cookies(newcomer)
    assert {one.login for one in studio.store.people.everyone(studio.people["mona"])} == {*studio.people}
    page = visit()
    page.get_by_label("Name").fill("mona")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in", exact=True).click()
    page.get_by_role("link", name="People", exact=True).first.click()
    add = page.get_by_test_id("stForm").filter(has_text="Add somebody")
    add.get_by_label("Name").fill("nora@clinic.example")
    add.get_by_role("textbox", name="Or, in place of a password, a subject").fill(subject)
    add.get_by_role("button", name="Add").click()
    expect(add.get_by_label("Name")).to_have_value("")
    newcomer.reload()
    expect(newcomer.get_by_text("nora@clinic.example, rater")).to_be_visible()
    assert list(studio.store.verify()) == []


def test_who_is_known_rates_until_the_account_ends(
    studio: Studio, provider: Provider, visit: Callable[[], Page]
) -> None:
    mona, olga = studio.people["mona"], account(studio, provider, "olga")
    project = studio.store.projects.of(mona)[0]
    studio.store.projects.add_member(mona, project.id, olga.id)
    page = visit()
    come_in(page, "olga")
    expect(page.locator(".ub-standing")).to_contain_text("0 of 4")
    own = next(cookie for cookie in page.context.cookies() if cookie["name"] == COOKIE)
    assert own["httpOnly"] and own["sameSite"] == "Strict"
    page.keyboard.press("f")
    expect(page.locator(".ub-full[open]")).to_be_visible()
    page.keyboard.press("Escape")
    for _ in RUBRICS["edit"].criteria:
        page.keyboard.press("4")
    page.keyboard.press("Enter")
    expect(page.locator(".ub-standing")).to_contain_text("1 of 4")
    assert studio.store.queue.before(olga, project.id).version == 1
    studio.store.people.change_role(mona, olga.id, "maintainer")
    page.reload()
    expect(page.get_by_role("link", name="People", exact=True).first).to_be_visible()
    studio.store.people.change_role(mona, olga.id, "rater")
    page.goto(f"{studio.url}people")
    expect(page.get_by_text("olga, rater")).to_be_visible()
    studio.store.people.disable(mona, olga.id)
    page.reload()
    expect(page.get_by_text("you have no account here")).to_be_visible()


def test_logging_out_ends_both(studio: Studio, provider: Provider, visit: Callable[[], Page]) -> None:
    account(studio, provider, "otto")
    page = visit()
    come_in(page, "otto")
    expect(page.get_by_text("otto, rater")).to_be_visible()
    before = cookies(page)
    page.get_by_role("link", name="Log out").first.click()
    expect(page.get_by_role("button", name=BUTTON)).to_be_visible()
    assert not [name for name in cookies(page) if name.startswith((COOKIE, "_streamlit_user"))]
    assert provider.ended == 1 and studio.store.people.of_token(before[COOKIE]) is None
    page.reload()
    expect(page.get_by_role("button", name=BUTTON)).to_be_visible()


def test_what_a_provider_said_long_ago_and_what_nobody_signed_open_nothing(
    studio: Studio, provider: Provider, visit: Callable[[], Page]
) -> None:
    account(studio, provider, "paul")
    with httpx.Client(trust_env=False) as fresh, httpx.Client(trust_env=False) as stale:
        fresh.get(agreed(studio, fresh, "paul"))
        provider.age = 3600
        stale.get(agreed(studio, stale, "paul"))
        said = fresh.cookies["_streamlit_user"].strip('"')
        at = len(said) // 4
        forged = said[:at] + ("A" if said[at] != "A" else "B") + said[at + 1 :]
        for value in (stale.cookies["_streamlit_user"].strip('"'), forged):
            page = visit()
            page.context.add_cookies([{"name": "_streamlit_user", "value": value, "url": studio.url}])
            page.reload()
            expect(page.get_by_role("button", name=BUTTON)).to_be_visible()
            assert COOKIE not in cookies(page)


@pytest.mark.parametrize("wrong", ["", "key", "nonce", "aud"])
def test_only_what_the_provider_signed_for_us_and_just_now_counts(
    studio: Studio, provider: Provider, wrong: str
) -> None:
    provider.wrong = wrong
    with httpx.Client(trust_env=False) as client:
        assert client.get(agreed(studio, client, "quinn")).status_code == 302
        assert ("_streamlit_user" in client.cookies) == (not wrong)


def test_the_callback_of_another_browser_opens_nothing(studio: Studio, provider: Provider) -> None:
    """Nobody can be made to work in the account of another: the state is bound to the browser that asked."""
    with httpx.Client(trust_env=False) as client, httpx.Client(trust_env=False) as victim:
        victim.get(agreed(studio, client, "sven"))
        assert "_streamlit_user" not in victim.cookies


def test_secrets_are_in_no_log(studio: Studio) -> None:
    said = (Path(studio.data) / "said.log").read_text()
    assert said and not [one for one in (PASSWORD, SECRET, COOKIE_SECRET, "opaque") if one in said]
