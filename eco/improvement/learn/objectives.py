"""The losses of reinforcement learning from groups of judged completions, each as its paper states it.

With l the log-probability of a sampled token now, o the one when it was drawn, rho = exp(l - o), and A the advantage of
its completion, an objective is a surrogate for each token, (B, T), and a weight for each completion, (B,):

    loss = - sum over completions i of  weight_i  x  sum over its tokens t of  surrogate_it

Where l = o the gradient of every surrogate is A x grad l, so that objectives whose weights are equal have the same
gradient there. The weights, for B completions of n_i tokens, N in all:

    1 / (n_i B)   grpo, igrpo, gspo              the mean over completions of their means
    1 / N         dapo, cispo, dispo, mix        the mean over tokens
    1 / (L B)     dr_grpo                        L: the longest completion that was asked for
    1 / B         rloo                           the mean over completions of their sums

All are proportional to each other where all completions are of one length.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor

from eco.config import Config, setting

Objective = Literal["expert", "grpo", "dr_grpo", "dapo", "gspo", "cispo", "dispo", "igrpo", "rloo", "mix"]


class ObjectiveConfig(Config):
    """Which objective, what a success is worth, and each objective's own numbers."""

    name: Objective = setting(
        "expert", "How a round is learnt: expert iteration, or a group-relative policy gradient.", flat="objective"
    )
    success: float = setting(2.0, "Reward of an answer that passes all hidden tests.", flat="grpo-reward-success")
    fail: float = setting(-1.0, "Reward of any other answer.", flat="grpo-reward-fail")
    partial_credit: bool = setting(
        False, "An answer that passes some tests is worth as much of the way from fail to success."
    )
    normalise: bool = setting(
        True, "Divide advantages by their group's standard deviation; dr_grpo and rloo never do.", flat="rl-adv-norm"
    )
    epochs: int = setting(2, "Most times that a round's attempts are learnt from.", flat="rl-epochs", gt=0)
    clip: float = setting(
        0.2, "grpo, igrpo, dr_grpo, rloo, dapo: how far below 1, and except in dapo above, a ratio counts.",
        flat="rl-clip-eps", gt=0, lt=1,
    )  # fmt: skip
    dapo_high: float = setting(0.28, "dapo: how far above 1.", gt=0)
    gspo_low: float = setting(3e-4, "gspo: how far below 1 the ratio of a whole sequence counts.", gt=0, lt=1)
    gspo_high: float = setting(4e-4, "gspo: how far above 1.", gt=0)
    cispo_low: float = setting(1.0, "cispo: how far below 1 a weight may lie; 1 leaves it free.", gt=0, le=1)
    cispo_high: float = setting(4.0, "cispo: how far above 1.", gt=0)
    dispo_correct_low: float = setting(0.2, "dispo: how far below 1 a weight may lie where A > 0.", gt=0, le=1)
    dispo_correct_high: float = setting(0.28, "dispo: how far above 1 where A > 0.", gt=0)
    dispo_wrong_low: float = setting(0.8, "dispo: how far below 1 where A < 0.", gt=0, le=1)
    dispo_wrong_high: float = setting(4.0, "dispo: how far above 1 where A < 0.", gt=0)
    dispo_temperature: float = setting(
        1.0, "dispo: divides the difference of log-probabilities before the clip.", flat="rl-dispo-logit-temp", gt=0
    )
    kl_weight: float = setting(
        0.02, "Weight of the divergence (k3) from the policy that the round began with.", flat="rl-kl-weight", ge=0
    )
    entropy_weight: float = setting(0.001, "Weight of the bonus for entropy.", flat="rl-entropy-weight", ge=0)
    lm_weight: float = setting(
        0.1, "Weight of the language-model loss on the recipe's corpus beside the policy's.", flat="rl-lm-weight", ge=0
    )

    @model_validator(mode="after")
    def _success_is_better(self) -> "ObjectiveConfig":
        if self.success <= self.fail:
            raise ValueError(f"success is worth {self.success} and fail {self.fail}; success must be worth more")
        return self


@dataclass(frozen=True)
class Totals:
    """What sums are divided by: of the whole optimizer step, of which a micro-batch is a part.

    completions: B. tokens: N, those sampled. length: L, the longest completion that was asked for, in tokens.
    """

    completions: int
    tokens: int
    length: int


