"""The trainer: packed sequences of records, one objective, resumable at any moment, on one process or many.

A step draws its packs as a function of (seed, step, process), so the saved weights, optimizer and step number are all
that a run is made of. Losses are sums over tokens divided by the number of tokens of the whole step, over all packs and
processes (spec section 11.6): how a step is cut into packs does not change it.
"""

from __future__ import annotations

import json
import math
import re
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from tqdm import tqdm

from core.data.packing import Pack
from core.data.records import read_records
from core.errors import CheckpointError, SettingsError
from core.model.adapter import add_adapter
from core.model.checkpoint import Checkpoint, load, pick_device, save
from core.model.objective import Objective, normalised
from core.model.unified import UnifiedModel
from core.training import parallel
from core.training.dataset import PackMaker, Pictures, Sampler, crops_of
from core.training.latents import PosteriorCache
from core.training.monitor import Monitor, sample_grid
from core.training.recipe import PARTS, TrainRecipe
from core.training.state import RunStates, begin_optimizer

if TYPE_CHECKING:
    from peft import PeftModel

STOPPED = 143
"""Exit status of a run that was asked to end (128 + SIGTERM), as a shell would give it."""


class Trainer:
    """One run of a recipe.

    Raises:
        UniMedError: at the start, for whatever in recipe, records or checkpoint cannot be used.
    """

    def __init__(self, recipe: TrainRecipe) -> None:
        self.recipe, self.out = recipe, Path(recipe.out)
        self.states = RunStates(self.out)
        self.steps_saved = self.states.steps()
        self.binding = recipe.binding()
        if self.steps_saved:
            self.states.check(self.steps_saved[-1], self.binding)
        records = Path(recipe.records)
        self.sampler = Sampler(read_records(records, recipe.splits), recipe)
        device = parallel.join()
        if device is not None and "interleaved" in self.sampler.kinds and "understanding" not in self.sampler.kinds:
            remedy = "Give understanding a small share: a pack of every process must hold an image to understand"
            raise SettingsError("Several processes cannot train this mix", value=recipe.mix, remedy=remedy)
        at = pick_device()[0] if device is None else torch.device("cpu")
        self.checkpoint = load(recipe.init, at, torch.float32)
        self.model = self.checkpoint.model
        self.trained = choose_trained(self.model, recipe)
        self.objective = Objective(self.model)
        if device is not None:
            parallel.shard(self.objective, self.model, device, bf16=recipe.bf16)
            self.trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), lr=recipe.learning_rate, betas=(0.9, 0.95), eps=recipe.eps,
            weight_decay=recipe.weight_decay, fused=True,
        )  # fmt: skip
        begin_optimizer(self.objective, self.optimizer)
        self.ema = {name: p.detach().clone() for name, p in self.trained.items()}
        pictures = Pictures(self.model, records.parent, PosteriorCache(self.model, recipe.cache))
        config = self.model.config
        sides = (config.vit_table_side, config.max_latent_size)
        self.maker = PackMaker(self.sampler, pictures, self.checkpoint.tokenizer, recipe, sides)
        self.stopping = False

    def run(self) -> Path:
        """Trains to the last step, goes on where an earlier run was cut off, and returns the checkpoint folder.

        On SIGTERM the state is saved after the current step and the process ends with status 143. With another number
        of processes than before, a run goes on with other packs.
        """
        with self.states.locked() if parallel.rank() == 0 else nullcontext():
            return self._run()

    def _run(self) -> Path:
        done = self._resume()
        if done and parallel.rank() == 0:
            print(f"going on after step {done}", file=sys.stderr)
        self._fill_cache()
        before = signal.signal(signal.SIGTERM, self._stop)
        monitor = None
        if parallel.rank() == 0:
            dtype = torch.bfloat16 if self.recipe.bf16 else torch.float32
            monitor = Monitor(self.out, self.recipe.steps, done, self.model, dtype)
        try:
            done = self._loop(done, monitor)
        finally:
            signal.signal(signal.SIGTERM, before)
            if monitor is not None:
                monitor.close()
        if done < self.recipe.steps:
            print(f"stopped after step {done}; the same command goes on from there", file=sys.stderr)
            raise SystemExit(STOPPED)
        if parallel.rank() == 0:
            consolidate_run(self.recipe)
        if dist.is_initialized():
            dist.barrier()
        return self.out

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def _loop(self, done: int, monitor: Monitor | None) -> int:
        """Steps until the recipe's end or until a signal; returns the number of steps done."""
        recipe = self.recipe
        with ThreadPoolExecutor(1) as ahead:
            packs = ahead.submit(self._packs, done)
            for step in range(done, recipe.steps):
                ready = packs.result()
                if step + 1 < recipe.steps:
                    packs = ahead.submit(self._packs, step + 1)
                values, stopping = self._step(step, ready, monitor)
                step += 1
                if monitor is not None:
                    monitor.step(step, values, write=step % recipe.log_every == 0 or step == recipe.steps)
                if stopping or step % recipe.save_every == 0 or step == recipe.steps:
                    self._save(step)
                if recipe.sample_every and step % recipe.sample_every == 0:
                    self._sample(step)
                if stopping and step < recipe.steps:
                    ahead.shutdown(cancel_futures=True)
                    return step
        return recipe.steps

    def _packs(self, step: int) -> list[tuple[Pack, Tensor]]:
        made = [self.maker.make(step, parallel.rank(), number) for number in range(self.recipe.accumulate)]
        return [(packed.to(self.model.device), noise.to(self.model.device)) for packed, noise in made]

    def _step(
        self, step: int, packs: list[tuple[Pack, Tensor]], monitor: Monitor | None
    ) -> tuple[dict[str, float], bool]:
        """One optimizer step. Returns its metrics, and whether any process was asked to stop."""
        recipe, device = self.recipe, self.model.device
        rate = learning_rate(step, recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        counts = [sum(len(packed.ce_index) for packed, _ in packs), sum(len(packed.mse_index) for packed, _ in packs)]
        *counts, stops = parallel.summed([*map(float, counts), float(self.stopping)], device)
        totals = [0.0, 0.0]
        for number, (packed, noise) in enumerate(packs):
            self._sync_gradients(last=number == len(packs) - 1)
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16):
                sums = self.objective(packed, noise, recipe.timestep_shift)
            loss = normalised(sums, counts, (recipe.ce_weight, recipe.mse_weight))
            (loss * parallel.world()).backward()  # FSDP takes the mean over processes
            totals = [total + part.detach() for total, part in zip(totals, sums, strict=True)]
            if monitor is not None:
                monitor.count(len(packed.layout.und), len(packed.layout.gen), len(packed.vit_index))
        norm = float(parallel.full(nn.utils.clip_grad_norm_(self.trained.values(), recipe.clip)))
        if not math.isfinite(norm):
            saved = f"The save of step {self.states.steps()[-1]} is whole. " if self.states.steps() else ""
            remedy = f"{saved}Lower learning_rate, and look for a broken sample"
            raise SettingsError(f"The gradient of step {step + 1} is not finite", value=norm, remedy=remedy)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            average, current = ([parallel.local(t) for t in d.values()] for d in (self.ema, self.trained))
            torch._foreach_lerp_(average, current, 1 - recipe.ema_decay)
        if monitor is None and not dist.is_initialized():
            return {}, stops > 0
        totals = parallel.summed([float(total) for total in totals], device)
        means = {k: total / count for k, total, count in zip(("ce", "mse"), totals, counts, strict=True) if count}
        return {"learning_rate": rate, "gradient_norm": norm} | means, stops > 0

    def _sync_gradients(self, *, last: bool) -> None:
        """Gradients of a step are exchanged once, after its last pack."""
        if dist.is_initialized():
            self.objective.set_requires_gradient_sync(last)

    def _state(self) -> dict:
        return {
            "model": {name: p.detach() for name, p in self.trained.items()},
            "ema": self.ema,
            "optimizer": get_optimizer_state_dict(self.objective, self.optimizer),
        }

    def _save(self, step: int) -> None:
        tasks = sorted(task for group in self.sampler.tasks.values() for task in group)
        meta = self.binding | {"trained_tasks": tasks}
        self.states.save(step, self._state(), meta, self.recipe.keep)

    def _resume(self) -> int:
        """Loads the last save and returns its step; 0 where there is none."""
        if not self.steps_saved:
            return 0
        state = self._state()
        self.states.load(self.steps_saved[-1], state)
        set_optimizer_state_dict(self.objective, self.optimizer, state["optimizer"])
        return self.steps_saved[-1]

    def _fill_cache(self) -> None:
        """Encodes every picture that drawing needs, once; processes share the work."""
        cache = self.maker.pictures.cache
        if cache.folder is None:
            return
        jobs = {}
        for record in self.sampler.records:
            if record.main_task_type in ("generation", "interleaved"):
                for path, digest in zip(record.images, record.sha256, strict=True):
                    for crop in crops_of(record, self.recipe.variants):
                        jobs.setdefault(cache.path(digest, crop), (path, digest, record.place, crop))
        mine = list(jobs.items())[parallel.rank() :: parallel.world()]
        mine = [job for path, job in mine if not path.is_file()]
        for job in tqdm(mine, desc="latents", disable=not mine or parallel.rank() > 0):
            self.maker.pictures.posterior(*job)
        if dist.is_initialized():
            dist.barrier()

    def _sample(self, step: int) -> None:
        """A grid of images drawn with the averaged weights. A sharded model draws none: consolidate and evaluate it."""
        if dist.is_initialized():
            return
        with averaged(self.trained, self.ema), torch.random.fork_rng():
            sample_grid(self.checkpoint, self.out / "samples" / f"step-{step:08d}.webp")


