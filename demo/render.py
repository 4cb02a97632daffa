"""What a visitor sees of a generation: messages, pictures, progress, and where every output comes from. HTML only."""

from __future__ import annotations

import html
import json
import secrets
import string
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from core.data.stack import Stack
from core.inference.events import Event, ImagePreview, ImageProgress, SegmentDone, Stopped, TextDelta, Waiting
from core.inference.provenance import Provenance, save_marked
from core.sequence import Image, Text
from demo.strings import ENGLISH, Words

_ENTITIES = {ord(sign): f"&#{ord(sign)};" for sign in string.punctuation}
_CONTROLS = dict.fromkeys(i for i in range(32) if chr(i) not in "\n\t")


def plain(text: str) -> str:
    """Text for a place that renders Markdown and HTML, where it must show exactly as it is and load nothing."""
    return text.translate(_CONTROLS).translate(_ENTITIES).replace("\n", "<br>")


def tag(name: str, **attributes: object) -> str:
    """An opening tag with escaped attributes; ``_`` becomes ``-``, lists and dicts become JSON, None is left out."""
    parts = []
    for key, value in attributes.items():
        if value is None:
            continue
        text = json.dumps(value) if isinstance(value, list | dict | tuple) else str(value)
        parts.append(f'{key.rstrip("_").replace("_", "-")}="{html.escape(text)}"')
    return f"<{' '.join([name, *parts])}>"


@dataclass(frozen=True)
class Picture:
    """A drawn image with the file that shows it."""

    path: str
    image: Image
    step: int = 0
    """Denoising steps that are done, for a preview; 0 for a finished image."""


def save_input(image: Image, folder: Path) -> str:
    """Writes the de-identified pixels, and nothing else, under a name that says nothing. Returns the path."""
    path = folder / f"image-{secrets.token_hex(4)}.png"
    image.pixels.save(path)
    return str(path)


def save_slices(stack: Stack, folder: Path) -> str:
    """Writes what the viewer fetches, in place of an earlier stack's: raw values of a grey stack, pictures of a
    coloured one. Returns the path with ``{slice}`` where the index goes."""
    for old in folder.glob("slice-*"):
        old.unlink(missing_ok=True)
    name = secrets.token_hex(4)
    ending = "png" if stack.colour else "bin"
    for index in range(stack.slices):
        path = folder / f"slice-{name}-{index}.{ending}"
        if stack.colour:
            stack.picture(index).pixels.save(path)
        else:
            path.write_bytes(stack.raw(index))
    return str(folder / f"slice-{name}-{{slice}}.{ending}")


@dataclass
class Reply:
    """One answer as it grows: finished segments, the text being written, the image being drawn."""

    provenance: Provenance
    folder: Path
    blind: bool = False
    """Whether neither the names nor the content of its files may say where they come from."""
    done: list[str | Picture] = field(default_factory=list)
    writing: str = ""
    drawing: Picture | None = None
    step: int = 0
    steps: int = 0
    waiting: Waiting | None = None
    started: bool = False
    stopped: bool = False

    def add(self, event: Event) -> None:
        self.started = self.started or not isinstance(event, Waiting | Stopped)
        match event:
            case Waiting():
                self.waiting = event
            case TextDelta(text):
                self.writing += text
            case ImageProgress(step, steps):
                self.step, self.steps = step, steps
            case ImagePreview(image, step):
                self.drawing = self._save(image, "preview", step)
            case SegmentDone(Text(text)):
                self.done.append(text.strip())
                self.writing = ""
            case SegmentDone(Image() as image):
                self.done.append(self._save(image, "image"))
                self.drawing, self.step, self.steps = None, 0, 0
            case Stopped():
                self.stopped = True

    def _save(self, image: Image, kind: str, step: int = 0) -> Picture:
        about = "" if self.blind else f"-{self.provenance.task}-{kind}-seed{self.provenance.seed}"
        path = self.folder / f"ai-generated{about}-{secrets.token_hex(4)}.png"
        if self.blind:
            save_marked(image, path)
        else:
            self.provenance.save(image, path)
        return Picture(str(path), image, step)

    @property
    def pictures(self) -> list[Picture]:
        """The finished images."""
        return [part for part in self.done if isinstance(part, Picture)]

    @property
    def picture(self) -> Picture | None:
        """The newest image, finished or not."""
        return self.drawing or (self.pictures[-1] if self.pictures else None)

    @property
    def texts(self) -> list[str]:
        return [part for part in self.done if isinstance(part, str)]

    @property
    def text(self) -> str:
        return "\n\n".join([*self.texts, self.writing] if self.writing else self.texts)

    def message(self, say: Words = ENGLISH, details: str = "") -> dict:
        """The answer as one chat message, with HTML that says where it comes from at its end."""
        content: list[dict] = []
        for part in self.done:
            if isinstance(part, Picture):
                content.append(_text(figure(part, say)))
            else:
                content.append(_text(f"{plain(part or say('no text'))}<br>{mark(say('ai text'))}"))
        if self.writing:
            content.append(_text(f"{plain(self.writing)}<br>{mark(say('ai text being written'))}"))
        if self.drawing:
            content.append(_text(figure(self.drawing, say)))
        if self.stopped:
            content.append(_text(f'<span class="provenance">{say("stopped unfinished")}</span>'))
        if details:
            content.append(_text(details))
        return {"role": "assistant", "content": content or [_text("…")]}

    def written(self, say: Words) -> str:
        """The text with its mark, as it stands beside or under a picture."""
        if not self.text and not self.texts:
            return ""
        caption = say("ai text being written") if self.writing else say("ai text")
        return f'<div class="answer"><p>{escaped(self.text or say("no text"))}</p><p>{mark(caption)}</p></div>'

    def status(self, say: Words) -> str:
        """What the model is doing now."""
        if not self.started and self.waiting is not None:
            if self.waiting.seconds is None:
                return working(say("waiting", position=self.waiting.position))
            seconds = max(1, round(self.waiting.seconds))
            return working(say("waiting for", position=self.waiting.position, seconds=seconds))
        if self.steps:
            return progress(say("drawing", step=self.step, steps=self.steps), self.step, self.steps, say)
        return working(say("writing") if self.writing else say("reading"))


