"""What the rotation is for: a layer whose memory can turn counts bits modulo 2, one whose memory only fades does not.

The running parity of a bit string needs a transition with a negative or complex eigenvalue (arXiv 2411.12537), and
mamba3's rotation is one (arXiv 2603.15569).
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eco.models.layers.mamba3 import Mamba3
from eco.models.layers.norm import RMSNorm

WIDTH, LENGTH, BATCH = 32, 32, 64


class Counter(nn.Module):
    """Bits (B, T) int64 -> logits (B, T, 2): one residual Mamba-3 layer between an embedding and a head."""

    def __init__(self, seed: int, *, complex: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(2, WIDTH)
        self.norm = RMSNorm(WIDTH, 1e-5)
        self.mixer = Mamba3(
            WIDTH, state=16, head_size=16, rank=1, expand=2, chunk=32, complex=complex, quantised=False, eps=1e-5
        )
        self.last_norm = RMSNorm(WIDTH, 1e-5)
        self.head = nn.Linear(WIDTH, 2)
        generator = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                # Logits as spread as those of a model of width 768 whose weights are normal(0, 0.02).
                nn.init.normal_(module.weight, std=0.1, generator=generator)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, generator=generator)
            elif isinstance(module, RMSNorm):
                nn.init.ones_(module.weight)
        nn.init.zeros_(self.head.bias)
        self.mixer.init_own(generator)
        with torch.no_grad():
            # A turn is at most pi times the step, so half a turn in one position takes a step of 1: start there.
            self.mixer.step_bias.fill_(math.log(math.e - 1))

    def forward(self, bits: Tensor) -> Tensor:
        x = self.embedding(bits)
        return self.head(self.last_norm(x + self.mixer(self.norm(x))))


def strings(count: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random bits (count, length) and, at each position, the parity of those so far."""
    bits = torch.randint(0, 2, (count, length), generator=generator)
    return bits, bits.cumsum(1) % 2


def train(seed: int, *, complex: bool, updates: int) -> Counter:
    model = Counter(seed, complex=complex)
    generator = torch.Generator().manual_seed(1000 + seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, updates, pct_start=0.1)
    for update in range(updates):
        # Short strings first: in a long one, whose phase is wrong early on, the late targets are noise.
        bits, parity = strings(BATCH, LENGTH // 4 if 3 * update < updates else LENGTH, generator)
        loss = F.cross_entropy(model(bits).flatten(0, 1), parity.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model


@torch.no_grad()
def accuracy(model: Counter, length: int) -> float:
    bits, parity = strings(64, length, torch.Generator().manual_seed(7))
    return (model(bits).argmax(-1) == parity).float().mean().item()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_turning_memory_counts_modulo_two(seed: int) -> None:
    model = train(seed, complex=True, updates=300)
    assert accuracy(model, LENGTH) > 0.99
    # Half of these positions it never met. Angles that are a little off add up over them, so not all are right.
    assert accuracy(model, 2 * LENGTH) > 0.7


def test_a_fading_memory_does_not() -> None:
    """It gets the first few positions by heart, and guesses the others."""
    assert accuracy(train(0, complex=False, updates=300), LENGTH) < 0.65


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_fading_memory_does_not_learn_it_by_training_longer(seed: int) -> None:
    assert accuracy(train(seed, complex=False, updates=1000), LENGTH) < 0.65
