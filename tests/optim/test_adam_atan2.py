"""Adam-atan2 and the tables' sign descent: against float64, scale invariance, what is touched and what stays."""

import copy

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from eco.optim import adam_atan2
from eco.optim.contract import load_state
from eco.optim.parts.sparse_sign import step_rows
from eco.training import tree

Config = adam_atan2.Config


def layer(*shape: int, seed: int = 0) -> nn.Module:
    """A module with one parameter, `weight`."""
    module = nn.Module()
    module.weight = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))
    return module


def gradients(count: int, *shape: int, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) * 10.0 ** (-step) for step in range(count)]


def trained(module: nn.Module, config: adam_atan2.Config, each: list[Tensor]) -> Tensor:
    optimizer = adam_atan2.build(config, module)
    for gradient in each:
        module.weight.grad = gradient.clone()
        optimizer.step()
    return module.weight.detach()


def test_three_steps_are_those_of_the_formula_in_float64() -> None:
    lr, decay, beta1, beta2 = 0.03, 0.2, 0.8, 0.9
    config = Config(lr=lr, weight_decay=decay, beta1=beta1, beta2=beta2)
    each = gradients(3, 5, 7)
    p = layer(5, 7).weight.detach().numpy().astype(np.float64)
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, gradient in enumerate((g.numpy().astype(np.float64) for g in each), start=1):
        m = beta1 * m + (1 - beta1) * gradient
        v = beta2 * v + (1 - beta2) * gradient**2
        p = p * (1 - lr * decay) - lr / (1 - beta1**t) * np.arctan2(m, np.sqrt(v) / np.sqrt(1 - beta2**t))
    np.testing.assert_allclose(trained(layer(5, 7), config, each).numpy(), p, rtol=2e-6, atol=1e-6)


