"""Each kernel against its reference in float64: values and gradients, in fp32 and bf16, at odd sizes too."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from parity import Function, error, run
from torch import Tensor

from eco.kernels import activation, attention, cross_entropy, native, norm, rotary
from eco.kernels.activation import reference as activation_reference
from eco.kernels.attention import reference as attention_reference
from eco.kernels.cross_entropy import reference as cross_entropy_reference
from eco.kernels.norm import reference as norm_reference
from eco.kernels.rotary import reference as rotary_reference


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def angles(time: int, size: int) -> tuple[Tensor, Tensor]:
    turns = torch.arange(time)[:, None] * 100.0 ** (-torch.arange(size // 2) / (size // 2))
    return turns.cos(), turns.sin()


def check(function: Function, reference: Function, inputs: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """fp32 within 1e-5 of the reference, in plain torch too; bf16 no worse than 1.5 times plain torch's own bf16."""
    exact = run(reference, inputs, torch.float64)
    for found, right in zip(run(function, inputs, torch.float32), exact, strict=True):
        assert error(found, right) < 1e-5
    rounded = [x.bfloat16() if x.is_floating_point() else x for x in inputs]
    expected = run(reference, rounded, torch.float64)
    ours = run(function, rounded)
    monkeypatch.setattr(native, "library", lambda: None)
    for found, right in zip(run(function, inputs, torch.float32), exact, strict=True):
        assert error(found, right) < 1e-5
    theirs = run(function, rounded)
    for mine, plain, right in zip(ours, theirs, expected, strict=True):
        assert error(mine, right) < 1.5 * error(plain, right) + 1e-5


HEADS = [(2, 4, 2, 100, 64), (1, 3, 3, 256, 32), (2, 2, 1, 65, 96), (1, 1, 1, 2, 64), (1, 2, 2, 33, 20)]
"""(B, H, Hkv, T, D); the last head size is one that the C++ leaves to torch."""


