"""Mode coupling computes the gradients of the two-stream function, keeps its last streams only, and runs once more."""

import pytest
import torch
from instant_cases import SMALL, gradients, small, some_tokens, total_loss, without_inversion
from torch.autograd.graph import saved_tensors_hooks

from eco.models.instant import coupling
from eco.models.instant.coupling import STEP, coupled, coupling_segment, on_grid
from eco.models.instant.replay import SubLayer
from eco.models.instant.tally import Tally


def cosine(one, other):
    assert one.keys() == other.keys()
    a, b = (torch.cat([x[name].flatten().double() for name in one]) for x in (one, other))
    return torch.nn.functional.cosine_similarity(a, b, dim=0).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_gradients_are_those_of_plain_autograd(name, dtype, monkeypatch):
    model = small(name, instant_mode="coupling")
    batches = some_tokens(), some_tokens(seed=1)
    found = gradients(model, *batches, dtype=dtype)
    assert torch.stack(model.instant.tally.residuals).max() == 0, "the inversion is exact"
    without_inversion(model, monkeypatch)
    expected = gradients(model, *batches, dtype=dtype)
    assert 1 - cosine(found, expected) < 1e-9
    for one, other in zip(found.values(), expected.values(), strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm()


def test_gradients_are_those_of_the_derivative():
    """Against differences of the function itself, in float64 and without a grid."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(3, 3, dtype=torch.float64) for _ in range(4)]
    sublayers = [SubLayer(lambda x, f=f: (f(x).tanh(), (x.square().mean(),)), tuple(f.parameters())) for f in layers]

    def run(x, weight):
        y1, y2, further = coupling_segment(sublayers, x, 2 * x, Tally())
        return y1, y2, *further

    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coupling, "STEP", 2.0**-40)
        assert torch.autograd.gradcheck(run, (x, layers[1].weight), eps=1e-5, atol=1e-5)


def test_autograd_grad_of_a_part():
    model = small("sigma", instant_mode="coupling")
    weights = [model.blocks[1].gate, model.blocks[4].mixer_norm.weight]
    found = torch.autograd.grad(total_loss(model, some_tokens()), weights)
    expected = gradients(model, some_tokens())
    assert torch.equal(found[0], expected["blocks.1.gate"])
    assert torch.equal(found[1], expected["blocks.4.mixer_norm.weight"])
    assert all(p.grad is not None for p in model.parameters())


def test_a_second_backward_pass_gives_the_same():
    model = small("sigma", instant_mode="coupling")
    loss = total_loss(model, some_tokens())
    first = torch.autograd.grad(loss, model.blocks[0].gate, retain_graph=True)
    assert torch.equal(first[0], torch.autograd.grad(loss, model.blocks[0].gate)[0])


def test_frozen_weights_get_no_gradient():
    model = small("sigma", instant_mode="coupling")
    model.requires_grad_(False)
    model.blocks[0].gate.requires_grad_(True)
    assert set(gradients(model, some_tokens())) == {"blocks.0.gate"}


def test_every_sub_layer_runs_exactly_twice():
    model = small("sigma", instant_mode="coupling")
    runs = [0] * len(model.blocks)
    for index, block in enumerate(model.blocks):
        block.mixer.register_forward_hook(lambda *_, index=index: runs.__setitem__(index, runs[index] + 1))
    total_loss(model, some_tokens()).backward()
    assert runs == [2] * len(model.blocks)


def test_a_second_run_measures_and_moves_nothing():
    model = small("sigma", instant_mode="coupling")
    loss = total_loss(model, some_tokens())
    measured = [id(block.mixer.metrics) for block in model.blocks] + [id(b.experts.metrics) for b in model.blocks]
    loads, random = [load.clone() for load in model._balance.loads], torch.get_rng_state()
    loss.backward()
    assert measured == [id(b.mixer.metrics) for b in model.blocks] + [id(b.experts.metrics) for b in model.blocks]
    assert len(loads) == len(model._balance.loads) and all(map(torch.equal, loads, model._balance.loads))
    assert torch.equal(random, torch.get_rng_state())


def test_routing_is_that_of_the_first_run_even_where_the_stream_is_not():
    """Off by more than the grid: a tie between experts would tip."""
    model = small("sigma", instant_mode="coupling")
    chosen = []
    for block in model.blocks:
        block.experts.router.register_forward_hook(lambda module, x, out: chosen.append(out.experts))
    loss = total_loss(model, some_tokens())
    for block in model.blocks:
        block.experts.router.score.weight.data.neg_()
    loss.backward()
    first, again = chosen[: len(model.blocks)], chosen[len(model.blocks) :][::-1]
    assert all(map(torch.equal, first, again))


@pytest.mark.parametrize("name", ["sigma", "decoder"])
def test_the_bytes_saved_are_those_that_plain_autograd_keeps(name, monkeypatch):
    model = small(name, instant_mode="coupling")
    total_loss(model, some_tokens()).backward()
    saved = model.instant.tally.saved
    kept = bytes_kept(model)
    without_inversion(model, monkeypatch)
    plain = bytes_kept(model)
    assert saved == pytest.approx(plain - kept, rel=0.05)
    assert kept < 0.4 * plain
    assert model.evidence()["instant"] == saved / 1e9


def bytes_kept(model):
    """By autograd, from a forward pass, without what the model holds anyway."""
    model.weights_changed()
    total_loss(model, some_tokens())
    lasting = [*model.parameters(), *model.buffers()]
    lasting += [code for module in model.modules() for code in getattr(module, "codes", ())]
    held, sizes = {x.untyped_storage().data_ptr() for x in lasting}, {}

    def count(tensor):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(count, lambda tensor: tensor):
        total_loss(model, some_tokens())
    return sum(size for place, size in sizes.items() if place not in held)


def test_evaluation_generation_and_training_compute_the_same():
    model = small("sigma", instant_mode="coupling").eval()
    tokens = some_tokens()[:, :-1]
    with_gradient = model.hidden(tokens)
    with torch.no_grad():
        plain = model.hidden(tokens)
        cache = model.new_cache(len(tokens), tokens.shape[1])
        steps = torch.cat([model.hidden(tokens[:, i : i + 1], cache) for i in range(tokens.shape[1])], 1)
    torch.testing.assert_close(with_gradient, plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(steps, plain, rtol=1e-3, atol=2e-2)


def test_streams_outside_of_the_grid_are_found_again_nearly():
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 8)
    sublayers = [SubLayer(lambda x: (layer(x), ()), tuple(layer.parameters()))] * 4
    x, tally = on_grid(torch.randn(2, 5, 8)).requires_grad_(), Tally()
    sum(y.sum() for y in coupling_segment(sublayers, x, x, tally)[:2]).backward()
    sum(y.sum() for y in coupling_segment(sublayers, 3000 * x, x, tally)[:2]).backward()
    exact, far = tally.residuals
    assert exact == 0 < far < 1e-6


def test_the_grid_passes_gradients_and_rounds():
    x = torch.tensor([0.3, -7.1], requires_grad=True)
    y = on_grid(x)
    assert torch.equal(y, (x.detach() / STEP).round() * STEP) and (y - x).abs().max() <= STEP / 2
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.ones(2))


def test_coupled_is_revnets_function():
    f, g = (SubLayer(lambda x, k=k: (k * x, ()), ()) for k in (0.5, 0.25))
    x1, x2 = torch.tensor([1.0]), torch.tensor([2.0])
    y1, y2, _ = coupled([f, g], x1, x2)
    assert (y1.item(), y2.item()) == (2.0, 2.5)
