"""Compression of what autograd saves: fewer bytes, an exact forward, almost the same gradient, nothing else touched."""

import copy
import functools
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eco.models import decoder, sigma
from eco.models.contract import LanguageModelConfig, build_model
from eco.models.instant.compression import Compressor
from eco.models.instant.slot import PROBE_EVERY
from eco.models.instant.storages import Memory
from eco.models.layers.norm import RMSNorm
from eco.plugins import find

THRESHOLD = 0.05
SIZES = {"vocab_size": 97, "context": 128, "width": 128, "layers": 2, "heads": 4}
DECODER = decoder.Config(**SIZES)
SIGMA = sigma.Config(
    **SIZES, mamba_ratio=1, head_size=32, state=16, mimo_rank=2, latent=32, rope_size=16, feed_forward=192,
    routed_experts=4, document_end=-1, jitter=0.0,
)  # fmt: skip
CASES = {"decoder": (DECODER, (0, 1)), "sigma": (SIGMA, (1,))}
"""The models, and their blocks that are compressed: all, and those with attention."""


def compressor(threshold: float = THRESHOLD, rank: int = 32) -> Compressor:
    return Compressor(rank=rank, error_threshold=threshold)


def randn(*shape: int, seed: int = 0, grad: bool = False) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_(grad)


def batch(seed: int = 0) -> dict[str, Tensor]:
    tokens = torch.randint(0, 97, (8, 129), generator=torch.Generator().manual_seed(seed))
    return {"tokens": tokens[:, :-1], "targets": tokens[:, 1:]}


@functools.cache
def model_of(config: LanguageModelConfig) -> nn.Module:
    """Weights after a few steps: fresh ones make attention uniform. No test changes them."""
    model = build_model(find("models", config.family).build, config, 0, torch.device("cpu")).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(4):
        gradient_of(model, (), None, bf16=True, seed=step)
        optimizer.step()
        model.weights_changed()
    return model


def gradient_of(
    model: nn.Module, blocks: Iterable[int], used: Compressor | None, *, bf16: bool, seed: int = 0
) -> tuple[float, Tensor]:
    """The loss, and all gradients as one vector, with the `blocks` watched."""

    def watched(block: nn.Module, name: str) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            with used.watch(name) if used is not None else nullcontext():
                return type(block).forward(block, *arguments)

        return run

    for number in blocks:
        model.blocks[number].forward = watched(model.blocks[number], f"blocks.{number}")
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = model.training_step(batch(seed)).losses["lm"]
    model.zero_grad()
    loss.backward()
    for number in blocks:
        del model.blocks[number].forward
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def linear(width: int, out: int) -> nn.Linear:
    layer = nn.Linear(width, out, bias=False)
    with torch.no_grad():
        layer.weight.copy_(randn(out, width, seed=7) / width**0.5)
    return layer


def cosine(a: Tensor, b: Tensor) -> float:
    return float(nn.functional.cosine_similarity(a.double(), b.double(), 0))


@pytest.mark.parametrize("bf16", [True, False], ids=["bf16", "fp32"])
@pytest.mark.parametrize("case", CASES)
def test_three_fifths_saved_and_the_gradient_kept(case: str, bf16: bool) -> None:
    config, blocks = CASES[case]
    model, used = model_of(config), compressor()
    for seed in range(2):
        loss, exact = gradient_of(model, blocks, None, bf16=bf16, seed=seed)
        same, found = gradient_of(model, blocks, used, bf16=bf16, seed=seed)
        assert same == loss
        assert cosine(found, exact) > 0.99
        assert not torch.equal(found, exact)
        assert used.bytes_kept < 0.4 * used.bytes_seen
        used.end_step()
    metrics = used.metrics()
    assert 4 <= metrics["instant_error_bit_width"] <= 8
    assert 0 < metrics["instant_reconstruction_error"] < THRESHOLD
    assert metrics["instant_compression_ratio"] == used.bytes_seen / used.bytes_kept
    assert metrics["instant_error_threshold"] == THRESHOLD


@pytest.mark.parametrize("bf16", [True, False], ids=["bf16", "fp32"])
@pytest.mark.parametrize("state", [64, 128])
def test_what_steers_a_scan_stays_exact(state: int, bf16: bool) -> None:
    """Of a Mamba block, angles and decays add up over time: rounded, they would turn the gradient round."""
    model, used = model_of(SIGMA.model_copy(update={"state": state})), compressor()
    for seed in range(2):
        _, exact = gradient_of(model, (0, 1), None, bf16=bf16, seed=seed)
        _, found = gradient_of(model, (0, 1), used, bf16=bf16, seed=seed)
        assert cosine(found, exact) > 0.99
        assert used.bytes_kept < 0.5 * used.bytes_seen
        used.end_step()


