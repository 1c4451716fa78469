"""Multi-head latent attention (MLA, DeepSeek-V2, arXiv 2405.04434), on request with differential maps."""

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eco.kernels.attention import causal_attention
from eco.kernels.rotary import rotate
from eco.models.layers.bitlinear import projection
from eco.models.layers.differential import Differential, HeadNorm, LambdaRange
from eco.models.layers.hybrid_cache import LatentPast
from eco.models.layers.linear import StackedLinear
from eco.models.layers.norm import RMSNorm
from eco.models.layers.pinned import replaying
from eco.models.layers.rotary import Rotation


class _Position(NamedTuple):
    """What is read from the input: queries of all maps and heads, and all that a later query asks of a position."""

    content_query: Tensor
    """(B, T, maps x H, nope), not yet normalised."""
    rope_query: Tensor
    """(B, T, maps x H, rope), normalised and turned."""
    latent: Tensor
    """(B, T, latent), normalised."""
    rope_key: Tensor
    """(B, T, rope), normalised and turned."""


class LatentAttention(nn.Module):
    """(B, T, width) -> (B, T, width), causal. The caller normalises x.

    Keys and values of all heads are read from one latent of each position, which is all that a cache keeps of it, with
    one rotary key that all heads share: latent + rope numbers. A head's query and key are a content part of `nope` and
    a rotary part of `rope` numbers; scores are divided by sqrt(nope + rope). A value has `value` numbers.

    differential: two maps (see `eco.models.layers.differential`). Each map has content keys, content queries and
    rotary queries of its own. The rotary key stays one: it only tells where a position is, all heads share it anyway,
    and a second one would be cached for every token.

    Scores stay bounded by QK-norm. A key is not normalised by itself: its length would have to be cached or computed
    again for each head, as only a map that is linear in the latent can be absorbed into the query. Instead, a content
    query is divided by the RMS that it has once absorbed, W_uk^T q. There the keys are the latents, which are
    normalised, so that the content score is at most latent x gain whatever size W_q and W_uk have, ternary or not, and
    no optimizer has to rescale weights, as QK-clip does (arXiv 2507.20534), which would leave the codes of a ternary
    block. The rotary query and key are normalised as usual (arXiv 2302.05442). Each head of each map has a gain for
    either part.

    quantised: `input` and `output` are ternary (`eco.models.layers.bitlinear`). What goes into `output` is normalised:
    with differential maps by their norm of each head, without by an RMSNorm over all heads.

    Metrics of the last training forward: `qk_max_mean`, `qk_max_peak`: mean and greatest over the heads of an upper
    bound of the scores, the largest length of a query times that of a key / sqrt(nope + rope);
    `diff_attn_lambda_mean`: lambda.

    Raises:
        ValueError: values longer than keys.
    """

    attention_inputs = ("input", "up")  # as in `eco.models.layers.attention.Attention`

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        latent: int,
        rope: int,
        nope: int,
        value: int,
        differential: LambdaRange | None,
        quantised: bool,
        eps: float,
    ) -> None:
        super().__init__()
        if value > nope + rope:
            raise ValueError(f"values of {value} numbers do not fit into keys of nope {nope} + rope {rope}")
        maps = 1 if differential is None else 2
        self.heads, self.nope, self.rope, self.value, self.eps = heads, nope, rope, value, eps
        self.query_heads = maps * heads
        content, turned = [heads * nope] * maps, [heads * rope] * maps
        self.input = projection(width, (*content, *turned, latent, rope), quantised=quantised)
        self.input.unit_rows = (nope,) * self.query_heads + (rope,) * self.query_heads + (latent, rope)
        # Never quantised: to absorb it into queries and outputs takes the matrix itself, and it has few weights.
        self.up = StackedLinear(latent, (*content, heads * value), bias=False)
        self.up.unit_rows = (nope,) * self.query_heads + (value,) * heads
        self.content_gain = nn.Parameter(torch.empty(self.query_heads))
        self.rope_gain = nn.Parameter(torch.empty(self.query_heads))
        self.latent_norm = RMSNorm(latent, eps)
        self.rope_key_norm = RMSNorm(rope, eps)
        self.differential: Differential | None = None
        self.output_norm = RMSNorm(heads * value, eps)
        if differential is not None:
            self.differential = Differential(nope, differential)
            self.output_norm = HeadNorm(value, differential.init, eps)
        self.output = projection(heads * value, (width,), quantised=quantised)
        self.metrics: dict[str, Tensor] = {}

    @torch.no_grad()
    def init_own(self, generator: torch.Generator) -> None:
        self.content_gain.fill_(1.0)
        self.rope_gain.fill_(1.0)

    def forward(
        self, x: Tensor, rotation: Rotation, first: Tensor | None = None, past: LatentPast | None = None
    ) -> Tensor:
        """rotation: cos and sin of the T positions, (T, rope / 2) each.

        first: (B, T) int64, the column, cache included, at which each position's document begins, at most its own
        column: a query sees the keys from there to itself. None: one document from column 0.
        past: the cache of this layer, to which the T positions are added.
        """
        new = self._read(x, rotation)
        if past is not None:
            latents, rope_keys = past.append(new.latent, new.rope_key)
        if past is not None and past.start > 0:
            mixed = self._absorbed(new, latents, rope_keys, visible(first, past.start, x.shape[1], x.device))
        else:
            mixed = self._expanded(new, first)
        return cast(Tensor, self.output(self.output_norm(mixed.flatten(2))))

    def evidence(self) -> float:
        """Norm of the last gradient of lambda's vectors; 0 where there is none."""
        return 0.0 if self.differential is None else self.differential.evidence()

    def _read(self, x: Tensor, rotation: Rotation) -> _Position:
        cos, sin = rotation
        content, turned = self.query_heads * self.nope, self.query_heads * self.rope
        sizes = [content, turned, self.up.in_features, self.rope]
        content_query, rope_query, latent, rope_key = self.input(x).split(sizes, dim=-1)
        content_query, rope_query = (q.unflatten(-1, (self.query_heads, -1)) for q in (content_query, rope_query))
        rope_query = rope_query * self._scale(rope_query, self.rope_gain).to(rope_query.dtype)
        return _Position(
            content_query,
            rotate(rope_query, cos[:, None], sin[:, None]),
            self.latent_norm(latent),
            rotate(self.rope_key_norm(rope_key), cos, sin),
        )

    def _expanded(self, new: _Position, first: Tensor | None) -> Tensor:
        """Attention among new positions alone, by keys and values of every head: (B, T, H, value)."""
        keys, values = self.up(new.latent).split([self.query_heads * self.nope, self.heads * self.value], dim=-1)
        keys, values = keys.unflatten(-1, (self.query_heads, -1)), values.unflatten(-1, (self.heads, -1))
        absorbed = torch.einsum("bthn,hnl->bthl", new.content_query, self._key_weight)
        scale = self._scale(absorbed, self.content_gain).to(new.content_query.dtype)
        q = torch.cat([new.content_query * scale, new.rope_query], dim=-1)
        k = torch.cat([keys, new.rope_key[:, :, None].expand(-1, -1, self.query_heads, -1)], dim=-1)
        if self.training and not replaying():
            self._measure(q, k)
        if self.differential is None:
            return document_attention(q, k, values, first)
        # A map at a time: twice the heads in one call would take a second copy of the values.
        maps = zip(q.chunk(2, dim=2), k.chunk(2, dim=2), strict=True)
        mixed: Tensor = self.differential(*(document_attention(q, k, values, first) for q, k in maps))
        return mixed

    def _absorbed(self, new: _Position, latents: Tensor, rope_keys: Tensor, mask: Tensor | None) -> Tensor:
        """Attention to the latents (B, end, latent) themselves, as if they were keys and values: (B, T, H, value).

        In fp32 (float64 where the input is): a matrix product in bf16 would round the scores before the softmax.
        """
        kind = new.latent.dtype
        wide = torch.promote_types(kind, torch.float32)
        with torch.autocast(latents.device.type, enabled=False):
            latents, rope_keys = latents.to(wide), rope_keys.to(wide)
            content = torch.einsum("bthn,hnl->bhtl", new.content_query.to(wide), self._key_weight.to(wide))
            content = content * self._scale(content, self.content_gain[:, None])
            turned = new.rope_query.to(wide).transpose(1, 2)
            # Heads and positions as the rows of one product: the keys are the same for all.
            scores = content.flatten(1, 2) @ latents.mT + turned.flatten(1, 2) @ rope_keys.mT
            scores = scores.view(*content.shape[:3], -1) / math.sqrt(self.nope + self.rope)
            weights = (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)
            if self.differential is not None:
                weights = self.differential(*weights.chunk(2, dim=1))
            seen = (weights.flatten(1, 2) @ latents).view(*weights.shape[:3], -1)
            return torch.einsum("bhtl,hvl->bthv", seen, self._value_weight.to(wide)).to(kind)

    @property
    def _key_weight(self) -> Tensor:
        """W_uk: (maps x H, nope, latent)."""
        return self.up.weight[: self.query_heads * self.nope].view(self.query_heads, self.nope, -1)

    @property
    def _value_weight(self) -> Tensor:
        """W_uv: (H, value, latent)."""
        return self.up.weight[self.query_heads * self.nope :].view(self.heads, self.value, -1)

    def _scale(self, x: Tensor, gain: Tensor) -> Tensor:
        """The factor (..., 1) that gives x (..., D) an RMS of `gain`, which is broadcast to x.shape[:-1]."""
        return (gain * (_mean_square(x) + self.eps).rsqrt())[..., None]

    @torch.no_grad()
    def _measure(self, q: Tensor, k: Tensor) -> None:
        greatest_q, greatest_k = (_mean_square(x).amax((0, 1)) for x in (q, k))
        bound = (greatest_q * greatest_k * (self.nope + self.rope)).sqrt()
        self.metrics = {"qk_max_mean": bound.mean(), "qk_max_peak": bound.amax()}
        if self.differential is not None:
            self.metrics["diff_attn_lambda_mean"] = self.differential.weight()


