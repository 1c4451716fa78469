"""Simone: a modern decoder whose attention may be governed: by a policy, a memory and the metadata of its documents.

The block is Llama's (arXiv 2302.13971): RMSNorm, rotary positions, SwiGLU. Each of the parts beside it is off by
default and then absent: a learned low-rank attention bias ("policy") and forgetting gates (arXiv 2503.02130) in
`governance.attention`, slots that carry memory from segment to segment (arXiv 2207.06881) in `governance.memory`,
conditioning on metadata (arXiv 1709.07871) in `governance.control`, a mixture of experts, and the auxiliary losses of
`governance.objectives`. The name and the words governance, policy and prophetic are those of SIM-ONE.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from eco.config import setting
from eco.models.contract import Batch, Cache, Carry, StepOutput
from eco.models.governance.attention import Forgetting, GovernedAttention, Policy
from eco.models.governance.control import CHANNELS, Control, FiLM
from eco.models.governance.memory import MemorySlots
from eco.models.governance.objectives import AuxiliaryConfig, ComprehensiveTrainingLoss
from eco.models.governance.segment_cache import SegmentCache
from eco.models.layers.attention import Attention
from eco.models.layers.cache import KVCache, Past
from eco.models.layers.mlp import SwiGLU
from eco.models.layers.moe import MoE, Routing
from eco.models.layers.moe.balance import Balance
from eco.models.layers.moe.experts import idle_weights
from eco.models.layers.norm import RMSNorm
from eco.models.layers.rotary import Rotary, Rotation
from eco.models.layers.shape import check_heads, check_rotary, check_vocabulary, swiglu_size
from eco.models.layers.transformer import Transformer


class Config(AuxiliaryConfig):
    """Sizes and choices of a Simone."""

    family: Literal["simone"] = setting("simone", "Architecture: governed decoder.", flat="family")
    width: int = setting(384, "Size of the residual stream.", flat="d-model", gt=0)
    layers: int = setting(6, "Number of blocks.", flat="n-layers", gt=0)
    heads: int = setting(6, "Attention heads per block; divides the width.", flat="n-heads", gt=0)
    feed_forward: int = setting(
        0, "Units of SwiGLU; 0 takes 8/3 x width, rounded up to a multiple of 64.", flat="d-ff", ge=0
    )
    rope_base: float = setting(10_000.0, "Base of the rotary wavelengths.", flat="rope-base", gt=1)
    norm_eps: float = setting(1e-5, "Added to the mean square in RMSNorm.", flat="norm-eps", gt=0)
    dropout: float = setting(0.0, "Dropout of embeddings and sub-layer outputs.", flat="dropout", ge=0, lt=1)
    attention_dropout: float = setting(0.0, "Dropout of attention probabilities.", flat="attention-dropout", ge=0, lt=1)
    tied: bool = setting(True, "The head is the embedding matrix.", flat="tie-embeddings")

    policy_rank: int = setting(
        0, "Dimensions of the learned attention bias; 0: plain attention.", flat="policy-rank", ge=0
    )
    forgetting: bool = setting(False, "Gates let each head forget older positions.", flat="forgetting")
    governance_width: int = setting(0, "Units that policy and gates are computed from; 0 takes width / 4.", ge=0)

    memory_slots: int = setting(
        0, "Vectors that carry memory from segment to segment; 0: none.", flat="memory-slots", ge=0
    )
    segment: int = setting(
        0, "Tokens that attend to each other; a window of several is read one by one. 0: all.", flat="segment", ge=0
    )

    control: bool = setting(False, "Conditions on the metadata of documents.")
    control_size: int = setting(32, "Numbers that the metadata become.", gt=0)
    control_dropout: float = setting(0.15, "Share of the samples that are trained without metadata.", ge=0, lt=1)

    routed_experts: int = setting(0, "Experts to choose from; 0: one dense layer.", flat="n-routed-experts", ge=0)
    top_k: int = setting(2, "Routed experts of a token.", flat="moe-top-k", gt=0)

    @property
    def units(self) -> int:
        """Units of the SwiGLU that a token meets; a mixture divides them among its `top_k` experts."""
        return self.feed_forward or swiglu_size(self.width)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        check_heads(self.width, self.heads)
        check_rotary(self.width, self.heads)
        if self.memory_slots and not self.segment:
            raise ValueError(
                f"memory_slots is {self.memory_slots}, but segment is 0: the window is one segment, so that nothing "
                "outlives one; set segment to a part of the context, such as a quarter"
            )
        if self.segment and self.context % self.segment:
            raise ValueError(f"segment {self.segment} does not divide the context of {self.context} tokens")
        if self.memory_weight and not self.memory_slots:
            raise ValueError("memory_weight weighs the slots' gates, but memory_slots is 0; set one of them")
        if self.policy_weight and not self.policy_rank:
            raise ValueError("policy_weight weighs the policy's size, but policy_rank is 0; set one of them")
        if self.routed_experts and not 0 < self.top_k < self.routed_experts:
            raise ValueError(f"top_k {self.top_k} must be below routed_experts {self.routed_experts}")
        return self


@dataclass
class Aside:
    """What the parts of a forward pass say beside its hidden states."""

    magnitudes: list[Tensor] = field(default_factory=list)
    """Of each governed block, the mean square of the policy's features."""
    routings: list[Routing] = field(default_factory=list)
    gates: list[Tensor] = field(default_factory=list)
    """Of each segment that was written into the slots, how open the gates were."""


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), each norm conditioned where there is a code."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        self.attention_norm = RMSNorm(width, config.norm_eps)
        self.attention_film = FiLM(config.control_size, width) if config.control else None
        self.attention = _attention(config)
        self.mlp_norm = RMSNorm(width, config.norm_eps)
        self.mlp_film = FiLM(config.control_size, width) if config.control else None
        self.mlp = _mlp(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, delta: Tensor | None, rotation: Rotation, past: Past | None, code: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None, Routing | None]:
        """The stream, what the policy's features measure, and the routing; code (B or 1, T or 1, control_size)."""
        magnitude = routing = None
        x, y = self.attention_norm.add(x, delta)
        if self.attention_film is not None:
            y = self.attention_film(y, code)
        if isinstance(self.attention, GovernedAttention):
            y, magnitude = self.attention(y, rotation, past)
        else:
            y = self.attention(y, rotation, past)
        x, y = self.mlp_norm.add(x, self.dropout(y))
        if self.mlp_film is not None:
            y = self.mlp_film(y, code)
        if isinstance(self.mlp, MoE):
            y, routing = self.mlp(y)
        else:
            y = self.mlp(y)
        return x, self.dropout(y), magnitude, routing


