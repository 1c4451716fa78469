"""A round's update on a real decoder, and the scores that it stands on."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bandit import attempt, student_of

from eco.improvement.learn import policy
from eco.improvement.learn.advantages import weigh
from eco.improvement.learn.config import LearnConfig
from eco.improvement.learn.objectives import ObjectiveConfig
from eco.improvement.learn.policy import Sequences, mean_entropy, score
from eco.improvement.learn.reinforce import Reinforcer
from eco.inference.completion import Completion
from eco.inference.engine import Engine
from eco.inference.sampling import Sampling
from eco.models import decoder
from eco.models.contract import build_model
from eco.training.precision import Precision

VOCAB, ROWS = 24, 32
CPU = torch.device("cpu")


def model_of(**settings):
    config = decoder.Config(width=32, layers=1, heads=2, vocab_size=ROWS, context=16, **settings)
    model = build_model(decoder.build, config, 3, CPU)
    with torch.no_grad():
        model.embedding.weight.mul_(4)  # a fresh model's distribution is nearly uniform, which hides mistakes
    return model


def completions(count, seed=0):
    dice = np.random.default_rng(seed)
    return [
        Completion("", dice.integers(VOCAB, size=p).tolist(), dice.integers(VOCAB, size=n).tolist(), [], "length")
        for p, n in dice.integers(1, 8, size=(count, 2))
    ]


def alone(model, completion, temperature):
    """Log-probabilities and entropies of one completion's tokens, in float64 and without padding."""
    whole = completion.prompt + completion.tokens
    logits = model(torch.tensor([whole[:-1]]))[0, :, :VOCAB].double() / temperature
    rows = [logits[len(completion.prompt) - 1 + at] for at in range(len(completion.tokens))]
    norms = [math.log(sum(math.exp(x) for x in row.tolist())) for row in rows]
    chosen = [row[token].item() - norm for row, token, norm in zip(rows, completion.tokens, norms, strict=True)]
    entropies = [-sum(math.exp(x - n) * (x - n) for x in row.tolist()) for row, n in zip(rows, norms, strict=True)]
    return chosen, entropies


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_scores_are_those_of_each_completion_alone(temperature):
    model, drawn = model_of(), completions(9)
    sequences = Sequences.of(drawn)
    scored = score(model, sequences, temperature, VOCAB)
    for row, completion in enumerate(drawn):
        at = sequences.mask[row]
        assert sequences.targets[row, at].tolist() == completion.tokens
        chosen, entropies = alone(model, completion, temperature)
        assert scored.log_probs[row, at].tolist() == pytest.approx(chosen, abs=2e-5)
        assert scored.entropy[row, at].tolist() == pytest.approx(entropies, abs=2e-5)
        assert (scored.log_probs[row, ~at] == 0).all()


def test_scores_are_what_the_engine_recorded():
    model = model_of()
    drawn = sample(model, [3, 1, 4], 6)
    scored = score(model, Sequences.of(drawn), 1.0, VOCAB)
    recorded = [sum(completion.logprobs) for completion in drawn]
    assert scored.log_probs.sum(-1).tolist() == pytest.approx(recorded, abs=1e-4)


def test_mean_entropy_is_over_all_tokens_in_batches_of_any_size(monkeypatch):
    model, drawn = model_of().train(), completions(20)
    wanted = np.concatenate([alone(model, completion, 1.0)[1] for completion in drawn]).mean()
    precision = Precision("fp32", CPU)
    for positions in (8192, 30, 1):
        monkeypatch.setattr(policy, "POSITIONS", positions)
        assert mean_entropy(model, drawn, precision, VOCAB) == pytest.approx(wanted, abs=1e-5)
    assert model.training
    assert mean_entropy(model, [], precision, VOCAB) == 0


def sample(model, prompt, count, seed=0, length=4):
    """`count` completions of a prompt of token ids."""
    tokenizer = SimpleNamespace(
        vocab_size=VOCAB,
        eos=VOCAB - 1,
        encode=lambda text: list(prompt),
        decode_bytes=lambda tokens: b"x" * len(tokens),
    )
    sampling = Sampling(max_new_tokens=length, temperature=1.0, seed=seed)
    return Engine(model, tokenizer).generate(["p"], sampling, count)[0]


