"""Learned versions: which is served, learning a new one, how each did against its parent, and where it comes from."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

import streamlit as st

from core.config import COMPARE, records_file
from core.errors import UniMedError
from core.feedback.gate import EVEN, LEAST_ITEMS, Gate
from core.feedback.people import Person
from core.feedback.projects import ProjectInfo
from core.feedback.promotion import LARGER
from core.feedback.versions import CANDIDATE, PROMOTED, RETIRED, VersionInfo
from core.lineage import ADAPTER_FILES, is_learned
from core.model.fingerprint import learned_fingerprint
from studio import context
from studio.base import Base, base
from studio.runs import recipe_like
from studio.views import learning, lineage, projects, rewards

STATES = {"candidate": "candidate", "promoted": "served now", "retired": "retired"}
SEEN = "⚠ It has learned from something that was withdrawn since."
TAKEN_BACK = "Taken back"
"""Reason for going back where nobody writes another one: that must not wait for words."""


def show(person: Person) -> None:
    st.header("Versions")
    try:
        versions, below = context.store().versions.all(), base()
        known = {one.id: one for one in context.store().projects.of(person)}
        names = {project_id: one.name for project_id, one in known.items()}
        if "of" in st.query_params:
            lineage.show(person, versions, names)
        _served(person, versions, below)
        learning.show(person, versions, below, names)
        st.subheader("Learned versions")
        if not versions:
            st.info("Nothing was learned yet. Rate, make a snapshot, and learn from it: that gives the first one.")
        retired = [one for one in versions if one.state == RETIRED]
        for version in versions:
            if version not in retired:
                _one(person, version, versions, below, known)
        if retired:
            with st.expander(f"Retired versions: {len(retired)}"):
                for version in retired:
                    _one(person, version, versions, below, known)
        if versions and "of" not in st.query_params:
            lineage.show(person, versions, names)
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
    if why := _unusable(served, below):
        st.warning(f"The demo answers with {context.plain(below.name)} in its place: {why}")
    if served.tainted:
        st.warning(f"{SEEN} Go back, or learn again without it.")
    former = context.store().versions.former()
    told = context.plain(former) if former else f"the base, {context.plain(below.name)}"
    with st.form(f"roll back {served.id}", border=False):  # a press means the one that was shown, and no later one
        reason = st.text_input("Why it should go", TAKEN_BACK, max_chars=500)
        if st.form_submit_button(f"Go back to {told}"):
            try:
                back = context.store().versions.roll_back(person, reason, served.id)
                context.done(f"{context.plain(back or below.name)} is served again.")
            except UniMedError as error:
                context.problem(error)


def _one(
    person: Person, version: VersionInfo, versions: list[VersionInfo], below: Base, known: dict[str, ProjectInfo]
) -> None:  # fmt: skip
    of = version.lineage
    with st.container(border=True):
        context.heading(version.name, STATES[version.state])
        st.caption(
            f"Made of {context.plain(of.parent)}, from the snapshot {context.plain(of.snapshot[:8])} "
            f"({of.judgements:,} judgements), {version.created_at:%Y-%m-%d %H:%M} UTC. {_recipe(version)}"
        )
        _warnings(person, version, versions, below)
        _measured(of.metrics)
        gate = context.store().versions.gate(version.id)
        _gate(person, version, gate, known.get(version.project_id))
        if version.state != PROMOTED:
            _decide(person, version, _missing(version, gate, below))
        with st.expander("How it learned"):
            rewards.show(context.runs().rewards(version.name))
            st.json(of.recipe, expanded=False)
        context.link("Its lineage", "versions", of=version.name)


def _recipe(version: VersionInfo) -> str:
    about = str(version.lineage.recipe.get("about") or "")
    return f"Recipe: {context.plain(about)}." if about else ""


def _warnings(person: Person, version: VersionInfo, versions: list[VersionInfo], below: Base) -> None:
    """What is wrong with a version, and how it is learned again."""
    name = context.plain(version.name)
    if version.tainted:
        st.warning(SEEN)
        if st.button(f"Learn {name} again without it", key=f"without {version.id}"):
            _again(person, version, versions, below)
    elif below.fingerprint not in (None, version.lineage.base_fingerprint):
        of = version.lineage
        there, here = f"{of.base}, {of.base_fingerprint[:8]}", f"{below.name}, {below.fingerprint[:8]}"
        there, here = context.plain(there), context.plain(here)
        st.info(f"It was learned on another base ({there}) than the one that runs here ({here}).")
        if st.button(f"Learn {name} again on the new base", key=f"anew {version.id}"):
            _again(person, version, versions, below)
    if st.query_params.get("again") == version.name:
        st.markdown("[To the form, which is filled in](#learn)")


def _again(person: Person, version: VersionInfo, versions: list[VersionInfo], below: Base) -> None:
    """Fills the learning form in: the same recipe and parent, and the snapshot, made again where it was emptied."""
    store, runs = context.store(), context.runs()
    if going := next((run.name for run in runs.all() if run.state == "running"), None):
        st.info(f"One run at a time: ask again once {context.plain(going)} has ended.")
        return
    try:
        snapshots = {one.id: one for one in store.snapshots.all(person)}
        snapshot = snapshots[version.snapshot_id]
        if snapshot.emptied:
            snapshot = store.snapshots.again(person, snapshot.id)
    except UniMedError as error:
        context.problem(error)
        return
    order, parent, recipe = runs.order(version.name), version.lineage.parent, recipe_like(version.lineage.recipe)
    was_learned = any(one.name == parent for one in versions)
    asked = {"snapshot": snapshot.sha256, "base": parent if was_learned else "", "recipe": recipe}
    asked |= {"compare": str(order.compare if order else COMPARE), "again": version.name}
    st.query_params.from_dict(asked)
    told = f"The form below is filled in as for {context.plain(version.name)}: press Learn from it."
    if was_learned and parent not in learning.bases(versions, below):
        told += f" But its parent {context.plain(parent)} cannot be started from any more: learn that one again first."
    if not recipe:
        told += " But no recipe is the one that it was learned by: choose one."
    context.done(told)


def _measured(metrics: dict) -> None:
    """What the training measured, before anybody has looked."""
    if tasks := _tasks(metrics):
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
        st.write(f"It ended early, with its last save: {context.plain(_plainly(str(why)))}.")
    held_out = metrics.get("held_out") or {}
    for kind in ("text", "image"):
        said = [held_out.get(f"{kind}_{of}", 0) for of in ("pairs", "accuracy", "margin")]
        if said[0] and all(isinstance(one, int | float) for one in said):
            pairs, right, margin = said
            st.write(
                f"On {pairs:,} pairs of {kind}s that were kept aside, what people had chosen gained more than what "
                f"they had rejected in {right:.0%}, by {margin:.4g} in the mean."
            )


def _tasks(metrics: dict) -> list[dict]:
    return [one for one in metrics.get("tasks") or [] if isinstance(one, dict)]


def _plainly(why: str) -> str:
    """Why a run has ended early, without the words of the trade."""
    found = re.fullmatch(r"at step (\d+) .* (\d+) times in a row", why)
    told = "at step {} what people had chosen was less likely than before it learned, {} times in a row"
    return told.format(*found.groups()) if found else why


def _interval(one: dict) -> str:
    low, high = one.get("low"), one.get("high")
    return f"{low:.3f} to {high:.3f}" if isinstance(low, int | float) and isinstance(high, int | float) else ""


def _gate(person: Person, version: VersionInfo, gate: Gate, project: ProjectInfo | None) -> None:
    """How people have compared it with its parent, without knowing which is which."""
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
        with st.expander(f"The project: {context.plain(project.name)}, {project.items} items, {project.state}"):
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


def _unusable(version: VersionInfo, below: Base) -> str:
    """Why the demo cannot answer with a version; empty where it can."""
    of, folder = version.lineage, context.runs().folder(version.name)
    if below.fingerprint not in (None, of.base_fingerprint):
        return "it was learned on another base than the one that runs here. Learn it again on that one."
    if not is_learned(folder):
        return "its files are not here. Copy its folder to the other versions."
    try:
        stats = [(folder / name).stat() for name in ADAPTER_FILES if (folder / name).is_file()]
        written = tuple((one.st_size, one.st_mtime_ns, one.st_ino) for one in stats)
        is_same = _fingerprint(of.base_fingerprint, folder, written) == version.fingerprint
    except OSError:
        is_same = False
    return "" if is_same else "its files are not those that were registered. Copy its folder again."


@st.cache_data(max_entries=100, show_spinner=False)
def _fingerprint(base: str, folder: Path, written: tuple) -> str:
    """Of base and adapter together; read once, as long as sizes and times of the files stay (``written``)."""
    return learned_fingerprint(base, folder)


def _missing(version: VersionInfo, gate: Gate, below: Base) -> str:
    """What keeps it from being promoted; empty where nothing does."""
    if version.tainted:
        return "it has learned from something that was withdrawn. Learn again without it."
    if why := _unusable(version, below):
        return why
    if version.project_id is None:
        return (
            "it was not compared with its parent: there were no requests that it had not learned from, nobody asked "
            "for that, or both answer every request alike."
        )
    if gate.low is None:
        return "nobody's comparisons count yet. Let people take part in the project above, and have it open."
    if gate.open:
        return f"{gate.judged} of {gate.items} items of the comparison are judged, and all must be."
    if gate.counted < LEAST_ITEMS:
        return f"{gate.counted} items of the comparison count, and {LEAST_ITEMS} must. {LARGER}."
    if gate.low <= EVEN:
        lower = f"the lower end of the interval, {gate.low:.0%}, must lie above 50%"
        return f"{lower}. {LARGER}."
    of, now = version.lineage, context.store().versions.served()
    if now != (None if of.parent_fingerprint == of.base_fingerprint else of.parent):
        return f"it was compared with {context.plain(of.parent)}, and {context.plain(now or below.name)} is served."
    return ""


def _doubts(version: VersionInfo) -> str:
    """What whoever promotes it should know, and has to answer for with the reason."""
    tasks = _tasks(version.lineage.metrics)
    if not tasks:
        unset = " (UNIMED_RECORDS is not set)" if records_file() is None else ""
        return f"Its tasks were not measured{unset}."
    worse = [str(one.get("task")) for one in tasks if one.get("worse")]
    return f"It is worse than its parent at {context.plain(', '.join(worse))}." if worse else ""


def _decide(person: Person, version: VersionInfo, missing: str) -> None:
    store, name = context.store().versions, context.plain(version.name)
    with st.form(f"decide {version.id}", border=False):
        if missing:
            st.write(f"It cannot be promoted yet: {missing}")
        elif doubts := _doubts(version):
            st.warning(doubts)
        reason = st.text_input(f"Reason, about {name}", max_chars=500, placeholder="for the log")
        row = st.container(horizontal=True)
        new = version.state == CANDIDATE
        promote = row.form_submit_button(
            f"Promote {name}" if new else f"Promote {name} again", type="primary", disabled=bool(missing)
        )
        retire = new and row.form_submit_button(f"Retire {name}")
    try:
        if promote:
            store.promote(person, version.id, reason)
            context.done(f"{name} is served from now on.")
        if retire:
            store.retire(person, version.id, reason)
            context.done(f"{name} is put aside.")
    except UniMedError as error:
        context.problem(error)
