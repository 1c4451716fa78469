"""How alike two texts are: chrF by characters, ROUGE-L by words."""

import re
from collections import Counter

WORD = re.compile(r"\w+(?:['’]\w+)*")
"""A word: letters and digits, also with an apostrophe between them."""

_ORDERS, _BETA = 6, 2


def words(text: str) -> list[str]:
    """The words of a text in small letters."""
    return WORD.findall(text.lower())


def chrf(text: str, truth: str) -> float:
    """chrF2 (Popovic, WMT 2015), from 0 to 1: the F-score of character n-grams, recall weighing twice.

    Precision and recall are means over n = 1 to 6, of those n for which both texts are long enough; white space does
    not count. Order counts, other than for a bag of characters; a word that is nearly right counts nearly.
    """
    ours, theirs = ("".join(one.split()) for one in (text, truth))
    orders = range(1, min(_ORDERS, len(ours), len(theirs)) + 1)
    if not orders:
        return float(ours == theirs)
    precision = recall = 0.0
    for n in orders:
        found, wanted = (Counter(one[at : at + n] for at in range(len(one) - n + 1)) for one in (ours, theirs))
        common = (found & wanted).total()
        precision += common / found.total()
        recall += common / wanted.total()
    if not precision + recall:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (_BETA**2 * precision + recall) / len(orders)


def rouge_l(text: str, truth: str) -> float:
    """ROUGE-L (Lin, 2004), from 0 to 1: the F1 of the longest common subsequence of words."""
    ours, theirs = words(text), words(truth)
    if not ours or not theirs:
        return float(ours == theirs)
    lengths = [0] * (len(theirs) + 1)
    for word in ours:
        before = 0  # of the row above, one to the left
        for at, other in enumerate(theirs, 1):
            above = lengths[at]
            lengths[at] = before + 1 if word == other else max(above, lengths[at - 1])
            before = above
    return 2 * lengths[-1] / (len(ours) + len(theirs))
