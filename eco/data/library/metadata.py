"""What is known of a document of a library: the `.json` beside its `.txt`."""

import json
from pathlib import Path
from typing import Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

MEASURED = ("word_count", "hash", "filepath")
"""Written beside the metadata; measured from the text at each build, whatever a source says."""

PRIORITIES = {"high": 0.9, "medium": 0.6, "low": 0.3}
"""Priority -> its value as a fact of the document."""


class Metadata(BaseModel):
    """Keys beyond these are kept as they are.

    quality_score, biblical_alignment: 0 to 10.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="allow", allow_inf_nan=False)

    title: str = Field(min_length=1)
    author: str = ""
    source: str = ""
    category: str = Field(min_length=1)
    subcategory: str = ""
    quality_score: float = Field(8.0, ge=0, le=10)
    biblical_alignment: float = Field(7.0, ge=0, le=10)
    priority: Literal["high", "medium", "low"] = "medium"
    url: str = ""
    license: str = ""


def read_metadata(path: Path, **defaults: Any) -> Metadata:
    """The metadata in a JSON file; `defaults` stand in for keys that it does not have.

    Raises:
        ValueError: an unreadable file, malformed JSON, or a value of the wrong type or range; the message names the
            file and the key.
    """
    try:
        read = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
        json.dumps(read, ensure_ascii=False, allow_nan=False).encode()  # 1e999 and half a surrogate pair can be read
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: malformed JSON ({error})") from error
    if not isinstance(read, dict):
        raise ValueError(f"{path}: an object is expected, with keys such as title and quality_score, not {read!r:.40}")
    given = {key: value for key, value in read.items() if key not in MEASURED}
    try:
        return Metadata.model_validate(defaults | given)
    except ValidationError as error:
        first = error.errors()[0]
        key, what = ".".join(map(str, first["loc"])), first["msg"].lower()
        raise ValueError(f"{path}: {key}: {what}, not {first['input']!r:.60}") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
