"""The linear layer of BitNet b1.58 (arXiv 2402.17764, 2504.12285): ternary weights, activations of 8 bits."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from eco.kernels.native import compute_dtype
from eco.kernels.ternary import Ternary, by_row, pack, packed_linear, ternarise, ternary_linear, unpacks
from eco.models.layers.linear import StackedLinear
from eco.models.layers.optimizer_steps import OptimizerSteps

_SAMPLE = 65536
"""Weights of a layer that its evidence looks at: enough for a share to 0.2 %."""

_WITNESSES = 64
"""Weights of a layer that are compared with what they were when its codes were made."""


def projection(width: int, row_blocks: Sequence[int], *, quantised: bool) -> StackedLinear:
    """(..., width) -> (..., sum of `row_blocks`) without bias, ternary if `quantised`."""
    return BitLinear(width, row_blocks) if quantised else StackedLinear(width, row_blocks, bias=False)


class BitLinear(StackedLinear):
    """(..., width) -> (..., sum of `row_blocks`) by weights of -1, 0 and 1 with one scale for each block of rows.

    `weight` is the fp32 master copy that an optimizer trains; the codes are made of it at the first forward pass and
    kept until `weights_changed` says that it was written to, or an optimizer stepped. The inputs are to be normalised
    by the caller; each row is rounded to 8 bits.
    """

    def __init__(self, width: int, row_blocks: Sequence[int]) -> None:
        super().__init__(width, row_blocks, bias=False)
        self._sample: Tensor | None = None
        self._dtype = self.weight.dtype  # of the last codes, likely that of the next
        self.weights_changed()

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., width)."""
        return self._product(x.reshape(-1, self.in_features), None).view(*x.shape[:-1], self.out_features)

    def grouped(self, x: Tensor, offsets: Tensor) -> Tensor:
        """(n, width) -> (n, rows / E): rows offsets[e] to offsets[e + 1] of x meet the e-th of E equal groups of rows.

        offsets: (E + 1,) integers.
        """
        return self._product(x, offsets)

    def weights_changed(self) -> None:
        """The weight was written to: forgets the codes. Every update, load and swap must say so."""
        self._ternary: Ternary | None = None
        self._packed: tuple[Tensor, Tensor] | None = None
        self._made_at = -1
        self._witness: Tensor | None = None

    def check_fresh(self) -> None:
        """Asserts that the codes in use are those of the weight."""
        if self._ternary is not None:
            fresh = ternarise(self.weight, self.row_blocks, self._ternary.codes.dtype)
            assert torch.equal(fresh.codes, self._ternary.codes), "stale codes: somebody wrote to the weight"
            assert torch.equal(fresh.scale, self._ternary.scale), "stale scale: somebody wrote to the weight"

    @property
    def codes(self) -> tuple[Tensor, ...]:
        """The tensors of the codes in use, which are kept between forward passes; none before the first."""
        return () if self._ternary is None else (self._ternary.codes, self._ternary.scale)

    def flip_rate(self) -> float:
        """The share of codes, in a sample, that changed since the last call; the first call returns 0."""
        last, self._sample = self._sample, self._sampled()
        return 0.0 if last is None else (last != self._sample).float().mean().item()

    def zero_fraction(self) -> float:
        """The share of codes that are 0, in the sample that the last `flip_rate` looked at."""
        sample = self._sampled() if self._sample is None else self._sample
        return (sample == 0).float().mean().item()

    def _product(self, x: Tensor, offsets: Tensor | None) -> Tensor:
        self._forget_if_written()
        if not (self.training or torch.is_grad_enabled()) and unpacks(x):
            return self._packed_product(x, offsets)
        codes = self._codes(compute_dtype(x))
        return ternary_linear(x, self.weight, codes, self.row_blocks, offsets=offsets)

    def _packed_product(self, x: Tensor, offsets: Tensor | None) -> Tensor:
        """Decoding reads the weights for a handful of rows of x: from 2 bits each it takes a fifth of the time."""
        if self._packed is None:
            codes, scale = self._ternary or ternarise(self.weight, self.row_blocks, compute_dtype(x))
            self._packed = pack(codes), by_row(scale, self.row_blocks)
            self._ternary = None  # of 8 times the size
        packed, columns = self._packed
        if offsets is None:
            return packed_linear(x, packed, columns)
        parts = torch.split(x, offsets.diff().tolist())
        experts = zip(parts, packed.chunk(len(parts)), columns.chunk(len(parts)), strict=True)
        return torch.cat([packed_linear(*expert) for expert in experts if len(expert[0])])

    def _codes(self, dtype: torch.dtype) -> Ternary:
        if self._ternary is None or self._ternary.codes.dtype != dtype:
            with torch.inference_mode(False):  # they outlive it, and training cannot use what is made in it
                self._ternary, self._dtype = ternarise(self.weight.detach(), self.row_blocks, dtype), dtype
        return self._ternary

    def _forget_if_written(self) -> None:
        """Also what nobody told of: a step of an optimizer, and outside of training, where adapters are merged and
        weights are set by hand, other weights than those that the codes were made of."""
        if self._made_at != OptimizerSteps.count or not (self.training or self._is_as_it_was()):
            self.weights_changed()
            self._made_at, self._witness = OptimizerSteps.count, self._witnesses().clone()

    def _is_as_it_was(self) -> bool:
        return self._witness is not None and torch.equal(self._witness, self._witnesses())

    def _witnesses(self) -> Tensor:
        return self.weight.detach().flatten()[:: max(1, self.weight.numel() // _WITNESSES)]

    @torch.no_grad()
    def _sampled(self) -> Tensor:
        """Codes (k, width) int8 of rows spread over the whole weight."""
        every = max(1, self.weight.numel() // _SAMPLE)
        self._forget_if_written()
        return self._codes(self._dtype).codes[::every].to(torch.int8)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self.weights_changed()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "BitLinear":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.weights_changed()
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ternary": None, "_packed": None}  # a copy makes its own
