"""Losses do not depend on packing, a killed run ends as if nothing had happened, and wrong input is a sentence."""

import dataclasses
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from PIL import Image as PILImage
from safetensors.torch import load_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from core.config import ROOT
from core.data.packing import DropRates, pack
from core.errors import CheckpointError, RecordError, SettingsError
from core.inference.generator import Generator
from core.inference.once import run_task
from core.model.checkpoint import load
from core.model.objective import packed_losses
from core.sequence import Image
from core.tasks import TASKS
from core.training.autoencoder import AutoencoderRecipe, train_autoencoder
from core.training.recipe import FreshRecipe, LearnRecipe, TrainRecipe, build_recipe, read_recipe
from core.training.trainer import Trainer, consolidate_run, learning_rate

CPU = torch.device("cpu")


def weights(folder):
    return load_file(folder / "ema.safetensors")


def saved(out) -> dict[str, torch.Tensor]:
    """Every tensor of the last save by its full name: model, average, optimizer."""
    folder, flat = max((out / "state").glob("step-*")), {}
    dcp_to_torch_save(folder, out / "whole.pt")

    def walk(value, name):
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{name}/{key}")
        elif isinstance(value, torch.Tensor):
            flat[name] = value

    walk(torch.load(out / "whole.pt", weights_only=True), "")
    return flat


def run(path, *overrides, launcher=("-m", "core"), **options) -> subprocess.Popen:
    command = [sys.executable, *launcher, "train", str(path), *overrides]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def finish(process) -> str:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def lines(out) -> int:
    path = out / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.is_file() else 0


# What a step computes ------------------------------------------------------------------------------------------------


def test_packed_and_unpacked_losses_and_gradients_are_equal(recipe):
    """One pack of all samples, against each sample alone with sums over the same token counts."""
    trainer = Trainer(recipe(tokens_per_pack=600))
    model, maker, rng = trainer.model, trainer.maker, random.Random(0)
    noise_of = torch.Generator().manual_seed(0)
    samples = [maker.items(trainer.sampler.draw(rng), rng, noise_of) for _ in range(12)]
    kinds = trainer.sampler.kinds
    samples += [maker.items(trainer.sampler.draw(rng, kind), rng, noise_of) for kind in kinds]

    def packed(part, times):
        return pack(part, maker.tokenizer, maker.sides, DropRates(0, 0, 0), lambda: 1.0, lambda: next(times))

    times = torch.randn(64, generator=noise_of)
    drawn = sum(1 for items in samples for item in items if getattr(item, "loss", False) and hasattr(item, "tokens"))
    whole = packed(samples, iter(times))
    noise = torch.randn(whole.latents.shape, generator=noise_of)
    losses = packed_losses(model, whole, noise, 1.5)
    losses.total().backward()
    expected = {name: p.grad.clone() for name, p in trainer.trained.items() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    rest, start, total = iter(times), 0, 0.0
    for items in samples:
        alone = packed([items], rest)
        own = packed_losses(model, alone, noise[start : start + len(alone.latents)], 1.5)
        start += len(alone.latents)
        loss = own.ce.sum() / len(losses.ce) + own.mse.mean(-1).sum() / len(losses.mse)
        total += float(loss.detach())
        loss.backward()
    assert drawn >= 2 and start == len(noise)
    assert total == pytest.approx(float(losses.total().detach()), rel=1e-5)
    for name, gradient in expected.items():
        found = trainer.trained[name].grad
        assert (found - gradient).abs().max() <= 1e-5 * gradient.abs().max() + 1e-8, name


def test_accumulation_is_one_large_batch(recipe, tmp_path):
    """A step of two packs moves the weights as one step over both packs' tokens does."""
    trainer = Trainer(recipe(accumulate=2))
    packs = trainer._packs(0)
    counts = [sum(len(getattr(p, name)) for p, _ in packs) for name in ("ce_index", "mse_index")]
    for packed, noise in packs:
        ce, mse = trainer.objective(packed, noise, 1.0)
        (ce / counts[0] + mse / counts[1]).backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in trainer.trained.values() if p.grad is not None])
    trainer.model.zero_grad(set_to_none=True)
    values, _ = trainer._step(0, packs, _Silent())
    assert values["gradient_norm"] == pytest.approx(float(norm), rel=1e-5)


class _Silent:
    def count(self, *_):
        pass


