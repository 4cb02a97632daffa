"""The floors of the house: a file imports only from its own floor or from a lower one."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("core", "demo", "studio", "app")
FLOORS = (
    ("core", "core.config", "core.errors", "core.lineage", "core.sequence"),
    ("core.data", "core.feedback", "core.tasks"),
    ("core.model",),
    ("core.inference",),
    ("core.evaluation",),
    ("core.training",),
    ("demo", "studio"),
    ("app", "core.__main__", "core.commands"),
)
FLOOR_OF = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}
# They run on machines that have no torch, and a page of the studio must open in a second.
TORCH_FREE = ("core.config", "core.errors", "core.lineage", "core.sequence", "core.tasks", "core.tasks.regions")
TORCH_FREE += ("core.data.images", "core.data.dicom", "core.data.stack")
TORCH_FREE += ("core.feedback.store", "core.feedback.mirror", "core.feedback.readers")
TORCH_FREE += ("studio.views.versions",)
TORCH_FREE_LATER = ("studio",)  # from the day it exists


def floor(module: str) -> int | None:
    """The floor of a module: that of the longest listed name that it starts with; None is nowhere."""
    parts = module.split(".")
    if parts[0] == "core" and len(parts) > 1:
        return FLOOR_OF.get(".".join(parts[:2]))
    return FLOOR_OF.get(parts[0])


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports(source: str, package: str) -> Iterator[tuple[int, str]]:
    """(line, module) of every import in the source, lazy and type-checking ones included.

    ``from core import data`` counts as ``core.data``, and ``from core import __version__`` as ``core``;
    ``package`` resolves relative imports.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join(parents[: len(parents) - node.level + 1] + ([base] if base else []))
            for alias in node.names:
                room = base == "core" and (f"core.{alias.name}" in FLOOR_OF or is_module(f"core.{alias.name}"))
                yield node.lineno, f"core.{alias.name}" if room else base


def violations(module: str, source: str, package: str) -> list[str]:
    """What breaks the rule in one file, each as a sentence."""
    own = floor(module)
    if own is None:
        return [f"{module} is on no floor: give it one in tests/test_floors.py"]
    found = []
    for line, target in imports(source, package):
        room = target.split(".")[0]
        if room in ("tests", "benchmarks"):
            found.append(f"{module}:{line} imports {target}: the product does not need its own tests")
        elif room not in ROOMS:
            continue
        elif target.startswith("core.") and floor(target) is None:
            found.append(f"{module}:{line} imports {target}, which is on no floor")
        elif floor(target) > own:
            found.append(f"{module}:{line} (floor {own}) imports {target} (floor {floor(target)})")
        elif {room, module.split(".")[0]} == {"demo", "studio"}:
            found.append(f"{module}:{line} imports {target}: demo and studio do not know each other")
    return found


def product_files() -> list[Path]:
    folders = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    return folders + [path for path in [ROOT / "app.py"] if path.is_file()]


def module_name(path: Path) -> tuple[str, str]:
    """(module, package that relative imports start from) of a file of the project."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[-1] == "__init__":
        return ".".join(parts[:-1]), ".".join(parts[:-1])
    return ".".join(parts), ".".join(parts[:-1])


@pytest.mark.parametrize("path", product_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_file_imports_only_from_its_own_floor_or_below(path: Path) -> None:
    module, package = module_name(path)
    assert violations(module, path.read_text(encoding="utf-8"), package) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("core.sequence", "from core.data.images import open_image"),
        ("core.data.images", "def f():\n    from core.model import vae"),
        ("core.data.images", "from ..model import vae"),
        ("core.data.images", "from core import inference"),
        ("core.model.vae", "import core.training.trainer"),
        ("core.inference.generator", "from demo import handlers"),
        ("demo.app", "import studio.app"),
        ("studio.views.queue", "from demo.render import draw"),
        ("demo.app", "import app"),
        ("core.model.vae", "from tests.core import builders"),
        ("core.newroom.thing", "import json"),
        ("core.model.vae", "from core.newroom import thing"),
    ],
)
def test_the_rule_finds_a_wrong_import(module: str, source: str) -> None:
    assert violations(module, source, module.rpartition(".")[0])


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("core.model.vae", "import torch\nfrom core.config import VAEConfig\nfrom core import errors"),
        ("core.model.vae", "from . import flow\nfrom ..data import packing"),
        ("core.config", "from core import __version__"),
        ("demo.app", "from demo import handlers\nfrom core.inference import generator"),
        ("core.__main__", "from core.training import trainer"),
        ("app", "import demo.app\nimport studio.app"),
    ],
)
def test_the_rule_lets_a_right_import_pass(module: str, source: str) -> None:
    assert violations(module, source, module.rpartition(".")[0]) == []


def test_reading_an_image_needs_no_torch() -> None:
    later = [name for name in TORCH_FREE_LATER if (ROOT / name.replace(".", "/") / "__init__.py").is_file()]
    for name in [*TORCH_FREE, *later]:
        code = f"import sys, {name}; sys.exit('torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{name} loads torch, or does not load at all:\n{done.stderr}"
