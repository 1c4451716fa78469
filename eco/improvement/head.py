"""Where the loop stands: one small file that is replaced whole, and points to the weights that count."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eco.files import write_json

HEAD = "head.json"

START = "start.json"
"""The head as it was before the first round."""


@dataclass(frozen=True)
class Head:
    """round: rounds done. weights: the round whose weights are the model's.

    corpus: windows of the corpus that were read. rejected: rounds in a row that were taken back.
    current: measurement of the weights on the gate's tasks; best: the highest pass@1 of each set so far.
    test_before: measurement on the tasks of the final figures, before the first round.
    curriculum, learner: what these parts remember.
    """

    round: int = 0
    weights: int = 0
    corpus: int = 0
    rejected: int = 0
    sampled_tokens: int = 0
    trained_tokens: int = 0
    seconds: float = 0.0
    current: dict[str, Any] = field(default_factory=dict)
    start: dict[str, Any] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    test_before: dict[str, Any] = field(default_factory=dict)
    curriculum: dict[str, Any] = field(default_factory=dict)
    learner: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def write(self, path: Path) -> None:
        write_json(path, self.as_json())

    @classmethod
    def read(cls, path: Path) -> "Head | None":
        """The head of a folder; None where nothing has begun.

        Raises:
            ValueError: the file is damaged.
        """
        try:
            return cls(**json.loads(path.read_text("utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"{path} is damaged ({error}); move its folder aside to begin anew, what it holds is not lost by that"
            ) from error
