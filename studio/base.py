"""The checkpoint that is served where no learned version is. Nothing here loads torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from core.config import ModelConfig, default_model
from core.errors import CheckpointError, UniMedError
from core.lineage import Lineage, is_learned
from core.model.fingerprint import fingerprint

SMALL = 1024
"""Up to this width of its decoder a checkpoint learns by the recipe for small ones."""


@dataclass(frozen=True)
class Base:
    """The checkpoint that is served where no version is promoted.

    Attributes:
        fingerprint: of its weights without an adapter; None where they are not on this machine yet.
        recipe: name of the recipe that suits its size.
    """

    name: str
    fingerprint: str | None
    recipe: str = "default.json"


def base() -> Base:
    """What ``default_model`` names, as loading would name it."""
    source = default_model()
    folder = Path(source).expanduser()
    try:
        if is_learned(folder):
            lineage = Lineage.read(folder)
            return Base(lineage.name, lineage.base_fingerprint)
        is_here = folder.is_dir()
        folder = folder if is_here else _downloaded(source)
        config = ModelConfig.from_folder(folder)
        named = folder.resolve().name if is_here else f"{source}@{folder.name[:8]}"
        recipe = "nano.json" if config.llm.hidden_size <= SMALL else "default.json"
        return Base(config.version or named, fingerprint(folder), recipe)
    except (UniMedError, OSError):
        return Base(source, None)


def _downloaded(source: str) -> Path:
    """
    Raises:
        CheckpointError: it is no hub id, or nobody has downloaded it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError) as error:
        raise CheckpointError("The checkpoint is not on this machine", value=source) from error
