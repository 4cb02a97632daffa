"""What the nano checkpoint can do, on data that it has not seen: ``python -m benchmarks.nano --records F.jsonl``.

Runs ``core evaluate`` and draws a contact sheet, eight images of each modality. The numbers go to
``benchmarks/results``, the sheet to ``assets``, and the tables into the model card between its two marks.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import date
from pathlib import Path

from core.config import NANO, ROOT
from core.evaluation.evaluate import contact_sheet, evaluate
from core.evaluation.page import card_table
from core.inference.generator import Generator
from core.model.checkpoint import load
from core.tasks import MODALITIES

RESULTS = Path(__file__).parent / "results"
SHEET = ROOT / "assets" / "nano-samples.webp"
CARD_MARKS = ("<!-- results: python -m benchmarks.nano -->", "<!-- end of results -->")


def write_card(table: str, card: Path) -> None:
    """Puts the tables between the marks of the model card."""
    text = card.read_text(encoding="utf-8")
    before, _, rest = text.partition(CARD_MARKS[0])
    _, _, after = rest.partition(CARD_MARKS[1])
    card.write_text(f"{before}{CARD_MARKS[0]}\n{table}\n{CARD_MARKS[1]}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nano", description=__doc__)
    parser.add_argument("--records", type=Path, required=True, help="JSONL file of `core records build`")
    parser.add_argument("--model", default=str(NANO), help="checkpoint folder (default: assets/nano)")
    parser.add_argument("--out", type=Path, default=Path("out/nano"), help="folder of the HTML page")
    parser.add_argument("--limit", type=int, default=200, help="records of each task at most")
    options = parser.parse_args()
    result = evaluate(options.records, options.model, options.out, limit=options.limit)
    command = " ".join(["python -m benchmarks.nano", *sys.argv[1:]])
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{date.today().isoformat()}_nano.json"
    text = json.dumps(result | {"command": command}, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    captions = [f"{'An' if m[0] in 'AEIOUaeiouM' else 'A'} {m}." for m in MODALITIES]
    contact_sheet(Generator(load(options.model)), captions).save(SHEET, quality=80)
    card = Path(options.model) / "README.md"
    if card.is_file():
        write_card(f"Measured on {date.today().isoformat()} with `{command}`.\n\n{card_table(result)}", card)
    print(f"written {path}, {SHEET} and {options.out / 'index.html'}")


if __name__ == "__main__":
    main()
