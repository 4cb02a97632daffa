"""The pages of the demo: widgets and their wiring. What happens when one is used stands in ``demo.handlers``."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import gradio as gr

from core.config import RENORMS, ImageSampling
from core.errors import UniMedError
from core.inference.generator import Generator
from core.inference.once import image_sampling
from core.tasks import MODALITIES, get_task
from demo import render
from demo.api import api
from demo.examples import CAPTIONS, Example, load_examples
from demo.handlers import ANSWERS, EDITS, MODEL, Handlers
from demo.render import Picture
from demo.visit import RANDOM_SEED, Controls, View

STYLE = Path(__file__).with_name("style.css")
ANY_TEXT_LENGTH = 1_000_000  # the box would turn a longer pasted text into a file; the handler refuses it in words

TITLE = """<h1>UniMed Studio</h1><p>One model that reads and draws medical images</p>"""
NOTICE = """<p><strong>For research, not for diagnosis.</strong> Outputs are AI-generated and may be wrong. Do not
upload patient-identifiable data: DICOM headers are dropped on arrival, text burned into the pixels is not. Uploads are
deleted once read. Pictures without their headers lie in a temporary folder until you close the page; nothing leaves the
machine that runs it.</p>"""
EMPTY = """<p style="text-align: center">Attach a scan and ask about it, or say what to draw.<br>
Later messages can refer to earlier images.</p>"""

SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
FIXED_FONTS = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

QUIET = {"show_progress": "hidden", "api_visibility": "private"}
"""Events of the pages: the status line tells what goes on, and programs have endpoints of their own."""

# Keeps what was typed while the files were read.
MERGE_FILES = "(box, attached) => ({text: box.text, files: attached.files})"


def theme() -> gr.themes.Base:
    """Quiet colours and the fonts of the visitor's system, so that nothing is fetched from elsewhere."""
    return gr.themes.Default(
        primary_hue="teal",
        secondary_hue="slate",
        neutral_hue="slate",
        radius_size="sm",
        font=SYSTEM_FONTS,
        font_mono=FIXED_FONTS,
    ).set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
        color_accent="*primary_600",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        layout_gap="10px",
    )


def build(generator: Generator, folder: Path) -> gr.Blocks:
    """The whole demo. ``folder`` is where Gradio puts uploads and serves files from."""
    handlers = Handlers(generator, folder)
    examples = load_examples()

    def leave(request: gr.Request) -> None:
        handlers.leave(request.session_hash)

    with gr.Blocks(title="UniMed Studio", analytics_enabled=False, delete_cache=(600, 4 * 3600)) as demo:
        gr.HTML(TITLE, elem_id="title")
        gr.HTML(NOTICE, elem_id="notice")
        with gr.Tab("Chat", elem_id="chat"):
            chat_page(handlers, examples)
        with gr.Tab("Generate", elem_id="generate"):
            generate_page(handlers)
        with gr.Tab("Edit", elem_id="edit"):
            edit_page(handlers, examples)
        api(handlers)
        demo.unload(leave)
    return demo.queue(max_size=64)


def shown(value: object) -> object:
    """A new value for a widget, or no change where there is none."""
    return gr.skip() if value is None else value


def shown_picture(picture: Picture | None) -> object:
    return gr.skip() if picture is None else gr.Image(picture.path, label=picture.caption, alt_text=picture.alt)


def buttons(busy: bool | None) -> tuple:
    """Updates of the button that starts and the one that stops."""
    if busy is None:
        return gr.skip(), gr.skip()
    return gr.Button(interactive=not busy), gr.Button(interactive=busy)


def settings(default: ImageSampling, limit: int = 0, stride: int = 1) -> list[gr.components.Component]:
    """The fields of ``Controls``, in its order, with the model's defaults; with ``limit`` the size of the image too."""
    with gr.Accordion("Advanced", open=False):
        with gr.Row():
            seed = gr.Number(RANDOM_SEED, precision=0, label="Seed", info="-1 draws a new one each time")
            steps = gr.Slider(
                2, max(100, default.num_timesteps), default.num_timesteps, step=1, label="Timesteps",
                info="More is slower and finer",
            )  # fmt: skip
            shift = gr.Slider(
                0.5, 10, default.timestep_shift, step=0.1, label="Timestep shift", info="Higher favours the layout"
            )
        with gr.Row():
            text = gr.Slider(1, 12, default.cfg_text_scale, step=0.1, label="Text guidance", info="1 switches it off")
            image = gr.Slider(1, 6, default.cfg_img_scale, step=0.1, label="Image guidance", info="1 switches it off")
            renorm = gr.Dropdown(
                list(RENORMS), value=default.cfg_renorm_type, label="Guidance renorm", info="Keeps contrast in range"
            )
        fields = [seed, steps, shift, text, image, renorm]
        if limit:
            height, width = default.size
            with gr.Row():
                fields += [
                    gr.Slider(stride, limit, side, step=stride, label=label)
                    for side, label in ((width, "Width in pixels"), (height, "Height in pixels"))
                ]
    return fields


