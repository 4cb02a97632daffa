"""The studio with a stand-in for ``core learn``, which learns nothing: ``python -m tests.studio.stand_in --port P``.

The stand-in takes the command's arguments and leaves what the command would leave: progress, metrics, a registered
candidate, and a blinded project. It waits in the middle while its data folder holds a file ``hold``; on SIGTERM it
stops; with the recipe ``broken.json`` it ends with an error.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil

from core.config import data_folder, default_model, versions_folder
from core.feedback.projects import NewItem
from core.feedback.rubric import OVERALL, Plan, Rubric
from core.feedback.studio import StudioStore
from core.feedback.versions import comparison_name
from core.lineage import Lineage
from core.model.fingerprint import learned_fingerprint
from core.sequence import Text
from studio import app, runs
from studio.base import base as below

STEPS, HELD_AT = 30, 10
RECIPES = ("default.json", "nano.json", "broken.json")


def open_store(data: Path) -> StudioStore:
    return StudioStore(f"sqlite:///{data / 'feedback.sqlite'}", data / "pictures")


class Learning:
    """One run of the stand-in."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.asked, self.folder = options, versions_folder(data_folder()) / options.name

    def tell(self, phase: str, done: int, message: str = "") -> None:
        now = datetime.now(UTC).isoformat()
        said = {"phase": phase, "done": done, "of": STEPS, "message": message, "at": now}
        said |= {"pid": os.getpid(), "born": psutil.Process().create_time()}
        part = self.folder / "progress.json.part"
        part.write_text(json.dumps(said))
        part.replace(self.folder / "progress.json")

    def stop(self, *_: object) -> None:
        self.tell("stopped", 0, "Asked to.")
        sys.exit(0)

    def run(self) -> int:
        if Path(self.asked.recipe).name == "broken.json":
            print("error: The recipe has an unknown key: 'stepz'. Remove it.", file=sys.stderr)
            return 2
        signal.signal(signal.SIGTERM, self.stop)
        metrics = self.folder / "metrics.jsonl"
        first = len(metrics.read_text().splitlines()) if metrics.is_file() else 0
        for step in range(first, STEPS):
            self.tell("learning", step)
            while step >= HELD_AT and (data_folder() / "hold").exists():
                time.sleep(0.05)
            with metrics.open("a") as file:
                row = {"step": step, "loss": 0.7 - step / 99, "text_chosen": step / 20, "text_rejected": -step / 30}
                file.write(json.dumps(row | {"image_chosen": step / 50, "image_rejected": -step / 90}) + "\n")
            time.sleep(0.02)
        self.finish()
        self.tell("done", STEPS)
        return 0

    def finish(self) -> None:
        base = below()
        parent = base.name if self.asked.base == default_model() else self.asked.base
        tasks = [_row("report", "likelihood", 0.41, 0.44), _row("vqa", "accuracy", 0.62, 0.55)]
        with open_store(data_folder()) as store:
            by = store.people.named(self.asked.by)
            known = {one.name: one.fingerprint for one in store.versions.all()}
            lineage = Lineage(
                self.asked.name, parent, base.name, base.fingerprint, known.get(parent, base.fingerprint),
                self.asked.snapshot, {"pair, train": 16}, 20,
                {"steps": STEPS, "about": about_of(Path(self.asked.recipe).name)}, "",
                {"tasks": tasks, "held_out": {"image_accuracy": 0.75, "image_pairs": 4}},
                datetime.now(UTC).isoformat(),
            )  # fmt: skip
            lineage.write(self.folder)
            (self.folder / "adapter_model.safetensors").write_text(lineage.name)
            version_id = store.versions.register(by, lineage, learned_fingerprint(base.fingerprint, self.folder))
            items = differing(store, by, lineage, base.fingerprint, self.asked.compare)
            name, rubric = comparison_name(version_id), Rubric((OVERALL,))
            project = store.projects.make(by, name, "compare", rubric, Plan(overlap=1), items)
            store.versions.link(by, version_id, project)


def about_of(recipe: str) -> str:
    return f"What {recipe} is for."


def _row(task: str, metric: str, old: float, new: float) -> dict:
    """As ``side_by_side`` of ``core.training.loop`` makes it of two evaluations."""
    low, high = old - 0.04, old + 0.04  # the old value's interval
    return {
        "task": task, "metric": metric, "better": "higher", "old": old, "new": new, "low": low, "high": high,
        "worse": new < low,
    }  # fmt: skip


def differing(store: StudioStore, by: object, lineage: Lineage, base_fingerprint: str, count: int) -> list[NewItem]:
    """What a version and its parent say to the same requests."""
    fingerprints = {one.name: one.fingerprint for one in store.versions.all()}
    items = []
    for n in range(count):
        refs = [
            store.add_run(
                by, task="report", inputs=[Text(f"Held out {n}.")], outputs=[Text(f"{name} says {n}.")], settings={},
                seed=n, model_name=name, model_fingerprint=fingerprints.get(name, base_fingerprint),
                key=f"{lineage.name} {name} {n}",
            )
            for name in (lineage.parent, lineage.name)
        ]  # fmt: skip
        items.append(NewItem(tuple(ref.response_ids[0] for ref in refs)))
    return items


def main() -> int:
    if sys.argv[1:2] != ["learn"]:
        folder = data_folder() / "recipes"
        folder.mkdir(exist_ok=True)
        for name in RECIPES:
            (folder / name).write_text(json.dumps({"about": about_of(name)}))
        runs.COMMAND, runs.RECIPES = (sys.executable, "-m", "tests.studio.stand_in", "learn"), folder
        return app.main()
    parser = argparse.ArgumentParser()
    parser.add_argument("snapshot")
    for name in ("base", "recipe", "by", "name", "compare"):
        parser.add_argument(f"--{name}", type=int if name == "compare" else str)
    return Learning(parser.parse_args(sys.argv[2:])).run()


if __name__ == "__main__":
    raise SystemExit(main())
