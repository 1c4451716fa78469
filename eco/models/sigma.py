"""SigmaLM: a hybrid of Mamba-3, latent attention and experts, with ternary weights.

Each block is a mixer and a mixture of experts. The mixer is a Mamba-3 layer (arXiv 2603.15569), or in every sixth block
multi-head latent attention (arXiv 2405.04434) with differential maps (arXiv 2410.05258). The experts are DeepSeekMoE's
(arXiv 2401.06066), balanced without a loss (arXiv 2408.15664); the linear layers are BitNet b1.58's (arXiv 2402.17764).
A document is read as if it stood alone: neither state nor attention reaches over its beginning.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, Self, cast

import torch
from pydantic import model_validator
from torch import Tensor, nn

from eco.config import setting
from eco.kernels.backend import backend
from eco.kernels.native import compute_dtype
from eco.models.contract import Batch, Cache, Carry, StepOutput
from eco.models.instant import InstantConfig, InstantModel
from eco.models.instant.model import contractions_of
from eco.models.instant.replay import SubLayer
from eco.models.layers.bitlinear import BitLinear
from eco.models.layers.differential import LambdaRange
from eco.models.layers.hybrid_block import HybridBlock
from eco.models.layers.hybrid_cache import HybridCache, Kind, LatentPast, RecurrentPast, documents
from eco.models.layers.init import init_transformer
from eco.models.layers.latent_attention import LatentAttention
from eco.models.layers.mamba3 import Mamba3
from eco.models.layers.moe import Dispatch, MoE, RibConfig, Routing
from eco.models.layers.moe.balance import Balance
from eco.models.layers.moe.experts import SharedExpert, idle_weights
from eco.models.layers.moe.router import Precision
from eco.models.layers.norm import RMSNorm
from eco.models.layers.rotary import Rotary, Rotation
from eco.models.layers.shape import check_heads, check_vocabulary


class Config(InstantConfig):
    """Sizes and choices of a SigmaLM; the defaults are the profile of 1.0 billion parameters."""

    family: Literal["sigma"] = setting("sigma", "Architecture: Mamba-3, latent attention, experts.", flat="family")
    width: int = setting(768, "Size of the residual stream.", flat="d-model", gt=0)
    layers: int = setting(18, "Number of blocks.", flat="n-layers", gt=0)
    heads: int = setting(12, "Heads of the attention blocks; divides the width.", flat="n-heads", gt=0)
    mamba_ratio: int = setting(5, "Mamba blocks before each run of attention blocks.", flat="mamba-ratio", gt=0)
    attention_ratio: int = setting(1, "Attention blocks behind each run of Mamba blocks.", flat="attention-ratio", gt=0)

    expand: int = setting(2, "Inner width of a Mamba layer, in widths.", flat="mamba-expand", gt=0)
    head_size: int = setting(64, "Channels of a Mamba head; divides the inner width.", flat="mamba-head-size", gt=0)
    state: int = setting(64, "State of each Mamba channel.", flat="mamba-state", gt=0, multiple_of=4)
    mimo_rank: int = setting(4, "Inputs and outputs of the state at each step (MIMO).", flat="mimo-rank", gt=0)
    chunk: int = setting(32, "Tokens of a chunk in the scan.", flat="mamba-block-t", gt=0)
    rotate_state: bool = setting(True, "Complex dynamics: rotate B and C by the data.", flat="mamba-complex")

    latent: int = setting(128, "Width of what attention caches of a token.", flat="kv-latent-dim", gt=0)
    rope_size: int = setting(32, "Width of the rotary key, one for all heads.", flat="rope-size", gt=0, multiple_of=2)
    rope_base: float = setting(10_000.0, "Base of the rotary wavelengths.", flat="rope-base", gt=1)
    differential: bool = setting(True, "Subtract a second attention map.", flat="differential-attention")
    lambda_init: float = setting(0.35, "The second map's weight at the start.", flat="diff-attention-lambda-init")
    lambda_min: float = setting(0.05, "Its least.", flat="diff-attention-lambda-min", ge=0)
    lambda_max: float = setting(1.2, "Its greatest.", flat="diff-attention-lambda-max")

    feed_forward: int = setting(3072, "Size of an expert; its SwiGLU has 2/3 as many units.", flat="d-ff", gt=0)
    shared_experts: int = setting(1, "Experts that see every token.", flat="n-shared-experts", ge=0)
    routed_experts: int = setting(8, "Experts to choose from; 0: one dense layer.", flat="n-routed-experts", ge=0)
    top_k: int = setting(2, "Routed experts of a token.", flat="moe-top-k", gt=0)
    dispatch: Dispatch = setting(
        "grouped", "How tokens reach their experts; all give the same.", flat="moe-dispatch-mode"
    )
    balance_rate: float = setting(1e-3, "Step of the balancing bias; 0 is off.", flat="router-balance-lr", ge=0)
    jitter: float = setting(0.01, "Noise on the router's logits in training.", flat="router-jitter-noise", ge=0)
    gate_precision: Precision = setting("bf16", "The router's weights.", flat="moe-gate-precision")
    rib: bool = setting(True, "Information bottleneck on the routing.", flat="rib-router-enabled")
    rib_info_weight: float = setting(0.03, "Weight of a token's hesitation.", flat="rib-info-weight", ge=0)
    rib_collapse_penalty: float = setting(0.08, "Weight of uneven load.", flat="rib-collapse-penalty", ge=0)
    rib_confidence_weight: float = setting(
        0.03, "Weight of the information that an expert holds about its token.", flat="rib-confidence-weight", ge=0
    )
    rib_temp_gain: float = setting(0.55, "How far information cools the router.", flat="rib-temp-gain", ge=0)

    quant_mode: Literal["bitnet_1_58", "none"] = setting(
        "bitnet_1_58", "Ternary weights and int8 activations in all blocks, or full precision.", flat="quant-mode"
    )
    norm_eps: float = setting(1e-5, "Added to the mean square in RMSNorm.", flat="norm-eps", gt=0)
    dropout: float = setting(0.0, "Dropout of embeddings and sub-layer outputs.", flat="dropout", ge=0, lt=1)
    tied: bool = setting(False, "The head is the embedding matrix.", flat="tie-embeddings")
    document_end: int | None = setting(
        None, "Token that ends a document; none takes the tokenizer's, -1 reads a window as one document.", ge=-1
    )

    @property
    def expert_units(self) -> int:
        """Units of an expert's SwiGLU: with its three matrices it has the weights of a layer of two and no gates."""
        return max(1, 2 * self.feed_forward // 3)

    @property
    def kinds(self) -> list[Kind]:
        """The mixer of each block."""
        period = self.mamba_ratio + self.attention_ratio
        return ["recurrent" if layer % period < self.mamba_ratio else "latent" for layer in range(self.layers)]

    @property
    def attention_blocks(self) -> list[bool]:
        return [kind == "latent" for kind in self.kinds]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        check_heads(self.width, self.heads)
        if self.layers <= self.mamba_ratio:
            raise ValueError(
                f"{self.layers} layers at {self.mamba_ratio} Mamba blocks : {self.attention_ratio} attention blocks "
                f"hold no attention; take at least {self.mamba_ratio + 1} layers, or a lower mamba_ratio"
            )
        if self.expand * self.width % self.head_size:
            raise ValueError(
                f"head_size {self.head_size} does not divide a Mamba layer's inner width "
                f"{self.expand} x {self.width} = {self.expand * self.width}"
            )
        if self.routed_experts and self.top_k > self.routed_experts:
            raise ValueError(
                f"top_k is {self.top_k}, but there are {self.routed_experts} routed experts to choose from"
            )
        if self.routed_experts == 1:
            raise ValueError("routed_experts is 1, so there is no choice; take 2 or more, or 0 for one dense layer")
        if not self.lambda_min <= self.lambda_init <= self.lambda_max or self.lambda_min == self.lambda_max:
            raise ValueError(
                f"lambda_init {self.lambda_init} must lie between lambda_min {self.lambda_min} and a greater "
                f"lambda_max {self.lambda_max}"
            )
        return self

    def for_tokenizer(self, vocab_size: int, end: int) -> Self:
        filled = {"document_end": end} if self.document_end is None else {}
        return super().for_tokenizer(vocab_size, end).model_copy(update=filled)


class Sigma(InstantModel):
    """tokens (B, T) int64 -> logits (B, T, V)."""

    config: Config
    # Sequence-level balance after DeepSeek-V3 (arXiv 2412.19437), router z-loss after ST-MoE (arXiv 2202.08906).
    loss_weights = {"moe_balance": 1e-4, "moe_z": 1e-3, "rib": 3e-3}  # noqa: RUF012

    def __init__(self, config: Config) -> None:
        super().__init__()
        check_vocabulary(config.vocab_size)
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.rotary = Rotary(config.rope_size, config.context, config.rope_base)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(_block(config, kind) for kind in config.kinds)
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.head = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)
        self.contractions = contractions_of(config)
        self._flip_rate = 0.0  # at the last evidence
        self._balance = Balance()

    def hidden(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        return self._run(tokens, cache)[0]

    def training_step(self, batch: Batch, carry: Carry | None = None) -> StepOutput:
        hidden, routings = self._run(batch["tokens"], None)
        output = self.language_loss(hidden, batch)
        if not self.training:
            return output
        for name in routings[0].losses if routings else ():
            output.losses[name] = torch.stack([routing.losses[name] for routing in routings]).mean()
        self._balance.add(routings)
        return StepOutput(output.losses, output.metrics | self._metrics(routings))

    def new_cache(self, batch: int, length: int, padding: Tensor | None = None) -> HybridCache:
        weight, config = self.embedding.weight, self.config
        sizes = config.latent, config.rope_size
        dtype, device = compute_dtype(weight), weight.device
        return HybridCache(config.kinds, batch, length, sizes, dtype=dtype, device=device, padding=padding)

    def _run(self, tokens: Tensor, cache: Cache | None) -> tuple[Tensor, list[Routing]]:
        """Final hidden states (B, T, width), and the routing of each block that has experts."""
        rotation = self.rotary(cache.length if cache is not None else 0, tokens.shape[1])
        begins, first, pasts = self._places(tokens, cache)
        x, delta = self.dropout(self.embedding(tokens)), None
        keep = self.starts(tokens, cache, *rotation, begins, first)
        routings: list[Routing] = []
        if self.instant is not None and self.instant.runs(keep):
            sublayers = self.sublayers(rotation, begins, first, pasts, routings)
            x, delta, losses = self.instant.run(sublayers, x, keep)
            routings = _with_losses(routings, losses)
        else:
            for index, past in enumerate(pasts):
                x, delta, routing = self.run_block(index, (x, delta, rotation, begins, first, past), keep)
                routings += [routing] if routing is not None else []
        return self.norm.add(x, delta)[1], routings

    def sublayers(
        self,
        rotation: Rotation,
        begins: Tensor | None = None,
        first: Tensor | None = None,
        pasts: Sequence[RecurrentPast | LatentPast | None] | None = None,
        routings: list[Routing] | None = None,
    ) -> list[tuple[SubLayer, SubLayer]]:
        """See `_places`. The routing of each block with experts is added to `routings` when it runs."""
        routings = [] if routings is None else routings
        pairs = zip(self.blocks, pasts or [None] * len(self.blocks), strict=True)
        return [cast(HybridBlock, block).sublayers(rotation, begins, first, past, routings) for block, past in pairs]

    def _places(
        self, tokens: Tensor, cache: Cache | None
    ) -> tuple[Tensor | None, Tensor | None, Sequence[RecurrentPast | LatentPast | None]]:
        """(begins, first, pasts): where a document begins (B, T) bool, at which position that of each token did (B, T)
        int64 (None as in `HybridCache.extend`), and each layer's part of the cache (None without one)."""
        end = self.config.document_end
        ends = tokens == (-1 if end is None else end)
        if cache is not None:
            assert isinstance(cache, HybridCache)
            return *cache.extend(ends), cache.pasts
        return *documents(ends), [None] * len(self.blocks)

    def init_weights(self, generator: torch.Generator) -> None:
        init_transformer(self, len(self.blocks), generator)

    def forget_step(self) -> None:
        self._balance.forget()
        super().forget_step()

    def after_step(self, average: Callable[[Iterable[Tensor]], None] | None = None) -> None:
        """Moves the balancing biases by the load of the step, which is that of all processes."""
        self._balance.settle(self, average)
        super().after_step(average)

    def weights_changed(self) -> None:
        for module in self.modules():
            if isinstance(module, BitLinear):
                module.weights_changed()

    @property
    def features(self) -> tuple[str, ...]:  # type: ignore[override]
        config = self.config
        on = {
            "mamba_scan": True,
            "mamba_rotation": config.rotate_state,
            "diff_mla": config.differential,
            "moe": config.routed_experts > 0,
            "rib": config.rib and config.routed_experts > 0,
            "bitlinear": config.quant_mode != "none",
        }
        return *(name for name, there in on.items() if there), *super().features

    def evidence(self) -> dict[str, float]:
        """Norms of the gradients at what steers the scan and turns its state, at lambda and at the routers; how far
        these are from their temperature without a bottleneck; share of flipped codes."""
        strengths = {
            "mamba_scan": [m.evidence() for m in self.modules() if isinstance(m, Mamba3)],
            "mamba_rotation": [m.rotation_evidence() for m in self.modules() if isinstance(m, Mamba3)],
            "diff_mla": [m.evidence() for m in self.modules() if isinstance(m, LatentAttention)],
            "moe": [m.evidence() for m in self.modules() if isinstance(m, MoE)],
            "rib": [m.bottleneck_evidence() for m in self.modules() if isinstance(m, MoE)],
            "bitlinear": [m.flip_rate() for m in self.modules() if isinstance(m, BitLinear)],
        }
        means = {name: sum(of) / len(of) for name, of in strengths.items() if name in self.features}
        self._flip_rate = means.get("bitlinear", 0.0)
        return {**means, **super().evidence()}

    def algorithmic_features(self) -> dict[str, float]:
        """What the model is made of, by the names that stand in metrics and crash reports."""
        config = self.config
        count: dict[type, int] = defaultdict(int)
        for module in self.modules():
            count[type(module)] += 1
        return {
            "bitlinear_layers": count[BitLinear],
            "bitnet_1_58_active": int(config.quant_mode != "none"),
            "mla_layers": count[LatentAttention],
            "moe_layers": count[MoE],
            "mamba3_layers": count[Mamba3],
            "mamba_ratio": config.mamba_ratio,
            "attention_ratio": config.attention_ratio,
            "mimo_rank": config.mimo_rank,
            "instant_enabled": 0,
            **super().algorithmic_features(),
            "rib_router_enabled": int(config.rib and count[MoE] > 0),
            "moe_gate_precision_bf16": int(config.gate_precision == "bf16" and count[MoE] > 0),
            "moe_gate_precision_int8": int(config.gate_precision == "int8" and count[MoE] > 0),
            "differential_mla_enabled": int(config.differential),
            "triton_sigma_kernel": int(backend(self.embedding.weight.device) == "triton"),
        }

    def flops_per_token(self) -> float:
        """See `Model.flops_per_token`; of the routed experts a token meets top_k, and the scan's products count too."""
        config = self.config
        matrices = float(self.head_weight.numel())
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                matrices += module.weight.numel()
        matrices -= idle_weights(self.blocks, config.top_k)  # as linear layers they have counted whole
        kinds = config.kinds
        inner, rank = config.expand * config.width, config.mimo_rank
        heads = inner // config.head_size
        # Products with the state, and with the other positions of a chunk; forward, and twice that backward.
        scan = 6.0 * heads * rank * (2 * config.state * config.head_size)
        scan += 6.0 * heads * rank * min(config.chunk, config.context) * rank * (config.state + config.head_size)
        maps = 2 if config.differential else 1
        size = config.width // config.heads
        attention = 6.0 * config.context * config.heads * maps * (2 * size + config.rope_size)
        return 6.0 * matrices + kinds.count("recurrent") * scan + kinds.count("latent") * attention

    def _metrics(self, routings: list[Routing]) -> dict[str, float | Tensor]:
        metrics = _means([routing.metrics for routing in routings])
        for kind in (Mamba3, LatentAttention):
            metrics |= _means([module.metrics for module in self.modules() if isinstance(module, kind)])
        if self.config.quant_mode != "none":  # the codes of the sample that the last evidence looked at
            ternary = [module for module in self.modules() if isinstance(module, BitLinear)]
            zeros = torch.tensor([module.zero_fraction() for module in ternary])
            metrics |= {"bitlinear_zero_fraction": zeros.mean(), "bitlinear_flip_rate": self._flip_rate}
        attentions = [module for module in self.modules() if isinstance(module, LatentAttention)]
        metrics["qk_max_peak"] = torch.stack([module.metrics["qk_max_peak"] for module in attentions]).max()
        if self.config.differential:
            together = torch.stack([module.metrics["diff_attn_lambda_mean"] for module in attentions])
            metrics |= {"diff_attn_lambda_min": together.min(), "diff_attn_lambda_max": together.max()}
        return metrics


def _with_losses(routings: Sequence[Routing], losses: Sequence[Tensor]) -> list[Routing]:
    """losses: those of all routings in a row."""
    rest = iter(losses)
    return [routing._replace(losses={name: next(rest) for name in routing.losses}) for routing in routings]


def _means(parts: Sequence[Mapping[str, Tensor | float]]) -> dict[str, float | Tensor]:
    """By name, the mean over the layers; all have the same names."""
    names = parts[0] if parts else ()
    return {name: torch.stack([torch.as_tensor(part[name]) for part in parts]).mean() for name in names}


def _block(config: Config, kind: Kind) -> HybridBlock:
    mixer = _mamba(config) if kind == "recurrent" else _attention(config)
    return HybridBlock(mixer, _experts(config), config.width, eps=config.norm_eps, dropout=config.dropout)


def _mamba(config: Config) -> Mamba3:
    return Mamba3(
        config.width,
        state=config.state,
        head_size=config.head_size,
        rank=config.mimo_rank,
        expand=config.expand,
        chunk=config.chunk,
        complex=config.rotate_state,
        quantised=config.quant_mode != "none",
        eps=config.norm_eps,
    )


def _attention(config: Config) -> LatentAttention:
    size = config.width // config.heads
    limits = LambdaRange(config.lambda_init, config.lambda_min, config.lambda_max)
    return LatentAttention(
        config.width,
        config.heads,
        latent=config.latent,
        rope=config.rope_size,
        nope=size,
        value=size,
        differential=limits if config.differential else None,
        quantised=config.quant_mode != "none",
        eps=config.norm_eps,
    )


def _experts(config: Config) -> MoE | SharedExpert:
    """Without experts to choose from, one layer with as many units as a token would meet."""
    quantised, eps = config.quant_mode != "none", config.norm_eps
    if config.routed_experts == 0:
        units = (config.shared_experts + config.top_k) * config.expert_units
        return SharedExpert(config.width, units, quantised=quantised, eps=eps)
    prices = RibConfig(
        config.rib_collapse_penalty, config.rib_info_weight, config.rib_confidence_weight, config.rib_temp_gain
    )
    return MoE(
        config.width,
        config.expert_units,
        shared=config.shared_experts,
        routed=config.routed_experts,
        top_k=config.top_k,
        quantised=quantised,
        eps=eps,
        dispatch=config.dispatch,
        balance_rate=config.balance_rate,
        jitter=config.jitter,
        router_precision=config.gate_precision,
        rib=prices if config.rib else None,
    )


def build(config: Config) -> Sigma:
    """The model of a config, its weights not yet drawn (see `contract.build_model`)."""
    return Sigma(config)
