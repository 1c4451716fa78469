"""Verse recall: told the reference of a verse, does the model know its words?

The prompt is what stands before the verse in the corpus, without the verses between:

    <chapter>Genesis 1
    <verse>Genesis 1:3

and the model goes on, greedily, to the end of the line. Verses of training documents show what was memorised; those of
held-out ones, which nobody can know, what comes of the style and of verses that resemble each other.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

from eco.data.library.marks import Verse, verses_of
from eco.evaluation.overlap import chrf, rouge_l
from eco.inference.engine import Engine
from eco.inference.sampling import Sampling

_SLACK = 8
"""Tokens more than the longest verse has: a completion that runs on is seen to."""


class Asked(NamedTuple):
    """A prompt, and how it goes on up to the end of the line."""

    prompt: str
    truth: str


def verse_recall(engine: Engine, documents: Sequence[str], count: int, seed: int) -> dict[str, float]:
    """Asks for `count` verses of the documents, or for all, drawn without replacement by `seed`.

    Returns `verses`, how many were asked for; and means over them: `exact`, the completion is the verse to the letter
    (white space apart); `chrf` and `rouge_l`, see `eco.evaluation.overlap`; `chrf_other`, the same completions against
    the verses of others, which is what style alone is worth.

    Raises:
        ValueError: the documents have fewer than two verses, or `count` is below 2.
    """
    asked = [one for text in documents for one in questions(text)]
    if min(count, len(asked)) < 2:
        raise ValueError(f"verse recall compares verses: ask for 2 or more, not {count}, of documents that have them")
    drawn = random.Random(seed).sample(asked, min(count, len(asked)))
    longest = max(len(engine.tokenizer.encode(one.truth)) for one in drawn)
    sampling = Sampling(temperature=0, max_new_tokens=longest + _SLACK, stop=("\n",))
    answers = [row[0].text for row in engine.generate([one.prompt for one in drawn], sampling)]
    pairs = [(answer, one.truth) for answer, one in zip(answers, drawn, strict=True)]
    others = zip(answers, [one.truth for one in drawn[1:] + drawn[:1]], strict=True)
    return {
        "verses": len(drawn),
        "exact": _mean([float(answer.split() == truth.split()) for answer, truth in pairs]),
        "chrf": _mean([chrf(*pair) for pair in pairs]),
        "rouge_l": _mean([rouge_l(*pair) for pair in pairs]),
        "chrf_other": _mean([chrf(*pair) for pair in others]),
    }


def questions(document: str) -> list[Asked]:
    """One question for each verse of a document whose chapter's line the document shows."""
    asked, chapter = [], None
    for line in document.split("\n"):
        if line.startswith("<chapter>"):
            chapter = line
        for verse in verses_of(line):
            if chapter is not None and verse.text:
                asked.append(Asked(f"{chapter}\n{_reference(verse)}", verse.text))
    return asked


def _reference(verse: Verse) -> str:
    return f"<verse>{verse.book} {verse.chapter}:{verse.verse} "


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
