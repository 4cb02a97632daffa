"""The result of an evaluation as a page that needs nothing from outside, and as Markdown for a model card."""

from __future__ import annotations

from html import escape
from pathlib import Path

from core.evaluation.bench import Example, Panel
from core.inference.provenance import XMP
from core.sequence import NOTICE
from core.tasks import TASKS

MAX_SIDE = 384
"""Pixels on the longer side of a picture beside the page."""
STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5b6570; --line: #d5dae0; --paper: #fff; --card: #f5f7f9;
  --bad: #a3341c; --badge: #fbe9e4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --soft: #9aa5b1; --line: #363d45; --paper: #14171a;
  --card: #1d2126; --bad: #ff9f85; --badge: #3a211a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
a { color: inherit; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin: 1rem 0; }
.soft, figcaption, dt { color: var(--soft); }
.lead { font-size: 1.15rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .4rem; margin: .5rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
.verdict { white-space: nowrap; }
th, td { padding: .4rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line);
  overflow-wrap: normal; }
tr:last-child td { border-bottom: 0; }
thead th { background: var(--card); white-space: nowrap; }
td { min-width: 5rem; }
td.number { white-space: nowrap; min-width: 0; }
td small { color: var(--soft); white-space: nowrap; display: block; }
tr.loses td { background: var(--badge); }
tr.loses .verdict { color: var(--bad); font-weight: 700; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1rem; }
article { border: 1px solid var(--line); border-radius: .4rem; padding: .75rem; background: var(--card); }
article p { margin: 0 0 .5rem; font-weight: 600; }
.panels { display: flex; gap: .5rem; align-items: flex-start; }
figure { margin: 0; flex: 1 1 0; min-width: 0; max-width: 10rem; }
td figure { width: 6rem; }
figure img { display: block; width: 100%; height: auto; background: #000; }
figcaption { font-size: .75rem; line-height: 1.3; margin-top: .2rem; }
dl { display: grid; grid-template-columns: auto 1fr; gap: .1rem .75rem; margin: .5rem 0 0; font-size: .85rem; }
dt { white-space: nowrap; }
dd { margin: 0; }
"""


CONTROLS = (
    "<p class=soft>Blanked: asked about a grey picture of the same size. Swapped: asked about the picture of another "
    "record, of another modality, answer and patient wherever the records allow it. A score that doesn't fall doesn't "
    "come from the image.</p>"
)


def write_page(result: dict, examples: dict[str, list[Example]], out: Path) -> None:
    """Writes ``index.html`` and the pictures that it shows, ``images/*.webp``. ``out/images`` must be there."""
    settings, summary = result["settings"], result["summary"]
    title = f"Evaluation of {settings['model']}"
    lead = f"Better than the best naive baseline in {summary['beaten']} of {summary['of']} comparisons{_open(summary)}."
    notice = f"<p>Answers and drawn images: {escape(NOTICE)}</p>"
    body = [f"<h1>{escape(title)}</h1>", f"<p class=lead>{lead}</p>", notice, _settings(result)]
    body.append(
        "<p class=soft>In brackets: the 95% interval of a bootstrap over patients. Baselines see the same records, in "
        "the same run; where there are several, the best one counts. Rows where the model is no better than it are "
        "marked ✗. A row is undecided where the interval of the difference on the same records holds 0, or with one "
        "patient; distances of sets have no such interval.</p>"
    )
    links = (f'<a href="#{task}">{escape(TASKS[task].title)}</a>' for task in result["tasks"])
    body.append(f"<nav>{''.join(links)}</nav>")
    body += [_section(result, task, examples.get(task, []), out) for task in result["tasks"]]
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
    )
    (out / "index.html").write_text(f"{head}<body>{chr(10).join(body)}</body></html>\n", encoding="utf-8")


def _open(summary: dict) -> str:
    """How many comparisons the intervals leave open, as the end of a sentence."""
    return f"; {n} of the {summary['of']} {'is' if n == 1 else 'are'} undecided" if (n := summary["undecided"]) else ""


def _settings(result: dict) -> str:
    parts = [f"Measured on {result['date']}", *(f"{key} {value}" for key, value in result["settings"].items())]
    return f"<p class=soft>{escape(' · '.join(parts))}</p>"


def _section(result: dict, task: str, examples: list[Example], out: Path) -> str:
    """All about one task."""
    info = result["tasks"][task]
    parts = [f'<h2 id="{task}">{escape(TASKS[task].title)}</h2>']
    if info["records"]:
        parts.append(f"<p class=soft>{info['records']} records of {info['patients']} patients.</p>")
    parts += [f"<p>Note: {escape(note)}.</p>" for note in info["notes"]]
    if rows := [row for row in result["rows"] if row["task"] == task]:
        parts += [_rows(rows), *_sources(rows)]
    if controls := [control for control in result["controls"] if control["task"] == task]:
        parts += ["<h3>Does it look at the image? The same questions without it</h3>", CONTROLS, _controls(controls)]
    for name, groups in result["groups"].get(task, {}).items():
        parts += [f"<h3>By {escape(name)}</h3>", _groups(name, groups)]
    if examples:
        parts.append(f"<h3>The first {len(examples)} records, not the best</h3>")
        drawn = "image" in TASKS[task].outputs
        parts.append(_cards(task, examples, out) if drawn else _answers(task, examples, out))
    return f"<section>{chr(10).join(parts)}</section>"


# Tables --------------------------------------------------------------------------------------------------------------


def number(value: float | None, unit: str) -> str:
    """A value for a person: a share in per cent, a distance with its unit; three significant digits where it is small.
    """
    if value is None:
        return "–"
    if unit == "share":
        return f"{value:.1%}"
    digits = ".2f" if abs(value) >= 1 or value == 0 else "#.3g"
    return f"{value:{digits}} {unit}".rstrip()


def interval(values: dict, unit: str) -> str:
    """The value with its interval in brackets; the unit stands once."""
    low, high = (number(values[name], unit if unit == "share" else "") for name in ("low", "high"))
    return f"{number(values['value'], unit)} [{low}, {high}]"


def verdict(row: dict) -> str:
    """Whether the model is better than the best baseline, in words."""
    if row["undecided"]:
        return "undecided"
    return {True: "✓ better", False: "✗ no better", None: "no baseline"}[row["wins"]]


def change(drop: dict) -> str:
    """A drop turned around, in points of 100, with its interval."""
    value, low, high = (f"{0.0 - drop[name]:+.1f}" for name in ("value", "high", "low"))
    return f"{value} [{low}, {high}]"


def _table(name: str, head: list[str], lines: list[str]) -> str:
    cells = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in head)
    return (
        f'<div class=scroll role=region tabindex=0 aria-label="{escape(name)}"><table><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(values: dict, unit: str) -> str:
    return _stacked(interval(values, unit))


def _stacked(text: str) -> str:
    """A value above its interval."""
    value, _, rest = text.partition(" [")
    return f"<td class=number>{value}<small>[{rest}</small></td>"


def _rows(rows: list[dict]) -> str:
    lines = []
    for row in rows:
        unit, best = row["unit"], row["baseline"]
        others = [f"{k} {number(v['value'], unit)}" for k, v in row["baselines"].items() if k != best["name"]]
        if top := row.get("ceiling"):
            bound = "ceiling" if row["better"] == "higher" else "floor"
            others.append(f"{bound}, {top['name']}: {number(top['value'], unit)}")
        judged = verdict(row).replace(", ", "<br>")
        named = f"<td>{escape(best['name'])}</td>{_cell(best, unit)}" if best else "<td>–</td><td>–</td>"
        lines.append(
            f"<tr{' class=loses' if row['wins'] is False and not row['undecided'] else ''}><td>{escape(row['metric'])}"
            f"<small>{row['better']} is better</small></td><td class=verdict>{judged}</td>"
            f"{_cell(row['model'], unit)}{named}<td>{escape('; '.join(others)) or '–'}</td>"
            f"<td class=number>{row['n']}<small>{row['patients']} patients</small></td></tr>"
        )
    head = ["metric", "against baseline", "model", "best baseline", "its value", "beside it", "records"]
    return _table("Results", head, lines)


def _sources(rows: list[dict]) -> list[str]:
    """What the numbers of some rows hang on: the network that a distance is measured in, the judge of an alignment."""
    return [
        f"<p class=soft>{escape(row['metric'])}, {kind}: {escape(row[kind])}.</p>"
        for row in rows for kind in ("network", "judge") if kind in row
    ]  # fmt: skip


def _controls(controls: list[dict]) -> str:
    lines = []
    for control in controls:
        cells = "".join(
            _cell(control[name], "share") + _stacked(change(control[f"{name}_drop"]))
            for name in ("blanked", "swapped")
        )
        lines.append(f"<tr><td>{escape(control['metric'])}</td>{_cell(control['image'], 'share')}{cells}</tr>")
    head = ["metric", "its own image", "blanked", "change, points", "swapped", "change, points"]
    return _table("Controls", head, lines)


def _groups(name: str, groups: dict[str, dict]) -> str:
    columns = list(next(iter(groups.values())))
    lines = []
    for group, values in groups.items():
        cells = "".join(f"<td class=number>{_group_value(column, values[column])}</td>" for column in columns)
        lines.append(f"<tr><td>{escape(group)}</td>{cells}</tr>")
    return _table(f"By {name}", [name, *columns], lines)


def _group_value(column: str, value: float | int | None) -> str:
    """Counts as they are, distances of contours in pixels, everything else as a share."""
    return str(value) if column == "n" else number(value, "px" if column.startswith("HD95") else "share")


# Pictures ------------------------------------------------------------------------------------------------------------


def _cards(task: str, examples: list[Example], out: Path) -> str:
    """Pictures side by side: what went in, what was drawn, what should have been."""
    cards = []
    for index, example in enumerate(examples):
        panels = "".join(_figure(f"{task}-{index}-{i}.webp", panel, out) for i, panel in enumerate(example.panels))
        lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text) or '–'}</dd>" for name, text in example.lines)
        lines = f"<dl>{lines}</dl>" if lines else ""
        cards.append(f"<article><p>{escape(example.heading)}</p><div class=panels>{panels}</div>{lines}</article>")
    return f"<div class=grid>{''.join(cards)}</div>"


def _answers(task: str, examples: list[Example], out: Path) -> str:
    """Questions, with what was answered to the image, without it, with another one, and by the baselines."""
    rows = []
    for index, example in enumerate(examples):
        panels = "".join(_figure(f"{task}-{index}-{i}.webp", panel, out) for i, panel in enumerate(example.panels))
        cells = "".join(f"<td>{escape(text) or '–'}</td>" for _, text in example.lines)
        rows.append(f"<tr><td>{escape(example.heading)}</td><td><div class=panels>{panels}</div></td>{cells}</tr>")
    head = ["question", "image", *(name for name, _ in examples[0].lines)]
    return _table("Questions and answers", head, rows)


def _figure(name: str, panel: Panel, out: Path) -> str:
    """One picture, written beside the page; a drawn one carries its mark in the file and under it."""
    picture = panel.picture.copy()
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    picture.save(out / "images" / name, "WEBP", quality=85, **({"xmp": XMP.encode()} if panel.drawn else {}))
    mark = f"<br>{escape(NOTICE)}" if panel.drawn else ""
    size = f'width="{picture.width}" height="{picture.height}"'
    return (
        f'<figure><img src="images/{name}" alt="{escape(panel.title)}" {size} loading=lazy>'
        f"<figcaption>{escape(panel.title)}{mark}</figcaption></figure>"
    )


# Model card ----------------------------------------------------------------------------------------------------------


def card_table(result: dict) -> str:
    """The results as Markdown tables for a model card: rows, controls, and what has no record."""
    settings, summary = result["settings"], result["summary"]
    lines = [
        f"Measured on {result['date']} on the {settings['split']} split of `{settings['records']}`, up to "
        f"{settings['limit']} records a task, seed {settings['seed']}: better than the best naive baseline in "
        f"{summary['beaten']} of {summary['of']} comparisons{_open(summary)}. In brackets: 95% over patients. "
        "Undecided: the interval of the difference on the same records holds 0.",
        "",
        "| task | metric | model | best naive baseline | better | records (patients) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["rows"]:
        best = row["baseline"]
        beside = f"{interval(best, row['unit'])} ({_safe(best['name'])})" if best else "–"
        arrow = "↑" if row["better"] == "higher" else "↓"
        better = {True: "yes", False: "**no**", None: "–"}[row["wins"]]
        lines.append(
            f"| {row['task']} | {_safe(row['metric'])} {arrow} | {interval(row['model'], row['unit'])} | {beside} "
            f"| {better}{', undecided' if row['undecided'] else ''} | {row['n']} ({row['patients']}) |"
        )
    if result["controls"]:
        lines += ["", "| task | metric | its own image | blanked | swapped |", "| --- | --- | --- | --- | --- |"]
    for control in result["controls"]:
        shown = " | ".join(
            number(control[k]["value"], "share") + (f" ({change(control[f'{k}_drop'])})" if k != "image" else "")
            for k in ("image", "blanked", "swapped")
        )
        lines.append(f"| {control['task']} | {_safe(control['metric'])} | {shown} |")
    notes = [f"{task}: {'; '.join(info['notes'])}." for task, info in result["tasks"].items() if info["notes"]]
    notes += [f"{row['metric']}, judge: {row['judge']}." for row in result["rows"] if "judge" in row]
    return "\n".join([*lines, *(["", *(f"- {_safe(note)}" for note in notes)] if notes else [])])


def _safe(text: str) -> str:
    """Text inside a Markdown table."""
    return escape(text.replace("\n", " "), quote=False).replace("|", "\\|")
