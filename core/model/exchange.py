"""Learned versions on their way: into a whole checkpoint, to and from the hub, and into the folder of versions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from core.errors import CheckpointError
from core.lineage import VERSION_FILE, Lineage, checked_name
from core.model.adapter import CONFIG, WEIGHTS, merge_adapter
from core.model.checkpoint import base_of, load, save
from core.model.fingerprint import fingerprint, learned_fingerprint

CARD = "README.md"
NEEDED = (VERSION_FILE, CONFIG, WEIGHTS)
FILES = (*NEEDED, CARD)
"""What a version is; of the run that made it nothing else is taken along."""


def checked(folder: Path) -> tuple[Lineage, str]:
    """What a version folder says of itself, and its fingerprint over its base, which is here.

    Raises:
        CheckpointError: it is none, lacks a file, has a name that is no folder's, or its base is not here.
    """
    lineage = Lineage.read(folder)
    checked_name(lineage.name)
    for name in NEEDED:
        if not (folder / name).is_file():
            remedy = "Copy the folder again"
            raise CheckpointError(f"The folder of {lineage.name} lacks a file", value=name, remedy=remedy)
    return lineage, learned_fingerprint(fingerprint(base_of(lineage)), folder)


def merge(folder: Path, out: Path, dtype: torch.dtype) -> None:
    """Writes a version as a whole checkpoint in the official layout, which needs neither base nor adapter.

    Raises:
        CheckpointError: it cannot be loaded or written, or there is something in ``out`` already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError("That is not empty", value=str(out), remedy="Name a new folder")
    lineage = Lineage.read(folder)
    base = load(base_of(lineage), torch.device("cpu"), dtype)
    save(merge_adapter(base.model, folder), out, dtype, like=base.folder)
    config = out / "config.json"
    values = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    config.write_text(json.dumps(values | {"version": lineage.name}, indent=1) + "\n", encoding="utf-8")
    if (folder / CARD).is_file():
        shutil.copy(folder / CARD, out / CARD)


def push(folder: Path, repo: str, token: str, endpoint: str | None = None) -> str:
    """Puts a version into a private repository of the hub, which is made where there is none. Returns the commit's
    address.

    Raises:
        CheckpointError: it is no version, everybody can read the repository, or the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi

    lineage, _ = checked(folder)
    api = HfApi(endpoint=endpoint, token=token)
    with _readable(repo, token):
        api.create_repo(repo, private=True, exist_ok=True)
        private = api.repo_info(repo).private
    if not private:
        remedy = "Make it private, or name another one: what was learned from patients is not for everybody"
        raise CheckpointError("Everybody can read that repository", value=repo, remedy=remedy)
    with _readable(repo, token):
        done = api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=list(FILES), commit_message=f"Version {lineage.name}"
        )
        return done.commit_url


def pull(repo: str, folder: Path, token: str | None, endpoint: str | None = None) -> None:
    """Downloads a version into a folder.

    Raises:
        CheckpointError: the hub refuses or cannot be reached.
    """
    from huggingface_hub import snapshot_download

    with _readable(repo, token):
        snapshot_download(repo, local_dir=folder, allow_patterns=list(FILES), token=token, endpoint=endpoint)


def place(folder: Path, versions: Path) -> tuple[Path, bool]:
    """Copies a version into the folder of versions, under its name. Returns where it is, and whether it was not there
    before.

    Raises:
        CheckpointError: another one with that name is there, or it cannot be written.
    """
    lineage, digest = checked(folder)
    target = versions / lineage.name
    if target.exists():
        if checked(target)[1] != digest:
            raise CheckpointError("Another version has that name", value=lineage.name, remedy="Train under a new name")
        return target, False
    part = versions / f".{lineage.name}.part"
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for name in FILES:
            if (folder / name).is_file():
                shutil.copy(folder / name, part / name)
        part.replace(target)
    except OSError as error:
        remedy = "Check the disk and the rights of the folder of versions"
        what = f"The version cannot be copied ({error.strerror})"
        raise CheckpointError(what, value=lineage.name, remedy=remedy) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target, True


@contextmanager
def _readable(repo: str, token: str | None) -> Iterator[None]:
    """Turns the hub's errors, and those of the connection, into a sentence without the token."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
        return
    except Exception as error:  # the connection's errors are of one library or another, by the hub's version
        what = str(error).strip().partition("\n")[0] or type(error).__name__
        if isinstance(error, HfHubHTTPError):
            what = f"{error.response.status_code} {error.server_message or error.response.reason_phrase}"
    what = what.replace(token, "***") if token else what
    remedy = "Check the repository's name, the connection, and what HF_TOKEN may do"
    raise CheckpointError(f"The hub does not take or give the version ({what})", value=repo, remedy=remedy)
