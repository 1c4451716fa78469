"""BitLinear: the codes in use are those of the weight, whatever wrote to it, and training moves them."""

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor, nn

from eco import plugins
from eco.kernels import native
from eco.kernels.ternary import reference
from eco.models.layers.bitlinear import BitLinear, projection
from eco.models.layers.linear import StackedLinear


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(width: int = 96, rows: tuple[int, ...] = (64, 32), seed: int = 1) -> BitLinear:
    made = BitLinear(width, rows)
    with torch.no_grad():
        made.weight.copy_(randn(*made.weight.shape, seed=seed) / math.sqrt(width))
    return made


def expected(module: BitLinear, x: Tensor) -> Tensor:
    return reference.ternary_linear(x.double(), module.weight.detach().double(), module.row_blocks)


class Pair(nn.Module):
    """Two quantised layers, as a model holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = layer(32, (48, 48), 1), layer(96, (32,), 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(self.up(x)))

    def weights_changed(self) -> None:
        self.up.weights_changed()
        self.down.weights_changed()


def test_projection_is_quantised_on_request() -> None:
    plain, ternary = projection(8, (4, 4), quantised=False), projection(8, (4, 4), quantised=True)
    assert type(plain) is StackedLinear and type(ternary) is BitLinear
    assert plain.row_blocks == ternary.row_blocks == (4, 4)
    assert set(plain.state_dict()) == set(ternary.state_dict()) == {"weight"}


@pytest.mark.parametrize("width", [64, 768])
def test_variance_is_kept_at_the_usual_init(width: int) -> None:
    module = layer(width, (1024,))
    y = module(randn(256, width))
    # codes of a normal weight have 0.44 of its variance: E|w|^2 P(|w| > E|w| / 2)
    assert y.var().item() == pytest.approx(0.44, rel=0.05)
    codes, _ = reference.ternarise(module.weight.detach(), module.row_blocks)
    assert (codes == 0).double().mean().item() == pytest.approx(0.31, abs=0.01)  # P(|w| < E|w| / 2)


def test_any_shape_of_input_is_rows() -> None:
    module, x = layer(), randn(2, 3, 5, 96)
    y = module(x)
    assert y.shape == (2, 3, 5, 96)
    assert torch.equal(y.view(30, 96), module(x.view(30, 96)))
    assert module(x[:0]).shape == (0, 3, 5, 96)


def test_autocast_decides_the_dtype() -> None:
    module, x = layer(), randn(40, 96)
    wide = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = module(x)
    assert narrow.dtype == torch.bfloat16 and wide.dtype == torch.float32
    torch.testing.assert_close(narrow.float(), wide, rtol=0.02, atol=0.02)
    assert torch.equal(module(x), wide)


@pytest.mark.parametrize("name", plugins.names("optim"))
def test_codes_follow_every_optimizer(name: str) -> None:
    model, room = Pair(), plugins.find("optim", name)
    optimizer = room.build(room.Config(lr=0.03), model)
    x, target = randn(64, 32), randn(64, 32, seed=3)
    losses, flips = [], []
    for _ in range(8):
        optimizer.zero_grad()
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        model.weights_changed()
        losses.append(loss.item())
        flips.append(model.up.flip_rate())
        trained = model.train()(x)
        with torch.no_grad():
            evaluated = model.eval()(x)
        fresh = copy.deepcopy(model)(x)
        assert torch.equal(trained, evaluated) and torch.equal(trained, fresh)
        model.up.check_fresh()
        model.down.check_fresh()
        model.train()
    assert losses[-1] < losses[0]
    assert flips[0] == 0.0 and max(flips) > 0.001


def test_a_write_that_nobody_told_of_is_found() -> None:
    module, x = layer(), randn(40, 96)
    before = module(x)
    module.weight.data.neg_()  # torch does not count such a write
    assert torch.equal(module(x), before)
    with pytest.raises(AssertionError, match="stale"):
        module.check_fresh()
    module.weights_changed()
    module.check_fresh()
    assert torch.equal(module(x), -before)


@pytest.mark.parametrize("rows", [4, 40])
def test_counted_writes_and_loads_need_no_telling(rows: int) -> None:
    module, other, x = layer().eval(), layer(seed=5).eval(), randn(rows, 96)
    with torch.no_grad():
        assert not torch.equal(module(x), other(x))
        other.load_state_dict(module.state_dict())
        assert torch.equal(module(x), other(x))
        assign = layer(seed=6).eval()
        assign(x)
        assign.load_state_dict(module.state_dict(), assign=True)
        assert torch.equal(module(x), assign(x))
        before = module(x)
        module.weight.neg_()
        assert torch.equal(module(x), -before)


def test_flip_rate_counts_the_codes_that_changed() -> None:
    module = layer(64, (64,))
    assert module.flip_rate() == 0.0 == module.flip_rate()
    signs = torch.where(module.weight > 0, 1.0, -1.0)
    with torch.no_grad():
        module.weight.copy_(signs)
        module.weights_changed()
        module.flip_rate()
        module.weight[:16].neg_()
        module.weights_changed()
    assert module.flip_rate() == 0.25
    assert module.flip_rate() == 0.0


def test_experts_match_their_own_layers() -> None:
    bounds = torch.tensor([0, 9, 9, 30, 40], dtype=torch.int32)
    module, x = layer(96, (16, 16) * 4), randn(40, 96).requires_grad_()
    y = module.grouped(x, bounds)
    y.square().sum().backward()
    for e, (start, end) in enumerate(bounds.unfold(0, 2, 1).tolist()):
        own, rows = BitLinear(96, (16, 16)), slice(32 * e, 32 * e + 32)
        own.weight.data.copy_(module.weight.data[rows])
        part = x.detach()[start:end].requires_grad_()
        alone = own(part)
        assert torch.equal(alone, y[start:end])
        alone.square().sum().backward()
        torch.testing.assert_close(own.weight.grad, module.weight.grad[rows])
        torch.testing.assert_close(part.grad, x.grad[start:end])


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_decoding_from_packed_weights_changes_nothing(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if native.library() is None:
        pytest.skip("no C++ kernels on this machine")
    module, x = layer(97, (16, 16) * 4), randn(rows, 97)
    bounds = torch.tensor([0, 0, 1, rows, rows])
    trained = module(x), module.grouped(x, bounds)
    module.weights_changed()
    module.eval()
    with torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr("eco.models.layers.bitlinear.ternary_linear", None)  # not the way of decoding
        decoded = module(x), module.grouped(x, bounds)
    assert all(torch.equal(a, b) for a, b in zip(trained, decoded, strict=True))
    assert (trained[0].double() - expected(module, x)).abs().max() < 1e-5


def test_copies_leave_the_codes_behind() -> None:
    module, x = layer(), randn(40, 96)
    y = module(x)
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert copied._ternary is None
        assert torch.equal(copied(x), y)
    assert len(pickle.dumps(module)) < 1.2 * module.weight.nbytes


def test_a_copy_does_not_share_codes() -> None:
    module, x = layer(), randn(40, 96)
    before = module(x)
    copied = copy.deepcopy(module)
    with torch.no_grad():
        copied.weight.neg_()
    copied.weights_changed()
    assert torch.equal(copied(x), -before) and torch.equal(module(x), before)


def test_a_fused_optimizer_needs_no_word() -> None:
    """It writes without a trace in the parameter's version, and a loop of one's own knows nothing of codes."""
    layer = BitLinear(16, (8,))
    with torch.no_grad():
        layer.weight.copy_(torch.randn(8, 16, generator=torch.Generator().manual_seed(0)))
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.3, fused=True)
    before = layer(x).detach()
    layer(x).sum().backward()
    optimizer.step()
    after = layer(x)
    layer.check_fresh()
    assert not torch.equal(after, before)


@torch.no_grad()
def test_weights_set_behind_its_back_are_seen_in_evaluation() -> None:
    layer = BitLinear(16, (8,)).eval()
    layer.weight.data.copy_(torch.randn(8, 16, generator=torch.Generator().manual_seed(0)))
    x = torch.randn(40, 16, generator=torch.Generator().manual_seed(1))
    before = layer(x)
    layer.weight.data.mul_(-1)  # as adapters are merged
    assert torch.equal(layer(x), -before)
    assert torch.equal(layer(x[:2]), -before[:2]), "packed weights too"


def test_what_inference_mode_made_can_be_trained_on() -> None:
    layer = BitLinear(16, (8,))
    layer.weight.data.copy_(torch.randn(8, 16, generator=torch.Generator().manual_seed(0)))
    x = torch.randn(40, 16, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = layer(x)
    y = layer(x)
    y.sum().backward()
    assert torch.equal(y, expected) and layer.weight.grad is not None


def test_sums_of_codes_do_not_overflow_in_fp16() -> None:
    layer = BitLinear(1024, (4,))
    layer.weight.data.fill_(1.0)
    with torch.autocast("cpu", torch.float16):
        torch.testing.assert_close(layer(torch.ones(2, 1024)).float(), torch.full((2, 4), 1024.0))


def test_a_weight_in_bf16_has_the_codes_of_its_values() -> None:
    layer = BitLinear(16, (8,))
    layer.weight.data.copy_(torch.randn(8, 16, generator=torch.Generator().manual_seed(0)).bfloat16())
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(1)).bfloat16()
    expected = layer(x.float())
    torch.testing.assert_close(layer.bfloat16()(x).float(), expected, atol=0.05, rtol=0.02)
