"""What is asked of a program, and what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["pass", "fail", "timeout", "memory", "crash", "tamper", "infrastructure"]


@dataclass(frozen=True)
class Call:
    """A call of a function that the program defines; arguments are values that `eco.sandbox.codec` carries."""

    function: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What came of a call, or of tests.

    kind: `pass` (the call returned a value that can be carried; the tests ran to their end), `fail` (an exception, an
    assertion, a program that does not compile), `timeout`, `memory`, `crash` (the process died), `tamper` (it said what
    an honest one does not), `infrastructure` (the sandbox failed: nothing is known about the program).
    value: of a call that passed. detail: why not, in a line. It may quote the tests: nothing for whoever is tested.
    output: what the whole run printed, as far as it is kept. seconds: wall clock. level: the walls it ran in.
    """

    kind: Kind
    value: Any
    detail: str
    output: str
    seconds: float
    level: str
