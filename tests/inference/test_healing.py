"""A prompt that ends in white space goes on as if its last token were still open."""

import pytest
import torch

from eco.inference.engine import Engine
from eco.inference.sampling import Sampling

PIECES = [b"a", b" ", b" b", b"b", b"\n", b"\n  "]
EOS = len(PIECES)
GREEDY = Sampling(temperature=0, max_new_tokens=3)


class Words:
    """Tokens of one and of several characters; encoding takes the longest that fits."""

    eos = EOS
    vocab_size = EOS + 1

    def encode(self, text):
        rest, ids = text.encode(), []
        while rest:
            best = max((i for i, piece in enumerate(PIECES) if rest.startswith(piece)), key=lambda i: len(PIECES[i]))
            ids.append(best)
            rest = rest[len(PIECES[best]) :]
        return ids

    def decode_bytes(self, ids):
        return b"".join(PIECES[i] for i in ids if i != EOS)


@pytest.fixture
def engine(reciter):
    """Always prefers `b`, then ` b`, then a space, then the deepest indentation."""
    model = reciter([0])
    ranking = torch.zeros(1, 260)
    ranking[0, :6] = torch.tensor([0.0, 1.0, 2.0, 5.0, 0.0, 0.5])
    model.table.data = ranking
    return Engine(model, Words())


def test_the_last_white_space_is_taken_back_and_the_next_token_begins_with_it(engine):
    (done,) = engine.generate(["a "], GREEDY)[0]
    assert (done.prompt, done.tokens, done.text) == ([0], [2, 3, 3], "bbb")
    (done,) = engine.generate(["a\n"], GREEDY)[0]
    assert (done.prompt, done.tokens, done.text) == ([0], [5, 3, 3], "  bb")


def test_other_prompts_are_left_alone(engine):
    (done,) = engine.generate(["a"], GREEDY)[0]
    assert (done.prompt, done.tokens, done.text) == ([0], [3, 3, 3], "bbb")
    (only,) = engine.generate([" "], GREEDY)[0]
    assert only.prompt == [1], "nothing is left to condition on if the only token goes"


def test_rows_of_both_kinds_in_one_batch_equal_each_alone(engine):
    together = engine.generate(["a ", "a", "a\n"], GREEDY)
    alone = [engine.generate([prompt], GREEDY)[0] for prompt in ("a ", "a", "a\n")]
    assert together == alone


def test_stop_strings_and_streams_see_only_what_is_new(engine):
    sampling = Sampling(temperature=0, max_new_tokens=3, stop=(" b", "bbb"))
    (done,) = engine.generate(["a "], sampling)[0]
    assert (done.text, done.finish) == ("", "stop"), "`bbb` ends it, ` b` with the prompt's own space does not"
    assert "".join(engine.stream("a ", GREEDY)) == "bbb"