def document_attention(q: Tensor, k: Tensor, v: Tensor, first: Tensor | None) -> Tensor:
    """Causal attention within documents: q, k (B, T, H, D), v (B, T, H, Dv) with Dv <= D -> (B, T, H, Dv).

    first: (B, T) int64, where each position's document begins; None: each row is one.
    """
    size = v.shape[-1]
    # The fast kernels have one head size. Zeros cost a little, the kernels that need none take six times as long.
    v = F.pad(v, (0, q.shape[-1] - size))
    if first is None:
        return _causal(q, k, v)[..., :size]
    if first.device.type != "cpu":  # reading lengths would wait for the device
        mask = visible(first, 0, q.shape[1], q.device)
        y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask)
        return y.transpose(1, 2)[..., :size]
    # Each document by itself: what a mask hides is not computed in the first place.
    lengths = document_lengths(first)
    parts = zip(*(torch.split(x.flatten(0, 1)[None], lengths, dim=1) for x in (q, k, v)), strict=True)
    return torch.cat([_causal(*part)[..., :size] for part in parts], dim=1).view(*q.shape[:3], size)


def document_lengths(first: Tensor) -> list[int]:
    """Positions of each document, those of all rows of `first` (B, T) one behind the other."""
    begins = (first >= torch.arange(first.shape[1])).flatten().nonzero().flatten()
    return begins.diff(append=begins.new_tensor([first.numel()])).tolist()


def visible(first: Tensor | None, start: int, count: int, device: torch.device) -> Tensor | None:
    """(B or 1, 1, count, start + count) bool, True where the query at column start + t may look; None: everywhere.

    A query sees itself whatever `first` says: a softmax over no key at all is NaN.
    """
    if first is None and count == 1:
        return None
    keys = torch.arange(start + count, device=device)
    queries = keys[start:, None]
    if first is None:
        return (keys <= queries)[None, None]
    return ((keys <= queries) & (keys >= first[:, :, None]) | (keys == queries))[:, None]


def _mean_square(x: Tensor) -> Tensor:
    """(..., D) -> (...), at least fp32."""
    return x.square().mean(-1, dtype=torch.promote_types(x.dtype, torch.float32))


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Like `causal_attention`, but the heads behind the positions: all (B, T, H, D)."""
    return causal_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)
