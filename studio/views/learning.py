"""Starting a run that learns from a snapshot, and watching the runs that are under way."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import streamlit as st

from core.config import COMPARE
from core.errors import UniMedError
from core.feedback.gate import LEAST_ITEMS
from core.feedback.people import Person
from core.feedback.snapshots import SnapshotInfo
from core.feedback.unseen import unseen
from core.feedback.versions import PROMOTED, VersionInfo
from core.lineage import is_learned
from studio import context
from studio.base import Base
from studio.runs import Order, Run, recipes
from studio.views import rewards
from studio.views.snapshots import counted

EVERY_SECONDS = 2
LOOK_SECONDS = 60
"""For so long a count of requests is remembered."""
MOST = 1000
"""Requests of a comparison."""
NAME, SUGGESTED, WATCHED = "new name", "suggested name", "watched"
PHASES = {
    "starting": "Starting", "learning": "Learning", "evaluating": "Measuring",
    "comparing": "Making what people compare",
}  # fmt: skip
ENDS = {
    "failed": "It failed.",
    "stopped": "It was stopped. What it has learned so far is saved.",
    "cut off": "It was cut off: its process is gone.",
}
GO_ON = "Press Go on: it continues from its last save."
SPOILED = "It learns from something that was withdrawn: stop it and throw it away."


def show(person: Person, versions: list[VersionInfo], base: Base, names: dict[str, str]) -> None:
    """``names``: of projects, by their ids."""
    st.subheader("Learn", anchor="learn")
    snapshots = [one for one in context.store().snapshots.all(person) if not one.emptied]
    found = context.runs().all()
    lost = spoiled(person, versions, found)
    _say_learned({run.name for run in found if run.state == "running"})
    for run in found:
        with st.container(border=True):
            every = EVERY_SECONDS if run.state == "running" else None
            st.fragment(_run, run_every=every)(run.name, run.state, run.name in lost)
    if any(run.state == "running" for run in found):
        st.caption("One run at a time: the next one can be started once this one has ended.")
        return
    if not snapshots:
        st.info("There is no snapshot to learn from. Those that a withdrawal has emptied can be made again.")
        context.link("To the snapshots", "snapshots")
        return
    with st.container(border=True):
        _form(person, snapshots, versions, base, names)


def _watched() -> set[str]:
    """Names of runs of which this page says when they are done, also where that is before it is drawn again."""
    return st.session_state.setdefault(WATCHED, set())


def _say_learned(running: set[str]) -> None:
    _watched().update(running)
    for name in sorted(_watched() - running):
        if context.runs().get(name).state == "done":
            _watched().discard(name)
            st.success(f"{context.plain(name)} is learned, and a candidate now.")


def spoiled(person: Person, versions: list[VersionInfo], runs: list[Run]) -> list[str]:
    """Names of the runs whose snapshot, or whose learned base, rests on something that was withdrawn since."""
    emptied = {one.sha256 for one in context.store().snapshots.all(person) if one.emptied}
    tainted = {one.name for one in versions if one.tainted}
    return [one.name for one in runs if one.order and (one.order.snapshot in emptied or one.order.base in tainted)]


def _form(
    person: Person, snapshots: list[SnapshotInfo], versions: list[VersionInfo], base: Base, names: dict[str, str]
) -> None:  # fmt: skip
    asked = st.query_params
    found = {one.sha256: one for one in snapshots}
    place = list(found).index(asked["snapshot"]) if asked.get("snapshot") in found else 0
    chosen = st.selectbox("Snapshot", list(found), place, format_func=lambda one: _named(found[one], names))
    st.caption(counted(found[chosen].counts))
    first, second = st.columns(2)
    able = bases(versions, base)
    place = list(able).index(asked["base"]) if asked.get("base") in able else 0
    start = first.selectbox("Start from", list(able), place, format_func=able.get)
    known = recipes()
    try:
        about = _about(chosen)
    except UniMedError as error:
        context.problem(error)
        about = None
    suited = [f"{base.recipe.removesuffix('.json')}_images.json"] if about and about.draws else []
    wanted = next((one for one in (asked.get("recipe"), *suited, base.recipe) if one in known), None)
    place = list(known).index(wanted) if wanted else 0
    recipe = second.selectbox("Recipe", list(known), place, format_func=lambda one: one.removesuffix(".json"))
    if recipe is None:
        st.error("There is no recipe in core/training/recipes/learn. Nothing can be learned without one.")
        return
    if known[recipe]:
        second.caption(known[recipe])
    taken = {base.name, *(one.name for one in versions), *context.runs().names()}
    default = _free(f"{(start or base.name)[:73]}-{chosen[:6]}", taken)
    first, second = st.columns(2)
    said = st.session_state
    if NAME not in said or said.get(SUGGESTED) != default:  # of another snapshot, or another base
        said[NAME] = said[SUGGESTED] = default
    name = first.text_input("Name of the new version", max_chars=80, key=NAME)
    told = (
        "Both versions answer so many requests that nothing was learned from. Where the answers differ, people say "
        f"blindly which is better; {LEAST_ITEMS} such requests must count before the version may be served."
    )
    count = int(asked["compare"]) if asked.get("compare", "").isdecimal() else COMPARE
    count = min(max(count, LEAST_ITEMS), MOST)
    compare = second.number_input("Requests to compare", LEAST_ITEMS, MOST, count, help=told)
    if about:
        _room(person, about, int(compare))
    if st.button("Learn from it", type="primary"):
        try:
            order = Order(name.strip(), chosen, start or None, recipe, int(compare))
            context.runs().start(person, order, taken)
            _watched().add(order.name)
            st.query_params.clear()
            told = "is learning. It goes on when this page or the studio is closed."
            context.done(f"{context.plain(order.name)} {told}")
        except UniMedError as error:
            context.problem(error)


@dataclass(frozen=True)
class About:
    """What a snapshot is about.

    Attributes:
        tasks: their names.
        draws: whether most of it is pictures.
        there: requests that nothing of it was learned from, up to ``MOST``.
    """

    tasks: tuple[str, ...]
    draws: bool
    there: int


def _room(person: Person, about: About, wanted: int) -> None:
    """Says where there are fewer requests to compare than are wanted, and how to make more."""
    if about.there >= wanted:
        return
    told = f"Only {about.there:,} requests are there" if about.there else "There are no requests"
    told += " that nothing was learned from and that are about the same tasks."
    if about.there < LEAST_ITEMS:
        told += " That is too few to show that a new version is better, and without that it cannot be promoted."
    st.warning(f"{told} Make more, from files of patients that nobody has judged yet, before it learns:")
    task = " or ".join(about.tasks) or "TASK"
    command = f"python -m core feedback run FILE... --task {task} --by {person.login}"
    st.code(command, language=None, wrap_lines=True)


@st.cache_data(ttl=LOOK_SECONDS, show_spinner=False)
def _about(sha256: str) -> About:
    store = context.store()
    signals = store.snapshots.read(sha256)
    there = len(unseen(store.database, signals, MOST))
    types = Counter((one["chosen"] or one["rejected"])["type"] for one in signals)
    return About(tuple(sorted({one["task"] for one in signals})), types["image"] > types["text"], there)


def bases(versions: list[VersionInfo], base: Base) -> dict[str, str]:
    """What one can start from, the served one first. The base checkpoint has no name of its own here."""
    fits = [one for one in versions if base.fingerprint in (None, one.lineage.base_fingerprint)]
    able = {one.name: one.name for one in fits if not one.tainted}
    served = next((one.name for one in versions if one.state == PROMOTED), "")
    told = {"": f"{base.name}, the base"} | able
    if served in told:
        told = {served: f"{told[served]} (served now)"} | {name: of for name, of in told.items() if name != served}
    return told


def _free(wanted: str, taken: set[str]) -> str:
    """A name of up to 80 characters that nothing has yet."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", wanted).strip("-._")
    ends = ("" if n == 1 else f"-{n}" for n in range(1, len(taken) + 2))
    return next(one for end in ends if (one := name[: 80 - len(end)] + end) not in taken)


