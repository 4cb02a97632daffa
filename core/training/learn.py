"""Learning from judgements: an adapter on a version, trained on the signals of a snapshot; resumable at any moment.

Policy and reference are one model, with the adapter and without it. What is drawn at random is a function of the seed
and the step, so a run that was cut off goes on as if nothing had happened.
"""

from __future__ import annotations

import json
import math
import random
import signal as signals_of_system
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from core.config import revision
from core.errors import NothingLearnedError, SettingsError
from core.feedback.signals import PAIR, UNPAIRED
from core.feedback.snapshots import TEST, TRAIN
from core.lineage import Lineage
from core.model.adapter import add_adapter, write_adapter
from core.model.checkpoint import Checkpoint
from core.model.objective import packed_losses
from core.training.monitor import Monitor, Progress
from core.training.preference import flow_preference, text_preference, unpaired, weighted_means
from core.training.recipe import LORA_TARGETS, LearnRecipe
from core.training.sides import EXPERTS, IMAGE, TEXT, Example, SideMaker, can_learn, imitated, is_first, kind_of
from core.training.sources import Source
from core.training.state import RunStates, begin_optimizer
from core.training.trainer import STOPPED, put

LOOKS = 10
"""So often, at least, a run looks at its chosen side."""
DRAWS = 4
"""Times and noises at which the errors of a held-out picture are taken."""
SURE = 2.0
"""Standard errors below zero at which a mean counts as below it."""
Scores = list[tuple[Tensor | None, Tensor | None]]
"""Of the good and the bad side of each example: log probability of a text, squared error of a picture."""