@pytest.mark.parametrize("batch, heads, kv_heads, time, size", HEADS)
def test_attention(
    batch: int, heads: int, kv_heads: int, time: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [randn(batch, count, time, size, seed=i) for i, count in enumerate((heads, kv_heads, kv_heads))]
    check(attention.causal_attention, partial(attention_reference.attention, causal=True), inputs, monkeypatch)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("batch, heads, kv_heads, time, size", HEADS)
def test_packed_attention(
    batch: int,
    heads: int,
    kv_heads: int,
    time: int,
    size: int,
    turned: bool,
    causal: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rotation = angles(time, size) if turned else None

    def reference(qkv: Tensor) -> Tensor:
        q, k, v = qkv.view(batch, time, -1, size).transpose(1, 2).split([heads, kv_heads, kv_heads], 1)
        if rotation is not None:
            q, k = (rotary_reference.rotate(x, *(angle.double() for angle in rotation)) for x in (q, k))
        return attention_reference.attention(q, k, v, causal).transpose(1, 2).flatten(2)

    packed = partial(attention.packed_attention, heads=heads, kv_heads=kv_heads, rotation=rotation, causal=causal)
    check(packed, reference, [randn(batch, time, (heads + 2 * kv_heads) * size)], monkeypatch)


@pytest.mark.parametrize("further", [1, 11, 40])
@pytest.mark.parametrize("batch, heads, kv_heads, time, size", HEADS)
def test_attention_with_further_numbers(
    batch: int, heads: int, kv_heads: int, time: int, size: int, further: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotation = angles(time, size)

    def reference(qkv: Tensor, more_q: Tensor, more_k: Tensor) -> Tensor:
        q, k, v = qkv.view(batch, time, -1, size).transpose(1, 2).split([heads, kv_heads, kv_heads], 1)
        q, k = (rotary_reference.rotate(x, *(angle.double() for angle in rotation)) for x in (q, k))
        bias = torch.einsum("bihe,bjhe->bhij", more_q, more_k.repeat_interleave(heads // kv_heads, 2)) / size**0.5
        scores = q @ k.repeat_interleave(heads // kv_heads, 1).mT / size**0.5 + bias
        weights = scores.masked_fill(torch.ones(time, time, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)
        return (weights @ v.repeat_interleave(heads // kv_heads, 1)).transpose(1, 2).flatten(2)

    def packed(qkv: Tensor, more_q: Tensor, more_k: Tensor) -> Tensor:
        extra = more_q.float(), more_k.float()
        return attention.packed_attention(qkv, heads, kv_heads, rotation, extra=extra)

    def apart(qkv: Tensor, more_q: Tensor, more_k: Tensor) -> Tensor:
        q, k, v = qkv.view(batch, time, -1, size).transpose(1, 2).split([heads, kv_heads, kv_heads], 1)
        q, k = (rotary.rotate(x, *rotation) for x in (q, k))
        extra = more_q.float(), more_k.float()
        return attention.causal_attention(q, k, v, extra=extra).transpose(1, 2).flatten(2)

    shapes = [(heads + 2 * kv_heads) * size], [heads, further], [kv_heads, further]
    inputs = [randn(batch, time, *shape, seed=i) for i, shape in enumerate(shapes)]
    for function in (packed, apart):
        with monkeypatch.context() as patch:
            check(function, reference, inputs, patch)


def test_attention_to_one_position_is_its_value() -> None:
    q, k, v = (randn(2, 2, 1, 64, seed=i).bfloat16() for i in range(3))
    assert torch.equal(attention.causal_attention(q, k, v), v)


def test_attention_with_large_scores_stays_finite_and_right(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (4 * randn(1, 2, 70, 32, seed=i) for i in range(3))
    check(attention.causal_attention, partial(attention_reference.attention, causal=True), [q, k, v], monkeypatch)


def test_far_off_scores_leave_no_room_for_the_padding(cpp: None) -> None:
    q = torch.full((1, 70, 32), 6.0)  # scores of -204: a key that does not exist would have one of 0
    qkv = torch.cat((q, -q, randn(1, 70, 32)), 2).bfloat16().requires_grad_()
    out = attention.packed_attention(qkv, 1, 1, causal=False)
    torch.testing.assert_close(out[0, 0].float(), qkv[0, :, 64:].float().mean(0), rtol=0, atol=2e-3)
    out.sum().backward()
    assert qkv.grad is not None
    torch.testing.assert_close(qkv.grad[..., 64:], torch.ones(1, 70, 32).bfloat16(), rtol=0, atol=8e-3)


@pytest.mark.parametrize("shape", [(5, 7), (2, 65, 384), (1, 5)])
@pytest.mark.parametrize("kind", ["rms", "layer", "layer without bias"])
def test_norms(shape: tuple[int, ...], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = 3 * randn(*shape) + 1, randn(shape[-1], seed=1), randn(shape[-1], seed=2)
    if kind == "rms":
        function = _norm_in_its_own_dtype(norm.rms_norm, 1)
        check(function, lambda *a: norm_reference.rms_norm(*a, 1e-5), [x, weight], monkeypatch)
    elif kind == "layer":
        function = _norm_in_its_own_dtype(norm.layer_norm, 2)
        check(function, lambda *a: norm_reference.layer_norm(*a, 1e-5), [x, weight, bias], monkeypatch)
    else:
        function = _norm_in_its_own_dtype(lambda x, w, eps: norm.layer_norm(x, w, None, eps), 1)
        check(function, lambda x, w: norm_reference.layer_norm(x, w, None, 1e-5), [x, weight], monkeypatch)


def _norm_in_its_own_dtype(function: Callable[..., Tensor], weights: int) -> Function:
    """The norms' weights stay fp32 while the rows are bf16, as in training."""

    def normed(x: Tensor, *parameters: Tensor) -> Tensor:
        assert len(parameters) == weights
        return function(x, *(p.float() for p in parameters), 1e-5)

    return normed


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_added_norms(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [randn(3, 33, 40, seed=i) for i in range(2)] + [randn(40, seed=i) for i in (2, 3)]

    def added(x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias = weight.float(), bias.float()
        if kind == "rms":
            total, out = norm.add_rms_norm(x, delta, weight, 1e-5)
            return total, out + bias.to(out.dtype)
        return norm.add_layer_norm(x, delta, weight, bias, 1e-5)

    def reference(x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        if kind == "rms":
            return x + delta, norm_reference.rms_norm(x + delta, weight, 1e-5) + bias
        return x + delta, norm_reference.layer_norm(x + delta, weight, bias, 1e-5)

    check(added, reference, inputs, monkeypatch)


@pytest.mark.parametrize("shape", [(5, 7), (2, 65, 128), (3, 33)])
def test_added_unit_norm(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [3 * randn(*shape) + 1, randn(*shape, seed=1)]
    function, reference = partial(norm.add_unit_rms_norm, eps=0.1), partial(norm_reference.add_unit_rms_norm, eps=0.1)
    check(function, reference, inputs, monkeypatch)


def test_added_unit_norm_of_nothing_is_nothing() -> None:
    x = torch.zeros(2, 8, requires_grad=True)
    norm.add_unit_rms_norm(x, x, 1e-5).sum().backward()
    torch.testing.assert_close(x.grad, torch.full((2, 8), 2 / 1e-5**0.5))


@pytest.mark.parametrize("shape", [(1, 2), (5, 14), (2, 65, 256)])
def test_activations(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        check(activation.swiglu, activation_reference.swiglu, [4 * randn(*shape)], patch)
    for approximate in ("tanh", "none"):
        with monkeypatch.context() as patch:
            check(
                partial(activation.gelu, approximate=approximate),
                partial(activation_reference.gelu, approximate=approximate),
                [4 * randn(*shape)],
                patch,
            )


def test_activations_far_out() -> None:
    x = torch.tensor([-1e30, -1e4, -100.0, 0.0, 100.0, 1e4, torch.inf, torch.nan])
    y = activation.gelu(x, "tanh")
    assert y[:4].abs().max() == 0 and torch.equal(y[4:7], x[4:7]) and y[7].isnan()
    y = activation.swiglu(torch.cat((x, torch.ones(8))))
    assert y[:4].abs().max() == 0 and torch.equal(y[4:7], x[4:7]) and y[7].isnan()


@pytest.mark.parametrize("rows, width, vocabulary", [(1, 8, 3), (37, 24, 50), (70, 16, 257)])
def test_head_loss(rows: int, width: int, vocabulary: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eco.kernels.cross_entropy.cpu._LOGITS_BYTES", 20_000)  # several chunks
    targets = torch.randint(vocabulary, (rows,), generator=torch.Generator().manual_seed(0))
    targets[1::3] = -100
    inputs = [2 * randn(rows, width), randn(vocabulary, width, seed=1), targets]
    reference = partial(cross_entropy_reference.linear_cross_entropy, ignore_index=-100)
    check(cross_entropy.linear_cross_entropy, reference, inputs, monkeypatch)


@pytest.mark.parametrize("rows, width, vocabulary", [(37, 24, 50), (70, 16, 257)])
def test_weighted_head_loss(rows: int, width: int, vocabulary: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eco.kernels.cross_entropy.cpu._LOGITS_BYTES", 20_000)
    targets = torch.randint(vocabulary, (rows,), generator=torch.Generator().manual_seed(0))
    targets[1::3] = -100
    weights = torch.linspace(0, 2, rows)
    inputs = [2 * randn(rows, width), randn(vocabulary, width, seed=1), targets]

    def ours(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        weighted, plain = cross_entropy.weighted_cross_entropy(hidden, weight, targets, weights)
        torch.testing.assert_close(plain, cross_entropy.linear_cross_entropy(hidden, weight, targets).detach())
        assert not plain.requires_grad
        return weighted

    def reference(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy_reference.weighted_cross_entropy(hidden, weight, targets, weights.to(hidden), -100)

    check(ours, reference, inputs, monkeypatch)


@pytest.mark.parametrize("target", [5, -1])
def test_head_loss_names_a_wrong_target(target: int, cpp: None) -> None:
    with pytest.raises(IndexError, match=f"target {target} .* vocabulary of 5"):
        cross_entropy.linear_cross_entropy(randn(2, 4), randn(5, 4), torch.tensor([0, target]))


def test_head_loss_without_targets_is_nan() -> None:
    assert cross_entropy.linear_cross_entropy(randn(2, 4), randn(5, 4), torch.tensor([-100, -100])).isnan()


def test_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    cos, sin = angles(9, 10)

    def reference(x: Tensor) -> Tensor:
        return rotary_reference.rotate(x, cos.double(), sin.double())

    check(partial(rotary.rotate, cos=cos, sin=sin), reference, [randn(2, 3, 9, 10)], monkeypatch)
