"""The command line: ``python -m core info | run | train``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from core.config import default_model
from core.errors import PromptError, SettingsError, UniMedError
from core.tasks import TASKS, get_task


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; 0 when it went well, 2 with a sentence on standard error when the user can mend it."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except UniMedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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

    train = commands.add_parser("train", help="train from a recipe")
    train.add_argument("recipe", type=Path, help="JSON file, see core/training/recipes")
    train.add_argument("overrides", nargs="*", metavar="key=value", help="replace keys of the recipe")
    train.set_defaults(command=_train)
    return parser


def _info(options: argparse.Namespace) -> None:
    from core.model.checkpoint import load

    print(json.dumps(load(options.model).info(), indent=2))


def _run(options: argparse.Namespace) -> None:
    from core.data.images import open_image
    from core.inference.generator import Generator
    from core.inference.once import run_task
    from core.inference.provenance import NOTICE
    from core.model.checkpoint import load

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

    print(run_recipe(options.recipe, options.overrides))


if __name__ == "__main__":
    sys.exit(main())
