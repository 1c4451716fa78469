"""PropheticSingularityState: the formulas, worked out by hand, and what users may get wrong."""

import math

import pytest
import torch

from eco.inference import Sampling
from eco.models.governance.prophetic import FIELDS, PropheticSingularityState, Statistics

GENESIS = {"title": "Genesis", "quality_score": 9, "biblical_alignment": 10, "priority": "high"}


def state(length=5, **given):
    return PropheticSingularityState.from_metadata({**GENESIS, "prophetic_state": given}, length)


def values(tensor):
    return tensor.flatten().tolist()


def test_from_metadata():
    made = state()
    assert all(getattr(made, name).shape == (1, 5) for name in FIELDS)
    expected = {"intensity": 0.9, "anointing": 1.0, "dominion": 0.9, "mercy": 0.51, "lambda_": 0.95}
    for name, number in expected.items():
        assert values(getattr(made, name)) == pytest.approx([number] * 5), name
    assert values(made.time) == pytest.approx([0, 0.25, 0.5, 0.75, 1])


@pytest.mark.parametrize(
    ("priority", "number"), [("high", 0.9), ("medium", 0.6), ("low", 0.3), ("odd", 0.5), (None, 0.5)]
)
def test_priority(priority, number):
    made = PropheticSingularityState.from_metadata({"priority": priority}, 1)
    assert values(made.dominion) == pytest.approx([number])
    assert values(made.mercy) == pytest.approx([0.5 + 0.1 * (1 - number)])


def test_nothing_known_is_a_half_throughout():
    made, default = PropheticSingularityState.from_metadata({}, 4), PropheticSingularityState.default(4, batch=2)
    assert (
        values(made.intensity) == values(made.anointing) == values(made.dominion) == values(made.lambda_) == [0.5] * 4
    )
    assert default.mercy.shape == (2, 4)
    assert values(default.mercy) == [0.5] * 8
    assert values(default.time[1]) == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_overrides_repeat_their_last_number_or_are_cut_and_the_others_follow_from_them():
    made = state(4, intensity=[0.2, 0.4], dominion=[1.0, 0.0, 1.0, 0.0, 9.0], time=0.5)
    assert values(made.intensity) == pytest.approx([0.2, 0.4, 0.4, 0.4])
    assert values(made.dominion) == [1.0, 0.0, 1.0, 0.0]
    assert values(made.mercy) == pytest.approx([0.55] * 4)
    assert values(made.lambda_) == pytest.approx([(0.35 + 1.0) / 2] * 4)
    assert values(made.time) == [0.5] * 4
    assert (
        values(state(2, **{"lambda": 0.3}).lambda_) == values(state(2, lambda_=0.3).lambda_) == pytest.approx([0.3] * 2)
    )


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"quality_score": "nine"}, r"quality_score is 'nine'; give a number from 0 to 10"),
        ({"quality_score": True}, "quality_score is True"),
        ({"biblical_alignment": 11}, "biblical_alignment is 11"),
        ({"biblical_alignment": math.nan}, "biblical_alignment is nan"),
        ({"priority": 3}, "priority is 3; give one of high, medium, low"),
        ({"prophetic_state": [1]}, "give a mapping of intensity"),
        ({"prophetic_state": {"mercie": 1}}, "did you mean 'mercy'"),
        ({"prophetic_state": {"mercy": []}}, "mercy is \\[\\]; give a number or a list of at least one"),
        ({"prophetic_state": {"mercy": [0.5, "x"]}}, "mercy is \\[0.5, 'x'\\]"),
        ({"prophetic_state": {"time": None}}, "time is None"),
        ({"prophetic_state": {"time": math.inf}}, "time is inf"),
    ],
)
def test_bad_metadata(metadata, message):
    with pytest.raises(ValueError, match=message):
        PropheticSingularityState.from_metadata(metadata, 3)


def test_fields_of_different_shapes():
    row = torch.zeros(1, 3)
    with pytest.raises(ValueError, match="must all be \\(B, S\\)"):
        PropheticSingularityState(row, row, row, row, row, torch.zeros(1, 4))


