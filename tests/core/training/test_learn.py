"""Learning from judgements: what a step computes, what a run survives, when it ends by itself."""

import dataclasses
import hashlib
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from safetensors.torch import load_file

from core.config import ROOT, ModelConfig, TextSampling
from core.data.packing import DropRates, LatentItem, TextItem, ViTItem, pack
from core.errors import SettingsError
from core.inference.generator import Generator
from core.inference.once import turn_of
from core.lineage import Lineage
from core.model.adapter import WEIGHTS, add_adapter
from core.model.checkpoint import load
from core.model.objective import packed_losses
from core.model.unified import UnifiedModel
from core.sequence import Image, Text
from core.tasks import TASKS
from core.training.learn import Learner
from core.training.preference import flow_preference, text_preference, weighted_means
from core.training.recipe import LORA_TARGETS, LearnRecipe
from core.training.sides import can_learn, imitated
from core.training.sources import Source, from_folder

CPU = torch.device("cpu")
PICTURES = {
    str(n): PILImage.fromarray(np.random.default_rng(n).integers(0, 255, (64, 64, 3), dtype=np.uint8)) for n in range(9)
}
BOX = {"kind": "box", "x0": 0, "y0": 0, "x1": 40, "y1": 20, "label": "blur"}


def text(words):
    return {"type": "text", "text": words}


def image(name):
    return {"type": "image", "sha256": name, "width": 64, "height": 64}


def signal_of(kind, task, chosen, rejected=None, number=0, split="train", weight=1.0, regions=(), edit=False):
    inputs = [image(str(number % 3)), text(f"Question {number}?")]
    return {"kind": kind, "task": task, "inputs": inputs, "chosen": chosen, "rejected": rejected, "weight": weight,
            "regions": list(regions), "group": str(number), "judgements": [str(number)], "edit": edit,
            "split": split}  # fmt: skip


SIGNALS = [
    signal_of("pair", "vqa", text("a chest X-ray"), text("an organ"), 0),
    signal_of("pair", "report", text("The image shows the eye."), text("The image shows the chest."), 1, edit=True),
    signal_of("pair", "super_resolution", image("3"), image("4"), 2, weight=0.75, regions=[BOX]),
    signal_of("sft", "report", text("A fundus photograph."), None, 3),
    signal_of("sft", "super_resolution", image("5"), None, 4),
    signal_of("unpaired", "vqa", text("yes"), None, 5),
    signal_of("unpaired", "vqa", None, text("no"), 6),
    signal_of("unpaired", "super_resolution", None, image("6"), 7, regions=[BOX]),
    signal_of("pair", "vqa", text("brain"), text("eye"), 8, split="test"),
    signal_of("pair", "super_resolution", image("7"), image("8"), 9, split="test"),
]


def source(signals=SIGNALS):
    return Source("5" * 64, signals, len(signals), PICTURES.__getitem__)


@pytest.fixture
def learner(tiny_checkpoint, tmp_path, monkeypatch):
    """A learner on the tiny checkpoint; keys of its recipe, and other signals, may be given."""
    monkeypatch.setenv("UNIMED_MODEL", str(tiny_checkpoint))

    def make(signals=SIGNALS, out="v", **keys):
        small = {"bf16": False, "batch": 4, "least_steps": 1, "lora_rank": 4, "learning_rate": 1e-3}
        recipe = LearnRecipe(**small | keys)
        (tmp_path / out).mkdir(exist_ok=True)
        return Learner(source(signals), load(tiny_checkpoint, CPU, torch.float32), recipe, tmp_path / out, out)

    return make


