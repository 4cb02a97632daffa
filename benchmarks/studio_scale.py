"""A project of 100,000 items and 1,000,000 ratings: ``python -m benchmarks.studio_scale --items N --ratings N``.

Measures what people wait for: a rater who opens the queue, asks for the next item and submits it; a maintainer who
opens the page of agreement and exports. A script in pandas does the last two from a dump of the same ratings, beside
them in one run. Three projects over the same outputs: ``ending`` has all ratings and a few hundred unfinished items,
``fresh`` has none yet, and in ``half`` (crossed) one rater has done half of everything.

``--url`` names an empty database, such as ``postgresql://USER@HOST/NAME``; without it a SQLite file is made.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from benchmarks.studio_fill import CRITERION, fill
from core.config import ROOT
from core.feedback.agreement import bootstrapped
from core.feedback.columns import by_day, columns
from core.feedback.judged import judged
from core.feedback.people import Person
from core.feedback.rubric import PROMPT, SCALE
from core.feedback.standing import spread, standings, table
from core.feedback.studio import StudioStore

RESULTS = Path(__file__).parent / "results"
MAINTAINER = Person("", "", "maintainer")
EXPORTS = ("trl_unpaired.jsonl", "label_studio.jsonl", "imrmc.csv", "imrmc.parquet")


def quantiles(seconds: list[float]) -> dict:
    p50, p95 = np.percentile(seconds, (50, 95))
    return {"calls": len(seconds), "p50_ms": round(1000 * p50, 1), "p95_ms": round(1000 * p95, 1)}


def timed(seconds: list[float], call: Callable, *arguments: object) -> object:
    start = time.perf_counter()
    result = call(*arguments)
    seconds.append(time.perf_counter() - start)
    return result


def rating(store: StudioStore, project_id: str, people: list[Person], calls: int) -> dict:
    """What raters wait for, in turns."""
    waits: dict[str, list[float]] = {"open the queue": [], "next": [], "submit": []}

    def open_queue(person: Person) -> None:
        found = [one.id for one in store.projects.of(person)]
        assert project_id in found and store.projects.takes_part(person, project_id, "judge")
        store.queue.progress(person, project_id)

    for n in range(calls):
        person = people[n % len(people)]
        timed(waits["open the queue"], open_queue, person)
        task = timed(waits["next"], store.queue.next, person, project_id)
        if task is not None:
            given = {"scores": {PROMPT.name: 3, CRITERION: 4}, "opened": True}
            timed(waits["submit"], store.queue.submit, person, task.id, given, 9.0, datetime.now(UTC))
    return {name: quantiles(seconds) for name, seconds in waits.items()}


def page(store: StudioStore, project_id: str) -> float:
    """All that the page of progress computes for a criterion. Returns Krippendorff's alpha."""
    said = columns(store.database, project_id, CRITERION)
    standings(said)
    _, _, values = table(said)
    spread(values, SCALE)
    by_day(store.database, project_id)
    return bootstrapped(values, ordered=True, categories=SCALE)[1].value