class Learner:
    """One run.

    Args:
        source: the snapshot.
        parent: the version to begin with; its weights are taken over and changed.
        out: the version folder.

    Raises:
        SettingsError: the snapshot has nothing that the recipe learns from, or the folder has another run.
    """

    def __init__(self, source: Source, parent: Checkpoint, recipe: LearnRecipe, out: Path, name: str) -> None:
        self.source, self.parent, self.recipe, self.out, self.name = source, parent, recipe, out, name
        self.model = parent.model
        train = source.of(TRAIN)
        places = imitated([signal for _, signal in train])
        self._imitated = {train[number][0] for number in places}
        self.train = [one for one in train if can_learn(one[1], recipe, imitate=one[0] in self._imitated)]
        if not self.train:
            what, remedy = "The snapshot has nothing that this recipe learns from", "Give weight to what it has"
            raise SettingsError(what, value=source.counts(), remedy=remedy)
        self.steps = max(recipe.least_steps, math.ceil(recipe.epochs * len(self.train) / recipe.batch))
        self.log_every = max(1, min(recipe.log_every, self.steps // LOOKS))
        self.states, self.progress = RunStates(out), Progress(out)
        binding = asdict(recipe) | {"snapshot": source.sha256, "parent": parent.fingerprint}
        self.binding = json.loads(json.dumps(binding))
        if saved := self.states.steps():
            self.states.check(saved[-1], self.binding)
        self.model.language_model.recompute_every = recipe.recompute_every
        self.model.requires_grad_(False).train()
        experts = recipe.experts or sorted({EXPERTS[kind_of(one)] for _, one in self.train})
        targets = LORA_TARGETS.replace("(und|gen)", f"({'|'.join(experts)})")
        self.peft = add_adapter(self.model, recipe.lora_rank, recipe.lora_alpha, targets, recipe.seed)
        self.trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), lr=recipe.learning_rate, betas=(0.9, 0.95), eps=recipe.eps, weight_decay=0.0
        )
        begin_optimizer(self.model, self.optimizer)
        self.ema = {name: p.detach().clone() for name, p in self.trained.items()}
        self.maker = SideMaker(self.model, parent.tokenizer, source.picture, recipe)
        self.z = {of: torch.zeros((), device=self.model.device) for of in (TEXT, IMAGE)}
        """What is neither good nor bad among single outputs: the mean reward of the last step that had any."""
        self._rewards: dict[str, list[float]] = defaultdict(list)
        self._of_reference: dict[tuple[int, int], Tensor] = {}
        self._window: dict[str, list[float]] = defaultdict(list)
        self._best: dict[str, list[float]] = defaultdict(list)
        self._worse = 0
        self.stopping = False

    def run(self) -> Path:
        """Learns to the end, goes on where an earlier run was cut off, and returns the version folder.

        On SIGTERM it ends with status 143 after its current step; the same call goes on from the last save. Whoever
        calls it sees to it that no other run has the folder (``RunStates.locked``).
        """
        done = self._resume()
        before = signals_of_system.signal(signals_of_system.SIGTERM, self._stop)
        monitor = Monitor(self.out, self.steps, done, self.model, self.model.dtype)
        try:
            self.progress.tell("learning", done, self.steps)
            self._remember_texts(self.train)
            why = self._loop(done, monitor)
        finally:
            signals_of_system.signal(signals_of_system.SIGTERM, before)
            monitor.close()
        return self._finish(why)

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def _loop(self, done: int, monitor: Monitor) -> str:
        """Steps to the end; returns why it came before the last one, if it did."""
        recipe = self.recipe
        for step in range(done, self.steps):
            if self.stopping:
                self.progress.tell("stopped", step, self.steps)
                raise SystemExit(STOPPED)
            values = self._step(step, monitor)
            step += 1
            looks = step % self.log_every == 0 or step == self.steps
            if looks:
                values |= {key: fmean(of) for key, of in self._window.items()}
                self._worse = self._worse + 1 if recipe.patience and self._is_worse() else 0
                self._window.clear()
                self._best.clear()
            monitor.step(step, values, write=looks)
            self.progress.tell("learning", step, self.steps)
            if looks and not self._worse:
                self.states.save(step, self._state(), self.binding, 1)
            if self._worse and self._worse == recipe.patience:
                return f"at step {step} the chosen side was worse than its reference {self._worse} times in a row"
        return ""

    def _is_worse(self) -> bool:
        """Whether what is to be imitated, and was seen since the last look, is surely worse than its reference. What
        was only the better of two bad ones may become less likely."""
        for of in self._best.values():
            if len(of) > 1:
                error = float(torch.tensor(of).std()) / len(of) ** 0.5
                if fmean(of) < -SURE * error:
                    return True
        return False

    def _batch(self, step: int) -> list[Example]:
        """Signals in an order that is drawn anew for each epoch."""
        count, found = len(self.train), []
        for number in range(step * self.recipe.batch, (step + 1) * self.recipe.batch):
            epoch, place = divmod(number, count)
            order = random.Random(f"{self.recipe.seed}/{epoch}").sample(range(count), count)
            found.append(self._example(*self.train[order[place]]))
        return found

    def _example(self, place: int, signal: dict) -> Example:
        imitate, alone = place in self._imitated, signal["kind"] == PAIR and not self.recipe.pair_weight
        return self.maker.example(place, signal, imitate=imitate, alone=alone)

    def _packs(self, examples: Iterable[Example]) -> Iterator[list[Example]]:
        """Examples in packs of the recipe's size, one after the other."""
        pack, tokens = [], 0
        for example in examples:
            if pack and tokens + example.length > self.recipe.tokens_per_pack:
                yield pack
                pack, tokens = [], 0
            pack.append(example)
            tokens += example.length
        if pack:
            yield pack

    def _step(self, step: int, monitor: Monitor | None) -> dict[str, float]:
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = rate = recipe.rate(step, self.steps)
        loss = 0.0
        for number, examples in enumerate(self._packs(self._batch(step))):
            seed = f"{recipe.seed}/{step}/{number}"
            scores = self.scores(examples, seed, monitor)
            total = self.loss(examples, scores, self._reference(examples, seed)) / recipe.batch
            total.backward()
            loss += float(total.detach())
        for of, rewards in self._rewards.items():
            self.z[of].fill_(max(0.0, fmean(rewards)))
        self._rewards.clear()
        norm = float(nn.utils.clip_grad_norm_(self.trained.values(), recipe.clip))
        if not math.isfinite(norm):
            raise SettingsError(f"The gradient of step {step + 1} is not finite", value=norm, remedy="Lower the rate")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        decay = min(recipe.ema_decay, (1 + step) / (10 + step))  # short runs would hardly leave their beginning
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.values()), list(self.trained.values()), 1 - decay)
        return {"loss": loss, "learning_rate": rate, "gradient_norm": norm}

    # Scores and losses

    def scores(self, examples: list[Example], seed: str, monitor: Monitor | None = None) -> Scores:
        """Of both sides of every example, by the model as it is now."""
        packed, noise = self.maker.pack(examples, seed)
        packed, noise = packed.to(self.model.device), noise.to(self.model.device)
        if monitor is not None:
            monitor.count(len(packed.layout.und), len(packed.layout.gen), len(packed.vit_index))
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.recipe.bf16):
            losses = packed_losses(self.model, packed, noise, self.recipe.timestep_shift)
        values = {TEXT: -losses.ce, IMAGE: losses.mse.mean(-1)}
        found = {}
        for of, all_values in values.items():
            sides = [side for example in examples if example.of == of for side in example.sides]
            weights = [side.weights.to(all_values.device) for side in sides]
            counts = [len(one) for one in weights]
            if not sides:
                continue
            if of == TEXT and not self.recipe.length_normalised:
                parts = zip(all_values.split(counts), weights, strict=True)
                found[of] = iter([(part * weight).sum() for part, weight in parts])
            else:
                found[of] = iter(weighted_means(all_values, torch.cat(weights), counts))
        return [
            (next(found[one.of]) if one.good else None, next(found[one.of]) if one.bad else None) for one in examples
        ]

    @torch.no_grad()
    def _reference(self, examples: list[Example], seed: str) -> Scores:
        """The same by the model without its adapter: texts from memory, pictures at the same times and noises."""
        if all(example.of == TEXT for example in examples):
            remembered = self._of_reference
            return [
                tuple(remembered[one.place, n] if side else None for n, side in enumerate((one.good, one.bad)))
                for one in examples
            ]
        with self.peft.disable_adapter():
            return self.scores(examples, seed)

    @torch.no_grad()
    def _remember_texts(self, signals: list[tuple[int, dict]], *, both: bool = False) -> None:
        """What the reference says of texts does not depend on anything random: it is computed once.

        ``both``: of both sides, whatever the recipe learns from.
        """
        make = self.maker.example if both else self._example
        with self.peft.disable_adapter():
            for pack in self._packs(make(*one) for one in signals if kind_of(one[1]) == TEXT):
                for example, scores in zip(pack, self.scores(pack, ""), strict=True):
                    for number, score in enumerate(scores):
                        if score is not None:
                            self._of_reference[example.place, number] = score

    def loss(self, examples: list[Example], scores: Scores, reference: Scores) -> Tensor:
        """The sum of all losses of the examples; what a person should see of them goes into the window."""
        recipe, losses = self.recipe, []
        for example, (good, bad), (good_ref, bad_ref) in zip(examples, scores, reference, strict=True):
            is_text = example.of == TEXT
            sign = 1.0 if is_text else -1.0
            gains = [None if now is None else sign * (now - ref) for now, ref in ((good, good_ref), (bad, bad_ref))]
            self._see(example.of, *(None if gain is None else float(gain.detach()) for gain in gains))
            if example.imitated:
                self._best[example.of].append(float(gains[0].detach()))
            if example.kind == PAIR and bad is not None:
                if is_text:
                    of = text_preference(good, bad, (good_ref, bad_ref), recipe.text_beta, recipe.smoothing)
                else:
                    of = flow_preference(good, bad, (good_ref, bad_ref), recipe.image_beta)
                losses.append(recipe.pair_weight * example.weight * of)
            elif example.kind == UNPAIRED:
                scale = recipe.text_beta if is_text else recipe.image_beta / 2
                reward = scale * (gains[1] if good is None else gains[0])
                self._rewards[example.of].append(float(reward.detach()))
                loss = unpaired(reward, torch.tensor(good is not None, device=reward.device), self.z[example.of])
                losses.append(recipe.unpaired_weight * example.weight * loss)
            anchor = recipe.sft_weight if is_text else recipe.anchor_weight
            if example.imitated and anchor:
                by = 1.0 if recipe.length_normalised or not is_text else float(example.good.weights.sum())
                losses.append(anchor * example.weight * -sign * good / by)
        return torch.stack(losses).sum()

    def _see(self, of: str, chosen: float | None, rejected: float | None) -> None:
        """Notes what both sides of an example gained on the reference."""
        values = {"chosen": chosen, "rejected": rejected}
        if chosen is not None and rejected is not None:
            values |= {"margin": chosen - rejected, "accuracy": float(chosen > rejected)}
        for key, value in values.items():
            if value is not None:
                self._window[f"{of}_{key}"].append(value)

    # Held out, saving

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """How the pairs of held-out patients fare, of texts and of pictures: the share in which the chosen side gained
        more than the rejected one, both gains, and how many there are."""
        pairs = [one for one in self.source.of(TEST) if one[1]["kind"] == PAIR and is_first(one[1])]
        self._window.clear()
        self._remember_texts(pairs, both=True)
        for number, pack in enumerate(self._packs(self.maker.example(*one) for one in pairs)):
            both = []
            for draw in range(1 if all(one.of == TEXT for one in pack) else DRAWS):
                seed = f"held out/{number}/{draw}"
                both.append((self.scores(pack, seed), self._reference(pack, seed)))
            for place, example in enumerate(pack):
                sign = 1.0 if example.of == TEXT else -1.0
                gains = [fmean(float(now[place][n] - ref[place][n]) for now, ref in both) for n in (0, 1)]
                self._see(example.of, *(sign * gain for gain in gains))
        found = {key: round(fmean(of), 6) for key, of in self._window.items()}
        found |= {key.replace("margin", "pairs"): len(of) for key, of in self._window.items() if key.endswith("margin")}
        self._window.clear()
        return found

    def _state(self) -> dict:
        return {
            "model": {name: p.detach() for name, p in self.trained.items()},
            "ema": self.ema,
            "z": self.z,
            "optimizer": get_optimizer_state_dict(self.model, self.optimizer),
        }

    def _resume(self) -> int:
        steps = self.states.steps()
        if not steps:
            return 0
        state = self._state()
        self.states.load(steps[-1], state)
        set_optimizer_state_dict(self.model, self.optimizer, state["optimizer"])
        return steps[-1]

    def _finish(self, why: str) -> Path:
        """Writes the adapter of the last save, with what it came from, and removes what was needed to go on."""
        if not self.states.steps():
            what, remedy = "Nothing was learned", "Lower learning_rate, or raise sft_weight and anchor_weight"
            raise NothingLearnedError(f"{what}: the chosen side got worse at once", value=why, remedy=remedy)
        step = self._resume()
        if step < self.steps and not why:
            why = f"after step {step} the chosen side was worse than its reference"
        put(self.trained, self.ema)
        self.model.eval()
        self.progress.tell("evaluating", self.steps, self.steps)
        metrics = {"steps": step, "of": self.steps, "held_out": self.held_out()} | ({"stopped": why} if why else {})
        write_adapter(self.peft, self.out, self.parent.adapter)
        lineage = self.parent.lineage
        Lineage(
            self.name, self.parent.name, lineage.base if lineage else self.parent.base_name,
            self.parent.base_fingerprint, self.parent.fingerprint, self.source.sha256, self.source.counts(),
            self.source.judgements, asdict(self.recipe), revision(), metrics,
            datetime.now(UTC).isoformat(timespec="seconds"),
        ).write(self.out)  # fmt: skip
        self.states.clear()
        return self.out
