"""What models that can save activation memory share: the blocks as sub-layers, the features, their figures."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from eco.models.contract import Cache, evaluating
from eco.models.instant.config import InstantConfig
from eco.models.instant.contraction import Contractions
from eco.models.instant.instant import Instant
from eco.models.instant.replay import SubLayer
from eco.models.instant.tally import GB, Lasting
from eco.models.layers.headed import HeadedModel
from eco.models.layers.rotary import Rotary, Rotation


class InstantModel(HeadedModel):
    """A `HeadedModel` that runs its blocks by `instant`, where its config asks for that."""

    config: InstantConfig
    rotary: Rotary
    contractions: Contractions | None
    """In mode fixed_point, the factors of all sub-layers."""
    instant: Instant | None = None
    """Given by `apply_instant`."""
    _latest: Tensor | None = None
    """The tokens of the latest forward pass in training."""

    @abstractmethod
    def sublayers(self, rotation: Rotation) -> list[tuple[SubLayer, SubLayer]]:
        """The two sub-layers of each block, for rows (B, T, width) that are one document each.

        rotation: cos and sin of the T positions.
        """

    def starts(self, tokens: Tensor, cache: Cache | None, *spared: Tensor | None) -> bool:
        """Called at the beginning of each forward pass of `tokens` (B, T); whether there may be a backward pass.

        spared: tensors that stay in memory until then.

        Raises:
            RuntimeError: the config asks for INSTANT, and it was not applied.
        """
        keep = cache is None and torch.is_grad_enabled()
        if self.instant is None:
            if self.config.instant_enabled:
                raise RuntimeError(
                    f"instant_mode is {self.config.instant_mode} and instant_compress {self.config.instant_compress}, "
                    "but INSTANT was not applied; call eco.models.instant.apply_instant(model) first"
                )
        elif keep:
            self.instant.start(Lasting(self, [tensor for tensor in spared if tensor is not None]), self.training)
            self._latest = tokens if self.training else self._latest
        return keep

    def run_block(self, index: int, inputs: Sequence[Any], keep: bool) -> Any:
        with self.instant.watch(index) if self.instant is not None and keep else nullcontext():
            return super().run_block(index, inputs, keep)

    @property
    def features(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(name for name, on in self.config.instant_features.items() if on)

    def evidence(self) -> dict[str, float]:
        """GB of activations that were not kept: those of the mode, and those of the compression."""
        if self.instant is None:
            return {}
        saved = {"instant": self.instant.tally.saved / GB, "instant_compress": self.instant.compressed}
        return {name: saved[name] for name, on in self.config.instant_features.items() if on}

    def forget_step(self) -> None:
        if self.instant is not None:
            self.instant.forget_step()
        self._latest = None
        super().forget_step()

    def after_step(self, average: Callable[[Iterable[Tensor]], None] | None = None) -> None:
        if self.instant is not None:
            self.instant.end_step()
        super().after_step(average)
        if self.contractions is not None and self._latest is not None:
            if self.contractions.due:
                with torch.no_grad(), evaluating(self), self.contractions.calibrating(average):
                    self.hidden(self._latest)
            self.contractions.age.add_(1)
        self._latest = None

    def algorithmic_features(self) -> dict[str, float]:
        return {} if self.instant is None else {"instant_enabled": 1, **self.instant.figures}


def contractions_of(config: InstantConfig) -> Contractions | None:
    """The factors of all sub-layers, where the mode takes them."""
    return Contractions(2 * len(config.attention_blocks)) if config.instant_mode == "fixed_point" else None