def _named(snapshot: SnapshotInfo, names: dict[str, str]) -> str:
    projects = ", ".join(names.get(one, "a project that is gone") for one in snapshot.rules.projects)
    return f"{projects}, {snapshot.created_at:%Y-%m-%d %H:%M} ({snapshot.sha256[:8]})"


def _run(name: str, state: str, is_spoiled: bool) -> None:
    """One run as it is now; the whole page comes anew once it has ended.

    Args:
        state: in which the page has drawn it.
    """
    person, runs = context.person(), context.runs()
    run = runs.get(name)
    if person is None or person.role != "maintainer" or run.state != state:
        st.rerun()
    context.heading(name)
    if is_spoiled:
        st.error(SPOILED)
    goes_on = run.order is not None and not is_spoiled
    if run.state == "running":
        _bar(run)
    elif run.state == "failed":
        st.error(context.plain(f"{ENDS['failed']} {run.message}"))
    else:
        st.warning(context.plain(" ".join(filter(None, (ENDS[run.state], GO_ON if goes_on else "", run.message)))))
    rewards.show(runs.rewards(name))
    _buttons(person, run, goes_on)


def _bar(run: Run) -> None:
    share = min(1.0, run.done / run.of) if run.of > 0 else 0.0
    counted = f": {run.done:,} of {run.of:,}" if run.of > 0 else "…"
    since = f", for {_span(run.seconds)}" if run.seconds is not None else ""
    st.progress(share, f"{PHASES.get(run.phase, PHASES['starting'])}{counted}{since}")
    if run.message:
        st.caption(context.plain(run.message))


def _buttons(person: Person, run: Run, goes_on: bool) -> None:
    runs, row, name = context.runs(), st.container(horizontal=True), context.plain(run.name)
    try:
        if run.state == "running":
            if row.button(f"Stop {name}", key=f"stop {run.name}"):
                runs.stop(person, run.name)
                st.info("It ends after its current step. What it saved last stays.")
            return
        again = f"Try {name} again" if run.state == "failed" else f"Go on with {name}"
        if run.order is None:
            row.caption("It was started from the command line: the same command goes on.")
        elif goes_on and row.button(again, key=f"go on {run.name}", type="primary"):
            runs.go_on(person, run.name)
            _watched().add(run.name)
            context.done(f"{name} goes on.")
        if is_learned(runs.folder(run.name)):
            return  # the version is there, and only its comparison is not
        with row.popover(f"Throw {name} away"):
            st.write("What it has learned so far is gone for good then.")
            if st.button("Yes, throw it away", key=f"remove {run.name}"):
                runs.remove(person, run.name)
                context.done(f"What {name} had learned is thrown away.")
    except UniMedError as error:
        context.problem(error)


def _span(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