class Simone(Transformer):
    """tokens (B, T) int64 -> logits (B, T, V)."""

    config: Config
    main_losses = frozenset({"lm", "moe_balance", "moe_z"})

    def __init__(self, config: Config) -> None:
        super().__init__()
        check_vocabulary(config.vocab_size)
        self.config = config
        self.left_padding = not config.segment
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        positions = config.memory_slots + (config.segment or config.context)
        self.rotary = Rotary(config.width // config.heads, positions, config.rope_base)
        self.dropout = nn.Dropout(config.dropout)
        self.control = Control(len(CHANNELS), config.control_size, config.control_dropout) if config.control else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.head = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)
        self.memory = _memory(config)
        self.objectives = ComprehensiveTrainingLoss(config)
        self._balance = Balance()
        self._asked: float | Tensor = 0.0  # the auxiliary losses of the last micro-batch, weighted

    @property
    def labels(self) -> frozenset[str]:  # type: ignore[override]
        """What the losses read of a batch beside its tokens and targets."""
        return self.objectives.labels | ({"control"} if self.control is not None else frozenset())

    @property
    def loss_weights(self) -> dict[str, float]:  # type: ignore[override]
        return {"moe_balance": 1e-4, "moe_z": 1e-3, **self.objectives.loss_weights}

    def forward(
        self, tokens: Tensor, cache: Cache | None = None, *, last_only: bool = False, control: Tensor | None = None
    ) -> Tensor:
        """control: (B or 1, T or 1, 5), see `governance.control`; None is without."""
        hidden = self._run(tokens, cache, control)[0]
        return F.linear(hidden[:, -1:] if last_only else hidden, self.head_weight)

    def hidden(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        return self._run(tokens, cache, None)[0]

    def training_step(self, batch: Batch, carry: Carry | None = None) -> StepOutput:
        hidden, embedded, aside = self._run(batch["tokens"], None, batch.get("control"))
        output = self.language_loss(hidden, batch)
        losses, metrics = self.objectives(hidden, embedded, batch, self.head_weight)
        output.losses.update(losses)
        output.metrics.update(metrics)
        if self.training:
            self._add_own(output, aside)
            weights = self.objectives.loss_weights
            asked = (weights[name] * loss.detach() for name, loss in output.losses.items() if name in weights)
            self._asked = sum(asked, torch.zeros(()))
        return output

    def _add_own(self, output: StepOutput, aside: Aside) -> None:
        """The losses and metrics of policy, memory and experts."""
        if aside.magnitudes:
            magnitude = torch.stack(aside.magnitudes).mean()
            output.metrics["policy_magnitude"] = magnitude.detach()
            if self.config.policy_weight:
                output.losses["policy"] = magnitude
        if aside.gates:
            gate = torch.stack(aside.gates).mean()
            output.metrics["memory_gate"] = gate.detach()
            if self.config.memory_weight:
                output.losses["memory"] = gate
        if aside.routings:
            for first in range(0, len(aside.routings), len(self.blocks)):  # each segment counts as a micro-batch
                self._balance.add(aside.routings[first : first + len(self.blocks)])
            for name in aside.routings[0].losses:
                output.losses[name] = torch.stack([routing.losses[name] for routing in aside.routings]).mean()

    def _run(self, tokens: Tensor, cache: Cache | None, control: Tensor | None) -> tuple[Tensor, Tensor, Aside]:
        """Final hidden states and token embeddings, (B, T, width) both, and what the parts say."""
        embedded = self.embedding(tokens)
        x, aside = self.dropout(embedded), Aside()
        code = self.control(control) if self.control is not None else None
        if not self.config.segment:
            return self._blocks(x, code, cache, aside), embedded, aside
        return self._segments(x, code, cache, aside), embedded, aside

    def _segments(self, x: Tensor, code: Tensor | None, cache: Cache | None, aside: Aside) -> Tensor:
        """x (B, T, width) segment by segment: the slots, where there are some, go in front of each and are written from
        its hidden states."""
        assert cache is None or isinstance(cache, SegmentCache)
        state = cache or SegmentCache(self.config.segment, self._first_slots(len(x)))
        parts, first = [], 0
        for count in state.cut(x.shape[1]):
            before, gate = state.open(self.memory)
            aside.gates += [gate] if gate is not None else []
            slots, last = before.shape[1], first + count
            piece = torch.cat([before, x[:, first:last]], 1)
            hidden = self._blocks(piece, _beside_slots(code, first, last, slots), state.kv, aside)[:, slots:]
            state.close(hidden)
            parts.append(hidden)
            first = last
        return torch.cat(parts, 1)

    def _first_slots(self, batch: int) -> Tensor:
        """(B, M, width), with M = 0 where there is no memory."""
        if self.memory is None:
            return self.embedding.weight.new_empty(batch, 0, self.config.width)
        return self.memory.start(batch)

    def new_cache(  # type: ignore[override]
        self, batch: int, length: int, padding: Tensor | None = None
    ) -> KVCache | SegmentCache:
        if not self.config.segment:
            return super().new_cache(batch, length, padding)
        assert padding is None, "a model of segments takes no left padding"
        slots = self._first_slots(batch)
        return SegmentCache(self.config.segment, slots, super().new_cache(batch, slots.shape[1] + self.config.segment))

    def _blocks(self, x: Tensor, code: Tensor | None, cache: Cache | None, aside: Aside) -> Tensor:
        """x (B, T, width) through all blocks and the last norm."""
        keep = cache is None and torch.is_grad_enabled()
        rotation = self.rotary(cache.length if cache is not None else 0, x.shape[1])
        delta = None
        for index, past in enumerate(self.pasts(cache, x.shape[1])):
            x, delta, magnitude, routing = self.run_block(index, (x, delta, rotation, past, code), keep)
            aside.magnitudes += [magnitude] if magnitude is not None else []
            aside.routings += [routing] if routing is not None else []
        return self.norm.add(x, delta)[1]

    @property
    def features(self) -> tuple[str, ...]:  # type: ignore[override]
        config = self.config
        on = {
            "policy": config.policy_rank > 0,
            "forgetting": config.forgetting,
            "memory_slots": config.memory_slots > 0,
            "control": config.control,
            "auxiliary": any(self.objectives.loss_weights.values()),
            "moe": config.routed_experts > 0,
        }
        return tuple(name for name, there in on.items() if there)

    def evidence(self) -> dict[str, float]:
        """Norms of the gradients at the scales of the policy, the biases of the forgetting gates, the write of the
        slots, the maps of the metadata and the routers; and the weighted auxiliary losses."""
        parts: dict[str, list[nn.Module]] = {
            "policy": [module for module in self.modules() if isinstance(module, Policy)],
            "forgetting": [module for module in self.modules() if isinstance(module, Forgetting)],
            "memory_slots": [self.memory] if self.memory is not None else [],
            "control": [module for module in self.modules() if isinstance(module, FiLM)],
            "moe": [module.router for module in self.modules() if isinstance(module, MoE)],
        }
        found = {name: gradient_norm(modules) for name, modules in parts.items() if modules}
        return {**found, **({"auxiliary": float(self._asked)} if "auxiliary" in self.features else {})}

    def flops_per_token(self) -> float:
        """See `Model.flops_per_token`; idle experts do not count, nor do auxiliary losses, which few tokens meet.
        Attention reaches over a segment and its slots, and each token bears its share of the slots' way through the
        blocks and of writing them."""
        seen = self.config.memory_slots + (self.config.segment or self.config.context)
        spared = 12.0 * len(self.blocks) * self.config.width * (self.config.context - seen)
        flops = super().flops_per_token() - spared - 6.0 * idle_weights(self.blocks, self.config.top_k)
        for module in self.modules():
            if isinstance(module, GovernedAttention):
                flops += module.further_flops(seen)
            elif isinstance(module, Control | FiLM):
                flops += 6.0 * sum(matrix.numel() for matrix in module.parameters() if matrix.ndim == 2)
        if self.memory is None:
            return flops
        of_slots = self.config.memory_slots * (flops - 6.0 * self.head_weight.numel())
        return flops + (of_slots + self.memory.flops(self.config.segment)) / self.config.segment

    def forget_step(self) -> None:
        self._balance.forget()
        super().forget_step()

    def after_step(self, average: Callable[[Iterable[Tensor]], None] | None = None) -> None:
        self._balance.settle(self, average)
        super().after_step(average)


def gradient_norm(modules: Iterable[nn.Module]) -> float:
    """Of all parameters of the modules together; those without a gradient count as 0."""
    gradients = [p.grad for module in modules for p in module.parameters() if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0


def _beside_slots(code: Tensor | None, first: int, last: int, slots: int) -> Tensor | None:
    """The code of the tokens `first` up to `last`, with that of the first of them for each slot in front of it."""
    if code is None or code.shape[1] == 1:
        return code
    part = code[:, first:last]
    return torch.cat([part[:, :1].expand(-1, slots, -1), part], 1)


def _attention(config: Config) -> Attention | GovernedAttention:
    if not (config.policy_rank or config.forgetting):
        return Attention(config.width, config.heads, config.heads, bias=False, dropout=config.attention_dropout)
    return GovernedAttention(
        config.width,
        config.heads,
        config.heads,
        policy_rank=config.policy_rank,
        forgetting=config.forgetting,
        features=config.governance_width or config.width // 4,
        dropout=config.attention_dropout,
        norm_eps=config.norm_eps,
    )


def _memory(config: Config) -> MemorySlots | None:
    if not config.memory_slots:
        return None
    return MemorySlots(config.width, config.memory_slots, config.heads, config.norm_eps)


def _mlp(config: Config) -> SwiGLU | MoE:
    if not config.routed_experts:
        return SwiGLU(config.width, config.units, bias=False)
    hidden = max(1, config.units // config.top_k)
    experts, chosen = config.routed_experts, config.top_k
    return MoE(config.width, hidden, shared=0, routed=experts, top_k=chosen, quantised=False, eps=config.norm_eps)


def build(config: Config) -> Simone:
    """The model of a config, its weights not yet drawn (see `contract.build_model`)."""
    return Simone(config)
