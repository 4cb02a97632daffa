"""Whether feedback makes a better model: ``python -m benchmarks.feedback_loop --records F.jsonl``.

The whole loop, unattended: the shipped checkpoint answers, rater models (``benchmarks.rater_models``: programs whose
rules are stated there) judge in the studio's own store, queue and projects, snapshots are made, versions are learned,
registered, and compared blindly with the checkpoint on held-out patients. After 100, 300 and 1,000 judgements; with
supervised fine-tuning alone, preferences alone, and both; and with a fifth of the raters adversarial or careless.

Writes ``benchmarks/results/<date>_feedback_loop.json`` as parts get done, and the chart to ``assets``. Parts may be run
by processes of their own (``--parts``, ``--work``, ``--results``) and put together with ``--merge``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path

from benchmarks.loop_chart import draw
from benchmarks.loop_world import World, learned, people
from benchmarks.rater_models import RULES, Rule
from core.config import LEARN_RECIPES, NANO, ROOT
from core.data.records import SPLITS, Record, read_records
from core.errors import UniMedError
from core.evaluation.bench import balanced
from core.evaluation.evaluate import evaluate
from core.model.checkpoint import load
from core.training.loop import side_by_side
from core.training.recipe import LearnRecipe, build_recipe, read_recipe

RESULTS = Path(__file__).parent / "results"
RECIPES = {"image": "nano_images.json"}
"""Those that the studio chooses for the shipped checkpoint; of other parts ``nano.json``."""
METHODS = {
    "both": {},
    "SFT only": {"pair_weight": 0.0, "unpaired_weight": 0.0},
    "DPO only": {"sft_weight": 0.0, "anchor_weight": 0.0},
}
CHART = ROOT / "assets" / "feedback-loop.webp"
CROWD, BAD, OVERLAP = 10, 2, 3
"""Raters of the crowd, how many of them are bad (one adversarial, one careless), and how many see an item."""
LEAST_GOLD = 0.75
"""How often one of them must be right on the items whose answer is known to count."""


@dataclass(frozen=True)
class Setup:
    """What is run.

    Attributes:
        sizes: numbers of judgements after which there is a version; after ``methods_after`` one by each method.
        held_out: requests that versions are compared on.
        crowd, gold: items of the crowd, and how many more whose answer is known.
        limit: records of each task that versions are evaluated on.
        work: folder of stores and versions.
        seed: of the choice of records, of the raters' noise, and of what is drawn while learning.
    """

    records: Path
    sizes: tuple[int, ...]
    methods_after: int
    held_out: int
    crowd: int
    gold: int
    limit: int
    recipe: LearnRecipe
    work: Path
    seed: int

    def of(self, rule: Rule, count: int) -> tuple[list[Record], list[Record]]:
        """Records to judge, and to compare on: of patients that nobody judged; modalities in turn."""
        task = rule.task if rule.task == "super_resolution" else "report"
        mine = [one for one in read_records(self.records, SPLITS) if one.sub_task_type == task]
        train, rest = ([r for r in mine if (r.split == "train") == judged] for judged in (True, False))
        by_modality = lambda record: record.modality  # noqa: E731
        return balanced(train, by_modality, count, self.seed), balanced(rest, by_modality, self.held_out, self.seed)


def scenario(setup: Setup, name: str, save: Callable[[dict], None]) -> None:
    """One rule: after each number of judgements a version, and after one of them another by each method."""
    rule = RULES[name]
    most = max(setup.sizes)
    world = World.of(setup.work / name, setup.records.parent, rule, setup.seed)
    train, held_out = setup.of(rule, 3 * most // 2 if rule.samples > 2 else most)  # some texts have no like
    items = world.items(train)[:most]
    raters = people(world, 3)
    project = world.project(f"{name} {rule.kind}", rule.kind, items, [person for person, _ in raters])
    result = {"about": rule.about, "items": len(items), "methods after": setup.methods_after}
    result |= {"after": {}, "methods": {}}
    done = 0
    for size in setup.sizes:
        if not (made := world.judge(project, raters, size - done)):
            break  # there were fewer items
        done += made
        result["after"][str(done)] = learned(world, project, setup.recipe, f"{name}-{done}", held_out)
        save(result)
        if size == setup.methods_after:
            result["methods"]["both"] = result["after"][str(done)]
            for method, keys in list(METHODS.items())[1:]:
                version = f"{name}-{method.replace(' ', '-').lower()}"
                result["methods"][method] = learned(world, project, replace(setup.recipe, **keys), version, held_out)
                save(result)
    if "metrics" in result["after"][str(done)]:
        result["tasks"] = regressions(setup, world.folder / "versions" / f"{name}-{done}")
        save(result)


def regressions(setup: Setup, version: Path) -> list[dict]:
    """Every task by the checkpoint and by a version, on the same held-out records."""
    rows: list[list[dict]] = []
    for source in (NANO, version):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(evaluate(setup.records, str(source), Path(folder), limit=setup.limit)["rows"])
    return side_by_side(*rows)


def crowd(setup: Setup, save: Callable[[dict], None]) -> None:
    """The text scenario by ten raters: all honest; with two bad ones and both filters; with these and neither."""
    rule = RULES["text"]
    world = World.of(setup.work / "crowd", setup.records.parent, rule, setup.seed)
    train, held_out = setup.of(rule, 3 * (setup.crowd + setup.gold) // 2)
    items = world.items(train)[: setup.crowd + setup.gold]
    if len(items) <= setup.crowd:
        raise UniMedError("There are too few records for the items with a known answer", value=len(items))
    plain, known = items[: setup.crowd], [world.golden(item) for item in items[setup.crowd :]]
    about = (
        f"{CROWD} raters, of whom {BAD} are bad: one says the opposite, one says anything. Filtered: {OVERLAP} see an "
        "item and must agree, and who is often wrong where the answer is known does not count. Unfiltered: one sees it."
    )
    result = {"about": about, "runs": {}}
    for name, bad, overlap, least in (
        ("honest", 0, OVERLAP, 0.0), ("filtered", BAD, OVERLAP, LEAST_GOLD), ("unfiltered", BAD, 1, 0.0),
    ):  # fmt: skip
        raters = people(world, CROWD, bad, name)
        project = world.project(name, "compare", plain + known, [person for person, _ in raters], overlap)
        made = world.judge(project, raters)
        result["runs"][name] = learned(world, project, setup.recipe, f"crowd-{name}", held_out, least)
        result["runs"][name] |= {"judgements": made, "overlap": overlap, "least gold": least}
        save(result)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.feedback_loop", description=__doc__)
    parser.add_argument("--records", type=Path, required=True, help="JSONL file of `core records build`")
    parser.add_argument("--parts", nargs="+", default=[*RULES, "crowd"], help="text, image, style, crowd")
    parser.add_argument("--sizes", nargs="+", type=int, default=[100, 300, 1000], help="judgements")
    parser.add_argument("--methods-after", type=int, default=300, help="one of them: methods side by side")
    parser.add_argument("--held-out", type=int, default=150, help="requests that versions are compared on")
    parser.add_argument("--crowd", type=int, default=300, help="items of the crowd of raters")
    parser.add_argument("--gold", type=int, default=60, help="more of these, whose answer is known")
    parser.add_argument("--limit", type=int, default=30, help="records of each task for the evaluation")
    parser.add_argument("--recipe", type=Path, help="of all parts (default: those that the studio would choose)")
    parser.add_argument("--seed", type=int, default=0, help="of records, raters and learning")
    parser.add_argument("--work", type=Path, default=Path("out/feedback_loop"), help="folder of stores and versions")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--chart", type=Path, default=CHART)
    parser.add_argument("--merge", nargs="+", type=Path, default=[], metavar="JSON", help="results of parts; runs none")
    options = parser.parse_args()
    path = options.results / f"{date.today().isoformat()}_feedback_loop.json"
    whole = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"parts": {}}
    whole["base"] = load(NANO).name
    options.results.mkdir(parents=True, exist_ok=True)
    for part in options.merge:
        whole["parts"] |= json.loads(part.read_text(encoding="utf-8"))["parts"]
    path.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for name in () if options.merge else options.parts:
        setup = _setup(options, name)
        asked = [Path(one).name for one in sys.argv[1:]]  # not where somebody keeps their data
        about = {"command": " ".join(["python -m benchmarks.feedback_loop", *asked])}
        about |= {"recipe": asdict(setup.recipe), "seed": setup.seed}

        def save(result: dict, name: str = name, about: dict = about) -> None:
            whole["parts"][name] = result | about
            path.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

        crowd(setup, save) if name == "crowd" else scenario(setup, name, save)
    draw(whole, options.chart)
    print(f"written {path} and {options.chart}")


def _setup(options: argparse.Namespace, part: str) -> Setup:
    recipe = options.recipe or LEARN_RECIPES / RECIPES.get(part, "nano.json")
    return Setup(
        options.records, tuple(options.sizes), options.methods_after, options.held_out, options.crowd, options.gold,
        options.limit, replace(build_recipe(LearnRecipe, read_recipe(recipe, [])), seed=options.seed), options.work,
        options.seed,
    )  # fmt: skip


if __name__ == "__main__":
    main()
