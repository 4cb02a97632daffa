"""Checkpoint folders in the official layout: key names, loading, saving, and what can be wrong with one.

Weights go straight from the memory-mapped file to the target device and dtype, tensor by tensor; the model is
built on the meta device first, so that there is never a second full copy.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import psutil
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.config import ModelConfig, default_model
from core.data.tokenizer import Tokenizer
from core.errors import CheckpointError, MemoryShortageError, SettingsError
from core.lineage import Lineage, is_learned
from core.model.adapter import attach_adapter, merge_adapter
from core.model.attention import backend
from core.model.fingerprint import fingerprint, learned_fingerprint
from core.model.hub import MODEL_FILES, VAE_FILE, hub_id, resolve
from core.model.unified import UnifiedModel
from core.model.vae import flux_key, flux_shape

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_EXPERT = {
    "input_norm": "input_layernorm{}",
    "post_norm": "post_attention_layernorm{}",
    **{f"{n}_proj": f"self_attn.{n}_proj{{}}" for n in "qkvo"},
    **{f"{n}_norm": f"self_attn.{n}_norm{{}}" for n in "qk"},
    **{f"{n}_proj": f"mlp{{}}.{n}_proj" for n in ("gate", "up", "down")},
}
_VIT_BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    **{f"{n}_proj": f"self_attn.{n}_proj" for n in ("q", "k", "v", "out")},
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
_OTHERS = (
    (r"^language_model\.norm_gen\.", "language_model.model.norm_moe_gen."),
    (r"^language_model\.(embed_tokens|norm)\.", r"language_model.model.\1."),
    (r"^vit\.(patch_embedding|position_embedding)\.", r"vit_model.vision_model.embeddings.\1."),
    (r"^vit\.post_norm\.", "vit_model.vision_model.post_layernorm."),
    (r"^(latent|vit)_pos_embed$", r"\1_pos_embed.pos_embed"),
    (r"^time_embedder\.fc1\.", "time_embedder.mlp.0."),
    (r"^time_embedder\.fc2\.", "time_embedder.mlp.2."),
)


def official_key(name: str) -> str:
    """Name in ``ema.safetensors`` of a parameter of ``UnifiedModel`` outside the autoencoder."""
    if match := re.match(r"language_model\.layers\.(\d+)\.(und|gen)\.(\w+)\.(\w+)$", name):
        layer, expert, part, kind = match.groups()
        place = _EXPERT[part].format("_moe_gen" if expert == "gen" else "")
        return f"language_model.model.layers.{layer}.{place}.{kind}"
    if match := re.match(r"vit\.layers\.(\d+)\.(\w+)\.(\w+)$", name):
        layer, part, kind = match.groups()
        return f"vit_model.vision_model.encoder.layers.{layer}.{_VIT_BLOCK[part]}.{kind}"
    for pattern, place in _OTHERS:
        name = re.sub(pattern, place, name)
    return name


@dataclass(frozen=True)
class Entry:
    """One tensor on disk: its name and shape there, and the parameter that it belongs to."""

    key: str
    shape: tuple[int, ...]
    parameter: str


def expected_tensors(model: UnifiedModel) -> tuple[list[Entry], list[Entry]]:
    """What the two weight files must hold: (model file, autoencoder file). Works on the meta device."""
    main, vae = [], []
    for name, tensor in model.state_dict().items():
        if name.startswith("vae."):
            inner = name.removeprefix("vae.")
            vae.append(Entry(flux_key(inner, model.config.vae), flux_shape(inner, tensor.shape), name))
        else:
            main.append(Entry(official_key(name), tuple(tensor.shape), name))
    return main, vae


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model with its tokenizer and where both came from."""

    model: UnifiedModel
    tokenizer: Tokenizer
    folder: Path
    weights: str
    source: str
    lineage: Lineage | None = None
    """Of a learned version, whose adapter is merged into the weights of ``folder``, its base."""
    adapter: Path | None = None
    """Its version folder."""

    @property
    def name(self) -> str:
        """What outputs carry: the version that the folder states, else the hub id with its commit, else the folder."""
        if self.lineage is not None:
            return self.lineage.name
        if self.model.config.version:
            return self.model.config.version
        from_hub = hub_id(self.folder)
        return f"{from_hub}@{self.folder.name[:8]}" if from_hub else self.folder.name

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the weights, those of an adapter included."""
        base = fingerprint(self.folder)
        return base if self.adapter is None else learned_fingerprint(base, self.adapter)

    @property
    def base_name(self) -> str:
        """Hub id of the weights without an adapter, or else the name of their folder."""
        return hub_id(self.folder) or self.folder.name

    @property
    def base_fingerprint(self) -> str:
        """Digest of the weights without an adapter."""
        return self.fingerprint if self.lineage is None else self.lineage.base_fingerprint

    def computed_by(self) -> dict[str, str]:
        """The weights file, and what it runs on: outputs carry it."""
        return {
            "weights": self.weights,
            "device": str(self.model.device),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "attention": backend(self.model.device, self.model.dtype),
        }

    def info(self) -> dict:
        """What was loaded, for ``python -m core info``."""
        tensors = list(self.model.state_dict().values())
        return {
            "model": self.name,
            "folder": str(self.folder),
            "tensors": len(tensors),
            "parameters": sum(t.numel() for t in tensors),
            "bytes": sum(t.numel() * t.element_size() for t in tensors),
            **self.computed_by(),
        }


def pick_device() -> tuple[torch.device, torch.dtype]:
    """CUDA where there is a GPU, in bfloat16 (float16 before Ampere), otherwise the CPU in float32.

    ``UNIMED_DEVICE`` (a name such as "cpu" or "cuda:1") and ``UNIMED_DTYPE`` (a key of ``DTYPES``) say otherwise.

    Raises:
        SettingsError: one of the two names nothing that is there.
    """
    name = os.environ.get("UNIMED_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise SettingsError("UNIMED_DEVICE is not there", value=name, remedy="Try cpu, or unset it") from error
    modern = device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)
    default = "float32" if device.type == "cpu" else "bfloat16" if modern else "float16"
    dtype = os.environ.get("UNIMED_DTYPE") or default
    if dtype not in DTYPES:
        raise SettingsError("Unknown UNIMED_DTYPE", value=dtype, remedy=f"Use one of {', '.join(DTYPES)}")
    return device, DTYPES[dtype]


def load(source: str | Path, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Checkpoint:
    """Loads a checkpoint folder, or downloads one from the hub by its id (``organisation/name``).

    Args:
        source: path of a folder in the official layout, or a hub id; or a version folder (``core.lineage``), whose
            adapter is merged into the weights of its base.
        device, dtype: default to ``pick_device()``. The autoencoder takes the same dtype.

    Raises:
        CheckpointError: a missing file, a missing, extra or mis-shaped tensor, or too little memory.
    """
    folder = resolve(source)
    if is_learned(folder):
        return load_learned(folder, base_of(Lineage.read(folder)), device, dtype)
    config = ModelConfig.from_folder(folder)
    tokenizer = Tokenizer.from_folder(folder)
    if len(tokenizer) > config.llm.vocab_size:
        raise CheckpointError(
            f"The tokenizer has {len(tokenizer)} tokens, the model {config.llm.vocab_size}",
            remedy="Take tokenizer and weights from the same folder",
        )
    default_device, default_dtype = pick_device()
    device, dtype = device or default_device, dtype or default_dtype
    with torch.device("meta"):
        model = UnifiedModel(config)
    weights = next((f for f in MODEL_FILES if (folder / f).is_file()), None)
    if weights is None:
        raise CheckpointError(
            "The checkpoint folder lacks the model's weights", value=str(folder), remedy=f"Add one of {MODEL_FILES}"
        )
    need_memory(sum(p.numel() for p in model.state_dict().values()) * dtype.itemsize, device)
    main, vae = expected_tensors(model)
    state = _read(folder / weights, main, device, dtype) | _read(folder / VAE_FILE, vae, device, dtype)
    model.load_state_dict(state, strict=True, assign=True)
    model.requires_grad_(False).eval()
    return Checkpoint(model, tokenizer, folder, weights, str(source))


def load_learned(
    folder: Path, base: Path, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> Checkpoint:
    """Loads a version folder over the checkpoint folder of its base: merged into float32 weights, beside others.

    Raises:
        CheckpointError: as ``load``; the adapter is missing, damaged or of another model.
    """
    lineage = Lineage.read(folder)
    loaded = load(base, device, dtype)
    put = merge_adapter if loaded.model.dtype == torch.float32 else attach_adapter
    put(loaded.model, folder)
    return dataclasses.replace(loaded, lineage=lineage, adapter=folder)


def base_of(lineage: Lineage) -> Path:
    """The folder of a learned version's base: the default model's where it has those weights, or else from the hub.

    Raises:
        CheckpointError: neither has the weights that the version was made of.
    """
    for source in (default_model(), lineage.base):
        with suppress(CheckpointError):
            folder = resolve(source)
            if not is_learned(folder) and fingerprint(folder) == lineage.base_fingerprint:
                return folder
    raise CheckpointError(
        f"The base of {lineage.name} is not here: {lineage.base}", value=lineage.base_fingerprint[:12],
        remedy="Name the checkpoint with these weights by UNIMED_MODEL, or learn again on the one that is here",
    )  # fmt: skip


def need_memory(bytes_needed: int, device: torch.device) -> None:
    """Refuses a load that cannot fit, before the first tensor is read."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if bytes_needed > free:
        raise MemoryShortageError(
            f"The weights need {bytes_needed / 2**30:.1f} GiB and {device} has {free / 2**30:.1f} GiB free",
            remedy="Close other programs, use a larger machine, or halve the need with UNIMED_DTYPE=bfloat16",
        )


