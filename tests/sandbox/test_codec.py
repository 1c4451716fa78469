import collections
import contextlib
import enum
import json
import math
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eco.sandbox import codec
from eco.sandbox.codec import Malformed, TooLarge, Unrepresentable, decode, encode

hashable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.tuples(st.integers(0, 20_000), st.integers()).map(lambda parts: (1 << parts[0]) * parts[1])
    | st.floats()
    | st.complex_numbers()
    | st.text(st.characters())
    | st.text(st.characters(categories=["Cs", "Lu"]))
    | st.binary()
    | st.sampled_from(list(codec.TYPES.values())),
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.frozensets(inner, max_size=4),
    max_leaves=8,
)
values = st.recursive(
    hashable,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.sets(hashable, max_size=4)
        | st.dictionaries(hashable, inner, max_size=4)
    ),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    """Equality that tells 1 from 1.0 and True, 0.0 from -0.0, and knows nan."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return same(list(a.items()), list(b.items()))
    if isinstance(a, set | frozenset):
        rest = list(b)
        for member in a:
            match = next((i for i, other in enumerate(rest) if same(member, other)), None)
            if match is None:
                return False
            del rest[match]
        return not rest
    return bool(a == b)


@given(values)
@settings(max_examples=500, deadline=None)
def test_every_value_comes_back_as_it_was(value: Any) -> None:
    assert same(decode(encode(value)), value)


@pytest.mark.parametrize(
    "value",
    [
        1 << 53,
        (1 << 53) + 1,
        -(1 << 53) - 1,
        10**5000,
        -(10**5000),
        -0.0,
        5e-324,
        sys.float_info.max,
        [math.nan, -math.inf],
        complex(-0.0, math.nan),
        "\ud83d\ude00",  # two surrogates, which JSON would join
        "\U0001f600",
        "\0",
        b"\xff\0",
        {(1, "a"): {2: [3]}, frozenset({1}): None},
        {True: 1, 2: False},
        [int, str, dict],
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_at_the_edges(value: Any) -> None:
    assert same(decode(encode(value)), value)


def test_large_integers_do_not_meet_the_limit_of_decimal_digits() -> None:
    with pytest.raises(ValueError, match="4300 digits"):
        str(10**5000)
    assert decode(encode(10**5000)) == 10**5000


class Claim:
    __class__ = int  # type: ignore[assignment]


class Colour(enum.IntEnum):
    RED = 3


Pair = collections.namedtuple("Pair", "a b")


class Liar(list):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter([7])

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.OrderedDict([(2, 1), (1, 2)]), {2: 1, 1: 2}),
        (collections.defaultdict(int, {1: 2}), {1: 2}),
        (Pair(1, 2), (1, 2)),
        (Colour.RED, 3),
        (bytearray(b"ab"), b"ab"),
        (Liar([1, 2]), [1, 2]),
        (type("Text", (str,), {})("x"), "x"),
        (type("Number", (float,), {})(-0.0), -0.0),
        (type("Bag", (frozenset,), {})([1]), frozenset([1])),
    ],
    ids=lambda value: type(value).__name__,
)
def test_subclasses_travel_as_their_base_type(value: Any, plain: Any) -> None:
    assert same(decode(encode(value)), plain)


@pytest.mark.parametrize(
    "value",
    [
        range(0),
        range(3, 4),
        range(9, -9, -4),
        range(1 << 60, 1 << 62, 1 << 60),
        collections.deque([1, [2]]),
        collections.deque(),
        {1: 2}.keys(),
        {1: [2]}.values(),
        {1: [2], "a": 3}.items(),
        {}.keys(),
        {}.values(),
        {}.items(),
    ],
    ids=repr,
)
def test_what_is_like_a_list_arrives_as_what_it_is(value: Any) -> None:
    arrived = decode(encode([value, (value,)]))
    assert type(arrived[0]) is type(value) and list(arrived[0]) == list(arrived[1][0]) == list(value)
    assert isinstance(value, type({}.values())) or arrived[0] == value


@pytest.mark.parametrize(
    "value", [range(10**7), range(10**30), [range(10**5)] * 20, dict.fromkeys(range(10**6)).keys()]
)
def test_a_range_takes_as_much_as_its_members(value: Any) -> None:
    with pytest.raises(TooLarge):
        encode(value)


@pytest.mark.parametrize(
    "text",
    [
        *('{"r":[1,1]}', '{"r":[1,2,4]}', '{"r":[1.0]}', '{"r":[true,2]}', '{"r":3}', '{"k":[1,1]}', '{"k":[[1]]}'),
        *('{"n":[[1]]}', '{"n":[[1,2],[1,3]]}', '{"q":"a"}', '{"v":{"d":[]}}', '{"r":[{"h":[1,"a"]}]}'),
    ],
)
def test_what_is_like_a_list_may_be_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        decode(text.encode())


@pytest.mark.parametrize(
    "value",
    [
        object(),
        Fraction(1, 2),
        (i for i in ()),
        len,
        math,
        Exception(),
        {1: [object]},
        Colour,
        iter([]),
        Claim(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_objects_are_refused_by_the_name_of_their_type(value: Any) -> None:
    with pytest.raises(Unrepresentable) as error:
        encode(value)
    kind = "type" if isinstance(value, dict) else type(value).__name__
    assert f"type {kind} cannot" in str(error.value)
    assert not isinstance(error.value, TooLarge)


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


def test_depth_is_bounded_alike_on_both_sides() -> None:
    assert decode(encode(nested(codec.DEPTH))) == nested(codec.DEPTH)
    for levels in (codec.DEPTH + 1, 500, 100_000):
        with pytest.raises(TooLarge, match="containers in each other"):
            encode(nested(levels))
        with pytest.raises(Malformed):
            decode(b"[" * levels + b"]" * levels)


@pytest.mark.parametrize("wrap", [lambda v: (v,), lambda v: {1: v}, lambda v: [v, v]], ids=["tuple", "dict", "list"])
def test_what_is_encoded_at_the_limit_is_decoded(wrap: Callable[[Any], Any]) -> None:
    value: Any = 1j
    for _ in range(8):
        value = wrap(value)
    while True:
        try:
            data = encode(value)
        except TooLarge:
            break
        assert decode(data) == value
        value = [value]


def test_a_cycle_is_named_and_shared_parts_are_not_cycles() -> None:
    loop: list[Any] = []
    loop.append({1: (loop,)})
    with pytest.raises(TooLarge, match="contains itself"):
        encode(loop)
    shared = [1]
    assert decode(encode([shared, shared])) == [[1], [1]]


def test_shared_parts_that_unfold_without_end_are_too_large() -> None:
    value: list[Any] = []
    for _ in range(90):
        value = [value, value]
    with pytest.raises(TooLarge, match="larger than 10000 bytes"):
        encode(value, size=10_000)


@pytest.mark.parametrize(
    "value", ["x" * 200, b"x" * 200, [0] * 200, 1 << 2000, {i: i for i in range(99)}, "\udc80" * 99]
)
def test_size_is_bounded_by_the_bytes_that_come_out(value: Any) -> None:
    size = len(encode(value))
    assert same(decode(encode(value, size=size), size=size), value)
    with pytest.raises(TooLarge):
        encode(value, size=size - 1)
    with pytest.raises(Malformed):
        decode(encode(value), size=size - 1)


def test_a_huge_value_is_refused_before_it_is_copied() -> None:
    with pytest.raises(TooLarge):
        encode(1 << (1 << 30))
    with pytest.raises(TooLarge):
        encode([0] * (1 << 24))


@pytest.mark.parametrize(
    "data",
    [
        "",
        "nul",
        "[1",
        "1 2",
        "NaN",
        "Infinity",
        "1e999",
        "9007199254740993",
        "9" * 5000,
        "{}",
        '{"t":[],"s":[]}',
        '{"t":[1],"t":[2]}',
        '{"t":1}',
        '{"t":"ab"}',
        '{"t":{"t":[]}}',
        '{"x":[]}',
        '{"i":"0x1"}',
        '{"i":"0x_ffffffffffffffff"}',
        '{"i":"0X20000000000001"}',
        '{"i":20000000000001}',
        '{"f":"1.0"}',
        '{"c":[1.0]}',
        '{"c":[1,2]}',
        '{"c":["1","2"]}',
        '{"c":1}',
        '{"b":"a"}',
        '{"b":"Y Q=="}',
        '{"b":"YQ==YQ=="}',
        '{"b":"a\\n=="}',
        '{"u":"//8="}',
        '{"y":"object"}',
        '{"y":"eval"}',
        '{"s":[[1]]}',
        '{"s":[1,1]}',
        '{"s":[1,true]}',
        '{"d":[[1]]}',
        '{"d":[{"t":[1,2]}]}',
        '{"d":[[1,2],[1,3]]}',
        '{"d":[[[1],2]]}',
        '{"d":{}}',
        '{"h":[1,"x"]}',
        '{"h":["x"]}',
        "\xe9",
    ],
)
def test_malformed_bytes_raise_nothing_else(data: str) -> None:
    with pytest.raises(Malformed):
        decode(data.encode("latin-1"))


@given(st.binary(max_size=60) | st.text(st.sampled_from('{}[]":,0123.-exntsdfichbuzy '), max_size=60).map(str.encode))
@settings(max_examples=500, deadline=None)
def test_decoding_is_total(data: bytes) -> None:
    try:
        value = decode(data)
    except Malformed:
        return
    assert same(decode(encode(value)), value)


@given(values, st.data())
@settings(max_examples=200, deadline=None)
def test_damage_raises_malformed_or_gives_another_value(value: Any, draw: st.DataObject) -> None:
    data = bytearray(encode(value))
    data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    with contextlib.suppress(Malformed):
        encode(decode(bytes(data)))


def test_members_made_to_collide_are_refused() -> None:
    modulus = sys.hash_info.modulus
    numbers = ",".join(json.dumps({"i": hex(i * modulus)}) for i in range(1, 300))
    with pytest.raises(Malformed, match="collide"):
        decode(f'{{"s":[{numbers}]}}'.encode())


def test_handles_need_someone_to_give_and_to_take_them() -> None:
    here, there = object(), object()
    data = encode([here, 1], lambda value: (7, type(value).__name__))
    with pytest.raises(Malformed):
        decode(data)
    seen = []

    def resolve(reference: int | str, kind: str) -> object:
        seen.append((reference, kind))
        return there

    assert decode(data, resolve) == [there, 1]
    assert seen == [(7, "object")]
    for bad in ('{"h":[1.5,"x"]}', '{"h":[true,"x"]}', '{"h":[1,2]}', '{"h":"ab"}', '{"h":[1,"x",2]}', '{"h":1}'):
        with pytest.raises(Malformed):
            decode(bad.encode(), resolve)

    def unknown(reference: int | str, kind: str) -> object:
        raise KeyError(reference)

    with pytest.raises(Malformed):
        decode(data, unknown)
