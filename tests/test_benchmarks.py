"""The benchmarks run, and compare like with like. What they measure stands in benchmarks/results."""

import json
import random

import numpy as np
import pytest
from PIL import Image as PILImage

from benchmarks import cpu, feedback_loop, gpu, loop_world, nano, rater_models
from benchmarks.loop_chart import draw
from core.config import NANO
from core.data.oct_phantom import b_scan
from core.data.records import Message, PictureStore, Record, write_records
from core.errors import NothingLearnedError, UniMedError
from core.inference.generator import Generator
from core.model.checkpoint import load


def test_gpu_benchmark_runs_small_on_any_device(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu", "--small"])
    assert gpu.main() == 0
    assert "one guided step" in capsys.readouterr().out


@pytest.mark.parametrize("task", ["answer", "image", "edit"])
def test_naive_variant_gives_the_same_output(task, tiny_checkpoint):
    ours, naive = (cpu.work(variant, task, str(tiny_checkpoint)) for variant in ("ours", "naive"))
    assert cpu.close(ours["output"], naive["output"])


def test_the_contact_sheet_has_a_row_for_each_caption():
    sheet = nano.contact_sheet(Generator(load(str(NANO))), ["An OCT.", "A fundus photograph."], per_row=2)
    assert sheet.size == (2 * 132, 2 * 146)
    pixels = np.asarray(sheet)
    for top in (14, 146 + 14):
        assert pixels[top : top + 128, :128].std() > 5
        assert not np.array_equal(pixels[top : top + 128, :128], pixels[top : top + 128, 132:260])


@pytest.mark.parametrize("text", ["# nano", nano.CARD_MARKS[0], "".join(reversed(nano.CARD_MARKS))])
def test_a_card_without_both_marks_is_left_as_it_is(text, tmp_path):
    card = tmp_path / "README.md"
    card.write_text(text)
    with pytest.raises(UniMedError, match="no place for the results"):
        nano.write_card("| table |", card)
    assert card.read_text() == text


def test_the_tables_come_between_the_marks_of_the_card(tmp_path):
    card = tmp_path / "README.md"
    card.write_text("before {}old{} after".format(*nano.CARD_MARKS))
    nano.write_card("new", card)
    assert card.read_text() == "before {}\nnew\n{} after".format(*nano.CARD_MARKS)


def test_what_is_kept_of_a_run_names_no_folder(tmp_path, monkeypatch):
    """Neither the results nor the card tell where somebody keeps their data."""
    summary = {"beaten": 0, "of": 0, "undecided": 0}
    settings = {"split": "test", "records": "r.jsonl", "limit": 200, "seed": 0}
    empty = {"date": "2026-01-01", "settings": settings, "summary": summary, "rows": [], "controls": [], "tasks": {}}
    model = tmp_path / "secret" / "model"
    model.mkdir(parents=True)
    (model / "README.md").write_text("".join(nano.CARD_MARKS))
    monkeypatch.setattr(nano, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(nano, "SHEET", tmp_path / "sheet.webp")
    monkeypatch.setattr(nano, "MODALITIES", ("OCT",))
    monkeypatch.setattr(nano, "evaluate", lambda *_, **__: empty)
    monkeypatch.setattr(nano, "load", lambda _: load(str(NANO)))
    monkeypatch.setattr("sys.argv", ["nano", "--records", str(tmp_path / "secret" / "r.jsonl"), "--model", str(model)])
    nano.main()
    kept = [(tmp_path / "results" / "2026-01-01_nano.json").read_text(), (model / "README.md").read_text()]
    assert json.loads(kept[0])["command"] == "python -m benchmarks.nano --records r.jsonl --limit 200 --model model"
    assert not any("secret" in text for text in kept)


def test_rater_models_go_by_their_rules():
    truth = "CT of the abdomen. Impression: soft tissue window."
    assert rater_models.words_right("CT abdomen, soft tissue window", truth) == 1.0
    assert rater_models.words_right("MRI of the brain", truth) == 0.0
    assert 0 < rater_models.words_right("CT", truth) < rater_models.words_right("CT abdomen", truth) < 1
    style = "Exam: ct of the abdomen. Result: soft tissue window. Comparison: none."
    assert rater_models.house_style(truth) == style
    assert rater_models.house_style("Ultrasound of the fetal head.") == (
        "Exam: ultrasound of the fetal head. Result: not stated. Comparison: none."
    )
    assert rater_models.in_house_style(style, truth) == 1.0 > rater_models.in_house_style(truth, truth)
    sharp = PILImage.effect_noise((64, 64), 60).convert("RGB")
    blurred = sharp.resize((8, 8)).resize((64, 64))
    assert rater_models.fidelity(sharp, sharp) == pytest.approx(1.1)
    assert rater_models.fidelity(blurred, sharp) < 1


def test_rater_models_err_as_often_as_they_say():
    rule, outputs, truth = rater_models.RULES["text"], ["MRI", "CT", "CT scan"], "CT"
    honest = [rater_models.RaterModel(rule, draw=random.Random(n)).ranking(outputs, truth) for n in range(2000)]
    right = {"choices": {"overall": 1}, "ranking": [[1], [2], [0]]}
    assert 0.88 < sum(answer == right for answer in honest) / 2000 < 0.92
    assert rater_models.RaterModel(rule, "adversarial").ranking(outputs, truth)["ranking"] == [[0], [2], [1]]
    alike = rater_models.RaterModel(rule, noise=0.0).ranking(["CT", "ct"], truth)
    assert alike == {"choices": {"overall": "tie"}, "ranking": [[0, 1]]}


@pytest.mark.slow
def test_the_loop_goes_from_records_to_results(tmp_path, monkeypatch):
    """In small, with a run that learns nothing."""
    store, records, recipe = PictureStore(tmp_path / "r.jsonl", 128), [], tmp_path / "recipe.json"
    for n in range(16):
        finding, split = ("normal", "fluid")[n % 2], "train" if n < 10 else "test"
        path, digest = store.add(b_scan(n, finding))
        texts = (Message("human", "Report the findings."), Message("gpt", f"OCT of the eye. Impression: {finding}."))
        records.append(Record(
            id=f"r{n}", main_task_type="understanding", sub_task_type="report", modality="OCT", dataset="simulated",
            input_img=(path,), output_img=(), message=texts, patient=str(n), split=split, licence="CC0-1.0",
            sha256=(digest,), label=finding,
        ))  # fmt: skip
    write_records(tmp_path / "r.jsonl", records)
    recipe.write_text(json.dumps({"bf16": False, "least_steps": 2, "batch": 4, "log_every": 1}))

    class Failing(loop_world.Learner):
        def run(self):
            if self.name == "style-dpo-only":
                raise NothingLearnedError("Nothing was learned")
            return super().run()

    monkeypatch.setattr(loop_world, "Learner", Failing)
    paths = ["--work", str(tmp_path / "work"), "--results", str(tmp_path / "one"), "--chart", str(tmp_path / "c.webp")]
    numbers = ["--sizes", "4", "8", "--methods-after", "4", "--held-out", "4", "--limit", "2"]
    asked = ["--records", str(tmp_path / "r.jsonl"), "--recipe", str(recipe), "--parts", "style"]
    monkeypatch.setattr("sys.argv", ["feedback_loop", *asked, *numbers, *paths])
    feedback_loop.main()
    (file,) = (tmp_path / "one").iterdir()
    assert str(tmp_path) not in file.read_text()
    part = json.loads(file.read_text())["parts"]["style"]
    assert set(part["after"]) == {"4", "8"} and part["methods"]["DPO only"]["gate"]["rate"] is None
    assert part["methods"]["both"]["held out requests"] == 4 and part["tasks"]
    merging = ["--results", str(tmp_path / "two"), "--chart", str(tmp_path / "c.webp"), "--merge", str(file)]
    monkeypatch.setattr("sys.argv", ["feedback_loop", "--records", "r.jsonl", *merging])
    feedback_loop.main()
    (merged,) = (tmp_path / "two").iterdir()
    assert json.loads(merged.read_text()) == json.loads(file.read_text())


def test_the_chart_shows_bad_results_as_well(tmp_path):
    gate = {"wins": 0, "ties": 0, "losses": 4, "rate": 0.0, "low": 0.0, "high": 0.49}
    none = {"wins": 0, "ties": 0, "losses": 0, "rate": None, "low": None, "high": None}
    part = {"after": {"100": {"gate": gate}, "300": {"gate": none}}, "methods": {"both": {"gate": none}}}
    part["methods after"] = 300
    draw({"parts": {"text": part, "crowd": {"runs": {"honest": {"gate": gate}}}}}, tmp_path / "chart.webp")
    with PILImage.open(tmp_path / "chart.webp") as chart:
        assert chart.width > 800
