"""The Mamba-3 layer: what it sees, how it goes on from a state, and where its numbers start."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from eco.models.layers.hybrid_cache import RecurrentPast
from eco.models.layers.mamba3 import Mamba3
from eco.models.layers.norm import RMSNorm

WIDTH, TIME = 24, 30


def layer(
    *, seed: int = 0, complex: bool = True, quantised: bool = False, width: int = WIDTH, chunk: int = 8
) -> Mamba3:
    """On the meta device first, as models are built; weights large enough that every part of it matters."""
    with torch.device("meta"):
        made = Mamba3(
            width,
            state=8,
            head_size=8,
            rank=2,
            expand=2,
            chunk=chunk,
            complex=complex,
            quantised=quantised,
            eps=1e-5,
        )
    made = made.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for module in made.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=width**-0.5, generator=generator)
        elif isinstance(module, RMSNorm):
            nn.init.ones_(module.weight)
    made.init_own(generator)
    return made.eval()


def shaken(made: Mamba3) -> Mamba3:
    """Away from equal biases and short steps, in float64."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        made.step_bias.add_(3.0)
    return made.double()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, TIME, WIDTH, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.fixture(params=[True, False], ids=["complex", "real"])
def made(request: pytest.FixtureRequest) -> Mamba3:
    return shaken(layer(complex=request.param))


@pytest.fixture
def reset() -> Tensor:
    """(3, TIME): the rows begin documents at different positions, one of them two in a row."""
    begins = torch.zeros(3, TIME, dtype=torch.bool)
    begins[0, 0] = begins[0, 11] = begins[0, 12] = begins[1, 7] = begins[1, 16] = begins[1, 29] = True
    return begins


def in_parts(made: Mamba3, x: Tensor, ends: list[int], reset: Tensor | None = None) -> Tensor:
    past = RecurrentPast()
    with torch.no_grad():
        parts = [made(x[:, a:b], None if reset is None else reset[:, a:b], past) for a, b in pairwise([0, *ends])]
    return torch.cat(parts, dim=1)