def chat_page(handlers: Handlers, examples: list[Example]) -> None:
    """Conversation in text and images."""
    default = handlers.generator.config.image
    chat = gr.Chatbot(
        label="Conversation",
        show_label=False,
        elem_id="conversation",
        height="clamp(300px, calc(100vh - 410px), 720px)",
        placeholder=EMPTY,
        examples=[
            {"icon": render.save_input(e.image, handlers.folder), "display_text": e.title, "text": e.question}
            for e in examples
        ],
        buttons=[],
        latex_delimiters=[],
        feedback_options=None,
    )
    chat.keep_in_cache.update(example["icon"]["path"] for example in chat.examples)  # as long as the server runs
    status = gr.HTML(elem_classes="status-line")
    box = gr.MultimodalTextbox(
        file_count="multiple",
        sources=["upload"],
        max_lines=8,
        max_plain_text_length=ANY_TEXT_LENGTH,
        placeholder="Ask a question, or say what to draw. Attach DICOM, NIfTI, PNG, JPEG or TIFF.",
        label="Message",
        show_label=False,
        elem_id="message",
    )
    attached = gr.JSON(visible="hidden")
    notes = gr.HTML()
    with gr.Row(elem_id="answer"):
        answer = gr.Radio(list(ANSWERS), value="Text", label="Answer with", scale=3, min_width=330)
        stop = gr.Button("Stop", interactive=False, min_width=80)
        new = gr.Button("New conversation", min_width=160)
    fields = settings(default)
    wire_chat(handlers, examples, (chat, status, box, attached, notes, answer, stop, new), fields)


def wire_chat(handlers: Handlers, examples: list[Example], widgets: tuple, fields: list) -> None:
    chat, status, box, attached, notes, answer, stop, new = widgets
    outputs = [chat, status, box, stop]

    def updates(view: View) -> tuple:
        return shown(view.messages), shown(view.status), shown(view.box), buttons(view.busy)[1]

    def attach(box: dict, request: gr.Request) -> tuple:
        found = handlers.attach(request.session_hash, box["files"])
        if found is None:
            return gr.skip(), gr.skip()
        files = [
            {
                "path": path,
                "url": render.file_url(path),
                "orig_name": Path(path).name,
                "mime_type": "image/png",
                "meta": {"_type": "gradio.FileData"},
            }
            for path in found.paths
        ]
        return {"files": files, "change": secrets.token_hex(4)}, found.problems + found.notes

    def begin(request: gr.Request, box: dict, answer: str, *values: float | str | None) -> tuple:
        return updates(handlers.begin_chat(request.session_hash, box, answer, Controls(*values)))

    def run(request: gr.Request) -> Iterator[tuple]:
        yield from map(updates, handlers.run(request.session_hash, "chat"))

    def end(request: gr.Request) -> tuple:
        return updates(handlers.stop(request.session_hash))

    def example(event: gr.SelectData, request: gr.Request) -> tuple:
        chosen = examples[event.index]
        path, about = handlers.attach_example(request.session_hash, chosen.image)
        return {"text": chosen.question, "files": [path]}, about

    def forget(request: gr.Request) -> tuple:
        return (*updates(handlers.new_conversation(request.session_hash)), "")

    box.change(attach, box, [attached, notes], trigger_mode="always_last", queue=False, **QUIET)
    attached.change(None, [box, attached], box, js=MERGE_FILES, **QUIET)
    chat.example_select(example, None, [box, notes], queue=False, **QUIET)
    begun = box.submit(begin, [box, answer, *fields], outputs, concurrency_limit=None, **QUIET)
    begun.then(run, None, outputs, concurrency_id=MODEL, concurrency_limit=1, **QUIET)
    stop.click(end, None, outputs, queue=False, **QUIET)
    gr.on([new.click, chat.clear], forget, None, [*outputs, notes], queue=False, **QUIET)


