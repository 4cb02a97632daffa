"""An evaluation from a records file to its numbers and its page, with the checkpoint that ships."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage
from PIL import ImageDraw

from core.config import NANO
from core.data.oct_phantom import b_scan
from core.data.records import Message, PictureStore, Record, read_records, write_records
from core.errors import RecordError, SettingsError
from core.evaluation import features, tasks
from core.evaluation.bench import Bench, Outcome, balanced
from core.evaluation.evaluate import _select, contact_sheet, evaluate
from core.evaluation.page import card_table
from core.evaluation.reading import swapped
from core.inference.generator import Generator
from core.inference.provenance import NOTICE
from core.model.checkpoint import load

HOSTILE = "<script>alert('x')</script> & | is this OCT?"


def fundus(seed: int) -> PILImage.Image:
    """A disc of retina in red with a vessel, seen well enough to tell it from OCT."""
    rng = np.random.default_rng(seed)
    image = PILImage.new("RGB", (96, 96), "black")
    pen = ImageDraw.Draw(image)
    pen.ellipse((4, 4, 92, 92), fill=(190, 70, 30))
    x, y = (int(v) for v in rng.integers(30, 60, 2))
    pen.ellipse((x, y, x + 14, y + 14), fill=(250, 210, 120))
    pen.line((x, y, 90 - x, 90), fill=(110, 20, 10), width=3)
    return image


def mask(seed: int) -> PILImage.Image:
    image = PILImage.new("L", (96, 96))
    ImageDraw.Draw(image).ellipse((20 + seed, 20, 60 + seed, 70), fill=255)
    return image


class Writer:
    """Collects records and stores their pictures."""

    def __init__(self, path: Path) -> None:
        self.store, self.path, self.records = PictureStore(path, 128), path, []

    def add(self, split: str, task: str, modality: str, seed: int, inputs: list, outputs: list, texts: list[str],
            label: str = "") -> None:  # fmt: skip
        stored = [self.store.add(image) for image in (*inputs, *outputs)]
        paths = tuple(path for path, _ in stored)
        self.records.append(Record(
            id=f"r{len(self.records)}", main_task_type="interleaved", sub_task_type=task, modality=modality,
            dataset="drawn & <b>", input_img=paths[: len(inputs)], output_img=paths[len(inputs) :],
            message=tuple(Message(s, t) for s, t in zip(("human", "gpt"), texts, strict=False)),
            patient=f"{split}-{seed}", split=split, licence="CC0-1.0", sha256=tuple(d for _, d in stored), label=label,
        ))  # fmt: skip


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two or three records of every task but virtual staining in each of train and test."""
    path = tmp_path_factory.mktemp("records") / "drawn.jsonl"
    to = Writer(path)
    for split, start in (("train", 0), ("test", 50)):
        for seed in (start, start + 1):
            eye, scan, fluid = fundus(seed), b_scan(seed, "normal"), b_scan(seed, "fluid")
            for modality, image, label in (
                ("fundus photograph", eye, "healthy"), ("OCT", scan, "normal"), ("OCT", fluid, "fluid")
            ):  # fmt: skip
                to.add(split, "text_to_image", modality, seed, [], [image], [f"A {modality}, {label}."], label)
            to.add(split, "vqa", "OCT", seed, [scan], [], ["What imaging modality is this?", "OCT"])
            to.add(split, "vqa", "fundus photograph", seed, [eye], [], [HOSTILE, "no"])
            to.add(split, "report", "OCT", seed, [scan], [], ["Report the findings.", "OCT of the eye. No finding."])
            to.add(split, "segmentation", "fundus photograph", seed, [eye], [mask(seed % 50)], ["Segment the disc."],
                   "disc")  # fmt: skip
            coarse = eye.resize((12, 12)).resize(eye.size, PILImage.Resampling.BICUBIC)
            to.add(split, "super_resolution", "fundus photograph", seed, [coarse], [eye], ["Sharpen this image."])
            to.add(split, "cross_modal", "OCT", seed, [scan], [fluid], ["Convert this image to fluid."], "fluid")
            texts = ["Show this image with fluid and explain what changed.", "Dark pockets of fluid."]
            to.add(split, "counterfactual", "OCT", seed, [scan], [fluid], texts, "fluid")
    write_records(path, to.records)
    return path


