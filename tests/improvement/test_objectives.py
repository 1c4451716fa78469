"""The objectives against slow sums, their common gradient on policy, their silence where there is no signal."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eco.improvement.attempt import Attempt
from eco.improvement.learn.advantages import advantages, reward, weigh
from eco.improvement.learn.objectives import ObjectiveConfig, Totals, kl_k3, policy_loss, reduced
from eco.inference.completion import Completion
from eco.tasks.verdict import Verdict

CLASSES = {
    "sequences": ["grpo", "igrpo", "gspo"],
    "tokens": ["dapo", "cispo", "dispo"],
    "constant": ["dr_grpo"],
    "sums": ["rloo"],
}
NAMES = [name for names in CLASSES.values() for name in names]
CONFIG = ObjectiveConfig()
LENGTH = 9


def batch(seed, apart, equal_lengths=False):
    """new, old, advantages, mask of 6 completions; `apart`: standard deviation of new - old."""
    draw = torch.Generator().manual_seed(seed)
    old = -torch.rand(6, 7, generator=draw, dtype=torch.float64) * 3 - 0.05
    new = old + apart * torch.randn(6, 7, generator=draw, dtype=torch.float64)
    lengths = torch.tensor([7] * 6 if equal_lengths else [1, 3, 7, 5, 2, 6])
    mask = torch.arange(7) < lengths[:, None]
    return new, old, torch.tensor([1.5, -0.5, 0.25, -1.0, 0.75, -1.0], dtype=torch.float64), mask


def totals(mask):
    return Totals(len(mask), int(mask.sum()), LENGTH)


def loss_and_gradient(name, new, old, values, mask):
    leaf = new.clone().requires_grad_()
    loss, _ = policy_loss(name, leaf, old, values, mask, CONFIG, totals(mask))
    loss.backward()
    return loss.item(), leaf.grad


def clamp(value, low, high):
    return min(max(value, low), high)


def slow(name, new, old, values, mask):
    """The papers' sums, one token after the other."""
    total, all_tokens = 0.0, int(mask.sum())
    for now, o, a, m in zip(new.tolist(), old.tolist(), values.tolist(), mask.tolist(), strict=True):
        pairs = [(x, y) for x, y, there in zip(now, o, m, strict=True) if there]
        n, difference = len(pairs), sum(x - y for x, y in pairs)
        ratios = [math.exp(x - y) for x, y in pairs]
        if name in ("grpo", "igrpo", "dr_grpo"):
            own = sum(min(r * a, clamp(r, 0.8, 1.2) * a) for r in ratios)
            total += own / (6 * LENGTH) if name == "dr_grpo" else own / n / 6
        if name == "dapo":
            total += sum(min(r * a, clamp(r, 0.8, 1.28) * a) for r in ratios) / all_tokens
        if name == "gspo":
            s = math.exp(difference / n)
            total += min(s * a, clamp(s, 1 - 3e-4, 1 + 4e-4) * a) / 6
        if name == "rloo":
            s = math.exp(difference)
            total += min(s * a, clamp(s, 0.8, 1.2) * a) / 6
        if name == "cispo":
            total += sum(clamp(r, 0.0, 5.0) * a * x for r, (x, _) in zip(ratios, pairs, strict=True)) / all_tokens
        if name == "dispo":
            low, high = (0.8, 1.28) if a > 0 else (0.2, 5.0)
            total += sum(clamp(r, low, high) * a * x for r, (x, _) in zip(ratios, pairs, strict=True)) / all_tokens
    return -total


@pytest.mark.parametrize("name", NAMES)
def test_loss_is_that_of_the_paper(name):
    for seed, apart in enumerate((0.01, 0.3, 2.0)):
        given_ = batch(seed, apart)
        assert loss_and_gradient(name, *given_)[0] == pytest.approx(slow(name, *given_), rel=1e-12)


