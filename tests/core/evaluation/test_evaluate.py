"""An evaluation from a records file to its numbers and its page, with the checkpoint that ships."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image as PILImage

from core.config import NANO
from core.data.records import Message, read_records, write_records
from core.errors import RecordError, SettingsError
from core.evaluation import evaluate as module
from core.evaluation import tasks
from core.evaluation.bench import balanced
from core.evaluation.evaluate import _select, evaluate
from core.evaluation.page import card_table, change, number
from core.evaluation.reading import swapped
from core.sequence import NOTICE

pytestmark = pytest.mark.usefixtures("little_training")


@pytest.fixture(scope="module")
def out(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    evaluate(records, str(NANO), folder, limit=4)
    return folder


@pytest.fixture(scope="module")
def result(out: Path) -> dict:
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))


def test_every_task_has_its_rows_or_says_why_not(result: dict) -> None:
    found = {(row["task"], row["metric"]) for row in result["rows"]}
    assert found == {
        *(("vqa", m) for m in ("closed accuracy", "open recall", "open exact match", "exact match")),
        *(("report", m) for m in ("ROUGE-L", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR (exact, stem)")),
        *(("text_to_image", m) for m in ("gFID to the real images", "alignment", "modality recognition")),
        *((task, m) for task in ("super_resolution", "cross_modal") for m in ("PSNR", "SSIM")),
        *(("segmentation", m) for m in ("Dice", "HD95")),
        *(("counterfactual", m)
          for m in ("flip rate", "FID to real images of the state", "PSNR", "ROUGE-L of the text")),
    }  # fmt: skip
    assert "no record" in result["tasks"]["virtual_staining"]["notes"]
    judged = [row["wins"] for row in result["rows"]]
    assert None not in judged
    undecided = sum(row["undecided"] is True for row in result["rows"])
    assert result["summary"] == {"beaten": sum(judged), "of": len(judged), "undecided": undecided}
    assert result["complete"] is True


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
        "text_to_image": {"mean training image", "mean image of the modality"},
        "segmentation": {"Otsu"},
        "super_resolution": {"bicubic"},
        "cross_modal": {"identity", "histogram matching"},
        "counterfactual": {"majority answer", "question only"},  # of its last row, the text
    }


def test_a_row_is_undecided_where_its_difference_may_be_zero(result: dict) -> None:
    """The difference is the model minus the best baseline, record by record; sets of pictures have none."""
    for row in result["rows"]:
        if "FID" in row["metric"]:
            assert row["difference"] is row["undecided"] is None
            continue
        value, low, high = (row["difference"][name] for name in ("value", "low", "high"))
        assert value == pytest.approx(row["model"]["value"] - row["baseline"]["value"], abs=2e-5)
        assert low <= value <= high
        assert row["undecided"] == (low <= 0 <= high)


def test_rows_name_their_judge_and_network_in_words(result: dict, out: Path) -> None:
    rows = {row["metric"]: row for row in result["rows"]}
    assert rows["alignment"]["judge"].endswith("the evaluated model itself: it judges its own work")
    assert rows["alignment"]["unit"] == "nats" and "ceiling" in rows["alignment"]
    assert set(rows["alignment"]["baselines"]) == {
        "drawn for another caption", "mean training image", "mean image of the modality"
    }  # fmt: skip
    gfid, fid = rows["gFID to the real images"], rows["FID to real images of the state"]
    assert gfid["network"].startswith("small classifier of modalities, trained on the real training split (")
    assert fid["network"].startswith("small classifier of the states of OCT, trained on")
    assert gfid["ceiling"]["name"] == "as many real training images"
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "floor, as many real training images" in page and "alignment, judge: likelihood:" in page


def test_controls_show_what_the_image_is_worth(result: dict) -> None:
    assert {control["task"] for control in result["controls"]} == {"vqa", "report"}
    for control in result["controls"]:
        for name in ("blanked", "swapped"):
            drop = control[f"{name}_drop"]
            assert drop["value"] == pytest.approx(100 * (control["image"]["value"] - control[name]["value"]), abs=0.01)
            assert drop["low"] <= drop["value"] <= drop["high"]


def test_the_page_escapes_texts_and_marks_what_was_drawn(out: Path) -> None:
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "drawn &amp; &lt;b&gt;" in page
    assert "no record" in page
    figures = page.split("<figure>")[1:]
    drawn = [figure for figure in figures if "<figcaption>drawn" in figure]
    assert len(drawn) == 4 + 2 + 2 + 2 + 4
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
    assert text.count(", undecided |") == result["summary"]["undecided"]
    assert "- virtual_staining: no record." in text


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


def test_what_is_finished_survives_a_crash(
    records: Path, result: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(bench: object, records: object) -> None:
        raise RuntimeError

    monkeypatch.setitem(tasks.EVALUATORS, "report", crash)
    with pytest.raises(RuntimeError):
        evaluate(records, str(NANO), tmp_path, limit=4)
    partial = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert partial["complete"] is False and set(partial["tasks"]) == {"vqa"}
    assert partial["rows"] == [row for row in result["rows"] if row["task"] == "vqa"]


@pytest.mark.parametrize("step", ["Path.write_text", "write_page"])
def test_a_full_disk_is_one_sentence_and_keeps_what_was_there(
    step: str, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "metrics.json").write_text("of an earlier run", encoding="utf-8")
    monkeypatch.setattr(module, "_select", lambda *given: ({"vqa": _select(*given)[0]["vqa"]}, *_select(*given)[1:]))
    monkeypatch.setattr(module, step, full) if "." not in step else monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(SettingsError, match=r"cannot be written \(No space left on device\).*Make room"):
        evaluate(records, str(NANO), tmp_path, limit=2)
    kept = (tmp_path / "metrics.json").read_text(encoding="utf-8")
    assert kept == "of an earlier run" if step == "Path.write_text" else json.loads(kept)["rows"]


def test_a_wrong_scorer_is_refused_before_anything_runs(records: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="Unknown scorer: 'guess'"):
        evaluate(records, str(NANO), tmp_path, limit=2, scorer="guess")
    assert not (tmp_path / "metrics.json").exists()


def test_a_split_without_records_is_an_error(records: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no record of a task in the split val"):
        evaluate(records, "no such model", tmp_path, split="val")


@pytest.mark.parametrize("split", ["train", "test"])
def test_baselines_never_see_the_evaluated_split(split: str, records: Path) -> None:
    chosen, known, pool = _select(read_records(records), split, 100, 0)
    assert {r.split for part in (*chosen.values(), pool) for r in part} == {split}
    assert {r.split for part in known.values() for r in part} == ({"train"} if split == "test" else set())


def test_baselines_that_search_texts_know_all_of_training(
    records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the pictures of classifiers are capped."""
    monkeypatch.setattr(module, "TRAIN_LIMIT", 1)
    _, known, _ = _select(read_records(records), "test", 100, 0)
    assert {task: len(part) for task, part in known.items() if part} == {
        "vqa": 4, "report": 2, "text_to_image": 1, "segmentation": 2, "super_resolution": 2, "cross_modal": 2,
        "counterfactual": 4,
    }  # fmt: skip


