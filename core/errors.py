"""The one exception tree of the project.

Every error says what went wrong, the value that caused it, and the remedy, so that a command line, a web
page and a log can all show the same sentence to a person.
"""

from __future__ import annotations

import traceback
from pathlib import Path


class UniMedError(Exception):
    """Base of every error that a user can cause or cure.

    Args:
        what: what went wrong, as a sentence without a full stop.
        value: the offending value, shown with ``repr`` when it is given.
        remedy: what to do about it, as a sentence without a full stop.
    """

    def __init__(self, what: str, *, value: object = None, remedy: str | None = None) -> None:
        self.what, self.value, self.remedy = what, value, remedy
        message = what if value is None else f"{what}: {value!r}"
        super().__init__(f"{message}. {remedy}." if remedy else f"{message}.")


class SettingsError(UniMedError):
    """A setting, flag or recipe key that does not exist or has an impossible value."""


class NothingLearnedError(SettingsError):
    """Learning made what is to be imitated less likely at once, and there is nothing to go back to."""


class ImageError(UniMedError):
    """A file or array that cannot be read as a medical image."""


class PromptError(UniMedError):
    """A request that a task cannot be built from: a missing image, an empty prompt, an unknown task."""


class CheckpointError(UniMedError):
    """A checkpoint folder that is incomplete, inconsistent or too large for the machine."""


class MemoryShortageError(CheckpointError):
    """A checkpoint that there is no room for now."""


class RecordError(UniMedError):
    """A line of a records file, or a file that it names, that cannot be used. ``what`` starts with FILE:LINE."""


class BusyError(UniMedError):
    """A request that the model has no room for now."""


class FeedbackError(UniMedError):
    """A judgement, a consent code or a store of feedback that cannot be used."""


class StorageError(FeedbackError):
    """A store that cannot be used for now. Nothing was stored, and the same may be tried again later."""


class AccessError(FeedbackError):
    """Something that this person may not see or do. It does not tell whether the thing exists."""


def brief(error: BaseException) -> str:
    """The kind of an error and the lines where it arose, innermost first: what may stand in a log. Its own words may be
    those of a visitor, a rater or a patient's file."""
    frames = reversed(traceback.extract_tb(error.__traceback__)[-5:])
    return f"{type(error).__name__} ({' < '.join(f'{Path(f.filename).name}:{f.lineno}' for f in frames)})"
