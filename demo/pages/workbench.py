"""The workbench: one conversation in which texts and images alternate in both directions."""

from __future__ import annotations

import secrets
from pathlib import Path

import gradio as gr

from core.inference.once import image_sampling
from core.tasks import TASKS, get_task
from demo import render
from demo.feedback import Feedback
from demo.handlers import ANSWERS, WORKBENCH, Handlers
from demo.pages.common import (
    QUIET,
    Page,
    Settings,
    VersionChoice,
    enabled,
    feedback_bar,
    image_settings,
    own_settings,
    said,
    seed_setting,
    text_settings,
)
from demo.strings import Words, label
from demo.visit import Job

ANY_TEXT_LENGTH = 1_000_000  # the box would turn a longer pasted text into a file; the handler refuses it in words

# Keeps what was typed, and what was added, while the files were read.
MERGE_FILES = """(box, attached) => {
  const {files, seen} = attached ?? {files: [], seen: (box?.files ?? []).map((file) => file.path)};
  const known = [...seen, ...files.map((file) => file.path)];
  const added = (box?.files ?? []).filter((file) => !known.includes(file.path));
  return {text: box?.text ?? '', files: [...files, ...added]};
}"""


def workbench_page(handlers: Handlers, feedback: Feedback) -> Page:
    config = handlers.offer.base.generator.config
    chat = gr.Chatbot(
        label=label("conversation"),
        show_label=False,
        elem_id="conversation",
        height="clamp(300px, calc(100vh - 460px), 720px)",
        placeholder=label("chat empty"),
        examples=[
            {"icon": render.save_input(e.image, handlers.visits.folder), "display_text": e.title, "text": e.question}
            for e in handlers.examples
        ],
        buttons=[],
        latex_delimiters=[],
        feedback_options=None,
    )
    chat.keep_in_cache.update(example["icon"]["path"] for example in chat.examples)  # as long as the server runs
    status = gr.HTML(elem_classes="status-line")
    box = gr.MultimodalTextbox(
        {"text": "", "files": []},
        file_count="multiple",
        sources=["upload"],
        max_lines=8,
        max_plain_text_length=ANY_TEXT_LENGTH,
        placeholder=label("chat placeholder"),
        label=label("message"),
        show_label=False,
        elem_id="message",
    )
    attached = gr.JSON(visible="hidden")
    notes = gr.HTML()
    hint = gr.HTML()
    gallery = gr.Gallery(
        label=label("conversation images"), show_label=False, visible=False, columns=8, height=110, buttons=[],
        allow_preview=False,
        elem_id="images", interactive=False,
    )  # fmt: skip
    with gr.Row(elem_id="answer"):
        template = gr.Dropdown(
            [(label("free"), ""), *((label(f"task {name}"), name) for name in TASKS)],
            value="", label=label("template"), info=label("template info"), min_width=200,
        )  # fmt: skip
        answer = gr.Radio(
            [(label(f"answer {key}"), key) for key in ANSWERS], value="text", label=label("answer label"), min_width=300
        )
        stop = gr.Button(label("stop"), interactive=False, size="md", min_width=80)
        new = gr.Button(label("new conversation"), size="md", min_width=160)

    def draw(job: Job, say: Words) -> tuple:
        if not job.done:
            return [*job.messages, job.parts[0].reply.message(say)], gr.skip(), gr.skip(), gr.skip()
        listed = [(path, render.input_alt(image, say)) for path, image in job.images]
        images = gr.Gallery(listed, visible=bool(listed), selected_index=None)
        hint = f'<p class="notes">{say("conversation images")}</p>' if listed else ""
        return job.messages, job.box if job.came_to_nothing else gr.skip(), images, hint

    page = Page(WORKBENCH, handlers, status, None, stop, [chat, box, gallery, hint], draw)
    feedback_bar(page, feedback, correctable=True)
    with gr.Accordion(label("advanced"), open=False):
        with gr.Row():
            seed = seed_setting()
            think = gr.Checkbox(label=label("think"), info=label("think info"))
        with gr.Column(visible=False) as drawing:
            images = image_settings(config.image)
        with gr.Column() as writing:
            texts = text_settings(config.text)
        version = VersionChoice(handlers, lambda visit: visit.choice)
    page.versions = [version]
    settings = Settings(seed | images | texts | {"think": think})
    widgets = (chat, box, attached, notes, gallery, template, answer, new, drawing, writing, version.field)
    wire(handlers, page, widgets, settings)
    return page


