"""INSTANT's compression: what autograd keeps for the backward pass is kept in few bits, the forward stays exact.

After ActNN (arXiv 2104.14129) and GACT (arXiv 2206.11357), which round saved activations stochastically, so that the
gradient stays unbiased, and LoRAct (arXiv 2509.23472), which keeps their part of low rank.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from eco.models.instant.saved import Forward, Totals
from eco.models.instant.slot import Slot
from eco.models.instant.storages import Storages


class Compressor:
    """Compresses what the blocks of a model save for their backward pass, from `watch` to the end of the backward.

        compressor = Compressor(rank=64, error_threshold=0.05)
        compressor.spare(model.buffers())
        for name, block in ...:
            with compressor.watch(name):  # in training only
                x = block(x)
        ...backward, optimizer step...
        compressor.end_step()

    rank: most directions of a part of low rank. error_threshold: relative error of a tensor above which it gets more
    bits, see `Slot`. Rounded to 4 bits, normally distributed numbers are off by 0.14, to 6 by 0.034, to 8 by 0.0084.

    Kept as they are: parameters and spared tensors, integers, tensors of less than 64 KiB, and those with less than a
    16th of the numbers of the largest so far in their block, which are statistics of rows: they weigh little, and much
    depends on them. A copy of a parameter that autocast made is made again instead. A group of small integers, such as
    the codes of a ternary layer's inputs and weights, loses nothing (`eco.kernels.quantised`).

    The n-th tensor that a block saves has the same slot in each of its calls, whose bits and directions are learned and
    kept in the state. Nothing here draws from torch's generators, and nothing is measured or kept where no gradient is
    recorded. Several calls of a block in a step (gradient accumulation) are calls of the same slots.
    """

    def __init__(self, *, rank: int, error_threshold: float) -> None:
        self._rank, self._threshold = rank, error_threshold
        self._slots: dict[str, Slot] = {}
        self._spared = Storages()
        self._step, self._totals, self._ended = 0, Totals(), True
        self._before: dict[str, Any] = {}  # the state at the beginning of the step
        self._metrics: dict[str, float] = {}

    @contextmanager
    def watch(self, name: str) -> Iterator[None]:
        """Around one block's forward; `name` is the block's in every step. Nothing, where no gradient is recorded."""
        if not torch.is_grad_enabled():
            yield
            return
        if self._ended:
            self._totals, self._ended, self._before = Totals(), False, self.state_dict()
        forward = Forward(name, self._slot, self._spared, self._totals, self._step)
        with saved_tensors_hooks(forward.pack, forward.unpack):
            yield
        forward.end()

    def spare(self, tensors: Iterable[Tensor]) -> None:
        """These, and all with the same memory, are kept as they are and not counted, for as long as they live.

        For what a model holds anyway, such as buffers. Parameters need not be named. What is not named, has no gradient
        and outlives the block that saves it is treated alike, but packed before that is known.
        """
        self._spared.add(tensors)

    @property
    def bytes_seen(self) -> int:
        """What autograd would have kept of the present step's forwards; after `end_step`, of the last step's."""
        return self._totals.seen

    @property
    def bytes_kept(self) -> int:
        """What is kept of them."""
        return self._totals.kept

    def end_step(self) -> None:
        """After each optimizer step: judges the errors of the step and goes on to the next. Waits for the device."""
        if self._totals.packed and not self._ended:
            self._judge(self._totals)
        self._step += 1
        self._ended = True

    def forget_step(self) -> None:
        """The step begins anew: takes back what its forwards have learned and counted."""
        if not self._ended:
            self.load_state_dict(self._before)
            self._totals, self._ended = Totals(), True

    def metrics(self) -> dict[str, float]:
        """Of the last step that compressed anything; nothing before that.

        `instant_reconstruction_error`: relative error of what was compressed; `instant_error_bit_width`: its bits for
        each number, 4 to 8, without the part of low rank; both are means weighted by the bytes before.
        `instant_compression_ratio`: bytes seen to bytes kept, of all that was saved; `instant_error_threshold`.
        """
        return dict(self._metrics)

    def _judge(self, totals: Totals) -> None:
        errors = torch.stack([error for *_, error in totals.packed]).tolist()
        worst: dict[Slot, float] = {}
        for (slot, *_), error in zip(totals.packed, errors, strict=True):
            worst[slot] = max(worst.get(slot, 0.0), error)
        for slot, error in worst.items():
            slot.judge(error)
        sizes = [size for _, size, *_ in totals.packed]
        finite = [error if math.isfinite(error) else 0.0 for error in errors]
        self._metrics = {
            "instant_reconstruction_error": _mean(finite, sizes),
            "instant_error_bit_width": _mean([bits for _, _, bits, _ in totals.packed], sizes),
            "instant_compression_ratio": totals.seen / totals.kept,
            "instant_error_threshold": self._threshold,
        }

    def state_dict(self) -> dict[str, Any]:
        """At the end of a step. Tensors and numbers."""
        return {"step": self._step, "slots": {name: slot.state_dict() for name, slot in self._slots.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._step, self._slots = state["step"], {}
        for name, slot in state["slots"].items():
            self._slot(name).load_state_dict(slot)

    def _slot(self, name: str) -> Slot:
        if name not in self._slots:
            self._slots[name] = Slot(name, self._rank, self._threshold)
        return self._slots[name]


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)
