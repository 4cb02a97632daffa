"""The full-size model with random weights on a GPU: ``python -m benchmarks.gpu`` (under nine minutes).

Nothing is loaded: the 14.6 billion parameters are made on the device. Times are medians by CUDA events; kernels
and synchronisations are counted by the profiler in one pass of each. The results are written after every row, so that
a run that is cut short leaves what it measured. ``--small`` runs the same steps on a small model and any device, to
see that the benchmark itself works.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import torch
from PIL import Image as PILImage
from torch import Tensor

from core.config import ImageSampling, LLMConfig, ModelConfig, VAEConfig, ViTConfig
from core.data.transforms import position_ids
from core.inference.generator import Generator, Program
from core.inference.session import Contexts
from core.model.attention import backend
from core.model.checkpoint import Checkpoint
from core.model.unified import LatentPiece, TextPiece, UnifiedModel, ViTPiece
from core.training.learn import Learner
from core.training.recipe import LearnRecipe
from core.training.sources import Source

RESULTS = Path(__file__).parent / "results"
SOI, EOI = 2, 3
MOST_DEVIATION = 0.05  # the reference's own bfloat16 is off by 0.5 to 2 percent
SMALL = ModelConfig(
    llm=LLMConfig(128, 2, 4, 2, 256, 512),
    vit=ViTConfig(64, 3, 4, 128),
    vae=VAEConfig(ch=16, ch_mult=(1, 1, 1, 1), num_res_blocks=1, norm_num_groups=8),
)


def random_model(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> UnifiedModel:
    """The model on the device with normal weights of deviation 0.02; never anywhere else."""
    with torch.device("meta"):
        model = UnifiedModel(config)
    model = model.to(dtype).to_empty(device=device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.fill_(1)
            else:
                parameter.normal_(std=0.02)
    return model.requires_grad_(False).eval()


class Bench:
    """Times, memory and launches of steps on one device."""

    def __init__(self, device: torch.device, record: Callable[[dict], None]) -> None:
        self.device, self.record, self.rows = device, record, {}
        self.cuda = device.type == "cuda"

    def _seconds(self, run: Callable[[], object]) -> float:
        if not self.cuda:
            start = time.perf_counter()
            run()
            return time.perf_counter() - start
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000

    def measure(self, name: str, run: Callable[[], object], repeats: int = 5, counted: bool = True, **about) -> None:
        """A warm-up, ``repeats`` timed runs, then one under the profiler if launches are ``counted``."""
        run()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        seconds = [self._seconds(run) for _ in range(repeats)]
        row = {"median_s": statistics.median(seconds), "min_s": min(seconds), "max_s": max(seconds), **about}
        if self.cuda:
            row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
            row |= self._launches(run) if counted else {}
        self.rows[name] = {k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()}
        print(name, self.rows[name], flush=True)
        self.record(self.rows)

    def _launches(self, run: Callable[[], object]) -> dict[str, int]:
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
            run()
            torch.cuda.synchronize()
        events = trace.key_averages()
        on_device = [e for e in events if e.device_type == torch.autograd.DeviceType.CUDA]
        kernels = sum(e.count for e in on_device if not e.key.startswith(("Memcpy", "Memset")))
        syncs = sum(e.count for e in events if "Synchronize" in e.key) - 1
        return {"kernels": kernels, "syncs": syncs}


def precision(config: ModelConfig, device: torch.device) -> dict[str, float]:
    """Relative L2 deviation of a few full-width layers in bfloat16 from float32.

    Both rules of attention run over a cache in one pack, so on CUDA this also holds xformers against torch's own.
    """
    few = replace(
        config,
        llm=replace(config.llm, num_hidden_layers=3, vocab_size=256),
        vit=replace(config.vit, num_hidden_layers=4),
        vae=SMALL.vae,
    )
    random = torch.Generator().manual_seed(0)
    patches = torch.randn(64, few.vit.patch_dim, generator=random)
    clean, noisy = torch.randn(2, 64, few.latent_dim, generator=random)
    vit_grid, grid = position_ids(8, 8, few.vit_table_side), position_ids(8, 8, few.max_latent_size)

    def run(model: UnifiedModel) -> list[Tensor]:
        kv = model.new_cache()
        for piece in (TextPiece(kv, [*range(5, 105)]), ViTPiece(kv, patches, vit_grid), LatentPiece(kv, clean, grid)):
            model.step([piece], SOI, EOI)
        both = [TextPiece(kv, [*range(9, 16)], logits=True), LatentPiece(kv.fork(), noisy, grid, 0.5)]
        return [out.float() for out in model.step(both, SOI, EOI)]

    model = random_model(few, device, torch.float32)
    exact, rounded = run(model), run(model.to(torch.bfloat16))
    pairs = zip(("logits", "velocity"), exact, rounded, strict=True)
    return {name: round(float((b - a).norm() / a.norm()), 5) for name, a, b in pairs}


def drawing(model: UnifiedModel, side: int, num_timesteps: int) -> Callable[[], Tensor]:
    """A guided drawing of a square image as an edit makes it: three branches, packed. Returns latent tokens."""
    markers = SimpleNamespace(soi=SOI, eoi=EOI)
    generator = Generator(Checkpoint(model, markers, Path(), weights="", source="random"))
    contexts = Contexts(model, sees_latents=True)
    contexts.split_image_free()
    model.step([TextPiece(contexts.full, [5] * 1500)], SOI, EOI)  # as long as an image of the input
    contexts.after_image()
    model.step(contexts.add_text([5] * 100), SOI, EOI)
    settings = ImageSampling(
        num_timesteps, cfg_text_scale=4.0, cfg_img_scale=2.0, cfg_interval=(0.0, 1.0), cfg_renorm_type="text_channel"
    )
    noise = generator.noise((side, side), torch.Generator().manual_seed(0))
    tokens: list[Tensor] = []

    def program() -> Program:
        tokens.append((yield from generator.draw(contexts, (side, side), settings, noise)))

    def run() -> Tensor:
        for _ in generator.drive([program()]):
            pass
        return tokens.pop()

    return run


def steps(model: UnifiedModel, bench: Bench, small: bool) -> None:
    """Everything that is timed."""
    config = model.config
    kv = model.new_cache()
    model.step([TextPiece(kv, [5] * 1024)], SOI, EOI)

    def decode() -> None:
        fork = kv.fork()
        model.step([TextPiece(fork, [7], logits=True)], SOI, EOI)
        fork.rewind(kv.length)

    bench.measure("decode one token, context 1024", decode)
    side = 14 if small else config.vit.patches_per_side
    patches = torch.randn(side * side, config.vit.patch_dim)
    grid = position_ids(side, side, config.vit.patches_per_side)
    name = f"prefill an image of {14 * side}x{14 * side}"
    bench.measure(name, lambda: model.step([ViTPiece(model.new_cache(), patches, grid)], SOI, EOI))
    for size in (64,) if small else (512, 1024):
        bench.measure(f"one guided step at {size}x{size}", drawing(model, size, 2), repeats=3, branches=3)
        count = 4 if small else 50
        name = f"{count - 1} guided steps at {size}x{size}"
        bench.measure(name, drawing(model, size, count), repeats=1, counted=False, branches=3)
        pixels = torch.zeros(1, 3, size, size, device=model.device, dtype=model.dtype)
        with torch.inference_mode():
            z = model.vae.encode(pixels)
            bench.measure(f"encode {size}x{size}", lambda pixels=pixels: model.vae.encode(pixels), repeats=3)
            bench.measure(f"decode {size}x{size}", lambda z=z: model.vae.decode(z), repeats=3)


def learning(model: UnifiedModel, bench: Bench, small: bool) -> None:
    """A step of learning from a preference between two texts, and one between two pictures, with adapters on the expert
    that it is about; the model is not used for anything else afterwards."""
    side = 64 if small else 512
    picture = PILImage.new("RGB", (side, side))
    tokens = SimpleNamespace(bos=0, eos=1, soi=SOI, eoi=EOI, encode=lambda words: [5] * len(words.split()))
    image, words = {"type": "image", "sha256": "0", "width": side, "height": side}, {"type": "text", "text": "w " * 128}
    for task, output in (("report", words), ("super_resolution", image)):
        signal = {"kind": "pair", "task": task, "inputs": [image, words], "chosen": output, "rejected": output}
        signal |= {"weight": 1.0, "regions": [], "edit": False, "split": "train"}
        with tempfile.TemporaryDirectory() as name:
            folder, recipe = Path(name), LearnRecipe(batch=1, recompute_every=1, bf16=model.device.type == "cuda")
            checkpoint = Checkpoint(model, tokens, folder, weights="", source="random")
            learner = Learner(Source("0" * 64, [signal], 1, lambda _: picture), checkpoint, recipe, folder, "random")
            learner._remember_texts(learner.train)
            trained = sum(p.numel() for p in learner.trained.values())
            name = f"learn from one pair of {output['type']}s, {side}x{side}"
            run = functools.partial(learner._step, 0, None)
            bench.measure(name, run, repeats=3, counted=False, trained=trained)
            model = learner.peft.unload()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--small", action="store_true", help="a small model on any device; nothing is written")
    options = parser.parse_args()
    if not options.small and not torch.cuda.is_available():
        print("error: no CUDA device. Run this where there is a GPU of 48 GiB, or try --small.", file=sys.stderr)
        return 2
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    config = SMALL if options.small else ModelConfig()
    torch.manual_seed(0)
    deviation = precision(config, device)
    print("bf16 against fp32, relative L2:", deviation, flush=True)
    if not max(deviation.values()) < MOST_DEVIATION:
        print(f"error: bfloat16 is off by more than {MOST_DEVIATION:.0%}; no time would mean anything", file=sys.stderr)
        return 1
    start = time.perf_counter()
    model = random_model(config, device, dtype)
    result = {
        "date": date.today().isoformat(),
        "command": "python -m benchmarks.gpu",
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "attention": backend(device, dtype),
        "parameters": sum(t.numel() for t in model.state_dict().values()),
        "build_s": round(time.perf_counter() - start, 2),
        "bf16_relative_l2": deviation,
    }
    path = RESULTS / f"{result['date']}_gpu.json"

    def record(rows: dict) -> None:
        if not options.small:
            RESULTS.mkdir(exist_ok=True)
            path.write_text(json.dumps({**result, "steps": rows}, indent=1) + "\n", encoding="utf-8")

    bench = Bench(device, record)
    steps(model, bench, options.small)
    learning(model, bench, options.small)
    if not options.small:
        print(f"written {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
