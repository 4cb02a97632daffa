"""A snapshot as a folder, for learning on a machine that has no database: its signals, and the pictures they show.

It has no judgement's id, no project's and no rater; patients have this store's names. Withdrawals do not reach it: who
takes it elsewhere deletes it when the snapshot is emptied here.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from core.errors import FeedbackError
from core.feedback.blobs import Blobs
from core.feedback.snapshots import Snapshots
from core.sequence import NOTICE

SIGNALS, PICTURES, ABOUT = "signals.jsonl", "pictures", "snapshot.json"


def write(snapshots: Snapshots, blobs: Blobs, sha256: str, folder: Path) -> dict:
    """Writes ``signals.jsonl`` (a signal a line with its split, and how many judgements it rests on), ``pictures/``
    (PNG by SHA-256) and ``snapshot.json``, which it returns; that has the SHA-256 of the signals' file. A folder that
    could not be finished is not there.

    Args:
        sha256: of the snapshot, or its beginning.

    Raises:
        FeedbackError: there is no such snapshot, it was emptied, the folder is not empty, or cannot be written.
    """
    info = snapshots.find(sha256)
    contents = snapshots.read(info.sha256)
    judgements = {one for signal in contents for one in signal["judgements"]}
    rules = {"test_share": info.rules.test_share, "seed": info.rules.seed, "least_gold": info.rules.least_gold,
             "visitors": info.rules.visitors}  # fmt: skip
    about = {"sha256": info.sha256, "rules": rules, "counts": info.counts, "judgements": len(judgements)}
    about |= {"notice": NOTICE}
    part = folder.with_name(f"{folder.name}.part")
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FeedbackError("That is not empty", value=str(folder), remedy="Name a new folder")
        shutil.rmtree(part, ignore_errors=True)
        (part / PICTURES).mkdir(parents=True)
        with (part / SIGNALS).open("w", encoding="utf-8") as file:
            for signal in contents:
                line = signal | {"judgements": len(signal["judgements"])}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        for one in sorted(_pictures(contents)):
            if not blobs.copy(one, part / PICTURES / f"{one}.png"):
                raise FeedbackError("A picture is not there any more", value=one[:12], remedy="Make the snapshot again")
        about["signals_sha256"] = hashlib.sha256((part / SIGNALS).read_bytes()).hexdigest()
        (part / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        snapshots.read(info.sha256)  # not withdrawn meanwhile
        if folder.exists():
            folder.rmdir()
        part.replace(folder)
    except OSError as error:
        what, remedy = f"The snapshot cannot be written ({error.strerror})", "Name another folder"
        raise FeedbackError(what, value=str(folder), remedy=remedy) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return about


def _pictures(contents: list[dict]) -> set[str]:
    shown = [s for signal in contents for s in (*signal["inputs"], signal["chosen"], signal["rejected"]) if s]
    return {segment["sha256"] for segment in shown if segment["type"] == "image"}
