"""Making, filling, opening and closing projects."""

from __future__ import annotations

from pathlib import PurePosixPath

import streamlit as st

from core.errors import UniMedError
from core.feedback.imports import IMPORTS
from core.feedback.people import Person
from core.feedback.projects import SOURCES, NewItem, ProjectInfo
from core.feedback.rubric import DESIGNS, RUBRICS, Plan, Rubric
from core.feedback.studio_models import KINDS, PURPOSES
from studio import context

QUESTIONS = {
    "rate": "Rate one output",
    "compare": "Compare outputs of one request",
    "correct": "Correct a text",
}
FILES = "files"
ORIGINS = {
    "models": "All that models have made and that was imported",
    "demo": "What visitors of the demo have kept",
    "runs": "What maintainers ran",
    "imports": "What was imported before",
    "corrections": "Corrections by visitors of the demo",
    FILES: "Files of mine",
}
FILE_KINDS = {
    "folder": "Pictures or DICOM", "records": "Records (JSONL)", "label_studio": "Label Studio's tasks",
    "coco": "COCO: images with polygons or masks",
}  # fmt: skip
PARTS = {"judge": "Raters", "adjudicate": "Adjudicators"}
WAYS = {
    "open": "Open: an item goes to whoever is free",
    "crossed": "Fully crossed: everybody rates everything",
    "split": "Split-plot: readers and items in groups",
}


def show(person: Person) -> None:
    st.header("Projects")
    found = context.store().projects.of(person)
    if not found:
        st.info("There is no project yet. Make the first one below.")
    for line in st.session_state.pop("left out", []):
        st.warning(line)
    for project in found:
        with st.expander(f"{project.name} – {QUESTIONS[project.kind].lower()}, {project.items} items, {project.state}"):
            one(person, project)
    st.subheader("New project")
    with st.container(border=True):
        _new(person, found)


def one(person: Person, project: ProjectInfo) -> None:
    """Who takes part in a project, and whether it is open."""
    store = context.store()
    try:
        plan, criteria = project.plan, ", ".join(criterion.name for criterion in project.rubric.criteria)
        each = "1 person" if plan.overlap == 1 else f"{plan.overlap} people"
        people = f", {each} to an item" if plan.design == "open" else ""
        st.caption(f"{WAYS[plan.design]}{people}. Criteria: {criteria or 'none'}.")
        if project.state != "open" and st.button("Open to its raters", key=f"open-{project.id}"):
            store.projects.change_state(person, project.id, "open")
            context.done(f"{project.name} is open to its raters.")
        if project.state == "open" and st.button("Close", key=f"close-{project.id}"):
            store.projects.change_state(person, project.id, "closed")
            context.done(f"{project.name} is closed.")
        members = store.projects.members(person, project.id)
        for purpose in PURPOSES:
            names = ", ".join(login for login, part in members if part == purpose) or "nobody yet"
            st.write(f"{PARTS[purpose]}: {names}")
        taken = {login for login, _ in members}
        people = {one.id: one.login for one in store.people.everyone(person) if one.login not in taken}
        if not people:
            return
        with st.form(f"member-{project.id}", border=False):
            who = st.multiselect("People", list(people), format_func=people.get)
            purpose = st.selectbox("take part as", PURPOSES, format_func=PARTS.get)
            if st.form_submit_button("Let them take part"):
                for user_id in who:
                    store.projects.add_member(person, project.id, user_id, purpose)
                names = ", ".join(people[one] for one in who) or "Nobody was chosen, so nobody"
                context.done(f"{names}: {PARTS[purpose].lower()} of {project.name}.")
    except UniMedError as error:
        context.problem(error)


def _new(person: Person, there: list[ProjectInfo]) -> None:
    made = len(there)  # an empty form once one is made
    name = st.text_input("Name", max_chars=200, key=f"name-{made}")
    first, second = st.columns(2)
    kind = first.selectbox("What is asked", KINDS, format_func=QUESTIONS.get)
    rubric = _rubric(second, kind)
    source = st.selectbox(
        "What is judged", [*(SOURCES if kind == "rate" else SOURCES[:1]), FILES], format_func=ORIGINS.get
    )
    try:
        if source == FILES:
            files, found = _files(made), []
        else:
            files, found = None, _outputs(person, kind, source)
            st.write(f"{len(found)} items." if found else "There are no such outputs in the store.")
        found += _gold(person, kind, there)
        plan, repeats = _plan()
        if not st.button("Make it", type="primary", disabled=not (found or files)):
            return
        if files:
            found += _imported(person, files, kind, rubric)
        every = round(100 / repeats) if repeats else 0
        items = [NewItem(i.response_ids, i.gold, bool(every) and n % every == 0) for n, i in enumerate(found)]
        context.store().projects.make(person, name, kind, rubric, plan, items)
        context.done(f"{name} is made, with {len(items)} items. Let people take part, and open it.")
    except UniMedError as error:
        context.problem(error)