@torch.no_grad()
def written_out(made: Mamba3, x: Tensor) -> Tensor:
    """The layer by its recurrence (paper, section 3), position by position. Keys are not rotated here: two entries are
    a complex number, and what turns is the memory."""
    z, values, keys, queries = made.input(x).split(made.input.row_blocks, dim=-1)
    step, decay, blend, *angles = made.dynamics(x).split(made.dynamics.row_blocks, dim=-1)
    step = torch.log1p(torch.exp(step + made.step_bias))
    blend = 1 / (1 + torch.exp(-blend))
    alpha = torch.exp(-step * torch.log1p(torch.exp(decay)))
    turns = torch.zeros(*step.shape, made.key_bias.shape[-1] // 2, dtype=x.dtype)
    if angles:
        turns[..., : made.angles] = math.pi * torch.tanh(angles[0])[:, :, None] * step[..., None]
    transition = alpha[..., None] * torch.exp(-1j * turns)

    def by_head(part: Tensor, norm: RMSNorm, bias: Tensor) -> Tensor:
        """(B, T, H, R, N / 2) complex: the turning entries are pairs (i, i + A), and so are, among them, the others."""
        part = part.unflatten(-1, (made.rank, -1))
        part = part / (part.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight
        part = part[:, :, None] + bias
        turning, resting = part[..., : 2 * made.angles], part[..., 2 * made.angles :]
        pairs = [torch.complex(*half.chunk(2, dim=-1)) for half in (turning, resting)]
        return torch.cat(pairs, dim=-1)

    k, q = by_head(keys, made.key_norm, made.key_bias), by_head(queries, made.query_norm, made.query_bias)
    z, v = (part.unflatten(-1, (made.heads, 1, made.head_size)) for part in (z, values))
    v, gates = v * made.value_in, z * made.gate_in
    memory = torch.zeros(*k[:, 0, :, 0].shape, made.head_size, dtype=k.dtype)
    taken, outputs = torch.zeros_like(memory), []
    for t in range(x.shape[1]):
        rate, share = step[:, t, :, None, None], blend[:, t, :, None, None]
        memory = transition[:, t, ..., None] * (memory + (1 - share) * rate * taken)
        taken = torch.einsum("bhrn,bhrp->bhnp", k[:, t], v[:, t] + 0j)
        memory = memory + share * rate * taken
        y = torch.einsum("bhrn,bhnp->bhrp", q[:, t].conj(), memory).real + made.skip[:, None, None] * v[:, t]
        outputs.append((made.out * y * gates[:, t] / (1 + torch.exp(-gates[:, t]))).sum(2).flatten(1))
    y = torch.stack(outputs, dim=1)
    y = y / (y.square().mean(-1, keepdim=True) + made.output_norm.eps).sqrt() * made.output_norm.weight
    return y @ made.output.weight.T


def test_it_is_the_recurrence_of_the_paper(made: Mamba3, x: Tensor) -> None:
    torch.testing.assert_close(made(x), written_out(made, x), atol=1e-11, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_no_output_sees_the_future(made: Mamba3, x: Tensor, dtype: torch.dtype) -> None:
    made, x = made.to(dtype), x.to(dtype)
    with torch.no_grad():
        before = made(x)
        changed = x.clone()
        changed[:, 17] += 1.0
        after = made(changed)
    assert torch.equal(after[:, :17], before[:, :17])
    assert ((after - before)[:, 17:].abs().amax(-1) > 1e-6).all(), "every later one sees it"


def test_an_output_depends_on_fifty_positions_before() -> None:
    """With the weights that training starts from."""
    x = torch.randn(2, 60, WIDTH, generator=torch.Generator().manual_seed(3)).requires_grad_()
    (gradient,) = torch.autograd.grad(layer()(x)[:, 55].square().sum(), x)
    assert (gradient[:, 5].abs().amax(-1) > 1e-3 * gradient[:, 55].abs().amax(-1)).all()


def test_the_gradient_is_that_of_the_output(made: Mamba3, x: Tensor, reset: Tensor) -> None:
    """Along one random direction in the space of inputs and parameters, against a central difference."""
    x.requires_grad_()
    leaves = [x, *made.parameters()]
    generator = torch.Generator().manual_seed(2)
    directions = [torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype) for leaf in leaves]
    mixture = torch.randn(x.shape, generator=generator, dtype=x.dtype)

    gradients = torch.autograd.grad((made(x, reset) * mixture).sum(), leaves)
    slopes = [(g * d).sum() for g, d in zip(gradients, directions, strict=True)]
    for leaf, direction, slope in zip(leaves, directions, slopes, strict=True):
        with torch.no_grad():
            values = []
            for step in (1e-5, -2e-5):
                leaf.add_(direction, alpha=step)
                values.append((made(x, reset) * mixture).sum())
            leaf.add_(direction, alpha=1e-5)
        torch.testing.assert_close((values[0] - values[1]) / 2e-5, slope, rtol=1e-6, atol=1e-6)


PARTS = {"whole": [TIME], "each": [*range(1, TIME + 1)], "two": [13, TIME], "mixed": [1, 2, 19, 20, TIME]}


@pytest.mark.parametrize("ends", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("documents", [False, True])
def test_going_on_from_a_state_is_as_the_whole(
    made: Mamba3, x: Tensor, reset: Tensor, ends: list[int], documents: bool
) -> None:
    begins = reset if documents else None
    with torch.no_grad():
        whole = made(x, begins)
    torch.testing.assert_close(in_parts(made, x, ends, begins), whole, atol=1e-11, rtol=0)


def test_the_state_does_not_grow_and_is_fp32(x: Tensor) -> None:
    made, past = layer(), RecurrentPast()
    sizes = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for count in (1, 9, 1, 19):
            made(x[:, :count].float(), None, past)
            assert past.state is not None and all(part.dtype == torch.float32 for part in past.state)
            sizes.append([part.shape for part in past.state])
    heads, rank, state, head_size, angles = 6, 2, 8, 8, 2
    shapes = [(heads, state, head_size), (heads, rank, state), (heads, rank, head_size), (heads, angles)]
    assert sizes == [[(3, *shape) for shape in shapes]] * 4
    assert past.state[3].min() >= 0 and past.state[3].max() < 2 * math.pi


def test_rows_leave_and_the_others_go_on(made: Mamba3, x: Tensor) -> None:
    past = RecurrentPast()
    with torch.no_grad():
        whole = made(x)
        made(x[:, :13], None, past)
        past.keep(torch.tensor([2, 0]))
        rest = made(x[[2, 0], 13:], None, past)
    torch.testing.assert_close(rest, whole[[2, 0], 13:], atol=1e-11, rtol=0)


def test_a_document_is_as_alone(made: Mamba3, x: Tensor, reset: Tensor) -> None:
    with torch.no_grad():
        together = made(x, reset)
        for row, begin, end in ((0, 0, 11), (0, 12, TIME), (1, 7, 16), (1, 16, 29), (2, 0, TIME)):
            alone = made(x[row : row + 1, begin:end])[0]
            torch.testing.assert_close(together[row, begin:end], alone, atol=1e-11, rtol=0)


@pytest.mark.parametrize("quantised", [False, True])
def test_every_parameter_has_a_gradient(x: Tensor, quantised: bool) -> None:
    made = layer(quantised=quantised).train()
    assert made.evidence() == 0
    made(x.float()).square().sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.flatten(1).any(-1).all() if parameter.ndim > 1 else parameter.grad.any(), name
    torch.testing.assert_close(made.evidence(), made.dynamics.weight.grad.norm().item())
    turning = made.dynamics.weight.grad[3 * made.heads :]
    assert made.rotation_evidence() == pytest.approx(turning.norm().item()) and len(turning) == made.angles


def test_without_angles_it_is_smaller_and_another(x: Tensor) -> None:
    turning, fading = shaken(layer()), shaken(layer(complex=False))
    sizes = [sum(p.numel() for p in made.parameters()) for made in (turning, fading)]
    assert sizes[0] - sizes[1] == 2 * WIDTH
    shared = turning.state_dict()
    shared["dynamics.weight"] = shared["dynamics.weight"][: -turning.angles]
    fading.load_state_dict(shared)
    with torch.no_grad():
        assert (turning(x) - fading(x)).abs().amax() > 0.01
        turning.dynamics.weight[-turning.angles :] = 0
        torch.testing.assert_close(turning(x), fading(x), atol=1e-12, rtol=0)


def test_where_the_numbers_start() -> None:
    made = layer(width=256)
    step = nn.functional.softplus(made.step_bias)
    assert (step >= 0.999e-3).all() and (step <= 1.001e-1).all()
    assert step.min() < 2e-3 and step.max() > 5e-2, "spread over the range"
    assert (made.value_in == 0.5).all() and (made.out == 0.5).all()
    for ones in (made.key_bias, made.query_bias, made.gate_in, made.skip):
        assert (ones == 1).all()
    again, other = layer(width=256), layer(width=256, seed=1)
    assert torch.equal(made.step_bias, again.step_bias) and not torch.equal(made.step_bias, other.step_bias)


def test_no_head_stands_still_or_forgets_nothing() -> None:
    """However low its logits, a step is at least 1e-4 and a decay per unit of time too."""
    made = layer().double().train()
    nn.init.constant_(made.dynamics.weight, -100 / WIDTH)
    made(torch.ones(1, 4, WIDTH, dtype=torch.float64))
    assert float(made.metrics["mamba_dt_mean"]) == pytest.approx(1e-4, rel=1e-12)
    assert 1 - float(made.metrics["mamba_decay_mean"]) == pytest.approx(1e-8, rel=1e-6)


def test_scales_are_marked_after_a_move() -> None:
    """Building on the meta device replaces the parameters."""
    marked = {name for name, parameter in layer().named_parameters() if getattr(parameter, "is_scale", False)}
    assert marked == {"key_bias", "query_bias", "value_in", "gate_in", "out"}


def test_the_phase_is_exact_under_autocast(x: Tensor) -> None:
    """Logits rounded to bf16 would turn by another angle, and the error would add up over the positions."""
    made, pasts = shaken(layer()).float(), (RecurrentPast(), RecurrentPast())
    x = x.bfloat16()
    with torch.no_grad():
        made(x.float(), None, pasts[0])
        with torch.autocast("cpu", torch.bfloat16):
            y = made(x, None, pasts[1])
    assert y.dtype == torch.bfloat16
    exact, low = (past.state[3] for past in pasts if past.state is not None)
    torch.testing.assert_close(low, exact, atol=1e-5, rtol=0)


def test_metrics(x: Tensor) -> None:
    made, past = layer(), RecurrentPast()
    made(x.float(), None, past)
    assert made.metrics == {}, "only training is measured"
    made.train()
    made(x.float(), None, past := RecurrentPast())
    assert past.state is not None
    metrics = {name: float(value) for name, value in made.metrics.items()}
    assert metrics.pop("mamba_effective_block_t") == 8 and metrics.pop("mamba_scan_chunks") == 4
    assert 1e-3 < metrics.pop("mamba_dt_mean") < 0.2
    assert 0.8 < metrics.pop("mamba_decay_mean") < 1
    assert 0.3 < metrics.pop("mamba_lambda_mean") < 0.7
    assert metrics.pop("mamba_state_rms") == pytest.approx(past.state[0].square().mean().sqrt().item())
    assert not metrics
    made(x[:, :5].float())
    assert made.metrics["mamba_effective_block_t"] == 5 and made.metrics["mamba_scan_chunks"] == 1