@pytest.mark.parametrize(("width", "exact"), [(32, True), (128, False)])
def test_fp32_rows_of_angles_and_decays_stay_exact(width: int, exact: bool) -> None:
    """They are narrow. Here as their sum over time, whose gradient shows every rounding."""
    used, x = compressor(0.9), randn(1024 * 128 // width, width, grad=True)
    (expected,) = torch.autograd.grad((x * 3).cumsum(0).cos().sum(), x)
    with used.watch("block"):
        loss = (x * 3).cumsum(0).cos().sum()
    (found,) = torch.autograd.grad(loss, x)
    assert torch.equal(found, expected) == exact == (used.bytes_kept == used.bytes_seen > 0)


def test_a_lower_threshold_takes_more_bytes_and_gives_a_better_gradient() -> None:
    model = model_of(DECODER)
    _, exact = gradient_of(model, (), None, bf16=False)
    found = {}
    for threshold in (0.3, 0.05, 0.01):
        used = compressor(threshold)
        found[threshold] = 1 - cosine(gradient_of(model, (0, 1), used, bf16=False)[1], exact), used.bytes_kept
    assert found[0.3][0] > found[0.05][0] > found[0.01][0] < 1e-3
    assert found[0.3][1] < found[0.05][1] < found[0.01][1]


def test_the_mean_of_many_gradients_is_the_gradient() -> None:
    """Of a linear layer; behind a nonlinearity rounding twice is not quite without bias."""
    layer, used, count, x = linear(256, 64), compressor(0.5), 100, randn(512, 256)
    gradients = []
    for _ in range(count):
        layer.zero_grad()
        with used.watch("layer"):
            y = layer(x * 1)
        y.square().sum().backward()
        gradients.append(layer.weight.grad.double())
    exact = torch.autograd.grad(layer(x).square().sum(), layer.weight)[0].double()
    off = [float((g - exact).norm() / exact.norm()) for g in (gradients[0], sum(gradients) / count)]
    assert off[0] > 0.005 and off[1] == pytest.approx(off[0] / count**0.5, rel=0.15)


def test_memory_is_really_freed() -> None:
    used, freed = compressor(), []
    x = randn(256, 256, grad=True)
    with used.watch("block"):
        y = (x * 2).sigmoid()
        freed.append(Memory(y))
        z = y.exp()
        freed.append(Memory(z))
    loss = z.sum()
    del y, z
    assert all(memory.gone for memory in freed)
    assert used.bytes_seen == 2 * x.nbytes and used.bytes_kept < 0.25 * used.bytes_seen
    loss.backward()
    s = (x * 2).sigmoid()
    assert cosine(x.grad.flatten(), (2 * s * (1 - s) * s.exp()).detach().flatten()) > 0.99


def test_a_storage_is_kept_once() -> None:
    """However many views of it are saved."""
    used = compressor()
    x = randn(256, 256, grad=True)
    with used.watch("block"):
        y = x * 2
        (y @ y.mT).sum().backward(retain_graph=True)
        loss = (y[:, :128] * y[:, 128:]).square().sum() + (y.mT @ y).sum()
    product = 256 * 128 * 4
    assert used.bytes_seen == x.nbytes + product
    del y
    x.grad = None
    loss.backward()
    found, x.grad = x.grad, None
    y = x * 2
    ((y[:, :128] * y[:, 128:]).square().sum() + (y.mT @ y).sum()).backward()
    assert cosine(found.flatten(), x.grad.flatten()) > 0.99


def test_what_was_written_to_is_kept_again() -> None:
    used, x, weight = compressor(), randn(256, 256), randn(256, 256, seed=1, grad=True)
    with used.watch("block"):
        buffer = x.clone()
        loss = (weight * buffer).sum()
        buffer.mul_(-3)
        loss = loss + (weight * buffer).sum()
        del buffer
    loss.backward()
    assert cosine(weight.grad.flatten(), -2 * x.flatten()) > 0.99


def test_parameters_integers_small_tensors_and_spared_ones_stay_exact() -> None:
    used = compressor(0.9)
    mask, table = randn(256, 256, seed=1), randn(64, 64, seed=2)
    parameter = nn.Parameter(randn(256, 256, seed=3))
    held = [randn(256, 256, seed=seed, grad=True) for seed in (4, 5)]
    rows = torch.arange(20_000) % 256
    used.spare([mask])

    def run() -> Tensor:
        products = (held[0] * mask.mT).sum() + (held[0] @ parameter.mT).sum()
        return products + held[1][rows].sum() + (held[1][:64, :64] * table.clone()).sum()

    exact = torch.autograd.grad(run(), held)
    with used.watch("block"):
        loss = run()
    found = torch.autograd.grad(loss, held)
    assert all(torch.equal(a, b) for a, b in zip(exact, found, strict=True))


def test_constants_of_others_stay_exact_and_cost_nothing() -> None:
    """What has no gradient and outlives the block: the codes of ternary weights, angles of rotary positions."""
    used, constant = compressor(0.9), randn(256, 256, seed=1)
    x = randn(256, 256, grad=True)
    with used.watch("block"):
        y = (x * constant).sum()
    assert used.bytes_seen == used.bytes_kept == 0
    (found,) = torch.autograd.grad(y, x)
    assert torch.equal(found, constant)


def test_copies_of_parameters_are_made_again() -> None:
    used = compressor(1e-9)
    layer, x = linear(512, 512), randn(4, 512, grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        with used.watch("block"):
            y = layer(x)
        exact = layer(x)
    assert used.bytes_kept == used.bytes_seen - layer.weight.numel() * 2
    parts = torch.autograd.grad(y.sum(), (x, layer.weight)), torch.autograd.grad(exact.sum(), (x, layer.weight))
    assert all(torch.equal(a, b) for a, b in zip(*parts, strict=True))


def test_statistics_of_rows_stay_exact() -> None:
    used, norm, x = compressor(0.9), RMSNorm(64, 1e-5), randn(32_768, 64, grad=True)
    nn.init.ones_(norm.weight)
    with used.watch("block"):
        norm(x * 1)
    statistics = used.bytes_seen - x.nbytes
    assert 0 < statistics <= 2 * 32_768 * 4
    used.end_step()
    assert used.bytes_kept == pytest.approx(statistics + x.numel() * (4 + 0.25) / 8, rel=0.01)


def test_what_the_backward_pass_needs_must_not_change() -> None:
    used, small = compressor(), torch.ones(4)
    x = torch.ones(4, requires_grad=True)
    with used.watch("block"):
        y = (x * small).sum()
    small.add_(1)
    with pytest.raises(RuntimeError, match="written to"):
        y.backward()


def test_nothing_without_gradient() -> None:
    used, model = compressor(), model_of(DECODER)
    state = copy.deepcopy(used.state_dict())
    with torch.no_grad(), used.watch("block"):
        model.training_step(batch())
    assert used.bytes_seen == 0 and used.metrics() == {} and used.state_dict() == state
    used.end_step()
    assert used.metrics() == {}


def test_the_default_generator_is_untouched() -> None:
    model, used = model_of(DECODER), compressor()
    before = torch.get_rng_state()
    gradient_of(model, (0, 1), used, bf16=True)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_resumed_run_has_the_same_gradients() -> None:
    """Across a probe, gradient accumulation and evaluation in between."""
    model, used = model_of(SIGMA), compressor()
    for seed in range(2):
        gradient_of(model, (1,), used, bf16=True, seed=seed)
        gradient_of(model, (1,), used, bf16=True, seed=seed + 10)
        used.end_step()
    resumed = compressor()
    resumed.load_state_dict(copy.deepcopy(used.state_dict()))
    with torch.no_grad(), used.watch("blocks.1"):
        model.training_step(batch(5))
    for step in range(3):
        found = [gradient_of(model, (1,), one, bf16=True, seed=step)[1] for one in (used, resumed)]
        assert torch.equal(*found)
        for one in (used, resumed):
            one.end_step()
    fresh = gradient_of(model, (1,), compressor(), bf16=True, seed=2)[1]
    assert not torch.equal(fresh, found[0])
    assert used.metrics() == resumed.metrics()


def test_a_copy_frees_no_memory_of_the_original() -> None:
    """As of a deep copy of a model: torch counts weak references, and one that is copied would be taken off twice."""
    x = randn(3)
    memory = Memory(x)
    assert copy.deepcopy(memory) is memory and not memory.gone
    used = compressor()
    used.spare([x])
    twin = copy.deepcopy(used)
    assert x in twin._spared and x.clone() not in twin._spared


def test_state_is_tensors_and_numbers() -> None:
    model, used = model_of(DECODER), compressor()
    gradient_of(model, (0,), used, bf16=False)
    used.end_step()
    state = used.state_dict()
    assert state["step"] == 1 and state["slots"]
    for slot in state["slots"].values():
        assert all(isinstance(value, (int, Tensor)) for value in slot.values())


def test_bits_are_added_where_the_error_grows_and_tried_again() -> None:
    used = compressor(0.05)

    def bits(x: Tensor) -> float:
        leaf = x.clone().requires_grad_()
        with used.watch("block"):
            y = (leaf * 1).square().sum()
        y.backward()
        used.end_step()
        return used.metrics()["instant_error_bit_width"]

    noise = randn(256, 256)
    signs = noise.sign()
    assert [bits(signs) for _ in range(3)] == [4, 4, 4]
    assert bits(noise) == 4  # found out at the end of this step
    assert [bits(signs) for _ in range(4, PROBE_EVERY)] == [6] * (PROBE_EVERY - 4)
    assert bits(signs) == 4
