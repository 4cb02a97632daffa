"""``python -m core learn``: from a snapshot of judgements to a candidate."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from core.config import COMPARE, LEARN_RECIPES, data_folder, default_model, versions_folder
from core.errors import SettingsError, UniMedError, brief
from core.lineage import checked_name, is_learned

if TYPE_CHECKING:
    from core.feedback.people import Person
    from core.feedback.studio import StudioStore
    from core.training.loop import Order
    from core.training.sources import Source


def parser(commands: argparse._SubParsersAction) -> None:
    learn = commands.add_parser(
        "learn", help="learn from a snapshot of judgements; the same command goes on where it was cut off"
    )
    learn.add_argument("snapshot", help="its SHA-256 or the beginning of it, or a folder of `feedback snapshot`")
    learn.add_argument("overrides", nargs="*", metavar="key=value", help="replace keys of the recipe")
    learn.add_argument("--by", metavar="NAME", help="the maintainer who does it; a folder needs none")
    learn.add_argument(
        "--base", help="the version to begin with: a name, or a folder or hub id (default: what is served)"
    )
    learn.add_argument("--recipe", type=Path, help="JSON file (default: default.json in core/training/recipes/learn)")
    learn.add_argument("--name", help="of the new version (default: the base's and the snapshot's)")
    learn.add_argument(
        "--compare", type=int, default=COMPARE, metavar="N",
        help=f"requests of the blinded comparison (default: {COMPARE})",
    )  # fmt: skip
    learn.add_argument("--records", type=Path, help="evaluate every task of both versions on these records")
    learn.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """What nobody has foreseen is told by its kind and its lines alone: its words may be a rater's, and a studio that
    has started the command keeps what it says in a file."""
    try:
        _run(options)
    except (UniMedError, OSError):
        raise
    except Exception as error:
        print(f"error: failed with {brief(error)}", file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    from core.commands.store import studio_store
    from core.training.loop import make_version
    from core.training.sources import from_folder, from_store

    if (folder := Path(options.snapshot)).is_dir():  # of another machine's database, where it is registered later
        order = _order(options, from_folder(folder), None)
        make_version(order)
        print(json.dumps({"version": order.out.name, "folder": str(order.out)}, indent=2))
        told = f"python -m core versions add {order.out} --by NAME"
        print(f"To register it, copy the folder to where its snapshot was made: {told}", file=sys.stderr)
        return
    if options.by is None:
        raise SettingsError("The run has no maintainer", remedy="Name one with --by NAME")
    with studio_store() as store:
        by = store.people.named(options.by)
        order = _order(options, from_store(store, options.snapshot), store)
        _tell_room(order, store, by)
        version_id, comparison = make_version(order, store, by)
        result = {"version": order.out.name, "id": version_id, "folder": str(order.out)}
        if comparison is not None:
            result |= {"compared": comparison.items, "same": comparison.same}
    print(json.dumps(result, indent=2))


def _tell_room(order: Order, store: StudioStore, by: Person) -> None:
    """Says before it learns where there will be too little to compare: what is not compared is never served."""
    from core.feedback.gate import LEAST_ITEMS
    from core.feedback.unseen import unseen

    compared = any(one.project_id for one in store.versions.all() if one.name == order.out.name)
    there = len(unseen(store.database, order.source.signals, order.compare))
    if order.compare and not compared and there < LEAST_ITEMS:
        tasks = " or ".join(sorted({one["task"] for one in order.source.signals}))
        more = f"python -m core feedback run FILE... --task {tasks} --by {by.login}"
        print(
            f"Only {there} requests are there to compare on that it does not learn from; {LEAST_ITEMS} must count "
            f"before the version may be served. Make more, from files of patients that nobody has judged: {more}\n"
            "The same command compares later, where there was nothing before.",
            file=sys.stderr,
        )


def _order(options: argparse.Namespace, source: Source, store: StudioStore | None) -> Order:
    """What the arguments ask for."""
    from core.training.loop import Order
    from core.training.recipe import LearnRecipe, build_recipe, read_recipe

    recipe = build_recipe(LearnRecipe, read_recipe(options.recipe or LEARN_RECIPES / "default.json", options.overrides))
    versions = versions_folder(data_folder())
    named = options.base or (store and store.versions.served())
    base = str(versions / named) if named and (versions / named).is_dir() else named or default_model()
    name = checked_name(options.name or f"{Path(base).name}-{source.sha256[:6]}")
    if store is not None:
        _need_free(store, name, versions)
    return Order(source, base, recipe, versions / name, options.compare, options.records)


def _need_free(store: StudioStore, name: str, versions: Path) -> None:
    """The new version may have the name: nothing is learned in vain. What is learned already is not checked: the same
    command goes on with it."""
    if not is_learned(versions / name) and store.versions.taken(name):
        raise SettingsError("Something has that name already", value=name, remedy="Give the new version another --name")