def groups_of(model, seed, good=range(6, VOCAB), count=16):
    """Attempts at two prompts; one passes if its first token is among `good`."""
    return [
        [replace(attempt([0], c.tokens[0] in good, prompt), completion=c) for c in sample(model, prompt, count, seed)]
        for prompt in ([1, 2, 3], [5, 4])
    ]


def learner_of(model, name="grpo", corpus=None, precision="fp32", steps=100, rows=8, temperature=1.0, **settings):
    student = replace(student_of(model, VOCAB, corpus), precision=Precision(precision, CPU))
    objective = ObjectiveConfig(name=name, **({"lm_weight": 0.0} | settings))
    learn = LearnConfig(steps=steps, rows=rows, warmup=0, lr=3e-3)
    return Reinforcer(student, objective, learn, Sampling(max_new_tokens=4, temperature=temperature))


def pass_rate(groups):
    return np.mean([a.passed for group in groups for a in group])


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo", "gspo", "cispo", "dispo", "igrpo", "rloo", "mix"])
def test_a_decoder_passes_more_often_after_a_few_updates(name):
    model = model_of()
    learner = learner_of(model, name)
    before = pass_rate(groups_of(model, 999, count=64))
    for update in range(8):
        row = learner.update(groups_of(model, update), update, 0).row
    assert row["sigma_rl_updates"] > 0
    assert pass_rate(groups_of(model, 999, count=64)) > before + 0.25


def test_without_a_signal_it_does_not_learn_to_pass():
    """The control of the test above: as many updates, on verdicts that a coin decided."""
    model = model_of()
    learner = learner_of(model)
    before = pass_rate(groups_of(model, 999, count=64))
    coin = np.random.default_rng(0)
    for update in range(8):
        groups = [
            [replace(a, verdict=attempt([0], coin.random() < 0.4).verdict) for a in group]
            for group in groups_of(model, update)
        ]
        learner.update(groups, update, 0)
    assert abs(pass_rate(groups_of(model, 999, count=64)) - before) < 0.2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_first_step_is_strictly_on_policy_even_with_dropout(precision, temperature):
    model = model_of(dropout=0.2).train()
    learner = learner_of(model, precision=precision, temperature=temperature, steps=1, rows=100)
    row = learner.update(groups_of(model, 0), 0, 0).row
    assert row["sigma_rl_ratio"] == 1
    assert row["sigma_rl_kl"] == row["sigma_rl_clip_fraction"] == 0
    assert row["sigma_rl_updates"] == 1
    assert row["sigma_rl_grad_norm"] > 0
    assert model.training


def test_later_steps_are_off_policy():
    model = model_of()
    row = learner_of(model, epochs=4).update(groups_of(model, 0), 0, 0).row
    assert row["sigma_rl_ratio"] != 1
    assert row["sigma_rl_kl"] > 0
    assert row["sigma_rl_clip_fraction"] > 0


def weights_after(**settings):
    model = model_of()
    update = learner_of(model, **settings).update(groups_of(model, 0), 5, 0)
    return torch.cat([p.detach().flatten() for p in model.parameters()]), update.row


@pytest.mark.parametrize("name", ["grpo", "dapo", "mix"])
def test_micro_batches_do_not_change_the_gradient(name, monkeypatch):
    def gradient(positions):
        monkeypatch.setattr(policy, "POSITIONS", positions)
        model = model_of()
        learner = learner_of(model, name, rows=100)
        (batch,) = learner._dealt(weigh(groups_of(model, 0), learner.objective), 0)
        means = learner._policy_gradient(batch)
        return torch.cat([p.grad.flatten() for p in model.parameters()]), means, len(batch)

    whole, means, one = gradient(8192)
    parts, again, many = gradient(20)
    assert one == 1 < many
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)
    assert again == pytest.approx(means, rel=1e-4, abs=1e-6)


def test_the_same_seed_gives_the_same_bits():
    first, again = weights_after(name="mix")[0], weights_after(name="mix")[0]
    assert torch.equal(first, again)