@contextmanager
def averaged(trained: dict[str, nn.Parameter], ema: dict[str, Tensor]) -> Iterator[None]:
    """Puts the averaged weights into the model for the time of a ``with`` block."""
    backup = {name: p.detach().clone() for name, p in trained.items()}
    put(trained, ema)
    try:
        yield
    finally:
        put(trained, backup)


@torch.no_grad()
def put(trained: dict[str, nn.Parameter], weights: dict[str, Tensor]) -> None:
    """Copies weights into the parameters of their names."""
    for name, p in trained.items():
        p.copy_(weights[name])


def choose_trained(model: UnifiedModel, recipe: TrainRecipe) -> dict[str, nn.Parameter]:
    """Marks what trains, adds adapters where the recipe says so, and returns the trained parameters by name."""
    model.language_model.recompute_every = recipe.recompute_every
    model.train()
    model.requires_grad_(False)
    if recipe.lora_rank:
        add_adapters(model, recipe)
    else:
        patterns = [re.compile(pattern) for part, pattern in PARTS.items() if part not in recipe.freeze]
        for name, p in model.named_parameters():
            p.requires_grad_(any(pattern.match(name) for pattern in patterns))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise SettingsError("No layer matches lora_targets", value=recipe.lora_targets)
    return trained


def add_adapters(model: UnifiedModel, recipe: TrainRecipe) -> PeftModel:
    """Those of the recipe."""
    return add_adapter(model, recipe.lora_rank, recipe.lora_alpha, recipe.lora_targets, recipe.seed)


