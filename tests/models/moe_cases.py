"""Small mixtures of experts and what they compute, written out."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eco.models.layers.moe import MoE, RibConfig
from eco.models.layers.norm import RMSNorm

WIDTH, HIDDEN, EPS = 12, 8, 1e-6


def make(*, seed: int = 0, dtype: torch.dtype = torch.float32, **settings: object) -> MoE:
    """A mixture in training mode; weights large enough that every part matters, gains not all one."""
    chosen = {"shared": 1, "routed": 4, "top_k": 2, "quantised": False, "eps": EPS, "rib": RibConfig(), **settings}
    layer = MoE(WIDTH, HIDDEN, **chosen)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in layer.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0, module.in_features**-0.5, generator=generator)
            elif isinstance(module, RMSNorm):
                module.weight.normal_(1, 0.2, generator=generator)
    layer.router.init_own(generator)
    return layer.to(dtype)


def tokens(batch: int = 2, time: int = 7, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """(B, T, WIDTH)."""
    return torch.randn(batch, time, WIDTH, generator=torch.Generator().manual_seed(seed)).to(dtype)


def by_token(layer: MoE, x: Tensor) -> Tensor:
    """The layer's output, one token and one expert at a time, without jitter: no sorting, no stacked product."""
    rounded = layer.router.score.weight.detach().bfloat16().to(x.dtype)
    out = []
    for token in x.flatten(0, 1):
        affinity = torch.sigmoid(rounded @ token / layer.router.temperature)
        chosen = (affinity + layer.router.bias).topk(layer.router.top_k).indices.tolist()
        total = sum(affinity[e] for e in chosen)
        y = sum(affinity[e] / total * expert(layer.experts, e, layer.experts.count, token) for e in chosen)
        out.append(y + expert(layer.shared, 0, 1, token) if layer.shared is not None else y)
    return torch.stack(out).view_as(x)


def expert(networks: nn.Module, index: int, count: int, token: Tensor) -> Tensor:
    gate, up = networks.gate_up.weight.chunk(count)[index].chunk(2)
    hidden = F.silu(gate @ token) * (up @ token)
    hidden = hidden / (hidden.square().mean() + EPS).sqrt() * networks.norm.weight
    return networks.down.weight.chunk(count)[index] @ hidden
