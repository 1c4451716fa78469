"""Factors that make the sub-layers of a residual stream contract, so that x + s f(x) can be solved for x.

i-ResNet (arXiv 1811.00995) bounds the spectral norm of each weight. Here that of a whole sub-layer's Jacobian J is
estimated, by power iteration on J^T J at inputs of the run: scans, norms and attention have no weight to bound. RMSNorm
makes J grow as the stream shrinks, so the estimate holds near these inputs only; it makes inversions fast, and
guarantees nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from eco.models.instant.replay import Replay, SubLayer

BOUND = 0.5
"""Of the Lipschitz constant of s f: each plain iteration then halves the error."""

PERIOD = 64
"""Optimizer steps from one calibration to the next. At first they are 1, 2, 4, ...: the constants grow fast then."""

POWER_ITERATIONS = 4
"""Two forward passes and a backward pass each. They come within a tenth of the constant on small SigmaLMs."""

PROBE = 1e-2
"""Length of the difference that stands for a derivative, relative to the stream: far above the rounding of bf16."""

_EPS = 1e-8
"""Added to the mean square of embeddings."""

Average = Callable[[Iterable[Tensor]], None]
"""See `Model.after_step`."""


class Contractions(nn.Module):
    """The factors s of `count` sub-layers, a part of the model's function: 1 until they are first calibrated.

    They move between steps only, so that all micro-batches of a step, its backward passes and all processes see the
    same function.
    """

    factors: Tensor
    """(count,) s."""
    lipschitz: Tensor
    """(count,) constants of s f at the last calibration, but with the s from before it: how far they had drifted."""
    age: Tensor
    """() int64: steps that have ended; their owner counts them."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("factors", torch.empty(count))
        self.register_buffer("lipschitz", torch.empty(count))
        self.register_buffer("age", torch.empty((), dtype=torch.int64))
        self._calibrating = False
        self._average: Average | None = None

    def init_own(self, generator: torch.Generator) -> None:
        """Fills the buffers. Draws nothing."""
        self.factors.fill_(1.0)
        self.lipschitz.zero_()
        self.age.zero_()

    @property
    def due(self) -> bool:
        """Whether the step in hand ends with a calibration."""
        step = int(self.age) + 1
        return step % PERIOD == 0 or (step < PERIOD and step.bit_count() == 1)

    @contextmanager
    def calibrating(self, average: Average | None = None) -> Iterator[None]:
        """Inside, a forward pass of `contracted` sets each factor on its way, before it uses it.

        In this order, because a stream that new factors have made shorter has other constants further on.
        """
        self._calibrating, self._average = True, average
        try:
            yield
        finally:
            self._calibrating, self._average = False, None

    def factor(self, index: int, sublayer: SubLayer, x: Tensor) -> Tensor:
        """() s of the sub-layer `index`, which the stream x (B, T, D) comes to."""
        if self._calibrating:
            found = lipschitz_constant(sublayer, x)
            if self._average is not None:
                self._average([found])
            self.lipschitz[index] = self.factors[index] * found
            self.factors[index] = (BOUND / found).clamp(max=1.0)
        return self.factors[index]


def unit_stream(x: Tensor) -> Tensor:
    """The embeddings x (B, T, D) at root mean square 1, in which the stream of contracting sub-layers starts.

    They are drawn with 0.02, where the constants behind an RMSNorm are fifty times as large: with factors that small,
    what the sub-layers add drowns, weights grow against the factors, and each calibration takes away what was learnt.
    """
    return x * (x.square().mean(-1, keepdim=True) + _EPS).rsqrt()


def contracted(
    sublayers: Iterable[SubLayer], x: Tensor, contractions: Contractions, start: int
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """x <- x + s f(x) for each sub-layer, on the stream (B, T, D) fp32; their further outputs in a row.

    start: the place of the first sub-layer's factor among `contractions`.
    """
    further: list[Tensor] = []
    for index, sublayer in enumerate(sublayers, start):
        factor = contractions.factor(index, sublayer, x)
        delta, more = sublayer.run(x)
        x = x + factor * delta.to(x.dtype)
        further += more
    return x, tuple(further)


def lipschitz_constant(sublayer: SubLayer, x: Tensor, iterations: int = POWER_ITERATIONS) -> Tensor:
    """The largest singular value of the Jacobian of what a sub-layer adds, at x (B, T, D), of the worst sample.

    Scalar fp32, found from below. J v is a difference, for the kernels have no forward derivative; J^T u is exact. The
    samples are told apart, so each iteration serves them all.
    """
    replay, point = Replay(x.device), x.detach().requires_grad_()
    with torch.no_grad(), replay.first():
        here, size = sublayer.run(x)[0].float(), _norms(x)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    for _ in range(iterations):
        step = PROBE * size / _norms(direction).clamp_min(torch.finfo(x.dtype).tiny) * direction
        with torch.no_grad(), replay.again():
            change = (sublayer.run(x + step)[0].float() - here) / (PROBE * size)
        with torch.enable_grad(), replay.again():
            delta = sublayer.run(point)[0].float()
        (direction,) = torch.autograd.grad(delta, point, change)
    return _norms(direction).max().sqrt().float()


def _norms(x: Tensor) -> Tensor:
    """(B, T, D) -> (B, 1, 1)."""
    norms: Tensor = vector_norm(x, dim=(1, 2), keepdim=True)
    return norms
