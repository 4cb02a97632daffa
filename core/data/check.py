"""``records check``: everything that can be wrong with a records file and its pictures, found in one pass.

Near duplicates are found by a perceptual hash (``imagehash.phash``, 16 x 16 = 256 bits). Two hashes up to ``NEAR``
bits apart are one picture, re-encoded or resized. Measured on 1,261 pictures of nine public sources (300 chest X-rays,
300 breast ultrasounds, 120 each of fetal heads, IDRiD fundi, histology, endoscopy and VQA-RAD, 37 fundi of DRIVE and 24
of CHASE; up to 512 pixels), with 14 bits:

- Copies found: all of JPEG quality 50, half size, 1.5 times the size and 224 x 224 (at most 10 bits apart); 98.6 % of
  37 % size with JPEG quality 30; 98.7 % of those 15 % brighter. Cut copies are not found: with 2 % cut from every side
  the median is 38 bits.
- False: none of 793,859 pairs of different patients. The closest are 18 bits apart, two centred fundi of DRIVE; IDRiD
  begins at 30, breast ultrasound at 36, chest X-rays at 56, simulated OCT scans of different eyes at 46.

A difference hash of the same length did worse: false pairs from 20 bits on, copies of JPEG quality 50 up to 25.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import imagehash
import numpy as np
from PIL import Image as PILImage

from core.data.records import SPLITS, Record, iterate, parse, resolve
from core.errors import RecordError, SettingsError
from core.tasks import TASKS

HASH_SIDE = 16
NEAR = 14
"""Bits of 256 by which the hashes of two pictures may differ and still count as one; see above."""
FLAT = 4.0
"""Standard deviation, in grey values of 255, below which a picture has too little in it for a perceptual hash."""
FAR = HASH_SIDE**2 + 1
BLOCK = 256
SHOWN = 50


@dataclass
class Report:
    """What is wrong with a records file.

    Attributes:
        problems: each one line that starts with FILE:LINE; the file must not be used with one of them.
        warnings: the same for what a person should look at.
        counts: records as "train vqa", and "images", "patients", "datasets".
    """

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def ok(self) -> bool:
        return not self.problems

    def lines(self) -> list[str]:
        """For a terminal: the counts, then the first ``SHOWN`` warnings and problems."""
        out = [f"{count:8,} {name}" for name, count in sorted(self.counts.items())]
        for name, found in (("warning", self.warnings), ("problem", self.problems)):
            out.append(f"{len(found) or 'no'} {name}{'' if len(found) == 1 else 's'}")
            out += found[:SHOWN]
            if len(found) > SHOWN:
                out.append(f"... and {len(found) - SHOWN} more")
        return out


def check(path: Path, *, near: int = NEAR) -> Report:
    """Checks every line of a records file, and every picture that it names.

    Duplicates of pictures are looked for between patients: one picture in several records of a patient is none, and
    neither are the slices of a volume. Between splits they are problems, within one they are warnings, and of each
    picture the closest match is told. Masks and flat pictures are compared by their bytes alone, and a picture of
    one colour, such as an empty mask, by nothing.

    Args:
        near: bits of 256 by which the hashes of two pictures may differ and still count as one.

    Raises:
        RecordError: the file cannot be opened.
        SettingsError: ``near`` is out of range.
    """
    if not 0 <= near < HASH_SIDE**2 // 2:
        raise SettingsError("near must be at least 0 and less than 128", value=near, remedy=f"Try {NEAR}")
    checker = _Checker(path)
    for place, line in iterate(path):
        try:
            checker.add(parse(line, place))
        except RecordError as error:
            checker.report.problems.append(str(error))
    if not checker.report.problems and not checker.files:
        checker.report.problems.append(f"{path.name}:1: the file names no picture")
    checker.find_shared()
    checker.find_near(near)
    checker.report.counts += Counter(
        images=len(checker.files), patients=len(checker.patients), datasets=len(checker.datasets)
    )
    return checker.report


@dataclass(frozen=True)
class _File:
    """``phash`` is empty where the picture is flat; ``uniform`` says that it has one grey value only."""

    sha256: str
    phash: bytes
    uniform: bool


@dataclass
class _Content:
    """One picture, whatever it is called, and who uses it; dictionaries lead to the first FILE:LINE."""

    path: str
    file: _File
    patients: dict[str, str] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    is_mask: bool = False

    @property
    def place(self) -> str:
        return next(iter(self.patients.values()))

    def __str__(self) -> str:
        return f"{self.path} ({self.place}, patient {next(iter(self.patients))}, {', '.join(self.splits)})"


class _Checker:
    """Takes records one by one, then compares their pictures."""

    def __init__(self, path: Path) -> None:
        self.root = Path(os.path.realpath(path.parent))
        self.report = Report()
        self.ids: dict[str, str] = {}
        self.datasets: set[str] = set()
        self.patients: dict[str, dict[str, str]] = {}
        self.files: dict[str, _File | None] = {}
        self.contents: dict[str, _Content] = {}

    def add(self, record: Record) -> None:
        """Everything that can be said of one record in the light of the earlier ones."""
        place, problems = record.place, self.report.problems
        self.report.counts[f"{record.split} {record.sub_task_type}"] += 1
        self.datasets.add(record.dataset)
        if self.ids.setdefault(record.id, place) != place:
            problems.append(f"{place}: the id {record.id!r} stands in {self.ids[record.id]} already")
        splits = self.patients.setdefault(record.patient, {})
        if splits and record.split not in splits:
            split, earlier = next(iter(splits.items()))
            what = f"{place}: patient {record.patient!r} is in {record.split} here, in {split} in {earlier}"
            problems.append(f"{what}; `records import --resplit` draws a split by patient")
        splits.setdefault(record.split, place)
        problems += [f"{place}: {what}" for what in _misfits(record)]
        for number, (relative, sha256) in enumerate(zip(record.images, record.sha256, strict=True)):
            file = self._file(relative, place)
            if file is None:
                continue
            if file.sha256 != sha256.lower():
                problems.append(f"{place}: the file is not the recorded one, its SHA-256 differs: {relative!r}")
            content = self.contents.setdefault(file.sha256, _Content(relative, file))
            content.patients.setdefault(record.patient, place)
            content.splits.setdefault(record.split, place)
            content.is_mask |= record.sub_task_type == "segmentation" and number >= len(record.input_img)

    def _file(self, relative: str, place: str) -> _File | None:
        """What is in a file, read once; None where it cannot be used, which is told once."""
        if relative not in self.files:
            try:
                self.files[relative] = _read(self.root, relative, place)
            except RecordError as error:
                self.files[relative] = None
                self.report.problems.append(str(error))
        return self.files[relative]

    def find_shared(self) -> None:
        """Pictures that several patients have, byte by byte."""
        for content in self.contents.values():
            if len(content.patients) < 2 or content.file.uniform:
                continue
            (first, _), (second, place) = list(content.patients.items())[:2]
            what = f"{place}: patient {second} has the same picture as patient {first}: {content}"
            (self.report.problems if len(content.splits) > 1 else self.report.warnings).append(what)

    def find_near(self, near: int) -> None:
        """Pictures of different patients that look the same."""
        contents = [c for c in self.contents.values() if c.file.phash and not c.is_mask]
        if not contents:
            return
        words = np.frombuffer(b"".join(c.file.phash for c in contents), np.uint64).reshape(len(contents), -1)
        number = {name: i for i, name in enumerate(self.patients)}
        # A picture of several patients is another's for each of them, so it gets a number of its own.
        patients = np.array([
            number[next(iter(c.patients))] if len(c.patients) == 1 else -1 - i for i, c in enumerate(contents)
        ])  # fmt: skip
        splits = np.array([sum(1 << SPLITS.index(s) for s in c.splits) for c in contents], np.uint8)
        for later, earlier, distance, across in _closest(words, patients, splits, near):
            a, b = contents[later], contents[earlier]
            what = f"{a.place}: near duplicate of another patient's picture ({distance} of 256 bits): {a} and {b}"
            (self.report.problems if across else self.report.warnings).append(what)


def _misfits(record: Record) -> Iterator[str]:
    """How a record differs from what its task takes and gives."""
    task = TASKS.get(record.sub_task_type)  # None is text alone
    takes, outputs = (task.images, task.outputs) if task else (0, ("text",))
    draws = outputs.count("image")
    kind = "text" if task is None else "understanding" if not draws else "interleaved" if takes else "generation"
    if record.main_task_type != kind:
        yield f"{record.sub_task_type} belongs to {kind}, not to {record.main_task_type}"
    for name, images, wanted in (("input", record.input_img, takes), ("output", record.output_img, draws)):
        if len(images) != wanted:
            yield f"{record.sub_task_type} has {wanted} {name} images, not {len(images)}"
    if not record.instruction.strip():
        yield "nobody asks for anything: a message from human is missing or empty"
    if "text" in outputs and not record.answer.strip():
        yield f"{record.sub_task_type} needs an answer: a message from gpt is missing or empty"


def _read(root: Path, relative: str, place: str) -> _File:
    """Opens and decodes a file.

    Raises:
        RecordError: missing, broken, or not below ``root``.
    """
    remedy = "Build the records again"
    if not PurePosixPath(relative).parts:
        raise RecordError(f"{place}: the path of an image is empty", value=relative, remedy=remedy)
    path = resolve(root, relative, place)
    if not path.is_file():
        raise RecordError(f"{place}: the image is missing", value=relative, remedy=remedy)
    if not Path(os.path.realpath(path)).is_relative_to(root):
        what = f"{place}: the path leaves the folder through a link"
        raise RecordError(what, value=relative, remedy="Use files below the records")
    try:
        data = path.read_bytes()
        with PILImage.open(io.BytesIO(data)) as image:
            grey = image.convert("L")
    except Exception as error:  # Pillow's decoders raise whatever they stumble over
        what = f"{place}: the image cannot be read ({type(error).__name__})"
        raise RecordError(what, value=relative, remedy=remedy) from error
    small = grey.resize((4 * HASH_SIDE, 4 * HASH_SIDE), PILImage.Resampling.LANCZOS)
    flat = np.asarray(small).std() < FLAT
    phash = b"" if flat else np.packbits(imagehash.phash(small, HASH_SIDE).hash).tobytes()
    low, high = grey.getextrema()
    return _File(hashlib.sha256(data).hexdigest(), phash, low == high)


def _closest(
    words: np.ndarray, patients: np.ndarray, splits: np.ndarray, near: int
) -> Iterator[tuple[int, int, int, bool]]:
    """For every picture the closest earlier one of another patient, once between splits and once within one.

    Args:
        words: hashes [n, 4] as 64-bit words.
        patients: number of the patient [n].
        splits: a bit for each split that the picture is in [n].

    Yields:
        (picture, earlier picture, bits that differ, whether they are in different splits), up to ``near`` bits.
    """
    for start in range(0, len(words), BLOCK):
        own, seen = slice(start, start + BLOCK), slice(0, start + BLOCK)
        distance = sum(np.bitwise_count(w[own, None] ^ w[None, seen]).astype(np.uint16) for w in words.T)
        rows, columns = np.arange(len(words))[own], np.arange(len(words))[seen]
        distance[(patients[own, None] == patients[None, seen]) | (columns[None] >= rows[:, None])] = FAR
        apart = np.bitwise_count(splits[own, None] | splits[None, seen]) > 1
        for across in (True, False):
            wanted = np.where(apart == across, distance, FAR)
            best = wanted.argmin(1)
            bits = wanted[np.arange(len(rows)), best]
            for i in np.flatnonzero(bits <= near):
                yield int(rows[i]), int(best[i]), int(bits[i]), across
