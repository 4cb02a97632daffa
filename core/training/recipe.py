"""Recipes: a JSON file names what to train and how; ``key=value`` overrides; unknown keys are refused."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import TypeVar

from core.data.records import MAIN_TASKS, SPLITS
from core.errors import SettingsError
from core.model.fingerprint import fingerprint
from core.tasks import TASKS

R = TypeVar("R")
PARTS = {
    "vit": r"vit\.",
    "connector": r"connector\.",
    "und": r"language_model\.(layers\.\d+\.und|embed_tokens|norm|lm_head)\.",
    "gen": r"language_model\.(layers\.\d+\.gen|norm_gen)\.",
    "flow": r"(time_embedder|vae2llm|llm2vae)\.",
}
"""Parts that a recipe may freeze, and the names of their parameters. The autoencoder and both position tables never
train."""
LORA_TARGETS = r"language_model\.layers\.\d+\.(und|gen)\.(q|k|v|o|gate|up|down)_proj"
NOT_BINDING = ("out", "records", "init", "cache", "log_every", "sample_every", "save_every", "keep")
"""Keys that may differ when a run goes on: they don't change what is computed, or name files, which are compared by
content."""


@dataclasses.dataclass(frozen=True)
class FreshRecipe:
    """Sizes of a new model: makes a checkpoint folder with random weights, a tokenizer of the records' texts and a
    trained autoencoder. ``edit_timesteps`` and guidance are the settings that its outputs are drawn with."""

    kind: str
    records: str
    autoencoder: str
    out: str
    hidden_size: int = 256
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    intermediate_size: int = 512
    vit_hidden_size: int = 192
    vit_layers: int = 4
    vocab_size: int = 2048
    image_size: int = 128
    vit_size: int = 126
    num_timesteps: int = 25
    cfg_text_scale: float = 3.0
    edit_timesteps: int = 6
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class TrainRecipe:
    """How a checkpoint folder is trained on records.

    Data: ``mix`` are the shares of the record kinds; ``task_weights`` those of the tasks within a kind (1 where none is
    given). Modalities of a task are drawn equally often. ``variants`` is the number of crops of every picture, the
    first of which is the whole. ``cache`` is the folder of autoencoder posteriors, filled before the first step; an
    empty name computes them at each use.

    Optimisation (spec section 11.7): a step holds ``accumulate`` packs of ``tokens_per_pack`` tokens on every process.
    ``schedule`` is "cosine" down to ``min_learning_rate``, or "constant". ``bf16`` runs matrix products in bfloat16;
    weights, losses and the optimizer stay in float32. ``recompute_every`` n > 0 keeps no activations of every n-th
    layer. ``lora_rank`` above 0 trains adapters alone, on the layers that match ``lora_targets``.

    Guarding: the state is saved every ``save_every`` steps, and the last ``keep`` are kept.
    """

    kind: str
    records: str
    init: str
    out: str
    steps: int
    mix: dict[str, float]
    task_weights: dict[str, float] = dataclasses.field(default_factory=dict)
    splits: tuple[str, ...] = ("train",)
    freeze: tuple[str, ...] = ()
    variants: int = 1
    cache: str = ""
    drop_text: float = 0.1
    drop_vit: float = 0.3
    drop_vae: float = 0.3
    tokens_per_pack: int = 32768
    max_sample_tokens: int = 16384
    accumulate: int = 1
    learning_rate: float = 1e-4
    min_learning_rate: float = 1e-7
    warmup_steps: int = 2000
    schedule: str = "cosine"
    eps: float = 1e-15
    weight_decay: float = 0.0
    clip: float = 1.0
    ema_decay: float = 0.9999
    ce_weight: float = 1.0
    mse_weight: float = 1.0
    timestep_shift: float = 1.0
    bf16: bool = True
    recompute_every: int = 0
    lora_rank: int = 0
    lora_alpha: int = 64
    lora_targets: str = LORA_TARGETS
    seed: int = 0
    version: str = ""
    save_every: int = 500
    keep: int = 2
    log_every: int = 10
    sample_every: int = 0

    def __post_init__(self) -> None:
        _known("mix", self.mix, MAIN_TASKS)
        _known("task_weights", self.task_weights, (*TASKS, "text"))
        _known("splits", self.splits, SPLITS)
        _known("freeze", self.freeze, tuple(PARTS))
        _known("schedule", (self.schedule,), ("cosine", "constant"))
        for key, shares in (("mix", self.mix), ("task_weights", self.task_weights)):
            if not all(isinstance(s, int | float) and 0 <= s < math.inf for s in shares.values()):
                raise SettingsError(f"The recipe's {key} must hold shares of 0 or more", value=shares)
        if not any(self.mix.values()):
            raise SettingsError("The recipe's mix must hold a share above 0", value=self.mix)
        _above_zero(self, "learning_rate", "clip", "timestep_shift")
        if self.lora_rank and self.freeze:
            remedy = "Leave freeze out, and name the adapters' layers with lora_targets"
            raise SettingsError("Adapters train alone: freeze has no meaning beside lora_rank", remedy=remedy)
        if set(self.freeze) == set(PARTS):
            raise SettingsError("The recipe freezes every part", value=self.freeze, remedy="Leave one out")
        _at_least_one(self, "steps", "variants", "tokens_per_pack", "accumulate", "save_every", "keep", "log_every")

    def binding(self) -> dict:
        """What decides what is computed: the recipe's keys, as JSON gives them back, and the content of its files."""
        return binding(self, "records", "init")


