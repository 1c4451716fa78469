"""Small JSON files that carry a digest of themselves, so that a changed byte is found when they are read."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eco.files import write_json


class Damaged(ValueError):
    """What the store holds is not what was written."""


def write_sealed(path: Path, body: Mapping[str, Any]) -> None:
    """Writes the file as a whole or not at all; `seal` is added to the body."""
    write_json(path, {**body, "seal": seal_of(body)})


def read_sealed(path: Path) -> dict[str, Any]:
    """The body that was written.

    Raises:
        Damaged: the file is missing, no JSON, or altered.
    """
    try:
        body: dict[str, Any] = json.loads(path.read_bytes())
        stated = body.pop("seal")
    except FileNotFoundError:
        raise Damaged(f"{path} is missing") from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise Damaged(f"{path} cannot be read: {error!r}") from error
    if stated != seal_of(body):
        raise Damaged(f"{path} has been altered: it does not have the digest that it states")
    return body


def seal_of(body: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, allow_nan=False).encode()).hexdigest()
