"""How a model with INSTANT runs its blocks, and what that saved in the step in hand."""

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eco.models.instant.compression import Compressor
from eco.models.instant.config import InstantConfig
from eco.models.instant.contraction import Contractions, contracted, unit_stream
from eco.models.instant.coupling import coupled, coupling_segment, on_grid
from eco.models.instant.fixed_point import fixed_point_segment
from eco.models.instant.recompute import recomputed
from eco.models.instant.replay import SubLayer
from eco.models.instant.tally import GB, Lasting, Tally

Streams = tuple[Tensor, ...]
"""The residual stream, (B, T, D) fp32; in mode coupling as two."""
Further = tuple[Tensor, ...]
"""The further outputs of sub-layers in a row."""


class Segment(NamedTuple):
    """Consecutive blocks first, first + 1, ..., end - 1."""

    first: int
    end: int
    compressed: bool
    """Autograd keeps what is inside of them, in few bits; else they are inverted or computed again."""


class Instant:
    """Of one model, made by `apply_instant`."""

    def __init__(self, config: InstantConfig, contractions: Contractions | None) -> None:
        """contractions: in mode fixed_point, the factors of all sub-layers."""
        self.mode, self._iterations = config.instant_mode, config.instant_reversible_iters
        self._contractions = contractions
        self.segments = segments(config.attention_blocks, config.compressed_blocks)
        self.tally = Tally()
        self._compressed = config.compressed_blocks
        rank, threshold = config.instant_comp_dim, config.instant_error_threshold
        self._compressor = Compressor(rank=rank, error_threshold=threshold) if any(self._compressed) else None
        self._compresses = False
        self._passes = 0
        self.figures: dict[str, float] = {}
        """What was found at the start: see `apply_instant`."""
        self._last: dict[str, float] = {}

    def runs(self, keep: bool) -> bool:
        """Whether `run` is to run the blocks; else they run as ever, inside of `watch`.

        keep: there will be a backward pass.
        """
        return self.mode in ("coupling", "fixed_point") or (self.mode == "checkpoint" and keep)

    def start(self, lasting: Lasting, training: bool) -> None:
        """A forward pass begins that a backward pass will follow. lasting: see `Tally.start`.

        Outside of training nothing is compressed: the compression learns from what it meets.
        """
        self.tally.start(lasting)
        self._compresses = training and self._compressor is not None
        if self._compresses and self._compressor is not None:
            self._compressor.spare(lasting.tensors())
            self._passes += 1

    def run(
        self, blocks: Sequence[tuple[SubLayer, SubLayer]], x: Tensor, keep: bool
    ) -> tuple[Tensor, Tensor | None, Further]:
        """x (B, T, D) through all blocks.

        keep: there will be a backward pass. Returns the residual stream in x's dtype as a sum of one or two parts, and
        the further outputs of all sub-layers.
        """
        streams = self._streams(x)
        further: Further = ()
        for segment in self.segments:
            pairs = blocks[segment.first : segment.end]
            sublayers = [sublayer.reading(x.dtype) for pair in pairs for sublayer in pair]
            with self.watch(segment.first) if keep else nullcontext():
                streams, more = self._run(segment.first, sublayers, streams, keep and not segment.compressed)
            further += more
        return streams[0].to(x.dtype), streams[1].to(x.dtype) if len(streams) > 1 else None, further

    def inversion_error(self, block: int, sublayers: Sequence[SubLayer], x: Tensor) -> float:
        """How exactly a backward pass finds the input x (B, T, D) fp32 of a block again: relative to x."""
        with torch.enable_grad():
            x = x.requires_grad_()
            streams, _ = self._run(block, sublayers, self._streams(x), save=True)
            torch.autograd.grad(torch.stack(streams).sum(), x)
        (residual,) = self.tally.residuals
        self.tally.reset()
        return float(residual)

    def watch(self, block: int) -> AbstractContextManager[Any]:
        """Around a block that there will be a backward pass of: compresses what autograd keeps, if it is to."""
        if self._compressor is None or not self._compresses or not self._compressed[block]:
            return nullcontext()
        return self._compressor.watch(f"blocks.{block}")

    @property
    def compressed(self) -> float:
        """GB that the step's backward pass did without because the compression kept fewer bits."""
        if self._compressor is None or self._passes == 0:
            return 0.0
        saved = self._compressor.bytes_seen - self._compressor.bytes_kept
        return saved / self._passes / GB  # it adds up all micro-batches, of which one is in memory

    def end_step(self) -> None:
        """The step is over: its figures are those of `metrics`."""
        saved = self.tally.saved / GB
        self._last = {"instant_saved_gb": saved, "instant_memory_saved_gb": saved + self.compressed}
        if self.tally.residuals:
            residuals = torch.stack(self.tally.residuals)
            self._last |= {
                "instant_inversion_rel_residual": float(residuals.mean()),
                "instant_drift": float(residuals.max()),
            }
        if self.tally.inversions:
            evaluations, residuals_of_each = zip(*self.tally.inversions, strict=True)
            self._last |= {
                "instant_inversion_iters": sum(evaluations) / len(evaluations),
                "instant_inversion_rel_residual": sum(residuals_of_each) / len(residuals_of_each),
                "instant_inversion_fallbacks": float(self.tally.fallbacks),
            }
        if self._compressor is not None:
            self._compressor.end_step()
            self._last |= self._compressor.metrics()
        self.tally.reset()
        self._passes = 0

    def forget_step(self) -> None:
        """The step in hand begins anew."""
        if self._compressor is not None:
            self._compressor.forget_step()
        self.tally.reset()
        self._passes = 0

    def metrics(self) -> dict[str, float]:
        """Of the last step that is over."""
        bounds = {}
        if self._contractions is not None:
            bounds["instant_lipschitz_max"] = float(self._contractions.lipschitz.max())
        return {**self.figures, **self._last, **bounds}

    def _streams(self, x: Tensor) -> Streams:
        if self.mode == "coupling":
            x = on_grid(x)
            return x, x
        return (unit_stream(x.to(torch.promote_types(x.dtype, torch.float32))) if self.mode == "fixed_point" else x,)

    def state_dict(self) -> dict[str, Any]:
        return {} if self._compressor is None else self._compressor.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self._compressor is not None:
            self._compressor.load_state_dict(state)

    def _run(self, block: int, sublayers: Sequence[SubLayer], streams: Streams, save: bool) -> tuple[Streams, Further]:
        """The sub-layers from the first one of `block` on. save: without keeping what is inside."""
        if self.mode == "coupling":
            x1, x2 = streams
            y1, y2, further = coupling_segment(sublayers, x1, x2, self.tally) if save else coupled(sublayers, x1, x2)
            return (y1, y2), further
        (x,), further = streams, ()
        if self._contractions is not None:
            factors, start = self._contractions, 2 * block
            if save:
                x, further = fixed_point_segment(sublayers, x, factors, start, self._iterations, self.tally)
            else:
                x, further = contracted(sublayers, x, factors, start)
            return (x,), further
        for sublayer in sublayers:
            delta, more = recomputed(sublayer, x, self.tally) if save else sublayer.run(x)
            x, further = x + delta, further + more
        return (x,), further


def segments(attention: Sequence[bool], compressed: Sequence[bool]) -> list[Segment]:
    """Cuts the blocks behind each run of attention blocks, and around each block that is compressed.

    attention, compressed: of each block. A segment costs two streams to keep; in mode coupling it bounds how far
    rounding errors can grow.
    """
    cuts = [0]
    for block in range(1, len(attention)):
        ends = attention[block - 1] and not attention[block]
        if ends or compressed[block - 1] or compressed[block]:
            cuts.append(block)
    cuts.append(len(attention))
    return [Segment(first, end, compressed[first]) for first, end in itertools.pairwise(cuts)]
