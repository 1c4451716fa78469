"""Learning from groups of judged attempts by policy gradient: one round's update."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eco.improvement.attempt import Group
from eco.improvement.learn.advantages import Weighed, weigh
from eco.improvement.learn.automix import AutoMix
from eco.improvement.learn.config import LearnConfig
from eco.improvement.learn.expert import LARGEST_NORM, Example, Update, corpus_windows
from eco.improvement.learn.objectives import ObjectiveConfig, Totals, kl_k3, policy_loss, reduced
from eco.improvement.learn.policy import Scored, Sequences, in_batches, score
from eco.improvement.learn.student import Student, clipped_step, scheduled
from eco.inference.sampling import Sampling
from eco.models.contract import evaluating
from eco.training.callbacks import Row

Means = dict[str, float]


@dataclass(frozen=True)
class Micro:
    """What the model is given at once: completions, their advantages (B,), and `old` (B, T), their log-probabilities
    under the policy that the round began with."""

    sequences: Sequences
    advantages: Tensor
    old: Tensor


class Reinforcer:
    """Updates a student by the objective that `objective` names, any but expert.

    sampling: how the attempts are drawn. The policy is what its temperature makes of the model.
    """

    def __init__(self, student: Student, objective: ObjectiveConfig, learn: LearnConfig, sampling: Sampling) -> None:
        self.student = student
        self.objective = objective
        self.learn = learn
        self.sampling = sampling
        self.mix = AutoMix() if objective.name == "mix" else None

    def update(self, groups: Sequence[Group], seed: int, corpus_first: int) -> Update:
        """Learns from the groups whose outcomes differ; the rest of the row tells how that went.

        The attempts are dealt, in an order drawn from `seed`, to optimizer steps of `learn.rows`, and dealt out again
        until `learn.steps` or `objective.epochs` is reached. Log-probabilities under the policy of the round's
        beginning are computed once, by the same arithmetic as in training, so that all ratios are 1 in the first step;
        that policy is also the reference of the KL term. Dropout is off, for it would make ratios differ from 1.

        corpus_first: the window of the corpus that the language-model term begins with.
        """
        weighed = weigh(groups, self.objective)
        row = _described(weighed)
        if not weighed.completions:
            return Update(row | {"sigma_rl_updates": 0}, 0, 0)
        if self.mix:
            self.mix.lead(weighed.pass_rate, weighed.distinct, seed)
        with evaluating(self.student.model):  # with gradients
            update = self._learn(self._dealt(weighed, seed), self._windows(weighed), corpus_first)
        mix = self.mix.metrics() if self.mix else {}
        return Update(row | _named(update.row | mix), update.tokens, update.corpus_windows)

    def observe(self, gain: float) -> None:
        """Tells what the last update changed in held-out reward, which only the mix learns from."""
        if self.mix:
            self.mix.observe(gain)

    def state_dict(self) -> dict[str, Any]:
        """What outlasts a round, for JSON."""
        return {"mix": self.mix.state_dict()} if self.mix else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.mix:
            self.mix.load_state_dict(state["mix"])

    def _dealt(self, weighed: Weighed, seed: int) -> list[list[Micro]]:
        """The micro-batches of each optimizer step of an epoch."""
        order = np.random.default_rng((seed, 1)).permutation(len(weighed.completions))
        parts = np.array_split(order, math.ceil(len(order) / self.learn.rows))
        return [[self._micro(weighed, part[batch]) for batch in in_batches([weighed.completions[at] for at in part])]
                for part in parts]  # fmt: skip

    def _micro(self, weighed: Weighed, rows: "np.ndarray[Any, np.dtype[np.int64]]") -> Micro:
        device = self.student.precision.device
        sequences = Sequences.of([weighed.completions[at] for at in rows]).to(device)
        advantages = torch.from_numpy(weighed.advantages[rows]).float().to(device)
        with torch.no_grad():
            return Micro(sequences, advantages, self._score(sequences).log_probs)

    def _windows(self, weighed: Weighed) -> int:
        """Windows of the corpus in a step."""
        if not self.objective.lm_weight:
            return 0
        examples = [Example(tuple(c.prompt), tuple(c.tokens)) for c in weighed.completions]
        return corpus_windows(examples, self.learn, self.student.model.config.context)

    def _learn(self, batches: list[list[Micro]], windows: int, corpus_first: int) -> Update:
        """The optimizer steps. Returns the means over them."""
        steps = min(self.learn.steps, self.objective.epochs * len(batches))
        optimizer = self.student.new_optimizer(self.learn.lr)
        optimizer.zero_grad(set_to_none=True)
        rows: list[Means] = []
        tokens = steps * windows * self.student.model.config.context
        for step in range(steps):
            scheduled(optimizer, step, steps, self.learn.warmup)
            batch = batches[step % len(batches)]
            means = self._policy_gradient(batch)
            if windows:
                means["lm_loss"] = self._corpus_gradient(corpus_first + step * windows, windows)
            rows.append(means | clipped_step(self.student, optimizer, LARGEST_NORM))
            tokens += sum(micro.sequences.tokens.numel() for micro in batch)
        taken = [row for row in rows if not row["skipped"]]
        means = {name: float(np.mean([row[name] for row in taken])) for name in rows[0] if taken and name != "skipped"}
        return Update(means | {"updates": len(taken), "skipped": steps - len(taken)}, tokens, steps * windows)

    def _policy_gradient(self, batch: list[Micro]) -> Means:
        """Adds the gradient of one optimizer step's policy loss; returns means over its tokens."""
        totals = Totals(
            completions=sum(len(micro.advantages) for micro in batch),
            tokens=sum(int(micro.sequences.mask.sum()) for micro in batch),
            length=self.sampling.max_new_tokens,
        )
        means: Means = {}
        squares: Means = {}
        for micro in batch:
            loss, metrics, own = self._loss(micro, totals)
            loss.backward()  # type: ignore[no-untyped-call]
            _add(means, metrics | {"loss": loss.detach()})
            _add(squares, own)
        if self.mix:
            self.mix.record(squares)
        return means

    def _loss(self, micro: Micro, totals: Totals) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The micro-batch's part of the step's loss and of its means; the mix's squared gradient norms."""
        config, name = self.objective, self.objective.name
        mask = micro.sequences.mask
        new, entropy = self._score(micro.sequences)
        given = (new, micro.old, micro.advantages, mask, config, totals)
        squares: dict[str, Tensor] = {}
        if self.mix:
            policy, metrics, squares = self.mix.loss(*given)
        else:
            policy, metrics = policy_loss(name, *given)
        kl, mean_entropy = kl_k3(micro.old, new, mask), entropy.sum() / totals.tokens
        loss = policy + config.kl_weight * reduced(name, kl, mask, totals) - config.entropy_weight * mean_entropy
        metrics |= {
            "kl": kl.detach().sum() / totals.tokens,
            "entropy": mean_entropy.detach(),
            "seq_logp": new.detach().sum() / totals.completions,
        }
        return loss, metrics, squares

    def _corpus_gradient(self, first: int, windows: int) -> float:
        """Adds the gradient of the language-model loss on the corpus, `lm_weight` times; returns that loss."""
        with self.student.precision.autocast():
            batch = self.student.moved(self.student.corpus(first, windows))
            loss = self.student.model.training_step(batch).losses["lm"]
        (self.objective.lm_weight * loss).backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _score(self, sequences: Sequences) -> Scored:
        with self.student.precision.autocast():
            return score(self.student.model, sequences, self.sampling.temperature, self.student.tokenizer.vocab_size)


def _described(weighed: Weighed) -> Row:
    """What there was to learn from. The advantages' mean is near 0 in any group."""
    values = weighed.advantages
    return {
        "sigma_rl_completions": len(values),
        "sigma_rl_zero_std_fraction": weighed.zero_std,
        "sigma_rl_adv_mean": float(values.mean()) if len(values) else 0.0,
        "sigma_rl_adv_std": float(values.std()) if len(values) else 0.0,
    }


def _named(row: Row) -> Row:
    return {f"sigma_rl_{name}": value for name, value in row.items()}


def _add(sums: Means, values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        sums[name] = sums.get(name, 0.0) + float(value)