def wire(handlers: Handlers, page: Page, widgets: tuple, settings: Settings) -> None:
    chat, box, attached, notes, gallery, template, answer, new, drawing, writing, version = widgets
    visits = handlers.visits

    def files(paths: list[str], seen: list[str]) -> dict:
        """The files that take the place of those in the box that were ``seen``."""
        listed = [
            {
                "path": path,
                "url": render.file_url(path),
                "orig_name": Path(path).name,
                "mime_type": "image/png",
                "meta": {"_type": "gradio.FileData"},
            }
            for path in paths
        ]
        return {"files": listed, "seen": seen, "change": secrets.token_hex(4)}

    def attach(box: dict, request: gr.Request) -> tuple:
        say = said(request)
        found = visits.attach(visits.of(request.session_hash), box["files"])
        if found is None:
            return gr.skip(), gr.skip()
        problems = "".join(map(render.problem, found.problems))
        return files(found.paths, box["files"]), problems + render.notes(found.images, say)

    def begin(request: gr.Request, box: dict, answer: str, template: str, version: str, *values: object) -> tuple:
        say, tab = said(request), request.session_hash
        visit = visits.of(tab)
        visit.say = say
        if (found := visits.attach(visit, box["files"])) is not None:
            box = {**box, "files": found.paths}
            if found.problems:
                told = "".join(map(render.problem, found.problems))
                return gr.skip(), box, gr.skip(), gr.skip(), told, enabled(page.stop, False)
        controls = settings.controls(values)
        updates = page.begin(request, lambda: handlers.chat(tab, box, answer, controls, template, version))
        if isinstance(updates[0], list):
            return (updates[0], {"text": "", "files": []}, *updates[2:])
        return updates

    def again(event: gr.SelectData, box: dict, request: gr.Request) -> dict:
        visit = visits.of(request.session_hash)
        if event.index >= len(visit.images):  # of a conversation that is over
            return gr.skip()
        _, image = visit.images[event.index]
        return files(visits.attach_image(visit, image, box["files"]), box["files"])

    def example(event: gr.SelectData, request: gr.Request) -> tuple:
        chosen, visit = handlers.examples[event.index], visits.of(request.session_hash)
        paths = visits.attach_image(visit, chosen.image, [])
        return {"text": chosen.question, "files": paths}, render.notes([chosen.image], said(request))

    def choose(name: str, box: dict) -> tuple:
        """A task's wording and kind of answer; what was attached stays."""
        config = handlers.offer.base.generator.config
        if not name:
            return gr.skip(), gr.skip(), *own_settings(settings, config.image)
        task = get_task(name)
        kind = next(key for key, outputs in ANSWERS.items() if set(outputs) == set(task.outputs))
        text = task.instruction(task.examples[0] if task.prompt_label else "")
        own = own_settings(settings, image_sampling(config, task))
        return {"text": text, "files": box["files"]}, kind, *own

    def matter(answer: str) -> tuple:
        outputs = ANSWERS[answer]
        return gr.Column(visible="image" in outputs), gr.Column(visible="text" in outputs)

    def forget(version: str, request: gr.Request) -> tuple:
        handlers.new_conversation(request.session_hash, version)
        stop = enabled(page.stop, False)
        return [], {"text": "", "files": []}, gr.Gallery([], visible=False), "", "", stop, "", None

    box.change(attach, box, [attached, notes], trigger_mode="always_last", queue=False, **QUIET)
    attached.change(None, [box, attached], box, js=MERGE_FILES, **QUIET)
    gallery.select(again, box, attached, queue=False, **QUIET)
    chat.example_select(example, None, [box, notes], queue=False, **QUIET)
    template.input(choose, [template, box], [box, answer, *settings.components], queue=False, **QUIET)
    answer.change(matter, answer, [drawing, writing], queue=False, **QUIET)
    inputs = [box, answer, template, version, *settings.components]
    begun = box.submit(begin, inputs, page.components, concurrency_limit=None, **QUIET)
    begun.then(page.follow, None, page.components, concurrency_limit=None, **QUIET)
    page.wire_stop()
    gr.on(
        [new.click, chat.clear, version.input],
        forget,
        version,
        [*page.components, notes, attached],
        queue=False,
        **QUIET,
    )
