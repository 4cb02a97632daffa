"""Learned versions as folders: an adapter over a base checkpoint (LoRA, arXiv 2106.09685), in peft's layout.

The adapter of a version that was made of another learned one holds that one's as well: the sum of two low-rank changes
is one whose rank is the sum of theirs. So a version needs its base and nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.errors import CheckpointError
from core.model.unified import UnifiedModel

if TYPE_CHECKING:
    from peft import PeftModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
NAME = "default"


def add_adapter(model: UnifiedModel, rank: int, alpha: float, targets: str | list[str], seed: int) -> PeftModel:
    """Puts an adapter that changes nothing yet into the layers whose names match. The model itself runs with it;
    within ``peft.disable_adapter()`` it runs without."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets)
    return get_peft_model(model, config)


def write_adapter(peft: PeftModel, folder: Path, parent: Path | None) -> None:
    """Writes the adapter, joined with that of ``parent``, the version folder whose weights the model began with."""
    config = peft.peft_config[NAME]
    scale = config.lora_alpha / config.r
    own = {
        name.replace(f".{NAME}.", "."): p.detach().float().cpu()
        for name, p in peft.named_parameters() if ".lora_A." in name or ".lora_B." in name
    }  # fmt: skip
    parts = [_scaled(own, scale)]
    if parent is not None:
        parts.insert(0, _read(parent))
    joined = _joined(parts)
    targets = sorted({name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in joined})
    rank = sum(_rank(part) for part in parts)
    values = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": targets, "inference_mode": True}
    try:
        save_file({name: t.contiguous() for name, t in joined.items()}, folder / f"{WEIGHTS}.part")
        (folder / f"{WEIGHTS}.part").replace(folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        what = f"The adapter cannot be written ({error})"
        raise CheckpointError(what, value=folder.name, remedy="Free some space, and start it again") from error


def attach_adapter(model: UnifiedModel, folder: Path) -> None:
    """Puts a version folder's adapter beside the weights, in float32: in bfloat16 a weight is coarser than most of what
    is learned, so that merging would round it away.

    Raises:
        CheckpointError: the adapter is missing, damaged, or of another model.
    """
    from peft import set_peft_model_state_dict

    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        targets, state = config["target_modules"], load_file(folder / WEIGHTS)
        peft = add_adapter(model, config["r"], config["lora_alpha"], targets, 0)
        found = set_peft_model_state_dict(peft, state)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _unreadable(folder, error) from error
    if found.unexpected_keys or any(".lora_" in key for key in found.missing_keys):
        raise CheckpointError("The adapter belongs to another model", value=folder.name, remedy="Check its base")
    model.requires_grad_(False)


def merge_adapter(model: UnifiedModel, folder: Path) -> UnifiedModel:
    """Adds the change of a version folder's adapter to the weights, in float32 before it is rounded to theirs: exact
    where they are in float32.

    Raises:
        CheckpointError: the adapter is missing, damaged, or of another model.
    """
    state, modules = _read(folder), dict(model.named_modules())
    with torch.no_grad():
        for name, down in state.items():
            if ".lora_A." not in name:
                continue
            up, module = state.get(name.replace(".lora_A.", ".lora_B.")), name.rpartition(".lora_A.")[0]
            layer = modules.get(module.removeprefix("base_model.model."))
            if layer is None or up is None or layer.weight.shape != (up.shape[0], down.shape[1]):
                raise CheckpointError("The adapter belongs to another model", value=module, remedy="Check its base")
            change = up.to(layer.weight.device) @ down.to(layer.weight.device)
            layer.weight.copy_((layer.weight.float() + change).to(layer.weight.dtype))
    return model


def _read(folder: Path) -> dict[str, Tensor]:
    """Both factors of every layer in float32, scaled so that their product is the change."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        state = {name: t.float() for name, t in load_file(folder / WEIGHTS).items()}
        return _scaled(state, config["lora_alpha"] / config["r"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise _unreadable(folder, error) from error


def _unreadable(folder: Path, error: Exception) -> CheckpointError:
    what = f"The adapter cannot be read ({type(error).__name__})"
    return CheckpointError(what, value=folder.name, remedy="Copy the folder again")


def _scaled(state: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    return {name: t * scale if ".lora_B." in name else t for name, t in state.items()}


def _rank(state: dict[str, Tensor]) -> int:
    return max((len(t) for name, t in state.items() if ".lora_A." in name), default=0)


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One adapter whose change is the sum of all; a layer that a part lacks gets zeros there."""
    names = sorted({name for part in parts for name in part})
    joined = {}
    for name in names:
        axis = 0 if ".lora_A." in name else 1
        like = next(part[name] for part in parts if name in part)
        shapes = [[*like.shape[:axis], _rank(part), *like.shape[axis + 1 :]] for part in parts]
        blocks = [part.get(name, torch.zeros(shape)) for part, shape in zip(parts, shapes, strict=True)]
        joined[name] = torch.cat(blocks, axis)
    return joined
