"""Processes that are found again by what a file says of them: their number and the moment when they began.

The number alone may be another one's, on this machine or on another one that uses the same folder.
"""

from __future__ import annotations

from contextlib import suppress

import psutil

SAME_SECONDS = 0.1
NICE = 10
"""The demo may run on the same machine, and somebody waits for it."""


def known_by(pid: int) -> dict:
    """What a child is known by. It is made nice, too."""
    said = {"pid": pid}
    with suppress(psutil.Error):  # it may have ended
        process = psutil.Process(pid)
        said["born"] = process.create_time()
        process.nice(NICE)
    return said


def find(said: dict) -> psutil.Process | None:
    """The process that has written a file, or is named in it; None where it is gone."""
    pid, born = said.get("pid"), said.get("born")
    if not isinstance(pid, int) or pid <= 0 or not isinstance(born, int | float):
        return None
    try:
        process = psutil.Process(pid)
        is_it = abs(process.create_time() - born) < SAME_SECONDS and process.status() != psutil.STATUS_ZOMBIE
        return process if is_it else None
    except psutil.Error:
        return None
