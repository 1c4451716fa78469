"""Governance attention: what a token says of itself decides where others look, by two published means.

The policy is a learned attention bias of low rank that depends on the content: s_h u(i).v(j) plus a salience of the key
alone, between features of query i and key j. Forgetting is the Forgetting Transformer's (arXiv 2503.02130): each token
closes a gate g somewhat, and a key counts for less the more the gates after it have closed.

Both are further numbers of queries and keys (`eco.kernels.attention.Extra`): no mask is made, the fast kernels stay,
and what past keys say of themselves lies in the KV cache with them. Features are made token by token, so nothing looks
ahead; what would be the same for all keys of a query and changes nothing, the softmax cancelling it, is not cached.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eco.kernels.attention import Extra, joined
from eco.models.layers.attention import MultiHeadAttention
from eco.models.layers.cache import Past
from eco.models.layers.linear import StackedLinear
from eco.models.layers.norm import RMSNorm
from eco.models.layers.rotary import Rotation

OPEN = 4.0
"""The gates' bias at the start: a gate lets 98 % through, so that half is forgotten after 38 tokens."""
PARTS = 3
"""Numbers of 8 bits (bf16) that together hold one of 24 bits (fp32) exactly."""


class GovernedAttention(MultiHeadAttention):
    """(B, T, width) -> (B, T, width), and the mean square of the policy's query and key features, a scalar.

    policy_rank: numbers of a policy feature of one head, 4 to 8 as a rule; 0 leaves the policy out.
    forgetting: whether there are gates.
    features: width of the two layers that the policy and the gates read.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        *,
        policy_rank: int,
        forgetting: bool,
        features: int,
        dropout: float,
        norm_eps: float,
    ) -> None:
        super().__init__(width, heads, kv_heads, bias=False, dropout=dropout)
        # The kernel divides every product by sqrt(D). A power of two makes up for it but for a factor near 1, and with
        # one beside them a key's numbers stay exact in any dtype.
        root = math.sqrt(self.head_size)
        self.power = 2.0 ** round(math.log2(root))
        self.policy = Policy(heads, kv_heads, policy_rank, root, root / self.power) if policy_rank else None
        self.forgetting = Forgetting(kv_heads, root / self.power) if forgetting else None
        parts = [part for part in (self.policy, self.forgetting) if part is not None]
        if not parts:
            return
        self.features = nn.Sequential(
            nn.Linear(width, features, bias=False),
            nn.ReLU(),
            nn.Linear(features, features, bias=False),
            RMSNorm(features, norm_eps),
        )
        self.reader = StackedLinear(features, [rows for part in parts for rows in part.rows], bias=False)
        self.reader.unit_rows = tuple(rows for part in parts for rows in part.heads_rows)
        self.key_size += sum(part.numbers for part in parts)

    def forward(self, x: Tensor, rotation: Rotation | None = None, past: Past | None = None) -> tuple[Tensor, Tensor]:
        extra, square = self._extra(x, past)
        return self.attend(x, rotation, past, extra), square

    def scores_inputs(self, x: Tensor, rotation: Rotation | None = None) -> tuple[Tensor, Tensor, float]:
        q, k, scale = super().scores_inputs(x, rotation)
        extra, _ = self._extra(x, None)
        return (q, k, scale) if extra is None else (joined(q, extra[0]), joined(k, extra[1]), scale)

    def further_flops(self, keys: int) -> float:
        """Floating-point operations, forward and backward, of one query's further numbers with those of `keys` keys."""
        numbers = self.key_size - self.head_size + (PARTS if self.forgetting is not None else 0)
        return 6.0 * self.heads * numbers * keys

    def _extra(self, x: Tensor, past: Past | None) -> tuple[Extra | None, Tensor]:
        """The further numbers of queries and keys, and the mean square of the policy's features."""
        square = torch.zeros((), device=x.device)
        if self.key_size == self.head_size:
            return None, square
        read = self.reader(self.features(x))
        read = read.to(torch.promote_types(read.dtype, torch.float32))
        power = read.new_full((1,), self.power).expand(*x.shape[:2], 1, 1)
        queries: list[Tensor] = []
        keys: list[Tensor] = []
        if self.policy is not None:
            mine = sum(self.policy.rows)
            query, key, square = self.policy(read[..., :mine])
            queries, keys, read = [query, power.expand(-1, -1, self.heads, 1)], [key], read[..., mine:]
        if self.forgetting is not None:
            decay = split(self.forgetting(read, past, self.key_size - PARTS))
            queries.append(power.expand(-1, -1, self.heads, PARTS))
            keys.append(decay)
            if past is None:
                # What the softmax cancels matters to the gradient: a gate's is a small difference of great sums, and
                # only with the query's part do the rounding errors of the weights cancel too.
                group = self.heads // self.kv_heads
                queries.append(-(decay if group == 1 else decay.repeat_interleave(group, dim=2)))
                keys.append(power.expand(-1, -1, self.kv_heads, PARTS))
        return (torch.cat(queries, dim=-1), torch.cat(keys, dim=-1)), square


