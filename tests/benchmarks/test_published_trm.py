"""The benchmark's peer and our model are one model: what was written twice, from one description, agrees."""

import pytest
import torch
from torch import Tensor

from benchmarks.published_trm import PublishedTRM, loss_of
from eco.models import trm
from eco.models.contract import IGNORE, build_model

CONFIG = trm.Config(
    width=64, heads=2, layers=2, vocab_size=7, length=11, identifiers=5, prefix=3, cycles=2, inner_cycles=3
)


@pytest.fixture
def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens, targets = torch.randint(7, (2, 6, 11), generator=generator)
    targets[:, 8:] = IGNORE
    return {
        "tokens": tokens,
        "targets": targets,
        "puzzle": torch.arange(6) % 5,
        "fresh": torch.tensor([True, False] * 3),
    }


def pair(dtype: torch.dtype) -> tuple[trm.TRM, PublishedTRM]:
    """Both with the same random weights, those that start at zero included."""
    ours = build_model(trm.build, CONFIG, 0, torch.device("cpu"))
    assert isinstance(ours, trm.TRM) and ours.puzzle_table is not None
    generator = torch.Generator().manual_seed(2)
    for weight in (ours.halt_head.weight, ours.puzzle_table.weight):
        weight.data.normal_(generator=generator)
    published = PublishedTRM(CONFIG, dtype)
    published.load_state_dict(ours.state_dict())
    return ours, published


def test_two_steps_and_their_gradients_agree(batch: dict[str, Tensor]) -> None:
    ours, published = pair(torch.float32)
    first = ours.training_step({**batch, "fresh": torch.ones(6, dtype=torch.bool)})
    found = ours.training_step(batch, first.carry)
    assert found.carry is not None
    loss = found.losses["answer"] + 0.5 * found.losses["halt"]
    loss.backward()

    _, _, state = published(batch["tokens"], batch["puzzle"], None)
    logits, halting, state = published(batch["tokens"], batch["puzzle"], state._replace(halted=batch["fresh"]))
    expected = loss_of(logits, halting, batch["targets"])
    expected.backward()

    torch.testing.assert_close(loss.double(), expected.double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(found.carry["answer"], state.answer, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.carry["scratch"], state.scratch, rtol=0, atol=1e-4)
    assert found.carry["steps"].tolist() == state.steps.tolist() == [1, 2, 1, 2, 1, 2]
    theirs = dict(published.named_parameters())
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-3, atol=1e-5)


def test_logits_in_bf16_differ_by_rounding_alone(batch: dict[str, Tensor]) -> None:
    exact, published = pair(torch.bfloat16)
    with torch.no_grad():
        right, _ = _logits(exact, batch)
        with torch.autocast("cpu", torch.bfloat16):
            ours, halting = _logits(exact, batch)
        logits, published_halting, _ = published(batch["tokens"], batch["puzzle"], None)
    rounding = (logits.float() - right).norm()
    assert 0 < (ours.float() - right).norm() < 1.5 * rounding < 0.1 * right.norm()
    torch.testing.assert_close(halting, published_halting, rtol=0.05, atol=0.05)


def _logits(model: trm.TRM, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    question = model.encode(batch["tokens"], batch["puzzle"])
    return model.read(model.improve(question, model.start(question)))
