"""Several processes: torchrun's environment, FSDP2 sharding, and sums over all processes."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from core.model.checkpoint import pick_device
from core.model.unified import UnifiedModel


def join() -> torch.device | None:
    """Joins the processes that torchrun started and returns this one's device; None outside of torchrun."""
    if "RANK" not in os.environ or "MASTER_ADDR" not in os.environ:
        return None
    device, _ = pick_device()
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not dist.is_initialized():  # the first process may encode or consolidate for long while the others wait
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=6))
    return device


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def shard(objective: nn.Module, model: UnifiedModel, device: torch.device, *, bf16: bool) -> None:
    """Shards every layer of a model in main memory onto the devices, and what is left as one group.

    The autoencoder and the position tables stay whole: they never train.
    On GPUs ``bf16`` computes and gathers in bfloat16 and reduces gradients in float32; the shards are float32.
    """
    mixed = bf16 and device.type == "cuda"
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if mixed else MixedPrecisionPolicy()
    for layer in [*model.language_model.layers, *model.vit.layers]:
        fully_shard(layer, mp_policy=policy)
    whole = {*model.vae.parameters(), model.latent_pos_embed, model.vit_pos_embed}
    fully_shard(objective, mp_policy=policy, ignored_params=whole, reshard_after_forward=False)
    model.vae.to(device)
    for table in (model.latent_pos_embed, model.vit_pos_embed):
        table.data = table.data.to(device)


def summed(values: list[float], device: torch.device) -> list[float]:
    """Sums over all processes, exact for whole numbers below 2^53."""
    if not dist.is_initialized():
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.tolist()


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor, or the tensor."""
    return tensor.to_local() if isinstance(tensor, torch.distributed.tensor.DTensor) else tensor


def full(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor. All processes call it."""
    return tensor.full_tensor() if isinstance(tensor, torch.distributed.tensor.DTensor) else tensor
