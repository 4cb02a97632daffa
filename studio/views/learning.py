"""Starting a run that learns from a snapshot, and watching the runs that are under way."""

from __future__ import annotations

import re

import streamlit as st

from core.errors import UniMedError
from core.feedback.people import Person
from core.feedback.snapshots import SnapshotInfo
from core.feedback.versions import PROMOTED, VersionInfo
from studio import context
from studio.base import Base
from studio.runs import Order, Run, recipes
from studio.views.snapshots import counted

EVERY_SECONDS = 2
COMPARE = 40
"""So many held-out requests two versions answer by default, for people to compare."""
NAME, SUGGESTED = "new name", "suggested name"
PHASES = {
    "starting": "Starting", "learning": "Learning", "evaluating": "Measuring",
    "comparing": "Making what people compare",
}  # fmt: skip
ENDS = {
    "failed": "It failed.",
    "stopped": "It was stopped. What it has learned so far is saved.",
    "cut off": "It was cut off: its process is gone. It goes on from its last save.",
}
SERIES = {
    "image_chosen": "images, chosen", "image_rejected": "images, rejected",
    "text_chosen": "texts, chosen", "text_rejected": "texts, rejected",
}  # fmt: skip
TOLD = (
    "How far the model has moved towards what people chose, and away from what they rejected, from where it began "
    "(implicit rewards). While it learns, the lines of one kind should part, with the chosen one on top."
)


def show(person: Person, versions: list[VersionInfo], base: Base) -> None:
    st.subheader("Learn")
    snapshots = [one for one in context.store().snapshots.all(person) if not one.emptied]
    found = context.runs().all()
    for run in found:
        with st.container(border=True):
            every = EVERY_SECONDS if run.state == "running" else None
            st.fragment(_run, run_every=every)(run.name, run.state)
    if any(run.state == "running" for run in found):
        st.caption("One run at a time: the next one can be started once this one has ended.")
        return
    if not snapshots:
        st.info("There is no snapshot to learn from. Those that a withdrawal has emptied can be made again.")
        context.link("To the snapshots", "snapshots")
        return
    with st.container(border=True):
        _form(person, snapshots, versions, base)


def _form(person: Person, snapshots: list[SnapshotInfo], versions: list[VersionInfo], base: Base) -> None:
    asked = st.query_params
    projects = {one.id: one.name for one in context.store().projects.of(person)}
    found = {one.sha256: one for one in snapshots}
    place = list(found).index(asked["snapshot"]) if asked.get("snapshot") in found else 0
    chosen = st.selectbox("Snapshot", list(found), place, format_func=lambda one: _named(found[one], projects))
    st.caption(counted(found[chosen].counts))
    first, second = st.columns(2)
    able = bases(versions, base)
    place = list(able).index(asked["base"]) if asked.get("base") in able else 0
    start = first.selectbox("Start from", list(able), place, format_func=able.get)
    known = recipes()
    place = list(known).index(asked["recipe"]) if asked.get("recipe") in known else 0
    recipe = second.selectbox("Recipe", list(known), place, format_func=lambda one: one.removesuffix(".json"))
    if recipe is None:
        st.error("There is no recipe in core/training/recipes/learn. Nothing can be learned without one.")
        return
    if known[recipe]:
        second.caption(known[recipe])
    taken = {base.name, *(one.name for one in versions), *context.runs().names()}
    default = _free(f"{start or base.name}-{chosen[:6]}", taken)
    first, second = st.columns(2)
    said = st.session_state
    if NAME not in said or said.get(SUGGESTED) != default:  # of another snapshot, or another base
        said[NAME] = said[SUGGESTED] = default
    name = first.text_input("Name of the new version", max_chars=80, key=NAME)
    told = "On so many requests that nothing was learned from, both answer, and people say blindly which is better."
    compare = second.number_input("Held-out requests to compare", 1, 1000, COMPARE, help=told)
    if st.button("Learn from it", type="primary"):
        try:
            order = Order(name.strip(), chosen, start or None, recipe, int(compare))
            context.runs().start(person, order, taken)
            st.query_params.clear()
            context.done(f"{order.name} is learning. It goes on when this page or the studio is closed.")
        except UniMedError as error:
            context.problem(error)


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
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", wanted).strip("-.")
    return next(one for n in range(1, len(taken) + 2) if (one := name if n == 1 else f"{name}-{n}") not in taken)


