"""Write a function from a description and three examples; hidden calls decide.

Functions of numbers, strings, lists and dictionaries, composed of single steps: level 1 is one step, levels 2 and 3 are
chains of two and three, levels 4 to 6 join two chains by a condition or an operator. What a function means is what it
does to fixed probes, so that two texts of one function are one task, and a function that is held out is held out in
every disguise.
"""

import textwrap
from random import Random

from eco.tasks.generate.compose import LEVELS, compose
from eco.tasks.generate.composition import Function
from eco.tasks.generate.deal import Draft, Family
from eco.tasks.generate.examples import Example, examples
from eco.tasks.generate.program import ProgramTask


def _draw(rng: Random, level: int) -> Draft | None:
    function, dice = compose(rng, level), rng.getrandbits(64)
    if function is None:
        return None
    meaning = function.meaning()
    return Draft(meaning, meaning, lambda name: _task(name, function, Random(dice)))


def _task(name: str, function: Function, rng: Random) -> ProgramTask | None:
    calls = examples(rng, function) if function.is_telling() else None
    if calls is None:
        return None
    prompt = f"{function.signature}{_docstring(function, calls.shown)}"
    return ProgramTask(name, prompt, function.signature, function.body, calls.hidden)


def _docstring(function: Function, shown: tuple[Example, ...]) -> str:
    text = textwrap.fill(f'"""{function.description}', 100, break_long_words=False, break_on_hyphens=False)
    calls = "\n".join(f">>> solve({example.given!r})\n{example.expected!r}" for example in shown)
    return textwrap.indent(f'{text}\n\n{calls}\n"""\n', "    ")


tasks = Family("synthesis", LEVELS, _draw).tasks
