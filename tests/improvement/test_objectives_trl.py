"""The losses beside those of TRL's own trainers, on the same tensors."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from test_objectives import CONFIG, LENGTH, batch

from eco.improvement.learn.objectives import Totals, kl_k3, policy_loss, reduced

pytest.importorskip("trl")
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer

ACCELERATOR = SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x)
TOKEN = {"importance_sampling_level": "token", "epsilon_low": 0.2, "epsilon_high": 0.2}
TRL = {
    "grpo": TOKEN | {"loss_type": "grpo"},
    "igrpo": TOKEN | {"loss_type": "grpo"},
    "dr_grpo": TOKEN | {"loss_type": "dr_grpo"},
    "dapo": TOKEN | {"loss_type": "dapo", "epsilon_high": 0.28},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon_low": 3e-4, "epsilon_high": 4e-4},
    "cispo": TOKEN | {"loss_type": "cispo", "epsilon_high": 5.0},  # TRL's bound is the largest weight itself
}


def bare(trainer_class, new, **attributes):
    """A trainer with what `_compute_loss` reads; its model's log-probabilities are `new`."""
    trainer = trainer_class.__new__(trainer_class)
    trainer.model = torch.nn.Identity()
    trainer.accelerator = ACCELERATOR
    trainer.aux_loss_enabled = False
    trainer._metrics = {"train": defaultdict(list)}
    trainer.__dict__.update(attributes)
    trainer._get_per_token_logps_and_entropies = lambda *args, **kwargs: (new, torch.zeros_like(new), None)
    return trainer


def inputs(mask, **others):
    rows, width = mask.shape
    prompt = torch.ones(rows, 2, dtype=torch.long)
    completion = torch.ones(rows, width, dtype=torch.long)
    return {
        "prompt_ids": prompt, "prompt_mask": prompt, "completion_ids": completion, "completion_mask": mask.long(),
        "num_items_in_batch": mask.sum(), **others,
    }  # fmt: skip


def trl_loss(name, new, old, advantages, mask, ref, beta):
    if name == "rloo":
        sums = (old * mask).sum(1)
        trainer = bare(RLOOTrainer, new, epsilon_low=0.2, epsilon_high=0.2)
        return trainer._compute_loss(trainer.model, inputs(mask, old_logps=sums, advantages=advantages))
    args = SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1)
    trainer = bare(
        GRPOTrainer, new, beta=beta, args=args, max_completion_length=LENGTH, current_gradient_accumulation_steps=1,
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, use_vllm=False, _entropy_bonus_enabled=False,
        **TRL[name],
    )  # fmt: skip
    given = inputs(mask, old_per_token_logps=old, ref_per_token_logps=ref, advantages=advantages)
    return trainer._compute_loss(trainer.model, given)


@pytest.mark.parametrize(("name", "beta"), [*((name, beta) for name in TRL for beta in (0.0, 0.3)), ("rloo", 0.0)])
@pytest.mark.parametrize("apart", [0.0, 1e-3, 0.3, 1.5])
def test_loss_and_gradient_are_those_of_trl(name, beta, apart):
    """beta weighs the divergence, which TRL takes off rloo's rewards instead."""
    new, old, values, mask = batch(11, apart)
    ref = old - 0.2
    totals = Totals(len(mask), int(mask.sum()), LENGTH)
    ours, theirs = new.clone().requires_grad_(), new.clone().requires_grad_()
    loss, _ = policy_loss(name, ours, old, values, mask, CONFIG, totals)
    loss = loss + beta * reduced(name, kl_k3(ref, ours, mask), mask, totals)
    expected = trl_loss(name, theirs, old, values, mask, ref, beta)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6, rel=1e-6)
    torch.testing.assert_close(
        torch.autograd.grad(loss, ours)[0], torch.autograd.grad(expected, theirs)[0], rtol=1e-6, atol=1e-8
    )