def generate_page(handlers: Handlers) -> None:
    """Text to image."""
    config = handlers.generator.config
    with gr.Row():
        with gr.Column(min_width=300):
            modality = gr.Radio(list(MODALITIES), value=MODALITIES[0], label="Modality")
            caption = gr.Textbox(
                CAPTIONS[MODALITIES[0]], label="Caption", lines=2, info="What the image should show, modality included"
            )
            with gr.Row():
                draw = gr.Button("Draw", variant="primary")
                stop = gr.Button("Stop", interactive=False)
            status = gr.HTML()
        with gr.Column(min_width=300):
            picture = output_image("Result")
            words = gr.HTML(elem_classes="words")
    fields = settings(config.image, config.max_latent_size * config.latent_stride, config.latent_stride)
    modality.input(CAPTIONS.get, modality, caption, queue=False, **QUIET)

    def begin(request: gr.Request, caption: str, *values: float | str | None) -> View:
        return handlers.begin_drawing(request.session_hash, "generate", "text_to_image", caption, Controls(*values))

    wire_drawing(handlers, "generate", begin, [caption, *fields], (picture, words, status, draw, stop))


def output_image(label: str) -> gr.Image:
    tools = ["download", "fullscreen"]
    return gr.Image(label=label, interactive=False, format="png", height=400, buttons=tools, elem_classes="scan")


def wire_drawing(handlers: Handlers, page: str, begin: Callable[..., View], inputs: list, widgets: tuple) -> None:
    """A button that begins a request and then runs it, and one that stops it."""
    picture, words, status, draw, stop = widgets
    outputs = [picture, words, status, draw, stop]

    def updates(view: View) -> tuple:
        return (shown_picture(view.picture), shown(view.words), shown(view.status), *buttons(view.busy))

    def start(request: gr.Request, *values: float | str | None) -> tuple:
        return updates(begin(request, *values))

    def run(request: gr.Request) -> Iterator[tuple]:
        yield from map(updates, handlers.run(request.session_hash, page))

    def end(request: gr.Request) -> tuple:
        return updates(handlers.stop(request.session_hash))

    begun = draw.click(start, inputs, outputs, concurrency_limit=None, **QUIET)
    begun.then(run, None, outputs, concurrency_id=MODEL, concurrency_limit=1, **QUIET)
    stop.click(end, None, outputs, queue=False, **QUIET)


def edit_page(handlers: Handlers, examples: list[Example]) -> None:
    """Image to image."""
    first = EDITS[0]
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            upload = gr.File(label="Image: DICOM, NIfTI, PNG, JPEG, TIFF", height=150)
            tries = gr.Dataset(
                components=["textbox"], samples=[[e.title] for e in examples], type="index", label="Or try one of these"
            )
            notes = gr.HTML()
            task = gr.Radio([(t.title, t.name) for t in EDITS], value=first.name, label="Task")
            about = gr.HTML(f'<p class="notes">{first.description}</p>')
            prompt = gr.Textbox(label=first.prompt_label, placeholder="Choose one below, or write your own")
            prompts = gr.Dataset(components=["textbox"], samples=[[e] for e in first.examples], label="Examples")
            with gr.Row():
                draw = gr.Button("Redraw", variant="primary")
                stop = gr.Button("Stop", interactive=False)
            status = gr.HTML()
        with gr.Column(scale=3, min_width=300):
            with gr.Row():
                before, picture = output_image("Before"), output_image("After")
            words = gr.HTML(elem_classes="words")
    fields = settings(image_sampling(handlers.generator.config, first))

    def begin(request: gr.Request, task: str, prompt: str, *values: float | str | None) -> View:
        return handlers.begin_drawing(request.session_hash, "edit", task, prompt, Controls(*values))

    def open_scan(source: str | int, request: gr.Request) -> tuple:
        """Takes the path of an upload or the index of an example."""
        try:
            chosen = examples[source].image if isinstance(source, int) else str(source)
            seen, about = handlers.open_scan(request.session_hash, chosen)
        except UniMedError as error:
            return None, gr.skip(), gr.skip(), render.problem(str(error))
        return None, shown_picture(seen), about, ""

    def choose(name: str) -> tuple:
        chosen = get_task(name)
        wanted = bool(chosen.prompt_label)
        return (
            f'<p class="notes">{chosen.description}</p>',
            gr.Textbox("", label=chosen.prompt_label or "Prompt", visible=wanted),
            gr.Dataset(samples=[[e] for e in chosen.examples], visible=bool(chosen.examples)),
        )

    for trigger, source in ((upload.upload, upload), (tries.click, tries)):
        trigger(open_scan, source, [upload, before, notes, status], concurrency_limit=None, **QUIET)
    task.input(choose, task, [about, prompt, prompts], queue=False, **QUIET)
    prompts.click(lambda sample: sample[0], prompts, prompt, queue=False, **QUIET)
    wire_drawing(handlers, "edit", begin, [task, prompt, *fields], (picture, words, status, draw, stop))
