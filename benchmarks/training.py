"""Throughput of the trainer on nano, side by side in one run: ``python -m benchmarks.training --records F.jsonl``.

Packed against padded: the same samples as one packed sequence, or each filled up to the longest with a text that nobody
learns from, which is what a padded batch computes. Cached against uncached: posteriors read from disk, or computed by
the autoencoder for every pack. Only tokens of samples count. Variants take turns, so that both see the same machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from core.config import NANO
from core.data.packing import DropRates, Item, Pack, TextItem, pack
from core.training.dataset import item_length
from core.training.recipe import TrainRecipe
from core.training.trainer import Trainer

RESULTS = Path(__file__).parent / "results"
MIX = {"understanding": 0.37, "generation": 0.35, "interleaved": 0.25, "text": 0.03}


def samples_of(trainer: Trainer, step: int, count: int) -> list[list[Item]]:
    """The samples of a step, the same for every variant."""
    rng, noise = random.Random(step), torch.Generator().manual_seed(step)
    return [trainer.maker.items(trainer.sampler.draw(rng), rng, noise) for _ in range(count)]


def packed(trainer: Trainer, samples: list[list[Item]], step: int) -> tuple[Pack, Tensor]:
    rng, noise = random.Random(step), torch.Generator().manual_seed(step)
    maker = trainer.maker
    made = pack(
        samples, maker.tokenizer, maker.sides, DropRates(0, 0, 0), rng.random, lambda: torch.randn((), generator=noise)
    )
    return made, torch.randn(made.latents.shape, generator=noise)


def padded(samples: list[list[Item]]) -> list[list[Item]]:
    """Every sample as long as the longest."""
    lengths = [sum(map(item_length, items)) for items in samples]
    missing = [max(lengths) - length for length in lengths]
    return [[*s, TextItem([0] * (n - 2))] if n >= 2 else s for s, n in zip(samples, missing, strict=True)]


def train_seconds(trainer: Trainer, samples: list[list[Item]], step: int) -> float:
    """Of one optimizer step over the samples as they are."""
    start = time.perf_counter()
    trainer._step(step, [packed(trainer, samples, step)], None)
    return time.perf_counter() - start


def measure(records: Path, steps: int, count: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        recipe = TrainRecipe(
            "model", str(records), str(NANO), f"{folder}/out", steps=1000, mix=MIX, cache=f"{folder}/cache",
            tokens_per_pack=2800,
        )  # fmt: skip
        cached = Trainer(recipe)
        uncached = Trainer(dataclasses.replace(recipe, cache=""))
        times: dict[str, list[float]] = {name: [] for name in ("packed", "padded", "cached", "uncached")}
        tokens = []
        for step in range(steps + 1):
            for trainer in (cached, uncached):  # both have seen the pictures; the first one fills its cache
                samples_of(trainer, step, count)
            for name, trainer in (("cached", cached), ("uncached", uncached)):
                start = time.perf_counter()
                samples = samples_of(trainer, step, count)
                times[name].append(time.perf_counter() - start)
            times["packed"].append(train_seconds(cached, samples, step))
            times["padded"].append(train_seconds(cached, padded(samples), step))
            tokens.append(sum(item_length(item) for items in samples for item in items))
    middle = {name: median(seconds[1:]) for name, seconds in times.items()}  # the first step warms up
    each = median(tokens[1:])
    whole = {name: middle["packed"] + middle[name] for name in ("cached", "uncached")}
    return {
        "steps": steps,
        "samples_per_step": count,
        "tokens_per_step": each,
        "packed_tokens_per_s": round(each / middle["packed"]),
        "padded_tokens_per_s": round(each / middle["padded"]),
        "packed_over_padded": round(middle["padded"] / middle["packed"], 2),
        "cached_tokens_per_s": round(each / whole["cached"]),
        "uncached_tokens_per_s": round(each / whole["uncached"]),
        "cached_over_uncached": round(whole["uncached"] / whole["cached"], 2),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--records", type=Path, required=True, help="JSONL file of `core records build`")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--samples", type=int, default=32, help="of each step")
    options = parser.parse_args()
    result = {"date": date.today().isoformat(), "command": " ".join(["python -m benchmarks.training", *sys.argv[1:]])}
    result |= measure(options.records, options.steps, options.samples)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{result['date']}_training.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
