"""Snapshots of what can be learned: making them, what is in them, and which lost something to a withdrawal."""

from __future__ import annotations

import streamlit as st

from core.errors import UniMedError
from core.feedback.people import Person
from core.feedback.snapshots import TEST, TRAIN, Rules, SnapshotInfo
from studio import context

KINDS = {"sft": "texts and pictures to imitate", "pair": "pairs", "unpaired": "good or bad samples"}


def show(person: Person) -> None:
    st.header("Snapshots")
    st.write(
        "What can be learned from judgements at one moment: never changed, named by its content, split by patient."
    )
    projects = {one.id: one.name for one in context.store().projects.of(person)}
    if not projects:
        st.info("There is no project yet.")
        return
    _make(person, projects)
    for snapshot in context.store().snapshots.all(person):
        with st.container(border=True):
            _one(person, snapshot, projects)


def _make(person: Person, projects: dict[str, str]) -> None:
    with st.form("make", border=True):
        chosen = st.multiselect("Projects", list(projects), format_func=projects.get)
        columns = st.columns(3)
        aside = "Nothing is learned from them. What a version makes of them shows whether it has learned."
        share = columns[0].number_input("Patients kept aside, in per cent", 0, 90, 20, help=aside)
        told = "The word of raters below it does not count. 0 trusts everybody."
        gold = columns[1].number_input(
            "Raters count from so much right on gold items, in per cent", 0, 100, 0, help=told
        )
        seed = columns[2].number_input("Seed of the split", 0, 2**31 - 1, 0)
        visitors = st.checkbox("Learn also from visitors of the demo, where a clinician has confirmed what they said")
        if not st.form_submit_button("Make a snapshot"):
            return
    try:
        rules = Rules(tuple(chosen), share / 100, int(seed), gold / 100, visitors)
        context.store().snapshots.make(person, rules)
        context.done("The snapshot is made.")
    except UniMedError as error:
        context.problem(error)


def counted(counts: dict) -> str:
    """How many signals of which kind there are to learn from, and how many are kept aside."""
    told = []
    for of, n in counts.items():
        kind, _, side = of.partition(", ")
        if kind in KINDS:
            told.append(f"{n:,} {KINDS[kind]} {'to learn from' if side == TRAIN else 'kept aside'}")
    if told and not any(of.endswith(f", {TEST}") for of in counts):
        told.append("nothing kept aside")
    return "; ".join(told)


def _one(person: Person, snapshot: SnapshotInfo, projects: dict[str, str]) -> None:
    names = ", ".join(projects.get(one, "a project that is gone") for one in snapshot.rules.projects)
    st.markdown(f"**{names}**, {snapshot.created_at:%Y-%m-%d %H:%M} UTC")
    st.code(snapshot.sha256, language=None, wrap_lines=True)
    left = snapshot.counts["left out"]
    st.write(counted(snapshot.counts))
    if left:
        st.caption("Left out: " + ", ".join(f"{n} ({reason})" for reason, n in left.items()))
    if snapshot.versions:
        st.write("Seen by the versions " + context.plain(", ".join(snapshot.versions)))
    if snapshot.emptied:
        st.warning("Something that it rests on was withdrawn: it was emptied.")
        if st.button("Make it again without that", key=snapshot.id):
            try:
                context.store().snapshots.again(person, snapshot.id)
                st.rerun()
            except UniMedError as error:
                context.problem(error)
    else:
        context.link("Learn from it", "versions", snapshot=snapshot.sha256)
