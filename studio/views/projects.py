"""Making, filling, opening and closing projects."""

from __future__ import annotations

import streamlit as st

from core.errors import UniMedError
from core.feedback.people import Person
from core.feedback.projects import NewItem, ProjectInfo
from core.feedback.rubric import DESIGNS, RUBRICS, Plan
from core.feedback.studio_models import KINDS, PURPOSES
from studio import context

QUESTIONS = {
    "rate": "Rate one output",
    "compare": "Compare outputs of one request",
    "correct": "Correct a text",
}


def show(person: Person) -> None:
    st.header("Projects")
    found = context.store().projects.of(person)
    if not found:
        st.info("There is no project yet. Make the first one below.")
    for project in found:
        with st.expander(f"{project.name} – {QUESTIONS[project.kind].lower()}, {project.items} items, {project.state}"):
            _one(person, project)
    _new(person)


def _one(person: Person, project: ProjectInfo) -> None:
    store = context.store()
    try:
        columns = st.columns(3)
        if project.state != "open" and columns[0].button("Open to its raters", key=f"open-{project.id}"):
            store.projects.change_state(person, project.id, "open")
            st.rerun()
        if project.state == "open" and columns[0].button("Close", key=f"close-{project.id}"):
            store.projects.change_state(person, project.id, "closed")
            st.rerun()
        people = {one.id: one.login for one in store.people.everyone(person)}
        with st.form(f"member-{project.id}", border=False):
            who = st.multiselect("People", list(people), format_func=people.get)
            purpose = st.selectbox("take part to", PURPOSES)
            if st.form_submit_button("Let them take part"):
                for user_id in who:
                    store.projects.add_member(person, project.id, user_id, purpose)
                st.rerun()
    except UniMedError as error:
        context.problem(error)


def _new(person: Person) -> None:
    store = context.store()
    with st.form("new", border=True):
        st.subheader("New project")
        name = st.text_input("Name")
        kind = st.selectbox("What is asked", KINDS, format_func=QUESTIONS.get)
        rubric = st.selectbox("Rubric", list(RUBRICS))
        of = st.selectbox("Outputs", ["image", "text"])
        task = st.text_input("Only of the task", placeholder="all, or for example super_resolution")
        count = st.number_input("Items at most", 1, 100_000, 100)
        design = st.selectbox("Design", DESIGNS, help="open: each item to as many people as the overlap says; crossed: "
                              "all to everybody; split: readers and items in groups")  # fmt: skip
        overlap = st.number_input("Overlap", 1, 20, 2)
        repeats = st.slider("Items that come twice, in per cent", 0, 50, 0)
        washout = st.number_input("Days between the two", 0.0, 365.0, 14.0)
        if st.form_submit_button("Make it"):
            try:
                plan = Plan(design=design, overlap=int(overlap), washout_days=float(washout))
                if kind == "compare":
                    found = [NewItem(pair) for pair in store.projects.groups(person, of, task.strip(), limit=int(count))]
                else:
                    ids = store.projects.responses(person, of, task.strip(), int(count))
                    every = round(100 / repeats) if repeats else 0
                    found = [NewItem((one,), repeated=bool(every) and i % every == 0) for i, one in enumerate(ids)]
                if not found:
                    st.error("There are no such outputs in the store.")
                    return
                project_id = store.projects.make(person, name, kind, RUBRICS[rubric], plan)
                store.projects.add_items(person, project_id, found)
                st.rerun()
            except UniMedError as error:
                context.problem(error)
