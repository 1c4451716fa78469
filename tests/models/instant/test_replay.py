import torch
from torch import Tensor

import eco  # noqa: F401
from eco.models.instant.replay import Replay
from eco.models.layers.pinned import pinned, replaying

CPU = torch.device("cpu")


def _noisy(x: Tensor) -> Tensor:
    """Depends on random numbers, precision and a decision."""
    best = pinned(lambda: x.argmax(-1))
    noise = torch.rand(4)
    return (torch.nn.functional.linear(x, torch.eye(4) / 3) * noise).gather(-1, best[..., None])


def test_further_runs_repeat_random_numbers_and_precision() -> None:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    replay = Replay(CPU)
    with torch.autocast("cpu", torch.bfloat16):
        with replay.first():
            first = _noisy(x)
        between = torch.rand(2)
    state = torch.get_rng_state()
    for _ in range(2):
        with replay.again():
            assert torch.equal(_noisy(x), first)
    assert torch.equal(torch.get_rng_state(), state)  # drawing goes on as if there had been no further runs
    assert not torch.equal(torch.rand(2), between)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.nn.functional.linear(x, torch.eye(4)).dtype == torch.bfloat16


def test_the_second_run_takes_the_decision_of_the_first() -> None:
    replay = Replay(CPU)
    with replay.first():
        chosen = pinned(lambda: torch.tensor([0.5, 0.4999]).topk(1).indices)
    with replay.again():
        assert replaying()
        assert torch.equal(pinned(lambda: torch.tensor([0.4999, 0.5]).topk(1).indices), chosen)
    assert not replaying()
    assert torch.equal(pinned(lambda: torch.tensor([0.4999, 0.5]).topk(1).indices), 1 - chosen)


def test_what_is_kept_is_counted() -> None:
    replay = Replay(CPU)
    with replay.first():
        pinned(lambda: torch.zeros(100, dtype=torch.int64))
    assert replay.nbytes == 800 + torch.get_rng_state().nbytes


def test_autocast_keeps_no_copy_without_gradient() -> None:
    weight = torch.nn.Parameter(torch.eye(4))
    x, replay = torch.ones(1, 4), Replay(CPU)
    with torch.autocast("cpu", torch.bfloat16):
        with replay.first(), torch.no_grad():
            torch.nn.functional.linear(x, weight)
        assert torch.nn.functional.linear(x, weight).requires_grad
