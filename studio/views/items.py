"""One item of a project for maintainers: its request, its outputs, what each rater has said, what was decided."""

from __future__ import annotations

from html import escape

import numpy as np
import streamlit as st
from PIL import Image as PILImage

from core.errors import UniMedError
from core.feedback.judged import Judged, Output, disputes, item_at, judged_item
from core.feedback.masks import marked
from core.feedback.people import Person
from core.feedback.projects import ProjectInfo
from studio import context

MOST = 200
COLOURS = ((13, 148, 136), (217, 119, 6), (124, 58, 237), (220, 38, 38), (37, 99, 235), (101, 163, 13))
"""Of the raters' marks."""


def show(person: Person, project: ProjectInfo) -> None:
    """From what raters disagree on, or from any number, to the item."""
    st.subheader("Items")
    database = context.store().database
    count, found = disputes(database, project.id, MOST)
    place = None
    if found:
        more = f", the first {MOST} of them" if count > MOST else ""
        st.write(f"Items on which raters disagree: {count:,}{more}. Choose a row to see one.")
        rows = [{"item": at + 1, "why": why} for at, _, why in found]
        chosen = st.dataframe(rows, hide_index=True, on_select="rerun", selection_mode="single-row", height="content"
                              if len(rows) < 8 else 280, key=f"disputes-{project.id}")  # fmt: skip
        place = found[chosen.selection.rows[0]][0] if chosen.selection.rows else None
    else:
        st.write("There is no item on which raters disagree, as far as all their answers are in.")
    number = st.number_input("Or any item, by its number", 1, project.items, None, key=f"number-{project.id}")
    place = number - 1 if number is not None else place
    if place is None:
        return
    item_id = item_at(database, project.id, place)
    said = judged_item(database, project.id, item_id) if item_id else []
    st.markdown(f"#### Item {place + 1:,} of {project.items:,}")
    if not said:
        st.info("This item was withdrawn." if item_id is None else "Nobody has judged this item yet.")
        return
    _request(said[0].outputs[0])
    _outputs(said)
    _ratings(said)
    _gold(person, said)
    _visitors(person, said)


def _request(output: Output) -> None:
    st.markdown("**The request**")
    _words(output.prompt or "Without words.")
    pictures = [segment["sha256"] for segment in output.inputs if segment["type"] == "image"]
    for column, sha256 in zip(st.columns(max(3, len(pictures))), pictures, strict=False):
        with column:
            _picture(sha256, "Given")


def _outputs(said: list[Judged]) -> None:
    outputs = said[0].outputs
    st.markdown("**The output**" if len(outputs) == 1 else "**The outputs**")
    for column, (n, output) in zip(st.columns(max(2, len(outputs))), enumerate(outputs), strict=False):
        with column:
            if output.kind == "text":
                _words(output.text)
            else:
                _picture(output.sha256, "Made by a model" if len(outputs) == 1 else f"Output {n + 1}, made by a model")
            context.link(f"Made by {output.model}", "versions", of=output.id)
            st.caption(f"Output {output.id}" + (f", SHA-256 {output.sha256}" if output.sha256 else ""))
    with_marks = [one for one in said if one.answer.get("regions") and outputs[0].width]
    if with_marks:
        _marks(outputs[0], with_marks)


def _marks(output: Output, said: list[Judged]) -> None:
    """The picture with what each rater has marked, in their colours."""
    try:
        pixels = np.asarray(context.store().blobs.read(output.sha256), float)
    except UniMedError as error:
        context.problem(error)
        return
    names = []
    for n, one in enumerate(said):
        region, colour = marked(one.answer, output.width, output.height), COLOURS[n % len(COLOURS)]
        pixels = np.where(region[..., None], 0.55 * pixels + 0.45 * np.array(colour), pixels)
        labels = ", ".join(sorted({region["label"] for region in one.answer["regions"]}))
        names.append(f"<span style='color: rgb{colour}'>■</span> {escape(_name(one))}: {escape(labels)}")
    picture, legend = st.columns(2)
    picture.image(
        PILImage.fromarray(pixels.astype(np.uint8)), caption="What was marked", alt="What was marked", width=320
    )
    legend.html("<br>".join(names))


