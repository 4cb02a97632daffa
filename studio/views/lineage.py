"""Where a version comes from: judgements, snapshots, the versions it was made of, and those that were made of it."""

from __future__ import annotations

from collections.abc import Iterator

import streamlit as st

from core.feedback.outputs import made_by
from core.feedback.people import Person
from core.feedback.snapshots import SnapshotInfo
from core.feedback.versions import PROMOTED, Basis, VersionInfo
from studio import context

MOST_RATERS = 5
"""So many of a project are named in the drawing, those who said most; the table has all."""
GONE = "⚠ withdrawn since"
GRAPH = (
    'bgcolor="transparent" rankdir=TB nodesep=0.3 ranksep=0.4\n'
    'node [style="filled,rounded" shape=box fontname="sans-serif" fontsize=13 color="#0f766e" fillcolor="#e6f4f1" '
    'fontcolor="#10312d" margin="0.15,0.1"]\nedge [color="#7f8c8a" penwidth=1.5]'
)
"""Light boxes with dark words, which can be read on a light and on a dark page."""


def show(person: Person, versions: list[VersionInfo], names: dict[str, str]) -> None:
    """``names``: of projects, by their ids."""
    st.subheader("Lineage")
    asked = st.query_params.get("of", "")
    told = "An output's id, the SHA-256 of its picture, or the name of a version"
    wanted = st.text_input(told, asked, max_chars=200, key=f"of {asked}").strip()
    version = _found(wanted, versions) if wanted else _first(versions)
    if version is None:
        return
    snapshots = {one.id: one for one in context.store().snapshots.all(person)}
    basis = context.store().versions.judgements(version.id)
    st.write(f"{context.plain(version.name)}: {_sentence(version, basis)}")
    drawing = "\n".join(_dot(version, versions, snapshots, basis, names))
    st.graphviz_chart(
        drawing, alt=f"From judgements to {version.name}, and what was made of it: as in the tables below"
    )
    with st.expander("The same in words, with the recipe"):
        _words(version, versions, basis)


def _first(versions: list[VersionInfo]) -> VersionInfo | None:
    """The served one, or else the newest."""
    return next((one for one in versions if one.state == PROMOTED), versions[0] if versions else None)


def _found(wanted: str, versions: list[VersionInfo]) -> VersionInfo | None:
    """The version of that name, or that has made that output. Says so where there is none."""
    known = {one.name: one for one in versions}
    if wanted in known:
        return known[wanted]
    makers = made_by(context.store().database, wanted)
    if not makers:
        st.warning("There is no version and no output of that name in this store. Outputs are kept with consent only.")
        return None
    learned = [known[name] for name in makers if name in known]
    others = ", ".join(name for name in makers if name not in known)
    if others:
        st.info(f"Made by {context.plain(others)}, which was not learned here. Nothing that was said went into it.")
    if learned:
        st.write(f"Made by {context.plain(', '.join(one.name for one in learned))}.")
    return learned[0] if learned else None


def _sentence(version: VersionInfo, basis: list[Basis]) -> str:
    said, gone = sum(one.judgements for one in basis), sum(one.withdrawn for one in basis)
    raters, projects = len({(one.project, one.rater) for one in basis}), len({one.project for one in basis})
    counted = (said, "judgement"), (raters, "rater"), (projects, "project")
    words = "rests on {} by {} in {}".format(*(f"{n:,} {what}{'' if n == 1 else 's'}" for n, what in counted))
    return words + (f", of which {gone:,} were withdrawn since." if gone else ".")


def _line(version: VersionInfo, versions: list[VersionInfo]) -> list[VersionInfo]:
    """A version, all learned ones that it was made of, and all that were made of it."""
    known, line, parent = {one.name: one for one in versions}, [version], version.lineage.parent
    while parent in known and known[parent] not in line:
        line.append(known[parent])
        parent = known[parent].lineage.parent
    seen = {version.name}
    while more := [one for one in versions if one.lineage.parent in seen and one.name not in seen]:
        seen |= {one.name for one in more}
        line += more
    return line


def _dot(
    version: VersionInfo, versions: list[VersionInfo], snapshots: dict[str, SnapshotInfo], basis: list[Basis],
    names: dict[str, str],
) -> Iterator[str]:  # fmt: skip
    """The drawing, in the language of graphviz."""
    line = _line(version, versions)
    yield f"digraph {{\n{GRAPH}"
    for one in line:
        told = [one.name, "served now" if one.state == PROMOTED else one.state]
        yield _node(f"version {one.name}", told, gone=one.tainted, more="penwidth=3" if one is version else "")
        yield f"{_quoted(f'version {one.lineage.parent}')} -> {_quoted(f'version {one.name}')}"
        yield f"{_quoted(f'snapshot {one.snapshot_id}')} -> {_quoted(f'version {one.name}')}"
    for parent in {one.lineage.parent for one in line} - {one.name for one in line}:
        yield _node(f"version {parent}", [parent, "the base"])
    for snapshot in {one.snapshot_id: snapshots[one.snapshot_id] for one in line}.values():
        yield _node(
            f"snapshot {snapshot.id}", [f"Snapshot {snapshot.sha256[:8]}"], gone=snapshot.emptied, more="shape=folder"
        )
        for project in snapshot.rules.projects:
            yield f"{_quoted(f'project {names.get(project, project)}')} -> {_quoted(f'snapshot {snapshot.id}')}"
    for project in {names.get(of, of) for one in line for of in snapshots[one.snapshot_id].rules.projects}:
        said = sorted((one for one in basis if one.project == project), key=lambda one: -one.judgements)
        told = [f"Project {project}", *(f"{one.rater}: {_count(one)}" for one in said[:MOST_RATERS])]
        if len(said) > MOST_RATERS:
            told.append(f"and {len(said) - MOST_RATERS:,} more raters")
        yield _node(f"project {project}", told, gone=any(one.withdrawn for one in said), more='style="filled"')
    yield "}"


def _node(name: str, lines: list[str], *, gone: bool = False, more: str = "") -> str:
    """``gone``: something of it was withdrawn; it says so, with a dashed line."""
    style = 'style="filled,dashed" color="#b45309" fillcolor="#fff4e0" ' if gone else ""
    label = "\n".join(_short(line) for line in (*lines, *([GONE] if gone else [])))
    return f"{_quoted(name)} [label={_quoted(label)} {more} {style}]"


def _count(one: Basis) -> str:
    return f"{one.judgements:,}" + (f", {one.withdrawn:,} withdrawn" if one.withdrawn else "")


def _short(line: str) -> str:
    return line if len(line) <= 40 else f"{line[:39]}…"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _words(version: VersionInfo, versions: list[VersionInfo], basis: list[Basis]) -> None:
    rows = [
        {"project": one.project, "rater": one.rater, "judgements": one.judgements, "withdrawn since": one.withdrawn}
        for one in basis
    ]
    st.dataframe(rows, hide_index=True, alt="Judgements by project and rater")
    rows = [
        {
            "version": one.name, "state": one.state, "made of": one.lineage.parent, "snapshot": one.lineage.snapshot,
            "base": one.lineage.base, "": GONE if one.tainted else "",
        }
        for one in _line(version, versions)
    ]  # fmt: skip
    st.dataframe(rows, hide_index=True, alt="Versions of this line")
    st.json(version.lineage.recipe)
