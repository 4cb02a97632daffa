"""Every sentence of the demo in every language: one table.

Labels of widgets are translated by the page, which knows the browser's language (``label``). What a handler says is
translated here, in the language that the browser has asked for (``words``). Errors of the core are English.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

LANGUAGES = ("en", "de")
TABLE: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("strings.json").read_text(encoding="utf-8"))

I18N = gr.I18n(**{language: {key: row[language] for key, row in TABLE.items()} for language in LANGUAGES})


def label(key: str) -> gr.utils.I18nData | str:
    """A text for a widget, which the page translates."""
    if key not in TABLE:
        raise KeyError(f"demo/strings.json has no {key!r}")
    return I18N(key)


@dataclass(frozen=True)
class Words:
    """The sentences of one language. Call it with a key and the values that the sentence names."""

    language: str

    def __call__(self, key: str, **values: object) -> str:
        return TABLE[key][self.language].format(**values)

    def all(self, prefix: str) -> dict[str, str]:
        """The sentences whose keys begin so, by the rest of the key, as they stand."""
        return {key.removeprefix(prefix): row[self.language] for key, row in TABLE.items() if key.startswith(prefix)}


ENGLISH = Words("en")


def words(accept_language: str | None) -> Words:
    """The language that a browser asks for, by its ``Accept-Language`` header; English where we have none of its."""
    for part in (accept_language or "").split(","):
        language = part.split(";")[0].strip().lower().split("-")[0]
        if language in LANGUAGES:
            return Words(language)
    return ENGLISH
