"""What the rating board speaks to beside Streamlit: logging in, items, saving, pictures. JSON over HTTP, one cookie.

A rater reaches nothing but the items in their own hands: pictures go by assignment and place, never by their own names,
and no answer holds a model, a version or another person.
"""

from __future__ import annotations

import asyncio
import json
import math
import secrets
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from core.errors import AccessError, FeedbackError, StorageError, UniMedError
from core.feedback.people import Person
from core.feedback.queue import Task
from core.feedback.rubric import CANNOT_JUDGE
from core.feedback.screen import storable
from core.feedback.studio import StudioStore

COOKIE = "unimed-studio"
API = "/studio-api"
OWN_HEADER = "x-unimed-studio"
"""A page of another site cannot send it, so a cookie alone changes nothing."""
LARGEST_BODY = 1 << 20
TRIES, TRIES_SECONDS = 10, 300.0
"""So many wrong passwords for one name from one address in so long; then they have to wait. Another address does not:
or else anybody could lock a person out."""
ALL_TRIES, ALL_SECONDS = 60, 60.0
"""So many wrong passwords in all, whatever the names and addresses. Then everybody waits who has not come in from their
address before."""
LONGEST_NAME = 200
HASHING = 2
"""So many passwords are tried at once: each takes 64 MiB."""
TICKET_SECONDS = 60.0

HERE = Path(__file__).parent
STATIC = {"board": HERE / "board", "elements": HERE.parent / "core" / "elements"}


class Tickets:
    """By which a page tells the server that an identity provider has vouched for somebody: the page knows it, and only
    the server can set a cookie. A ticket opens once, and soon or not at all."""

    def __init__(self) -> None:
        self._given: dict[str, tuple[str, float]] = {}
        self._lock = Lock()

    def give(self, subject: str) -> str:
        ticket, now = secrets.token_urlsafe(32), time.monotonic()
        with self._lock:
            self._given = {one: of for one, of in self._given.items() if now - of[1] < TICKET_SECONDS}
            self._given[ticket] = subject, now
        return ticket

    def take(self, ticket: str) -> str:
        """Whose it is.

        Raises:
            AccessError: it is not known, too old, or was used.
        """
        with self._lock:
            subject, given = self._given.pop(ticket, ("", 0.0))
        if not subject or time.monotonic() - given >= TICKET_SECONDS:
            raise AccessError("That login is over", remedy="Log in again")
        return subject


def routes(store: StudioStore, tickets: Tickets) -> list[BaseRoute]:
    """All of them, for ``streamlit.App``."""
    doors = Doors(store, tickets)
    return [
        Route(f"{API}/enter", doors.open(doors.enter), methods=["POST"]),
        Route(f"{API}/ticket", doors.open(doors.ticket), methods=["POST"]),
        Route(f"{API}/password", doors.open(doors.password), methods=["POST"]),
        Route(f"{API}/leave", doors.open(doors.leave), methods=["POST"]),
        Route(f"{API}/next", doors.known(doors.next), methods=["POST"]),
        Route(f"{API}/item", doors.known(doors.item), methods=["POST"]),
        Route(f"{API}/save", doors.known(doors.save), methods=["POST"]),
        Route(f"{API}/submit", doors.known(doors.submit), methods=["POST"]),
        Route(f"{API}/picture/{{assignment}}/{{side}}/{{place:int}}", doors.picture, methods=["GET"]),
        *(Mount(f"{API}/{name}", StaticFiles(directory=folder)) for name, folder in STATIC.items()),
    ]


Answer = Callable[[Person, dict], dict]
Caller = tuple[str, str]
"""A login name and the address that it is tried from."""
Result = TypeVar("Result")


