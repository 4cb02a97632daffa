"""One scan, and every task on it: the viewer on the left, a tab for each task on the right."""

from __future__ import annotations

import gradio as gr

from core.data.stack import stack_of
from core.errors import PromptError, UniMedError
from core.inference.once import image_sampling
from core.tasks import Task
from core.tasks.regions import Region
from demo import render, results
from demo.feedback import Feedback
from demo.handlers import SCAN_TASKS, Handlers
from demo.pages.common import (
    QUIET,
    Page,
    Settings,
    VersionChoice,
    feedback_bar,
    image_settings,
    parsed,
    result_page,
    said,
    seed_setting,
    text_settings,
)
from demo.render import tag
from demo.strings import ENGLISH, label
from demo.visit import Job

WITH_REFERENCE = ("super_resolution", "virtual_staining", "cross_modal")


class Viewer:
    """The scan that is open: widgets of the left side."""

    def __init__(self, handlers: Handlers) -> None:
        self.handlers = handlers
        self.upload = gr.File(label=label("scan upload"), file_count="multiple", height=170, elem_id="scan-upload")
        self.tries = gr.Dataset(
            components=["textbox"], samples=[[e.title] for e in handlers.examples], type="index",
            label=label("examples"),
        )  # fmt: skip
        self.status = gr.HTML()
        self.view = gr.HTML(results.viewer(None, ENGLISH), elem_id="viewer")
        with gr.Accordion(label("header"), open=False):
            self.header = gr.HTML()
        self.state = gr.Textbox(visible="hidden", elem_id="scan-view")

    @property
    def outputs(self) -> list:
        return [self.upload, self.view, self.header, self.status]

    def shown(self, request: gr.Request) -> tuple:
        scan, say = self.handlers.visits.of(request.session_hash).scan, said(request)
        return None, results.viewer(scan, say), results.header(scan, say), ""

    def wire(self) -> None:
        def open_scan(source: list[str] | int | None, request: gr.Request) -> tuple:
            """Takes the paths of an upload or the index of an example."""
            visits = self.handlers.visits
            if source is None:
                return self.shown(request)
            try:
                chosen = self.handlers.examples[source].stack() if isinstance(source, int) else [str(p) for p in source]
                visits.open_scan(visits.of(request.session_hash), chosen)
            except UniMedError as error:
                return None, gr.skip(), gr.skip(), render.problem(str(error))
            return self.shown(request)

        def look(value: str, request: gr.Request) -> None:
            seen = parsed(value)
            visits = self.handlers.visits
            if isinstance(seen.get("slice"), int):
                window = seen.get("center"), seen.get("width")
                visits.view(visits.of(request.session_hash), str(seen.get("key")), seen["slice"], *window)

        for trigger, source in ((self.upload.upload, self.upload), (self.tries.click, self.tries)):
            trigger(open_scan, source, self.outputs, concurrency_limit=None, **QUIET)
        self.state.input(look, self.state, None, queue=False, trigger_mode="always_last", **QUIET)


def scan_page(handlers: Handlers, feedback: Feedback) -> tuple[Viewer, list[Page]]:
    """The page of one scan."""
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            viewer = Viewer(handlers)
        with gr.Column(scale=3, min_width=320), gr.Tabs():
            pages = []
            for task in SCAN_TASKS:
                with gr.Tab(label(f"task {task.name}"), elem_id=f"task-{task.name}"):
                    pages.append(task_tab(handlers, feedback, task, viewer))
    viewer.wire()
    return viewer, pages


