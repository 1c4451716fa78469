"""AdamW with bf16 moments in plain torch, the hash in 64-bit integers."""

import torch
from torch import Tensor

from eco.kernels.adamw.rule import Rule, factors, mix

CHUNK = 1 << 24
"""Elements at a time: the hash takes tens of bytes for each."""


def adamw_(weight: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, rule: Rule, key: int) -> None:
    """See `eco.kernels.adamw.adamw_`. Each operation is rounded by itself, as in the C++."""
    f = factors(rule, key)
    flat = (torch.split(x.detach().reshape(-1), CHUNK) for x in (weight, gradient, mean, square))
    for index, (w, g, m, v) in enumerate(zip(*flat, strict=True)):
        moment1 = m.float().mul_(f.beta1).add_(g * f.one_less_beta1)
        moment2 = v.float().mul_(f.beta2).add_((g * f.one_less_beta2).mul_(g))
        root = moment2.double().sqrt_().float()  # torch's own root of fp32 may be off by the last bit
        update = (moment1 * f.size).div_(root.mul_(f.root).add_(f.eps))
        w.copy_((w * f.decay).sub_(update))
        bits = mix(torch.arange(index * CHUNK, index * CHUNK + len(w), device=w.device) ^ key)
        m.copy_(rounded(moment1, bits & 0xFFFF))
        v.copy_(rounded(moment2, bits >> 16))


def rounded(x: Tensor, bits: Tensor) -> Tensor:
    """x (fp32) in bf16, away from zero where its lower 16 bits plus the 16 drawn `bits` (int64) carry over."""
    carried = x.view(torch.int32) + bits.int()
    return (carried & -0x10000).view(torch.float32).bfloat16()
