"""Mode fixed_point of whole models: training, its figures, the factors as a part of the model."""

import pytest
import torch
from instant_cases import SMALL, gradients, small, some_tokens, total_loss
from torch import Tensor

from eco.models.instant import InstantModel, instant
from eco.models.instant.contraction import BOUND, PERIOD, contracted

MODELS = ["sigma-dropout", "sigma-plain", "decoder-dropout"]


def trained(name: str, steps: int, model: InstantModel | None = None, first: int = 0) -> InstantModel:
    model = model or small(name, instant_mode="fixed_point")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    for step in range(first, first + steps):
        optimizer.zero_grad()
        total_loss(model, some_tokens(seed=step)).backward()
        optimizer.step()
        model.after_step()
    return model


def whole(found: dict[str, Tensor]) -> Tensor:
    return torch.cat([found[name].double().flatten() for name in sorted(found)])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 0.9999), (torch.bfloat16, 0.999)], ids=["fp32", "bf16"])
def test_the_gradient_is_that_of_autograd(
    name: str, dtype: torch.dtype, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained(name, 2)
    found = whole(gradients(model, some_tokens(), dtype=dtype))
    monkeypatch.setattr(instant, "fixed_point_segment", lambda layers, x, c, start, *_: contracted(layers, x, c, start))
    expected = whole(gradients(model, some_tokens(), dtype=dtype))
    assert found @ expected / (found.norm() * expected.norm()) > least


@pytest.mark.parametrize("name", ["sigma", "decoder"])
def test_a_step_tells_what_it_did(name: str) -> None:
    model = trained(name, 2)
    assert model.instant is not None and model.contractions is not None
    figures = model.instant.metrics()
    assert 1 <= figures["instant_inversion_iters"] <= 8
    assert 0 < figures["instant_inversion_rel_residual"] <= 3e-3
    assert figures["instant_inversion_fallbacks"] == 0
    assert figures["instant_lipschitz_max"] == float(model.contractions.lipschitz.max()) > 0
    assert figures["instant_saved_gb"] > 0


def test_factors_follow_weights_that_grow() -> None:
    model = trained("decoder", 1)
    with torch.no_grad():
        for parameter in model.blocks.parameters():
            parameter.mul_(3)
    assert float(model.contractions.factors.min()) == 1.0
    trained("decoder", 1, model, first=1)
    assert float(model.contractions.lipschitz.max()) > BOUND > 0 and float(model.contractions.factors.min()) < 1
    kept = model.contractions.factors.clone()
    trained("decoder", 1, model, first=2)
    assert torch.equal(model.contractions.factors, kept), "after 1, 2, 4, 8, ... steps, not after 3"


def test_the_calibrations_come_at_first_often_and_then_every_64_steps() -> None:
    contractions = small("decoder", instant_mode="fixed_point").contractions
    assert contractions is not None
    due = []
    for step in range(1, 3 * PERIOD):
        due += [step] if contractions.due else []
        contractions.age += 1
    assert due == [1, 2, 4, 8, 16, 32, 64, 128]


def test_a_resumed_model_goes_on_bit_for_bit() -> None:
    """Both steps end with a calibration."""
    straight, resumed = trained("sigma-dropout", 2), small("sigma-dropout", instant_mode="fixed_point")
    resumed.load_state_dict(trained("sigma-dropout", 1).state_dict())
    trained("sigma-dropout", 1, resumed, first=1)
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


@pytest.mark.parametrize("name", ["sigma", "decoder"])
def test_decoding_computes_the_same_function(name: str) -> None:
    model, tokens = trained(name, 2).eval(), some_tokens()[:, :20]
    model.contractions.factors.mul_(0.5)
    with torch.no_grad():
        cache = model.new_cache(len(tokens), 20)
        pieces = torch.cat([model(tokens[:, :13], cache), model(tokens[:, 13:], cache)], dim=1)
        torch.testing.assert_close(pieces, model(tokens), atol=1e-4, rtol=1e-4)


def test_calibration_draws_nothing_and_other_modes_have_no_factors() -> None:
    model = small("sigma-dropout", instant_mode="fixed_point")
    total_loss(model, some_tokens()).backward()
    before = torch.get_rng_state()
    model.after_step()
    assert torch.equal(torch.get_rng_state(), before) and model.training
    for mode in ("off", "coupling", "checkpoint"):
        assert not any("contractions" in key for key in small("sigma", instant_mode=mode).state_dict())
    assert SMALL["sigma"].instant_mode == "off"
