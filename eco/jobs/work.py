"""What a run works on: its data and the model that fits them. Text and puzzles each have a file of their own."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from eco.models.contract import Batch, Model
from eco.observe.run import RunPaths
from eco.training.callbacks import Row
from eco.training.precision import Precision


class Work(ABC):
    """One kind of data with its model, its measure and its samples, for the job that trains them."""

    model: Model
    decisive: tuple[str, ...]
    """The metrics of `measure` whose lowest value marks the best checkpoint; a later one where all before are equal."""

    @property
    @abstractmethod
    def content(self) -> str:
        """Names the data by their content: other data, another name."""

    @abstractmethod
    def check_batch(self, count: int) -> None:
        """Refuses, with a ValueError, a step of more samples than this kind of data can serve at once."""

    @abstractmethod
    def batch(self, index: int, count: int) -> Batch:
        """Samples `index` to `index + count - 1` of an endless, seeded order. Called from several threads."""

    @abstractmethod
    def measure(self, rows: int, precision: Precision) -> Row:
        """Held-out metrics of the model as it is, computed `rows` samples at a time."""

    @abstractmethod
    def fit(self) -> dict[str, Any]:
        """What must be the same for a saved state to go on: architecture, vocabulary, optimizer."""

    @abstractmethod
    def describe(self, run: RunPaths) -> list[Path]:
        """Writes into the run directory what loading the model needs beside the recipe; returns the files."""

    @abstractmethod
    def samples(self, run: RunPaths, step: int) -> list[str]:
        """Lets the trained model show what it has learnt; keeps that in the run's folder of samples."""

    @abstractmethod
    def headline(self, before: Row, after: Row) -> str:
        """What training has brought, in one line for people."""

    @abstractmethod
    def next_command(self, run: Path) -> str:
        """What to do with the trained model."""
