"""How a token is chosen: temperature, top-k and top-p, and one uniform number for each token of each row."""

import hashlib

import numpy as np
import torch
from pydantic import field_validator
from torch import Tensor

from eco.config import Config, setting


class Sampling(Config):
    """The choices of one generation. `temperature: 0` is greedy: the most probable token, no chance involved."""

    max_new_tokens: int = setting(128, "Longest continuation in tokens.", flat="max-new-tokens", gt=0)
    temperature: float = setting(0.8, "Divides the logits; 0 takes the most probable token.", flat="temperature", ge=0)
    top_k: int = setting(0, "Draws among the k most probable tokens only; 0: among all.", flat="top-k", ge=0)
    top_p: float = setting(
        1.0, "Draws among the fewest tokens that hold this much probability; 1: among all.", flat="top-p", gt=0, le=1
    )
    stop: tuple[str, ...] = setting((), "Texts that end the continuation and are cut off.", flat="stop")
    seed: int = setting(0, "Same seed, prompt and sample number: same text.", flat="sampling-seed", ge=0)

    @field_validator("stop")
    @classmethod
    def _not_empty(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if "" in stop:
            raise ValueError("a stop string is empty and would end every text at once; remove it")
        return stop


def draw(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> Tensor:
    """One token for each row by the inverse of the cumulative distribution: (B, V) logits -> (B,) int64.

    uniforms: (B,) float64 in [0, 1); not read when greedy. Filters apply in the usual order: temperature, top-k, then
    top-p (nucleus sampling, arXiv 1904.09751) within the k that are left.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    wide = logits.double()
    scaled = (wide - wide.amax(-1, keepdim=True)) / sampling.temperature  # the difference first: no overflow
    filtered = sampling.top_k > 0 or sampling.top_p < 1
    if filtered:
        scaled, order = scaled.topk(min(sampling.top_k or scaled.shape[-1], scaled.shape[-1]))
    probabilities = scaled.softmax(-1)
    if sampling.top_p < 1:
        mass_before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(mass_before >= sampling.top_p, 0.0)
    cumulative = probabilities.cumsum(-1)
    target = uniforms[:, None] * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, target, right=True)
    return (order.gather(-1, index) if filtered else index)[:, 0]


def log_probability(logits: Tensor, tokens: Tensor) -> Tensor:
    """Natural logarithm of the probability of `tokens` (B,) under `logits` (B, V), fp32 (B,)."""
    return logits.log_softmax(-1, dtype=torch.float32).gather(-1, tokens[:, None])[:, 0]


def uniforms(seed: int, prompt: str, sample: int, count: int) -> Tensor:
    """`count` numbers in [0, 1), float64, that depend on nothing but the arguments.

    They carry 24 bits, so that in float64 their product with a sum of probabilities stays below that sum.
    """
    key = hashlib.blake2b(f"{seed} {sample} {prompt}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
    return torch.from_numpy(generator.random(count, dtype=np.float32)).double()
