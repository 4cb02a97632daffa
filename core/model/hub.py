"""Where a checkpoint folder is: on this machine, or on the hub, from which it is downloaded once."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from core.errors import CheckpointError

MODEL_FILES = ("ema_bf16.safetensors", "ema.safetensors", "model_bf16.safetensors", "model.safetensors")
VAE_FILE = "ae.safetensors"
HUB_FILES = ["*.json", "*.txt", VAE_FILE]


def resolve(source: str | Path) -> Path:
    """The local folder of a checkpoint; a hub id is downloaded into the hub's cache."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        raise CheckpointError("No such checkpoint folder", value=str(source), remedy="Give a folder or a hub id")
    from httpx2 import HTTPError
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(str(source), allow_patterns=HUB_FILES))
        for weights in MODEL_FILES:  # one of them, not all: each has 27 GiB officially
            with suppress(EntryNotFoundError):
                hf_hub_download(str(source), weights, revision=folder.name)
                break
        return folder
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, HTTPError, OSError) as error:
        raise CheckpointError(
            f"Neither a folder nor to be had from the hub ({type(error).__name__})", value=str(source),
            remedy="Check the name and the connection, or copy the folder here by hand",
        ) from error  # fmt: skip


def hub_id(folder: Path) -> str:
    """The id of a folder in the hub's cache (``models--ORGANISATION--NAME/snapshots/COMMIT``); empty elsewhere."""
    kind, *parts = folder.parent.parent.name.split("--") if folder.parent.name == "snapshots" else [""]
    return "/".join(parts) if kind == "models" else ""
