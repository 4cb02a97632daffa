"""Which weights: a digest that is quick to compute for any size."""

import hashlib
from pathlib import Path

from core.lineage import ADAPTER_FILES


def fingerprint(path: Path) -> str:
    """Digest of a file's content, or of a checkpoint folder: of its weights the sizes and both ends, 1 MiB each.

    A hub id has none: the hub's own commit stands for it once it is downloaded.
    """
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(path.glob("*.safetensors")):
            size = file.stat().st_size
            digest.update(f"{file.name} {size}".encode())
            with file.open("rb") as content:
                digest.update(content.read(1 << 20))
                content.seek(max(0, size - (1 << 20)))
                digest.update(content.read())
    elif path.is_file():
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256")
    else:
        digest.update(str(path).encode())
    return digest.hexdigest()


def learned_fingerprint(base: str, folder: Path) -> str:
    """Digest of a learned version's weights: of its base, and of the whole adapter in its folder, which is small."""
    parts = [base, *(fingerprint(folder / name) for name in ADAPTER_FILES)]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()
