"""What the sources told of the documents, in the order in which a token store holds them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eco.data.corpus import Corpus
from eco.data.sources.contract import Facts

Table = dict[str, npt.NDArray[np.float64]]
"""Name of a fact -> its value for each document; NaN for a document of which it is not known."""


@dataclass(frozen=True)
class PartFacts:
    """The facts of the two parts of a store: a value per document, in the order of `Part.documents`."""

    training: Table
    held_out: Table


def part_facts(corpus: Corpus) -> PartFacts | None:
    """The facts of a corpus, side by side with its store; None where no source told any.

    The only document of a corpus is cut in two, and its facts hold for both.
    """
    if corpus.facts is None:
        return None
    sides: tuple[list[Facts], list[Facts]] = ([], [])
    for facts, held_out in zip(corpus.facts, corpus.held_out.tolist(), strict=True):
        sides[held_out].append(facts)
    if len(corpus.facts) == 1:
        sides = ([*corpus.facts], [*corpus.facts])
    names = sorted({name for facts in corpus.facts for name in facts})
    training, held = (_table(names, side) for side in sides)
    return PartFacts(training, held)


def _table(names: Sequence[str], documents: Sequence[Facts]) -> Table:
    return {name: np.array([facts.get(name, np.nan) for facts in documents], dtype=np.float64) for name in names}
