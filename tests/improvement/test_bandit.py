"""Each objective finds the better of two tokens, and moves nothing where there is nothing to find."""

import pytest
import torch
from bandit import Bandit, attempt, pulls, student_of

from eco.improvement.learn.config import LearnConfig
from eco.improvement.learn.objectives import ObjectiveConfig
from eco.improvement.learn.reinforce import Reinforcer
from eco.inference.sampling import Sampling

NAMES = ["grpo", "dr_grpo", "dapo", "gspo", "cispo", "dispo", "igrpo", "rloo", "mix"]


def reinforcer(model, name, **settings):
    objective = ObjectiveConfig(name=name, lm_weight=0.0, **settings)
    learn = LearnConfig(steps=2, rows=16, warmup=0, lr=0.05)
    return Reinforcer(student_of(model, 2), objective, learn, Sampling(max_new_tokens=1, temperature=1.0))


@pytest.mark.parametrize("name", NAMES)
def test_the_better_token_is_found_within_200_updates(name):
    model = Bandit([2.2, 0.0])  # the good token begins at one in ten
    learner = reinforcer(model, name)
    for update in range(200):
        learner.update([pulls(model, 8, (0, update), good=1)], update, 0)
        learner.observe(0.0)
        if model.chances[1] >= 0.95:
            break
    assert model.chances[1] >= 0.95


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("outcome", [True, False])
def test_equal_rewards_move_no_weight(name, outcome):
    model = Bandit([0.3, -0.4])
    before = model.logits.detach().clone()
    group = [attempt([token], outcome) for token in (0, 1, 1, 0)]
    update = reinforcer(model, name).update([group], 0, 0)
    assert torch.equal(model.logits, before)
    assert update.row["sigma_rl_updates"] == 0
    assert update.row["sigma_rl_zero_std_fraction"] == 1
    assert update.tokens == update.corpus_windows == 0


@pytest.mark.parametrize("name", NAMES)
def test_an_update_raises_what_passed_and_lowers_what_failed(name):
    model = Bandit([0.0, 0.0, 0.0])
    learner = reinforcer(model, name, entropy_weight=0.0, kl_weight=0.0)
    learner.student.tokenizer.vocab_size = 3
    learner.update([[attempt([token], token == 1) for token in (0, 1, 0, 1)]], 0, 0)
    assert model.logits[1] > 0 > model.logits[0]
