"""Records: one JSON line a sample, in UniMedVL's format (arXiv 2510.15710, section 3.1), with what an audit needs.

A records file ``F.jsonl`` owns the folder ``F_images`` beside it: every picture in it came through the one door
(``core.data.images``), so it carries no header of a patient, and it is named by its content, so its name says nothing
either. Paths in records are relative to the file's folder. The whole can be moved, or written to a read-only disk.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from PIL import Image as PILImage

from core.errors import ImageError, RecordError
from core.sequence import Image
from core.tasks import TASKS

MAIN_TASKS = ("understanding", "generation", "interleaved", "text")
"""Image to text; text to image; image (and text) to image (and text); text alone."""
SPLITS = ("train", "val", "test")
SPEAKERS = ("human", "gpt")


@dataclass(frozen=True)
class Message:
    """One thing that is said: ``speaker`` is "human" or "gpt", as in the format's ``from``."""

    speaker: str
    value: str


@dataclass(frozen=True)
class Record:
    """One sample.

    Attributes:
        main_task_type: one of ``MAIN_TASKS``.
        sub_task_type: name of a task in the registry, or "text".
        modality: a name as in ``core.tasks.MODALITIES``, or whatever the source calls it.
        input_img, output_img: paths relative to the folder of the records file, with forward slashes.
        message: what human and model say, in turn; an instruction alone where the answer is an image.
        patient: pseudonym of the patient, or of the smallest group that must not be split.
        sha256: of the files, inputs first.
        label: what the last image shows, in one or two words, where the source says so.
        place: ``FILE:LINE`` that the record was read from; not written.
    """

    id: str
    main_task_type: str
    sub_task_type: str
    modality: str
    dataset: str
    input_img: tuple[str, ...]
    output_img: tuple[str, ...]
    message: tuple[Message, ...]
    patient: str
    split: str
    licence: str
    sha256: tuple[str, ...]
    label: str = ""
    place: str = field(default="", compare=False)

    @property
    def images(self) -> tuple[str, ...]:
        """All paths, inputs first."""
        return self.input_img + self.output_img

    @property
    def instruction(self) -> str:
        """The first thing that the human says; empty where nobody does."""
        return next((m.value for m in self.message if m.speaker == "human"), "")

    @property
    def answer(self) -> str:
        """The last thing that the model says; empty where it only draws."""
        return next((m.value for m in reversed(self.message) if m.speaker == "gpt"), "")

    def to_json(self) -> dict:
        values = {name: getattr(self, name) for name in _TEXTS}
        values |= {
            "input_img": [{"path": path} for path in self.input_img],
            "output_img": [{"path": path} for path in self.output_img],
            "message": [{"from": m.speaker, "value": m.value} for m in self.message],
            "sha256": list(self.sha256),
        }
        return values | ({"label": self.label} if self.label else {})


_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_TEXTS = ("id", "main_task_type", "sub_task_type", "modality", "dataset", "patient", "split", "licence")


def parse(line: str | bytes, place: str) -> Record:
    """A record from its line; ``place`` is FILE:LINE, for errors.

    Raises:
        RecordError: not JSON, a missing field, a wrong type, an empty id or patient, an unknown task, split or
            speaker, a malformed digest.
    """
    try:
        values = json.loads(line)
    except ValueError as error:
        raise RecordError(f"{place}: not valid JSON ({error})", remedy="Build or import the records again") from error
    if not isinstance(values, dict):
        raise RecordError(f"{place}: a record must be a JSON object", remedy="Build or import the records again")
    for name in _TEXTS:
        if not isinstance(values.get(name), str):
            raise RecordError(f"{place}: {name} must be a string", value=values.get(name))
    for name in ("id", "patient"):
        if not values[name].strip():
            raise RecordError(f"{place}: {name} is empty", remedy="Build or import the records again")
    one_of(place, "main_task_type", values["main_task_type"], MAIN_TASKS)
    one_of(place, "sub_task_type", values["sub_task_type"], (*TASKS, "text"))
    one_of(place, "split", values["split"], SPLITS)
    try:
        pictures = {n: tuple(_text(item["path"]) for item in values.get(n, [])) for n in ("input_img", "output_img")}
        messages = tuple(Message(_text(m["from"]), _text(m["value"])) for m in values.get("message", []))
        digests, label = tuple(map(_text, values.get("sha256", []))), _text(values.get("label", ""))
    except (TypeError, KeyError) as error:
        remedy = 'They are lists of {"path": ...}, of {"from": ..., "value": ...} and of digests, and a text'
        what = f"{place}: input_img, output_img, message, sha256 or label is malformed ({error})"
        raise RecordError(what, remedy=remedy) from error
    for message in messages:
        one_of(place, "from", message.speaker, SPEAKERS)
    if not messages:
        raise RecordError(f"{place}: message is empty", remedy="A record says at least one thing")
    if len(digests) != sum(map(len, pictures.values())):
        raise RecordError(f"{place}: sha256 must name a digest for every image", value=len(digests))
    for digest in digests:
        if not _SHA256.fullmatch(digest):
            raise RecordError(f"{place}: a sha256 has 64 hexadecimal digits", value=digest)
    texts = {name: values[name] for name in _TEXTS}
    return Record(**texts, **pictures, message=messages, sha256=digests, label=label, place=place)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def one_of(place: str, name: str, value: str, known: tuple[str, ...]) -> None:
    """
    Raises:
        RecordError: ``value`` is not one of the ``known``.
    """
    if value not in known:
        raise RecordError(f"{place}: unknown {name}", value=value, remedy=f"Use one of {', '.join(known)}")


