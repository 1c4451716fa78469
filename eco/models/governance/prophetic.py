"""PropheticSingularityState: a document's metadata as numbers for each token, in the words of SIM-ONE.

In the field's terms it is metadata conditioning (CTRL, arXiv 1909.05858): `control` yields what the model reads.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor

from eco.config import nearest
from eco.data.library.metadata import PRIORITIES

FIELDS = ("intensity", "anointing", "dominion", "mercy", "lambda_", "time")

UNKNOWN = 0.5
"""Intensity, anointing or dominion of a document of which it is not known."""


class Statistics(NamedTuple):
    """Of one field over a number of tokens; `std` divides by that number."""

    tokens: int
    mean: float
    std: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Tensor) -> "Statistics":
        wide = values.double()
        std = float(wide.std(correction=0))
        return cls(values.numel(), float(wide.mean()), std, float(values.min()), float(values.max()))

    @classmethod
    def merged(cls, parts: Sequence["Statistics"]) -> "Statistics":
        """Those of all the tokens of the parts together."""
        count = sum(part.tokens for part in parts)
        mean = sum(part.tokens * part.mean for part in parts) / count
        variance = sum(part.tokens * (part.std**2 + (part.mean - mean) ** 2) for part in parts) / count
        return cls(count, mean, math.sqrt(variance), min(part.min for part in parts), max(part.max for part in parts))


class SamplingChoices(Protocol):
    """What `PropheticSingularityState.sampling` adjusts: an `eco.inference.sampling.Sampling`."""

    @property
    def temperature(self) -> float: ...
    @property
    def top_k(self) -> int: ...
    @property
    def top_p(self) -> float: ...
    def model_copy(self, *, update: Mapping[str, Any] | None = None) -> Self: ...


AnySampling = TypeVar("AnySampling", bound=SamplingChoices)


@dataclass(frozen=True, eq=False)
class PropheticSingularityState:
    """Six numbers for each token, each (B, S) fp32.

    intensity: the document's quality. anointing: its alignment. dominion: its priority. mercy: 0.5 and a tenth of what
    the priority lacks. lambda_: how fast older text loses weight. time: from 0 at the first token to 1 at the last.
    statistics: of each field, over all tokens of the documents that the state was made for; computed if not given.
    `align`, `slice` and `to` leave them as they are.
    """

    intensity: Tensor
    anointing: Tensor
    dominion: Tensor
    mercy: Tensor
    lambda_: Tensor
    time: Tensor
    statistics: Mapping[str, Statistics] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shapes = {name: tuple(getattr(self, name).shape) for name in FIELDS}
        if len(set(shapes.values())) > 1 or self.intensity.ndim != 2 or not self.intensity.numel():
            raise ValueError(f"the fields of a state must all be (B, S), with at least one token, and are {shapes}")
        if not self.statistics:
            object.__setattr__(self, "statistics", {name: Statistics.of(getattr(self, name)) for name in FIELDS})

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], length: int) -> Self:
        """The state (1, length) of a document. With `length` the model's context, `time` is the model's channel
        `position` to within 1 / length.

        Read are `quality_score` and `biblical_alignment`, 0 to 10 and 5 where unknown, and `priority`. Whatever
        `metadata["prophetic_state"]` has under a field's name, a number or a list of them, goes before what would
        follow from these; a list too short repeats its last number, one too long is cut.

        Raises:
            ValueError: a value of the wrong type, out of range, or of a field that is not there.
        """
        given = {name: _row(value, length, name) for name, value in _overrides(metadata).items()}

        def given_or(name: str, default: Callable[[], float]) -> Tensor:
            return given[name] if name in given else torch.full((1, length), default())

        intensity = given_or("intensity", lambda: _score(metadata, "quality_score"))
        anointing = given_or("anointing", lambda: _score(metadata, "biblical_alignment"))
        dominion = given_or("dominion", lambda: _priority(metadata))
        mercy = given_or("mercy", lambda: 0.5 + 0.1 * (1.0 - float(dominion.mean())))
        lambda_ = given_or("lambda_", lambda: float(intensity.mean() + anointing.mean()) / 2)
        time = given.get("time", torch.linspace(0, 1, length)[None])
        return cls(intensity, anointing, dominion, mercy, lambda_, time)

    @classmethod
    def default(cls, length: int, batch: int = 1) -> Self:
        """The state (batch, length) of documents of which nothing is known: 0.5 throughout, and the time."""
        half = torch.full((batch, length), 0.5)
        return cls(half, half, half, half, half, torch.linspace(0, 1, length).expand(batch, length))

    @classmethod
    def batch(cls, states: Sequence[Self]) -> Self:
        """The rows of all states, which are of one length (see `align`); the statistics are those of all together.

        Raises:
            ValueError: there is no state, or their lengths differ.
        """
        lengths = sorted({state.intensity.shape[1] for state in states})
        if len(lengths) != 1:
            raise ValueError(f"a batch takes states of one length, and these have {lengths}; call align(length) first")
        rows = {name: torch.cat([getattr(state, name) for state in states]) for name in FIELDS}
        merged = {name: Statistics.merged([state.statistics[name] for state in states]) for name in FIELDS}
        return cls(**rows, statistics=merged)

    def align(self, length: int) -> Self:
        """The state of `length` tokens: cut, or with its last token repeated."""
        at = torch.arange(length).clamp(max=self.intensity.shape[1] - 1)
        return self._each(lambda field: field[:, at.to(field.device)])

    def slice(self, start: int, stop: int) -> Self:
        """Tokens start .. stop - 1."""
        return self._each(lambda field: field[:, start:stop])

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """On another device, or of another dtype, as `Tensor.to`."""
        return self._each(lambda field: field.to(*args, **kwargs))

    def kingdom_flow(self, formula: Literal["mean", "growth"] = "mean") -> Tensor:
        """(B, S): the mean of the first four fields times lambda, or I A / (D + M) e^(lambda t)."""
        if formula == "mean":
            return (self.intensity + self.anointing + self.dominion + self.mercy) / 4 * self.lambda_
        if formula == "growth":
            divisor = (self.dominion + self.mercy).clamp(min=1e-6)
            return self.intensity * self.anointing / divisor * torch.exp(self.lambda_ * self.time)
        raise ValueError(f"no formula {formula!r}{nearest(formula, ['mean', 'growth'])}; there is: mean, growth")

    def control(self) -> Tensor:
        """(B, S, 5), the channels of `governance.control.CHANNELS`, for the model: all fields but mercy, in [0, 1]."""
        fields = (self.intensity, self.anointing, self.dominion, self.lambda_, self.time)
        return torch.stack(fields, -1).clamp(0, 1)

    def step_statistics(self, step: int) -> dict[str, float]:
        """Each field and `kingdom_flow` at token `step`, the mean over the rows; past the end, at the last token."""
        at = min(step, self.intensity.shape[1] - 1)
        values = {name: float(getattr(self, name)[:, at].mean()) for name in FIELDS}
        return values | {"kingdom_flow": float(self.kingdom_flow()[:, at].mean())}

    def summary(self) -> dict[str, float]:
        """The mean of each field and of `kingdom_flow` over all tokens."""
        values = {name: float(getattr(self, name).mean()) for name in FIELDS}
        return values | {"kingdom_flow": float(self.kingdom_flow().mean())}

    def sampling(self, sampling: AnySampling, step: int) -> AnySampling:
        """The choices for token `step`: hotter where mercy exceeds dominion, wider with intensity and time.

        What is switched off (temperature 0, top_k 0, top_p 1) stays so. At most one of `top_p` is 0.99.
        """
        at = self.step_statistics(step)
        heat = 1 + 0.25 * (at["mercy"] - at["dominion"])
        count = 1 + 0.2 * at["intensity"] - 0.1 * at["lambda_"]
        mass = 1 - 0.15 * (at["lambda_"] - 0.5) + 0.1 * at["time"]
        changes: dict[str, float] = {}
        if sampling.temperature > 0:
            changes["temperature"] = max(0.05, sampling.temperature * heat)
        if sampling.top_k > 0:
            changes["top_k"] = max(1, round(sampling.top_k * count))
        if sampling.top_p < 1:
            changes["top_p"] = min(0.99, max(0.01, sampling.top_p * mass))
        return sampling.model_copy(update=changes)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        changed: dict[str, Any] = {name: change(getattr(self, name)) for name in FIELDS}
        return replace(self, **changed)


def _overrides(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Field -> what `prophetic_state` has for it; `lambda` is another name of `lambda_`."""
    given = metadata.get("prophetic_state") or {}
    if not isinstance(given, Mapping):
        raise ValueError(f"prophetic_state is {given!r}; give a mapping of {', '.join(FIELDS)}")
    fields = {"lambda_" if name == "lambda" else str(name): value for name, value in given.items()}
    for name in fields:
        if name not in FIELDS:
            known = ", ".join(FIELDS)
            raise ValueError(f"prophetic_state has no field {name!r}{nearest(name, list(FIELDS))}; there is: {known}")
    return fields


def _row(value: Any, length: int, name: str) -> Tensor:
    """(1, length) of a number or a list."""
    numbers = list(value) if isinstance(value, list | tuple) else [value]
    if not numbers or not all(_is_number(number) for number in numbers):
        raise ValueError(f"prophetic_state.{name} is {value!r}; give a number or a list of at least one")
    repeated = numbers[:length] + numbers[-1:] * (length - len(numbers))
    return torch.tensor([repeated], dtype=torch.float32)


def _score(metadata: Mapping[str, Any], key: str) -> float:
    """A score from 0 to 10 as a share of 10."""
    score = metadata.get(key)
    if score is None:
        return UNKNOWN
    if not _is_number(score) or not 0 <= score <= 10:
        raise ValueError(f"{key} is {score!r}; give a number from 0 to 10")
    return float(score) / 10


def _priority(metadata: Mapping[str, Any]) -> float:
    priority = metadata.get("priority")
    if priority is not None and not isinstance(priority, str):
        raise ValueError(f"priority is {priority!r}; give one of {', '.join(PRIORITIES)}")
    return PRIORITIES.get(priority or "", UNKNOWN)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