@dataclasses.dataclass(frozen=True)
class LearnRecipe:
    """How a version learns from a snapshot of judgements (``core.training.preference`` has the losses).

    What is learned: ``pair_weight`` weights preferences, ``unpaired_weight`` single good and bad outputs,
    ``sft_weight`` the imitation of chosen texts and ``anchor_weight`` that of chosen pictures, which also keeps the
    chosen side of a pair from getting worse. With ``pair_weight`` and ``unpaired_weight`` 0 what remains is supervised
    fine-tuning on what raters accepted; with the other two 0, preferences alone. ``experts`` names those that get
    adapters ("und" writes, "gen" draws); where none is named, those that the signals are about.

    Texts: ``text_beta``, ``smoothing`` (the share of wrong judgements that robust DPO expects),
    ``length_normalised``, ``changed_weight`` of the tokens that an expert's edit changed. Pictures: ``image_beta``,
    ``region_weight`` of latent tokens in marked defects, ``timestep_shift`` of the times at which errors are taken.

    Optimisation: ``epochs`` over signals, but ``least_steps`` steps where they are few, ``batch`` of them a step, in
    packs of up to ``tokens_per_pack`` tokens; learning rate with a warm-up over the share ``warmup`` of the steps, then
    a cosine to zero. ``recompute_every`` n > 0 keeps no activations of every n-th layer.

    Guarding: every ``log_every`` steps, and at least ten times a run, the chosen side of what nothing was preferred to
    is compared with its reference.
    The state is saved then, but not where the chosen side is worse; when it was worse ``patience`` times in a row, the
    run ends. The result is the last save. With ``patience`` 0 nothing is compared.
    """

    about: str = ""
    experts: tuple[str, ...] = ()
    pair_weight: float = 1.0
    unpaired_weight: float = 1.0
    sft_weight: float = 1.0
    anchor_weight: float = 1.0
    text_beta: float = 0.1
    smoothing: float = 0.0
    length_normalised: bool = False
    changed_weight: float = 5.0
    image_beta: float = 100.0
    region_weight: float = 5.0
    timestep_shift: float = 1.0
    epochs: float = 1.0
    least_steps: int = 20
    batch: int = 16
    tokens_per_pack: int = 8192
    learning_rate: float = 1e-5
    warmup: float = 0.1
    eps: float = 1e-8
    clip: float = 1.0
    ema_decay: float = 0.99
    lora_rank: int = 32
    lora_alpha: int = 64
    bf16: bool = True
    recompute_every: int = 0
    patience: int = 3
    seed: int = 0
    log_every: int = 5

    def __post_init__(self) -> None:
        _known("experts", self.experts, ("und", "gen"))
        weights = [self.pair_weight, self.unpaired_weight, self.sft_weight, self.anchor_weight]
        if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
            remedy = "Give weights of 0 or more, and one above 0"
            raise SettingsError("The recipe learns from nothing", value=weights, remedy=remedy)
        if not 0 <= self.smoothing < 0.5:
            raise SettingsError("The recipe's smoothing must be at least 0 and below 0.5", value=self.smoothing)
        _above_zero(
            self, "changed_weight", "region_weight", "lora_alpha", "learning_rate", "clip", "timestep_shift",
            "text_beta", "image_beta", "epochs",
        )  # fmt: skip
        for name in ("warmup", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingsError(f"The recipe's {name} must be at least 0 and below 1", value=getattr(self, name))
        _at_least_one(self, "batch", "least_steps", "tokens_per_pack", "lora_rank", "log_every")

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step."""
        warm = min(1.0, (step + 1) / max(1.0, self.warmup * steps))
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / steps))


def binding(recipe, *files: str) -> dict:
    """The recipe's keys but for ``NOT_BINDING``, as JSON gives them back, and fingerprints of those in ``files``."""
    values = {k: v for k, v in dataclasses.asdict(recipe).items() if k not in NOT_BINDING}
    return json.loads(json.dumps(values)) | {name: fingerprint(Path(getattr(recipe, name))) for name in files}


def _above_zero(recipe: TrainRecipe | LearnRecipe, *names: str) -> None:
    for name in names:
        if not 0 < getattr(recipe, name) < math.inf:
            raise SettingsError(f"The recipe's {name} must be a number above 0", value=getattr(recipe, name))


def _at_least_one(recipe: TrainRecipe | LearnRecipe, *names: str) -> None:
    for name in names:
        if getattr(recipe, name) < 1:
            raise SettingsError(f"The recipe's {name} must be at least 1", value=getattr(recipe, name))


def _known(key: str, values, known: tuple[str, ...]) -> None:
    for value in values:
        if value not in known:
            raise SettingsError(f"Unknown name in the recipe's {key}", value=value, remedy=f"Use {', '.join(known)}")


def read_recipe(path: Path, overrides: list[str]) -> dict:
    """The recipe's keys and values. An override's value is JSON where it parses as such, otherwise a string.

    Raises:
        SettingsError: no such file, or not a JSON object (the message names file, line and column).
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        what = f"The recipe cannot be read ({error.strerror})"
        raise SettingsError(what, value=str(path), remedy="See core/training/recipes") from error
    except ValueError as error:
        raise SettingsError(f"{path.name} is not valid JSON ({error})", remedy="Mend that place") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path.name} must hold a JSON object", value=type(values).__name__)
    for item in overrides:
        key, separator, text = item.partition("=")
        if not separator:
            raise SettingsError("An override must read key=value", value=item, remedy="For example steps=100")
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text
    return values


def build_recipe(cls: type[R], values: dict) -> R:
    """The recipe as a dataclass.

    Raises:
        SettingsError: a key that the dataclass lacks, a required one that is missing, or a wrong type.
    """
    known = {f.name for f in dataclasses.fields(cls)}
    for key in values:
        if key not in known:
            raise SettingsError("Unknown recipe key", value=key, remedy=f"Use one of {', '.join(sorted(known))}")
    missing = [
        f.name for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and f.name not in values
    ]  # fmt: skip
    if missing:
        raise SettingsError("The recipe lacks a key", value=missing[0], remedy=f"Give {missing[0]}=VALUE")
    kinds = {"int": int, "float": (int, float), "bool": bool, "str": str}
    for f in dataclasses.fields(cls):
        kind = kinds.get(f.type, dict if f.type.startswith("dict") else list)
        value = values.get(f.name)
        if f.name in values and (not isinstance(value, kind) or isinstance(value, bool) != (kind is bool)):
            raise SettingsError(f"The recipe's {f.name} must be of type {f.type}", value=value)
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def run_recipe(path: Path, overrides: list[str], *, consolidate: bool = False) -> Path:
    """Trains what the recipe's ``kind`` says and returns the output folder.

    With ``consolidate`` the last saved state of a run becomes a checkpoint folder, and nothing is trained.
    """
    values = read_recipe(path, overrides)
    kind = values.get("kind")
    if consolidate and kind != "model":
        raise SettingsError("Only a run of kind model is consolidated", value=kind)
    if kind == "autoencoder":
        from core.training.autoencoder import AutoencoderRecipe, train_autoencoder

        return train_autoencoder(build_recipe(AutoencoderRecipe, values))
    if kind == "fresh":
        from core.training.fresh import make_fresh

        return make_fresh(build_recipe(FreshRecipe, values))
    if kind == "model":
        from core.training.trainer import Trainer, consolidate_run

        recipe = build_recipe(TrainRecipe, values)
        return consolidate_run(recipe) if consolidate else Trainer(recipe).run()
    raise SettingsError("Unknown kind of recipe", value=kind, remedy="Use autoencoder, fresh or model")