def _read(path: Path, entries: list[Entry], device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of one file by parameter name, on the device. All names and shapes are checked first."""
    if not path.is_file():
        remedy = f"Put it into {path.parent}"
        raise CheckpointError("The checkpoint folder lacks a file", value=path.name, remedy=remedy)
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            on_disk = {key.removeprefix("module."): key for key in file.keys()}  # noqa: SIM118
            _check(path, entries, {name: tuple(file.get_slice(key).get_shape()) for name, key in on_disk.items()})
            parameters = {}
            for entry in entries:
                tensor = file.get_tensor(on_disk[entry.key]).to(dtype)
                parameters[entry.parameter] = tensor[..., 0, 0] if _is_projection(entry) else tensor
            return parameters
    except SafetensorError as error:
        raise CheckpointError(f"{path.name} is damaged ({error})", remedy="Copy the file again") from error
    except torch.OutOfMemoryError as error:
        raise MemoryShortageError(f"{device} ran out of memory", remedy="Close other programs on it") from error


def _is_projection(entry: Entry) -> bool:
    """A linear layer that FLUX stores as a 1x1 convolution."""
    return entry.parameter.startswith("vae.") and ".attentions." in entry.parameter and len(entry.shape) == 4


def _check(path: Path, entries: list[Entry], found: dict[str, tuple[int, ...]]) -> None:
    expected = {entry.key: entry.shape for entry in entries}
    remedy = "Check that the JSON files belong to these weights"
    if missing := sorted(expected.keys() - found.keys()):
        raise CheckpointError(f"{path.name} lacks {len(missing)} tensor(s), first", value=missing[0], remedy=remedy)
    if extra := sorted(found.keys() - expected.keys()):
        raise CheckpointError(f"{path.name} has {len(extra)} extra tensor(s), first", value=extra[0], remedy=remedy)
    for key, shape in expected.items():
        if found[key] != shape:
            raise CheckpointError(f"{path.name}: {key} has shape {found[key]}, expected {shape}", remedy=remedy)


def save(model: UnifiedModel, folder: Path, dtype: torch.dtype, like: Path) -> None:
    """Writes a folder in the official layout; JSON and tokenizer files are copied from the folder ``like``."""
    folder.mkdir(parents=True, exist_ok=True)
    state = model.state_dict()
    index = {}
    for file, entries in zip(("ema.safetensors", VAE_FILE), expected_tensors(model), strict=True):
        tensors = {e.key: state[e.parameter].to(dtype).cpu().reshape(e.shape).contiguous() for e in entries}
        try:
            save_file(tensors, folder / f"{file}.part")
        except (OSError, SafetensorError) as error:
            (folder / f"{file}.part").unlink(missing_ok=True)
            what = f"{file} cannot be written ({error})"
            raise CheckpointError(what, value=str(folder), remedy="Free some space, or name another folder") from error
        (folder / f"{file}.part").replace(folder / file)
        index |= dict.fromkeys(tensors, file)
    size = sum(t.numel() * dtype.itemsize for t in state.values())
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": size}, "weight_map": index}, indent=1) + "\n", encoding="utf-8"
    )
    if like.resolve() != folder.resolve():
        for pattern in ("*.json", "*.txt"):
            for file in like.glob(pattern):
                if file.name != "model.safetensors.index.json":
                    shutil.copy(file, folder / file.name)


def write_config(config: ModelConfig, folder: Path) -> None:
    """Writes the JSON files that ``ModelConfig.from_folder`` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    resize = {n: dataclasses.asdict(getattr(config, f"{n}_resize")) for n in ("vae", "vit", "chat")}
    sampling = {n: dataclasses.asdict(getattr(config, n)) for n in ("image", "edit", "text") if getattr(config, n)}
    files = {
        "llm_config.json": {"model_type": "qwen2", **dataclasses.asdict(config.llm)},
        "vit_config.json": {"model_type": "siglip_vision_model", **dataclasses.asdict(config.vit)},
        "vae_config.json": dataclasses.asdict(config.vae),
        "config.json": {
            "architectures": ["BagelForConditionalGeneration"],
            "model_type": "bagel",
            "latent_patch_size": config.latent_patch_size,
            "max_latent_size": config.max_latent_size,
            "timestep_shift": config.timestep_shift,
            "vit_max_num_patch_per_side": config.vit_table_side,
            "version": config.version,
            "untrained_tasks": list(config.untrained_tasks),
        },
        "preprocessor_config.json": {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resize": resize},
        "generation_config.json": {"sampling": sampling},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