def test_a_picture_with_several_captions_is_drawn_once(records: Path) -> None:
    """Else real images would stand in the reference of a distance more than once."""
    everything = read_records(records)
    twice = [*everything, *(replace(r, id=f"{r.id}b", message=(Message("human", "B."),)) for r in everything
                            if r.sub_task_type == "text_to_image")]  # fmt: skip
    chosen = [_select(twice, "test", 100, seed)[0]["text_to_image"] for seed in range(8)]
    for part in chosen:
        assert len({r.output_img for r in part}) == len(part) == 6
    assert len({tuple(sorted(r.id for r in part)) for part in chosen}) > 1


def test_small_numbers_keep_three_digits_and_changes_their_interval() -> None:
    assert [number(v, "") for v in (0.00123, 0.5, 12.345, 0, None)] == ["0.00123", "0.500", "12.35", "0.00", "–"]
    assert number(0.1234, "share") == "12.3%" and number(-0.021, "nats") == "-0.0210 nats"
    assert change({"value": 12.0, "low": -1.04, "high": 20.0}) == "-12.0 [-20.0, +1.0]"


def test_swapping_gives_every_record_the_image_of_a_stranger(records: Path) -> None:
    asked = [record for record in read_records(records) if record.sub_task_type == "vqa"]
    for seed in range(20):
        donors = swapped(asked, seed)
        assert sorted(donors) == list(range(len(asked)))
        pairs = [(record, asked[i]) for record, i in zip(asked, donors, strict=True)]
        assert all(a.patient != b.patient and a.input_img != b.input_img for a, b in pairs)
        assert sum(a.modality != b.modality for a, b in pairs) >= len(asked) - 2
    assert len(set(swapped(asked * 250, 0))) == 2000  # in seconds
    assert swapped(asked[:1], 0) == [0]
    assert swapped(asked[:2], 0) == [1, 0]


def test_a_small_limit_still_has_every_modality(records: Path) -> None:
    captions = [record for record in read_records(records) if record.sub_task_type == "text_to_image"]
    chosen = balanced(captions, lambda record: record.modality, 2, seed=3)
    assert {record.modality for record in chosen} == {"OCT", "fundus photograph"}
