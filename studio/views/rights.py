"""Taking back what is kept of a person or a patient, and the log of all that was done."""

from __future__ import annotations

import streamlit as st

from core.errors import UniMedError
from core.feedback.people import Person
from core.feedback.rights import Withdrawn
from studio import context
from studio.views import learning

NEWEST, NEWEST_WITHDRAWALS = 200, 20


def show(person: Person) -> None:
    st.header("Rights and log")
    first, second = st.columns(2)
    with first.container(border=True):
        _person(person)
    with second.container(border=True):
        _patient(person)
    _withdrawals(person)
    _log(person)


def _person(person: Person) -> None:
    st.subheader("Withdraw a person")
    st.write(
        "Takes the name and all that they have said away, and ends the account where it has not ended before. "
        "It cannot be undone."
    )
    people = context.store().people.to_withdraw(person)
    with st.form("person", border=False):
        who = st.selectbox("Person", list(people), index=None, format_func=people.get)
        again = st.text_input("The name once more, to be sure")
        if not st.form_submit_button("Withdraw the person"):
            return
        if who is None or again.strip() != people[who]:
            st.error("The two names differ. Nothing was withdrawn.")
            return
        try:
            _done(person, context.store().withdraw_person(person, who))
        except UniMedError as error:
            context.problem(error)


def _patient(person: Person) -> None:
    st.subheader("Withdraw a patient")
    st.write("Deletes their pictures, what models made of them, and what was said of that. It cannot be undone.")
    with st.form("patient", border=False):
        told = "Where the examinations came from: file, or the name of an import."
        source = st.selectbox("Source", context.store().sources(person), index=None, help=told)
        patient = st.text_input("Patient", help="As it was there. Only its digest is kept and compared.")
        if not st.form_submit_button("Withdraw the patient"):
            return
        if source is None:
            st.error("Choose a source. Nothing was withdrawn.")
            return
        try:
            _done(person, context.store().withdraw_patient(person, source, patient.strip()))
        except UniMedError as error:
            context.problem(error)


def _done(person: Person, withdrawn: Withdrawn) -> None:
    told = f"Withdrawn: {withdrawn.generations} runs, {withdrawn.items} items, {withdrawn.judgements} judgements."
    told += " Snapshots that rested on them were emptied."
    seen = context.store().withdrawals(person, 1)[0].versions if withdrawn.judgements else []
    if not seen:
        context.done(f"{told} No learned version had seen them.")
    names = ", ".join(context.plain(one.name) for one in seen)
    context.done(f"{told} These versions had seen them: {names}.")


def _withdrawals(person: Person) -> None:
    st.subheader("Withdrawals")
    found = context.store().withdrawals(person, NEWEST_WITHDRAWALS)
    if not found:
        st.write("No judgement was withdrawn yet.")
    for one in found:
        seen = (
            f"seen by {len(one.versions)} of the learned versions:" if one.versions else "seen by no learned version."
        )
        st.write(f"{one.at:%Y-%m-%d %H:%M} UTC: {one.judgements:,} judgements, {seen}")
        for version in one.versions:
            context.link(f"{version.name} ({version.state})", "versions", of=version.name)
    if runs := learning.spoiled(person, context.store().versions.all(), context.runs().all()):
        st.warning(f"{learning.SPOILED} {', '.join(context.plain(name) for name in runs)}")
        context.link("To the runs", "versions")
    if any(one.versions for one in found):
        context.link("Learn again without what was withdrawn", "versions")


def _log(person: Person) -> None:
    st.subheader("Log")
    store = context.store()
    count, newest = store.log_head()
    st.write(f"{count} events, each chained to the one before. The hash of the newest, to be kept elsewhere:")
    st.code(newest, language=None, wrap_lines=True)
    if st.button("Check the log against the tables"):
        found = list(store.verify())
        if found:
            st.error("\n\n".join(["Something was changed behind the studio's back:", *found[:50]]))
        else:
            st.success("Every row that the log vouches for is as the studio left it.")
    events = store.events(person, NEWEST)
    rows = [
        {
            "number": event.seq,
            "when": event.at,
            "by the browser's clock": event.said_at,
            "who": event.who,
            "did": event.action,
            "to": f"{event.subject} {event.subject_id}",
            "before": _plain(event.before),
            "after": _plain(event.after),
            "reason": event.reason,
        }
        for event in events
    ]
    st.dataframe(rows, hide_index=True)
    if count > NEWEST:
        st.caption(f"The newest {NEWEST}.")


def _plain(of: dict | None) -> str:
    """Without the digest of the row, which is for the check."""
    return ", ".join(f"{name}: {value}" for name, value in (of or {}).items() if name != "sha256")
