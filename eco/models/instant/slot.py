"""How the tensor that one place of a model saves in each step is kept: in how many bits, with which directions."""

from typing import Any
from zlib import crc32

from torch import Tensor

from eco.kernels.quantised import GROUP
from eco.models.instant.low_rank import principal_directions, shares
from eco.models.instant.quantise import COEFFICIENT_BITS, Packed, relative_error

WIDTHS = (4, 6, 8)
"""Bits for each number, tried in this order."""

CALIBRATE_EVERY = 64
"""Optimizer steps after which directions are found anew."""

PROBE_EVERY = 32
"""Calls after which fewer bits are tried again."""

_MARGIN = 0.9
"""Of the threshold is what the error should be where directions are chosen: they age until they are found anew."""

_SAMPLE_ROWS = 512
"""Rows that decide on widths and directions."""

_GRID_BITS = 32 / GROUP
"""Of the grids, for each number that is kept."""


class Slot:
    """Keeps a tensor of each call in the fewest bits whose relative error stays below `threshold`.

    Each of `WIDTHS` is tried bare and, if that costs less than the next width, on what a part of low rank leaves, with
    at most `rank` directions. A choice is kept until a step's error is above the threshold, which adds bits, until the
    next probe, or until the directions are old. name: decides on the random bits, with the number of the call.
    """

    def __init__(self, name: str, rank: int, threshold: float) -> None:
        self._seed, self._rank, self._threshold = crc32(name.encode()), rank, threshold
        self.bits = 0
        """Of each number, from the first call on."""
        self.basis: Tensor | None = None
        """(D, k), the directions in use."""
        self._calls = self._calibrated = 0  # the latter: the step of it

    def pack(self, x: Tensor, row: int, step: int) -> tuple[Packed, Tensor]:
        """Keeps x (n,), whose rows have `row` numbers, in the optimizer's step `step`; see `Packed.of`."""
        rows = x.view(-1, row)
        if self.bits == 0 or step >= self._calibrated + CALIBRATE_EVERY or self._misfits(rows):
            self._choose(rows, None)
            self._calibrated = step
        elif self._calls % PROBE_EVERY == 0:
            self._choose(rows, x.new_empty(row, 0) if self.basis is None else self.basis)
        self._calls += 1
        return Packed.of(x, self.bits, self.basis, self._seed ^ self._calls)

    def judge(self, error: float) -> None:
        """Adds bits where `error` of a step is above the threshold. A NaN is the loss's trouble."""
        if error > self._threshold and self.bits < WIDTHS[-1]:
            self.bits, self.basis = WIDTHS[WIDTHS.index(self.bits) + 1], None

    def _misfits(self, rows: Tensor) -> bool:
        """Whether the directions are another tensor's; also moves them to the device of `rows`, after loading."""
        if self.basis is None:
            return False
        self.basis = self.basis.to(rows.device)
        return self.basis.dtype != rows.dtype or len(self.basis) != rows.shape[1]

    def _choose(self, rows: Tensor, directions: Tensor | None) -> None:
        """The fewest bits that suffice for `rows` (n, D); with the first of the `directions` (D, r), None: new ones,
        where these cost less than more bits."""
        sample = rows[:: -(-len(rows) // _SAMPLE_ROWS)].float()
        if directions is None:
            directions = principal_directions(sample, min(self._rank, *sample.shape))
        left = (1 - shares(sample, directions.float()).cumsum(0)).clamp_min(0).sqrt().tolist()
        for bits, more in zip(WIDTHS, (*WIDTHS[1:], None), strict=True):
            self.bits, self.basis = bits, None
            error = relative_error(sample.flatten(), bits)
            if error <= self._threshold or more is None:
                return
            enough = [rank for rank, share in enumerate(left, 1) if share * error <= _MARGIN * self._threshold]
            if enough and enough[0] * _bits_of_a_direction(rows) < more - bits:
                self.basis = directions[:, : enough[0]].to(rows.dtype).contiguous()
                return

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers."""
        basis = {} if self.basis is None else {"basis": self.basis}
        return {"bits": self.bits, "calls": self._calls, "calibrated": self._calibrated, **basis}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.bits, self._calls, self._calibrated = state["bits"], state["calls"], state["calibrated"]
        self.basis = state.get("basis")


def _bits_of_a_direction(rows: Tensor) -> float:
    """What one costs, for each number of `rows` (n, D): its coefficients, and itself."""
    return (COEFFICIENT_BITS + _GRID_BITS) / rows.shape[1] + 8 * rows.element_size() / len(rows)