def policy_loss(
    name: str, new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, config: ObjectiveConfig, totals: Totals
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a micro-batch under the objective `name`, any but expert and mix, as its part of the step's.

    new, old: (B, T) log-probabilities of the sampled tokens now and when they were drawn; old has no gradient.
    advantages: (B,), see `advantages`. mask: (B, T) bool, True at sampled tokens.

    igrpo (arXiv 2602.09000) is grpo's loss on the second of two stages: the completions given here are the refinements,
    drawn from a prompt that shows the best draft; drafts are not learnt from.

    Returns the loss and these means over the tokens of the step: `ratio`, and `clip_fraction`, the share of tokens
    whose clip was in force. Losses and means of micro-batches add up to those of the step.
    """
    counts = mask.sum(-1).clamp(min=1)
    difference = torch.where(mask, new - old, 0.0)
    surrogate, clipped = _SURROGATES[name](new, difference, advantages[:, None], counts[:, None], config)
    metrics = {
        "ratio": (difference.detach().exp() * mask).sum() / totals.tokens,
        "clip_fraction": (clipped.detach() & mask).sum() / totals.tokens,
    }
    return -reduced(name, surrogate, mask, totals), metrics


def reduced(name: str, values: Tensor, mask: Tensor, totals: Totals) -> Tensor:
    """The sum of `values` (B, T), or (B, 1) for all tokens alike, at sampled tokens, with the weights of `name`."""
    sums = torch.where(mask, values, 0.0).sum(-1)
    if name in ("grpo", "igrpo", "gspo"):
        return (sums / mask.sum(-1).clamp(min=1)).sum() / totals.completions
    if name == "dr_grpo":
        return sums.sum() / (totals.completions * totals.length)
    if name == "rloo":
        return sums.sum() / totals.completions
    return sums.sum() / totals.tokens


def kl_k3(ref: Tensor, new: Tensor, mask: Tensor) -> Tensor:
    """The estimator k3 = r - 1 - ln r, r = p_ref / p_new, of KL(new || ref) for each token: (B, T), 0 off the mask.

    It is unbiased over samples of `new`, and never negative (J. Schulman, "Approximating KL divergence", 2020).
    """
    difference = torch.where(mask, ref - new, 0.0)
    return difference.exp() - difference - 1


Surrogate = tuple[Tensor, Tensor]
"""Values (B, T) or (B, 1), and where the clip is in force, bool of the same shape."""


def _pessimistic(ratio: Tensor, advantages: Tensor, low: float, high: float) -> Surrogate:
    """PPO's min(rho A, clip(rho) A) (arXiv 1707.06347): no gain from moving a ratio further than to the bounds."""
    free, bounded = ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages
    return torch.min(free, bounded), bounded < free


def _weighted(log_probs: Tensor, weight: Tensor, bounded: Tensor, advantages: Tensor) -> Surrogate:
    """REINFORCE with a bounded weight that carries no gradient: every token keeps its say."""
    return bounded.detach() * advantages * log_probs, bounded != weight


def _grpo(new: Tensor, difference: Tensor, advantages: Tensor, counts: Tensor, config: ObjectiveConfig) -> Surrogate:
    """GRPO (arXiv 2402.03300); with other weights Dr. GRPO (arXiv 2503.20783)."""
    return _pessimistic(difference.exp(), advantages, config.clip, config.clip)


def _dapo(new: Tensor, difference: Tensor, advantages: Tensor, counts: Tensor, config: ObjectiveConfig) -> Surrogate:
    """DAPO (arXiv 2503.14476): the upper bound is higher, so that rare tokens can become likely."""
    return _pessimistic(difference.exp(), advantages, config.clip, config.dapo_high)


def _gspo(new: Tensor, difference: Tensor, advantages: Tensor, counts: Tensor, config: ObjectiveConfig) -> Surrogate:
    """GSPO (arXiv 2507.18071): one ratio for a sequence, the geometric mean of its tokens'."""
    ratio = (difference.sum(-1, keepdim=True) / counts).exp()
    return _pessimistic(ratio, advantages, config.gspo_low, config.gspo_high)


def _rloo(new: Tensor, difference: Tensor, advantages: Tensor, counts: Tensor, config: ObjectiveConfig) -> Surrogate:
    """RLOO (arXiv 2402.14740): the ratio of a sequence is that of its probabilities; its tokens share the value."""
    value, clipped = _pessimistic(difference.sum(-1, keepdim=True).exp(), advantages, config.clip, config.clip)
    return value / counts, clipped


def _cispo(new: Tensor, difference: Tensor, advantages: Tensor, counts: Tensor, config: ObjectiveConfig) -> Surrogate:
    """CISPO (MiniMax-M1, arXiv 2506.13585)."""
    ratio = difference.exp()
    return _weighted(new, ratio, ratio.clamp(1 - config.cispo_low, 1 + config.cispo_high), advantages)


def _dispo(new: Tensor, difference: Tensor, advantages: Tensor, counts: Tensor, config: ObjectiveConfig) -> Surrogate:
    """DISPO (arXiv 2602.00983): CISPO with bounds of their own for right and for wrong completions."""
    ratio = (difference / config.dispo_temperature).exp()
    right = ratio.clamp(1 - config.dispo_correct_low, 1 + config.dispo_correct_high)
    wrong = ratio.clamp(1 - config.dispo_wrong_low, 1 + config.dispo_wrong_high)
    return _weighted(new, ratio, torch.where(advantages > 0, right, wrong), advantages)


_SURROGATES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, ObjectiveConfig], Surrogate]] = {
    "grpo": _grpo, "igrpo": _grpo, "dr_grpo": _grpo, "dapo": _dapo, "gspo": _gspo, "rloo": _rloo, "cispo": _cispo,
    "dispo": _dispo,
}  # fmt: skip
