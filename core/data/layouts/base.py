"""What the readers of published layouts share: opening, counting what is skipped, and making records."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image as PILImage

from core.data.coarse import coarse
from core.data.images import open_image
from core.data.records import Message, PictureStore, Record, pseudonym
from core.errors import ImageError, UniMedError
from core.sequence import Image
from core.tasks import TASKS

Stored = tuple[str, str]
"""Path of a picture for a record, and the SHA-256 of its file."""


class Skip(UniMedError):
    """One item of a source cannot be used. ``Desk.item`` catches and counts it; ``what`` is the reason."""


@dataclass(frozen=True)
class Layout:
    """A public data set in the layout in which it is published.

    Attributes:
        read: (folder, desk) to records; what it cannot use it leaves to ``desk.item``.
        modality: a name as in ``core.tasks.MODALITIES`` where there is one; for mixed sets, all of them.
        licence: as commonly stated; nobody checked it for you.
        expects: the folder that one has to name, in a line.
        needs: patterns below the folder, each of which must match something.
    """

    read: Callable[[Path, Desk], Iterator[Record]]
    modality: str
    licence: str
    expects: str
    needs: tuple[str, ...]


class Desk:
    """Where one set is worked on: its pictures go to ``store``, what cannot be used is counted in ``skipped``.

    ``resplit`` draws every split, also where one is published.
    """

    def __init__(
        self, name: str, layout: Layout, store: PictureStore, seed: int, coarse_side: int, *, resplit: bool = False
    ) -> None:
        self.name, self.layout, self.store = name, layout, store
        self.seed, self.coarse_side, self.resplit = seed, coarse_side, resplit
        self.skipped: Counter[str] = Counter()
        self._files: dict[Path, Stored] = {}

    def skip(self, reason: str) -> None:
        self.skipped[reason] += 1

    @contextmanager
    def item(self) -> Iterator[None]:
        """Around the work on one item: a ``Skip`` ends that item alone."""
        try:
            yield
        except Skip as reason:
            self.skip(reason.what)

    def rng(self, key: str) -> random.Random:
        """The random choices of one item: the same in every run, whatever else is imported."""
        return random.Random(f"{self.seed}/{self.name}/{key}")

    def patient(self, raw: str) -> str:
        return pseudonym(self.name, raw)

    def stored_file(self, path: Path) -> Stored:
        """The picture of a file, stored; a file that many questions are about is opened once."""
        if path not in self._files:
            self._files[path] = self.store.add(opened(path))
        return self._files[path]

    def record(
        self, key: str, task: str, raw_patient: str, split: str = "", *, prompt: str = "", answer: str = "",
        inputs: tuple[Stored, ...] = (), outputs: tuple[Stored, ...] = (), label: str = "", modality: str = "",
        licence: str = "",
    ) -> Record:  # fmt: skip
        """A record of one task.

        Args:
            key: unique in the set; it is written as a digest only, and so is ``raw_patient``.
            split: as published; empty (or ``resplit``) draws it from the patient, see ``hashed_split``.
            prompt: what the task's instruction is about; its wording is chosen at random.
            modality, licence: of this item, where they differ from those of the set.
        """
        kind, patient = TASKS[task], self.patient(raw_patient)
        main = "understanding" if kind.outputs == ("text",) else "interleaved" if kind.images else "generation"
        wording = self.rng(f"{key}/{task}").randrange(len(kind.templates))
        said = (Message("human", kind.instruction(prompt, wording)),)
        return Record(
            id=f"{self.name}-{hashlib.sha256(f'{self.name}/{key}/{task}'.encode()).hexdigest()[:16]}",
            main_task_type=main, sub_task_type=task, modality=modality or self.layout.modality, dataset=self.name,
            input_img=tuple(path for path, _ in inputs), output_img=tuple(path for path, _ in outputs),
            message=(*said, Message("gpt", answer)) if answer else said, patient=patient,
            split=hashed_split(patient) if self.resplit or not split else split, licence=licence or self.layout.licence,
            sha256=tuple(digest for _, digest in (*inputs, *outputs)), label=label,
        )  # fmt: skip

    def super_resolution(self, key: str, raw_patient: str, split: str, image: PILImage.Image, own: Stored) -> Record:
        """From the coarse picture to ``image``, which has its final size and is stored as ``own``."""
        source = self.store.add(coarse(image, self.coarse_side))
        return self.record(key, "super_resolution", raw_patient, split, inputs=(source,), outputs=(own,))

    def masked(
        self, key: str, raw_patient: str, split: str, structure: str, own: Stored, mask: PILImage.Image
    ) -> Record:
        """From the picture stored as ``own`` to the mask of a structure: white where ``mask`` is above 127.

        Raises:
            Skip: the mask is empty.
        """
        mask = mask.convert("L").point(lambda value: 255 if value > 127 else 0)
        if not mask.getbbox():
            raise Skip("mask is empty")
        target = self.store.add(mask, PILImage.Resampling.NEAREST)
        return self.record(
            key, "segmentation", raw_patient, split, inputs=(own,), outputs=(target,), prompt=structure, label=structure
        )


def hashed_split(patient: str) -> str:
    """Where no published split is used: 80% train, 10% val, 10% test, by a SHA-256 of the patient's pseudonym."""
    share = int(hashlib.sha256(patient.encode()).hexdigest()[:8], 16) / 16**8
    return "train" if share < 0.8 else "val" if share < 0.9 else "test"


def opened(source: Path | bytes, frame: int | None = None, window: tuple[float, float] | None = None) -> Image:
    """The picture of a file, or of a file's content, as ``core.data.images`` shows it.

    Raises:
        Skip: it is missing or cannot be read.
    """
    if isinstance(source, Path) and not source.is_file():
        raise Skip("image missing")
    try:
        return open_image(source, frame=frame, window=window)
    except ImageError as error:
        raise Skip(f"image unreadable ({error.what})") from error


def inside(folder: Path, relative: str) -> Path:
    """The file below ``folder`` that an entry of the source names.

    Raises:
        Skip: the name leaves the folder.
    """
    path = PurePosixPath(relative)
    if path.is_absolute() or ".." in path.parts or "\\" in relative or ":" in relative:
        raise Skip("file name leaves the folder")
    return folder / path


def text_of(row: dict, *names: str) -> str:
    """The first of the fields that is there, as text in one line.

    Raises:
        Skip: none is there, or it is empty or neither text nor a number.
    """
    value = next((row[name] for name in names if row.get(name) is not None), None)
    text = " ".join(str(value).split()) if isinstance(value, str | int | float) else ""
    if not text:
        raise Skip(f"{names[0]} missing")
    return text


def json_of(path: Path) -> object:
    """What a JSON file holds.

    Raises:
        Skip: it cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or not JSON
        raise Skip(f"file is not valid JSON ({type(error).__name__})") from error


def rows_of(path: Path, desk: Desk) -> list[dict]:
    """The objects in a JSON file that holds a list of them; anything else is skipped and counted."""
    rows = []
    with desk.item():
        rows = json_of(path)
        if not isinstance(rows, list):
            raise Skip("file holds no list")
        desk.skipped["malformed entry"] += sum(not isinstance(row, dict) for row in rows)
    return [row for row in rows if isinstance(row, dict)]
