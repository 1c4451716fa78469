"""What the published implementation of TRM (arXiv 2510.04871) computes, in plain eager torch: the benchmark's peer.

Written out from its description, for attention and the halting it trains by default. As there, the state has the
compute dtype, each layer casts its fp32 weights at each use, queries and keys are turned in fp32, norms are fp32 of a
rounded sum, and the loss is fp64. Parts are named as in `eco.models.trm`, so one state_dict serves both.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eco.models import trm

IGNORE = -100
EPS = 1e-5


class State(NamedTuple):
    """What a step hands to the next: answer and scratch (B, S, D), steps made (B,) int64, rows done (B,) bool."""

    answer: Tensor
    scratch: Tensor
    steps: Tensor
    halted: Tensor


class CastLinear(nn.Linear):
    """A linear layer in the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class Mixing(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = CastLinear(width, 3 * width, bias=False)
        self.output = CastLinear(width, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        mixed = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return self.output(mixed.transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.gate_up = CastLinear(width, 2 * units, bias=False)
        self.down = CastLinear(units, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    def __init__(self, config: trm.Config) -> None:
        super().__init__()
        units = math.ceil(round(config.expansion * config.width * 2 / 3) / 256) * 256
        self.mixing = Mixing(config.width, config.heads)
        self.mlp = SwiGLU(config.width, units)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = rms_norm(x + self.mixing(x, cos, sin))
        return rms_norm(x + self.mlp(x))


class Stack(nn.Module):
    def __init__(self, config: trm.Config) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        size, positions = config.width // config.heads, config.prefix + config.length
        speeds = 10_000.0 ** -(torch.arange(0, size, 2) / size)
        angles = torch.outer(torch.arange(positions), speeds).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x: Tensor, injected: Tensor) -> Tensor:
        x = x + injected
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return x


class PublishedTRM(nn.Module):
    """`config` as for `eco.models.trm`, of which sizes, cycles and halting are read; `dtype` is that of the state."""

    def __init__(self, config: trm.Config, dtype: torch.dtype) -> None:
        super().__init__()
        self.config, self.dtype = config, dtype
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.puzzle_table = nn.Embedding(config.identifiers, config.width).requires_grad_(False)
        self.stack = Stack(config)
        self.head = CastLinear(config.width, config.vocab_size, bias=False)
        self.halt_head = CastLinear(config.width, 1)
        self.answer_start = nn.Buffer(torch.randn(config.width))
        self.scratch_start = nn.Buffer(torch.randn(config.width))

    def forward(self, tokens: Tensor, puzzle: Tensor, state: State | None) -> tuple[Tensor, Tensor, State]:
        """One step: logits (B, L, V), halting logits (B,) and the state after it.

        tokens: (B, L) int64; puzzle: (B,) int64; state: None before the first step.
        """
        question = self._question(tokens, puzzle)
        answer, scratch, steps = self._resume(question, state)
        with torch.no_grad():
            for _ in range(self.config.cycles - 1):
                answer, scratch = self._cycle(question, answer, scratch)
        answer, scratch = self._cycle(question, answer, scratch)
        logits = self.head(answer)[:, self.config.prefix :]
        halting = self.halt_head(answer[:, 0]).squeeze(-1).float()
        halted = self._halted(halting.detach(), steps + 1)
        return logits, halting, State(answer.detach(), scratch.detach(), steps + 1, halted)

    def _question(self, tokens: Tensor, puzzle: Tensor) -> Tensor:
        vectors = self.puzzle_table.weight[puzzle].requires_grad_().to(self.dtype)
        prefix = F.pad(vectors, (0, (self.config.prefix - 1) * self.config.width))
        cells = F.embedding(tokens, self.embedding.weight.to(self.dtype))
        return math.sqrt(self.config.width) * torch.cat((prefix.unflatten(-1, (self.config.prefix, -1)), cells), dim=1)

    def _resume(self, question: Tensor, state: State | None) -> tuple[Tensor, Tensor, Tensor]:
        answer = self.answer_start.to(self.dtype).expand_as(question)
        scratch = self.scratch_start.to(self.dtype).expand_as(question)
        if state is None:
            return answer, scratch, torch.zeros(len(question), dtype=torch.int64)
        new = state.halted[:, None, None]
        answer, scratch = torch.where(new, answer, state.answer), torch.where(new, scratch, state.scratch)
        return answer, scratch, state.steps.masked_fill(state.halted, 0)

    def _cycle(self, question: Tensor, answer: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor]:
        for _ in range(self.config.inner_cycles):
            scratch = self.stack(scratch, answer + question)
        return self.stack(answer, scratch), scratch

    def _halted(self, halting: Tensor, steps: Tensor) -> Tensor:
        explores = torch.rand_like(halting) < self.config.exploration
        wait = explores * torch.randint_like(steps, 2, self.config.max_steps + 1)
        return ((steps >= self.config.max_steps) | (halting > 0)) & (steps >= wait)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x: (B, S, H, D), turned by the angles of its positions; cos, sin: (S, D)."""
    first, second = x.float().chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x.float() * cos[:, None] + turned * sin[:, None]).to(x.dtype)


def rms_norm(x: Tensor) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS)).to(x.dtype)


def loss_of(logits: Tensor, halting: Tensor, targets: Tensor) -> Tensor:
    """Stablemax cross-entropy of the cells plus half the binary cross-entropy of being right, means over the rows."""
    asked = targets != IGNORE
    wide = logits.double()
    scores = torch.where(wide < 0, 1 / (1 - wide), wide + 1)
    likelihoods = torch.log(scores / scores.sum(-1, keepdim=True))
    of_targets = likelihoods.gather(-1, targets.clamp(min=0)[..., None]).squeeze(-1)
    counts = asked.sum(-1, keepdim=True).clamp(min=1)
    answer_loss = -(torch.where(asked, of_targets, 0.0) / counts).sum()
    right = ((logits.argmax(-1) == targets) | ~asked).all(-1)
    halt_loss = F.binary_cross_entropy_with_logits(halting, right.to(halting.dtype), reduction="sum")
    return (answer_loss + 0.5 * halt_loss) / len(targets)
