"""Evaluators with a model whose answers are known: what should have been drawn, or the input as it is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from core.config import NANO
from core.data.records import Record, read_records, write_records
from core.evaluation import tasks
from core.evaluation.alignment import LikelihoodScorer
from core.evaluation.bench import Bench, Output, Picture, distant, scored
from core.evaluation.evaluate import _select
from core.evaluation.tasks import EVALUATORS
from core.inference.generator import Generator
from core.model.checkpoint import load
from tests.core.evaluation.conftest import Writer
from tests.core.evaluation.test_baselines import DAB, EOSIN, stained

pytestmark = pytest.mark.usefixtures("little_training")


class Judge:
    """Finds that red fits an eye, and grey an OCT scan."""

    name = "colour"

    def scores(self, pairs: list[tuple[Picture, str]]) -> list[float]:
        spreads = [float(np.ptp(np.asarray(image).mean((0, 1)))) for image, _ in pairs]
        return [float((spread > 20) == ("fundus" in text)) for spread, (_, text) in zip(spreads, pairs, strict=True)]


class Stub(Bench):
    """A bench whose model gives back the target, or the input, and says the truth."""

    gives = "target"

    def run(self, records: list[Record], pictures: list[list[Picture]] | None = None) -> list[Output]:
        images = [self.target(r) if self.gives == "target" else self.inputs(r)[0] for r in records]
        return [Output(record.answer, image) for record, image in zip(records, images, strict=True)]


def rows_of(path: Path, task: str, gives: str = "target", limit: int = 100) -> dict[str, dict]:
    """The rows of a task by metric."""
    chosen, train, pool = _select(read_records(path), "test", limit, 0)
    bench = Stub(None, path.parent, train, pool, 0, Judge())
    bench.gives = gives
    return {row["metric"]: row for row in EVALUATORS[task](bench, chosen[task]).rows}


@pytest.fixture(scope="module")
def sections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sections in two stains, the same tissue in both, of three patients in each split."""
    to = Writer(tmp_path_factory.mktemp("sections") / "sections.jsonl")
    for split, start in (("train", 0), ("test", 50)):
        for seed in range(start, start + 3):
            pair = [stained(EOSIN, seed)], [stained(DAB, seed)]
            to.add(split, "virtual_staining", "histopathology", seed, *pair, ["Stain with DAB."], "DAB")
    write_records(to.path, to.records)
    return to.path


@pytest.mark.parametrize("task", ["super_resolution", "cross_modal", "virtual_staining", "counterfactual"])
def test_a_model_that_draws_the_target_is_perfect(task: str, records: Path, sections: Path) -> None:
    row = rows_of(sections if task == "virtual_staining" else records, task)["PSNR"]
    assert row["model"]["value"] == 100 and row["wins"] is True and row["undecided"] is False
    assert row["difference"]["value"] == pytest.approx(100 - row["baseline"]["value"], abs=1e-4)


@pytest.mark.parametrize(
    ("task", "baseline"),
    [("super_resolution", "bicubic"), ("cross_modal", "identity"), ("virtual_staining", "identity"),
     ("counterfactual", "identity")],
)  # fmt: skip
def test_a_model_that_changes_nothing_is_what_identity_is(
    task: str, baseline: str, records: Path, sections: Path
) -> None:
    for row in rows_of(sections if task == "virtual_staining" else records, task, "input").values():
        if baseline in row["baselines"]:  # an explanation has others
            assert row["model"]["value"] == row["baselines"][baseline]["value"] and row["wins"] is False


def test_virtual_staining_is_measured_beside_the_classical_stain_transfers(sections: Path) -> None:
    """Which know the colours of the stain from training, and so beat the input."""
    for row in rows_of(sections, "virtual_staining").values():
        values = {name: interval["value"] for name, interval in row["baselines"].items()}
        assert set(values) == {"identity", "histogram matching", "Reinhard", "Macenko"}
        if row["metric"] == "PSNR":
            assert min(values["Reinhard"], values["Macenko"]) > values["identity"]
        assert row["n"] == row["patients"] == 3


def test_masks_that_are_the_truth_are_perfect(records: Path) -> None:
    rows = rows_of(records, "segmentation")
    assert rows["Dice"]["model"]["value"] == 1 and rows["HD95"]["model"]["value"] == 0


def test_real_images_in_place_of_drawn_ones_flip_as_often_as_the_ceiling_says(records: Path) -> None:
    """Every real image of the split is the target of one record, so both are measured on the same pictures."""
    rows = rows_of(records, "counterfactual")
    assert rows["flip rate"]["model"]["value"] == rows["flip rate"]["ceiling"]["value"]
    assert rows["flip rate"]["network"] == rows["FID to real images of the state"]["network"]
    assert rows["ROUGE-L of the text"]["model"]["value"] == 1


