"""The model versions that a program offers side by side."""

from __future__ import annotations

from dataclasses import dataclass

from core.errors import SettingsError
from core.inference.generator import Generator
from core.inference.zerogpu import ZeroGenerator, is_here, prepare
from core.model.checkpoint import load


@dataclass(frozen=True)
class Version:
    """A loaded checkpoint under the name that outputs carry."""

    name: str
    generator: Generator

    @property
    def fingerprint(self) -> str:
        return self.generator.checkpoint.fingerprint

    @property
    def card(self) -> str:
        """The model card in Markdown, without its front matter; empty where the folder has none."""
        path = self.generator.checkpoint.folder / "README.md"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        return text.split("---\n", 2)[-1] if text.startswith("---\n") else text


def load_versions(sources: list[str]) -> dict[str, Version]:
    """Loads checkpoints (folders or hub ids); the first is the default.

    Raises:
        CheckpointError: one cannot be loaded.
        SettingsError: two have the same name, so that nobody could tell their outputs apart.
    """
    if is_here():
        prepare()
    versions: dict[str, Version] = {}
    for source in sources:
        checkpoint = load(source)
        generator = ZeroGenerator(checkpoint) if is_here() else Generator(checkpoint)
        name = generator.checkpoint.name
        if name in versions:
            raise SettingsError(
                "Two checkpoints have the same name", value=name, remedy="Give one another 'version' in config.json"
            )
        versions[name] = Version(name, generator)
    return versions
