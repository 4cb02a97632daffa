"""Rating and adjudicating: the projects that somebody takes part in, and the board."""

from __future__ import annotations

import streamlit as st

from core.errors import UniMedError
from core.feedback.people import Person
from studio import context


def show(person: Person, purpose: str) -> None:
    store = context.store()
    found = [project for project in store.projects.of(person) if project.state == "open"]
    mine = [project for project in found if store.projects.takes_part(person, project.id, purpose)]
    if not mine:
        own = " Make one under Projects, let people take part, and open it." if person.role == "maintainer" else ""
        st.info(f"No project waits for you. A maintainer opens one and lets you take part.{own}")
        return
    names = {project.id: project.name for project in mine}
    chosen = mine[0].id
    if len(mine) > 1:
        chosen = st.selectbox("Project", list(names), format_func=names.get)
    try:
        context.board(chosen, purpose)
    except UniMedError as error:
        context.problem(error)
