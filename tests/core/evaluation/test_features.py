"""The small classifier on drawn pictures, and pretrained networks of a few thousand random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from PIL import ImageDraw
from transformers import CLIPConfig, CLIPModel, ResNetConfig, ResNetModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from core.errors import CheckpointError, UniMedError
from core.evaluation import HELP, features
from core.evaluation.features import ByModality, HubNetwork, SmallClassifier
from core.evaluation.metrics import frechet

SHAPES = ("disc", "ring", "stripes")


def draw(shape: str, generator: np.random.Generator) -> PILImage.Image:
    """A shape of random place, size and grey on noise: neither colour nor brightness gives it away."""
    noise = generator.integers(0, 40, (72, 80))
    image = PILImage.fromarray(noise.astype(np.uint8)).convert("RGB")
    x, y, r, grey = generator.integers((30, 26, 12, 120), (50, 46, 22, 255)).tolist()
    pen, box = ImageDraw.Draw(image), (x - r, y - r, x + r, y + r)
    if shape == "disc":
        pen.ellipse(box, fill=(grey,) * 3)
    elif shape == "ring":
        pen.ellipse(box, outline=(grey,) * 3, width=4)
    else:
        for line in range(y - r, y + r, 8):
            pen.rectangle((x - r, line, x + r, line + 3), fill=(grey,) * 3)
    return image


def drawn(n: int, seed: int) -> tuple[list[PILImage.Image], list[str]]:
    generator = np.random.default_rng(seed)
    labels = [SHAPES[i % 3] for i in range(n)]
    return [draw(label, generator) for label in labels], labels


@pytest.fixture(scope="module")
def classifier() -> SmallClassifier:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "STEPS", 50)
        return SmallClassifier("shapes").fit(*drawn(150, 0))


def test_it_tells_drawn_classes_apart_that_it_has_not_seen(classifier: SmallClassifier) -> None:
    images, labels = drawn(90, 1)
    assert classifier.classes == tuple(sorted(SHAPES))
    assert np.mean([a == b for a, b in zip(classifier.predict(images), labels, strict=True)]) > 0.9
    assert classifier.predict(images[:2])[0] in SHAPES
    probabilities = classifier.probabilities(iter(images))
    assert probabilities.shape == (90, 3) and probabilities.sum(1) == pytest.approx(np.ones(90))


def test_features_tell_distributions_apart(classifier: SmallClassifier) -> None:
    images, labels = drawn(240, 2)
    found = classifier.features(images)
    assert found.shape == (240, 128) and found.dtype == np.float32
    discs = found[[label == "disc" for label in labels]]
    rings = found[[label == "ring" for label in labels]]
    assert frechet(discs, rings) > 5 * frechet(discs[::2], discs[1::2])
    assert classifier.features([]).shape == (0, 128)


def test_a_seed_gives_the_same_weights_and_leaves_the_global_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "STEPS", 2)
    images, labels = drawn(12, 3)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = SmallClassifier("shapes").fit(images, labels, seed=1)
    assert torch.rand(1) == expected
    again, other = (SmallClassifier("shapes").fit(images, labels, seed=seed) for seed in (1, 2))
    assert np.array_equal(first.features(images), again.features(images))
    assert first.name == again.name != other.name
    assert first.name == f"small classifier of shapes, trained on the real training split ({first.digest})"


def test_every_picture_is_seen_by_its_own_network() -> None:
    class Constant:
        def __init__(self, name: str, value: float) -> None:
            self.name, self.value = name, value

        def features(self, images: list[PILImage.Image]) -> np.ndarray:
            return np.array([[self.value, np.asarray(image).mean()] for image in images])

    one, two = Constant("one", 1), Constant("two", 2)
    images = [PILImage.new("RGB", (4, 4), (grey,) * 3) for grey in (10, 20, 30)]
    network = ByModality([two, one, two])
    assert network.features(images).tolist() == [[2, 10], [1, 20], [2, 30]]
    assert network.name == "two; one"


def test_what_cannot_be_learned_is_said() -> None:
    images, labels = drawn(3, 5)
    with pytest.raises(UniMedError, match="two labels"):
        SmallClassifier("shapes").fit(images, ["disc"] * 3)
    with pytest.raises(UniMedError, match=r"\(3, 2\)"):
        SmallClassifier("shapes").fit(images, labels[:2])


def test_a_rare_class_is_learned_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn as often as the others in training, though it is 1 of 20 of the pictures."""
    monkeypatch.setattr(features, "STEPS", 30)
    generator = np.random.default_rng(6)
    labels = ["disc"] * 95 + ["stripes"] * 5
    fitted = SmallClassifier("shapes").fit([draw(label, generator) for label in labels], labels)
    rare = [draw("stripes", generator) for _ in range(30)]
    assert fitted.predict(rare).count("stripes") > 24


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP and a ResNet in transformers' format, tiny and untrained."""
    root = tmp_path_factory.mktemp("hub")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": 20, "bos_token_id": 1, "eos_token_id": 2}
    clip = CLIPConfig(text_config=text, vision_config={**sizes, "image_size": 32, "patch_size": 8}, projection_dim=12)
    CLIPModel(clip).save_pretrained(root / "clip")
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32).save_pretrained(root / "clip")
    resnet = ResNetConfig(embedding_size=8, hidden_sizes=[8, 24], depths=[1, 1], layer_type="basic")
    ResNetModel(resnet).save_pretrained(root / "resnet")
    ViTImageProcessorPil(size=32).save_pretrained(root / "resnet")
    return root


@pytest.mark.parametrize(("name", "width"), [("clip", 12), ("resnet", 24)])
def test_pretrained_networks_give_image_features(hub: Path, name: str, width: int) -> None:
    network = HubNetwork(str(hub / name))
    images, _ = drawn(35, 7)
    found = network.features(images)
    assert network.name == name
    assert found.shape == (35, width) and found.dtype == np.float32
    assert found[-1] == pytest.approx(network.features(images[-1:])[0], abs=1e-5)
    assert np.ptp(found, axis=0).max() > 0


def test_a_network_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        HubNetwork(str(tmp_path / "nowhere"))


def test_the_help_of_the_option_can_be_printed_and_claims_no_inception() -> None:
    assert "%" not in HELP and "Inception is not among them" in HELP
