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
    chosen = mine[0].id
    if len(mine) > 1:
        names = {project.id: project.name for project in mine}
        if st.session_state.get(purpose) not in names:  # it stays when its last item is done
            st.session_state[purpose] = next((one for one in names if _waits(person, one, purpose)), chosen)
        chosen = st.selectbox("Project", list(names), format_func=names.get, key=purpose)
    try:
        context.board(chosen, purpose)
    except UniMedError as error:
        context.problem(error)


def _waits(person: Person, project_id: str, purpose: str) -> bool:
    """Whether a project has something for somebody."""
    progress = context.store().queue.progress(person, project_id, purpose)
    return progress.done < progress.total
