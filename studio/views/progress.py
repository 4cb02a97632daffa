"""How projects stand: pace, gold items, repeats, agreement with its weights; and exports."""

from __future__ import annotations

import tempfile
from pathlib import Path

import streamlit as st

from core.errors import UniMedError
from core.feedback.agreement import bootstrapped, bradley_terry
from core.feedback.columns import Columns, columns
from core.feedback.export import COCO, LAYOUTS, described
from core.feedback.people import Person
from core.feedback.projects import ProjectInfo
from core.feedback.rubric import SCALE
from core.feedback.standing import apart, contests, standings, table
from studio import context


def show(person: Person) -> None:
    st.header("Progress and export")
    projects = {project.id: project for project in context.store().projects.of(person)}
    if not projects:
        st.info("There is no project yet.")
        return
    chosen = st.selectbox("Project", list(projects), format_func=lambda one: projects[one].name)
    project = projects[chosen]
    criterion = None
    if project.kind != "correct":
        names = [criterion.name for criterion in project.rubric.criteria]
        criterion = st.selectbox("Criterion", names, index=len(names) - 1)
    newest, _ = context.store().log_head()
    said = _said(chosen, criterion, newest)
    if not len(said.value):
        st.info("Nothing is judged yet.")
        return
    _raters(said)
    if criterion is not None:
        _agreement(project, said)
    _export(person, project)


@st.cache_data(max_entries=8, show_spinner="Reading what was said")
def _said(project_id: str, criterion: str | None, newest: int) -> Columns:
    """What statistics need, until something new is logged."""
    return columns(context.store().database, project_id, criterion)


def _raters(said: Columns) -> None:
    st.subheader("Raters")
    rows = [
        {
            "rater": one.rater,
            "done": one.done,
            "median seconds": round(one.seconds, 1),
            "right on gold items": _percent(one.gold),
            "alike the second time": _percent(one.repeats),
            "cannot judge": _percent(one.unable),
        }
        for one in standings(said)
    ]
    st.dataframe(rows, hide_index=True)


def _agreement(project: ProjectInfo, said: Columns) -> None:
    st.subheader("Agreement")
    raters, items, values = table(said)
    scored = project.kind == "rate"
    rows = [
        {
            "statistic": one.name,
            "weights": one.weights,
            "value": one.value,
            "95% interval": "" if one.low is None else f"{one.low:.3f} to {one.high:.3f}",
            "items": one.items,
            "raters": one.raters,
        }
        for one in bootstrapped(values, ordered=scored, categories=SCALE if scored else None)
    ]
    st.dataframe(rows, hide_index=True)
    st.caption("Several statistics stand side by side because skewed scores pull them apart: look at all of them.")
    if not scored:
        _strengths(said)
    far = apart(values, 2) if scored else []
    if len(far):
        with st.expander(f"Items on which raters lie two or more apart: {len(far)}"):
            lines = [{"item": items[n], **dict(zip(raters, values[:, n], strict=True))} for n in far[:200]]
            st.dataframe(lines, hide_index=True)


def _strengths(said: Columns) -> None:
    """Who wins, where different versions were compared."""
    models, *outcomes = contests(said)
    strengths = bradley_terry(*outcomes, seed=0) if len(models) > 1 else None
    if strengths is None or strengths.values is None:
        return
    rows = [
        {"version": name, "log strength": round(value, 3), "95% interval": f"{low:.3f} to {high:.3f}"}
        for name, value, low, high in zip(models, strengths.values, strengths.low, strengths.high, strict=True)
    ]
    st.dataframe(rows, hide_index=True)
    st.caption(
        f"Bradley-Terry with ties (Davidson). {strengths.comparisons} comparisons, {strengths.tie_rate:.0%} ties."
    )


def _export(person: Person, project: ProjectInfo) -> None:
    st.subheader("Export")
    layout = st.selectbox("Layout", LAYOUTS)
    st.caption(described(layout))
    ending = ".json" if layout == COCO else st.selectbox("File", [".jsonl", ".csv", ".parquet"])
    if st.button("Prepare the file"):
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"{layout}{ending}"
                losses = context.store().exports.write(person, project.id, layout, path)
                content = path.read_bytes()
        except UniMedError as error:
            context.problem(error)
            return
        left = ", ".join(f"{count} ({reason})" for reason, count in losses.items())
        st.write(f"Left out: {left}." if left else "Nothing was left out.")
        st.download_button("Download", content, path.name, on_click="ignore")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"
