"""Settings of INSTANT, the saving of activation memory in training."""

from typing import Any, Literal, Self

from pydantic import model_validator

from eco.config import setting
from eco.models.contract import LanguageModelConfig

Mode = Literal["off", "coupling", "fixed_point", "checkpoint"]
Compress = Literal["none", "attention", "all"]


class InstantConfig(LanguageModelConfig):
    """Base of the models that can save activation memory.

    `coupling` (RevNet, arXiv 1707.04585) and `fixed_point` (i-ResNet, arXiv 1811.00995) invert blocks in the backward
    pass instead of keeping what is inside of them; `checkpoint` keeps their inputs. `instant_compress` quantises what
    autograd keeps (ActNN, arXiv 2104.14129). The first two are the model's function, so a trained model keeps its mode.
    """

    instant_mode: Mode = setting(
        "off", "Blocks that are inverted or computed again instead of kept for the backward pass.", flat="instant-mode"
    )
    instant_compress: Compress = setting(
        "none", "Blocks whose activations are kept for the backward pass in few bits.", flat="instant-compress"
    )
    instant_comp_dim: int = setting(
        64, "Rank of the part of compressed activations that is kept in full.", flat="instant-comp-dim", gt=0
    )
    instant_error_threshold: float = setting(
        0.05, "Relative error above which activations get more than 4 bits.", flat="instant-error-threshold", gt=0
    )
    instant_reversible_iters: int = setting(
        8, "Most iterations of an inversion in mode fixed_point.", flat="instant-reversible-iters", gt=0
    )

    @property
    def instant_features(self) -> dict[str, bool]:
        """Whether each is on, by its name in the ledger."""
        return {"instant": self.instant_mode != "off", "instant_compress": self.instant_compress != "none"}

    @property
    def instant_enabled(self) -> bool:
        return any(self.instant_features.values())

    @property
    def instant_is_function(self) -> bool:
        """Whether the mode changes what the model computes, and not only what its backward pass keeps."""
        return self.instant_mode in ("coupling", "fixed_point")

    def fit(self) -> dict[str, Any]:
        """Without what changes no forward pass: a run may go on with it or without it."""
        facts = {name: value for name, value in super().fit().items() if not name.startswith("instant_")}
        return {**facts, "instant_mode": self.instant_mode} if self.instant_is_function else facts

    @property
    def attention_blocks(self) -> list[bool]:
        """Of each block, whether it holds attention."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _instant_is_possible(self) -> Self:
        if self.instant_mode != "off" and all(self.compressed_blocks):
            raise ValueError(
                f"instant_compress {self.instant_compress} compresses all blocks, so instant_mode {self.instant_mode} "
                "has none left to do without; leave one of the two out"
            )
        return self

    @property
    def compressed_blocks(self) -> list[bool]:
        """Of each block, whether its activations are compressed."""
        return [
            self.instant_compress == "all" or (self.instant_compress == "attention" and attention)
            for attention in self.attention_blocks
        ]
