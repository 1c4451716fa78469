"""The base of every component's Config: frozen, typed, strict about unknown keys, with optional flat flag names."""

import difflib
import os
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo


def absolute(path: str) -> str:
    """The path from the root; `~` is the home folder. Globs stay globs.

    Raises:
        ValueError: the path is empty, as an unset shell variable leaves it; it would mean the working directory.
    """
    if not path:
        raise ValueError("the path is empty; write . for the working directory")
    return os.path.abspath(os.path.expanduser(path))


LocalPath = Annotated[str, AfterValidator(absolute)]
"""A path or glob; relative ones are resolved against the working directory when the recipe is loaded."""


class Config(BaseModel):
    """A frozen pydantic model that refuses keys it does not know.

    A component owns one subclass beside its code; `eco.recipe` composes them into a recipe and turns
    pydantic's errors into messages that name the key, the value and the nearest known key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


def setting(default: Any, doc: str, *, flat: str | None = None, **constraints: Any) -> Any:
    """A Config field: its default, one line of help, and the flat flag (`--d-model`) that also sets it.

    `constraints` are pydantic's own (`gt`, `ge`, `le`, ...). Mutable defaults are copied by pydantic.
    """
    extra: dict[str, Any] | None = {"flat": flat} if flat else None
    return Field(default, description=doc, json_schema_extra=extra, **constraints)


def flat_name(field: FieldInfo) -> str | None:
    """The flat flag of a field without its dashes in front (`d-model`), or None."""
    extra = field.json_schema_extra
    return str(extra["flat"]) if isinstance(extra, dict) and "flat" in extra else None


def nearest(word: str, known: list[str]) -> str:
    """`; did you mean 'steps'?` for the known word closest to `word`, or an empty string."""
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else ""