def iterate(path: Path) -> Iterator[tuple[str, bytes]]:
    """(FILE:LINE, line) of every line of a records file that is not empty.

    Raises:
        RecordError: the file cannot be opened.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path.name}:{number}", line
    except OSError as error:
        remedy = "Name a .jsonl file that `records build` wrote"
        raise RecordError(f"The records cannot be opened ({error.strerror})", value=str(path), remedy=remedy) from error


def read_records(path: Path, splits: tuple[str, ...] = SPLITS) -> list[Record]:
    """The records of some splits, in the file's order.

    Raises:
        RecordError: see ``iterate`` and ``parse``.
    """
    return [r for r in (parse(line, place) for place, line in iterate(path)) if r.split in splits]


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Writes the file in one go, whole or not at all, and returns the number of records.

    Raises:
        RecordError: the file cannot be written.
    """
    part, count = path.with_name(f"{path.name}.part"), 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as file:
            for record in records:
                file.write(json.dumps(record.to_json(), ensure_ascii=False) + "\n")
                count += 1
        part.replace(path)
    except OSError as error:
        remedy = "Name another --out, or make room"
        raise RecordError(f"The records cannot be written ({error})", value=str(path), remedy=remedy) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return count


def resolve(root: Path, relative: str, place: str) -> Path:
    """The file that a path in a record or a manifest means.

    Raises:
        RecordError: the path leaves the folder.
    """
    path = PurePosixPath(relative)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in relative or ":" in path.parts[0]:
        what = f"{place}: the path names no file below its folder"
        raise RecordError(what, value=relative, remedy="Use relative paths without ..")
    return root / path


def open_picture(root: Path, relative: str, place: str) -> PILImage.Image:
    """An image of a record in mode RGB.

    Raises:
        RecordError: missing, unreadable, or outside of the folder; with the record's FILE:LINE and the path.
    """
    path = resolve(root, relative, place)
    try:
        with PILImage.open(path) as file:
            return file.convert("RGB")
    except FileNotFoundError as error:
        raise RecordError(f"{place}: the image is missing", value=relative, remedy="Build the records again") from error
    except Exception as error:  # Pillow's decoders raise whatever they stumble over
        what = f"{place}: the image cannot be read ({type(error).__name__})"
        raise RecordError(what, value=relative, remedy="Build the records again") from error


class PictureStore:
    """Writes the pictures of a records file: PNG, at most ``max_side`` pixels a side, each content once."""

    def __init__(self, records: Path, max_side: int) -> None:
        self.root, self.max_side = records.parent, max_side
        self.folder = f"{records.stem}_images"

    def fitted(self, image: PILImage.Image, resample: int = PILImage.Resampling.LANCZOS) -> PILImage.Image:
        """The picture, reduced to ``max_side`` where it is larger."""
        k = self.max_side / max(image.size)
        return image if k >= 1 else image.resize([max(1, round(side * k)) for side in image.size], resample)

    def add(self, picture: Image | PILImage.Image, resample: int = PILImage.Resampling.LANCZOS) -> tuple[str, str]:
        """Stores the pixels and nothing else. Returns the path for a record and the SHA-256 of the file.

        An ``Image`` has gone through ``core.data.images``; a Pillow image must be made from one, or drawn.
        """
        image = self.fitted(picture.pixels if isinstance(picture, Image) else picture, resample)
        grey = image.mode == "RGB" and len({band.tobytes() for band in image.split()}) == 1
        clean = PILImage.frombytes(image.mode, image.size, image.tobytes())  # no comment, no EXIF
        buffer = io.BytesIO()
        (clean.getchannel(0) if grey else clean).save(buffer, "PNG", compress_level=3)
        digest = hashlib.sha256(buffer.getvalue()).hexdigest()
        relative = f"{self.folder}/{digest[:2]}/{digest[:32]}.png"
        path = self.root / relative
        if not path.is_file():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.part")
                part.write_bytes(buffer.getvalue())
                part.replace(path)
            except OSError as error:
                what, remedy = f"An image cannot be written ({error.strerror})", "Name another --out, or make room"
                raise ImageError(what, value=str(path.parent), remedy=remedy) from error
        return relative, digest


def pseudonym(dataset: str, patient: str) -> str:
    """A short name for a patient or group: the dataset and ten digits of a SHA-256.

    It does not show the identifier, but it is not salted: who has the list of identifiers can compute it again and
    tell which is which. Keep records of patients as you would keep that list.
    """
    return f"{dataset}-{hashlib.sha256(f'{dataset}/{patient}'.encode()).hexdigest()[:10]}"
