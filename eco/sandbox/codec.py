"""Values as bytes between processes that do not trust each other: tagged JSON, strict, bounded, never a pickle.

JSON's own words carry None, bool, finite floats, strings, lists and the integers that every JSON reader has exactly.
All else is an object with one tag: `{"t": [...]}` a tuple, `{"s": [...]}` a set, `{"z": [...]}` a frozenset,
`{"d": [[key, value], ...]}` a dict in its order, `{"i": "0x..."}` a large integer (hexadecimal, as the decimal form
takes quadratic time and has a limit), `{"f": "nan"}`, `{"c": [re, im]}` a complex number, `{"b": "..."}` bytes in
base64, `{"u": "..."}` a string with surrogates in base64, `{"y": "int"}` one of the types in `TYPES`,
`{"h": [reference, type]}` a handle: an object that stays where it is. Ranges (`"r"`, by their members, so that a short
text is no long loop), deques (`"q"`, without their bound) and a dict's keys (`"k"`), values (`"v"`) and items (`"n"`)
arrive as what they are. Values of subclasses (Counter, OrderedDict, named tuples, IntEnum) travel as their base type.
Fractions, decimals, iterators and objects of other classes are not carried.
"""

import binascii
import json
from collections import deque
from collections.abc import Callable, Collection
from typing import Any

SIZE = 1 << 20
"""Bytes of an encoded value, at most. A list of empty lists takes about 50 times as much memory when decoded."""

DEPTH = 100
"""Containers inside each other, at most."""

TYPES = {kind.__name__: kind for kind in (bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict)}
"""The types that are values themselves, for tests which pass one as an argument."""

Refer = Callable[[Any], tuple[int | str, str]]
"""Gives an object that cannot be carried a reference and the name of its type, or raises Unrepresentable."""

Resolve = Callable[[int | str, str], Any]
"""What stands on this side for a reference and the name of a type; LookupError where there is none."""

_EXACT = 1 << 53  # integers up to here are exact in every JSON reader
_COLLISIONS = 100  # equal hashes in a set or dict; numbers made to collide would take quadratic time
_EMPTY: dict[Any, Any] = {}
_VIEWS = {type(_EMPTY.keys()): "k", type(_EMPTY.values()): "v"}
_ITEMS = type(_EMPTY.items())
_BASES = (int, float, complex, str, bytes, bytearray, list, tuple, set, frozenset, dict)


class Unrepresentable(ValueError):
    """The value cannot be carried; the message says what it is, or which limit it breaks."""


class TooLarge(Unrepresentable):
    """The value could be carried if it were smaller, flatter, or did not contain itself."""


class Malformed(ValueError):
    """The bytes are not an encoded value."""


def encode(value: Any, refer: Refer | None = None, size: int = SIZE) -> bytes:
    """The value as ASCII bytes.

    refer: is asked for a reference where an object cannot be carried.

    Raises:
        Unrepresentable: an object that is not carried.
        TooLarge: the value takes more than `size` bytes, is nested deeper than DEPTH, or contains itself.
    """
    data = json.dumps(_Packer(refer, size).pack(value), separators=(",", ":"), check_circular=False).encode("ascii")
    if len(data) > size:
        raise _too_large(size)
    return data


def decode(data: bytes, resolve: Resolve | None = None, size: int = SIZE) -> Any:
    """The value of `encode`. Executes nothing, and takes time and memory in proportion to the data, whatever they are.

    resolve: turns references into objects; without it they are malformed.

    Raises:
        Malformed: the data are no encoded value, or too large or too deep.
    """
    if len(data) > size:
        raise Malformed(f"more than {size} bytes")
    try:
        tree = json.loads(data.decode("ascii"), object_pairs_hook=_tagged, parse_constant=_constant)
        return _unpack(tree, resolve, 0)
    except Malformed:
        raise
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
        raise Malformed(f"not an encoded value: {str(error)[:200]}") from None


def _too_large(size: int) -> TooLarge:
    return TooLarge(f"the value is larger than {size} bytes when encoded")