def test_kingdom_flow_of_both_formulas():
    made = state(3, intensity=0.8, anointing=0.6, dominion=0.5, mercy=0.3, lambda_=0.9)
    assert values(made.kingdom_flow()) == pytest.approx([(0.8 + 0.6 + 0.5 + 0.3) / 4 * 0.9] * 3)
    growth = [0.8 * 0.6 / (0.5 + 0.3) * math.exp(0.9 * time) for time in (0, 0.5, 1)]
    assert values(made.kingdom_flow("growth")) == pytest.approx(growth)
    with pytest.raises(ValueError, match="did you mean 'mean'"):
        made.kingdom_flow("men")


def test_align_and_slice_keep_the_documents_statistics():
    made = state(4, intensity=[0.1, 0.2, 0.3, 0.4])
    assert values(made.align(6).intensity) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    assert values(made.align(2).intensity) == pytest.approx([0.1, 0.2])
    assert values(made.slice(1, 3).intensity) == pytest.approx([0.2, 0.3])
    assert made.slice(1, 3).statistics == made.align(9).statistics == made.statistics
    assert made.statistics["intensity"] == pytest.approx((4, 0.25, math.sqrt(0.0125), 0.1, 0.4))


def test_a_batch_has_the_rows_and_the_statistics_of_all():
    one, two = state(3, intensity=[0.1, 0.5, 0.9]), PropheticSingularityState.default(3, batch=2)
    both = PropheticSingularityState.batch([one, two])
    assert torch.equal(both.intensity, torch.cat([one.intensity, two.intensity]))
    for name in FIELDS:
        assert both.statistics[name] == pytest.approx(Statistics.of(getattr(both, name))), name
    with pytest.raises(ValueError, match=r"have \[3, 4\]; call align"):
        PropheticSingularityState.batch([one, state(4)])


def test_to_changes_every_field():
    made = state().to(torch.float64)
    assert {getattr(made, name).dtype for name in FIELDS} == {torch.float64}


def test_control_has_the_models_channels_in_their_range():
    made = state(3, intensity=1.5, lambda_=[-1.0, 0.25, 0.5])
    expected = torch.tensor([[[1, 1, 0.9, 0, 0], [1, 1, 0.9, 0.25, 0.5], [1, 1, 0.9, 0.5, 1]]])
    torch.testing.assert_close(made.control(), expected)


def test_figures_of_a_step_and_of_all():
    both = PropheticSingularityState.batch([state(2, intensity=[0.2, 0.4]), state(2, intensity=[0.6, 1.0])])
    assert both.step_statistics(0)["intensity"] == pytest.approx(0.4)
    assert both.step_statistics(7)["intensity"] == pytest.approx(0.7)
    assert both.summary()["intensity"] == pytest.approx(0.55)
    assert both.step_statistics(1)["kingdom_flow"] == pytest.approx(float(both.kingdom_flow()[:, 1].mean()))
    assert set(both.summary()) == {*FIELDS, "kingdom_flow"}


def test_sampling_by_hand():
    made = state(3, intensity=0.8, dominion=0.2, mercy=0.6, lambda_=0.7)
    adjusted = made.sampling(Sampling(temperature=0.8, top_k=50, top_p=0.8, seed=4), 1)
    assert adjusted.temperature == pytest.approx(0.8 * (1 + 0.25 * 0.4))
    assert adjusted.top_k == round(50 * (1 + 0.2 * 0.8 - 0.1 * 0.7))
    assert adjusted.top_p == pytest.approx(0.8 * (1 - 0.15 * 0.2 + 0.1 * 0.5))
    assert adjusted.seed == 4


def test_sampling_stays_in_range_and_what_is_off_stays_off():
    made = state(2, intensity=0.0, dominion=9.0, mercy=0.0, lambda_=20.0)
    adjusted = made.sampling(Sampling(temperature=0.8, top_k=1, top_p=0.5), 0)
    assert (adjusted.temperature, adjusted.top_k, adjusted.top_p) == (0.05, 1, 0.01)
    assert state(2, lambda_=0.0).sampling(Sampling(top_p=0.95), 1).top_p == 0.99
    off = Sampling(temperature=0, top_k=0, top_p=1)
    assert made.sampling(off, 0) == off
