"""``python -m core learn``: from a snapshot of judgements to a candidate."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from core.config import data_folder, database_url, default_model, pictures_place, versions_folder
from core.errors import FeedbackError

RECIPES = Path(__file__).parent.parent / "training" / "recipes" / "learn"


def parser(commands: argparse._SubParsersAction) -> None:
    learn = commands.add_parser(
        "learn", help="learn from a snapshot of judgements; the same command goes on where it was cut off"
    )
    learn.add_argument("snapshot", help="its SHA-256 or the beginning of it, or a folder of `feedback snapshot`")
    learn.add_argument("overrides", nargs="*", metavar="key=value", help="replace keys of the recipe")
    learn.add_argument("--by", required=True, metavar="NAME", help="the maintainer who does it")
    learn.add_argument(
        "--base", help="the version to begin with: a name, or a folder or hub id (default: what is served)"
    )
    learn.add_argument("--recipe", type=Path, help="JSON file (default: default.json in core/training/recipes/learn)")
    learn.add_argument("--name", help="of the new version (default: the base's and the snapshot's)")
    learn.add_argument(
        "--compare", type=int, default=40, metavar="N", help="requests of the blinded comparison (default: 40)"
    )
    learn.add_argument("--records", type=Path, help="evaluate every task of both versions on these records")
    learn.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    from core.feedback.studio import StudioStore
    from core.training.loop import Order, make_version
    from core.training.recipe import LearnRecipe, build_recipe, read_recipe
    from core.training.sources import from_folder, from_store

    recipe = build_recipe(LearnRecipe, read_recipe(options.recipe or RECIPES / "default.json", options.overrides))
    data = data_folder()
    with StudioStore(database_url(data), pictures_place(data)) as store:
        by = store.people.named(options.by)
        folder = Path(options.snapshot)
        if folder.is_dir():
            source = from_folder(folder)
        else:
            source = from_store(store, _whole(options.snapshot, [one.sha256 for one in store.snapshots.all(by)]))
        named = options.base or store.versions.served()
        of_name = versions_folder(data) / (named or "")
        base = str(of_name) if named and of_name.is_dir() else named or default_model()
        name = options.name or f"{Path(base).name}-{source.sha256[:6]}"
        order = Order(source, base, recipe, versions_folder(data) / name, options.compare, options.records)
        version_id, comparison = make_version(store, by, order)
        result = {"version": name, "id": version_id, "folder": str(order.out)}
        if comparison is not None:
            result |= {"compared": comparison.items, "same": comparison.same}
    print(json.dumps(result, indent=2))


def _whole(given: str, known: list[str]) -> str:
    """The one hash that begins so."""
    found = [one for one in known if given and one.startswith(given)]
    if len(found) != 1:
        what = "There is no such snapshot" if not found else "Several snapshots begin so"
        raise FeedbackError(what, value=given, remedy="Take the hash from the page Snapshots")
    return found[0]
