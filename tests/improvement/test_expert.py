"""Learning from verified rows: what carries loss, in which proportion, and nothing that depends on memory."""

import pytest
import torch

from eco.improvement.learn import expert
from eco.improvement.learn.config import LearnConfig
from eco.improvement.learn.expert import Example, batch_of, corpus_windows, learn, tokens_per_step
from eco.improvement.learn.student import Student
from eco.models import decoder
from eco.models.contract import IGNORE, build_model
from eco.optim import adamw
from eco.training.precision import Precision

CONTEXT, PAD = 24, 0
CPU = torch.device("cpu")
EXAMPLES = [Example((5, 6, 7), (8, 9, 1)), Example((4,), (3, 1)), Example((2, 2, 2, 2, 2), (7, 7, 7, 1))]


class Bytes:
    pad, eos, vocab_size = PAD, 1, 32


def model():
    config = decoder.Config(width=16, layers=1, heads=2, context=CONTEXT, vocab_size=32, dropout=0.1)
    return build_model(decoder.build, config, 0, CPU)


def student(windows=None):
    def corpus(index, count):
        if windows is not None:
            windows.append((index, count))
        tokens = (torch.arange(index, index + count)[:, None] + torch.arange(CONTEXT + 1)) % 3 + 10
        return {"tokens": tokens[:, :-1], "targets": tokens[:, 1:]}

    return Student(model(), Bytes(), Precision("fp32", CPU), adamw.Config(lr=3e-3), corpus, dict, model)


def config(**changes):
    return LearnConfig(rows=3, **changes)


def test_only_completions_carry_loss():
    batch = batch_of(EXAMPLES, PAD)
    assert batch["tokens"].tolist()[0] == [5, 6, 7, 8, 9, PAD, PAD, PAD]
    assert batch["targets"].tolist()[0] == [IGNORE, IGNORE, 8, 9, 1, IGNORE, IGNORE, IGNORE]
    assert (batch["targets"] != IGNORE).sum() == sum(len(example.completion) for example in EXAMPLES)


def loss_of(net, example):
    with torch.no_grad():
        return float(net.eval().training_step(batch_of([example], PAD)).losses["lm"])


def test_what_is_learnt_becomes_likely_and_the_corpus_too():
    learner = student()
    before = [loss_of(learner.model, example) for example in EXAMPLES]
    update = learn(learner, EXAMPLES * 40, config(lr=1e-2), 40, seed=0, corpus_first=0)
    assert all(loss_of(learner.model, e) < old - 1 for e, old in zip(EXAMPLES, before, strict=True))
    assert update.row["learn_corpus"] < 2.5 and update.row["learn_skipped"] == 0


@pytest.mark.parametrize("share", [0.5, 0.75])
def test_the_corpus_has_its_share_of_the_tokens(share):
    windows = []
    settings = LearnConfig(rows=30, corpus_share=share)
    examples = [Example(tuple([3] * 12), tuple([4] * 12))] * 60
    update = learn(student(windows), examples, settings, 2, seed=0, corpus_first=5)
    count = corpus_windows(examples, settings, CONTEXT)
    assert windows == [(5, count), (5 + count, count)] and update.corpus_windows == 2 * count
    assert count * CONTEXT / tokens_per_step(examples, settings, CONTEXT) == pytest.approx(share, abs=0.01)


def test_without_examples_the_corpus_alone_is_learnt_by_as_many_tokens():
    learner = student()
    update = learn(learner, [], config(), 3, seed=0, corpus_first=0)
    assert update.tokens == 3 * 6 * CONTEXT  # 3 rows of a context each would be half of the step
    assert "learn_examples" not in update.row and update.row["learn_corpus"] > 0


def test_micro_batches_change_memory_and_not_the_gradient(monkeypatch):
    def gradient():
        learner = student()
        learner.model.eval()
        mean = expert._add_gradient(learner, batch_of(EXAMPLES, PAD), 0.25)
        return mean, torch.cat([p.grad.flatten() for p in learner.model.parameters()])

    whole, one = gradient()
    monkeypatch.setattr(expert, "POSITIONS", 1)
    parts, added = gradient()
    assert parts == pytest.approx(whole, rel=1e-6)
    torch.testing.assert_close(added, one, rtol=1e-5, atol=1e-7)


def test_the_same_seed_gives_the_same_bits_and_leaves_the_random_state_alone():
    state = torch.random.get_rng_state()
    first, again, other = (student() for _ in range(3))
    for learner, seed in ((first, 1), (again, 1), (other, 2)):  # dropout is on
        learn(learner, EXAMPLES * 4, config(), 4, seed=seed, corpus_first=0)
    weights = [
        torch.cat([p.detach().flatten() for p in learner.model.parameters()]) for learner in (first, again, other)
    ]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_row_longer_than_the_context_is_left_out():
    long = Example(tuple([3] * CONTEXT), tuple([4] * CONTEXT))
    update = learn(student(), [long] * 6, config(), 2, seed=0, corpus_first=0)
    assert "learn_examples" not in update.row
