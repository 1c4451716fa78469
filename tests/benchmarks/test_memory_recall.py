"""The recall task asks for what only the first segment says, and slots carry it."""

import pytest
import torch

from benchmarks.memory_recall import ARMS, KINDS, SEGMENT, train_arm, windows
from eco.models.contract import IGNORE


def test_only_the_first_segment_says_the_answer():
    batch = windows(200, torch.Generator().manual_seed(0))
    tokens, targets = batch["tokens"], batch["targets"]
    is_value = (tokens >= KINDS) & (tokens < 2 * KINDS)
    assert (is_value.sum(1) == 1).all() and not is_value[:, SEGMENT:].any()
    value, key = tokens[is_value], tokens[is_value.roll(-1, 1)]
    assert (targets[:, -1] == value).all() and (tokens[:, -1] == key).all()
    assert (targets[:, :-1] == IGNORE).all()
    assert len(value.unique()) == KINDS


@pytest.mark.slow
@pytest.mark.parametrize("arm", [arm for arm in ARMS if "segments, " in arm])
def test_slots_carry_it_over_segments_and_nothing_else_does(arm):
    found = train_arm(arm, seed=0, steps=150)
    print(f"\n{arm}: {found.accuracy:.1%}, {found.milliseconds:.0f} ms a step")  # noqa: T201
    assert found.accuracy > 0.9 if "16 slots" in arm else found.accuracy < 0.12