class Policy(nn.Module):
    """The bias s_h u.v and the salience of a key; exactly none at the start, when their scales are zero.

    root: sqrt(D), by which the kernel will divide; rest: this over the number that a query has beside a key's salience.
    """

    def __init__(self, heads: int, kv_heads: int, rank: int, root: float, rest: float) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.rank, self.root, self.rest = heads, kv_heads, rank, root, rest
        self.rows = (heads * rank, kv_heads * rank, kv_heads)
        self.heads_rows = (rank,) * (heads + kv_heads) + (1,) * kv_heads
        self.numbers = rank + 1
        self.scale = nn.Parameter(torch.empty(heads))
        self.salience_scale = nn.Parameter(torch.empty(kv_heads))

    @torch.no_grad()
    def init_own(self, generator: torch.Generator) -> None:
        # The features themselves do not start at zero: the scales would have no gradient, nor would they.
        self.scale.zero_()
        self.salience_scale.zero_()

    def forward(self, read: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """read (B, T, sum of rows) -> u (B, T, H, rank), v and the salience (B, T, Hkv, rank + 1), the mean square."""
        features, salience = torch.split(read, [self.rows[0] + self.rows[1], self.kv_heads], dim=-1)
        heads = features.view(*read.shape[:2], self.heads + self.kv_heads, self.rank)
        u, v = torch.split(heads, [self.heads, self.kv_heads], dim=2)
        salience = salience * (self.salience_scale * self.rest)
        u = u * (self.scale * self.root)[:, None]
        return u, torch.cat([v, salience[..., None]], dim=-1), features.square().mean()


class Forgetting(nn.Module):
    """The bias c_i - c_j, where c is the cumulative sum of log g.

    rest: what the kernel will divide by, over the number that a query has beside the key's.
    """

    def __init__(self, kv_heads: int, rest: float) -> None:
        super().__init__()
        self.rest = rest
        self.rows, self.heads_rows, self.numbers = (kv_heads,), (1,) * kv_heads, PARTS
        self.bias = nn.Parameter(torch.empty(kv_heads))

    @torch.no_grad()
    def init_own(self, generator: torch.Generator) -> None:
        self.bias.fill_(OPEN)

    def forward(self, read: Tensor, past: Past | None, place: int) -> Tensor:
        """Inputs (B, T, Hkv) -> -c times `rest` (B, T, Hkv); cached keys have its parts from `place` on."""
        decay = F.softplus(-read - self.bias) * self.rest  # -log sigmoid
        if past is not None and past.mask is not None:  # padding forgets nothing, so a token's sum is its row's own
            decay = decay * past.mask[:, 0, -1, past.start :, None]
        total = decay.cumsum(1)
        if past is not None and past.start:
            total = total + past.keys[:, :, past.start - 1, place:].to(total.dtype).sum(-1)[:, None]
        return total


def split(x: Tensor) -> Tensor:
    """(...) fp32 -> (..., PARTS), which bf16 holds exactly and whose sum is x; x's gradient is that of the first."""
    low = x.detach() - x.detach().bfloat16().to(x.dtype)
    middle = low.bfloat16().to(x.dtype)
    return torch.stack([x - low, middle, low - middle], dim=-1)
