"""Commands about learned versions: ``versions list | lineage | promote | back | retire``, and ``add | merge | push |
pull``."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from core.commands.store import studio_store
from core.config import data_folder, versions_folder
from core.errors import CheckpointError, FeedbackError, SettingsError, UniMedError

if TYPE_CHECKING:
    from core.feedback.gate import Gate
    from core.feedback.studio import StudioStore
    from core.feedback.versions import VersionInfo


def parser(parsers: argparse._SubParsersAction) -> None:
    versions = parsers.add_parser("versions", help="learned versions: where they come from, and which is served")
    commands = versions.add_subparsers(required=True, metavar="COMMAND")

    listed = commands.add_parser("list", help="all versions with their state and how they did against their parent")
    listed.set_defaults(command=_list)
    lineage = commands.add_parser("lineage", help="what a version was made of, down to the base, as JSON")
    lineage.set_defaults(command=_lineage)

    promote = commands.add_parser("promote", help="serve a version that is shown to be better than its parent")
    promote.set_defaults(command=_promote)
    back = commands.add_parser("back", help="serve again what was served before")
    back.set_defaults(command=_back)
    retire = commands.add_parser("retire", help="put a candidate aside")
    retire.set_defaults(command=_retire)

    take = commands.add_parser("add", help="register a version that was trained elsewhere, from its folder")
    take.add_argument("folder", type=Path, help="with version.json and the adapter's two files")
    take.set_defaults(command=_add)
    merge = commands.add_parser("merge", help="write a version as a whole checkpoint in the official layout")
    merge.set_defaults(command=_merge)
    push = commands.add_parser("push", help="put a version into a repository of the hub; HF_TOKEN must allow it")
    push.set_defaults(command=_push)
    pull = commands.add_parser("pull", help="register a version from a repository of the hub, as `add` does")
    pull.add_argument("repo", help="OWNER/NAME")
    pull.set_defaults(command=_pull)

    for one in (lineage, promote, retire, merge, push):
        one.add_argument("name", help="of the version")
    merge.add_argument("out", type=Path, help="a new folder")
    kept = "bfloat16, the default, rounds what was learned; float32 keeps it"
    merge.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"), help=kept)
    push.add_argument("repo", help="OWNER/NAME; a private one is made where there is none")
    for one in (promote, back, retire, take, push, pull):
        one.add_argument("--by", required=True, metavar="NAME", help="the maintainer who does it")
    for one in (promote, back, retire):
        one.add_argument("--reason", required=True, help="for the log")


def _list(_: argparse.Namespace) -> None:
    with studio_store() as store:
        for one in store.versions.all():
            tainted = ", tainted: something it rests on was withdrawn" if one.tainted else ""
            gate = _words(store.versions.gate(one.id))
            print(f"{one.name}: {one.state}{tainted}. Of {one.lineage.parent}; {gate}")
        print(f"Served: {store.versions.served() or 'the base'}")


def _words(gate: Gate) -> str:
    if gate.rate is None:
        return "not compared with it yet"
    counts = f"{gate.wins} wins, {gate.ties} ties, {gate.losses} losses"
    return f"wins {gate.rate:.0%} ({gate.low:.0%} to {gate.high:.0%}) against it: {counts}"


def _lineage(options: argparse.Namespace) -> None:
    with studio_store() as store:
        known = {one.name: one for one in store.versions.all()}
        chain, one = [], _named(store, options.name)
        basis = store.versions.judgements(one.id)
        while one is not None:
            chain.append(one.lineage.to_json() | {"state": one.state, "tainted": one.tainted})
            one = known.get(one.lineage.parent)
    rests_on = [
        {"project": of.project, "rater": of.rater, "judgements": of.judgements, "withdrawn": of.withdrawn}
        for of in basis
    ]
    print(json.dumps({"versions": chain, "rests_on": rests_on}, indent=2, ensure_ascii=False))


def _promote(options: argparse.Namespace) -> None:
    with studio_store() as store:
        store.versions.promote(store.people.named(options.by), _named(store, options.name).id, options.reason)
    print(f"Served: {options.name}")


def _back(options: argparse.Namespace) -> None:
    with studio_store() as store:
        served = store.versions.roll_back(store.people.named(options.by), options.reason)
    print(f"Served: {served or 'the base'}")


def _retire(options: argparse.Namespace) -> None:
    with studio_store() as store:
        store.versions.retire(store.people.named(options.by), _named(store, options.name).id, options.reason)
    print(f"Put aside: {options.name}")


def _add(options: argparse.Namespace) -> None:
    with studio_store() as store:
        _register(store, options.by, options.folder)


def _register(store: StudioStore, login: str, folder: Path) -> None:
    """Registers a version and keeps a copy of its folder. The same again does nothing."""
    from core.model.exchange import checked, place

    by = store.people.named(login)
    lineage, fingerprint = checked(folder)
    target, is_new = place(folder, versions_folder(data_folder()))
    known = {one.name: one.state for one in store.versions.all()}
    try:
        store.versions.register(by, lineage, fingerprint)
    except UniMedError:
        if is_new:
            shutil.rmtree(target)
        raise
    how = f"was registered already ({known[lineage.name]})" if lineage.name in known else "is registered"
    print(f"{lineage.name} {how}, its folder is {target}")


def _merge(options: argparse.Namespace) -> None:
    from core.model.checkpoint import DTYPES
    from core.model.exchange import merge

    with studio_store() as store:
        one = _named(store, options.name)
        if one.tainted:
            what = "The version rests on something that was withdrawn"
            raise FeedbackError(what, value=one.name, remedy="Make its snapshot again, and learn from it")
        folder = _folder(one)
    merge(folder, options.out, DTYPES[options.dtype])
    print(options.out)


def _push(options: argparse.Namespace) -> None:
    from core.model.exchange import push

    if not (token := os.environ.get("HF_TOKEN")):
        raise SettingsError("The hub needs a token", remedy="Set HF_TOKEN to one that may write to the repository")
    with studio_store() as store:
        by, one = store.people.named(options.by), _named(store, options.name)
        folder = _folder(one)
        store.versions.leave(by, one.id, options.repo)
    print(push(folder, options.repo, token))


def _pull(options: argparse.Namespace) -> None:
    from core.model.exchange import pull

    with studio_store() as store, tempfile.TemporaryDirectory() as folder:
        pull(options.repo, Path(folder), os.environ.get("HF_TOKEN"))
        _register(store, options.by, Path(folder))


def _folder(one: VersionInfo) -> Path:
    """Where a version lies, if that is what was registered."""
    from core.model.exchange import checked

    folder = versions_folder(data_folder()) / one.name
    if checked(folder)[1] != one.fingerprint:
        raise CheckpointError("The weights are not those that were registered", value=one.name, remedy="Copy it again")
    return folder


def _named(store: StudioStore, name: str) -> VersionInfo:
    found = {one.name: one for one in store.versions.all()}
    if name not in found:
        remedy = f"Use one of {', '.join(found)}" if found else "None is registered"
        raise FeedbackError("There is no such version", value=name, remedy=remedy)
    return found[name]
