"""Commands about a model: ``info``, ``run``, ``train`` and ``evaluate``."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from core.config import default_model
from core.data.records import SPLITS
from core.errors import PromptError, SettingsError
from core.evaluation import HELP as FEATURES_HELP
from core.tasks import TASKS, get_task

SCORERS = "likelihood (of nano), likelihood:FOLDER or clip:HUB_ID"
MODEL_HELP = "checkpoint folder, hub id, or folder of a learned version (default: nano)"


def parser(commands: argparse._SubParsersAction) -> None:
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
        command.add_argument("--model", default=default_model(), help=MODEL_HELP)

    train = commands.add_parser("train", help="train from a recipe; the same command goes on where it was cut off")
    train.add_argument("recipe", type=Path, help="JSON file, see core/training/recipes")
    train.add_argument("overrides", nargs="*", metavar="key=value", help="replace keys of the recipe")
    train.add_argument(
        "--consolidate", action="store_true", help="write the last save as a checkpoint folder, without training"
    )
    train.set_defaults(command=_train)

    evaluate = commands.add_parser("evaluate", help="score a checkpoint on records, beside naive baselines")
    evaluate.add_argument("--records", type=Path, required=True, help="JSONL file of `records build` or `import`")
    evaluate.add_argument("--model", default=default_model(), help=MODEL_HELP)
    evaluate.add_argument("--out", type=Path, required=True, help="folder for metrics.json and index.html")
    evaluate.add_argument("--split", default="test", choices=SPLITS)
    evaluate.add_argument("--limit", type=int, default=200, help="records of each task at most (default: 200)")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument("--features", default="small", help=FEATURES_HELP)
    evaluate.add_argument("--scorer", default="likelihood", help=f"judge of text-image alignment: {SCORERS}")
    evaluate.set_defaults(command=_evaluate)


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
