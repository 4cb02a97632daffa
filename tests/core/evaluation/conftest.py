"""Records of drawn pictures, and classifiers that are hardly trained."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage
from PIL import ImageDraw

from core.data.oct_phantom import b_scan
from core.data.records import Message, PictureStore, Record, write_records
from core.evaluation import bench, features

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


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two to six records of every task but virtual staining in each of train and test."""
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
            for label, before, after in (("fluid", scan, fluid), ("normal", fluid, scan)):
                texts = [f"Show this image as {label} and explain what changed.", f"Now it is {label}."]
                to.add(split, "counterfactual", "OCT", seed, [before], [after], texts, label)
    write_records(path, to.records)
    return path


@pytest.fixture(scope="module")
def little_training() -> Iterator[None]:
    """Few steps of the classifiers and few draws of a distance: here it does not matter how well they do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "STEPS", 10)
        patch.setattr(bench, "DRAWS", 20)
        yield