@pytest.fixture(scope="module")
def out(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    evaluate(records, str(NANO), folder, limit=4)
    return folder


@pytest.fixture(scope="module", autouse=True)
def little_training() -> Iterator[None]:
    """Few steps of the classifiers and few draws of a distance: here it does not matter how well they do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "STEPS", 10)
        patch.setattr(tasks, "DRAWS", 20)
        yield


@pytest.fixture(scope="module")
def result(out: Path) -> dict:
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))


def test_every_task_has_its_rows_or_says_why_not(result: dict) -> None:
    found = {(row["task"], row["metric"]) for row in result["rows"]}
    assert found == {
        *(("vqa", m) for m in ("closed accuracy", "open recall", "open exact match", "exact match")),
        *(("report", m) for m in ("ROUGE-L", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR (exact, stem)")),
        *(("text_to_image", m) for m in ("gFID to the real images", "modality recognition")),
        *((task, m) for task in ("super_resolution", "cross_modal") for m in ("PSNR", "SSIM")),
        *(("segmentation", m) for m in ("Dice", "HD95")),
        *(("counterfactual", m)
          for m in ("flip rate", "FID to real images of the state", "PSNR", "ROUGE-L of the text")),
    }  # fmt: skip
    assert "no record" in result["tasks"]["virtual_staining"]["notes"]
    judged = [row["wins"] for row in result["rows"]]
    assert None not in judged
    assert result["summary"] == {"beaten": sum(judged), "of": len(judged)}


def test_a_row_wins_only_against_its_best_baseline(result: dict) -> None:
    for row in result["rows"]:
        sign = 1 if row["better"] == "higher" else -1
        best = max(sign * baseline["value"] for baseline in row["baselines"].values())
        assert sign * row["baseline"]["value"] == best
        assert row["wins"] == (sign * row["model"]["value"] > best)
        assert row["model"]["low"] <= row["model"]["value"] <= row["model"]["high"]
        assert row["n"] >= row["patients"] == 2
    assert {row["task"]: set(row["baselines"]) for row in result["rows"]} == {
        "vqa": {"majority answer", "question only"},
        "report": {"nearest image's report"},
        "text_to_image": {"mean training image"},
        "segmentation": {"Otsu"},
        "super_resolution": {"bicubic"},
        "cross_modal": {"identity", "histogram matching"},
        "counterfactual": {"majority answer", "question only"},  # of its last row, the text
    }


def test_controls_show_what_the_image_is_worth(result: dict) -> None:
    assert {control["task"] for control in result["controls"]} == {"vqa", "report"}
    for control in result["controls"]:
        for name in ("blanked", "swapped"):
            drop = 100 * (control["image"]["value"] - control[name]["value"])
            assert control[f"{name}_drop"] == pytest.approx(drop, abs=0.01)


def test_the_page_escapes_texts_and_marks_what_was_drawn(out: Path) -> None:
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "drawn &amp; &lt;b&gt;" in page
    assert "no record" in page
    figures = page.split("<figure>")[1:]
    drawn = [figure for figure in figures if "<figcaption>drawn" in figure]
    assert len(drawn) == 4 + 2 + 2 + 2 + 2
    assert all(NOTICE in figure.split("</figure>")[0] for figure in drawn)
    assert not any(NOTICE in figure.split("</figure>")[0] for figure in figures if figure not in drawn)
    pictures = {part.split('"')[0] for part in page.split('src="')[1:]}
    assert pictures == {f"images/{path.name}" for path in (out / "images").iterdir()}
    with PILImage.open(out / "images" / "text_to_image-0-0.webp") as image:
        assert b"trainedAlgorithmicMedia" in image.info["xmp"]


def test_the_model_card_has_a_line_for_every_row(result: dict) -> None:
    text = card_table(result)
    lines = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    assert len(lines) == 2 + len(result["rows"]) + len(result["controls"])
    assert text.count("**no**") == sum(not row["wins"] for row in result["rows"])
    assert "- virtual_staining: the model was not trained for this task; no record." in text


def test_the_same_call_gives_the_same_numbers(records: Path, result: dict, tmp_path: Path) -> None:
    again = evaluate(records, str(NANO), tmp_path, limit=4)
    assert {**again, "date": ""} == {**result, "date": ""}


def test_a_broken_image_is_named_by_its_line_before_anything_runs(records: Path, tmp_path: Path) -> None:
    broken = read_records(records)
    place = next(i for i, r in enumerate(broken) if r.split == "test" and r.sub_task_type == "segmentation")
    broken[place] = replace(broken[place], output_img=("drawn_images/broken.png",))
    path = tmp_path / "drawn.jsonl"
    write_records(path, broken)
    (tmp_path / "drawn_images").symlink_to(records.parent / "drawn_images")
    for content in (None, b"not a picture"):
        if content:
            (records.parent / "drawn_images" / "broken.png").write_bytes(content)
        with pytest.raises(RecordError, match=rf"drawn\.jsonl:{place + 1}: the image .*broken\.png"):
            evaluate(path, "no such model", tmp_path / "out", limit=4)


@pytest.mark.parametrize("wrong", [{"split": "exam"}, {"limit": 0}, {"seed": -1}])
def test_an_impossible_setting_is_refused(wrong: dict, records: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        evaluate(records, str(NANO), tmp_path, **wrong)


def test_a_folder_that_cannot_be_written_is_refused_before_anything_runs(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(SettingsError, match="read-only"):
        evaluate(records, "no such model", tmp_path)


def test_a_split_without_records_is_an_error(records: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no record of a task in the split val"):
        evaluate(records, "no such model", tmp_path, split="val")


@pytest.mark.parametrize("split", ["train", "test"])
def test_baselines_never_see_the_evaluated_split(split: str, records: Path) -> None:
    chosen, known, pool = _select(read_records(records), split, 100, 0)
    assert {r.split for part in (*chosen.values(), pool) for r in part} == {split}
    assert {r.split for part in known.values() for r in part} == ({"train"} if split == "test" else set())


def test_a_distance_within_states_does_not_forgive_the_state_of_another_record(records: Path) -> None:
    """Pictures of the right mix of states, each at the wrong record: as one crowd they could not be told apart."""
    each = [r for r in read_records(records) if r.sub_task_type == "text_to_image"]
    part = [r for r in each if r.label in ("normal", "fluid")]
    states = [(r.modality, r.label) for r in part]
    black, white = PILImage.new("RGB", (8, 8)), PILImage.new("RGB", (8, 8), "white")
    real = [white if r.label == "fluid" else black for r in part]
    wrong = [black if r.label == "fluid" else white for r in part]

    class Mean:
        name = "mean"

        def features(self, images: list[PILImage.Image]) -> np.ndarray:
            return np.array([np.asarray(image).mean((0, 1)) / 255 for image in images])

    bench = Bench(None, records.parent, {}, [], 0, Mean())
    outcome = Outcome()
    tasks._add_distance(outcome, bench, "one crowd", wrong, {"truth": real}, real, part)
    tasks._add_distance(outcome, bench, "by state", wrong, {"truth": real}, real, part, states)
    crowd, by_state = outcome.rows
    assert crowd["model"]["value"] == pytest.approx(0, abs=1e-6)
    assert by_state["model"]["value"] == pytest.approx(3)
    assert by_state["baseline"]["value"] == pytest.approx(0, abs=1e-6) and by_state["wins"] is False


def test_swapping_gives_every_record_the_image_of_a_stranger(records: Path) -> None:
    asked = [record for record in read_records(records) if record.sub_task_type == "vqa"]
    for seed in range(20):
        donors = swapped(asked, seed)
        assert sorted(donors) == list(range(len(asked)))
        pairs = [(record, asked[i]) for record, i in zip(asked, donors, strict=True)]
        assert all(a.patient != b.patient and a.input_img != b.input_img for a, b in pairs)
        assert sum(a.modality != b.modality for a, b in pairs) >= len(asked) - 2
    assert swapped(asked[:1], 0) == [0]
    assert swapped(asked[:2], 0) == [1, 0]


def test_a_small_limit_still_has_every_modality(records: Path) -> None:
    captions = [record for record in read_records(records) if record.sub_task_type == "text_to_image"]
    chosen = balanced(captions, lambda record: record.modality, 2, seed=3)
    assert {record.modality for record in chosen} == {"OCT", "fundus photograph"}


def test_the_contact_sheet_has_a_row_for_each_caption() -> None:
    sheet = contact_sheet(Generator(load(str(NANO))), ["An OCT.", "A fundus photograph."], per_row=2)
    assert sheet.size == (2 * 132, 2 * 146)
    pixels = np.asarray(sheet)
    for top in (14, 146 + 14):
        assert pixels[top : top + 128, :128].std() > 5
        assert not np.array_equal(pixels[top : top + 128, :128], pixels[top : top + 128, 132:260])
