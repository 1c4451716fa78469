"""Say what a small program prints: one line.

Level 1 prints one operation; each level up to 7 brings a construct (variables, updates, `if`, `for`, lists and texts,
functions), and up to 10 programs grow and nest. What is expected comes from an interpreter of our own, with bounds.
Programs that differ only in names, or in the order of summands or factors, are in one split.
"""

import ast
import re
from random import Random

from eco.tasks.generate.answer import AnswerTask
from eco.tasks.generate.deal import Draft, Family
from eco.tasks.generate.interpreter import Unbounded, run
from eco.tasks.generate.script import LEVELS, normal, renamed, script

_LARGEST = 2000
_LONGEST = 40
"""Answers beyond these are a matter of long division or copying, not of following the program."""

_VARIABLES = (*"abcdkmnpqrstuwxyz", "count", "first", "item", "number", "result", "second", "size", "total", "value")
_FUNCTIONS = ("f", "g", "h", "change", "combine", "score", "step")


def _draw(rng: Random, level: int) -> Draft:
    source, dice = script(rng, level), rng.getrandbits(64)
    return Draft(normal(ast.parse(source)), source, lambda name: _task(name, source, Random(dice)))


def _task(name: str, source: str, rng: Random) -> AnswerTask | None:
    try:
        printed = run(source).removesuffix("\n")
    except (Unbounded, IndexError, ValueError):  # the last two: a part of an empty list
        return None
    if not 0 < len(printed) <= _LONGEST or max(map(int, re.findall(r"\d+", printed)), default=0) > _LARGEST:
        return None
    variables, functions = rng.sample(_VARIABLES, len(_VARIABLES)), rng.sample(_FUNCTIONS, len(_FUNCTIONS))
    return AnswerTask(name, f"{renamed(source, variables, functions)}# Output:", printed)


tasks = Family("prediction", LEVELS, _draw).tasks
