"""SIGMA's auto-mix: four objectives at once, weighed by what they brought on held-out tasks.

Each update is led by one objective, drawn by EXP3 (Auer et al., "The nonstochastic multiarmed bandit problem", 2002;
the rate without a horizon is that of arXiv 1204.5721, section 3). The leader gets the weight that the others, each at
FLOOR, leave; the gain in held-out reward after the update is credited to it. SIGMA's rule of thumb is the prior.

Objectives differ in scale. Each is divided by the running norm of its gradient and multiplied by the mean of all such
norms, so that the weights say what they seem to. The gradient is that with respect to the tokens' log-probabilities,
the one way on which all of them reach the weights: one backward pass through the model serves all four. igrpo is here
its loss alone, on the same completions as the others.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eco.improvement.learn.objectives import ObjectiveConfig, Totals, policy_loss
from eco.training.callbacks import Row

MODES = ("cispo", "igrpo", "dispo", "gspo")
FLOOR = 0.1
"""Least weight of an objective in the loss, and least probability that it leads."""

NORM_DECAY = 0.9
"""Of the running squared gradient norm, per optimizer step."""

LARGEST_SCALE = 4.0
"""An objective whose clip has silenced it for many steps is not shouted up by more than this."""


class AutoMix:
    """The weights of the objectives in MODES, and what is known of each."""

    def __init__(self) -> None:
        self.weights = dict.fromkeys(MODES, 1 / len(MODES))
        self._leader: str | None = None
        self._probability = 1.0
        self._credit = dict.fromkeys(MODES, 0.0)
        self._gained = 0.0
        self._largest = 0.0
        self._updates = 0
        self._squares = dict.fromkeys(MODES, 0.0)

    def lead(self, pass_rate: float, distinct: float, seed: int) -> None:
        """Draws the objective that leads the next update.

        pass_rate, distinct: shares of the attempts that passed and that are unlike all others in their group.
        """
        chances = self.chances(pass_rate, distinct)
        at = int(np.random.default_rng(seed).choice(len(MODES), p=list(chances.values())))
        self._leader, self._probability = MODES[at], chances[MODES[at]]
        self.weights = {mode: FLOOR + (1 - FLOOR * len(MODES)) * (mode == self._leader) for mode in MODES}

    def chances(self, pass_rate: float, distinct: float) -> dict[str, float]:
        """The probability that each objective leads: prior x exp(rate x credit), never below FLOOR."""
        rate = math.sqrt(math.log(len(MODES)) / (len(MODES) * max(1, self._updates)))
        unit = self._largest or 1.0
        powers = {mode: rate * (credit / unit) for mode, credit in self._credit.items()}
        highest = max(powers.values())
        scores = {mode: p * math.exp(powers[mode] - highest) for mode, p in prior(pass_rate, distinct).items()}
        return {mode: FLOOR + (1 - FLOOR * len(MODES)) * s / sum(scores.values()) for mode, s in scores.items()}

    def observe(self, gain: float) -> None:
        """Credits the last update's leader with the change in held-out reward since `lead`, the sooner chosen the less.

        Dividing by the probability of having led makes each credit an unbiased estimate of the total gain, had this
        objective led always.
        """
        if self._leader is None:
            return
        self._credit[self._leader] += gain / self._probability
        self._gained += gain
        self._largest = max(self._largest, abs(gain))
        self._updates += 1
        self._leader = None

    @property
    def regret(self) -> float:
        """Estimate of the held-out reward lost by not letting the best objective lead always."""
        return max(self._credit.values()) - self._gained

    def loss(
        self, new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, config: ObjectiveConfig, totals: Totals
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The weighted loss, its metrics, and each objective's squared gradient norm; arguments as `policy_loss`'s.

        The squares of a step's micro-batches add up; hand their sums to `record`, which the next step is scaled by.
        """
        scales = self._scales()
        total = torch.zeros((), device=new.device)
        metrics: dict[str, Tensor] = {}
        squares: dict[str, Tensor] = {}
        for mode in MODES:
            leaf = new.detach().requires_grad_()
            probe, _ = policy_loss(mode, leaf, old, advantages, mask, config, totals)
            squares[mode] = torch.autograd.grad(probe, leaf)[0].square().sum()
            loss, own = policy_loss(mode, new, old, advantages, mask, config, totals)
            total = total + self.weights[mode] * scales[mode] * loss
            metrics[f"component_{mode}_loss"] = loss.detach()
            for name, value in own.items():
                metrics[name] = metrics.get(name, 0.0) + self.weights[mode] * value
        return total, metrics, squares

    def record(self, squares: Mapping[str, float]) -> None:
        """Takes a step's squared gradient norms into the running ones; nothing if any is not finite."""
        if not all(map(math.isfinite, squares.values())):
            return
        for mode, square in squares.items():
            self._squares[mode] = NORM_DECAY * self._squares[mode] + (1 - NORM_DECAY) * square

    def metrics(self) -> Row:
        """The weights, the estimate of the regret, and how many updates were credited."""
        row: Row = {f"mix_w_{mode}": weight for mode, weight in self.weights.items()}
        return row | {"mix_regret": self.regret, "mix_updates": self._updates}

    def state_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "weights": dict(self.weights), "leader": self._leader, "probability": self._probability,
            "credit": dict(self._credit), "gained": self._gained, "largest": self._largest, "updates": self._updates,
            "squares": dict(self._squares),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weights, self._leader, self._probability = dict(state["weights"]), state["leader"], state["probability"]
        self._credit, self._gained = dict(state["credit"]), state["gained"]
        self._largest, self._updates = state["largest"], state["updates"]
        self._squares = dict(state["squares"])

    def _scales(self) -> dict[str, float]:
        """Factors that give all objectives the mean of the running gradient norms; 1 before the first step.

        The running norms' bias towards their start at 0 is the same for all and cancels.
        """
        norms = {mode: math.sqrt(square) for mode, square in self._squares.items()}
        mean = sum(norms.values()) / len(norms)
        return {mode: min(LARGEST_SCALE, mean / norm) if norm else 1.0 for mode, norm in norms.items()}


def prior(pass_rate: float, distinct: float) -> dict[str, float]:
    """SIGMA's rule of thumb for the weights, (0, 1) each and 1 in sum.

    Frequent successes speak for cispo and igrpo, which exploit them; rare ones for dispo, which explores; outcomes in
    balance and answers that repeat each other for gspo, whose steps are the smallest.
    """
    variance = pass_rate * (1 - pass_rate)
    exploit = _unit(pass_rate * (1 - variance))
    explore = _unit(1 - pass_rate + 0.75 * variance)
    stability = _unit(1 - abs(2 * pass_rate - 1) + 0.5 * variance)
    raw = {
        "cispo": 0.15 + 0.45 * exploit,
        "igrpo": 0.10 + 0.30 * exploit,
        "dispo": 0.10 + 0.35 * explore,
        "gspo": 0.10 + 0.35 * stability + 0.10 * (1 - distinct),
    }
    return {mode: value / sum(raw.values()) for mode, value in raw.items()}


def _unit(value: float) -> float:
    return min(1.0, max(0.0, value))
