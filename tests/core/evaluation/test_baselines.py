"""Baselines on drawn pictures, where the right answer is known."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFilter

from core.data.records import Message, Record
from core.errors import ImageError, RecordError
from core.evaluation.baselines import (
    Macenko,
    MajorityAnswer,
    MeanImage,
    NearestReport,
    OtsuMask,
    QuestionOnly,
    Reinhard,
    bicubic,
    identity,
    match_histogram,
    otsu,
)
from core.evaluation.metrics import dice

HAEMATOXYLIN, EOSIN, DAB = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11]), np.array([0.27, 0.57, 0.78])


def record(question: str, answer: str = "", inputs: tuple[str, ...] = (), outputs: tuple[str, ...] = (),
           task: str = "vqa", label: str = "") -> Record:  # fmt: skip
    said = (Message("human", question), *([Message("gpt", answer)] if answer else []))
    sums = ("0",) * len(inputs + outputs)
    return Record(
        "id", "understanding", task, "ultrasound", "drawn", inputs, outputs, said, "p", "train", "CC0-1.0", sums, label
    )


def stained(second: np.ndarray, seed: int, strength: float = 1.0) -> PILImage.Image:
    """A section in haematoxylin and a second stain, of 96 x 80 pixels."""
    generator = np.random.default_rng(seed)
    amounts = generator.gamma(1.0, 0.5, (80, 96, 2)) * strength
    density = amounts[..., :1] * HAEMATOXYLIN + amounts[..., 1:] * second
    return PILImage.fromarray((255 * np.exp(-density)).astype(np.uint8))


def mean(image: PILImage.Image) -> np.ndarray:
    return np.asarray(image).reshape(-1, 3).mean(0)


def test_majority_answer() -> None:
    train = [record("q", answer) for answer in ("no", "yes", "no")] + [record("draw")]
    assert MajorityAnswer().fit(train).answer(record("anything")) == "no"
    with pytest.raises(RecordError, match="split train"):
        MajorityAnswer().fit([record("draw")])


def test_question_only_falls_back_from_question_to_first_words_to_all() -> None:
    train = [record("Is there an effusion?", "yes")] * 2 + [record("Is there a nodule?", "no")] * 3
    train += [record("Which organ is this?", "lung")] * 4
    blind = QuestionOnly().fit(train)
    assert blind.answer(record("is there AN effusion")) == "yes"
    assert blind.answer(record("Is there a fracture?")) == "no"
    assert blind.answer(record("How many?")) == "lung"


def test_nearest_report_ignores_brightness_and_size(tmp_path: Path) -> None:
    for name, box in (("left", (5, 10, 25, 50)), ("right", (40, 10, 60, 50))):
        image = PILImage.new("RGB", (64, 64), (20, 20, 20))
        ImageDraw.Draw(image).rectangle(box, fill=(90, 90, 90))
        image.save(tmp_path / f"{name}.png")
    image.point(lambda value: value * 2 + 30).resize((100, 100)).save(tmp_path / "brighter.png")
    train = [record("r", f"{side} sided", (f"{side}.png",), task="report") for side in ("left", "right")]
    nearest = NearestReport().fit(train, tmp_path)
    assert nearest.answer(record("r", inputs=("brighter.png",), task="report"), tmp_path) == "right sided"


def test_bicubic_is_the_identity() -> None:
    image = stained(EOSIN, 0)
    assert np.array_equal(bicubic(image), image) and np.array_equal(identity(image), image)


def test_otsu_learns_the_polarity_of_every_structure(tmp_path: Path) -> None:
    train = []
    for label, inside, outside in (("fetal head", 200, 60), ("cyst", 40, 170)):
        image, mask = PILImage.new("RGB", (60, 40), (outside,) * 3), PILImage.new("L", (30, 20))
        ImageDraw.Draw(image).ellipse((10, 10, 40, 30), fill=(inside,) * 3)
        ImageDraw.Draw(mask).ellipse((5, 5, 20, 15), fill=255)
        image.filter(ImageFilter.GaussianBlur(1)).save(tmp_path / f"{label}.png")
        mask.save(tmp_path / f"{label}_mask.png")
        images = ((f"{label}.png",), (f"{label}_mask.png",))
        train.append(record(f"Segment the {label}.", "", *images, task="segmentation", label=label))
    fitted = OtsuMask().fit(train, tmp_path)
    for each in train:
        image = PILImage.open(tmp_path / each.input_img[0])
        truth = PILImage.open(tmp_path / each.output_img[0]).resize(image.size)
        mask = fitted.mask(each, image)
        assert mask.size == image.size and mask.mode == "RGB"
        assert dice(np.asarray(mask)[..., 0] > 127, np.asarray(truth) > 127) > 0.9
    flat = PILImage.new("RGB", (8, 8), "grey")
    assert mean(otsu(flat)).tolist() == [0, 0, 0] and mean(otsu(flat, bright=False)).tolist() == [255, 255, 255]
    with pytest.raises(RecordError, match="mask"):
        OtsuMask().fit([record("q", "a")], tmp_path)


@pytest.mark.parametrize("transfer", [Reinhard, Macenko])
def test_stain_transfers_reach_the_target(transfer: type) -> None:
    targets = [stained(DAB, seed) for seed in (1, 2)]
    source = stained(EOSIN, 3, strength=0.6)
    moved = transfer().fit(targets).apply(source)
    assert moved.size == source.size and moved.mode == "RGB"
    before, after = (np.abs(mean(image) - mean(targets[0])).max() for image in (source, moved))
    assert after < 8 < before
    with pytest.raises(ImageError, match="target"):
        transfer().fit([])


def test_macenko_keeps_the_amounts_of_stain_and_changes_only_their_colour() -> None:
    """The same section drawn in the other stain is the truth."""
    moved = Macenko().fit([stained(DAB, 1)]).apply(stained(EOSIN, 3))
    truth = np.asarray(stained(DAB, 3)).astype(int)
    assert np.abs(np.asarray(moved) - truth).mean() < 0.3 * np.abs(np.asarray(stained(EOSIN, 3)) - truth).mean()


def test_pictures_without_stains_do_not_break_the_transfers() -> None:
    """A grey scan, an empty slide and a black frame; warnings would be errors."""
    stains = [stained(DAB, 1)]
    ramp = PILImage.fromarray(np.tile(np.arange(64, dtype=np.uint8), (32, 1))).convert("RGB")
    for image in (ramp, PILImage.new("RGB", (20, 30), "white"), PILImage.new("RGB", (20, 30), "black")):
        assert np.array_equal(Macenko().fit(stains).apply(image), image)
        assert np.array_equal(Macenko().fit([image]).apply(stains[0]), stains[0])
        assert Reinhard().fit(stains).apply(image).size == image.size
    yellow = PILImage.new("RGB", (20, 30), (255, 255, 0))
    loud = PILImage.fromarray(np.random.default_rng(0).integers(0, 256, (30, 20, 3)).astype(np.uint8))
    assert Reinhard().fit([loud, yellow]).apply(stained(EOSIN, 2)).mode == "RGB"


def test_match_histogram_takes_the_distribution_and_keeps_the_order() -> None:
    reference = PILImage.fromarray(np.linspace(100, 200, 50 * 70).reshape(50, 70).astype(np.uint8)).convert("RGB")
    matched = match_histogram(stained(EOSIN, 0), reference)
    assert matched.size == (96, 80)
    assert np.percentile(matched, [0, 50, 100]) == pytest.approx([100, 150, 200], abs=3)
    source, values = np.asarray(stained(EOSIN, 0))[..., 1], np.asarray(matched)[..., 1].astype(int)
    order = np.argsort(source, axis=None)
    assert (np.diff(values.ravel()[order]) >= 0).all()


def test_mean_image() -> None:
    halves = [PILImage.new("RGB", (30, 20), colour) for colour in ("black", (200, 100, 50))]
    image = MeanImage().fit(halves).image((64, 32))
    assert image.size == (64, 32) and mean(image).tolist() == [100, 50, 25]
    with pytest.raises(ImageError, match="needs an image"):
        MeanImage().fit([])
