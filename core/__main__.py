"""The command line: ``python -m core info | run | records | train | evaluate | feedback``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING

from core.config import data_folder, database_url, default_model, pictures_place
from core.data.records import SPLITS
from core.errors import FeedbackError, PromptError, RecordError, SettingsError, UniMedError
from core.evaluation import HELP as FEATURES_HELP
from core.tasks import TASKS, get_task

if TYPE_CHECKING:
    from core.feedback.studio import StudioStore

SCORERS = "likelihood (of nano), likelihood:FOLDER or clip:HUB_ID"


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; 0 when it went well, 1 when it found what should not be, 2 with a sentence on standard error when
    the user can mend it."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options) or 0
    except UniMedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}.", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m core", description="UniMed Studio's model from the command line.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    info = commands.add_parser("info", help="say what a checkpoint holds and where it was loaded")
    info.set_defaults(command=_info)

    run = commands.add_parser("run", help="do a task once and print the result as JSON")
    run.add_argument("--task", required=True, help=", ".join(TASKS))
    run.add_argument("--image", help="DICOM, NIfTI, PNG, JPEG or TIFF file, for tasks that take one")
    run.add_argument("--frame", type=int, help="frame or slice of the file, counted from 0")
    run.add_argument(
        "--window", nargs=2, type=float, metavar=("CENTER", "WIDTH"), help="of grey values, in place of the file's own"
    )
    run.add_argument("--prompt", default="", help="question, caption or whatever the task asks for")
    run.add_argument("--seed", type=int, default=0, help="same seed, same output (default: 0)")
    run.add_argument("--steps", type=int, help="number of timesteps of an image (default: the model's)")
    run.add_argument("--temperature", type=float, help="of sampled text; 0 is greedy (default: the model's)")
    run.add_argument("--out", type=Path, default=Path("out"), help="folder for drawn images (default: out)")
    run.set_defaults(command=_run)

    for command in (info, run):
        command.add_argument("--model", default=default_model(), help="checkpoint folder or hub id (default: nano)")

    train = commands.add_parser("train", help="train from a recipe; the same command goes on where it was cut off")
    train.add_argument("recipe", type=Path, help="JSON file, see core/training/recipes")
    train.add_argument("overrides", nargs="*", metavar="key=value", help="replace keys of the recipe")
    train.add_argument(
        "--consolidate", action="store_true", help="write the last save as a checkpoint folder, without training"
    )
    train.set_defaults(command=_train)

    evaluate = commands.add_parser("evaluate", help="score a checkpoint on records, beside naive baselines")
    evaluate.add_argument("--records", type=Path, required=True, help="JSONL file of `records build` or `import`")
    evaluate.add_argument("--model", default=default_model(), help="checkpoint folder or hub id (default: nano)")
    evaluate.add_argument("--out", type=Path, required=True, help="folder for metrics.json and index.html")
    evaluate.add_argument("--split", default="test", choices=SPLITS)
    evaluate.add_argument("--limit", type=int, default=200, help="records of each task at most (default: 200)")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument("--features", default="small", help=FEATURES_HELP)
    evaluate.add_argument("--scorer", default="likelihood", help=f"judge of text-image alignment: {SCORERS}")
    evaluate.set_defaults(command=_evaluate)

    records = commands.add_parser("records", help="make, import, check and filter training records")
    _records_parser(records.add_subparsers(required=True, metavar="COMMAND"))

    feedback = commands.add_parser("feedback", help="the studio's accounts, and the check of its log")
    _feedback_parser(feedback.add_subparsers(required=True, metavar="COMMAND"))
    return parser


def _records_parser(commands: argparse._SubParsersAction) -> None:
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
    build.set_defaults(command=_records_build)
    imports.set_defaults(command=_records_import)

    check = commands.add_parser("check", help="validate every line, file and split; status 2 if something is wrong")
    check.add_argument("records", type=Path)
    check.set_defaults(command=_records_check)

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
    keep.set_defaults(command=_records_filter)


def _feedback_parser(commands: argparse._SubParsersAction) -> None:
    verify = commands.add_parser(
        "verify",
        help="find edits of the database behind the studio's back; status 1 if any",
        description="Finds edits behind the studio's back of the log, accounts, projects, members, items and what they "
        "show, judgements and their assignments, snapshots, trainings, and what visitors' feedback counts for. Not of "
        "drafts, leases, logins, consents, and what visitors' thumbs, votes and comments say. Files of pictures are "
        "checked when they are read.",
    )
    verify.set_defaults(command=_feedback_verify)

    user = commands.add_parser("user", help="make an account; its password is asked for, or is in UNIMED_PASSWORD")
    user.add_argument("name")
    user.add_argument("--role", required=True, help="rater, adjudicator or maintainer; the first is a maintainer")
    user.set_defaults(command=_feedback_user)

    export = commands.add_parser("export", help="write a project's judgements in a layout of others")
    export.add_argument("project", help="its name")
    export.add_argument("layout", help="trl_preference, label_studio, ...; a wrong name lists them")
    export.add_argument("out", type=Path, help="file (.jsonl, .csv, .parquet; COCO: .json), or a new dataset folder")
    export.add_argument("--by", required=True, metavar="NAME", help="the maintainer who does it")
    export.set_defaults(command=_feedback_export)

    imports = commands.add_parser("import", help="take outputs of others into the store, and make a project of them")
    imports.add_argument("kind", help="folder, records, label_studio or coco")
    imports.add_argument("path", type=Path, help="folder, zip, or document with its pictures beside it")
    imports.add_argument("--by", required=True, metavar="NAME", help="the maintainer who does it")
    imports.add_argument("--project", metavar="NAME", help="a new project of them (default: they are only stored)")
    imports.add_argument("--asks", default="rate", help="rate, compare or correct (default: rate)")
    imports.add_argument("--rubric", default="image", help="image, edit, text or training data (default: image)")
    imports.add_argument("--labels", nargs="+", metavar="LABEL", help="of regions, in place of the rubric's")
    imports.set_defaults(command=_feedback_import)

    withdraw = commands.add_parser("withdraw", help="take back what is kept of a person or a patient, for good")
    whom = withdraw.add_subparsers(required=True, metavar="WHOM")
    person = whom.add_parser("person", help="the name of an account and all that it has said, also when it has ended")
    person.add_argument("name")
    person.set_defaults(command=_feedback_withdraw_person)
    patient = whom.add_parser("patient", help="a patient's pictures, what models made of them, what was said of that")
    patient.add_argument("source", help="where it came from; a wrong one lists them")
    patient.add_argument("patient", help="as it was there; only its digest is compared")
    patient.set_defaults(command=_feedback_withdraw_patient)
    for one in (person, patient):
        one.add_argument("--by", required=True, metavar="NAME", help="the maintainer who does it")

    run = commands.add_parser("run", help="do a task on every file with several seeds, to have the outputs rated")
    run.add_argument("files", nargs="*", help="DICOM, NIfTI, PNG, JPEG or TIFF, for tasks that take one")
    run.add_argument("--by", required=True, metavar="NAME", help="the maintainer who does it")
    run.add_argument("--task", required=True, help=", ".join(TASKS))
    run.add_argument("--prompt", default="", help="question, caption or whatever the task asks for")
    run.add_argument("--seeds", type=int, default=1, metavar="N", help="seeds from 0 to N - 1 (default: 1)")
    run.add_argument("--steps", type=int, help="number of timesteps of an image (default: the model's)")
    run.add_argument("--model", default=default_model(), help="checkpoint folder or hub id (default: nano)")
    run.set_defaults(command=_feedback_run)


def _info(options: argparse.Namespace) -> None:
    from core.model.checkpoint import load

    print(json.dumps(load(options.model).info(), indent=2))


def _run(options: argparse.Namespace) -> None:
    from core.data.images import open_image
    from core.inference.generator import Generator
    from core.inference.once import run_task
    from core.model.checkpoint import load
    from core.sequence import NOTICE

    task = get_task(options.task)
    if task.images and not options.image:
        raise PromptError(f"{task.title} takes an image", remedy="Give one with --image FILE")
    window = tuple(options.window) if options.window else None
    images = [open_image(options.image, frame=options.frame, window=window)] if options.image else []
    task.build(images, options.prompt)  # a wrong request is refused before the model is loaded
    _make_folder(options.out, needed="image" in task.outputs)
    generator = Generator(load(options.model))
    answer = run_task(generator, task, images, options.prompt, options.seed, options.steps, options.temperature)
    paths = []
    for i, image in enumerate(answer.images):
        paths.append(options.out / f"{task.name}-{options.seed}-{image.sha256[:12]}{f'-{i}' if i else ''}.png")
        answer.provenance.save(image, paths[-1])
    result = {
        "text": answer.text,
        "images": [str(path) for path in paths],
        "seed": options.seed,
        "model": answer.provenance.model,
        "seconds": round(answer.seconds, 3),
        "notice": NOTICE,
    }
    if answer.provenance.warning:
        result["warning"] = answer.provenance.warning
    print(json.dumps(result, indent=2, ensure_ascii=False))


def _make_folder(folder: Path, *, needed: bool) -> None:
    """Creates the output folder before any work is done."""
    if not needed:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"The output folder cannot be made ({error.strerror})"
        raise SettingsError(what, value=str(folder), remedy="Give another with --out") from error
    if not os.access(folder, os.W_OK):
        raise SettingsError("The output folder is read-only", value=str(folder), remedy="Give another with --out")


def _train(options: argparse.Namespace) -> None:
    from core.training.recipe import run_recipe

    print(run_recipe(options.recipe, options.overrides, consolidate=options.consolidate))


def _evaluate(options: argparse.Namespace) -> None:
    from core.evaluation.evaluate import evaluate

    result = evaluate(
        options.records, options.model, options.out, options.split, options.limit, options.seed, options.features,
        options.scorer,
    )  # fmt: skip
    print(json.dumps(result["summary"], indent=2, ensure_ascii=False))
    print(options.out / "index.html")


def _records_build(options: argparse.Namespace) -> None:
    from core.data.build import BuildOptions, build

    settings = BuildOptions(
        tuple(options.tiers), options.max_side, options.coarse_side, options.simulated_oct, tuple(options.hold_out),
        options.seed,
    )  # fmt: skip
    _print_counts(build(options.manifest, options.root or options.manifest.parent, options.out, settings), options.out)


def _records_import(options: argparse.Namespace) -> None:
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


def _records_check(options: argparse.Namespace) -> None:
    from core.data.check import check

    report = check(options.records)
    print("\n".join(report.lines()))
    if not report.ok:
        raise RecordError(f"{options.records.name} has {len(report.problems)} problem(s), listed above")


def _records_filter(options: argparse.Namespace) -> None:
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


def _studio_store() -> StudioStore:
    """The store of the studio and the demo, as both of them find it."""
    from core.feedback.studio import StudioStore

    folder = data_folder()
    return StudioStore(database_url(folder), pictures_place(folder))


def _feedback_verify(options: argparse.Namespace) -> int:
    with _studio_store() as store:
        found = 0
        for finding in store.verify():
            print(finding)
            found += 1
        if not found:
            events, newest = store.log_head()
            print(f"{events} events, nothing was changed behind the studio's back. The newest event's hash:\n{newest}")
    return 1 if found else 0


def _feedback_user(options: argparse.Namespace) -> None:
    password = os.environ.get("UNIMED_PASSWORD")
    if password is None:
        password = getpass("Password: ")
        if getpass("Again: ") != password:
            raise FeedbackError("The two passwords differ", remedy="Try again")
    with _studio_store() as store:
        store.people.add(None, options.name, options.role, password)
    print(f"{options.name} can log in as {options.role}")


def _feedback_withdraw_person(options: argparse.Namespace) -> None:
    with _studio_store() as store:
        by = store.people.named(options.by)
        found = [user_id for user_id, login in store.people.to_withdraw(by).items() if login == options.name]
        if not found:
            remedy = "Write it as on the page Rights and log; it may be withdrawn already"
            raise FeedbackError("There is no such account", value=options.name, remedy=remedy)
        done = store.withdraw_person(by, *found)
    print(f"Withdrawn: {options.name}, with {done.judgements} judgements")


def _feedback_withdraw_patient(options: argparse.Namespace) -> None:
    with _studio_store() as store:
        by = store.people.named(options.by)
        if options.source not in (sources := store.sources(by)):
            remedy = f"Use one of {', '.join(sources)}" if sources else "No patient is kept"
            raise FeedbackError("There is no such source", value=options.source, remedy=remedy)
        done = store.withdraw_patient(by, options.source, options.patient)
    print(f"Withdrawn: {done.generations} runs, {done.items} items, {done.judgements} judgements")


def _feedback_export(options: argparse.Namespace) -> None:
    with _studio_store() as store:
        by = store.people.named(options.by)
        projects = {project.name: project.id for project in store.projects.of(by)}
        if options.project not in projects:
            raise FeedbackError(
                "There is no such project", value=options.project, remedy=f"Use one of {list(projects)}"
            )
        losses = store.exports.write(by, projects[options.project], options.layout, options.out)
    for reason, count in losses.items():
        print(f"left out: {count} ({reason})")
    print(f"{options.out} is written")


def _feedback_import(options: argparse.Namespace) -> None:
    """The same command again stores nothing twice, and fills the project where the first one could not."""
    from core.feedback.rubric import RUBRICS

    if options.rubric not in RUBRICS:
        raise SettingsError("Unknown rubric", value=options.rubric, remedy=f"Use one of {', '.join(RUBRICS)}")
    rubric = RUBRICS[options.rubric]
    if options.labels:
        rubric = dataclasses.replace(rubric, defects=tuple(options.labels))
    with _studio_store() as store:
        by = store.people.named(options.by)
        project = next((one for one in store.projects.of(by) if one.name == options.project), None)
        if project is not None and project.items:
            what, remedy = "The project has items already", "Name a new one, or leave --project out"
            raise FeedbackError(what, value=options.project, remedy=remedy)
        asks, rubric = (project.kind, project.rubric) if project else (options.asks, rubric)
        found = store.imports.read(by, options.kind, options.path, asks=asks, rubric=rubric)
        print("\n".join([*found.lines(), f"{len(found.items)} outputs are there to be judged"]))
        if options.project:
            if project:
                store.projects.add_items(by, project.id, found.items)
            else:
                store.projects.make(by, options.project, asks, rubric, items=found.items)
            print(f"{options.project} is a draft with {len(found.items)} items")


def _feedback_run(options: argparse.Namespace) -> None:
    """The same command again stores nothing twice."""
    from core.data.images import open_image, patient_of
    from core.feedback.runs import whose_picture
    from core.inference.generator import Generator
    from core.inference.once import run_task
    from core.model.checkpoint import load

    task = get_task(options.task)
    if bool(task.images) != bool(options.files):
        needs = "needs files" if task.images else "takes no file"
        raise PromptError(f"{task.title} {needs}", value=len(options.files))
    scans = [([open_image(path)], patient_of(path)) for path in options.files] or [([], None)]
    with _studio_store() as store:
        by, generator, stored = store.people.named(options.by), Generator(load(options.model)), 0
        for images, patient in scans:
            for seed in range(options.seeds):
                answer = run_task(generator, task, images, options.prompt, seed, options.steps)
                about, of = answer.provenance.record(answer.seconds), [image.sha256 for image in images]
                store.add_run(
                    by, task=task.name, inputs=task.build(images, options.prompt), outputs=answer.segments, seed=seed,
                    settings=about["parameters"], model_name=about["model"],
                    model_fingerprint=generator.checkpoint.fingerprint,
                    key=json.dumps([task.name, of, options.prompt, seed, about["parameters"]]),
                    case=(*whose_picture(patient, of[0]), "") if of else None,
                )  # fmt: skip
                stored += len(answer.segments)
                print(f"\r{stored} outputs", end="", file=sys.stderr, flush=True)
    print(f"\n{stored} outputs of {task.name} are there to be rated")


if __name__ == "__main__":
    sys.exit(main())