def escaped(text: str) -> str:
    return html.escape(text.translate(_CONTROLS)).replace("\n", "<br>")


def user_message(text: str, images: list[tuple[str, Image]], say: Words = ENGLISH) -> dict:
    """What the visitor said: the images as they were read, then the words."""
    figures = [_figure(path, input_alt(image, say), _facts(image, say)) for path, image in images]
    return {"role": "user", "content": [*map(_text, figures), _text(plain(text))]}


def input_alt(image: Image, say: Words = ENGLISH) -> str:
    width, height = image.pixels.size
    kind = image.modality or say("medical")
    return say("drawn image alt" if image.generated else "image alt", modality=kind, width=width, height=height)


def output_alt(reply: Reply, say: Words) -> str:
    return f"{say('ai image')}, {say('task')} {reply.provenance.task}, seed {reply.provenance.seed}"


def file_url(path: str) -> str:
    """Where the page fetches a file of the demo's folder."""
    return f"/gradio_api/file={quote(path, safe='/{}')}"


def figure(picture: Picture, say: Words) -> str:
    """A drawn image with its mark. The chat's own image has no text for those who do not see it, so this is HTML."""
    caption = say("preview", step=picture.step) if picture.step else say("ai image")
    return _figure(picture.path, caption, mark(caption))


def _figure(path: str, alt: str, caption: str) -> str:
    url = html.escape(file_url(path))
    image = tag("img", src=file_url(path), alt=alt)
    return f'<figure><a href="{url}" title="{html.escape(alt)}">{image}</a>{caption}</figure>'


def _facts(image: Image, say: Words) -> str:
    """How an upload was read, in one line."""
    removed = [say("attributes removed", count=len(image.removed))] if image.removed else []
    return f'<span class="provenance">{plain(" · ".join([*_read_as(image, say), *removed]))}</span>'


def _read_as(image: Image, say: Words) -> list[str]:
    width, height = image.pixels.size
    return [f"{image.modality or say('image')}, {width} × {height} {say('pixels')}", *image.notes]


def _text(markup: str) -> dict:
    return {"type": "text", "text": markup}


def mark(caption: str) -> str:
    return f'<span class="ai-mark">{html.escape(caption)}</span>'


def working(message: str) -> str:
    return f'<p class="status" role="status">{html.escape(message)}</p>'


def problem(message: str) -> str:
    return f'<p class="status problem" role="alert">{html.escape(message)}</p>'


def progress(message: str, step: int, steps: int, say: Words) -> str:
    bar = tag("progress", value=step, max=steps, aria_label=say("progress"))
    return f'<p class="status" role="status">{bar}</progress> {html.escape(message)}</p>'


def notes(images: list[Image], say: Words) -> str:
    """What was done to uploaded images on the way in, and which header attributes were dropped."""
    parts = []
    for image in images:
        parts.append(f'<p class="notes">{html.escape(" · ".join(_read_as(image, say)))}</p>')
        if image.removed:
            parts.append(removed(image.removed, say))
    return "".join(parts)


def removed(names: tuple[str, ...], say: Words) -> str:
    listed = html.escape(", ".join(names))
    return (
        f'<details class="notes"><summary>{say("attributes removed", count=len(names))}</summary>'
        f"<p>{listed}</p></details>"
    )
