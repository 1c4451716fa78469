"""Decontamination: rows that hold something of a benchmark or of a held-out task are found and kept out.

Of every held-out task three things are known by which it would be recognised: runs of 8 words of its prompt and
solution, numbers being at most half of them (where there is none, all of its text); the names of the functions that it
defines; and the shapes of these functions, which renaming does not change. What tasks share by nature is none of them:
what two training tasks hold is common, and so is what one training task of the same family holds, since the family's
own split keeps its tasks apart.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from eco.improvement.store.shapes import Shapes, shapes
from eco.sandbox import Sandbox
from eco.tasks.contract import Task

_COMMON = 2
"""Training tasks that hold a thing which is then taken to be common."""

_WORD = re.compile(r"\w+")
_DEFINED = re.compile(r"\bdef[ \t]++(\w++)")


class Contamination:
    """What would betray a held-out task."""

    def __init__(self, held_out: Sequence[Task], training: Sequence[Task], sandbox: Sandbox, ngram: int = 8) -> None:
        """
        held_out: the tasks that are measured on, and every benchmark's. training: those that are learnt from.

        Raises:
            ValueError: see `shapes`.
        """
        self._ngram = ngram
        owners: dict[str, set[str]] = {}
        for task, found in self._marks_of(held_out, sandbox):
            for mark in found:
                owners.setdefault(mark, set()).add(family(task))
        common, of_family = Counter[str](), set[tuple[str, str]]()
        for task, found in self._marks_of(training, sandbox):
            shared = found & owners.keys()
            common.update(shared)
            of_family.update((mark, family(task)) for mark in shared)
        self._betraying = {
            mark
            for mark, families in owners.items()
            if common[mark] < _COMMON and any((mark, one) not in of_family for one in families)
        }

    def __contains__(self, document: tuple[str, Shapes]) -> bool:
        """Whether a text, or the shapes of the program that it is, hold something of a held-out task."""
        return not self._betraying.isdisjoint(self._marks(*document))

    def _marks_of(self, tasks: Sequence[Task], sandbox: Sandbox) -> Iterator[tuple[Task, set[str]]]:
        documents = [task.prompt + task.solution() for task in tasks]
        for task, document, shape in zip(tasks, documents, shapes(documents, sandbox), strict=True):
            yield task, self._marks(document, shape)

    def _marks(self, text: str, shape: Shapes) -> set[str]:
        words = _WORD.findall(text.lower())
        runs = (words[at : at + self._ngram] for at in range(len(words) - self._ngram + 1))
        grams = {" ".join(run) for run in runs if 2 * sum(map(str.isdecimal, run)) <= len(run)}
        names = {f"def {name}" for name in _DEFINED.findall(text)}
        return (grams or {" ".join(text.split())}) | names | {*shape[1:]}


def family(task: Task) -> str:
    """`synthesis` of `synthesis:2/0f5e74a8ecdec807`: the levels of a family have one split."""
    return re.split("[:/]", task.name, maxsplit=1)[0]