@pytest.mark.parametrize("names", CLASSES.values())
def test_on_policy_objectives_of_equal_weights_have_the_same_gradient(names):
    _, old, values, mask = batch(1, 0.0)
    _, first = loss_and_gradient(names[0], old, old, values, mask)
    assert first.abs().sum() > 0
    for name in names[1:]:
        torch.testing.assert_close(loss_and_gradient(name, old, old, values, mask)[1], first, rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize(("name", "factor"), [*((name, 1) for name in NAMES[:6]), ("dr_grpo", 7 / LENGTH), ("rloo", 7)])
def test_on_policy_all_objectives_agree_on_completions_of_one_length(name, factor):
    """The gradient is that of A x l, averaged over tokens, but for the constants of dr_grpo and rloo."""
    _, old, values, mask = batch(2, 0.0, equal_lengths=True)
    expected = -values[:, None].expand(6, 7) / 42
    _, gradient = loss_and_gradient(name, old, old, values, mask)
    torch.testing.assert_close(gradient, expected * factor, rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize("name", NAMES)
def test_only_sampled_tokens_have_a_gradient_and_others_may_hold_anything(name):
    new, old, values, mask = batch(3, 1e-5)
    _, gradient = loss_and_gradient(name, new, old, values, mask)
    assert torch.equal(gradient != 0, mask)
    spoilt = new.masked_fill(~mask, float("-inf"))
    loss, again = loss_and_gradient(name, spoilt, old, values, mask)
    assert math.isfinite(loss)
    assert torch.equal(again, gradient)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_raises_what_was_better_and_lowers_what_was_worse(name):
    _, old, values, mask = batch(4, 0.0)
    _, gradient = loss_and_gradient(name, old, old, values, mask)
    assert torch.equal(torch.sign(-gradient), torch.sign(values)[:, None] * mask)


@pytest.mark.parametrize("name", NAMES)
def test_equal_rewards_have_exactly_no_gradient(name):
    new, old, _, mask = batch(5, 0.5)
    config = ObjectiveConfig(name=name)
    for value in (0.1, -1.0, 1 / 3):
        values = torch.from_numpy(advantages(np.full(6, value), config))
        assert (loss_and_gradient(name, new, old, values, mask)[1] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_micro_batches_add_up_to_the_step(name):
    new, old, values, mask = batch(6, 0.4)
    whole, whole_metrics = policy_loss(name, new, old, values, mask, CONFIG, totals(mask))
    parts = [
        policy_loss(name, new[cut], old[cut], values[cut], mask[cut], CONFIG, totals(mask))
        for cut in (slice(0, 1), slice(1, 4), slice(4, 6))
    ]
    assert sum(loss.item() for loss, _ in parts) == pytest.approx(whole.item(), rel=1e-12)
    for metric in ("ratio", "clip_fraction"):
        assert sum(m[metric].item() for _, m in parts) == pytest.approx(whole_metrics[metric].item(), rel=1e-6)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("cispo", "dispo")])
def test_a_clip_in_force_stops_the_gradient(name):
    _, old, values, mask = batch(7, 0.0)
    beyond = old + torch.sign(values)[:, None]  # each further than its bound, in the direction that pays
    loss, metrics = policy_loss(name, beyond.requires_grad_(), old, values, mask, CONFIG, totals(mask))
    loss.backward()
    assert metrics["clip_fraction"] == 1
    assert (beyond.grad == 0).all()


@pytest.mark.parametrize("name", ["cispo", "dispo"])
def test_a_bounded_weight_keeps_every_tokens_gradient(name):
    _, old, values, mask = batch(7, 0.0)
    beyond = old + 2.0 * torch.sign(values)[:, None]
    _, gradient = loss_and_gradient(name, beyond, old, values, mask)
    assert torch.equal(gradient != 0, mask)


def test_dispo_temperature_divides_the_difference():
    new, old, values, mask = batch(8, 1.0)
    hot, _ = policy_loss("dispo", new, old, values, mask, ObjectiveConfig(dispo_temperature=2.0), totals(mask))
    weight = ((new - old) / 2).exp()
    bounded = torch.where(values[:, None] > 0, weight.clamp(0.8, 1.28), weight.clamp(0.2, 5.0))
    assert hot.item() == pytest.approx(-(bounded * values[:, None] * new)[mask].mean().item(), rel=1e-12)


def test_k3_is_an_unbiased_estimate_of_the_divergence():
    draw = torch.Generator().manual_seed(0)
    new, ref = torch.randn(2, 5, generator=draw, dtype=torch.float64).log_softmax(-1)
    estimates = kl_k3(ref, new, torch.ones(5, dtype=torch.bool))
    assert (estimates >= 0).all()
    assert (new.exp() * estimates).sum().item() == pytest.approx((new.exp() * (new - ref)).sum().item(), rel=1e-12)


def test_k3_of_what_was_not_sampled_is_nothing():
    nothing = torch.full((1, 2), float("-inf"))
    assert reduced("grpo", kl_k3(nothing, nothing, torch.tensor([[False, False]])), torch.tensor([[False, True]]),
                   Totals(1, 1, 1)) == 0  # fmt: skip


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=12))
@settings(max_examples=60, deadline=None)
def test_advantages_are_those_of_the_papers(values):
    rewards = np.array(values)
    mean = sum(values) / len(values)
    std = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    others = [v - (sum(values) - v) / (len(values) - 1) for v in values]
    expected = {
        "grpo": [(v - mean) / (std + 1e-4) for v in values],
        "dr_grpo": [v - mean for v in values],
        "rloo": others,
    }
    for name, wanted in expected.items():
        np.testing.assert_allclose(advantages(rewards, ObjectiveConfig(name=name)), wanted, rtol=1e-9, atol=1e-6)
    plain = advantages(rewards, ObjectiveConfig(name="gspo", normalise=False))
    np.testing.assert_allclose(plain, expected["dr_grpo"], atol=1e-9)


