"""How a run has moved: a drawing, its last values in words, and the same as a table for who cannot see it."""

from __future__ import annotations

from html import escape

import streamlit as st

SERIES = {
    "image_chosen": "images, chosen", "image_rejected": "images, rejected",
    "text_chosen": "texts, chosen", "text_rejected": "texts, rejected",
}  # fmt: skip
TOLD = (
    "How much more likely than at its beginning the model makes what people chose, and what they rejected. While it "
    "learns, the lines of one kind should part, with the chosen one on top."
)
MOST_ROWS = 12
"""So many steps are read out."""
UNSEEN = "position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%)"


def show(rows: list[dict]) -> None:
    """
    Args:
        rows: what was measured, one for each step; nothing is shown where there is no number.
    """
    points = [
        {"step": row["step"], "gain": row[key], "of": told}
        for row in rows
        for key, told in SERIES.items()
        if isinstance(row.get(key), int | float)
    ]
    if not points:
        return
    kinds = [told for told in SERIES.values() if any(row["of"] == told for row in points)]
    _draw(points, kinds)
    st.caption(f"{TOLD} {_last(points, kinds)}")
    st.html(_table(points, kinds))


def _draw(points: list[dict], kinds: list[str]) -> None:
    dash = [[1, 0] if told.endswith("chosen") else [6, 4] for told in kinds]
    colours = ["#0f9488" if told.startswith("images") else "#d97706" for told in kinds]
    legend = {"orient": "bottom", "columns": 2, "symbolType": "stroke", "symbolSize": 250}
    legend |= {"columnPadding": 6, "labelFontSize": 11}  # a phone has room for two columns then
    of = {"field": "of", "type": "nominal", "title": None, "sort": kinds}
    st.vega_lite_chart(points, {
        "height": 320,
        "mark": {"type": "line", "strokeWidth": 2, "point": len({row["step"] for row in points}) == 1},
        "encoding": {
            "x": {"field": "step", "type": "quantitative", "axis": {"tickMinStep": 1}},
            "y": {"field": "gain", "type": "quantitative", "title": "more likely than at first"},
            "color": of | {"scale": {"domain": kinds, "range": colours}, "legend": legend},
            "strokeDash": of | {"scale": {"domain": kinds, "range": dash}, "legend": legend},
        },
    })  # fmt: skip


def _last(points: list[dict], kinds: list[str]) -> str:
    last = {row["of"]: row["gain"] for row in points}
    values = "; ".join(f"{told} {last[told]:.3g}" for told in kinds)
    return f"At step {points[-1]['step']:,}: {values}."


def _table(points: list[dict], kinds: list[str]) -> str:
    """A table that only screen readers find."""
    steps = sorted({row["step"] for row in points})
    some = {steps[n * (len(steps) - 1) // max(1, MOST_ROWS - 1)] for n in range(MOST_ROWS)}
    values = {(row["step"], row["of"]): f"{row['gain']:.3g}" for row in points}
    head = "".join(f"<th scope='col'>{escape(of)}</th>" for of in ("step", *kinds))
    body = ""
    for step in sorted(some):
        cells = "".join(f"<td>{values.get((step, of), '')}</td>" for of in kinds)
        body += f"<tr><th scope='row'>{step}</th>{cells}</tr>"
    caption = "<caption>How much more likely than at the beginning, by step</caption>"
    return f"<div style='{UNSEEN}'><table>{caption}<tr>{head}</tr>{body}</table></div>"
