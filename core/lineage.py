"""Where a learned model version comes from: the file ``version.json`` in its folder.

Such a folder holds an adapter in peft's layout (``adapter_config.json``, ``adapter_model.safetensors``) over the
weights of a base checkpoint, and what made it. It names no person, no patient, and no place of a machine.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path

from core.errors import CheckpointError

VERSION_FILE = "version.json"
ADAPTER_FILES = "adapter_config.json", "adapter_model.safetensors"
"""How it is applied, and its weights, as peft names them."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
"""What a version may be called: it is the name of a folder as well."""


@dataclass(frozen=True)
class Lineage:
    """
    Attributes:
        name: what outputs carry.
        parent: name of the version that it was made of: the base, or another learned one.
        base, base_fingerprint: hub id, or else the name, of the checkpoint that the adapter belongs to, and the digest
            of its weights. The adapter holds all that was learned since, that of learned parents as well.
        parent_fingerprint: of the parent's weights; the base's where it was made of that.
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
    parent_fingerprint: str
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
            found = cls(**{f.name: values[f.name] for f in fields(cls)})
            found._need_types()
            return found
        except FileNotFoundError as error:
            what, remedy = "That is no folder of a learned version", f"Name one that holds a {VERSION_FILE}"
            raise CheckpointError(what, value=folder.name, remedy=remedy) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{VERSION_FILE} is damaged", value=folder.name, remedy="Copy it again") from error

    def _need_types(self) -> None:
        """
        Raises:
            TypeError: a value is of another type than pages and programs rely on.
        """
        types = {"str": str, "int": int, "dict": dict, "dict[str, int]": dict}
        wrong = [f.name for f in fields(self) if not isinstance(getattr(self, f.name), types[f.type])]
        tasks = self.metrics.get("tasks", []) if not wrong else []
        counts = self.signals.values() if not wrong else []
        if wrong or not all(isinstance(one, int) for one in counts):
            raise TypeError(wrong or "signals")
        if not isinstance(tasks, list) or not all(isinstance(one, dict) for one in tasks):
            raise TypeError("tasks")

    def moment(self) -> datetime:
        """When it was made.

        Raises:
            CheckpointError: ``created_at`` is no moment with a time zone.
        """
        try:
            found = datetime.fromisoformat(self.created_at)
        except (TypeError, ValueError):
            found = None
        if found is None or found.tzinfo is None:
            remedy = "Write created_at as 2026-03-01T12:00:00+00:00"
            raise CheckpointError("When the version was made is no moment", value=self.created_at, remedy=remedy)
        return found

    def write(self, folder: Path) -> None:
        part = folder / f"{VERSION_FILE}.part"
        part.write_text(json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(folder / VERSION_FILE)

    def to_json(self) -> dict:
        return asdict(self)

    def brief(self) -> dict:
        """What an output says of where its version comes from; ``snapshot`` and the name lead to the rest."""
        return {
            "parent": self.parent,
            "base": self.base,
            "snapshot": self.snapshot[:12],
            "recipe": str(self.recipe.get("about", "")),
            "judgements": self.judgements,
            "created_at": self.created_at,
        }


def checked_name(name: str) -> str:
    """The name itself.

    Raises:
        CheckpointError: a version cannot be called that.
    """
    if not NAME.fullmatch(name):
        remedy = "Take up to 80 letters, digits, dots, dashes and underscores, and begin with a letter or a digit"
        raise CheckpointError("A version cannot have that name", value=name, remedy=remedy)
    return name


def is_learned(folder: Path) -> bool:
    """Whether a folder holds a learned version and not a whole checkpoint."""
    return (folder / VERSION_FILE).is_file()
