"""The store that commands work on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.config import data_folder, database_url, pictures_place

if TYPE_CHECKING:
    from core.feedback.studio import StudioStore


def studio_store() -> StudioStore:
    """The store of the studio and the demo, as both of them find it."""
    from core.feedback.studio import StudioStore

    folder = data_folder()
    return StudioStore(database_url(folder), pictures_place(folder))