def test_steps_and_epochs_bound_the_update():
    model = model_of()
    groups = groups_of(model, 0)
    assert learner_of(model, epochs=3, rows=8).update(groups, 0, 0).row["sigma_rl_updates"] == 3 * 4
    assert learner_of(model, epochs=3, rows=8, steps=5).update(groups, 0, 0).row["sigma_rl_updates"] == 5


def test_metrics_are_what_they_say():
    model = model_of()
    groups = groups_of(model, 0)
    drawn = [a.completion for group in groups for a in group]
    wanted = np.mean([sum(alone(model, c, 1.0)[0]) for c in drawn])
    row = learner_of(model, steps=1, rows=100).update(groups, 0, 0).row
    assert row["sigma_rl_seq_logp"] == pytest.approx(wanted, rel=1e-5)
    assert row["sigma_rl_entropy"] == pytest.approx(
        mean_entropy(model_of(), drawn, Precision("fp32", CPU), VOCAB), rel=1e-5
    )
    assert row["sigma_rl_adv_mean"] == pytest.approx(0, abs=1e-9)
    assert row["sigma_rl_adv_std"] == pytest.approx(1, abs=0.05)
    assert row["sigma_rl_zero_std_fraction"] == 0


def corpus_of(asked):
    def corpus(first, count):
        asked.append((first, count))
        tokens = torch.arange(first * 15, (first + count) * 15 + 1) % VOCAB
        windows = tokens.unfold(0, 16, 15)
        return {"tokens": windows[:, :-1], "targets": windows[:, 1:]}

    return corpus


def test_the_corpus_is_read_on_and_its_loss_weighed():
    asked = []
    model = model_of()
    learner = learner_of(model, corpus=corpus_of(asked), lm_weight=0.1, steps=3)
    update = learner.update(groups_of(model, 0), 0, 7)
    per_step = asked[0][1]
    assert asked == [(7 + step * per_step, per_step) for step in range(3)]
    assert update.corpus_windows == 3 * per_step
    assert update.row["sigma_rl_lm_loss"] > 0
    assert update.tokens > learner_of(model, steps=3).update(groups_of(model, 0), 0, 7).tokens


def test_the_corpus_loss_falls_with_its_weight():
    def final(weight):
        model = model_of()
        learner = learner_of(model, corpus=corpus_of([]), lm_weight=weight, epochs=8)
        learner.update(groups_of(model, 0), 0, 0)
        return model.training_step(corpus_of([])(0, 4)).losses["lm"].item()

    assert final(1.0) < final(1e-6) - 0.1


@pytest.mark.parametrize("name", ["kl_weight", "entropy_weight"])
def test_divergence_and_entropy_terms_pull_their_way(name):
    metric = "sigma_rl_kl" if name == "kl_weight" else "sigma_rl_entropy"
    _, with_term = weights_after(epochs=8, **{name: 2.0})
    _, without = weights_after(epochs=8, **{name: 0.0})
    assert with_term[metric] < without[metric] if name == "kl_weight" else with_term[metric] > without[metric]


def test_a_step_that_is_not_finite_changes_nothing():
    model = model_of()
    groups = groups_of(model, 0)
    with torch.no_grad():
        model.norm.weight[0] = float("nan")
    before = model.embedding.weight.detach().clone()
    row = learner_of(model, steps=2).update(groups, 0, 0).row
    assert row["sigma_rl_updates"] == 0
    assert row["sigma_rl_skipped"] == 2
    assert torch.equal(model.embedding.weight, before)


def test_state_goes_on_bit_for_bit():
    model = model_of()
    first = learner_of(model, "mix")
    for update in range(3):
        first.update(groups_of(model, update), update, 0)
        first.observe(0.1 * update)
    second_model = model_of()
    second_model.load_state_dict(model.state_dict())
    second = learner_of(second_model, "mix")
    second.load_state_dict(first.state_dict())
    groups = groups_of(model, 9)
    assert first.update(groups, 9, 0).row == second.update(groups, 9, 0).row
    assert torch.equal(model.embedding.weight, second_model.embedding.weight)
