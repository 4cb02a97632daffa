"""``records build``: from a manifest to records of every task, with the pictures stored beside them."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from PIL import Image as PILImage

from core.data.coarse import coarse
from core.data.manifest import About, Picture, is_section, pictures, questions_of, read_manifest, stain_pictures
from core.data.oct_phantom import FINDINGS, b_scan
from core.data.records import Message, PictureStore, Record, write_records
from core.data.templates import ASKED, EXPLANATIONS, MODALITY, STRUCTURE, Finding, caption, joined, questions, report
from core.tasks import MODALITIES, TASKS

WORDINGS = 3
PAIRS_PER_TWIN = 6
OCT_SHARES = {"train": 0.8, "val": 0.05, "test": 0.15}


@dataclass(frozen=True)
class BuildOptions:
    """``coarse_side`` is the longest side, in pixels, of what a super-resolution input was reduced to."""

    tiers: tuple[str, ...] = ("A", "B")
    max_side: int = 512
    coarse_side: int = 16
    simulated_oct: int = 0
    held_out: tuple[str, ...] = field(default=())
    seed: int = 0


@dataclass(frozen=True)
class Stored:
    """A picture whose pixels are on disk, and no longer in memory."""

    about: About
    path: str
    sha256: str


def build(manifest: Path, root: Path, out: Path, options: BuildOptions) -> Counter[str]:
    """Writes ``out`` and the folder of its pictures; returns the number of records by split and task, and notes.

    The same manifest, options and files give the same records, byte for byte.

    Raises:
        RecordError: the manifest or a file that it names cannot be used, or the records cannot be written.
        ImageError: the pictures cannot be written.
    """
    rows = read_manifest(manifest, options.tiers, options.held_out)
    qa = questions_of(root, {row["source"] for row in rows})
    stained = [row for row in rows if is_section(row)]
    plain = [row for row in rows if not is_section(row)]
    store = PictureStore(out, options.max_side)
    counts = {split: round(share * options.simulated_oct) for split, share in OCT_SHARES.items()}

    def of_row(row: dict[str, str]) -> list[tuple[list[Record], Stored]]:
        return [_records(picture, store, options) for picture in pictures(root, row, qa)]

    with ThreadPoolExecutor(2) as pool:
        drawn = chain(stain_pictures(root, stained), phantoms(counts, options.seed))
        batches = chain(pool.map(of_row, plain), ([_records(p, store, options)] for p in drawn))
        records, twins = [], {}
        for made, stored in chain.from_iterable(batches):
            records += made
            if stored.about.twin:
                twins.setdefault((stored.about.dataset, stored.about.twin), []).append(stored)
    for group in twins.values():
        records += _counterfactuals(group, options.seed)
    records += text_records()
    write_records(out, records)
    return Counter(f"{r.split} {r.sub_task_type}" for r in records) + Counter(_notes(rows))


def phantoms(counts: dict[str, int], seed: int = 0) -> Iterator[Picture]:
    """Simulated OCT: ``counts`` eyes for each split, every eye in each of its states."""
    offset = 0
    for split, count in counts.items():
        for eye in range(offset, offset + count):
            patient = f"oct_phantom-{seed}-{eye}"
            for finding in FINDINGS:
                known = Finding("OCT", "eye", detail=finding, asked=ASKED["oct_phantom"])
                about = About(
                    f"oct_phantom/{seed}/{eye}/{finding}", "oct_phantom", split, patient,
                    "Apache-2.0 (made by this project)", known, finding, patient,
                )  # fmt: skip
                yield Picture(about, b_scan(seed * 1_000_000 + eye, finding))
        offset += count


def _notes(rows: list[dict[str, str]]) -> Iterator[str]:
    """What a maintainer may not have meant, a line for each row that it is true of."""
    for row in rows:
        if row["modality"] not in MODALITY and row["source"] != "vqa_rad":
            known = ", ".join(MODALITY)
            yield f"rows of modality {row['modality']!r}: no caption, report or edit is made of it (known: {known})"
        if row["mask"] and row["label"] and row["source"] not in STRUCTURE and "structure=" not in row["extra"]:
            yield f"masks of {row['label']!r}: the label names what is masked, unless extra holds structure=NAME"


def _records(picture: Picture, store: PictureStore, options: BuildOptions) -> tuple[list[Record], Stored]:
    """Everything that can be asked of one picture."""
    about = picture.about
    rng = random.Random(f"{options.seed}/{about.name}")
    image = store.fitted(picture.image)
    own = store.add(image)
    stored = Stored(about, *own)
    out = list(_understanding(stored, picture.qa, rng))
    if about.known.modality in MODALITIES:
        out += _generation(stored, rng)
        out.append(_edit(stored, "super_resolution", "", store.add(coarse(image, options.coarse_side)), own, rng))
    if picture.mask is not None:
        mask = store.add(picture.mask.resize(image.size, PILImage.Resampling.NEAREST))
        out.append(_edit(stored, "segmentation", picture.structure, own, mask, rng))
    for name, other in picture.aligned.items():
        target = store.add(store.fitted(other))
        out.append(_edit(stored, picture.aligned_task, name, own, target, rng))
    return out, stored


def _record(
    stored: Stored, kind: str, task: str, inputs: list[tuple[str, str]], outputs: list[tuple[str, str]],
    texts: list[tuple[str, str]], label: str,
) -> Record:  # fmt: skip
    """A record; its id is made of everything that it says, so that no two differ under one id."""
    about = stored.about
    content = "\n".join([about.name, task, *(p for p, _ in [*inputs, *outputs]), *chain(*texts)])
    return Record(
        id=f"{about.dataset}-{hashlib.sha256(content.encode()).hexdigest()[:16]}",
        main_task_type=kind, sub_task_type=task, modality=about.known.modality, dataset=about.dataset,
        input_img=tuple(path for path, _ in inputs), output_img=tuple(path for path, _ in outputs),
        message=tuple(Message(*text) for text in texts), patient=about.patient, split=about.split,
        licence=about.licence, sha256=tuple(digest for _, digest in [*inputs, *outputs]), label=label,
    )  # fmt: skip


def _understanding(stored: Stored, qa: list[tuple[str, str]], rng: random.Random) -> Iterator[Record]:
    about, image = stored.about, [(stored.path, stored.sha256)]
    for question, answer in dict([*questions(about.known, rng), *qa]).items():
        texts = [("human", question), ("gpt", answer)]
        yield _record(stored, "understanding", "vqa", image, [], texts, about.label)
    if about.known.modality in MODALITIES:
        texts = [("human", TASKS["report"].instruction(wording=rng.randrange(WORDINGS)))]
        texts.append(("gpt", report(about.known)))
        yield _record(stored, "understanding", "report", image, [], texts, about.label)


def _generation(stored: Stored, rng: random.Random) -> Iterator[Record]:
    captions = [caption(stored.about.known, rng, short=short) for short in (True, False)]
    for text in dict.fromkeys(captions):
        outputs, texts = [(stored.path, stored.sha256)], [("human", text)]
        yield _record(stored, "generation", "text_to_image", [], outputs, texts, stored.about.label)


def _edit(
    stored: Stored, task: str, prompt: str, source: tuple[str, str], target: tuple[str, str], rng: random.Random
) -> Record:
    texts = [("human", TASKS[task].instruction(prompt, rng.randrange(WORDINGS)))]
    return _record(stored, "interleaved", task, [source], [target], texts, prompt)


def text_records() -> list[Record]:
    """Text alone: what the tasks do, what findings mean, and what the model is not for."""
    pairs = [(f"What does {task.title.lower()} do?", task.description) for task in TASKS.values()]
    pairs += [(f"What does {state} look like in OCT?", text) for state, text in EXPLANATIONS.items()]
    pairs += [("Can I use this for a diagnosis?", "No. This is for research only."), ("Are you a doctor?", "No.")]
    return [
        Record(
            id=f"unimed_text-{hashlib.sha256(question.encode()).hexdigest()[:16]}", main_task_type="text",
            sub_task_type="text", modality="text", dataset="unimed_text", input_img=(), output_img=(),
            message=(Message("human", question), Message("gpt", answer)), patient="unimed_text", split="train",
            licence="Apache-2.0 (made by this project)", sha256=(),
        )
        for question, answer in pairs
    ]  # fmt: skip


def _counterfactuals(group: list[Stored], seed: int) -> list[Record]:
    """Ordered pairs of one patient's pictures in different states and one split.

    Two X-rays of a patient are neither registered nor taken in one position; two phantoms of an eye differ in the
    finding alone.
    """
    pairs = [(a, b) for a in group for b in group if a.about.label != b.about.label and a.about.split == b.about.split]
    rng = random.Random(f"{seed}/{group[0].about.twin}")
    rng.shuffle(pairs)
    out = []
    for before, after in pairs[:PAIRS_PER_TWIN]:
        states = [p.about.known.detail or joined(p.about.known.findings) for p in (before, after)]
        explanation = EXPLANATIONS.get(states[1], "") if after.about.known.modality == "OCT" else ""
        what = f"Before: {states[0]}. Now: {states[1]}. {explanation}".strip()
        prompt = TASKS["counterfactual"].instruction(states[1], rng.randrange(WORDINGS))
        texts = [("human", prompt), ("gpt", what)]
        sides = ([(p.path, p.sha256)] for p in (before, after))
        out.append(_record(before, "interleaved", "counterfactual", *sides, texts, after.about.label))
    return out