def _ratings(said: list[Judged]) -> None:
    st.markdown("**What raters said**")
    _table([one for one in said if one.purpose == "judge"])
    st.markdown("**Adjudication**")
    decided = [one for one in said if one.purpose == "adjudicate"]
    if decided:
        _table(decided)
    else:
        st.write("None yet.")


def _table(said: list[Judged]) -> None:
    rows = []
    for one in said:
        answer = one.answer
        values = answer.get("scores") or {name: _choice(of) for name, of in answer.get("choices", {}).items()}
        row = {"who": _name(one), **values}
        if answer.get("ranking"):
            row["ranking"] = " > ".join(" = ".join(str(n + 1) for n in group) for group in answer["ranking"])
        if answer.get("text") is not None:
            row["text"] = answer["text"]
        if answer.get("spans"):
            row["errors"] = ", ".join(span["error"] for span in answer["spans"])
        row |= {
            "cannot judge": answer["cannot_judge"] or "", "comment": answer["comment"],
            "seconds": round(one.active_seconds), "version": one.version,
        }  # fmt: skip
        rows.append(row)
    st.dataframe(rows, hide_index=True)


def _gold(person: Person, said: list[Judged]) -> None:
    """Choosing the answer that is known to be right."""
    able = _able(said)
    known = "It has a gold answer." if said[0].gold is not None else "It has no gold answer yet."
    chosen = st.selectbox(f"{known} Take that of", list(able), None, format_func=able.get, key=f"gold-{said[0].item}",
                          help="By it raters are checked, here and in projects that take over gold items.")  # fmt: skip
    if chosen and st.button("Take it as the gold answer"):
        try:
            context.store().projects.mark_gold(person, chosen)
            context.done(f"The answer of {able[chosen]} is the gold answer now.")
        except UniMedError as error:
            context.problem(error)


def _visitors(person: Person, said: list[Judged]) -> None:
    """What visitors of the demo said of the same output, and whether it counts."""
    trust, able = context.store().trust, _able(said)
    if not (about := trust.about(person, said[0].id)):
        return
    st.markdown("**What visitors said**")
    told = "The log names the judgement." if able else "Nobody has been able to judge it yet."
    ground = st.selectbox("Whether it counts rests on what was said by", list(able), None, format_func=able.get,
                          key=f"ground-{said[0].item}", help=told)  # fmt: skip
    for one in about:
        _words(f"{one.what}{f' – {one.comment}' if one.comment else ''} ({one.trust})")
        for column, verdict in zip(st.columns(4), ("confirmed", "rejected"), strict=False):
            of = one.trust == verdict or ground is None
            if column.button(verdict.capitalize(), key=f"{verdict}-{one.id}", disabled=of):
                try:
                    trust.decide(person, one.table, one.id, verdict, ground)
                    st.rerun()
                except UniMedError as error:
                    context.problem(error)


def _able(said: list[Judged]) -> dict[str, str]:
    """Who was able to judge, by the judgement."""
    return {one.id: _name(one) for one in said if one.answer["cannot_judge"] is None}


def _choice(choice: int | str) -> str:
    return choice.replace("_", " ") if isinstance(choice, str) else f"output {choice + 1}"


def _name(one: Judged) -> str:
    who = "adjudicator" if one.purpose == "adjudicate" else one.rater
    return f"{who}, the second time" if one.occasion else who


def _words(text: str) -> None:
    st.html(f"<p style='white-space: pre-wrap; overflow-wrap: anywhere; margin: 0'>{escape(text)}</p>")


def _picture(sha256: str, caption: str) -> None:
    try:
        st.image(context.store().blobs.read(sha256), caption=caption, alt=caption)
    except UniMedError as error:
        context.problem(error)