def task_tab(handlers: Handlers, feedback: Feedback, task: Task, viewer: Viewer) -> Page:
    """One task: its prompt, what helps it, its settings, its result."""
    draws = "image" in task.outputs
    gr.HTML(value=label(f"about {task.name}"), elem_classes="notes")
    prompt = gr.Textbox(
        label=label(f"prompt {task.name}") if task.prompt_label else "",
        placeholder=label("prompt placeholder"),
        visible=bool(task.prompt_label),
    )
    if task.examples:
        prompts = gr.Dataset(
            components=["textbox"], samples=[[e] for e in task.examples], label=label("prompt examples")
        )
        prompts.click(lambda sample: sample[0], prompts, prompt, queue=False, **QUIET)
    region, reference, coarsen = extras(handlers, task, viewer)
    if not draws:
        gr.HTML(value=label("dependence info"), elem_classes="notes")
    with gr.Row():
        run = gr.Button(label("run"), variant="primary", size="md", min_width=90)
        stop = gr.Button(label("stop"), interactive=False, size="md", min_width=80)
        depend = gr.Button(label("dependence"), visible=not draws, size="md", scale=2, min_width=230)
        use = gr.Button(label("use result"), visible=draws, size="md", min_width=130)
    status = gr.HTML()
    outcome = gr.HTML(elem_classes="result")
    page = result_page(task.name, handlers, (outcome, status, run, stop))
    feedback_bar(page, feedback, correctable="text" in task.outputs)
    with gr.Accordion(label("advanced"), open=False):
        fields = seed_setting()
        if draws:
            fields |= image_settings(image_sampling(handlers.offer.base.generator.config, task))
        if "text" in task.outputs:
            fields |= text_settings(handlers.offer.base.generator.config.text)
        settings = Settings(fields)
        version = VersionChoice(handlers)
    page.versions = [version]

    def start(
        tab: str, prompt: str, region: str, reference: str | None, coarsen: bool, version: str, *values: object
    ) -> Job:
        target = handlers.visits.uploads.picture(reference) if reference else None
        return handlers.task(
            tab, task.name, prompt, settings.controls(values), region_of(region), target, coarsen, version
        )

    inputs = [prompt, region, reference, coarsen, version.field, *settings.components]
    page.wire(run.click, start, inputs)
    if task.prompt_label:
        page.wire(prompt.submit, start, inputs)
    page.wire_stop()
    if draws:

        def take(request: gr.Request) -> tuple:
            return take_result(handlers, viewer, request, task.name)

        use.click(take, None, viewer.outputs, **QUIET)
    else:

        def depends(tab: str, prompt: str, version: str, *values: object) -> Job:
            return handlers.dependence(tab, task.name, prompt, settings.controls(values), version)

        page.wire(depend.click, depends, [prompt, version.field, *settings.components])
    return page


def extras(handlers: Handlers, task: Task, viewer: Viewer) -> tuple[gr.Textbox, gr.File, gr.Checkbox]:
    """What some tasks take besides a prompt: a region, a reference picture, a coarsened input."""
    segments = task.name == "segmentation"
    region = gr.Textbox(visible="hidden", elem_id=f"region-{task.name}")
    if segments:
        with gr.Accordion(label("region"), open=False) as where:
            pick = gr.HTML(elem_id="pick")

        def picture(request: gr.Request) -> tuple:
            visit, say = handlers.visits.of(request.session_hash), said(request)
            if visit.scan is None:
                return f'<p class="empty">{say("no scan")}</p>', ""
            image = visit.scan.image
            path = render.save_input(image, visit.folder)
            width, height = image.pixels.size
            element = tag(
                "um-pick", src=render.file_url(path), alt=render.input_alt(image, say), modes="point box",
                width=width, height=height, to=region.elem_id, strings=results.element_strings(say),
            )  # fmt: skip
            return f"{element}</um-pick>", ""

        where.expand(picture, None, [pick, region], queue=False, **QUIET)
        viewer.view.change(picture, None, [pick, region], queue=False, **QUIET)
    compares = task.name in WITH_REFERENCE
    coarsen = gr.Checkbox(label=label("coarsen"), visible=task.name == "super_resolution")
    with gr.Accordion(label("reference upload"), open=False, visible=compares):
        reference = gr.File(show_label=False, height=120, label=label("reference"))
    return region, reference, coarsen


def region_of(value: str | None) -> Region | None:
    """The point or box that was picked."""
    found = parsed(value)
    names = {"point": ("x", "y"), "box": ("x0", "y0", "x1", "y1")}.get(str(found.get("kind")))
    return Region(found["kind"], tuple(found.get(name) for name in names)) if names else None


def take_result(handlers: Handlers, viewer: Viewer, request: gr.Request, page: str) -> tuple:
    """Opens a page's drawn image in the viewer."""
    visit = handlers.visits.of(request.session_hash)
    job = visit.jobs.get(page)
    pictures = job.parts[0].reply.pictures if job and job.done else []
    if not pictures:
        error = PromptError("There is no result yet", remedy="Run the task first")
        return gr.skip(), gr.skip(), gr.skip(), render.problem(str(error))
    handlers.visits.open_scan(visit, stack_of(pictures[-1].image))
    return viewer.shown(request)
