"""Runs the attacks against a level, or against nothing, and says what each reached."""

import secrets
from collections.abc import Iterator, Sequence

from eco.sandbox.attacks import files, kernel, network, processes, resources, verdicts
from eco.sandbox.attacks.bait import Bait
from eco.sandbox.attacks.contract import Assault, Attack
from eco.sandbox.attacks.control import unprotected
from eco.sandbox.launch import Level
from eco.sandbox.limits import Limits
from eco.sandbox.outcome import Call, Outcome
from eco.sandbox.sandbox import Sandbox

ATTACKS: list[Attack] = [
    attack for room in (network, files, processes, kernel, resources, verdicts) for attack in room.ATTACKS
]

LIMITS = Limits(seconds=1.0)
SLACK = 1.0
"""Seconds beyond the limit until a run counts as one that was not stopped: room for a slow machine."""

UNPROTECTED = "unprotected"


def assaults(level: Level, attacks: Sequence[Attack] = ATTACKS) -> Iterator[Assault]:
    """Each attack in turn at a level of the sandbox, by one worker, so that one could also harm the next.

    Raises:
        ValueError: the level cannot be had here; says what is missing.
    """
    with Bait() as bait, Sandbox(level, LIMITS, workers=1) as sandbox:
        sandbox.judge("def answer(): pass", "answer()")  # starts both processes: their start counts for nobody
        for attack in attacks:
            yield _assault(attack, sandbox, bait)


def controls(attacks: Sequence[Attack] = ATTACKS) -> Iterator[Assault]:
    """Each attack in turn where nothing protects; what it reaches there is bait, too."""
    with Bait() as bait:
        for attack in attacks:
            bait.set_out()
            reached, status = unprotected(attack, bait.aim, _token(), LIMITS.seconds + 2 * SLACK)
            yield Assault(attack.name, UNPROTECTED, _joined([reached] * bool(reached) + _damage(attack, bait)), status)


def _assault(attack: Attack, sandbox: Sandbox, bait: Bait) -> Assault:
    bait.set_out()
    call = [Call("attack", (bait.aim,))]
    if attack.before:
        sandbox.run(attack.before, call)
    if attack.tests:
        outcome = sandbox.judge(attack.program, attack.tests.replace("{token}", _token()))
        found = ["passed"] if outcome.kind == "pass" else []
    else:
        (outcome,) = sandbox.run(attack.program, call)
        found = [str(outcome.value)] if outcome.kind == "pass" and outcome.value else []
    found += _seen_in(outcome, bait) + _damage(attack, bait)
    return Assault(attack.name, outcome.level, _joined(found), _short(f"{outcome.kind}: {outcome.detail}".strip(": ")))


def _seen_in(outcome: Outcome, bait: Bait) -> list[str]:
    found = []
    if outcome.kind == "infrastructure":
        found.append(f"took the worker down: {outcome.detail}")
    if not outcome.detail.isprintable():
        found.append("codes for a terminal in the detail")
    if bait.secret in outcome.output:
        found.append("printed the secret")
    if len(outcome.output) > 2 * LIMITS.output_kb * 1024:
        found.append(f"printed {len(outcome.output)} characters")
    return found


def _damage(attack: Attack, bait: Bait) -> list[str]:
    return bait.damage((1 + bool(attack.before)) * (LIMITS.seconds + SLACK))


def _token() -> str:
    return f"eco-token-{secrets.token_hex(16)}"


def _joined(found: list[str]) -> str:
    return "; ".join(dict.fromkeys(map(_short, found)))


def _short(text: str) -> str:
    """One line of at most 100 characters that a terminal can show."""
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
    return line if len(line) <= 100 else line[:99] + "…"