@given(st.integers(-40, 40), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_the_step_does_not_depend_on_the_scale_of_the_loss(exponent: int, count: int) -> None:
    each = gradients(count, 4, 6)
    scaled = [gradient * 2.0**exponent for gradient in each]
    assert torch.equal(trained(layer(4, 6), Config(lr=0.1), each), trained(layer(4, 6), Config(lr=0.1), scaled))


def test_a_thousandfold_gradient_makes_the_same_step() -> None:
    each = gradients(4, 4, 6)
    scaled = [gradient * 1000 for gradient in each]
    torch.testing.assert_close(
        trained(layer(4, 6), Config(lr=0.1), each), trained(layer(4, 6), Config(lr=0.1), scaled), rtol=1e-6, atol=1e-6
    )


def test_a_zero_gradient_only_decays() -> None:
    before = layer(3, 4).weight.detach()
    after = trained(layer(3, 4), Config(lr=0.1, weight_decay=0.5), [torch.zeros(3, 4)] * 2)
    torch.testing.assert_close(after, before * (1 - 0.05) ** 2)
    assert torch.equal(trained(layer(3, 4), Config(lr=0.1, weight_decay=0.0), [torch.zeros(3, 4)]), before)


def test_decay_is_decoupled_and_spares_vectors() -> None:
    """The gradient's part of a step is the same whatever the decay is; the decay's part is lr x decay x weight."""
    each = gradients(1, 3, 4)
    before = layer(3, 4).weight.detach()
    plain = trained(layer(3, 4), Config(lr=0.1, weight_decay=0.0), each)
    decayed = trained(layer(3, 4), Config(lr=0.1, weight_decay=0.5), each)
    torch.testing.assert_close(plain - decayed, before * 0.05)
    vector = [torch.zeros(4)]
    assert torch.equal(trained(layer(4), Config(lr=0.1, weight_decay=0.5), vector), layer(4).weight)


class WithTable(nn.Module):
    """Adds a table's row to the token's vector, whose gradient is left in the table as a model's would be."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.up = nn.Linear(8, 24)
        self.norm = nn.LayerNorm(24)
        self.down = nn.Linear(24, 8, bias=False)
        self.head = nn.Linear(8, 20, bias=False)
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        self.table = nn.Parameter(torch.full((50, 8), 0.5), requires_grad=False)
        self.table.is_table = True  # type: ignore[attr-defined]

    def forward(self, tokens: Tensor) -> Tensor:
        rows = tokens // 2
        vectors = self.table[rows].requires_grad_()
        vectors.register_hook(lambda gradient: self._collect(rows, gradient))
        x = self.embedding(tokens) + vectors
        return self.head(x + self.down(self.norm(self.up(x)).tanh()))

    def _collect(self, rows: Tensor, gradient: Tensor) -> None:
        new = torch.sparse_coo_tensor(rows[None], gradient, self.table.shape, check_invariants=True)
        self.table.grad = new if self.table.grad is None else self.table.grad + new


def steps(model: WithTable, optimizer: torch.optim.Optimizer, count: int, start: int = 0) -> None:
    """Steps of predicting the token after each."""
    for step in range(start, start + count):
        tokens = torch.randint(20, (16,), generator=torch.Generator().manual_seed(step % 4))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens), (tokens + 1) % 20).backward()
        optimizer.step()


def test_a_checkpoint_of_a_model_with_a_table_goes_on_bit_by_bit() -> None:
    model, other = WithTable(), WithTable()
    optimizer = adam_atan2.build(Config(), model)
    steps(model, optimizer, 3)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    restored = adam_atan2.build(Config(), other)
    structure, tensors = tree.split(optimizer.state_dict())
    load_state(restored, tree.join(structure, {name: tensor.clone() for name, tensor in tensors.items()}))
    steps(model, optimizer, 3, 3)
    steps(other, restored, 3, 3)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(model.table, WithTable().table), "the table was trained"


def sparse(rows: list[int], values: Tensor, count: int) -> Tensor:
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, (count, values.shape[1]), check_invariants=True)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_rows_take_the_sign_of_their_summed_gradient_and_others_stay(rows: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(10, 4, generator=generator)
    values = torch.randint(-2, 3, (len(rows), 4), generator=generator).float()
    before, expected = table.clone(), table.double()
    for row in set(rows):
        total = sum(values[k].double() for k in range(len(rows)) if rows[k] == row)
        expected[row] = expected[row] * (1 - 0.1 * 0.3) - 0.1 * torch.sign(total)
    step_rows(table, sparse(rows, values, 10), lr=0.1, weight_decay=0.3)
    torch.testing.assert_close(table.double(), expected, rtol=1e-6, atol=1e-6)
    untouched = [row for row in range(10) if row not in rows]
    assert torch.equal(table[untouched], before[untouched])


def test_the_table_has_its_own_rates_scaled_by_the_schedule() -> None:
    model = WithTable()
    optimizer = adam_atan2.build(Config(lr=1e-3, table_lr=0.02, table_weight_decay=0.5), model)
    assert optimizer.param_groups[0]["lr"] == 1e-3, "the log shows the first group's"
    (group,) = [group for group in optimizer.param_groups if group["table"]]
    assert group["initial_lr"] == 0.02
    group["lr"] = group["initial_lr"] * 0.5
    model.table.grad = sparse([3, 7, 3], torch.tensor([[1.0] * 8, [-5.0] * 8, [-3.0] * 8]), 50)
    optimizer.step()
    expected = torch.full((50, 8), 0.5)
    expected[3] = 0.5 * (1 - 0.01 * 0.5) + 0.01
    expected[7] = 0.5 * (1 - 0.01 * 0.5) + 0.01
    torch.testing.assert_close(model.table.detach(), expected)
    assert model.table not in optimizer.state
    optimizer.zero_grad(set_to_none=True)
    assert model.table.grad is None


def test_a_table_that_no_sample_reached_stays() -> None:
    model = WithTable()
    before = model.table.clone()
    adam_atan2.build(Config(), model).step()
    assert torch.equal(model.table, before)
