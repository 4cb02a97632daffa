"""Learned versions: which is served, learning a new one, how each did against its parent, and where it comes from."""

from __future__ import annotations

from html import escape

import streamlit as st

from core.errors import UniMedError
from core.feedback.gate import EVEN, Gate
from core.feedback.people import Person
from core.feedback.versions import CANDIDATE, PROMOTED, VersionInfo
from studio import context
from studio.base import Base, base
from studio.views import learning, lineage, projects

STATES = {"candidate": "candidate", "promoted": "served now", "retired": "retired"}
SEEN = "⚠ It has learned from something that was withdrawn since."


def show(person: Person) -> None:
    st.header("Versions")
    try:
        versions, below = context.store().versions.all(), base()
        if "of" in st.query_params:
            lineage.show(person, versions)
        _served(person, versions, below)
        learning.show(person, versions, below)
        st.subheader("Learned versions")
        if not versions:
            st.info("Nothing was learned yet. Rate, make a snapshot, and learn from it: that gives the first one.")
        for version in versions:
            with st.container(border=True):
                _one(person, version, versions, below)
        if versions and "of" not in st.query_params:
            lineage.show(person, versions)
    except UniMedError as error:
        context.problem(error)


def _served(person: Person, versions: list[VersionInfo], below: Base) -> None:
    st.subheader("What is served")
    served = next((one for one in versions if one.state == PROMOTED), None)
    if served is None:
        context.heading(below.name)
        st.write("The base checkpoint: no learned version is promoted.")
        return
    context.heading(served.name)
    st.write(f"Promoted {served.promoted_at:%Y-%m-%d %H:%M} UTC.")
    if served.tainted:
        st.warning(f"{SEEN} Go back, or learn again without it.")
    former = context.store().versions.former()
    told = former or f"the base, {below.name}"
    with st.form("roll back", border=False):
        reason = st.text_input("Why it should go", max_chars=500)
        if st.form_submit_button(f"Go back to {told}"):
            try:
                back = context.store().versions.roll_back(person, reason)
                context.done(f"{back or below.name} is served again.")
            except UniMedError as error:
                context.problem(error)


def _one(person: Person, version: VersionInfo, versions: list[VersionInfo], below: Base) -> None:
    context.heading(version.name, STATES[version.state])
    of = version.lineage
    st.caption(
        f"Made of {context.plain(of.parent)}, from the snapshot {of.snapshot[:8]} ({of.judgements:,} judgements), "
        f"{version.created_at:%Y-%m-%d %H:%M} UTC. {_recipe(version)}"
    )
    _warnings(person, version, versions, below)
    _measured(of.metrics)
    gate = context.store().versions.gate(version.id)
    _gate(person, version, gate)
    if version.state != PROMOTED:
        _decide(person, version, _missing(version, gate))
    with st.expander("How it learned"):
        learning.curve(version.name)
        st.json(of.recipe, expanded=False)
    context.link("Its lineage", "versions", of=version.name)


def _recipe(version: VersionInfo) -> str:
    order = context.runs().order(version.name)
    return f"Recipe: {order.recipe.removesuffix('.json')}." if order else ""


def _warnings(person: Person, version: VersionInfo, versions: list[VersionInfo], below: Base) -> None:
    """What is wrong with a version, and how it is learned again."""
    if version.tainted:
        st.warning(SEEN)
        if st.button("Learn again without it", key=f"without {version.id}"):
            _again(person, version, versions, below)
    elif below.fingerprint not in (None, version.lineage.base_fingerprint):
        of = version.lineage
        there, here = f"{of.base}, {of.base_fingerprint[:8]}", f"{below.name}, {below.fingerprint[:8]}"
        st.info(f"It was learned on another base ({there}) than the one that runs here ({here}).")
        if st.button("Learn it again on the new base", key=f"anew {version.id}"):
            _again(person, version, versions, below)


def _again(person: Person, version: VersionInfo, versions: list[VersionInfo], below: Base) -> None:
    """Fills the learning form in: the same recipe and parent, and the snapshot, made again where it was emptied."""
    store = context.store()
    try:
        snapshots = {one.id: one for one in store.snapshots.all(person)}
        snapshot = snapshots[version.snapshot_id]
        if snapshot.emptied:
            snapshot = store.snapshots.again(person, snapshot.id)
    except UniMedError as error:
        context.problem(error)
        return
    order, parent = context.runs().order(version.name), version.lineage.parent
    was_learned = any(one.name == parent for one in versions)
    asked = {
        "snapshot": snapshot.sha256,
        "base": parent if was_learned else "",
        "recipe": order.recipe if order else "",
    }
    st.query_params.from_dict(asked)
    lost = was_learned and parent not in learning.bases(versions, below)
    more = f" But its parent {parent} cannot be started from any more: learn that one again first." if lost else ""
    context.done(f"The form below is filled in as for {version.name}: press Learn from it.{more}")