def _named(snapshot: SnapshotInfo, projects: dict[str, str]) -> str:
    names = ", ".join(projects.get(one, "a project that is gone") for one in snapshot.rules.projects)
    return f"{names}, {snapshot.created_at:%Y-%m-%d %H:%M} ({snapshot.sha256[:8]})"


def _run(name: str, state: str) -> None:
    """One run as it is now; the whole page comes anew once it has ended.

    Args:
        state: in which the page has drawn it.
    """
    person, runs = context.person(), context.runs()
    run = runs.get(name)
    if person is None or person.role != "maintainer" or run.state != state:
        if run.state == "done":
            context.done(f"{name} is learned, and a candidate now.")
        st.rerun()
    context.heading(name)
    if run.state == "running":
        _bar(run)
    elif run.state == "failed":
        st.error(f"{ENDS['failed']} {run.message}".replace("$", "\\$"))
    else:
        st.warning(f"{ENDS[run.state]} {run.message}".replace("$", "\\$"))
    curve(name)
    _buttons(person, run)


def _bar(run: Run) -> None:
    share = min(1.0, run.done / run.of) if run.of > 0 else 0.0
    counted = f": {run.done:,} of {run.of:,}" if run.of > 0 else "…"
    since = f", for {_span(run.seconds)}" if run.seconds is not None else ""
    st.progress(share, f"{PHASES.get(run.phase, PHASES['starting'])}{counted}{since}")
    if run.message:
        st.caption(run.message.replace("$", "\\$"))


def _buttons(person: Person, run: Run) -> None:
    runs, row = context.runs(), st.container(horizontal=True)
    try:
        if run.state == "running":
            if row.button("Stop", key=f"stop {run.name}"):
                runs.stop(person, run.name)
                st.info("It saves what it has, and ends.")
            return
        again = "Try again" if run.state == "failed" else "Go on"
        if run.order is None:
            row.caption("It was started from the command line: the same command goes on.")
        elif row.button(again, key=f"go on {run.name}", type="primary"):
            runs.go_on(person, run.name)
            context.done(f"{run.name} goes on.")
        if row.button("Throw away", key=f"remove {run.name}"):
            runs.remove(person, run.name)
            context.done(f"What {run.name} had learned is thrown away.")
    except UniMedError as error:
        context.problem(error)


def curve(name: str) -> None:
    """The rewards of a run, of what people chose and of what they rejected."""
    rows = [
        {"step": row["step"], "reward": row[key], "of": told}
        for row in context.runs().rewards(name)
        for key, told in SERIES.items()
        if isinstance(row.get(key), int | float)
    ]
    if not rows:
        return
    kinds = [told for told in SERIES.values() if any(row["of"] == told for row in rows)]
    dash = [[1, 0] if told.endswith("chosen") else [6, 4] for told in kinds]
    colours = ["#0f9488" if told.startswith("images") else "#d97706" for told in kinds]
    legend = {"orient": "bottom", "columns": 2, "symbolType": "stroke", "symbolSize": 250}
    legend |= {"columnPadding": 6, "labelFontSize": 11}  # a phone has room for two columns then
    of = {"field": "of", "type": "nominal", "title": None, "sort": kinds}
    st.vega_lite_chart(rows, {
        "height": 320,
        "mark": {"type": "line", "strokeWidth": 2, "point": len({row["step"] for row in rows}) == 1},
        "encoding": {
            "x": {"field": "step", "type": "quantitative", "axis": {"tickMinStep": 1}},
            "y": {"field": "reward", "type": "quantitative", "title": "reward"},
            "color": of | {"scale": {"domain": kinds, "range": colours}, "legend": legend},
            "strokeDash": of | {"scale": {"domain": kinds, "range": dash}, "legend": legend},
        },
    })  # fmt: skip
    st.caption(TOLD)


def _span(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
