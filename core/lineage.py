"""Where a learned model version comes from: the file ``version.json`` in its folder.

Such a folder holds an adapter in peft's layout (``adapter_config.json``, ``adapter_model.safetensors``) over the
weights of a base checkpoint, and what made it. It names no person, no patient, and no place of a machine.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from core.errors import CheckpointError

VERSION_FILE = "version.json"


@dataclass(frozen=True)
class Lineage:
    """
    Attributes:
        name: what outputs carry.
        parent: name of the version that it was made of: the base, or another learned one.
        base, base_fingerprint: hub id, or else the name, of the checkpoint that the adapter belongs to, and the digest
            of its weights. The adapter holds all that was learned since, that of learned parents as well.
        snapshot: SHA-256 of what it learned from.
        signals: how many signals that had, by kind and split.
        judgements: how many judgements those rest on.
        recipe: how it was trained.
        revision: of the code, as git names it; empty where that is unknown.
        metrics: what the training measured on held-out signals.
        created_at: ISO 8601, in UTC.
    """

    name: str
    parent: str
    base: str
    base_fingerprint: str
    snapshot: str
    signals: dict[str, int]
    judgements: int
    recipe: dict
    revision: str
    metrics: dict
    created_at: str

    @classmethod
    def read(cls, folder: Path) -> Lineage:
        """
        Raises:
            CheckpointError: there is no such file, or it is damaged.
        """
        path = folder / VERSION_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{f.name: values[f.name] for f in fields(cls)})
        except FileNotFoundError as error:
            raise CheckpointError("That is no folder of a learned version", value=str(folder)) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{VERSION_FILE} is damaged", value=folder.name, remedy="Copy it again") from error

    def write(self, folder: Path) -> None:
        part = folder / f"{VERSION_FILE}.part"
        part.write_text(json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(folder / VERSION_FILE)

    def to_json(self) -> dict:
        return asdict(self)


def is_learned(folder: Path) -> bool:
    """Whether a folder holds a learned version and not a whole checkpoint."""
    return (folder / VERSION_FILE).is_file()
