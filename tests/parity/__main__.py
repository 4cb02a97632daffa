"""``python -m tests.parity FOLDER``: one line per group; exit status 1 when anything is off, missing or unread."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from core.errors import UniMedError
from tests.parity.groups import GROUPS, Reference
from tests.parity.vectors import Group

NOT_REPLAYED = {"timings"}  # how long the reference took


def replay(folder: Path) -> bool:
    """Runs all groups of a folder; True when every one holds."""
    reference = Reference(folder)
    good = True
    present = {path.stem for path in (folder / "vectors").glob("*") if path.suffix in (".json", ".safetensors")}
    for stem in sorted(present - GROUPS.keys() - NOT_REPLAYED):
        print(f"FAIL {stem:<15} unknown group")
        good = False
    for name, check in GROUPS.items():
        group = Group(folder, name)
        try:
            check(group, reference)
        except Exception as error:  # whatever a foreign set provokes is this group's failure, not the end
            group.problems.append(f"{type(error).__name__}: {error}")
        good &= group.finish()
    return good


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with ckpt/, images/ and vectors/")
    options = parser.parse_args(arguments)
    try:
        good = replay(options.folder)
    except (UniMedError, OSError, KeyError, ValueError) as error:
        print(f"FAIL {error}")
        return 1
    print("parity holds" if good else "parity does NOT hold")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
