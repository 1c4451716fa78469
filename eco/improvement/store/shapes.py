"""The shapes of programs (see `normaliser`), computed in the sandbox: untrusted text is not even parsed here."""

import inspect
from collections.abc import Sequence

from eco.improvement.store import normaliser
from eco.sandbox import Call, Outcome, Sandbox

Shapes = tuple[str, ...]
"""The digest of a whole program, then those of the functions in it; empty for what is no Python."""

_TOGETHER = 32
"""Programs of one run: few enough that all of them fit into its time."""

_LONGEST = 1 << 15
"""Characters of a program that is still looked at; a run takes a message of 1 MB, of six bytes a character at worst."""

_SOURCE = inspect.getsource(normaliser)


def shapes(codes: Sequence[str], sandbox: Sandbox) -> list[Shapes]:
    """The shapes of each program, in order.

    One that ends its interpreter takes the others of its run along: they are run again, each by itself.

    Raises:
        ValueError: the sandbox failed, so that nothing is known.
    """
    readable = [index for index, code in enumerate(codes) if len(code) <= _LONGEST]
    groups = [readable[first : first + _TOGETHER] for first in range(0, len(readable), _TOGETHER)]
    found: list[Shapes] = [()] * len(codes)
    alone: list[list[int]] = []
    for group, outcomes in zip(groups, _run(codes, groups, sandbox), strict=True):
        for index, outcome in zip(group, outcomes, strict=True):
            if outcome.kind == "pass":
                found[index] = tuple(outcome.value or ())
            else:
                alone.append([index])
    for (index,), (outcome,) in zip(alone, _run(codes, alone, sandbox), strict=True):
        if outcome.kind == "infrastructure":
            raise ValueError(f"the sandbox could not read a program: {outcome.detail}; see `eco sandbox test`")
        found[index] = tuple(outcome.value or ())
    return found


def _run(codes: Sequence[str], groups: Sequence[Sequence[int]], sandbox: Sandbox) -> list[list[Outcome]]:
    return sandbox.run_many([(_SOURCE, [Call("normalise", (codes[index],)) for index in group]) for group in groups])
