"""Generation quality: what each figure says of texts that are made to be good, repetitive or strange."""

import math

import numpy as np
import pytest

from eco.evaluation.ngram import KneserNey
from eco.evaluation.quality import CONTINUATION, PROMPT, Judge, Passage, generation_quality, passages, vocabulary
from eco.inference import Completion, Sampling

REAL = [
    f"and man number {number} went out of the city and saw a great light upon the hill, for it was yet night, and "
    "he said unto them that stood by, What is this that shineth? But they answered him nothing, because they feared "
    "the king and all his men, who came after them with horses and with many chariots out of the land beyond the "
    "river, and there was no place at all where any of them could hide from the hand of the mighty"
    for number in range(6)
]
SAMPLING = Sampling(temperature=1.0, seed=5)


@pytest.fixture
def judge(byte_tokenizer):
    text = np.array(byte_tokenizer.encode("\n".join(REAL)))
    return Judge(KneserNey.fit(text, byte_tokenizer.vocab_size, 5), byte_tokenizer)


class Writer:
    """An engine that writes `answer(prompt)`."""

    def __init__(self, tokenizer, answer) -> None:
        self.tokenizer, self.answer, self.sampling = tokenizer, answer, None

    def generate(self, prompts, sampling):
        self.sampling = sampling
        return [[Completion(self.answer(prompt), [], [], [], "length")] for prompt in prompts]


def test_passages_are_seeded_pieces_of_the_documents():
    found = passages(REAL, 100, 0)
    assert len(found) == len(REAL) * (len(REAL[0].split()) // (PROMPT + CONTINUATION)) > 0
    for prompt, continuation in found:
        assert any(prompt + continuation in text for text in REAL)
        assert (len(prompt.split()), len(continuation.split())) == (PROMPT, CONTINUATION)
        assert continuation[0].isspace() and prompt == prompt.strip()
    assert passages(REAL, 3, 1) == passages(REAL, 3, 1) != passages(REAL, 3, 2)
    with pytest.raises(ValueError, match="no document is that long"):
        passages(["too short"], 3, 0)


def test_a_model_that_writes_the_real_text_has_its_figures(byte_tokenizer, judge):
    asked = passages(REAL, 4, 0)
    real = {passage.prompt: passage.continuation for passage in asked}
    engine = Writer(byte_tokenizer, lambda prompt: real[prompt] + " and more words than were asked for")
    figures = generation_quality(engine, asked, judge, vocabulary(REAL), SAMPLING)
    assert figures["generated"] == figures["real"]
    longest = max(len(text.encode()) for text in real.values())
    assert engine.sampling == SAMPLING.model_copy(update={"max_new_tokens": math.ceil(1.5 * longest)})


def test_repetition_and_babble_show(byte_tokenizer, judge):
    asked = passages(REAL, 4, 0)
    known = vocabulary(REAL)
    loop = generation_quality(Writer(byte_tokenizer, lambda _: " and the man" * 40), asked, judge, known, SAMPLING)
    babble = generation_quality(
        Writer(byte_tokenizer, lambda p: " xq zj kv" * 3 + f" w{p}"), asked, judge, known, SAMPLING
    )
    generated, real = loop["generated"], loop["real"]
    assert generated["words"] == real["words"] == pytest.approx(40, abs=3)
    assert generated["distinct_1"] == pytest.approx(3 / (4 * generated["words"]), rel=1e-6)
    assert generated["repeated_4"] > 0.9 > 0.1 > real["repeated_4"]
    assert generated["known_words"] == real["known_words"] == 1
    assert babble["generated"]["known_words"] < 0.9
    assert babble["generated"]["bits_per_byte"] > 2 * babble["real"]["bits_per_byte"]


def test_figures_by_hand(byte_tokenizer, judge):
    asked = [Passage("He went", " a b a b a b"), Passage("She came", " c d")]
    texts = {"He went": " a b a b a x", "She came": " c"}
    figures = generation_quality(Writer(byte_tokenizer, texts.__getitem__), asked, judge, {"a", "b", "c"}, SAMPLING)
    generated, real = figures["generated"], figures["real"]
    assert real["distinct_1"] == 3 / 7 and generated["distinct_1"] == 4 / 7
    assert real["distinct_2"] == 2 / 5 and generated["distinct_2"] == 3 / 5
    assert real["repeated_4"] == pytest.approx(1 / 3) and generated["repeated_4"] == 0
    assert real["known_words"] == 1 and generated["known_words"] == 6 / 7
    assert real["words"] == generated["words"] == 3.5
    bits = 0.0
    for prompt, text in (("He went", " a b a b a b"), ("She came", " c")):
        ids = np.array(byte_tokenizer.encode(prompt + text))
        for at in range(len(prompt), len(ids)):
            bits -= judge.ngram.log_probabilities(ids[: at + 1], start=at)[0] / math.log(2)
    assert real["bits_per_byte"] == pytest.approx(bits / (12 + 2), rel=1e-9)


def test_a_model_that_says_nothing(byte_tokenizer, judge):
    figures = generation_quality(Writer(byte_tokenizer, lambda _: ""), passages(REAL, 2, 0), judge, set(), SAMPLING)
    assert figures["generated"] == figures["real"] == {"words": 0.0}
