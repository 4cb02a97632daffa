"""Endpoints for programs: what ``gradio_client``, plain HTTP and MCP clients can call."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator

import gradio as gr

from core.errors import UniMedError
from core.tasks import TASKS, Task
from demo.handlers import Handlers
from demo.visit import RANDOM_SEED

_ARGUMENTS = {
    "image": "file (DICOM, NIfTI, PNG, JPEG, TIFF, WebP or BMP); deleted once it is read.",
    "prompt": "text of up to 2000 characters: {label}, for example {example!r}.",
    "seed": "integer; -1 draws one, which stands in the record.",
}
_TYPES = {"image": str, "prompt": str, "seed": int}
_OUTPUTS = {
    "text": "the answer; while it is being written, what there is of it.",
    "image": "a PNG file with the record in its metadata; None until it is done.",
}


def api(handlers: Handlers) -> None:
    """An endpoint for each task, under the task's name. They stand in the same queue as the pages."""
    with gr.Row(visible=False):
        fields = {
            "image": gr.File(label="Image"),
            "prompt": gr.Textbox(label="Prompt"),
            "seed": gr.Number(RANDOM_SEED, precision=0, label="Seed"),
        }
        results = {"text": gr.Textbox(label="Text"), "image": gr.Image(label="Image", format="png")}
        record, button = gr.JSON(label="Record"), gr.Button()
    for task in TASKS.values():
        button.click(
            endpoint(handlers, task),
            [fields[name] for name in arguments(task)],
            [*(results[kind] for kind in task.outputs), record],
            api_name=task.name,
            concurrency_limit=None,
        )


def arguments(task: Task) -> list[str]:
    """What a task's endpoint takes, in order."""
    return [*["image"] * task.images, *["prompt"] * bool(task.prompt_label), "seed"]


def endpoint(handlers: Handlers, task: Task) -> Callable[..., Iterator[tuple]]:
    """The function behind a task's endpoint, with the task's own arguments and documentation."""
    names = arguments(task)

    def run(*values) -> Iterator[tuple]:
        *values, request = values
        given = dict(zip(names, values, strict=True))
        images = [str(given["image"])] if given.get("image") else []
        client = request.session_hash or request.client.host
        try:
            for reply, record in handlers.request(client, task, images, given.get("prompt", ""), given["seed"]):
                results = {"text": reply.text, "image": reply.picture.path if reply.picture else None}
                yield (*(results[kind] for kind in task.outputs), record)
        except UniMedError as error:
            raise gr.Error(str(error), print_exception=False) from error
        except Exception as error:  # its text could quote a prompt
            print(f"The model failed with {type(error).__name__}", file=sys.stderr, flush=True)
            raise gr.Error(f"The model failed: {type(error).__name__}.", print_exception=False) from None

    words = {"label": task.prompt_label.lower(), "example": task.examples[0] if task.examples else ""}
    run.__name__ = task.name
    run.__doc__ = "\n".join([
        f"{task.description} What comes back is AI-generated and not for diagnosis.",
        "",
        "Args:",
        *(f"    {name}: {_ARGUMENTS[name].format(**words)}" for name in names),
        "",
        "Returns:",
        *(f"    {_OUTPUTS[kind]}" for kind in task.outputs),
        "    the record of model, task, seed, settings and notice; None until everything is done.",
    ])  # fmt: skip
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, positional, annotation=_TYPES[name]) for name in names]
    parameters.append(inspect.Parameter("request", positional, annotation=gr.Request))
    run.__signature__ = inspect.Signature(parameters)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
