"""How projects stand: pace, gold items, repeats, agreement with its weights and intervals; the items; and exports."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from core.errors import UniMedError
from core.feedback.agreement import Agreement, Strengths, bootstrapped, bradley_terry
from core.feedback.columns import by_day, columns
from core.feedback.export import COCO, LAYOUTS, described
from core.feedback.people import Person
from core.feedback.projects import ProjectInfo
from core.feedback.regions import RegionAgreement, region_agreement
from core.feedback.rubric import SCALE
from core.feedback.standing import RaterStanding, contests, spread, standings, table
from studio import context
from studio.views import items

FOREST = {
    "mark": {"type": "point", "filled": True, "size": 70, "color": "#0f766e"},
    "encoding": {
        "y": {
            "field": "statistic",
            "type": "nominal",
            "sort": None,
            "title": None,
            "axis": {"labelLimit": 160, "labelOverlap": False},
        },
        "x": {"field": "value", "type": "quantitative", "title": "value, with its 95% interval"},
    },
}
"""A row for each statistic: its value, and a line from the lower to the upper end of the interval."""


@dataclass(frozen=True)
class Figures:
    """All that the page shows of a criterion. ``scores``: a row for each of ``raters``, shares of 1 to 5."""

    standings: list[RaterStanding]
    agreement: list[Agreement]
    models: list[str]
    strengths: Strengths | None
    raters: list[str]
    scores: list[list[float]]
    totals: list[int]
    days: dict[str, int]


def show(person: Person) -> None:
    st.header("Progress and export")
    projects = {project.id: project for project in context.store().projects.of(person)}
    if not projects:
        st.info("There is no project yet.")
        return
    chosen = st.selectbox("Project", list(projects), format_func=lambda one: projects[one].name)
    project = projects[chosen]
    names = [criterion.name for criterion in project.rubric.criteria] if project.kind != "correct" else []
    criterion = st.selectbox("Criterion", names, index=len(names) - 1) if names else None
    newest, _ = context.store().log_head()
    found = _figures(chosen, project.kind, criterion, newest)
    if not found.standings:
        st.info("Nothing is judged yet.")
        return
    _raters(found)
    if criterion is not None:
        _agreement(project, found)
    if project.kind == "rate" and project.rubric.defects:
        _regions(chosen, newest)
    items.show(person, project)
    _export(person, project)


@st.cache_data(max_entries=32, show_spinner="Reading what was said")
def _figures(project_id: str, kind: str, criterion: str | None, newest: int) -> Figures:
    """Computed again once something new is logged."""
    database = context.store().database
    said = columns(database, project_id, criterion)
    raters, _, values = table(said)
    agreement, scored = [], kind == "rate"
    if criterion is not None and values.size:
        agreement = bootstrapped(values, ordered=scored, categories=SCALE if scored else None)
    models, *outcomes = contests(said) if kind == "compare" else ([],)
    strengths = bradley_terry(*outcomes, seed=0) if len(models) > 1 else None
    scores = spread(values, SCALE).tolist() if scored else []
    totals = [int((values == one).sum()) for one in SCALE] if scored else []
    return Figures(
        standings(said), agreement, models, strengths, raters, scores, totals, by_day(database, project_id)
    )  # fmt: skip


@st.cache_data(max_entries=32, show_spinner="Laying marks over each other")
def _marked(project_id: str, newest: int) -> RegionAgreement:
    return region_agreement(context.store().database, project_id)


def _raters(found: Figures) -> None:
    st.subheader("Raters")
    scores = dict(zip(found.raters, found.scores, strict=False))
    rows = [
        {
            "rater": one.rater,
            "done": one.done,
            "median seconds": round(one.seconds, 1),
            "right on gold items": _percent(one.gold),
            "alike the second time": _percent(one.repeats),
            "cannot judge": _percent(one.unable),
        }
        | ({"scores 1 to 5": scores.get(one.rater, [])} if scores else {})
        for one in found.standings
    ]
    bars = {"scores 1 to 5": st.column_config.BarChartColumn(y_min=0, y_max=1)}
    st.dataframe(rows, hide_index=True, column_config=bars if scores else None)
    with st.expander("Ratings per day"):
        days = [{"day": day, "ratings": count} for day, count in found.days.items()]
        st.bar_chart(days, x="day", y="ratings", color="#0f766e", height=220)


def _agreement(project: ProjectInfo, found: Figures) -> None:
    st.subheader("Agreement")
    if all(one.value is None for one in found.agreement):
        st.info("There is no agreement to speak of yet: it takes two raters who have judged the same items.")
        return
    rows = [
        {
            "statistic": one.name,
            "weights": one.weights,
            "value": one.value,
            "95% interval": "" if one.low is None else f"{one.low:.3f} to {one.high:.3f}",
            "items": one.items,
            "raters": one.raters,
        }
        for one in found.agreement
    ]
    number = st.column_config.NumberColumn(format="%.3f")
    st.dataframe(rows, hide_index=True, column_config={"value": number})
    _forest(found.agreement)
    st.write(
        "Several statistics stand side by side because skewed scores pull them apart: look at all of them. Intervals: "
        "percentile bootstrap, 1,000 draws of whole items; items with equal ratings are drawn together."
    )
    if project.kind == "rate":
        with st.expander("How often each score was given"):
            totals = [{"score": one, "ratings": count} for one, count in zip(SCALE, found.totals, strict=True)]
            st.bar_chart(totals, x="score", y="ratings", color="#0f766e", height=220)
    else:
        _strengths(found)


def _forest(agreement: list[Agreement]) -> None:
    known = [one for one in agreement if one.value is not None]
    if not known:
        return
    rows = [{"statistic": one.name, "value": one.value, "low": one.low, "high": one.high} for one in known]
    line = {"mark": {"type": "rule", "size": 2, "color": "#0f766e"}, "encoding": {
        **FOREST["encoding"], "x": {**FOREST["encoding"]["x"], "field": "low"}, "x2": {"field": "high"},
    }}  # fmt: skip
    st.vega_lite_chart(rows, {"layer": [line, FOREST], "height": 34 * len(rows) + 40})


def _strengths(found: Figures) -> None:
    """Who wins, where different versions were compared."""
    strengths = found.strengths
    if strengths is None or strengths.values is None:
        return
    rows = [
        {"version": name, "log strength": round(value, 3), "95% interval": f"{low:.3f} to {high:.3f}"}
        for name, value, low, high in zip(found.models, strengths.values, strengths.low, strengths.high, strict=True)
    ]
    st.dataframe(rows, hide_index=True)
    st.caption(
        f"Bradley-Terry with ties (Davidson). {strengths.comparisons} comparisons, {strengths.tie_rate:.0%} ties."
    )


def _regions(project_id: str, newest: int) -> None:
    st.subheader("Marked regions")
    found = _marked(project_id, newest)
    if found.dice is None:
        st.write("No two raters have judged an image on which one of them has marked something.")
        return
    both = (
        ""
        if found.both is None
        else f" Where both have marked something it is {found.both:.2f} ({found.both_pairs:,})."
    )
    sample = f", a sample of {found.marked:,}" if found.items < found.marked else ""
    st.write(
        f"Mean Dice between two raters of an image: **{found.dice:.2f}**, over {found.pairs:,} pairs of whom one at "
        f"least has marked something, on {found.items:,} images{sample}.{both}"
    )


def _export(person: Person, project: ProjectInfo) -> None:
    st.subheader("Export")
    layout = st.radio("Layout", LAYOUTS, LAYOUTS.index("label_studio"), horizontal=True)
    st.caption(described(layout))
    ending = ".json" if layout == COCO else st.radio("File", [".jsonl", ".csv", ".parquet"], horizontal=True)
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
