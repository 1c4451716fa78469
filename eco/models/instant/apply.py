"""Switches a model's INSTANT on, once it has shown that it inverts its blocks."""

import torch

from eco.models.contract import LanguageModel
from eco.models.instant.instant import Instant
from eco.models.instant.model import InstantModel

GREATEST_ERROR = 0.05
"""Of the self-test, relative."""

_PROBE = 2, 16
"""Rows and positions of the self-test's input."""


def apply_instant(model: LanguageModel) -> dict[str, float]:
    """Gives the model its `Instant` where its config asks for one; without it, the model refuses to run.

    Returns `instant_patched_mamba` and `instant_patched_mla`, the blocks of each kind that are inverted, computed again
    or compressed, and `instant_reversible_rel_error`, of the inversion of the first block that is inverted.

    Raises:
        RuntimeError: the inversion is wrong by more than GREATEST_ERROR.
    """
    if not isinstance(model, InstantModel) or not model.config.instant_enabled:
        return {}
    config = model.config
    instant = Instant(config, model.contractions)
    chosen = config.compressed_blocks if config.instant_mode == "off" else [True] * len(config.attention_blocks)
    kinds = [attention for attention, treated in zip(config.attention_blocks, chosen, strict=True) if treated]
    instant.figures = {"instant_patched_mamba": float(kinds.count(False)), "instant_patched_mla": float(sum(kinds))}
    weightless = model.embedding.weight.is_meta  # from_pretrained of transformers fills it later
    if config.instant_is_function and not weightless:
        instant.figures["instant_reversible_rel_error"] = error = _inversion_error(model, instant)
        if not error <= GREATEST_ERROR:
            raise RuntimeError(
                f"instant_mode {config.instant_mode} finds the input of a block again with a relative error of "
                f"{error:.2g}, above {GREATEST_ERROR}"
            )
    model.instant = instant
    return instant.figures


def _inversion_error(model: InstantModel, instant: Instant) -> float:
    """Of the first block that is inverted, on normal noise."""
    block = next(segment.first for segment in instant.segments if not segment.compressed)
    weight = model.embedding.weight
    with torch.random.fork_rng([weight.device] if weight.is_cuda else []):
        torch.manual_seed(0)
        x = torch.randn(*_PROBE, weight.shape[1], device=weight.device)
        return instant.inversion_error(block, model.sublayers(model.rotary(0, _PROBE[1]))[block], x)
