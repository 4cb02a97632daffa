"""Commands about feedback: ``feedback verify | user | export | snapshot | import | withdraw | run``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from getpass import getpass
from pathlib import Path

from core.commands.model import MODEL_HELP
from core.commands.store import studio_store
from core.config import default_model
from core.errors import FeedbackError, PromptError, SettingsError
from core.tasks import TASKS, get_task


def parser(parsers: argparse._SubParsersAction) -> None:
    feedback = parsers.add_parser("feedback", help="the studio's accounts, what is judged, and the check of its log")
    commands = feedback.add_subparsers(required=True, metavar="COMMAND")
    verify = commands.add_parser(
        "verify",
        help="find edits of the database behind the studio's back; status 1 if any",
        description="Finds edits behind the studio's back of the log, accounts, projects, members, items and what they "
        "show, judgements and their assignments, snapshots, trainings, and what visitors' feedback counts for. Not of "
        "drafts, leases, logins, consents, and what visitors' thumbs, votes and comments say. Files of pictures are "
        "checked when they are read.",
    )
    verify.set_defaults(command=_verify)

    user = commands.add_parser("user", help="make an account; its password is asked for, or is in UNIMED_PASSWORD")
    user.add_argument("name")
    user.add_argument("--role", required=True, help="rater, adjudicator or maintainer; the first is a maintainer")
    user.set_defaults(command=_user)

    export = commands.add_parser("export", help="write a project's judgements in a layout of others")
    export.add_argument("project", help="its name")
    export.add_argument("layout", help="trl_preference, label_studio, ...; a wrong name lists them")
    export.add_argument("out", type=Path, help="file (.jsonl, .csv, .parquet; COCO: .json), or a new dataset folder")
    export.add_argument("--by", required=True, metavar="NAME", help="the maintainer who does it")
    export.set_defaults(command=_export)

    snapshot = commands.add_parser("snapshot", help="write a snapshot as a folder, to learn from it elsewhere")
    snapshot.add_argument("sha256", help="of the snapshot, or its beginning")
    snapshot.add_argument("out", type=Path, help="a new folder")
    snapshot.set_defaults(command=_snapshot)

    imports = commands.add_parser("import", help="take outputs of others into the store, and make a project of them")
    imports.add_argument("kind", help="folder, records, label_studio or coco")
    imports.add_argument("path", type=Path, help="folder, zip, or document with its pictures beside it")
    imports.add_argument("--by", required=True, metavar="NAME", help="the maintainer who does it")
    imports.add_argument("--project", metavar="NAME", help="a new project of them (default: they are only stored)")
    imports.add_argument("--asks", default="rate", help="rate, compare or correct (default: rate)")
    imports.add_argument("--rubric", default="image", help="image, edit, text or training data (default: image)")
    imports.add_argument("--labels", nargs="+", metavar="LABEL", help="of regions, in place of the rubric's")
    imports.set_defaults(command=_import)

    withdraw = commands.add_parser("withdraw", help="take back what is kept of a person or a patient, for good")
    whom = withdraw.add_subparsers(required=True, metavar="WHOM")
    person = whom.add_parser("person", help="the name of an account and all that it has said, also when it has ended")
    person.add_argument("name")
    person.set_defaults(command=_withdraw_person)
    patient = whom.add_parser("patient", help="a patient's pictures, what models made of them, what was said of that")
    patient.add_argument("source", help="where it came from; a wrong one lists them")
    patient.add_argument("patient", help="as it was there; only its digest is compared")
    patient.set_defaults(command=_withdraw_patient)
    for one in (person, patient):
        one.add_argument("--by", required=True, metavar="NAME", help="the maintainer who does it")

    run = commands.add_parser("run", help="do a task on every file with several seeds, to have the outputs rated")
    run.add_argument("files", nargs="*", help="DICOM, NIfTI, PNG, JPEG or TIFF, for tasks that take one")
    run.add_argument("--by", required=True, metavar="NAME", help="the maintainer who does it")
    run.add_argument("--task", required=True, help=", ".join(TASKS))
    run.add_argument("--prompt", default="", help="question, caption or whatever the task asks for")
    run.add_argument("--seeds", type=int, default=1, metavar="N", help="seeds from 0 to N - 1 (default: 1)")
    run.add_argument("--steps", type=int, help="number of timesteps of an image (default: the model's)")
    run.add_argument("--model", default=default_model(), help=MODEL_HELP)
    run.set_defaults(command=_run)


def _verify(options: argparse.Namespace) -> int:
    with studio_store() as store:
        found = 0
        for finding in store.verify():
            print(finding)
            found += 1
        if not found:
            events, newest = store.log_head()
            print(f"{events} events, nothing was changed behind the studio's back. The newest event's hash:\n{newest}")
    return 1 if found else 0


def _user(options: argparse.Namespace) -> None:
    password = os.environ.get("UNIMED_PASSWORD")
    if password is None:
        password = getpass("Password: ")
        if getpass("Again: ") != password:
            raise FeedbackError("The two passwords differ", remedy="Try again")
    with studio_store() as store:
        store.people.add(None, options.name, options.role, password)
    print(f"{options.name} can log in as {options.role}")


def _withdraw_person(options: argparse.Namespace) -> None:
    with studio_store() as store:
        by = store.people.named(options.by)
        found = [user_id for user_id, login in store.people.to_withdraw(by).items() if login == options.name]
        if not found:
            remedy = "Write it as on the page Rights and log; it may be withdrawn already"
            raise FeedbackError("There is no such account", value=options.name, remedy=remedy)
        done = store.withdraw_person(by, *found)
    print(f"Withdrawn: {options.name}, with {done.judgements} judgements")


def _withdraw_patient(options: argparse.Namespace) -> None:
    with studio_store() as store:
        by = store.people.named(options.by)
        if options.source not in (sources := store.sources(by)):
            remedy = f"Use one of {', '.join(sources)}" if sources else "No patient is kept"
            raise FeedbackError("There is no such source", value=options.source, remedy=remedy)
        done = store.withdraw_patient(by, options.source, options.patient)
    print(f"Withdrawn: {done.generations} runs, {done.items} items, {done.judgements} judgements")


def _export(options: argparse.Namespace) -> None:
    with studio_store() as store:
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


def _snapshot(options: argparse.Namespace) -> None:
    from core.feedback import snapshot_folder

    with studio_store() as store:
        about = snapshot_folder.write(store.snapshots, store.blobs, options.sha256, options.out)
    for kind, count in about["counts"].items():
        if kind != "left out":
            print(f"{count:8}  {kind}")
    print(options.out)


def _import(options: argparse.Namespace) -> None:
    """The same command again stores nothing twice, and fills the project where the first one could not."""
    from core.feedback.rubric import RUBRICS

    if options.rubric not in RUBRICS:
        raise SettingsError("Unknown rubric", value=options.rubric, remedy=f"Use one of {', '.join(RUBRICS)}")
    rubric = RUBRICS[options.rubric]
    if options.labels:
        rubric = dataclasses.replace(rubric, defects=tuple(options.labels))
    with studio_store() as store:
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


def _run(options: argparse.Namespace) -> None:
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
    with studio_store() as store:
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
