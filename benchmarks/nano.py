"""What the nano checkpoint can do, on data that it has not seen: ``python -m benchmarks.nano --records F.jsonl``.

Runs ``core evaluate`` and draws a contact sheet, eight images of each modality. The numbers go to
``benchmarks/results``, the sheet to ``assets``, and the tables into the model card between its two marks.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from PIL import Image as PILImage
from PIL import ImageDraw

from core.config import NANO, ROOT
from core.errors import UniMedError
from core.evaluation.bench import BATCH, Picture
from core.evaluation.evaluate import evaluate
from core.evaluation.page import card_table
from core.inference.events import SegmentDone
from core.inference.generator import Generator
from core.inference.once import task_turn
from core.model.checkpoint import load
from core.tasks import MODALITIES, TASKS
from core.tasks.generation import plain_caption

RESULTS = Path(__file__).parent / "results"
SHEET = ROOT / "assets" / "nano-samples.webp"
CARD_MARKS = ("<!-- results: python -m benchmarks.nano -->", "<!-- end of results -->")


def check_card(card: Path) -> None:
    """Raises:
    UniMedError: there is a model card, but not with both marks in their order.
    """
    text = card.read_text(encoding="utf-8") if card.is_file() else "".join(CARD_MARKS)
    if CARD_MARKS[1] not in text.partition(CARD_MARKS[0])[2]:
        remedy = f"Put {' and '.join(CARD_MARKS)} around the place of the tables"
        raise UniMedError("The model card has no place for the results", value=card.name, remedy=remedy)


def write_card(table: str, card: Path) -> None:
    """Puts the tables between the marks of the model card.

    Raises:
        UniMedError: see ``check_card``.
    """
    check_card(card)
    before, _, rest = card.read_text(encoding="utf-8").partition(CARD_MARKS[0])
    _, _, after = rest.partition(CARD_MARKS[1])
    card.write_text(f"{before}{CARD_MARKS[0]}\n{table}\n{CARD_MARKS[1]}{after}", encoding="utf-8")


def contact_sheet(generator: Generator, captions: list[str], per_row: int = 8, seed: int = 0) -> Picture:
    """Draws every caption ``per_row`` times, a row each, with the caption and the mark above; image i has seed + i."""
    height, width = generator.config.image.size
    margin, label = 4, 14
    sheet = PILImage.new("RGB", (per_row * (width + margin), len(captions) * (height + label + margin)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, caption in enumerate(captions):
        top = i * (height + label + margin)
        pen.text((2, top + 1), f"{caption}  (AI-generated)", fill="black")
        for start in range(0, per_row, BATCH):
            columns = range(start, min(start + BATCH, per_row))
            turns = [task_turn(generator, TASKS["text_to_image"], [], caption, seed + column) for column in columns]
            for index, event in generator.batch(turns):
                if isinstance(event, SegmentDone):
                    sheet.paste(event.segment.pixels, (columns[index] * (width + margin), top + label))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nano", description=__doc__)
    parser.add_argument("--records", type=Path, required=True, help="JSONL file of `core records build`")
    parser.add_argument("--model", type=Path, default=NANO, help="checkpoint folder (default: assets/nano)")
    parser.add_argument("--out", type=Path, default=Path("out/nano"), help="folder of the HTML page")
    parser.add_argument("--limit", type=int, default=200, help="records of each task at most")
    options = parser.parse_args()
    card = options.model / "README.md"
    check_card(card)  # now, and not after minutes of work
    result = evaluate(options.records, str(options.model), options.out, limit=options.limit)
    command = f"python -m benchmarks.nano --records {options.records.name} --limit {options.limit}"
    if options.model != NANO:
        command += f" --model {options.model.name}"
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{result['date']}_nano.json"
    text = json.dumps(result | {"command": command}, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    captions = [plain_caption(modality) for modality in MODALITIES]
    contact_sheet(Generator(load(str(options.model))), captions).save(SHEET, quality=80)
    if card.is_file():
        write_card(f"Measured on {result['date']} with `{command}`.\n\n{card_table(result)}", card)
    print(f"written {path}, {SHEET} and {options.out / 'index.html'}")


if __name__ == "__main__":
    main()
