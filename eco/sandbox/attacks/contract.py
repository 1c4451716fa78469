"""What an attack is, and what came of it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Attack:
    """A program that tries to break out or to be taken for right.

    Each is shown to succeed where nothing protects (`control.py`), and bounded, so that it does no harm there.

    name: unique, a few words. tries: one line for people.
    program: Python source. Without `tests` it defines `attack(bait)`, which is called with `Bait.aim` and returns
        what it reached in words, or something empty, or raises. With `tests` it is judged, and a pass is its success.
    tests: source of tests that no honest program could pass; {token} stands for words that only the tests know.
    before: a program that runs first, in the same sandbox, as someone else's; it too is called with `attack(bait)`.
    uncontrolled: it may fail where nothing protects, too, because it aims at how a sandbox is made, or at what the
        kernel of some machines refuses to anybody.
    """

    name: str
    tries: str
    program: str
    tests: str = ""
    before: str = ""
    uncontrolled: bool = False


@dataclass(frozen=True)
class Assault:
    """One attack against one level.

    evidence: what it reached, empty when it was stopped. stopped_by: how the run ended, for people.
    """

    attack: str
    level: str
    evidence: str
    stopped_by: str

    @property
    def succeeded(self) -> bool:
        return bool(self.evidence)