def test_recomputed_layers_give_the_same_gradients(recipe):
    gradients = []
    for every in (0, 1):
        trainer = Trainer(recipe(recompute_every=every))
        (packed, noise), = trainer._packs(0)
        ce, mse = trainer.objective(packed, noise, 1.0)
        (ce + mse).backward()
        gradients.append({name: p.grad for name, p in trainer.trained.items() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(value, gradients[1][name]) for name, value in gradients[0].items())


@pytest.mark.gpu
@pytest.mark.parametrize("bf16", [False, True])
def test_a_step_on_a_gpu_equals_one_on_the_cpu(recipe, monkeypatch, bf16):
    """With bf16 the GPU runs xformers, whose backward pass nothing else here tests."""
    results = []
    for device in ("cpu", "cuda"):
        monkeypatch.setenv("UNIMED_DEVICE", device)
        monkeypatch.setenv("UNIMED_DTYPE", "float32")
        trainer = Trainer(recipe(bf16=bf16))
        values, _ = trainer._step(0, trainer._packs(0), _Silent())
        results.append(values)
    for name in ("ce", "mse", "gradient_norm"):
        assert results[1][name] == pytest.approx(results[0][name], rel=3e-2 if bf16 else 1e-3)


def test_frozen_parts_and_the_autoencoder_stay(recipe, fresh, tmp_path):
    out = Trainer(recipe(freeze=("vit", "und"), version="tiny v7")).run()
    before, after = (load(str(folder), CPU, torch.float32) for folder in (fresh, out))
    state, old = after.model.state_dict(), before.model.state_dict()
    changed = {n for n, value in old.items() if not torch.equal(value.bfloat16(), state[n].bfloat16())}
    assert any(".gen." in name for name in changed)
    assert not [name for name in changed if name.startswith(("vae.", "vit.")) or ".und." in name]
    assert after.name == "tiny v7" and "cross_modal" in after.model.config.untrained_tasks
    assert "segmentation" not in after.model.config.untrained_tasks
    image = Image(PILImage.new("RGB", (80, 60)))
    answer = run_task(Generator(after), TASKS["segmentation"], [image], "vessels", steps=2)
    assert max(answer.images[0].pixels.size) <= 64


def test_a_cached_run_equals_an_uncached_one(recipe, tmp_path):
    plain = Trainer(recipe(variants=2)).run()
    cached = Trainer(recipe(variants=2, out=str(tmp_path / "cached"), cache=str(tmp_path / "latents"))).run()
    a, b = weights(plain), weights(cached)
    assert a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def test_adapters_train_alone_and_merge(recipe, fresh, tmp_path):
    out = Trainer(recipe(lora_rank=2, lora_alpha=4, learning_rate=1e-2)).run()
    assert (out / "adapter" / "adapter_model.safetensors").is_file()
    before, after = (load(str(folder), CPU, torch.float32).model.state_dict() for folder in (fresh, out))
    changed = {n for n, value in before.items() if not torch.equal(value.bfloat16(), after[n].bfloat16())}
    assert changed and all("_proj.weight" in name for name in changed)


def test_bf16_trains(recipe):
    out = Trainer(recipe(bf16=True)).run()
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics] == [1, 2, 3] and all(0 < m["ce"] < 20 and m["mfu"] > 0 for m in metrics)
    assert list((out / "tensorboard").iterdir())


def test_samples_are_drawn_at_intervals(recipe):
    out = Trainer(recipe(sample_every=2)).run()
    assert [path.name for path in (out / "samples").iterdir()] == ["step-00000002.webp"]


def test_the_schedule_warms_up_and_falls(recipe):
    r = recipe(steps=110, warmup_steps=10, learning_rate=1.0, min_learning_rate=0.1)
    assert learning_rate(0, r) == pytest.approx(0.1) and learning_rate(9, r) == 1.0
    assert learning_rate(60, r) == pytest.approx(0.55) and learning_rate(109, r) == pytest.approx(0.1, abs=1e-3)
    assert learning_rate(109, dataclasses.replace(r, schedule="constant")) == 1.0


# Going on ------------------------------------------------------------------------------------------------------------


def test_a_run_that_was_killed_ends_as_if_nothing_had_happened(recipe_file, tmp_path):
    """Killed once at random after a few steps; the slow test below does it five times over 200 steps."""
    _kill_and_compare(recipe_file(steps=16, save_every=3), tmp_path, kills=1, steps=16)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_five_kills_in_two_hundred_steps(recipe_file, tmp_path):
    _kill_and_compare(recipe_file(steps=200, save_every=15), tmp_path, kills=5, steps=200)


