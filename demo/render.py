"""Events of a generation drawn for a page: chat messages, pictures, progress, and where every output comes from."""

from __future__ import annotations

import html
import secrets
import string
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from core.inference.events import Event, ImagePreview, ImageProgress, SegmentDone, Stopped, TextDelta
from core.inference.provenance import Provenance
from core.sequence import Image, Text

MARK = "AI-generated"
EMPTY_TEXT = "(The model gave no text.)"
STOPPED = "Stopped. The unfinished part is not used in later answers."
_ENTITIES = {ord(sign): f"&#{ord(sign)};" for sign in string.punctuation}
_CONTROLS = dict.fromkeys(i for i in range(32) if chr(i) not in "\n\t")


def plain(text: str) -> str:
    """Text for a place that renders Markdown and HTML, where it must show exactly as it is and load nothing."""
    return text.translate(_CONTROLS).translate(_ENTITIES).replace("\n", "<br>")


@dataclass(frozen=True)
class Picture:
    """A file to show, with its caption and its text for those who do not see it."""

    path: str
    caption: str
    alt: str


def save_input(image: Image, folder: Path) -> str:
    """Writes the de-identified pixels, and nothing else, under a name that says nothing. Returns the path."""
    path = folder / f"image-{secrets.token_hex(4)}.png"
    image.pixels.save(path)
    return str(path)


def input_alt(image: Image) -> str:
    width, height = image.pixels.size
    return f"Uploaded {image.modality or 'medical'} image, {width} by {height} pixels"


@dataclass
class Reply:
    """One answer as it grows: finished segments, the text being written, the image being drawn."""

    provenance: Provenance
    folder: Path
    done: list[str | Picture] = field(default_factory=list)
    writing: str = ""
    drawing: Picture | None = None
    step: int = 0
    steps: int = 0
    stopped: bool = False

    def add(self, event: Event) -> None:
        match event:
            case TextDelta(text):
                self.writing += text
            case ImageProgress(step, steps):
                self.step, self.steps = step, steps
            case ImagePreview(image, step):
                self.drawing = self._save(image, "preview", f"{MARK} · preview after step {step}")
            case SegmentDone(Text(text)):
                self.done.append(text.strip() or EMPTY_TEXT)
                self.writing = ""
            case SegmentDone(Image() as image):
                self.done.append(self._save(image, "image", f"{MARK} image"))
                self.drawing, self.step, self.steps = None, 0, 0
            case Stopped():
                self.stopped = True

    def _save(self, image: Image, kind: str, caption: str) -> Picture:
        task, seed = self.provenance.task, self.provenance.seed
        path = self.folder / f"ai-generated-{task}-{kind}-seed{seed}-{secrets.token_hex(4)}.png"
        self.provenance.save(image, path)
        return Picture(str(path), caption, f"{caption}, task {task}")

    @property
    def picture(self) -> Picture | None:
        """The newest image, finished or not."""
        finished = [part for part in self.done if isinstance(part, Picture)]
        return self.drawing or (finished[-1] if finished else None)

    @property
    def text(self) -> str:
        parts = [part for part in self.done if isinstance(part, str)]
        return "\n\n".join([*parts, self.writing] if self.writing else parts)

    def message(self, seconds: float | None = None) -> dict:
        """The answer as one chat message; the line of details comes with ``seconds``, at the end."""
        content: list[dict] = []
        for part in self.done:
            if isinstance(part, Picture):
                content.append(_text(_figure(part, _mark(part.caption))))
            else:
                content.append(_text(f"{plain(part)}<br>{_mark(f'{MARK} text')}"))
        if self.writing:
            content.append(_text(f"{plain(self.writing)}<br>{_mark(f'{MARK} text, being written')}"))
        if self.drawing:
            content.append(_text(_figure(self.drawing, _mark(self.drawing.caption))))
        if self.stopped:
            content.append(_text(f'<span class="provenance">{STOPPED}</span>'))
        if seconds is not None:
            content.append(_text(f'<span class="provenance">{plain(self.provenance.line(seconds))}</span>'))
        return {"role": "assistant", "content": content or [_text("…")]}

    def words(self, seconds: float | None = None) -> str:
        """Text, mark and details as they stand under a picture."""
        parts = []
        if self.text:
            text = html.escape(self.text.translate(_CONTROLS)).replace("\n", "<br>")
            parts.append(f"<p>{text}<br>{_mark(f'{MARK} text')}</p>")
        if self.picture:
            parts.append(f"<p>{_mark(self.picture.caption)}</p>")
        if self.stopped:
            parts.append("<p>Stopped before the end.</p>")
        if seconds is not None:
            parts.append(f'<p class="provenance">{html.escape(self.provenance.line(seconds))}</p>')
        return "".join(parts)

    def status(self) -> str:
        """What the model is doing now."""
        if self.steps:
            return progress(f"Drawing, step {self.step} of {self.steps}", self.step, self.steps)
        return working("Writing…" if self.writing else "Reading the request…")


def user_message(text: str, images: list[tuple[str, Image]]) -> dict:
    """What the visitor said: the images as they were read, then the words."""
    figures = [_figure(Picture(path, "", input_alt(image)), _facts(image)) for path, image in images]
    return {"role": "user", "content": [*map(_text, figures), _text(plain(text))]}


def file_url(path: str) -> str:
    """Where the page fetches a file of the demo's folder."""
    return f"/gradio_api/file={quote(path)}"


def _figure(picture: Picture, caption: str) -> str:
    """An image with its caption. The chat's own image has no text for those who do not see it, so this is HTML."""
    url, alt = html.escape(file_url(picture.path)), html.escape(picture.alt)
    return f'<figure><a href="{url}" title="Open the image"><img src="{url}" alt="{alt}"></a>{caption}</figure>'


def _facts(image: Image) -> str:
    """How an upload was read, in one line."""
    removed = [f"{len(image.removed)} header attributes removed"] if image.removed else []
    return f'<span class="provenance">{plain(" · ".join([*_read_as(image), *removed]))}</span>'


def _read_as(image: Image) -> list[str]:
    width, height = image.pixels.size
    return [f"{image.modality or 'Image'}, {width} × {height} pixels", *image.notes]


def _text(markup: str) -> dict:
    return {"type": "text", "text": markup}


def _mark(caption: str) -> str:
    return f'<span class="ai-mark">{caption}</span>'


def working(message: str) -> str:
    return f'<p class="status" role="status">{html.escape(message)}</p>'


def problem(message: str) -> str:
    return f'<p class="status problem" role="alert">{html.escape(message)}</p>'


def progress(message: str, step: int, steps: int) -> str:
    bar = f'<progress value="{step}" max="{steps}" aria-label="Progress of the drawing"></progress>'
    return f'<p class="status" role="status">{bar} {html.escape(message)}</p>'


def notes(images: list[Image]) -> str:
    """What was done to uploaded images on the way in, and which header attributes were dropped."""
    parts = []
    for image in images:
        parts.append(f'<p class="notes">{html.escape(" · ".join(_read_as(image)))}</p>')
        if image.removed:
            names = html.escape(", ".join(image.removed))
            parts.append(
                f'<details class="notes"><summary>{len(image.removed)} header attributes removed on arrival</summary>'
                f"<p>{names}</p></details>"
            )
    return "".join(parts)
