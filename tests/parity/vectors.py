"""Reading a folder of vectors, comparing within its tolerances, and knowing what has not been read."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PILImage
from safetensors import SafetensorError, safe_open
from torch import Tensor

FLOAT_TOLERANCE = 2e-5  # times max(1, largest value)
IMAGE_SHARE = 0.005  # of the bytes may be one level off
GRADIENT_TOLERANCE = 1e-4  # relative


def listed_arrays(folder: Path, group: str) -> list[str]:
    """Names of the arrays that the set's README lists under the heading of a group; empty without a README."""
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    section = re.search(rf"^## {re.escape(group)}\b.*?(?=^## |\Z)", text, re.M | re.S)
    return re.findall(r"^\| (\S+) \| \[[\d, ]*\] \|", section[0], re.M) if section else []


class Group:
    """One topic of the vectors. Every comparison is counted; every array must be there and be read."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.problems: list[str] = []
        self.checks = 0
        self.worst, self.worst_at = 0.0, "-"
        self.json: dict = {}
        self.names: list[str] = []
        self.unread: set[str] = set()
        self._file = None
        self._open(folder)

    def _open(self, folder: Path) -> None:
        json_file, array_file = (folder / "vectors" / f"{self.name}.{kind}" for kind in ("json", "safetensors"))
        try:
            if json_file.is_file():
                self.json = json.loads(json_file.read_text(encoding="utf-8"))
            if array_file.is_file():
                self._file = safe_open(array_file, "pt")
                self.names = sorted(self._file.keys())
                self.unread = set(self.names)
        except (SafetensorError, ValueError) as error:
            self.problems.append(f"cannot be read ({error})")
        if not self.json and not self.names:
            self.problems.append("no vectors found")
        self.problems += [f"missing array {name}" for name in listed_arrays(folder, self.name) if name not in self]

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def read(self, name: str) -> Tensor:
        """A recorded array. A missing one ends the group."""
        if name not in self.names:
            raise KeyError(f"missing array {name}")
        self.unread.discard(name)
        return self._file.get_tensor(name)

    def floats(self, what: str, ours: Tensor, recorded: Tensor | list | float) -> None:
        """Deviation relative to max(1, largest recorded value), against the float tolerance."""
        a, b = torch.as_tensor(ours).detach().double(), torch.as_tensor(recorded).double()
        self.checks += 1
        if a.shape != b.shape:
            self.problems.append(f"{what}: shape {tuple(a.shape)}, recorded {tuple(b.shape)}")
            return
        deviation = (a - b).abs().max().item() / max(1.0, b.abs().max().item()) if b.numel() else 0.0
        if not deviation <= self.worst:
            self.worst, self.worst_at = deviation, what
        if not deviation <= FLOAT_TOLERANCE:
            self.problems.append(f"{what}: off by {deviation:.2e} of the largest value")

    def array(self, name: str, ours: Tensor) -> None:
        """Our result against the array of this name, by its type."""
        recorded = self.read(name)
        if recorded.dtype == torch.uint8:
            self.pixels(name, ours, recorded)
        elif recorded.is_floating_point():
            self.floats(name, ours, recorded)
        else:
            self.equal(name, ours.tolist(), recorded.tolist())

    def pixels(self, what: str, ours: Tensor | PILImage.Image, recorded: Tensor) -> None:
        a = torch.from_numpy(np.array(ours)) if isinstance(ours, PILImage.Image) else ours
        self.checks += 1
        if a.shape != recorded.shape:
            self.problems.append(f"{what}: shape {tuple(a.shape)}, recorded {tuple(recorded.shape)}")
            return
        off = (a.int() - recorded.int()).abs()
        if off.max() > 1 or (off > 0).float().mean() > IMAGE_SHARE:
            share = (off > 0).float().mean()
            self.problems.append(f"{what}: pixels off by up to {off.max()} levels, {share:.2%} of them")

    def equal(self, what: str, ours, recorded) -> None:
        self.checks += 1
        if ours != recorded:
            self.problems.append(f"{what}: {str(ours)[:80]}, recorded {str(recorded)[:80]}")

    def gradient(self, what: str, ours: float, recorded: float, floor: float) -> None:
        """A norm within 1e-4; ``floor`` is the size below which a norm is rounding noise."""
        self.checks += 1
        if not abs(ours - recorded) <= GRADIENT_TOLERANCE * abs(recorded) + floor:
            self.problems.append(f"gradient norm of {what}: {ours:.6g}, recorded {recorded:.6g}")

    def finish(self) -> bool:
        """Prints the group's line; True when it holds."""
        self.problems.extend(f"unread array {name}" for name in sorted(self.unread))
        state = "ok  " if not self.problems else "FAIL"
        print(f"{state} {self.name:<15} {self.checks:>5} checks, worst {self.worst:.1e} ({self.worst_at})", flush=True)
        for problem in self.problems[:8]:
            print(f"     {problem}")
        if len(self.problems) > 8:
            print(f"     and {len(self.problems) - 8} more")
        return not self.problems


def sha256_of(image: PILImage.Image) -> str:
    return hashlib.sha256(np.array(image).tobytes()).hexdigest()