def _files(made: int) -> tuple[str, list] | None:
    """What a browser sends, and what it is."""
    kind = st.selectbox("Which files are they", IMPORTS, format_func=FILE_KINDS.get)
    sent = st.file_uploader("Files, or a zip of them", accept_multiple_files=True, key=f"files-{made}")
    return (kind, sent) if sent else None


def _imported(person: Person, files: tuple[str, list], asks: str, rubric: Rubric) -> list[NewItem]:
    kind, sent = files
    contents = _named(sent)
    with st.spinner("Reading the files"):
        imported = context.store().imports.read(person, kind, contents, asks=asks, rubric=rubric)
    if imported.losses:
        st.session_state["left out"] = imported.lines()
    return imported.items


def _named(sent: list) -> dict[str, bytes]:
    """What was sent by its names; of equal ones, as out of several folders, all but the first get a number."""
    contents: dict[str, bytes] = {}
    for file in sent:
        name, n, path = file.name, 1, PurePosixPath(file.name)
        while name in contents:
            n += 1
            name = f"{path.stem} ({n}){path.suffix}"
        contents[name] = file.getvalue()
    return contents


def _rubric(place: st.delta_generator.DeltaGenerator, kind: str) -> Rubric:
    fitting = {"rate": list(RUBRICS), "compare": ["image", "edit", "text"], "correct": ["text"]}[kind]
    whole = RUBRICS[place.selectbox("Rubric", fitting)]
    names = [criterion.name for criterion in whole.criteria]
    asked = st.multiselect("Criteria", names, names) if kind != "correct" else names
    return Rubric(tuple(c for c in whole.criteria if c.name in asked), whole.defects, whole.errors)


def _outputs(person: Person, kind: str, source: str) -> list[NewItem]:
    """What is to be judged, out of all that is in the store."""
    projects, columns = context.store().projects, st.columns(3)
    of = "text" if kind == "correct" else columns[0].selectbox("Outputs", ["image", "text"])
    task = columns[1].text_input("Only of the task", placeholder="for example super_resolution").strip()
    count = int(columns[2].number_input("Items at most", 1, 100_000, 100))
    if kind == "compare":
        size = int(columns[0].number_input("Outputs to compare", 2, 8, 2, help="Of one request, blind and mixed."))
        return [NewItem(group) for group in projects.groups(person, of, task, size, count)]
    return [NewItem((one,)) for one in projects.responses(person, of, task, count, source)]


def _gold(person: Person, kind: str, there: list[ProjectInfo]) -> list[NewItem]:
    """Items whose right answer is known, out of another project."""
    names = {project.id: project.name for project in there if project.kind == kind}
    if not names:
        return []
    none = "none"
    told = "They come among the others, and show how often a rater is right."
    chosen = st.selectbox(
        "With the gold items of the project", [none, *names], format_func=lambda one: names.get(one, none), help=told
    )
    return [] if chosen == none else context.store().projects.gold_items(person, chosen)


def _plan() -> tuple[Plan, int]:
    """How items come to raters, and how many of them twice, in per cent."""
    design = st.selectbox("Design", DESIGNS, format_func=WAYS.get)
    with st.expander("More: overlap, repeats, order, time for corrections"):
        columns = st.columns(2)
        overlap = columns[0].number_input("People to an item", 1, 20, 2, disabled=design != "open")
        groups = columns[1].number_input("Groups", 2, 20, 2, disabled=design != "split")
        repeats = columns[0].slider("Items that come twice, in per cent", 0, 50, 0)
        washout = columns[1].number_input("Days between the first time and the second", 0.0, 365.0, 14.0)
        seed = columns[0].number_input("Seed of the order", 0, 2**31 - 1, 0)
        apart = columns[1].number_input("Difference of scores that calls for an adjudicator", 1, 4, 2)
        lease = columns[0].number_input("Minutes until an item goes to others", 1.0, 10_000.0, 60.0)
        correction = columns[1].number_input("Hours in which a judgement may be revised", 0.0, 1000.0, 24.0)
    plan = Plan(design=design, overlap=int(overlap), groups=int(groups), order_seed=int(seed), washout_days=washout,
                lease_minutes=lease, correction_minutes=60 * correction, dispute_range=int(apart))  # fmt: skip
    return plan, repeats