def peak() -> float:
    """MiB. ``resource`` would tell the peak of the process that started this one."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def child(*arguments: str) -> dict:
    """What this module does in a process of its own, with its time, its CPU time and the memory that it took above its
    start."""
    command = [sys.executable, "-m", "benchmarks.studio_scale", "--only", *arguments]
    return json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout)


def only(what: str, *arguments: str) -> dict:
    """One page, export or script."""
    if what == "pandas":
        import pandas  # noqa: F401  its own memory belongs to the start

        at_first, start, began = peak(), time.perf_counter(), time.process_time()
        found = in_pandas(*arguments)
    else:
        url, project_id, path = arguments
        with StudioStore(url, Path(path).parent) as store:
            at_first, start, began = peak(), time.perf_counter(), time.process_time()
            if what == "page":
                found = {"alpha": page(store, project_id)}
            else:
                store.exports.write(MAINTAINER, project_id, Path(path).stem, Path(path))
                found = {"file_mib": round(Path(path).stat().st_size / 2**20, 1)}
    cpu = round(time.process_time() - began, 2)
    return {
        **found,
        "s": round(time.perf_counter() - start, 2),
        "cpu_s": cpu,
        "peak_mib_above_start": round(peak() - at_first),
    }


# Beside it: a script in pandas ---------------------------------------------------------------------------------------


def dump(store: StudioStore, project_id: str, folder: Path) -> None:
    """Two flat CSV files that a script would be glad to start from: no JSON, no revised ratings."""
    with (folder / "ratings.csv").open("w", newline="") as file, (folder / "items.csv").open("w", newline="") as of:
        ratings, items, last = csv.writer(file), csv.writer(of), None
        ratings.writerow(["item", "rater", "overall", "seconds"])
        items.writerow(["item", "image", "text", "patient"])
        for one in judged(store.database, project_id):
            ratings.writerow([one.item, one.rater, one.answer["scores"].get(CRITERION), one.active_seconds])
            if one.item != last:
                output, last = one.outputs[0], one.item
                items.writerow([one.item, output.inputs[0]["sha256"], output.text, output.patient])


def in_pandas(folder: str) -> dict:
    """Pace of raters, percent agreement and Krippendorff's ordinal alpha from counts, without intervals; and the rows
    of ``trl_unpaired``."""
    import pandas

    start = time.process_time()
    frame = pandas.read_csv(f"{folder}/ratings.csv")
    frame.groupby("rater").seconds.agg(["size", "median"])
    frame = frame.dropna()
    counts = pandas.crosstab(frame.item, frame.overall)
    values = counts[counts.sum(axis=1) > 1].to_numpy(float)
    number, totals = values.sum(axis=1), values.sum(axis=0)
    percent = ((values * (values - 1)).sum(axis=1) / (number * (number - 1))).mean()
    weighted = values / (number - 1)[:, None]
    together = values.T @ weighted - np.diag(weighted.sum(axis=0))
    ranks = np.cumsum(totals) - totals / 2
    distance = (ranks[:, None] - ranks) ** 2
    alpha = 1 - (totals.sum() - 1) * (together * distance).sum() / (totals @ distance @ totals)
    agreed = time.process_time() - start
    rows = frame[(frame.overall <= 2) | (frame.overall >= 4)].merge(pandas.read_csv(f"{folder}/items.csv"), on="item")
    with Path(f"{folder}/pandas.jsonl").open("w", encoding="utf-8") as file:
        for row in rows.itertuples():
            parts = [{"type": "image"}, {"type": "text", "text": "Write the report."}]
            completion = [{"role": "assistant", "content": [{"type": "text", "text": row.text}]}]
            line = {"images": [row.image], "prompt": [{"role": "user", "content": parts}], "completion": completion}
            line |= {"label": row.overall >= 4, "task": "report", "patient": row.patient, "rater": row.rater}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    exported = time.process_time() - start - agreed
    return {"percent": percent, "alpha": alpha, "agreement_cpu_s": round(agreed, 2), "export_cpu_s": round(exported, 2)}


# All of it -----------------------------------------------------------------------------------------------------------


def measure(url: str, folder: Path, items: int, ratings: int, calls: int) -> dict:
    with StudioStore(url, folder / "pictures") as store:
        start = time.perf_counter()
        people, projects = fill(store, items, ratings)
        filled = round(time.perf_counter() - start)
        with store.database.reading() as session:
            rows = session.scalar(sa.text("SELECT count(*) FROM judgements"))
        waits = {
            name: rating(store, project_id, people[:1] if name == "half" else people, calls)
            for name, project_id in projects.items()
        }
        dump(store, projects["ending"], folder)
    ending = projects["ending"]
    found = {
        "fill_s": filled,
        "judgements": rows,
        "rater": waits,
        "page of agreement": child("page", url, ending, str(folder / "page")),
        "export": {name: child("export", url, ending, str(folder / name)) for name in EXPORTS},
        "pandas": child("pandas", str(folder)),
    }
    script, ours = found["pandas"], found["page of agreement"]
    assert abs(script["alpha"] - ours["alpha"]) < 1e-9, "the two compute the same"
    export = found["export"][EXPORTS[0]]
    found["ratios"] = {
        "page of agreement / pandas, CPU": round(ours["cpu_s"] / script["agreement_cpu_s"], 2),
        "export / pandas, CPU": round(export["cpu_s"] / script["export_cpu_s"], 2),
        "export / pandas, memory": round(export["peak_mib_above_start"] / script["peak_mib_above_start"], 3),
    }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studio_scale", description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--ratings", type=int, default=1_000_000)
    parser.add_argument("--calls", type=int, default=200, help="by raters, in each project (200)")
    parser.add_argument("--url", help="of an empty database; without it a SQLite file")
    parser.add_argument("--only", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(only(*options.only)))
        return
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        url = options.url or f"sqlite:///{name}/feedback.sqlite"
        found = measure(url, Path(name), options.items, options.ratings, options.calls)
    backend = sa.make_url(url).get_backend_name()
    result = {
        "date": date.today().isoformat(),
        "command": f"python -m benchmarks.studio_scale --items {options.items} --ratings {options.ratings}"
        + (" --url postgresql://…" if options.url else ""),
        "cores": os.cpu_count(),
        "load_at_start": round(load, 1),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "database": backend,
        **found,
    }
    print(json.dumps(result, indent=1))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{result['date']}_studio_scale_{backend}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
