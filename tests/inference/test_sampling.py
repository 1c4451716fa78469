"""Which tokens can be drawn, and how often."""

import pytest
import torch

from eco.inference.sampling import Sampling, draw, log_probability, uniforms

LOGITS = torch.tensor([0.5, 0.05, 0.3, 0.1, 0.05]).log()


def frequencies(sampling: Sampling, count: int = 20_000) -> torch.Tensor:
    tokens = draw(LOGITS.expand(count, -1), uniforms(0, "a prompt", 0, count), sampling)
    return torch.bincount(tokens, minlength=5) / count


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(temperature=1.0), [0.5, 0.05, 0.3, 0.1, 0.05]),
        (Sampling(temperature=0.5), [0.25, 0.0025, 0.09, 0.01, 0.0025]),
        (Sampling(temperature=1.0, top_k=2), [0.5, 0, 0.3, 0, 0]),
        (Sampling(temperature=1.0, top_k=1), [1, 0, 0, 0, 0]),
        (Sampling(temperature=1.0, top_k=99), [0.5, 0.05, 0.3, 0.1, 0.05]),
        (Sampling(temperature=1.0, top_p=0.79), [0.5, 0, 0.3, 0, 0]),
        (Sampling(temperature=1.0, top_p=0.81), [0.5, 0, 0.3, 0.1, 0]),
        (Sampling(temperature=1.0, top_p=0.01), [1, 0, 0, 0, 0]),
        # Among the three most probable 0.5 is 0.556 of the mass, and the two most probable 0.889.
        (Sampling(temperature=1.0, top_k=3, top_p=0.85), [0.5, 0, 0.3, 0, 0]),
        (Sampling(temperature=0.0), [1, 0, 0, 0, 0]),
        (Sampling(temperature=1e-300), [1, 0, 0, 0, 0]),
    ],
)
def test_frequencies_follow_the_filtered_distribution(sampling, expected):
    wanted = torch.tensor(expected) / sum(expected)
    found = frequencies(sampling)
    assert (found[wanted == 0] == 0).all()
    assert (found - wanted).abs().max() < 0.015  # four standard deviations of the most uncertain share


def test_the_largest_uniform_still_lands_on_a_token_that_is_left():
    largest = torch.tensor([1 - 2**-24], dtype=torch.float64)
    logits = torch.randn(1, 5000, generator=torch.Generator().manual_seed(0))
    assert draw(logits, largest, Sampling(temperature=1.0)).item() < 5000
    kept = logits.topk(7).indices[0].tolist()
    assert draw(logits, largest, Sampling(temperature=1.0, top_k=7)).item() == kept[-1]


def test_uniforms_depend_on_each_argument_and_on_nothing_else():
    torch.manual_seed(1)
    base = uniforms(1, "text", 2, 9)
    torch.manual_seed(2)
    assert torch.equal(base, uniforms(1, "text", 2, 9))
    assert torch.equal(base[:4], uniforms(1, "text", 2, 4))
    for other in [(2, "text", 2), (1, "texts", 2), (1, "text", 3)]:
        assert not torch.equal(base, uniforms(*other, 9))


def test_log_probability_is_of_the_unfiltered_model():
    assert log_probability(LOGITS[None] + 7, torch.tensor([2])).exp().item() == pytest.approx(0.3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"max_new_tokens": 0},
        {"stop": "end"},
        {"stop": (3,)},
        {"stop": ("",)},
        {"tempature": 1.0},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**wrong)
