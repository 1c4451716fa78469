"""The Mamba-3 layer (Lahoti et al., arXiv 2603.15569): projections, what they say of time, the recurrence, its output.

How fast a head forgets, how much it takes in and how far it turns are all read from the input. The turning makes the
recurrence complex, which lets one layer count modulo a number; without it (`complex=False`) memory only fades.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eco.kernels.mamba3 import Mamba3State, Mamba3Weights, mamba3_mix, mamba3_step
from eco.models.layers.bitlinear import projection
from eco.models.layers.hybrid_cache import RecurrentPast
from eco.models.layers.linear import StackedLinear
from eco.models.layers.norm import RMSNorm
from eco.models.layers.pinned import replaying

STEP_RANGE = (1e-3, 1e-1)
"""Between these a head's step dt starts, log-uniformly: memories of about ten to a thousand positions."""
LEAST_STEP = 1e-4
"""Of dt."""
LEAST_DECAY = 1e-4
"""Of -A: at the least step, memory halves in 70 million positions."""
ALL_DECAYED = -1e4
"""A log decay whose exponential is 0 even in float64."""
ROTATED = 0.5
"""Share of a key's entries that turn, two by two."""

_Rotation = tuple[Tensor, Tensor]
_Signals = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


class Rates(NamedTuple):
    """What the input says about the recurrence, fp32 (float64 where the input is)."""

    step: Tensor
    """dt > 0: (B, T, H)."""
    log_decay: Tensor
    """dt A < 0: (B, T, H)."""
    blend: Tensor
    """lambda, the share of the present position in the trapezoid, the previous one has the rest: (B, T, H)."""
    phase: Tensor | None
    """Radians turned so far: (B, T, H, A); None where nothing turns."""


