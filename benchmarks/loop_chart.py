"""The chart of ``benchmarks.feedback_loop``."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

COLOURS = {"text": "#0f766e", "image": "#b45309", "style": "#6d28d9"}
MARKERS = {"text": "o", "image": "s", "style": "^"}


def draw(result: dict, path: Path) -> None:
    """Win rates after so many judgements, by method, and of the crowd, each with its 95% interval."""
    parts = result["parts"]
    runs = {name: of["gate"] for name, of in parts.get("crowd", {}).get("runs", {}).items()}
    panels = 3 if runs else 2
    figure, axes = pyplot.subplots(1, panels, figsize=(3.7 * panels, 3.6), sharey=True, layout="constrained")
    _after(axes[0], parts)
    methods = [(name, how, of) for name, part in parts.items() for how, of in part.get("methods", {}).items()]
    _bars(axes[1], {f"{name}, {how}": of["gate"] for name, how, of in methods})
    after = sorted({part["methods after"] for part in parts.values() if part.get("methods")})
    axes[1].set_title(f"By method, after {', '.join(map(str, after))}", fontsize=10)
    if runs:
        _bars(axes[2], runs)
        axes[2].set_title("Ten raters, two of them bad", fontsize=10)
    axes[0].set_ylabel("win rate against the base")
    for one in axes:
        one.axhline(0.5, color="#64748b", linewidth=1, linestyle="--")
        one.spines[["top", "right"]].set_visible(False)
        one.set_ylim(0, 1)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _after(axes: Axes, parts: dict) -> None:
    for name in COLOURS:
        gates = [(int(count), of["gate"]) for count, of in parts.get(name, {}).get("after", {}).items()]
        points = [(count, gate) for count, gate in gates if gate["rate"] is not None]
        if not points:
            continue
        x, gates = zip(*points, strict=True)
        errors = [[g["rate"] - g["low"] for g in gates], [g["high"] - g["rate"] for g in gates]]
        axes.errorbar(
            x, [g["rate"] for g in gates], errors, color=COLOURS[name], marker=MARKERS[name], capsize=3, label=name
        )
    counts = sorted({int(count) for name in COLOURS for count in parts.get(name, {}).get("after", {})})
    axes.set_xscale("log")
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.minorticks_off()
    axes.set_xlabel("judgements")
    axes.set_title("After so many judgements", fontsize=10)
    if axes.containers:
        axes.legend(frameon=False, fontsize=9)


def _bars(axes: Axes, gates: dict[str, dict]) -> None:
    known = [(place, gate) for place, gate in enumerate(gates.values()) if gate["rate"] is not None]
    rates = [gate["rate"] for _, gate in known]
    errors = [[gate["rate"] - gate["low"] for _, gate in known], [gate["high"] - gate["rate"] for _, gate in known]]
    places = [place for place, _ in known]
    axes.bar(places, rates, yerr=errors if known else None, color="#94a3b8", ecolor="#0f172a", capsize=3)
    words = [name if gate["rate"] is not None else f"{name}: no version" for name, gate in gates.items()]
    axes.set_xticks(range(len(gates)), words, rotation=45, ha="right", fontsize=7)