def _kill_and_compare(path, tmp_path, kills, steps):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(run(path, f"out={whole}"))
    rng, at = random.Random(time.time_ns()), 0
    for number in range(kills):
        at = rng.randint(at + 1, max(at + 1, steps * (number + 1) // (kills + 1)))
        process = run(path, f"out={cut}")
        while lines(cut) < at and process.poll() is None:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.communicate(timeout=60)
    finish(run(path, f"out={cut}"))
    a, b = saved(whole), saved(cut)
    assert a.keys() == b.keys() and len(a) > 100
    assert all(torch.equal(value, b[name]) for name, value in a.items()), "weights, average and optimizer, to the bit"
    rows = [[json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()] for out in (whole, cut)]
    assert [(m["step"], m["ce"], m["mse"]) for m in rows[0]] == [(m["step"], m["ce"], m["mse"]) for m in rows[1]]
    assert not list((cut / "state").glob("part-*"))


def test_sigterm_saves_and_says_so(recipe_file, tmp_path):
    path, out = recipe_file(steps=2000, save_every=2000), tmp_path / "run"
    process = run(path)
    while lines(out) < 2 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143 and "the same command goes on" in output, output
    assert len(list((out / "state").glob("step-*"))) == 1


def test_a_run_with_another_recipe_is_refused(recipe):
    Trainer(recipe(steps=1)).run()
    with pytest.raises(SettingsError, match=r"made with learning_rate=0\.001, not with: 0\.5\. .*out="):
        Trainer(recipe(steps=1, learning_rate=0.5))


def test_a_run_notices_that_its_records_changed(recipe, records, tmp_path):
    copy = shutil.copytree(records.parent, tmp_path / "copy") / records.name
    Trainer(recipe(steps=1, records=str(copy))).run()
    text = copy.read_text()
    copy.write_text(text.replace("benign", "malign"))
    with pytest.raises(SettingsError, match=r"run that is there was made with records="):
        Trainer(recipe(steps=1, records=str(copy)))
    moved = shutil.move(copy.parent, tmp_path / "moved")
    (moved / records.name).write_text(text)
    Trainer(recipe(steps=1, records=str(moved / records.name)))


def test_a_run_in_which_parts_get_no_gradient_goes_on(recipe):
    """Nothing is drawn, so half of the model never has a gradient; its save must still be whole."""
    mix = {"understanding": 1.0}
    trainer = Trainer(recipe(mix=mix, steps=2))
    trainer._step(0, trainer._packs(0), None)
    trainer._save(1)
    assert Trainer(recipe(mix=mix, steps=2)).run().is_dir()


def test_a_save_is_consolidated_with_its_own_recipe_only(recipe):
    Trainer(recipe(steps=1, lora_rank=2)).run()
    with pytest.raises(SettingsError, match="made with lora_rank=2"):
        consolidate_run(recipe(steps=1))


def test_two_runs_cannot_write_into_one_folder(recipe):
    trainer = Trainer(recipe(steps=1))
    with trainer.states.locked(), pytest.raises(SettingsError, match="Another run is writing there"):
        Trainer(recipe(steps=1)).run()


def test_a_gradient_that_is_not_finite_ends_the_run_with_its_weights_whole(recipe):
    trainer = Trainer(recipe())
    trainer._save(1)
    before = {name: p.detach().clone() for name, p in trainer.trained.items()}
    (packed, noise), = trainer._packs(0)
    with pytest.raises(SettingsError, match=r"gradient of step 1 is not finite: nan.*save of step 1 is whole"):
        trainer._step(0, [(packed, noise * float("nan"))], None)
    assert all(torch.equal(value, trainer.trained[name]) for name, value in before.items())


def test_an_autoencoder_goes_on_where_it_was_cut_off(records, tmp_path, monkeypatch):
    def recipe(out):
        return AutoencoderRecipe(
            "autoencoder", str(records), str(out), steps=4, ch=8, ch_mult=(1, 1, 1, 1), norm_num_groups=4, size=32,
            batch=2, save_every=2,
        )  # fmt: skip

    train_autoencoder(recipe(tmp_path / "whole"))
    train_autoencoder(recipe(tmp_path / "cut"))
    shutil.rmtree(max((tmp_path / "cut" / "state").glob("step-*")))
    (tmp_path / "cut" / "ae.safetensors").unlink()
    train_autoencoder(recipe(tmp_path / "cut"))
    a, b = (load_file(tmp_path / name / "ae.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(value, b[name]) for name, value in a.items())


def test_samples_that_are_too_long_are_left_out(recipe, capsys):
    trainer = Trainer(recipe(max_sample_tokens=30, mix={"understanding": 0.5, "generation": 0.5}))
    packed, _ = trainer.maker.make(0, 0, 0)
    assert max(length for _, length in packed.layout.samples) <= 30
    assert "left out, its sample has" in capsys.readouterr().err


def test_a_full_disk_loses_no_earlier_save(recipe, monkeypatch):
    trainer = Trainer(recipe(steps=2))
    trainer._save(1)
    before = sorted(p.name for p in trainer.states.path(1).iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # a file that grows beyond it fails as on a full disk
    try:
        with pytest.raises(CheckpointError, match=r"step 2 cannot be saved .*The save of step 1 is whole"):
            trainer._save(2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(p.name for p in trainer.states.path(1).iterdir()) == before
    assert not list(trainer.states.folder.glob("part-*"))
    trainer.states.load(1, trainer._state())
    assert Trainer(recipe(steps=2)).run().is_dir()


def test_a_damaged_save_is_named(recipe):
    trainer = Trainer(recipe(steps=2))
    trainer._save(1)
    for path in trainer.states.path(1).glob("*.distcp"):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"state of step 1 is damaged .*Remove that folder"):
        Trainer(recipe(steps=2)).run()


def test_two_processes_resume_and_consolidate(recipe_file, tmp_path):
    """FSDP2 over gloo: a run of two processes that was stopped ends as one that was not, and gives a checkpoint."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "core")
    path, whole, cut = recipe_file(steps=40, save_every=2), tmp_path / "whole", tmp_path / "cut"
    env = os.environ | {"OMP_NUM_THREADS": "1", "UNIMED_DEVICE": "cpu"}
    finish(run(path, f"out={whole}", launcher=launcher, env=env))
    process = run(path, f"out={cut}", launcher=launcher, env=env)
    while not list((cut / "state").glob("step-*")) and process.poll() is None:
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) == 2, "torchrun puts its workers into sessions of their own"
    for worker in [*workers, process]:
        worker.kill()
    process.communicate(timeout=60)
    assert max((cut / "state").glob("step-*")).name < "step-00000040", "it was cut off before its end"
    finish(run(path, f"out={cut}", launcher=launcher, env=env))
    a, b = saved(whole), saved(cut)
    assert a.keys() == b.keys()
    assert all((value.float() - b[name].float()).abs().max() <= 1e-6 for name, value in a.items())
    before = weights(cut)
    finish(run(path, f"out={cut}", "--consolidate"))
    assert all(torch.equal(value, weights(cut)[name]) for name, value in before.items())
    command = [sys.executable, "-m", "core", "info", "--model", str(cut)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and json.loads(done.stdout)["parameters"] > 0, done.stderr


# Wrong input ---------------------------------------------------------------------------------------------------------


def test_wrong_recipes_are_sentences(recipe, tmp_path):
    with pytest.raises(SettingsError, match="Unknown name in the recipe's mix: 'drawing'"):
        recipe(mix={"drawing": 1.0})
    with pytest.raises(SettingsError, match="steps must be at least 1: 0"):
        recipe(steps=0)
    values = dataclasses.asdict(recipe())
    with pytest.raises(SettingsError, match="Unknown recipe key: 'lerning_rate'"):
        build_recipe(TrainRecipe, values | {"lerning_rate": 1})
    with pytest.raises(SettingsError, match="steps must be of type int: True"):
        build_recipe(TrainRecipe, values | {"steps": True})
    broken = tmp_path / "broken.json"
    broken.write_text('{"kind": "model",\n "steps": }')
    with pytest.raises(SettingsError, match=r"broken\.json is not valid JSON .*line 2"):
        read_recipe(broken, [])


def test_a_kind_without_records_is_named(recipe):
    with pytest.raises(RecordError, match=r"none of a kind in the mix: 'text'"):
        Trainer(recipe(mix={"text": 1.0}, splits=("val",)))


def test_a_broken_image_is_named_with_its_line(recipe, records, tmp_path):
    copy = shutil.copytree(records.parent, tmp_path / "copy")
    for path in copy.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(RecordError, match=r"^r\.jsonl:\d+: the image cannot be read .*r_images/"):
        Trainer(recipe(records=str(copy / records.name))).run()


def test_the_shipped_recipes_are_valid():
    kinds = {"model": TrainRecipe, "autoencoder": AutoencoderRecipe, "fresh": FreshRecipe}
    found = sorted((ROOT / "core" / "training" / "recipes").rglob("*.json"))
    assert len(found) >= 9
    for path in found:
        values = read_recipe(path, [])
        build_recipe(LearnRecipe if path.parent.name == "learn" else kinds[values["kind"]], values)
    stages = [read_recipe(ROOT / f"core/training/recipes/full/stage{n}.json", []) for n in (1, 2, 3)]
    assert [s["steps"] for s in stages] == [85_000, 120_000, 70_000]  # arXiv 2510.15710
    assert [tuple(s["mix"].values())[:3] for s in stages] == [(0.75, 0.25, 0), (0.40, 0.45, 0.10), (0.37, 0.35, 0.25)]
    assert [s.get("freeze", []) for s in stages] == [[], ["vit"], ["vit"]]
