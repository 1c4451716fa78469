"""Writing as documents of given metadata do: classifier-free guidance (arXiv 2207.12598) for any conditioned model."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from eco.config import nearest
from eco.data.library.metadata import PRIORITIES
from eco.models.contract import Batch, Cache, Carry, LanguageModel, StepOutput
from eco.models.governance.control import CHANNELS

SETTINGS = CHANNELS[:-1]
"""The channels that a user sets; the position is counted."""

ControlSettings = str | Mapping[str, float | str]
"""What a user asks for; see `read_control`."""


class Guided(LanguageModel):
    """`model` under `control`; its logits are without + scale x (with - without) those of the model with the control.

    A scale above 1 exaggerates the control, 1 is the model with it, 0 without. Unless the scale is 1, each row is
    computed twice, side by side in one cache.

    control: see `read_control`.

    Raises:
        ValueError: the model knows no control; the control or the scale is none.
    """

    def __init__(self, model: LanguageModel, control: ControlSettings, scale: float = 1.0) -> None:
        super().__init__()
        if "control" not in model.labels:
            raise ValueError(
                "this model was trained without control, so that it can follow none; train one with model.control: true"
            )
        if not (math.isfinite(scale) and scale >= 0):
            raise ValueError(f"guidance is {scale}; give a number of at least 0, such as 2")
        self.model, self.config, self.scale = model, model.config, scale
        self.left_padding = model.left_padding
        self.settings = torch.tensor(read_control(control), device=next(model.parameters()).device)
        self._halves = 1 if scale == 1 else 2
        self.train(model.training)  # else whoever sets it back to its own mode would set the model to training

    def forward(self, tokens: Tensor, cache: Cache | None = None, *, last_only: bool = False) -> Tensor:
        assert cache is None or isinstance(cache, GuidedCache)
        control = self._control(tokens, cache)
        if self._halves == 2:
            tokens, control = tokens.repeat(2, 1), torch.cat([control, torch.full_like(control, math.nan)])
        logits: Tensor = self.model(tokens, cache and cache.inner, last_only=last_only, control=control)
        if cache is not None:
            cache.length = cache.inner.length
        if self._halves == 1:
            return logits
        conditioned, unconditioned = logits.float().chunk(2)
        return torch.lerp(unconditioned, conditioned, self.scale)

    def _control(self, tokens: Tensor, cache: "GuidedCache | None") -> Tensor:
        """The channels (B, T, 5) of tokens (B, T) that follow the cached ones."""
        rows, count = tokens.shape
        start = cache.length if cache is not None else 0
        columns = torch.arange(start, start + count, device=tokens.device).expand(rows, count)
        if cache is not None and cache.padding is not None:
            columns = (columns - cache.padding[:, None]).clamp(min=0)
        position = (columns / self.config.context).clamp(max=1)
        return torch.cat([self.settings.expand(rows, count, -1), position[..., None]], -1)

    def new_cache(self, batch: int, length: int, padding: Tensor | None = None) -> "GuidedCache":
        both = None if padding is None else padding.repeat(self._halves)
        return GuidedCache(self.model.new_cache(self._halves * batch, length, both), self._halves, batch, padding)

    def init_weights(self, generator: torch.Generator) -> None:
        self.model.init_weights(generator)

    def training_step(self, batch: Batch, carry: Carry | None = None) -> StepOutput:
        return self.model.training_step(batch, carry)

    def flops_per_token(self) -> float:
        return self.model.flops_per_token()


class GuidedCache:
    """The cache `inner` of `halves` x `batch` rows as one of `batch`; see `eco.models.contract.Cache`.

    padding: (B,) int64 or None, the left padding of each row, from whose end positions are counted.
    """

    def __init__(self, inner: Cache, halves: int, batch: int, padding: Tensor | None) -> None:
        self.inner, self.length = inner, inner.length
        self.halves, self.batch, self.padding = halves, batch, padding

    def keep(self, rows: Tensor) -> None:
        self.inner.keep(self._take(rows))

    def branch(self, rows: Tensor, count: int, shared: bool) -> None:
        self.inner.branch(self._take(rows), count, shared)

    def _take(self, rows: Tensor) -> Tensor:
        """The rows of all halves that belong to `rows`, which are those that it has from now on."""
        taken = torch.cat([rows + half * self.batch for half in range(self.halves)])
        self.batch = len(rows)
        self.padding = None if self.padding is None else self.padding[rows]
        return taken


def read_control(control: ControlSettings) -> list[float]:
    """`quality=1.0,priority=high`, or the same as a mapping -> the values of `SETTINGS`, in their order.

    What is not set is unknown, NaN; but where quality and alignment are both known, the decay is their mean, as it is
    of documents.

    Raises:
        ValueError: a channel that is not there, or a value that is no number from 0 to 1.
    """
    given = _split(control) if isinstance(control, str) else control
    if not given:
        raise ValueError(f"the control is empty; give one of {', '.join(SETTINGS)}, such as quality=1.0")
    known = {name: _value(name, value) for name, value in given.items()}
    values = [known.get(name, math.nan) for name in SETTINGS]
    return values if "decay" in known else [*values[:3], (values[0] + values[1]) / 2]


def _split(text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ValueError(
                f"a control is written channel=value, and {part!r} is not; such as quality=1.0,priority=high"
            )
        if name in pairs:
            raise ValueError(f"the control sets {name!r} twice; leave one of them")
        pairs[name] = value
    return pairs


def _value(name: str, value: float | str) -> float:
    if name == "position":
        raise ValueError("the channel 'position' is counted while the text is written; leave it out")
    if name not in SETTINGS:
        known = ", ".join(SETTINGS)
        raise ValueError(f"no channel {name!r}{nearest(name, list(SETTINGS))}; there is: {known}")
    if name == "priority" and value in PRIORITIES:
        return PRIORITIES[str(value)]
    words = f", or one of {', '.join(PRIORITIES)}" if name == "priority" else ""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:
        raise ValueError(f"the channel {name!r} is {value!r}; give a number from 0 to 1{words}")
    return number
