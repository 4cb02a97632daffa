"""Reading libraries without their noise: their warnings and log records may quote a patient's values."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGERS = ("pydicom", "pylibjpeg", "libjpeg", "openjpeg", "nibabel", "nibabel.global", "PIL")
_SILENT = logging.CRITICAL + 1
# Warning filters and log levels belong to the whole process, so only one thread may change them at a time.
_LOCK = threading.RLock()


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Drop the warnings and log records of the reading libraries while the block runs."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        levels = [logger.level for logger in loggers]
        try:
            for logger in loggers:
                logger.setLevel(_SILENT)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
