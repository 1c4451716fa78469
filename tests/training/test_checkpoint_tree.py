"""Nested state survives being taken apart, whatever its shape."""

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eco.training import tree

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool)
tensors = st.builds(
    lambda shape, dtype: torch.arange(math.prod(shape)).reshape(shape).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(DTYPES),
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
keys = st.text() | st.integers() | st.booleans() | st.none() | st.tuples(st.integers(), st.text())
values = st.recursive(
    scalars | tensors,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner),
    max_leaves=20,
)


def same(one: Any, two: Any) -> bool:
    """Equal in type and in every bit, order of the keys included."""
    if type(one) is not type(two):
        return False
    if isinstance(one, Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return same(list(one.items()), list(two.items()))
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, float):
        return one.hex() == two.hex()
    return bool(one == two)


@settings(max_examples=300, deadline=None)
@given(values)
def test_round_trip(value: Any) -> None:
    structure, found = tree.split(value)
    text = json.dumps(structure, allow_nan=False)
    assert same(tree.join(json.loads(text), tree.separate(found)), value)


def test_keys_that_look_like_our_marks_or_like_each_other() -> None:
    value = {"$tensor": 1, "a": {"$items": [torch.zeros(2)]}, 0: torch.zeros(1), "0": torch.ones(1)}
    structure, found = tree.split(value)
    assert same(tree.join(json.loads(json.dumps(structure)), found), value)


def test_a_tied_tensor_is_stored_once_and_stays_tied() -> None:
    weight = torch.randn(4, 4)
    structure, found = tree.split({"embedding": weight, "head": weight.detach(), "part": weight[:2]})
    assert set(found) == {"embedding", "part"}
    joined = tree.join(structure, tree.separate(found))
    assert joined["embedding"] is joined["head"]
    assert torch.equal(joined["part"], weight[:2])


def test_separate_gives_every_tensor_its_own_memory() -> None:
    base = torch.arange(6.0)
    found = tree.separate({"a": base, "b": base.view(2, 3), "c": base[1:], "t": base.view(2, 3).T})
    assert len({tensor.untyped_storage().data_ptr() for tensor in found.values()}) == 4
    assert torch.equal(found["c"], base[1:]) and torch.equal(found["t"], base.view(2, 3).T)
    assert all(tensor.is_contiguous() for tensor in found.values())


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 1j])
def test_what_cannot_be_stored_is_named_with_its_place(value: Any) -> None:
    with pytest.raises(ValueError, match=r"'callbacks\.ema\.0' is a "):
        tree.split({"callbacks": {"ema": [value]}})


def test_a_missing_tensor_is_named() -> None:
    structure, _ = tree.split({"weight": torch.zeros(2)})
    with pytest.raises(ValueError, match="'weight' is missing"):
        tree.join(structure, {})