class Mamba3(nn.Module):
    """(B, T, width) -> (B, T, width), causal. The caller normalises x.

    `input` yields gates and values (H heads of P = `head_size` channels each), then keys and queries (`rank` of
    `state` entries, the same for all heads). `dynamics` yields, for each head, the logits of step, decay and blend, and
    the angles, which all heads share. It is never quantised nor computed in bf16: a ternary or rounded angle would add
    its error up over the positions, and its rows are few (3 H + A, 2 % of those of `input` at width 768).

    state: N, entries of a key; a multiple of 4 where complex. expand x width must be a multiple of head_size.
    chunk: positions that the recurrence compares pairwise; speed, not meaning. quantised: `input` and `output` are
    ternary (`eco.models.layers.bitlinear`).
    """

    def __init__(
        self,
        width: int,
        *,
        state: int,
        head_size: int,
        rank: int,
        expand: int,
        chunk: int,
        complex: bool,
        quantised: bool,
        eps: float,
    ) -> None:
        super().__init__()
        inner = expand * width
        heads = inner // head_size
        assert heads * head_size == inner and not (complex and state % 4)
        self.heads, self.head_size, self.rank, self.chunk = heads, head_size, rank, chunk
        self.angles = round(ROTATED * state / 2) if complex else 0
        self._signal_sizes = inner, inner, rank * state, rank * state
        self.input = projection(width, self._signal_sizes, quantised=quantised)
        self.input.unit_rows = (head_size,) * (2 * heads) + (state,) * (2 * rank)
        self._rate_sizes = (heads, heads, heads, self.angles) if complex else (heads, heads, heads)
        self.dynamics = StackedLinear(width, self._rate_sizes, bias=False)
        self.key_norm = RMSNorm(state, eps)
        self.query_norm = RMSNorm(state, eps)
        self.step_bias = nn.Parameter(torch.empty(heads))
        self.key_bias = nn.Parameter(torch.empty(heads, rank, state))
        self.query_bias = nn.Parameter(torch.empty(heads, rank, state))
        self.value_in = nn.Parameter(torch.empty(heads, rank, head_size))
        self.gate_in = nn.Parameter(torch.empty(heads, rank, head_size))
        self.out = nn.Parameter(torch.empty(heads, rank, head_size))
        self.skip = nn.Parameter(torch.empty(heads))
        self.output_norm = RMSNorm(inner, eps)
        self.output = projection(inner, (width,), quantised=quantised)
        self.metrics: dict[str, Tensor | float] = {}
        self._mark()

    @property
    def weights(self) -> Mamba3Weights:
        return Mamba3Weights(self.key_bias, self.query_bias, self.value_in, self.gate_in, self.out, self.skip)

    @torch.no_grad()
    def init_own(self, generator: torch.Generator) -> None:
        """Fills the parameters that are neither a projection's nor a norm's; the steps are drawn, on the CPU."""
        low, high = map(math.log, STEP_RANGE)
        step = torch.empty(self.heads, device="cpu").uniform_(low, high, generator=generator).exp()
        self.step_bias.copy_(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus
        self.value_in.fill_(1 / self.rank)
        self.out.fill_(1 / self.rank)
        for parameter in (self.key_bias, self.query_bias, self.gate_in, self.skip):
            parameter.fill_(1.0)

    def forward(self, x: Tensor, reset: Tensor | None = None, past: RecurrentPast | None = None) -> Tensor:
        """reset: (B, T) bool, True where a document begins. past: the state before x, replaced by the one after it:
        the parts of Mamba3State, then, where complex, the phase (B, H, A) modulo 2 pi."""
        before = past.state if past is not None else None
        state = Mamba3State(*before[:3]) if before is not None else None
        rates = self._rates(x, before[3] if before is not None and self.angles else None)
        gain = rates.blend * rates.step
        rotation = (rates.phase.cos(), rates.phase.sin()) if rates.phase is not None else None
        signals = (*self._signals(x), rates.log_decay, gain, rates.step - gain)
        if state is not None and x.shape[1] == 1:
            y, state = self._one_position(signals, rotation, reset, state)
        else:
            y, state = mamba3_mix(*signals, rotation, self.weights, chunk=self.chunk, reset=reset, state=state)
        if past is not None:
            phase = () if rates.phase is None else (rates.phase[:, -1].remainder(2 * math.pi),)
            past.state = (*state, *phase)
        if self.training and not replaying():
            self._measure(rates, state)
        return cast(Tensor, self.output(self.output_norm(y.flatten(2))))

    def evidence(self) -> float:
        """Norm of the last gradient of `dynamics`; 0 where there is none."""
        gradient = self.dynamics.weight.grad
        return 0.0 if gradient is None else float(gradient.norm())

    def rotation_evidence(self) -> float:
        """Norm of the last gradient of the rows of `dynamics` that turn the state; 0 where there is none."""
        gradient = self.dynamics.weight.grad
        return 0.0 if gradient is None or not self.angles else float(gradient[-self.angles :].norm())

    def _one_position(
        self, signals: _Signals, rotation: _Rotation | None, reset: Tensor | None, state: Mamba3State
    ) -> tuple[Tensor, Mamba3State]:
        value, gate, key, query, log_decay, gain, previous_gain = (signal[:, 0] for signal in signals)
        if reset is not None:
            log_decay = log_decay.masked_fill(reset, ALL_DECAYED)
        turn = (rotation[0][:, 0], rotation[1][:, 0]) if rotation is not None else None
        rates = (log_decay, gain, previous_gain)
        y, state = mamba3_step(value, gate, key, query, *rates, turn, self.weights, state)
        return y[:, None], state

    def _signals(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Values and gates (B, T, H, P), keys and queries (B, T, R, N)."""
        gate, value, key, query = self.input(x).split(self._signal_sizes, dim=-1)
        gate, value = (part.unflatten(-1, (self.heads, self.head_size)) for part in (gate, value))
        key, query = (part.unflatten(-1, (self.rank, -1)) for part in (key, query))
        return value, gate, self.key_norm(key), self.query_norm(query)

    def _rates(self, x: Tensor, phase: Tensor | None) -> Rates:
        """phase: (B, H, A), where the last position before x stood; None: the first is turned from zero.

        A document goes on turning where the one before it ended: only differences of phases count.
        """
        with torch.autocast(x.device.type, enabled=False):
            wide = torch.promote_types(x.dtype, torch.float32)
            logits = F.linear(x.to(wide), self.dynamics.weight.to(wide))
            step, decay, blend, *angles = torch.split(logits, list(self._rate_sizes), dim=-1)
            step = F.softplus(step + self.step_bias).clamp(min=LEAST_STEP)
            log_decay = -step * F.softplus(decay).clamp(min=LEAST_DECAY)
            turned = None
            if angles:
                speed = math.pi * angles[0].tanh()  # radians per unit of time
                turned = (speed[:, :, None] * step[..., None]).cumsum(1)
                turned = turned if phase is None else turned + phase[:, None]
            return Rates(step, log_decay, blend.sigmoid(), turned)

    @torch.no_grad()
    def _measure(self, rates: Rates, state: Mamba3State) -> None:
        count = rates.step.shape[1]
        self.metrics = {
            "mamba_dt_mean": rates.step.mean(),
            "mamba_decay_mean": rates.log_decay.exp().mean(),
            "mamba_lambda_mean": rates.blend.mean(),
            "mamba_state_rms": state.memory.square().mean().sqrt(),
            "mamba_effective_block_t": float(min(self.chunk, count)),
            "mamba_scan_chunks": float(-(-count // self.chunk)),
        }

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # A move between devices may put a new parameter in the old one's place.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._mark()
        return self

    def _mark(self) -> None:
        marked: list[Any] = [self.key_bias, self.query_bias, self.value_in, self.gate_in, self.out]
        for parameter in marked:
            parameter.is_scale = True