class _Packer:
    """One pass over a value, which stops as soon as the result cannot fit: shared parts may unfold without end."""

    def __init__(self, refer: Refer | None, size: int) -> None:
        self._refer = refer
        self._size = size
        self._left = size
        self._open: list[int] = []  # ids of the containers around the present value

    def pack(self, value: Any) -> Any:
        kind = type(value)
        if kind is str:
            return self._text(value)
        if kind is bool or value is None:
            self._spend(4)
            return value
        if kind is int:
            return self._integer(value)
        if kind is float:
            return self._number(value)
        if kind is list:
            return self._inside(value, value)
        if kind is tuple:
            return {"t": self._inside(value, value)}
        if kind is dict:
            return {"d": self._inside(value, [list(pair) for pair in value.items()])}
        return self._rarer(kind, value)

    def _rarer(self, kind: type, value: Any) -> Any:
        if kind is set:
            return {"s": self._inside(value, value)}
        if kind is frozenset:
            return {"z": self._inside(value, value)}
        if kind is range:
            return {"r": self._inside(value, value[: self._size + 1])}
        if kind is deque:
            return {"q": self._inside(value, value)}
        if kind in _VIEWS:
            return {_VIEWS[kind]: self._inside(value, value)}
        if kind is _ITEMS:
            return {"n": self._inside(value, [list(pair) for pair in value])}
        if kind is complex:
            return {"c": [self._number(value.real), self._number(value.imag)]}
        if kind is bytes:
            return {"b": self._binary(value)}
        if kind is type and value in TYPES.values():
            return {"y": value.__name__}
        for base in _BASES:
            if issubclass(kind, base):  # isinstance would believe what the object says
                return self.pack(_plain(base, value))
        if self._refer is None:
            raise Unrepresentable(f"an object of type {kind.__name__} cannot be carried")
        reference, name = self._refer(value)
        self._spend(len(name) + 20)
        return {"h": [reference, name]}

    def _spend(self, characters: int) -> None:
        self._left -= characters
        if self._left < 0:
            raise _too_large(self._size)

    def _inside(self, container: Any, members: Collection[Any]) -> list[Any]:
        self._spend(1 + len(members))
        if len(self._open) == DEPTH:
            looped = id(container) in self._open
            raise TooLarge("the value contains itself" if looped else f"more than {DEPTH} containers in each other")
        self._open.append(id(container))
        packed = [self.pack(member) for member in members]
        self._open.pop()
        return packed

    def _text(self, value: str) -> Any:
        self._spend(len(value) + 2)
        if value.isascii():
            return value
        try:
            value.encode()
        except UnicodeEncodeError:  # a pair of surrogates would come back as one character
            return {"u": self._binary(value.encode("utf-8", "surrogatepass"))}
        return value

    def _integer(self, value: int) -> Any:
        if -_EXACT <= value <= _EXACT:
            self._spend(1)
            return value
        self._spend(value.bit_length() // 4)
        return {"i": hex(value)}

    def _number(self, value: float) -> Any:
        self._spend(3)
        return value if value - value == 0 else {"f": repr(value)}

    def _binary(self, value: bytes) -> str:
        self._spend(len(value))
        return binascii.b2a_base64(value, newline=False).decode("ascii")


def _plain(base: type, value: Any) -> Any:
    """The value of a subclass as its base type, by the base's own methods: the subclass may have changed them."""
    if base is list:
        return list.copy(value)
    if base is tuple:
        return tuple.__getitem__(value, slice(None))
    if base is dict:
        return dict(dict.items(value))
    if base is set or base is frozenset:
        return base().union(base.__iter__(value))
    if base is bytearray or base is bytes:
        return bytes(memoryview(value))
    if base is str:
        return str.__str__(value)
    return complex(value) if base is complex else base.__int__(value) if base is int else float.__float__(value)


def _tagged(pairs: list[tuple[str, Any]]) -> tuple[str, Any]:
    if len(pairs) != 1:
        raise Malformed("an object without exactly one tag")
    return pairs[0]


def _constant(name: str) -> None:
    raise Malformed(f"{name} without a tag")


def _unpack(node: Any, resolve: Resolve | None, depth: int) -> Any:
    kind = type(node)
    if kind is list:
        return _members(node, resolve, depth)
    if kind is tuple:
        return _untag(node[0], node[1], resolve, depth)
    if kind is float and node - node != 0:
        raise Malformed("a number beyond the range of floats")
    if kind is int and not -_EXACT <= node <= _EXACT:
        raise Malformed("a large integer without a tag")
    return node


def _members(node: Any, resolve: Resolve | None, depth: int) -> list[Any]:
    if type(node) is not list:
        raise Malformed("a container without a list of members")
    if depth == DEPTH:
        raise Malformed(f"more than {DEPTH} containers in each other")
    return [_unpack(member, resolve, depth + 1) for member in node]


def _untag(tag: str, node: Any, resolve: Resolve | None, depth: int) -> Any:
    if tag == "t":
        return tuple(_members(node, resolve, depth))
    if tag == "d":
        return _distinct(dict, _pairs(node, resolve, depth))
    if tag == "s" or tag == "z":
        return _distinct(set if tag == "s" else frozenset, _members(node, resolve, depth))
    if tag in ("r", "q", "k", "v", "n"):
        return _rarer(tag, node, resolve, depth)
    if tag == "c":
        real, imaginary = (_unpack(part, None, DEPTH) for part in node)
        if type(real) is not float or type(imaginary) is not float:
            raise Malformed("a complex number of other things than floats")
        return complex(real, imaginary)
    if tag == "h" and resolve is not None:
        reference, name = node
        if type(node) is not list or type(name) is not str or type(reference) not in (int, str):
            raise Malformed("a handle without reference and type")
        return resolve(reference, name)
    if type(node) is not str:
        raise Malformed(f"a value that its tag {tag!r} does not explain")
    return _from_text(tag, node)


def _rarer(tag: str, node: Any, resolve: Resolve | None, depth: int) -> Any:
    if tag == "n":
        return _distinct(dict, _pairs(node, resolve, depth)).items()
    members = _members(node, resolve, depth)
    if tag == "q":
        return deque(members)
    if tag == "v":
        return dict(enumerate(members)).values()
    if tag == "k":
        return _distinct(dict, [[member, None] for member in members]).keys()
    if not all(type(member) is int for member in members):
        raise Malformed("a range of other things than integers")
    if not members:
        return range(0)
    step = members[1] - members[0] if len(members) > 1 else 1
    result = range(members[0], members[0] + step * len(members), step)  # a step of 0 is a ValueError
    if any(member != other for member, other in zip(members, result, strict=True)):
        raise Malformed("a range with uneven steps")
    return result


def _from_text(tag: str, text: str) -> Any:
    if tag == "i":
        number = int(text, 16)
        if hex(number) != text or -_EXACT <= number <= _EXACT:
            raise Malformed("a large integer in another form than ours")
        return number
    if tag == "f" and text in ("nan", "inf", "-inf"):
        return float(text)
    if tag == "b":
        return binascii.a2b_base64(text, strict_mode=True)
    if tag == "u":
        return binascii.a2b_base64(text, strict_mode=True).decode("utf-8", "surrogatepass")
    if tag == "y":
        return TYPES[text]
    raise Malformed(f"the tag {tag[:20]!r} is unknown or does not fit")


def _pairs(node: Any, resolve: Resolve | None, depth: int) -> list[list[Any]]:
    pairs = _members(node, resolve, depth)
    if not all(type(pair) is list and len(pair) == 2 for pair in pairs):
        raise Malformed("a dict of other things than pairs")
    return pairs


def _distinct(kind: type, members: list[Any]) -> Any:
    """A set, frozenset or dict, unless its members were made to have the same hash or are not all different."""
    keys = [member[0] for member in members] if kind is dict else members
    hashes = [hash(key) for key in keys]
    if len(hashes) - len(set(hashes)) > _COLLISIONS:
        raise Malformed("members made to collide")
    result = kind(members)
    if len(result) != len(members):
        raise Malformed("a member twice")
    return result