def _measured(metrics: dict) -> None:
    """What the training measured, before anybody has looked."""
    if tasks := metrics.get("tasks"):
        rows = [
            {
                "task": f"⚠ {one.get('task')}: worse" if one.get("worse") else one.get("task"),
                "measure": one.get("metric"),
                "parent": one.get("old"),
                "this": one.get("new"),
                "the parent's 95% interval": _interval(one),
            }
            for one in tasks
        ]
        number = st.column_config.NumberColumn(format="%.3f")
        st.dataframe(rows, hide_index=True, column_config={"parent": number, "this": number}, alt="Tasks, measured")
    if why := metrics.get("stopped"):
        st.write(f"It ended early: {context.plain(str(why))}.")
    held_out = metrics.get("held_out") or {}
    for kind in ("text", "image"):
        if pairs := held_out.get(f"{kind}_pairs"):
            right, margin = held_out.get(f"{kind}_accuracy", 0), held_out.get(f"{kind}_margin", 0)
            st.write(
                f"On {pairs:,} pairs of {kind}s that were held out, the chosen side gained more than the rejected one "
                f"in {right:.0%}, by {margin:.4g} in the mean."
            )


def _interval(one: dict) -> str:
    low, high = one.get("low"), one.get("high")
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _gate(person: Person, version: VersionInfo, gate: Gate) -> None:
    """How people have compared it with its parent, without knowing which is which."""
    project = next((one for one in context.store().projects.of(person) if one.id == version.project_id), None)
    st.markdown(f"**Compared blindly with {context.plain(version.lineage.parent)}**")
    if gate.rate is None:
        st.write("Nobody's comparisons count yet." if project else "There is no comparison yet.")
    else:
        items = gate.wins + gate.ties + gate.losses
        st.write(
            f"{gate.wins:,} wins, {gate.ties:,} ties, {gate.losses:,} losses on {items:,} requests. It wins "
            f"{gate.rate:.0%} (95% interval: {gate.low:.0%} to {gate.high:.0%}; a tie counts as half a win)."
        )
        st.html(_drawn(gate))
    if project:
        with st.expander(f"The project: {project.name}, {project.items} items, {project.state}"):
            projects.one(person, project)


def _drawn(gate: Gate) -> str:
    """The interval and the rate on a scale from 0 to 100%, with a line at 50%."""
    told = f"Win rate {gate.rate:.0%}, 95% interval {gate.low:.0%} to {gate.high:.0%}, on a scale with a line at 50%"
    ground = "position: absolute; background: currentColor"
    return (
        f"<div role='img' aria-label='{escape(told)}' style='max-width: 32rem; margin: 0.2rem 0.5rem'>"
        "<div style='position: relative; height: 1.6rem'>"
        f"<div style='{ground}; opacity: 0.25; left: 0; right: 0; top: 0.75rem; height: 2px'></div>"
        f"<div style='{ground}; left: 50%; top: 0; bottom: 0; width: 2px; margin-left: -1px'></div>"
        f"<div style='position: absolute; background: #0f9488; left: {gate.low:.2%}; width: {gate.high - gate.low:.2%};"
        " top: 0.55rem; height: 0.5rem; border-radius: 0.25rem'></div>"
        f"<div style='{ground}; left: {gate.rate:.2%}; top: 0.3rem; height: 1rem; width: 0.3rem; margin-left: -0.15rem'"
        "></div></div><div style='display: flex; justify-content: space-between; font-size: 0.8rem'>"
        "<span>0%</span><span>50%</span><span>100%</span></div></div>"
    )


def _missing(version: VersionInfo, gate: Gate) -> str:
    """What keeps it from being promoted; empty where nothing does."""
    if version.tainted:
        return "it has learned from something that was withdrawn. Learn again without it."
    if version.project_id is None:
        return "it was not compared with its parent: nobody asked for that, or both answer every request alike."
    if gate.low is None:
        return "nobody's comparisons count yet. Let people take part in the project above, and have it open."
    if gate.low <= EVEN:
        lower = f"the lower end of the interval, {gate.low:.0%}, must lie above 50%"
        return f"{lower}. Let more be compared, or learn from more."
    return ""


def _decide(person: Person, version: VersionInfo, missing: str) -> None:
    store = context.store().versions
    with st.form(f"decide {version.id}", border=False):
        if missing:
            st.write(f"It cannot be promoted yet: {missing}")
        reason = st.text_input("Reason", max_chars=500, placeholder="for the log")
        row = st.container(horizontal=True)
        new = version.state == CANDIDATE
        again = "Promote" if new else "Promote again"
        promote = row.form_submit_button(again, type="primary", disabled=bool(missing))
        retire = new and row.form_submit_button("Retire")
    try:
        if promote:
            store.promote(person, version.id, reason)
            context.done(f"{version.name} is served from now on.")
        if retire:
            store.retire(person, version.id, reason)
            context.done(f"{version.name} is put aside.")
    except UniMedError as error:
        context.problem(error)