class Doors:
    def __init__(self, store: StudioStore, tickets: Tickets) -> None:
        self._store, self._tickets = store, tickets
        self._failures: dict[Caller, deque[float]] = defaultdict(lambda: deque(maxlen=TRIES))
        self._all_failures: deque[float] = deque(maxlen=ALL_TRIES)
        self._came_in: set[Caller] = set()
        self._hashing = asyncio.Semaphore(HASHING)

    # Around every call

    def open(self, answer: Callable[[Request, dict], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """For everybody, from our own pages."""

        async def call(request: Request) -> Response:
            try:
                return await answer(request, await _body(request))
            except UniMedError as error:
                return _refused(error)

        return call

    def known(self, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
        """For whoever is logged in, from our own pages."""

        async def call(request: Request) -> Response:
            try:
                body = await _body(request)
                return _json(await self._work(request, lambda person: answer(person, body)))
            except UniMedError as error:
                return _refused(error)

        return call

    async def _work(self, request: Request, work: Callable[[Person], Result]) -> Result:
        """Does something for whoever is logged in.

        Raises:
            NotLoggedIn: nobody is.
        """
        token = request.cookies.get(COOKIE, "")

        def known() -> Result:
            person = self._store.people.of_token(token) if token else None
            if person is None:
                raise NotLoggedIn("You are not logged in", remedy="Log in again; what was saved is kept")
            return work(person)

        return await run_in_threadpool(known)

    # Coming and going

    async def enter(self, request: Request, body: dict) -> Response:
        login, password = str(body.get("login", ""))[:LONGEST_NAME], str(body.get("password", ""))
        return await self._try(request, login, lambda: self._store.people.log_in(login, password))

    async def password(self, request: Request, body: dict) -> Response:
        """Another password for whoever is logged in."""
        person = await self._work(request, lambda person: person)
        old, new = str(body.get("old", "")), str(body.get("new", ""))
        if new != body.get("again"):
            raise FeedbackError("The two new passwords differ", remedy="Type the new one twice")
        change = self._store.people.change_own_password
        return await self._try(request, person.login, lambda: change(person, old, new))

    async def _try(self, request: Request, login: str, attempt: Callable[[], str]) -> Response:
        """Lets somebody in with the token that an attempt with a password returns."""
        caller = login, request.client.host if request.client else ""
        async with self._hashing:
            self._slow_down(caller)
            try:
                token = await run_in_threadpool(attempt)
            except AccessError:
                self._failures[caller].append(time.monotonic())
                self._all_failures.append(time.monotonic())
                raise
        self._came_in.add(caller)
        return await self._entered(request, token)

    async def ticket(self, request: Request, body: dict) -> Response:
        subject = self._tickets.take(str(body.get("ticket", "")))
        return await self._entered(request, await run_in_threadpool(self._store.people.log_in_subject, subject))

    async def _entered(self, request: Request, token: str) -> Response:
        """Gives the browser its new login, and ends the one that it had."""
        await self._end(request)
        response = _json({"ok": True})
        # No max-age: it ends with the browser, and with the login in the database.
        response.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=request.url.scheme == "https")
        return response

    async def leave(self, request: Request, body: dict) -> Response:
        await self._end(request)
        response = _json({"ok": True})
        response.delete_cookie(COOKIE)
        return response

    async def _end(self, request: Request) -> None:
        if token := request.cookies.get(COOKIE):
            await run_in_threadpool(self._store.people.log_out, token)

    def _slow_down(self, caller: Caller) -> None:
        """
        Raises:
            AccessError: there were too many wrong passwords of late, of the caller's or in all.
        """
        now = time.monotonic()
        for one in [one for one, tries in self._failures.items() if tries[-1] < now - TRIES_SECONDS]:
            del self._failures[one]
        if sum(moment >= now - TRIES_SECONDS for moment in self._failures.get(caller, ())) >= TRIES:
            raise AccessError("Too many wrong passwords", remedy="Wait five minutes")
        all_tries = sum(moment >= now - ALL_SECONDS for moment in self._all_failures)
        if all_tries >= ALL_TRIES and caller not in self._came_in:
            raise AccessError("Too many wrong passwords by too many people", remedy="Wait a minute")

    # Rating

    def next(self, person: Person, body: dict) -> dict:
        project, purpose = str(body.get("project")), str(body.get("purpose", "judge"))
        task = self._store.queue.next(person, project, purpose)
        return {"task": task and self._told(task), **self._standing(person, project, purpose)}

    def item(self, person: Person, body: dict) -> dict:
        """What one has judged last, or last before another one."""
        project, purpose, after = str(body.get("project")), str(body.get("purpose", "judge")), body.get("before")
        task = self._store.queue.before(person, project, purpose, None if after is None else str(after))
        return {"task": self._told(task), **self._standing(person, project, purpose)}

    def save(self, person: Person, body: dict) -> dict:
        self._store.queue.save(person, str(body.get("assignment")), _dict(body, "answer"), _float(body, "seconds"))
        return {"saved": True}

    def submit(self, person: Person, body: dict) -> dict:
        version = self._store.queue.submit(
            person, str(body.get("assignment")), _dict(body, "answer"), _float(body, "seconds"), _moment(body),
            str(body.get("reason") or ""),
        )  # fmt: skip
        return {"version": version}

    def _standing(self, person: Person, project: str, purpose: str) -> dict:
        return {"progress": asdict(self._store.queue.progress(person, project, purpose))}

    @staticmethod
    def _told(task: Task) -> dict:
        """A task without the names of its pictures, by which somebody could find out more."""
        inputs = [
            {"type": "image", "src": _address(task, "input", place)} if segment["type"] == "image" else
            {"type": "text", "text": segment["text"], "generated": segment.get("generated", False)}
            for place, segment in enumerate(task.shown.inputs)
        ]  # fmt: skip
        outputs = [
            {"kind": "image", "src": _address(task, "output", place), "width": o["width"], "height": o["height"]}
            if o["kind"] == "image" else {"kind": "text", "text": o["text"]}
            for place, o in enumerate(task.shown.outputs)
        ]  # fmt: skip
        return {
            "id": task.id, "kind": task.kind, "rubric": task.rubric.to_json(), "reasons": CANNOT_JUDGE,
            "task": task.shown.task, "inputs": inputs, "outputs": outputs,
            "order": task.order, "answer": task.draft, "seconds": task.active_seconds, "version": task.version,
            "revisable": task.revisable, "others": task.others, "why": task.why,
        }  # fmt: skip

    async def picture(self, request: Request) -> Response:
        """A picture of an item in one's own hands, as PNG."""
        assignment, side, place = (request.path_params[name] for name in ("assignment", "side", "place"))
        try:
            content = await self._work(request, lambda person: self._picture(person, assignment, side, place))
        except UniMedError as error:
            return _refused(error)
        return Response(content, media_type="image/png", headers={"Cache-Control": "private, no-store"})

    def _picture(self, person: Person, assignment: str, side: str, place: int) -> bytes:
        task = self._store.queue.get(person, assignment)
        segments = {"input": task.shown.inputs, "output": task.shown.outputs}.get(side, [])
        sha256 = segments[place].get("sha256") if place < len(segments) else None
        if not sha256:
            raise AccessError("There is no such picture for you")
        return self._store.blobs.bare(sha256)


class NotLoggedIn(AccessError):
    """Nobody, or not any more."""


def _address(task: Task, side: str, place: int) -> str:
    return f"{API[1:]}/picture/{task.id}/{side}/{place}"


async def _body(request: Request) -> dict:
    if request.headers.get(OWN_HEADER) != "1":
        raise AccessError("That did not come from the studio's own page")
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > LARGEST_BODY:
            raise FeedbackError("That is too much at once", remedy="Mark fewer regions")
    try:
        body = _storable(json.loads(content))
    except (ValueError, RecursionError) as error:
        raise FeedbackError("The request is not JSON") from error
    if not isinstance(body, dict):
        raise FeedbackError("The request is not a JSON object")
    return body


def _storable(value: object) -> object:
    """What was said, without the characters that no database holds."""
    if isinstance(value, dict):
        return {storable(name): _storable(of) for name, of in value.items()}
    if isinstance(value, list):
        return [_storable(of) for of in value]
    return storable(value) if isinstance(value, str) else value


def _dict(body: dict, name: str) -> dict:
    if not isinstance(value := body.get(name), dict):
        raise FeedbackError(f"The request has no {name}")
    return value


def _float(body: dict, name: str) -> float:
    value = body.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise FeedbackError(f"The request has no {name}")
    return float(value)


def _moment(body: dict) -> datetime:
    try:
        moment = datetime.fromisoformat(str(body.get("said_at")))
    except ValueError as error:
        raise FeedbackError("The browser's clock cannot be read", value=body.get("said_at")) from error
    if moment.tzinfo is None:
        raise FeedbackError("The browser's clock has no time zone", value=body.get("said_at"))
    return moment


def _json(content: dict, status: int = 200) -> JSONResponse:
    return JSONResponse(content, status, headers={"Cache-Control": "no-store"})


def _refused(error: UniMedError) -> JSONResponse:
    statuses = {NotLoggedIn: 401, AccessError: 403, StorageError: 503}
    status = next((status for of, status in statuses.items() if isinstance(error, of)), 422)
    return _json({"error": str(error)}, status)
