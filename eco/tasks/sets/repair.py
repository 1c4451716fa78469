"""Repair a function with one planted bug, given what it should do and a call where it goes wrong; hidden calls decide.

The functions and levels are those of synthesis, and so are the splits: what is held out there is held out here. The bug
is an operator, a comparison or a constant that is another one, and shows in at least one hidden call.
"""

import textwrap
from random import Random

from eco.tasks.generate.compose import LEVELS, compose
from eco.tasks.generate.composition import Function
from eco.tasks.generate.deal import Draft, Family
from eco.tasks.generate.examples import Example, agrees, compiled, examples, pool
from eco.tasks.generate.inputs import EDGES
from eco.tasks.generate.mutation import mutants
from eco.tasks.generate.program import ProgramTask


def _draw(rng: Random, level: int) -> Draft | None:
    function, dice = compose(rng, level), rng.getrandbits(64)
    bugs = mutants(function.signature + function.body) if function is not None else []
    if function is None or not bugs:
        return None
    bug = bugs[dice % len(bugs)]
    return Draft(function.meaning(), bug, lambda name: _task(name, function, bug, Random(dice)))


def _task(name: str, function: Function, bug: str, rng: Random) -> ProgramTask | None:
    calls = examples(rng, function) if function.is_telling() else None
    if calls is None:
        return None
    solve = compiled(bug)
    if all(agrees(solve, example) for example in calls.hidden):
        return None
    others = pool(rng, function)[EDGES:]
    wrong = next((example for example in others if not agrees(solve, example) and example not in calls.hidden), None)
    if wrong is None:
        return None
    prompt = f"{_comment(f'Repair solve. {function.description}')}\n{bug}\n{_comment(_symptom(bug, wrong))}\n"
    return ProgramTask(name, prompt + function.signature, function.signature, function.body, calls.hidden)


def _symptom(bug: str, wrong: Example) -> str:
    try:
        does = f"returns {compiled(bug)(wrong.given)!r}"
    except Exception as error:  # a planted bug may raise anything
        does = f"raises {type(error).__name__}"
    return f"solve({wrong.given!r}) {does}. It should return {wrong.expected!r}. Repaired:"


def _comment(text: str) -> str:
    return "\n".join(f"# {line}" for line in textwrap.wrap(text, 100, break_long_words=False, break_on_hyphens=False))


tasks = Family("repair", LEVELS, _draw).tasks