def attempt(outcome, score=0.0, prompt="p", text="x"):
    return Attempt(None, prompt, Completion(text, [1], [2], [0.0], "eos"), Verdict(outcome, score))


def test_groups_with_one_outcome_are_skipped_whatever_their_rewards():
    config = ObjectiveConfig(name="grpo", partial_credit=True)
    failing = [attempt("fail", 0.1), attempt("fail", 0.9), attempt("timeout", 0.0)]
    passing = [attempt("pass", 1.0), attempt("pass", 1.0)]
    mixed = [attempt("pass", 1.0), attempt("crash", 0.0)]
    weighed = weigh([failing, passing, mixed, []], config)
    assert weighed.completions == [a.completion for a in mixed]
    assert weighed.advantages[0] > 0 > weighed.advantages[1]
    assert weighed.zero_std == pytest.approx(2 / 3)
    assert weighed.pass_rate == pytest.approx(3 / 7)


def test_what_could_not_be_judged_is_left_out():
    """Counted as a failure it would lend the passes an advantage, counted as a pass the failures a disadvantage."""
    weighed = weigh([[attempt("pass", 1.0), attempt("infrastructure"), attempt("pass", 1.0)]], CONFIG)
    assert weighed.completions == []
    weighed = weigh([[attempt("pass", 1.0), attempt("infrastructure"), attempt("fail")]], CONFIG)
    assert len(weighed.completions) == len(weighed.advantages) == 2


def test_attempts_at_another_prompt_are_no_baseline():
    group = [attempt("fail"), attempt("fail"), attempt("pass", 1.0, prompt="with the error shown")]
    assert weigh([group], CONFIG).completions == []


def test_rewards_are_success_and_fail_and_with_partial_credit_the_way_between():
    assert [reward(attempt(*v), CONFIG) for v in [("pass", 1.0), ("fail", 0.9), ("tamper", 0.5)]] == [2.0, -1.0, -1.0]
    partial = ObjectiveConfig(partial_credit=True)
    assert [reward(attempt(*v), partial) for v in [("pass", 1.0), ("fail", 0.5), ("fail", 0.0)]] == [2.0, 0.5, -1.0]


def test_a_success_worth_less_than_a_failure_is_refused():
    with pytest.raises(ValueError, match="success must be worth more"):
        ObjectiveConfig(success=-1.0)
