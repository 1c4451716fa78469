"""Decisions that a second run of a layer takes over from the first, and what only the first may do.

Memory is saved by computing activations again where the backward pass needs them. The input of that second run may
differ in its last bits, which is enough to tip a choice between two experts: so the choice is kept.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor


class _Here(threading.local):
    """Of this thread: a backward pass on a GPU runs in threads of its own."""

    kept: list[Tensor] | None = None
    given: Iterator[Tensor] | None = None


_here = _Here()


def pinned(compute: Callable[[], Tensor]) -> Tensor:
    """compute(); in a second run what it was in the first. It has no gradient."""
    if _here.given is not None:
        return next(_here.given)
    decision = compute()
    if _here.kept is not None:
        _here.kept.append(decision)
    return decision


def replaying() -> bool:
    """Whether this is a second run: it measures nothing and moves no state."""
    return _here.given is not None


@contextmanager
def keeping(decisions: list[Tensor]) -> Iterator[None]:
    """Inside, decisions are made, and appended to `decisions`."""
    before = _here.kept, _here.given
    _here.kept, _here.given = decisions, None
    try:
        yield
    finally:
        _here.kept, _here.given = before


@contextmanager
def giving(decisions: list[Tensor]) -> Iterator[None]:
    """Inside, decisions are those of `decisions`, in their order."""
    before = _here.kept, _here.given
    _here.kept, _here.given = None, iter(decisions)
    try:
        yield
    finally:
        _here.kept, _here.given = before
