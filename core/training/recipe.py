"""Recipes: a JSON file names what to train and how; ``key=value`` overrides; unknown keys are refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TypeVar

from core.errors import SettingsError

R = TypeVar("R")


def read_recipe(path: Path, overrides: list[str]) -> dict:
    """The recipe's keys and values. An override's value is JSON where it parses as such, otherwise a string."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingsError("No such recipe", value=str(path), remedy="See core/training/recipes") from error
    except ValueError as error:
        raise SettingsError(f"The recipe is not valid JSON ({error})", value=str(path)) from error
    for item in overrides:
        key, separator, text = item.partition("=")
        if not separator:
            raise SettingsError("An override must read key=value", value=item, remedy="For example steps=100")
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text
    return values


def build_recipe(cls: type[R], values: dict) -> R:
    """The recipe as a dataclass.

    Raises:
        SettingsError: a key that the dataclass lacks, or a required one that is missing.
    """
    known = {f.name for f in dataclasses.fields(cls)}
    for key in values:
        if key not in known:
            raise SettingsError("Unknown recipe key", value=key, remedy=f"Use one of {', '.join(sorted(known))}")
    missing = [
        f.name for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and f.name not in values
    ]  # fmt: skip
    if missing:
        raise SettingsError("The recipe lacks a key", value=missing[0], remedy=f"Give {missing[0]}=VALUE")
    for f in dataclasses.fields(cls):
        kind = {"int": int, "float": (int, float), "bool": bool, "str": str}.get(f.type, object)
        if f.name in values and not isinstance(values[f.name], kind):
            raise SettingsError(f"The recipe's {f.name} must be of type {f.type}", value=values[f.name])
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def run_recipe(path: Path, overrides: list[str]) -> Path:
    """Trains what the recipe's ``kind`` says and returns the output folder."""
    values = read_recipe(path, overrides)
    if values.get("kind") == "autoencoder":
        from core.training.autoencoder import AutoencoderRecipe, train_autoencoder

        return train_autoencoder(build_recipe(AutoencoderRecipe, values))
    if values.get("kind") == "model":
        from core.training.trainer import TrainRecipe, train_model

        return train_model(build_recipe(TrainRecipe, values))
    raise SettingsError("Unknown kind of recipe", value=values.get("kind"), remedy="Use 'autoencoder' or 'model'")