def shake(model, std=0.05):
    """An adapter that does something."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=std)


# What a step computes ------------------------------------------------------------------------------------------------


def test_an_empty_adapter_is_the_reference_and_preferences_cost_log_two(learner):
    one = learner(sft_weight=0.0, anchor_weight=0.0)
    examples = [one.maker.example(place, SIGNALS[place]) for place in range(3)]
    scores = one.scores(examples, "seed")
    with torch.no_grad(), one.peft.disable_adapter():
        reference = one.scores(examples, "seed")
    assert [[one.item() for one in of] for of in scores] == [[one.item() for one in of] for of in reference]
    weights = sum(example.weight for example in examples)
    one._remember_texts(one.train)  # as a run takes them: of other packs than the policy's
    remembered = one._reference(examples, "seed")
    assert one.loss(examples, scores, remembered).item() == pytest.approx(weights * math.log(2), rel=1e-5)
    assert one.loss(examples, scores, reference).item() == pytest.approx(weights * math.log(2), rel=1e-6)


def test_a_step_is_what_the_formulas_say_of_each_sample_alone(learner):
    """All kinds in one batch, against every side by itself and the losses written out."""
    recipe = {"smoothing": 0.1, "image_beta": 5.0, "unpaired_weight": 0.7, "sft_weight": 0.3, "anchor_weight": 0.2}
    one = learner(tokens_per_pack=10**6, **recipe)
    shake(one.model)
    examples = [one._example(*of) for of in one.train]
    with torch.no_grad():
        one._remember_texts(one.train)
        one.z = {"text": torch.tensor(0.2), "image": torch.tensor(0.1)}
        total = one.loss(examples, one.scores(examples, "0/0/0"), one._reference(examples, "0/0/0")).item()
    now, before = {}, {}
    for number, example in enumerate(examples):
        for side, of in (("good", example.good), ("bad", example.bad)):
            if of is not None:
                now[number, side], before[number, side] = alone(one, example, of, number)
    expected = 0.0
    for number, example in enumerate(examples):
        gain = {side: now[number, side] - before[number, side] for side in ("good", "bad") if (number, side) in now}
        beta = 0.1 if example.of == "text" else -5.0 / 2
        if example.kind == "unpaired":
            z = 0.2 if example.of == "text" else 0.1
            for side, value in gain.items():
                above = beta * value - z
                expected += 0.7 * (1 - 1 / (1 + math.exp(-above if side == "good" else above)))
            continue
        if example.kind == "pair":
            h = beta * (gain["good"] - gain["bad"])
            eps = 0.1 if example.of == "text" else 0.0
            wrong = math.log1p(math.exp(h))
            expected += example.weight * ((1 - eps) * math.log1p(math.exp(-h)) - eps * wrong) / (1 - 2 * eps)
        good = example.weight * now[number, "good"]
        expected += -0.3 * good / float(example.good.weights.sum()) if example.of == "text" else 0.2 * good
    assert total == pytest.approx(expected, rel=1e-4)


def alone(one, example, side, number):
    """Score of one side by the model with its adapter and without, in a pack of its own."""
    example = dataclasses.replace(example, good=side, bad=None)
    packed, _ = one.maker.pack([example], "x")
    # The same time and noise as in the batch: they depend on the place there.
    draw = torch.Generator().manual_seed(random.Random(f"0/0/0/{number}").getrandbits(62))
    time_drawn = torch.randn((), generator=draw)
    drawn = side.items[-1]
    noise = torch.zeros(packed.latents.shape)
    if isinstance(drawn, LatentItem):
        noise[-len(drawn.tokens) :] = torch.randn(drawn.tokens.shape, generator=draw)
        packed.raw_times[-len(drawn.tokens) :] = time_drawn
    found = []
    for adapter in (True, False):
        with torch.no_grad():
            if adapter:
                losses = packed_losses(one.model, packed, noise, 1.0)
            else:
                with one.peft.disable_adapter():
                    losses = packed_losses(one.model, packed, noise, 1.0)
        of_tokens = -losses.ce if example.of == "text" else losses.mse.mean(-1)
        weighed = (of_tokens * side.weights).sum()
        found.append(float(weighed if example.of == "text" else weighed / side.weights.sum()))
    return found


def test_how_a_batch_is_cut_into_packs_changes_nothing_of_texts(learner):
    signals = [one for one in SIGNALS if (one["chosen"] or one["rejected"])["type"] == "text"]
    gradients = []
    for tokens in (1, 10**6):
        one = learner(signals, tokens_per_pack=tokens)
        shake(one.model)
        one._remember_texts(one.train)
        batch = [one._example(*of) for of in one.train]
        for number, examples in enumerate(one._packs(batch)):
            seed = str(number)
            one.loss(examples, one.scores(examples, seed), one._reference(examples, seed)).backward()
        gradients.append({name: p.grad.clone() for name, p in one.trained.items() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("place", [0, 1])
def test_what_is_learned_is_as_likely_as_when_it_is_written(learner, place, monkeypatch):
    """Else a run would learn answers to requests that the model is never given."""
    one, signal = learner(), SIGNALS[place]
    generator, ids = Generator(one.parent), one.parent.tokenizer.encode(signal["chosen"]["text"])
    said, told = [], iter([*ids, one.parent.tokenizer.eos])

    def choose(logits, *_):
        said.append(torch.log_softmax(logits.float(), -1)[token := next(told)].item())
        return token

    monkeypatch.setattr(generator, "_choose", choose)
    inputs = [Image(PICTURES[signal["inputs"][0]["sha256"]]), Text(signal["inputs"][1]["text"])]
    answer = [*generator.stream(turn_of(generator, TASKS[signal["task"]], inputs, 0, text=TextSampling(64)))]
    assert len(said) == len(ids) + 1 and answer[-1].segment.text == signal["chosen"]["text"]
    plain = signal | {"edit": False}  # the changed words of an edit weigh more
    ((good, _),) = one.scores([one.maker.example(place, plain)], "")
    assert good.item() == pytest.approx(sum(said), rel=1e-4)


def test_both_sides_share_time_and_noise(learner):
    one = learner()
    example = one.maker.example(2, SIGNALS[2])
    packed, noise = one.maker.pack([example], "s")
    drawn = packed.raw_times > -math.inf
    count = int(drawn.sum()) // 2
    assert torch.equal(packed.raw_times[drawn][:count], packed.raw_times[drawn][count:])
    assert torch.equal(noise[drawn][:count], noise[drawn][count:]) and noise[drawn].std() > 0.5
    assert not torch.equal(packed.latents[drawn][:count], packed.latents[drawn][count:])
    assert example.bad.weights.max() == 5 and example.good.weights.max() == 1


def test_edits_weigh_the_changed_tokens(learner):
    edited, compared = (learner().maker.example(place, SIGNALS[place]) for place in (1, 0))
    weights = edited.good.weights
    assert weights.max() / weights.min() == pytest.approx(5) and weights.sum() == pytest.approx(len(weights))
    assert set(compared.good.weights.tolist()) == {1.0}


def test_what_is_learned_from_follows_the_recipe():
    drawn = signal_of("pair", "counterfactual", image("1"), image("2"))
    told = signal_of("pair", "counterfactual", text("a"), text("b"))
    assert can_learn(drawn, LearnRecipe(), imitate=True) and not can_learn(told, LearnRecipe(), imitate=True)
    imitation = LearnRecipe(pair_weight=0.0, unpaired_weight=0.0)
    assert [can_learn(one, imitation, imitate=True) for one in SIGNALS[:5]] == [True] * 5
    assert not any(can_learn(one, imitation, imitate=False) for one in SIGNALS)
    preferences = LearnRecipe(sft_weight=0.0, anchor_weight=0.0)
    found = [can_learn(one, preferences, imitate=True) for one in SIGNALS[:8]]
    assert found == [True] * 3 + [False] * 2 + [True] * 3


def test_of_a_ranking_the_first_alone_is_imitated_and_a_correction_once():
    ranked = [signal_of("pair", "vqa", text(better), text(worse)) for better, worse in ("ab", "ac", "bc")]
    corrected = [
        signal_of("sft", "report", text("x"), number=1), signal_of("pair", "report", text("x"), text("y"), 1, edit=True)
    ]  # fmt: skip
    assert imitated([*ranked, *corrected]) == {0, 1, 3}
    other = signal_of("pair", "vqa", text("b"), text("c"), number=2)  # of another request nothing is known
    assert imitated([*ranked, other]) == {0, 1, 3}
    assert imitated([*ranked, signal_of("sft", "vqa", text("a"))]) == {0, 1, 3}  # one that was rated good as well


def test_adapters_are_on_the_experts_that_the_signals_are_about(learner):
    for signals, experts in ((SIGNALS[:2], {"und"}), (SIGNALS[2:3], {"gen"}), (SIGNALS, {"und", "gen"})):
        assert {name.split(".")[3] for name in learner(signals).trained} == experts
    assert {name.split(".")[3] for name in learner(experts=("gen",)).trained} == {"gen"}


def test_imitation_alone_does_not_look_at_the_rejected_side(learner):
    one = learner(pair_weight=0.0, unpaired_weight=0.0)
    assert one._example(0, SIGNALS[0]).bad is None
    assert one.held_out()["text_pairs"] == 1  # what it did to preferences is known all the same


# Runs ----------------------------------------------------------------------------------------------------------------


def test_a_run_learns_what_it_is_given_and_writes_where_it_comes_from(learner, tiny_checkpoint):
    one = learner(epochs=10, patience=0)
    out = one.run()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["text_margin"] > 1 and lines[-1]["text_accuracy"] == 1.0
    about, version = Lineage.read(out), load(out, CPU, torch.float32)
    assert about.parent == tiny_checkpoint.name and about.snapshot == "5" * 64 and about.judgements == len(SIGNALS)
    assert about.signals["pair, train"] == 3 and list(about.signals)[-1] == "pair, test"
    assert about.metrics["held_out"]["text_pairs"] == 1 and about.metrics["held_out"]["image_pairs"] == 1
    assert about.recipe["lora_rank"] == 4 and version.name == "v"
    assert not any(str(Path.home()) in file.read_text() for file in out.glob("*.json"))


def test_a_run_ends_with_what_it_had_before_the_chosen_side_got_worse(learner):
    """Two answers that differ in little: preferences alone at a rate that is far too high push both down."""
    signals = [signal_of("pair", "vqa", text(f"{n} {n} {n}"), text(f"{n} {n} {n} {n}"), n) for n in range(8)]
    keys = {"sft_weight": 0.0, "anchor_weight": 0.0, "log_every": 1, "text_beta": 1.0, "batch": 8}
    about = Lineage.read(learner(signals, epochs=40, learning_rate=0.01, **keys).run())
    assert "worse than its reference 3 times in a row" in about.metrics["stopped"]
    assert 0 < about.metrics["steps"] < about.metrics["of"] - 3


def test_wrong_input_is_a_sentence(learner, tmp_path):
    with pytest.raises(SettingsError, match="nothing that this recipe learns from"):
        learner([SIGNALS[0]], pair_weight=0.0, sft_weight=0.0)
    one = learner(out="again")
    one.states.save(1, one._state(), one.binding, 1)  # and was killed
    with pytest.raises(SettingsError, match="learning_rate"):
        learner(out="again", learning_rate=2e-3)
    with pytest.raises(SettingsError, match="changed_weight"):
        LearnRecipe(changed_weight=-1.0)


def script(folder: Path, checkpoint: Path, out: Path) -> list[str]:
    code = (
        "import sys; from pathlib import Path; import torch; from core.training.sources import from_folder; "
        "from core.training.learn import Learner; from core.training.recipe import LearnRecipe; "
        "from core.training.loop import load_to_learn; a = sys.argv[1:]; out = Path(a[2]); "
        "out.mkdir(exist_ok=True); recipe = LearnRecipe(bf16=False, batch=2, lora_rank=4, epochs=8, log_every=1, "
        "); Learner(from_folder(Path(a[0])), load_to_learn(a[1]), recipe, out, 'v').run()"
    )
    return [sys.executable, "-c", code, str(folder), str(checkpoint), str(out)]


def test_a_run_that_is_killed_goes_on_to_the_same_end(tiny_checkpoint, tmp_path):
    folder = tmp_path / "snapshot"
    (folder / "pictures").mkdir(parents=True)
    names = {name: Image(picture).sha256 for name, picture in PICTURES.items()}
    for name, picture in PICTURES.items():
        picture.save(folder / "pictures" / f"{names[name]}.png")
    lines = "".join(json.dumps(one) + "\n" for one in SIGNALS)
    lines = re.sub(r'(?<="sha256": ")\d', lambda found: names[found.group()], lines).encode()
    (folder / "signals.jsonl").write_bytes(lines)
    about = {"sha256": "5" * 64, "judgements": 10, "signals_sha256": hashlib.sha256(lines).hexdigest()}
    (folder / "snapshot.json").write_text(json.dumps(about))
    assert len(from_folder(folder).signals) == len(SIGNALS)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run(script(folder, tiny_checkpoint, whole), cwd=ROOT, env=environment, check=True, timeout=240)
    random_moment, kills = random.Random(0), 0
    while kills < 4:
        process = subprocess.Popen(script(folder, tiny_checkpoint, cut), cwd=ROOT, env=environment)
        before, limit = count(cut), time.monotonic() + 120
        while count(cut) == before and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.02)
        time.sleep(random_moment.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    subprocess.run(script(folder, tiny_checkpoint, cut), cwd=ROOT, env=environment, check=True, timeout=240)
    first, second = load_file(whole / WEIGHTS), load_file(cut / WEIGHTS)
    assert all(torch.equal(first[name], second[name]) for name in first)
    steps = [json.loads(line)["step"] for line in (cut / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))


def count(out: Path) -> int:
    path = out / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.is_file() else 0


# Full size -----------------------------------------------------------------------------------------------------------


def test_a_step_fits_the_full_size_model():
    """14.7 billion parameters on the meta device: shapes of a step of text and picture preferences, and its gradients
    in the adapters of both experts."""
    config, recipe = ModelConfig(), LearnRecipe()
    with torch.device("meta"):
        model = UnifiedModel(config).requires_grad_(False)
    peft = add_adapter(model, recipe.lora_rank, recipe.lora_alpha, LORA_TARGETS, 0)
    tokenizer = SimpleNamespace(bos=1, eos=2, soi=3, eoi=4)
    seen = ViTItem(torch.zeros(25, 588), (5, 5))
    latent = lambda loss: LatentItem(torch.zeros(64, config.latent_dim), (8, 8), loss)  # noqa: E731
    asked = TextItem(list(range(10)))
    samples = [[seen, asked, TextItem(list(range(n)), loss=True)] for n in (20, 15)]
    samples += [[latent(False), seen, asked, latent(True)] for _ in range(2)]
    sides = (config.vit_table_side, config.max_latent_size)
    packed = pack(samples, tokenizer, sides, DropRates(0, 0, 0), lambda: 1.0, lambda: torch.zeros(()))
    packed, noise = packed.to(torch.device("meta")), torch.zeros(packed.latents.shape, device="meta")
    now = packed_losses(model, packed, noise, 1.0)
    with torch.no_grad(), peft.disable_adapter():
        before = packed_losses(model, packed, noise, 1.0)

    def sides_of(losses):
        texts = weighted_means(-losses.ce, torch.ones_like(losses.ce), [21, 16])
        return texts, weighted_means(losses.mse.mean(-1), torch.ones_like(losses.mse[:, 0]), [64, 64])

    (texts, images), (texts_ref, images_ref) = sides_of(now), sides_of(before)
    loss = text_preference(texts[:1], texts[1:], (texts_ref[:1], texts_ref[1:]), 0.1)
    loss = loss + flow_preference(images[:1], images[1:], (images_ref[:1], images_ref[1:]), 100.0)
    loss.sum().backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 28 * 2 * 7 * 2 and all(p.grad.shape == p.shape for p in trained.values())
    assert sum(p.numel() for p in trained.values()) == 161_480_704