def test_real_images_in_place_of_drawn_ones_reach_every_ceiling(records: Path) -> None:
    rows = rows_of(records, "text_to_image")
    assert rows["gFID to the real images"]["model"]["value"] == pytest.approx(0, abs=1e-4)
    assert rows["gFID to the real images"]["ceiling"]["value"] > 0
    for metric in ("alignment", "modality recognition"):
        assert rows[metric]["model"]["value"] == rows[metric]["ceiling"]["value"]
    alignment = rows["alignment"]
    assert alignment["model"]["value"] == 1 and alignment["judge"] == "colour"
    assert alignment["baselines"]["drawn for another caption"]["value"] < 0.5


def test_the_mean_of_means_is_not_drowned_by_the_larger_modality(records: Path) -> None:
    """Four of six training pictures are OCT."""
    _, train, pool = _select(read_records(records), "test", 100, 0)
    bench = Stub(None, records.parent, train, pool, 0, Judge())
    eyes = [r for r in train["text_to_image"] if r.modality != "OCT"]
    scans = [r for r in train["text_to_image"] if r.modality == "OCT"]
    means = tasks._means(bench, [eyes[0], scans[0], replace(eyes[0], modality="CT")])
    eye, scan, unknown = (np.asarray(image).astype(float) for image in means["mean image of the modality"])
    overall = np.asarray(means["mean training image"][0])
    assert len(scans) == 2 * len(eyes)
    assert np.abs(overall - (eye + scan) / 2).max() <= 1
    assert np.array_equal(unknown, overall)


def test_one_modality_is_measured_by_its_states_and_one_state_by_nothing(records: Path, tmp_path: Path) -> None:
    (tmp_path / "drawn_images").symlink_to(records.parent / "drawn_images")
    scans = [r for r in read_records(records) if r.sub_task_type == "text_to_image" and r.modality == "OCT"]
    for label, part in (("two", scans), ("one", [r for r in scans if r.label == "normal"])):
        write_records(tmp_path / f"{label}.jsonl", part)
    assert "the states of OCT" in rows_of(tmp_path / "two.jsonl", "text_to_image")["gFID to the real images"]["network"]
    assert set(rows_of(tmp_path / "one.jsonl", "text_to_image")) == {"alignment"}


def test_a_row_of_one_patient_or_of_equal_scores_is_undecided(records: Path) -> None:
    part = read_records(records)[:3]
    ones, patients = [replace(r, patient="p") for r in part], [replace(r, patient=r.id) for r in part]
    assert scored("vqa", "m", [1, 1, 1], {"b": [0, 0, 0]}, ones)["undecided"] is True
    assert scored("vqa", "m", [1, 1, 1], {"b": [0, 0, 0]}, patients)["undecided"] is False
    assert scored("vqa", "m", [1, 0, 1], {"b": [0, 1, 1]}, patients)["undecided"] is True


def test_the_interval_of_a_difference_is_paired(records: Path) -> None:
    """Better by little on every record, hard or easy: far apart though the scores are, that is decided."""
    part = [replace(r, patient=r.id) for r in read_records(records)[:10]]
    hard = np.linspace(0, 0.9, 10)
    row = scored("vqa", "m", hard + 0.01, {"b": hard}, part)
    assert row["model"]["low"] < row["baseline"]["high"]
    assert row["difference"]["low"] == pytest.approx(0.01) and row["undecided"] is False


def test_a_judge_says_when_it_judges_itself(tiny_checkpoint: Path, tiny_generator: Generator, tmp_path: Path) -> None:
    """Also where the same weights lie in another folder."""
    copy = tmp_path / "copy"
    copy.symlink_to(tiny_checkpoint)
    by_itself = Bench(tiny_generator, tmp_path, {}, [], 0, LikelihoodScorer(load(str(copy))))
    by_another = Bench(tiny_generator, tmp_path, {}, [], 0, LikelihoodScorer(load(str(NANO))))
    assert by_itself.judged_by.endswith("it judges its own work")
    assert by_another.judged_by == by_another.judge.name
    judge = Judge()
    judge.name = f"clip:{tmp_path}"
    assert Bench(tiny_generator, tmp_path, {}, [], 0, judge).judged_by == f"clip:{tmp_path.name}"


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

    rows = [distant("text_to_image", "FID", Mean(), wrong, {"truth": real}, real, part, 0, g) for g in (None, states)]
    crowd, by_state = rows
    assert crowd["model"]["value"] == pytest.approx(0, abs=1e-6)
    assert by_state["model"]["value"] == pytest.approx(3)
    assert by_state["baseline"]["value"] == pytest.approx(0, abs=1e-6) and by_state["wins"] is False
