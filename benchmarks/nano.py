"""What the nano checkpoint can do, on images it has not seen: ``python -m benchmarks.nano --data FOLDER``.

Modality and organ questions about the test split (by patient or source), beside the answer that is right most
often; then a contact sheet of drawn images, eight of each modality. Results go to ``benchmarks/results``, the
sheet to ``assets``, and the table into the model card between its two marks.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from collections import Counter
from datetime import date
from pathlib import Path

from PIL import Image as PILImage
from PIL import ImageDraw

from core.config import NANO, ROOT
from core.inference.events import SegmentDone
from core.inference.generator import Generator
from core.inference.once import task_turn
from core.model.checkpoint import load
from core.sequence import Image
from core.tasks import MODALITIES, TASKS
from core.training.pictures import Picture, load_pictures, simulated_oct
from core.training.samples import MODALITY_QUESTIONS, ORGAN_QUESTIONS

RESULTS = Path(__file__).parent / "results"
SHEET = ROOT / "assets" / "nano-samples.webp"
CARD_MARKS = ("<!-- results: python -m benchmarks.nano -->", "<!-- end of results -->")
TOPICS = {"modality": MODALITY_QUESTIONS[0], "organ": ORGAN_QUESTIONS[0]}


def held_out(root: Path, per_modality: int, seed: int = 0) -> list[Picture]:
    """Unseen pictures with a modality, equally many of each where there are enough; simulated OCT of a new seed.

    ``oct (real)`` are real scans of tier C, which no shipped weight was trained on: they are only evaluated.
    """
    pictures = [p for p in load_pictures(root, ("test",)) if p.modality]
    pictures += simulated_oct(per_modality, seed + 1000, "test")
    for picture in (p for p in load_pictures(root, ("test",), tiers=("C",)) if p.modality):
        picture.source = f"{picture.source} (real OCT)"
        pictures.append(picture)
    random.Random(seed).shuffle(pictures)
    kept: list[Picture] = []
    counts: Counter[tuple[str, bool]] = Counter()
    for picture in pictures:
        group = (picture.modality, picture.source.endswith("(real OCT)"))
        if counts[group] < per_modality:
            counts[group] += 1
            kept.append(picture)
    return kept


def answers(generator: Generator, pictures: list[Picture], question: str, batch: int = 16) -> list[str]:
    """The greedy answers, in order; requests run packed."""
    out: list[str] = []
    for start in range(0, len(pictures), batch):
        part = pictures[start : start + batch]
        turns = [task_turn(generator, TASKS["vqa"], [Image(p.image)], question, seed=0) for p in part]
        texts = [""] * len(part)
        for index, event in generator.batch(turns):
            if isinstance(event, SegmentDone):
                texts[index] = event.segment.text
        out += texts
    return out


def plain(text: str) -> str:
    return re.sub(r"[^a-z0-9 ]", "", text.lower()).strip()


def accuracy(pictures: list[Picture], given: list[str], topic: str) -> dict:
    """Share of exact answers and of the most frequent answer, over pictures with a known answer.

    ``chance`` is that of one answer picked blindly among the known ones.
    """
    pairs = [(p, a) for p, a in zip(pictures, given, strict=True) if getattr(p, topic)]
    truth = [plain(getattr(p, topic)) for p, _ in pairs]
    right = [plain(a) == t for (_, a), t in zip(pairs, truth, strict=True)]
    groups: dict[str, list[bool]] = {}
    for (picture, _), ok in zip(pairs, right, strict=True):
        key = picture.source if picture.source.endswith("(real OCT)") else getattr(picture, topic)
        groups.setdefault(key, []).append(ok)
    majority = Counter(truth).most_common(1)[0]
    return {
        "n": len(pairs),
        "accuracy": round(sum(right) / len(right), 4),
        "patients": len({p.patient for p, _ in pairs}),
        "chance": round(1 / len(set(truth)), 4),
        "majority_answer": majority[0],
        "majority_accuracy": round(majority[1] / len(truth), 4),
        "by_answer": {k: [sum(v), len(v)] for k, v in sorted(groups.items())},
    }


def contact_sheet(generator: Generator, per_modality: int = 8, seed: int = 0) -> float:
    """Draws ``per_modality`` images of each modality and writes the sheet. Returns seconds for one image."""
    side = generator.config.image.size[0]
    margin, label = 4, 14
    width = per_modality * (side + margin)
    sheet = PILImage.new("RGB", (width, len(MODALITIES) * (side + label + margin)), "white")
    pen, start = ImageDraw.Draw(sheet), time.perf_counter()
    for row, modality in enumerate(MODALITIES):
        y = row * (side + label + margin)
        caption = f"{'An' if modality[0] in 'AEIOUaeiouM' else 'A'} {modality}."
        pen.text((2, y + 1), f"{caption}  (AI-generated)", fill="black")
        turns = [
            task_turn(generator, TASKS["text_to_image"], [], caption, seed=seed + i) for i in range(per_modality)
        ]
        for index, event in generator.batch(turns):
            if isinstance(event, SegmentDone):
                sheet.paste(event.segment.pixels, (index * (side + margin), y + label))
    SHEET.parent.mkdir(exist_ok=True)
    sheet.save(SHEET, quality=80)
    return (time.perf_counter() - start) / (per_modality * len(MODALITIES))


def table(result: dict) -> str:
    """The results as Markdown for the model card."""
    lines = [
        f"Measured on {result['date']} with `{result['command']}`: greedy answers, exact match, on images that no",
        "weight was trained on. OCT is new output of the simulator that training used; real scans are counted apart.",
        "CT has no unseen patient, so none is asked about.",
        "",
        "| question | images (patients or sources) | right | always the most frequent answer | chance |",
        "| --- | --- | --- | --- | --- |",
    ]
    for topic, question in TOPICS.items():
        r = result[topic]
        lines.append(
            f"| {question} | {r['n']} ({r['patients']}) | {r['accuracy']:.1%} "
            f"| {r['majority_accuracy']:.1%} (“{r['majority_answer']}”) | {r['chance']:.1%} |"
        )
    for topic in TOPICS:
        parts = ", ".join(f"{k} {right}/{n}" for k, (right, n) in result[topic]["by_answer"].items())
        lines += ["", f"By {topic}: {parts}."]
    return "\n".join(lines)


def write_card(result: dict, card: Path) -> None:
    """Puts the table between the marks of the model card."""
    text = card.read_text(encoding="utf-8")
    before, _, rest = text.partition(CARD_MARKS[0])
    _, _, after = rest.partition(CARD_MARKS[1])
    card.write_text(f"{before}{CARD_MARKS[0]}\n{table(result)}\n{CARD_MARKS[1]}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nano", description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder with manifest.csv")
    parser.add_argument("--model", default=str(NANO), help="checkpoint folder (default: assets/nano)")
    parser.add_argument("--per-modality", type=int, default=40)
    options = parser.parse_args()
    generator = Generator(load(options.model))
    pictures = held_out(options.data, options.per_modality)
    command = " ".join(["python -m benchmarks.nano", *sys.argv[1:]])
    result = {"date": date.today().isoformat(), "command": command, "model": generator.checkpoint.name}
    for topic, question in TOPICS.items():
        result[topic] = accuracy(pictures, answers(generator, pictures, question), topic)
        print(topic, result[topic], flush=True)
    result["seconds_per_image"] = round(contact_sheet(generator), 2)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{result['date']}_nano.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    card = Path(options.model) / "README.md"
    if card.is_file():
        write_card(result, card)
    print(f"written {path} and {SHEET}")


if __name__ == "__main__":
    main()
