"""Commands about training records: ``records build | import | check | filter``."""

from __future__ import annotations

import argparse
from pathlib import Path

from core.commands.model import SCORERS
from core.errors import RecordError, SettingsError


def parser(parsers: argparse._SubParsersAction) -> None:
    records = parsers.add_parser("records", help="make, import, check and filter training records")
    commands = records.add_subparsers(required=True, metavar="COMMAND")
    build = commands.add_parser("build", help="records of every task from a manifest.csv and its folders")
    build.add_argument("manifest", type=Path)
    build.add_argument("--root", type=Path, help="folder that the manifest's paths start from (default: its own)")
    build.add_argument("--tiers", nargs="+", default=["A", "B"], help="licence tiers to take (default: A B)")
    build.add_argument("--hold-out", nargs="*", default=[], metavar="PATH", help="rows that count as test data")
    build.add_argument("--simulated-oct", type=int, default=0, metavar="N", help="add N simulated eyes (default: 0)")

    imports = commands.add_parser("import", help="records of a public set in its published layout")
    imports.add_argument("name", help="vqa_rad, slake, pathvqa, ...; a wrong name lists them")
    imports.add_argument("folder", type=Path, help="the set as its authors publish it")

    imports.add_argument("--resplit", action="store_true", help="split by patient instead of as published")

    for command in (build, imports):
        command.add_argument("--out", type=Path, required=True, help="JSONL file; its pictures go beside it")
        command.add_argument("--max-side", type=int, default=512, help="of stored pictures, in pixels (default: 512)")
        command.add_argument(
            "--coarse-side", type=int, default=16, help="pixels that a super-resolution input has (default: 16)"
        )
        command.add_argument("--seed", type=int, default=0, help="of wordings and simulated scans (default: 0)")
    build.set_defaults(command=_build)
    imports.set_defaults(command=_import)

    check = commands.add_parser("check", help="validate every line, file and split; status 2 if something is wrong")
    check.add_argument("records", type=Path)
    check.set_defaults(command=_check)

    keep = commands.add_parser("filter", help="the paper's quality control: length, size, alignment, expert ratings")
    keep.add_argument("records", type=Path)
    keep.add_argument("--out", type=Path, required=True, help="JSONL file in the same folder")
    keep.add_argument("--min-text", type=int, default=10, help="characters (default: 10)")
    keep.add_argument("--max-text", type=int, default=1024, help="characters (default: 1024)")
    keep.add_argument("--min-side", type=int, default=128, help="pixels of each side (default: 128)")
    keep.add_argument("--scorer", help=f"{SCORERS}; none is used by default")
    keep.add_argument("--drop", type=float, default=0.5, help="worst share by alignment to drop (default: 0.5)")
    keep.add_argument("--ratings", type=Path, help="JSONL of expert ratings; the mean must reach --gate")
    keep.add_argument("--gate", type=float, default=0.85, help="(default: 0.85)")
    keep.set_defaults(command=_filter)


def _build(options: argparse.Namespace) -> None:
    from core.data.build import BuildOptions, build

    settings = BuildOptions(
        tuple(options.tiers), options.max_side, options.coarse_side, options.simulated_oct, tuple(options.hold_out),
        options.seed,
    )  # fmt: skip
    _print_counts(build(options.manifest, options.root or options.manifest.parent, options.out, settings), options.out)


def _import(options: argparse.Namespace) -> None:
    from core.data.layouts import import_dataset

    counts = import_dataset(
        options.name, options.folder, options.out, max_side=options.max_side, seed=options.seed,
        coarse_side=options.coarse_side, resplit=options.resplit,
    )  # fmt: skip
    _print_counts(counts, options.out)


def _print_counts(counts: dict[str, int], out: Path) -> None:
    for name, count in sorted(counts.items()):
        print(f"{count:8}  {name}")
    print(out)


def _check(options: argparse.Namespace) -> None:
    from core.data.check import check

    report = check(options.records)
    print("\n".join(report.lines()))
    if not report.ok:
        raise RecordError(f"{options.records.name} has {len(report.problems)} problem(s), listed above")


def _filter(options: argparse.Namespace) -> None:
    from core.data.quality import QualityRules, filter_records
    from core.data.records import read_records, write_records

    source, target = options.records.resolve(), options.out.resolve()
    if target.parent != source.parent or target == source:
        what = "The output must be another file beside the records, whose pictures it uses"
        raise SettingsError(what, value=str(options.out), remedy=f"Try {source.with_stem(source.stem + '-kept').name}")
    scorer = None
    if options.scorer:
        from core.evaluation.alignment import scorer_of

        scorer = scorer_of(options.scorer)
    rules = QualityRules(
        options.min_text, options.max_text, options.min_side, options.drop, options.ratings, options.gate
    )
    kept, steps = filter_records(read_records(options.records), options.records.parent, rules, scorer)
    for step in steps:
        print("\n".join(step.lines()))
    write_records(options.out, kept)
    print(options.out)