def learning_rate(step: int, recipe: TrainRecipe) -> float:
    """Linear warm-up, then a cosine down to ``min_learning_rate``, or a constant."""
    warm = min(1.0, (step + 1) / max(1, recipe.warmup_steps))
    if recipe.schedule == "constant":
        return recipe.learning_rate * warm
    progress = max(0, step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    span = recipe.learning_rate - recipe.min_learning_rate
    return warm * (recipe.min_learning_rate + span * 0.5 * (1 + math.cos(math.pi * progress)))


def consolidate_run(recipe: TrainRecipe) -> Path:
    """Writes the averaged weights of the last save, sharded or not, as a checkpoint folder in the official layout.

    With LoRA the adapters stand in ``OUT/adapter``, in peft's layout, and the folder holds the merged weights.

    Raises:
        CheckpointError: no save, or a damaged one.
        SettingsError: the save is that of another recipe.
    """
    out, states = Path(recipe.out), RunStates(Path(recipe.out))
    step = states.last()
    states.check(step, recipe.binding())
    names = states.names(step)
    checkpoint = load(recipe.init, torch.device("cpu"), torch.float32)
    model = checkpoint.model
    adapters = add_adapters(model, recipe) if recipe.lora_rank else None
    trained = {n: p for n, p in model.named_parameters() if n in names}
    if trained.keys() != names:
        what = "The save has other parameters than the recipe trains, first"
        raise CheckpointError(what, value=sorted(trained.keys() ^ names)[0], remedy="Consolidate with the run's recipe")
    ema = {name: torch.empty_like(p.detach()) for name, p in trained.items()}
    states.load(step, {"ema": ema}, alone=True)
    put(trained, ema)
    if adapters is not None:
        adapters.save_pretrained(str(out / "adapter"))
        model = adapters.merge_and_unload()
    save(model, out, torch.bfloat16, like=checkpoint.folder)
    _describe(checkpoint, states.recipe(step), out)
    return out


def _describe(checkpoint: Checkpoint, recipe: dict, out: Path) -> None:
    """Version and untrained tasks in the folder's ``config.json``."""
    path = out / "config.json"
    values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    untrained = [t for t in checkpoint.model.config.untrained_tasks if t not in recipe["trained_tasks"]]
    version = recipe["version"] or f"{checkpoint.name}, trained on in {out.name}"
    values |= {"untrained_tasks": untrained, "version": version}
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
