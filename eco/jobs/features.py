"""The optional parts of a run and how each is switched: `recipes/features.toml`."""

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from eco import recipe as recipes
from eco.config import Config, nearest, setting
from eco.flags import SHIPPED, Flag, from_mapping
from eco.recipe import Recipe

Settings = dict[str, bool | int | float | str]
"""Dotted key of a recipe -> value."""


class Feature(Config):
    """One entry of the table."""

    name: str = setting(..., "As `eco prove` and the ledger call it.")
    what: str = setting(..., "One line that says what it is.")
    families: tuple[str, ...] = setting((), "The models that can have it; empty: all.")
    needs: Settings = setting({}, "Settings that a run has with it and without it.")
    off: Settings = setting(..., "Settings that switch it off.", min_length=1)
    on: Settings = setting(..., "Settings that switch it on in a recipe that has it off.", min_length=1)
    knobs: Settings = setting({}, "Its further settings, at values that no recipe has.")
    modules: tuple[str, ...] = setting((), "What only this feature imports.")

    def switched_on(self, recipe: str, flags: Sequence[Flag] = ()) -> Recipe:
        """The recipe with the feature as it has it, or as the table does where it has it off."""
        plain = self._load(recipe, flags, {})
        values = {key: value for key, _, value in recipes.settings(plain)}
        has_it = any(values[key] != value for key, value in self.off.items())
        return plain if has_it else self._load(recipe, flags, self.on)

    def switched_off(self, recipe: str, flags: Sequence[Flag] = ()) -> Recipe:
        return self._load(recipe, flags, self.off)

    def turned(self, recipe: str, flags: Sequence[Flag] = ()) -> Recipe:
        """The recipe without the feature, but with all knobs of it turned."""
        return self._load(recipe, flags, {**self.off, **self.knobs})

    def _load(self, recipe: str, flags: Sequence[Flag], settings: Mapping[str, Any]) -> Recipe:
        return recipes.load(recipe, [*flags, *from_mapping({**self.needs, **settings})])


@cache
def table() -> dict[str, Feature]:
    """What ships with the package, by name."""
    read = tomllib.loads((SHIPPED / "features.toml").read_text(encoding="utf-8"))
    return {name: Feature(name=name, **entry) for name, entry in read.items()}


def features_of(family: str) -> list[Feature]:
    """Those that models of the family can have."""
    return [feature for feature in table().values() if not feature.families or family in feature.families]


def find(name: str, family: str) -> Feature:
    """
    Raises:
        ValueError: there is no such feature, or the family does not have it.
    """
    there = [feature.name for feature in features_of(family)]
    if name in there:
        return table()[name]
    if name in table():
        why = f"the feature {name!r} is for {', '.join(table()[name].families)}, and this recipe's model is {family}"
    else:
        why = f"no feature {name!r}{nearest(name, there)}"
    raise ValueError(f"{why}; features of {family}: {', '.join(there)}")
