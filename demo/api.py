"""Endpoints for programs: what ``gradio_client`` and plain HTTP can call."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr

from core.errors import UniMedError
from demo.handlers import EDITS, MODEL, Handlers
from demo.render import Reply
from demo.visit import RANDOM_SEED


def api(handlers: Handlers) -> None:
    """Three endpoints for programs. They use the model in the same queue as the pages."""

    def replies(task: str, images: list[str | None], prompt: str, seed: int) -> Iterator[Reply]:
        try:
            yield from handlers.request(task, [str(path) for path in images if path], prompt, seed)
        except UniMedError as error:
            raise gr.Error(str(error), print_exception=False) from error

    def vqa(image: str, question: str, seed: int) -> Iterator[str]:
        """Answers a question about an image. The answer is AI-generated and not for diagnosis.

        Args:
            image: file (DICOM, NIfTI, PNG, JPEG, TIFF, WebP or BMP); deleted once it is read.
            question: text of up to 2000 characters.
            seed: integer; -1 draws one.

        Returns:
            the answer as text; while it is being written, what there is of it.
        """
        for reply in replies("vqa", [image], question, seed):
            yield reply.text

    def text_to_image(caption: str, seed: int) -> Iterator[str | None]:
        """Draws what a caption describes. The image is AI-generated and not for diagnosis.

        Args:
            caption: text of up to 2000 characters, for example "A chest X-ray.".
            seed: integer; -1 draws one, which stands in the image's metadata.

        Returns:
            a PNG file with model, task, seed and settings in its metadata; None until it is done.
        """
        for reply in replies("text_to_image", [], caption, seed):
            yield reply.picture.path if reply.picture else None

    def edit(image: str, task: str, prompt: str, seed: int) -> Iterator[str | None]:
        """Redraws an image. The result is AI-generated and not for diagnosis.

        Args:
            image: file (DICOM, NIfTI, PNG, JPEG, TIFF, WebP or BMP); deleted once it is read.
            task: segmentation, super_resolution, virtual_staining, cross_modal or counterfactual.
            prompt: the structure, stain, target or state; empty where the task needs none.
            seed: integer; -1 draws one, which stands in the image's metadata.

        Returns:
            a PNG file with model, task, seed and settings in its metadata; None until it is done.
        """
        for reply in replies(task, [image], prompt, seed):
            yield reply.picture.path if reply.picture else None

    with gr.Row(visible=False):
        file, prompt, button = gr.File(label="Image"), gr.Textbox(label="Text"), gr.Button()
        task = gr.Dropdown([t.name for t in EDITS], label="Task")
        seed = gr.Number(RANDOM_SEED, precision=0, label="Seed")
        text, picture = gr.Textbox(label="Answer"), gr.Image(label="Image", format="png")
    named = ((vqa, [file, prompt, seed], text), (text_to_image, [prompt, seed], picture))
    for endpoint, inputs, output in (*named, (edit, [file, task, prompt, seed], picture)):
        button.click(endpoint, inputs, output, api_name=endpoint.__name__, concurrency_id=MODEL, concurrency_limit=1)
