"""Verse recall: the scores against slow definitions, and models that know all, half or nothing of the verses."""

import itertools
import random
from collections import Counter

import pytest
import torch

from eco.data.library.marks import Verse, marked
from eco.evaluation.overlap import chrf, rouge_l, words
from eco.evaluation.recall import questions, verse_recall
from eco.inference import Completion, Engine
from eco.models import decoder
from eco.models.contract import build_model


def slow_chrf(text: str, truth: str) -> float:
    """Counts each n-gram of either text in both, one by one."""
    text, truth = text.replace(" ", ""), truth.replace(" ", "")
    precisions, recalls = [], []
    for n in range(1, 7):
        ours = [text[i : i + n] for i in range(len(text) - n + 1)]
        theirs = [truth[i : i + n] for i in range(len(truth) - n + 1)]
        if ours and theirs:
            common = sum(min(ours.count(gram), theirs.count(gram)) for gram in set(ours))
            precisions.append(common / len(ours))
            recalls.append(common / len(theirs))
    p, r = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return 5 * p * r / (4 * p + r) if p + r else 0.0


def slow_rouge(text: str, truth: str) -> float:
    """Tries every subsequence of the shorter text, the longest first."""
    short, long = sorted((words(text), words(truth)), key=len)
    for size in range(len(short), 0, -1):
        for chosen in itertools.combinations(short, size):
            left = iter(long)
            if all(word in left for word in chosen):
                return 2 * size / (len(short) + len(long))
    return 0.0


def test_overlaps_are_those_of_their_definitions():
    dice = random.Random(0)
    for _ in range(80):
        one, other = (
            " ".join(dice.choice(["and", "the", "an", "they", "God"]) for _ in range(dice.randint(1, 8))) for _ in "ab"
        )
        assert chrf(one, other) == pytest.approx(slow_chrf(one, other), abs=1e-12)
        assert rouge_l(one, other) == pytest.approx(slow_rouge(one, other), abs=1e-12)
    assert chrf("God said", "God said") == rouge_l("God said,", "god said") == 1
    assert chrf("", "God") == chrf("xyz", "God") == rouge_l("", "God") == rouge_l("xyz", "God") == 0
    # "abc" and "abd": 2 of 3 characters, 1 of 2 pairs, no triple, and as much to be found as was found
    assert chrf("abc", "abd") == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    # the right letters in the wrong order, which a bag of characters takes for the same
    assert Counter("the Lord is") == Counter("is the Lord") and chrf("dorl eht si", "the Lord is") < 0.3


VERSES = [
    Verse("Genesis", 1, 1, "In the beginning God made it."),
    Verse("Genesis", 1, 2, "And it was without form."),
    Verse("Genesis", 2, 1, "Thus they were finished."),
    Verse("Psalms", 2, 1, "Why do they rage?"),
]
DOCUMENTS = [marked("Genesis", VERSES[:3], {2: "law"}), marked("Psalms", VERSES[3:], {2: "psalm"})]
TRUTHS = [verse.text for verse in VERSES]


def test_the_prompt_is_the_chapters_line_and_the_reference():
    asked = [one for text in DOCUMENTS for one in questions(text)]
    assert [one.truth for one in asked] == TRUTHS
    assert asked[1].prompt == "<chapter>Genesis 1\n<verse>Genesis 1:2 "
    assert asked[3].prompt == "<chapter>Psalms 2 <psalm>\n<verse>Psalms 2:1 "
    assert all(any(one.prompt.split("\n")[1] + one.truth + "\n" in text for text in DOCUMENTS) for one in asked)
    assert questions("In a text without marks <verse> is a word.\n") == []
    assert questions("<verse>Genesis 1:1 A verse before its chapter's line.\n") == []


class Knowing:
    """An engine that says what it is told of each prompt."""

    def __init__(self, tokenizer, answer) -> None:
        self.tokenizer, self.answer, self.prompts = tokenizer, answer, []

    def generate(self, prompts, sampling):
        assert sampling.temperature == 0 and sampling.stop == ("\n",)
        self.prompts += prompts
        return [[Completion(self.answer(prompt), [], [], [], "stop")] for prompt in prompts]


KNOWN = {one.prompt: one.truth for text in DOCUMENTS for one in questions(text)}


def test_who_knows_all_and_who_knows_nothing(byte_tokenizer):
    whole = verse_recall(Knowing(byte_tokenizer, KNOWN.__getitem__), DOCUMENTS, 10, 0)
    assert (whole["verses"], whole["exact"], whole["chrf"], whole["rouge_l"]) == (4, 1, 1, 1)
    assert whole["chrf_other"] < 0.4
    begun = verse_recall(Knowing(byte_tokenizer, lambda asked: f" {KNOWN[asked]} Amen."), DOCUMENTS, 10, 0)
    assert begun["exact"] == 0 and begun["rouge_l"] > 0.8, "more than the verse is not the verse"
    spaced = verse_recall(Knowing(byte_tokenizer, lambda asked: f" {KNOWN[asked]}  "), DOCUMENTS, 10, 0)
    assert spaced["exact"] == 1
    nothing = verse_recall(Knowing(byte_tokenizer, lambda _: ""), DOCUMENTS, 10, 0)
    assert all(nothing[name] == 0 for name in ("exact", "chrf", "rouge_l", "chrf_other"))
    one = verse_recall(Knowing(byte_tokenizer, lambda _: TRUTHS[0]), DOCUMENTS, 10, 0)
    assert one["exact"] == 0.25 and one["chrf"] == pytest.approx(sum(chrf(TRUTHS[0], t) for t in TRUTHS) / 4)


def test_the_seed_draws(byte_tokenizer):
    draws = [Knowing(byte_tokenizer, KNOWN.__getitem__) for _ in range(3)]
    for engine, seed in zip(draws, (0, 0, 3), strict=True):
        assert verse_recall(engine, DOCUMENTS, 2, seed)["verses"] == 2
    assert draws[0].prompts == draws[1].prompts != draws[2].prompts
    with pytest.raises(ValueError, match="ask for 2 or more, not 1"):
        verse_recall(draws[0], DOCUMENTS, 1, 0)
    with pytest.raises(ValueError, match="documents that have them"):
        verse_recall(draws[0], ["no verse"], 5, 0)


def test_a_model_that_learnt_the_documents_by_heart_recalls_them(byte_tokenizer):
    config = decoder.Config(vocab_size=257, context=128, width=48, layers=2, heads=4)
    model = build_model(decoder.build, config, 0, torch.device("cpu"))
    asked = [one for text in DOCUMENTS for one in questions(text)]
    rows = [torch.tensor(byte_tokenizer.encode(one.prompt + one.truth + "\n")) for one in asked]
    batch = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=0)
    inputs, targets = batch[:, :-1], batch[:, 1:].masked_fill(batch[:, 1:] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    engine = Engine(model, byte_tokenizer)
    before = verse_recall(engine, DOCUMENTS, 4, 0)
    for _ in range(80):
        model.training_step({"tokens": inputs, "targets": targets}).losses["lm"].backward()
        optimizer.step()
        optimizer.zero_grad()
    after = verse_recall(engine, DOCUMENTS, 4, 0)
    assert before["exact"] == 0 and after["exact"] == 1
    assert after["chrf"] == 1 > 0.5 > after["chrf_other"]
