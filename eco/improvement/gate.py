"""Whether an update is kept: checks of what it gained, of what it must not have lost, and of the judge itself."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eco.config import Config, setting
from eco.evaluation.bootstrap import interval
from eco.improvement.measure import Measurement, gains
from eco.models.contract import LanguageModel, evaluating
from eco.observe.metrics import plain


class GateConfig(Config):
    """How much is measured, and what an update may cost."""

    held_out_tasks: int = setting(200, "Held-out tasks of each set that decide; as many again give the figures.", gt=0)
    samples: int = setting(4, "Completions of each of them (k).", gt=0)
    confidence: float = setting(0.9, "Of the interval of the gain, which must lie above min_gain.", gt=0, lt=1)
    min_gain: float = setting(0.0, "What the gain in pass@1 must exceed, as a share of 1.", ge=0, lt=1)
    max_domain_fall: float = setting(
        0.05, "Most that pass@1 of another set may lie below its best (delta).", ge=0, le=1
    )
    max_bpb_rise: float = setting(0.03, "Most that bits per byte may rise over the start's, as a share of them.", ge=0)
    min_entropy_share: float = setting(0.1, "Least entropy, as a share of the start's.", ge=0, le=1)
    min_unique_share: float = setting(0.05, "Least share of different texts among the completions.", ge=0, le=1)
    max_pass_at_k_fall: float = setting(
        0.05, "Most that pass@k may fall while pass@1 rises, by which it only grew surer of what it knew.", ge=0, le=1
    )
    canaries: int = setting(8, "Tasks without a solution; one that is passed stops the run.", gt=0)


@dataclass(frozen=True)
class Evidence:
    """What is known of new weights apart from their measurement.

    finite: of all of them. reload_difference: see there. canaries_passed: completions of tasks without a solution that
    the judge let pass.
    """

    finite: bool
    reload_difference: float
    canaries_passed: int


@dataclass(frozen=True)
class Check:
    """One thing that an update must not fail in. threshold: what `evidence` was held against."""

    name: str
    passed: bool
    threshold: float
    evidence: Mapping[str, float]

    def __str__(self) -> str:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in self.evidence.items())
        return f"{self.name} ({figures}; threshold {self.threshold:.4g})"


@dataclass(frozen=True)
class Decision:
    """promote: the update is kept. stop: the judge let something impossible pass, so that no figure can be trusted."""

    promote: bool
    stop: bool
    reason: str
    checks: tuple[Check, ...]

    def as_json(self) -> dict[str, Any]:
        """Strict JSON: a figure that is not finite is null."""
        checks = [
            {
                "name": check.name,
                "passed": check.passed,
                "threshold": check.threshold,
                "evidence": {name: plain(value) for name, value in check.evidence.items()},
            }
            for check in self.checks
        ]
        return {"promoted": self.promote, "stop": self.stop, "reason": self.reason, "checks": checks}


def decide(
    before: Measurement,
    after: Measurement,
    start: Measurement,
    best: Mapping[str, float],
    facts: Evidence,
    config: GateConfig,
    seed: int,
) -> Decision:
    """Keeps an update only if every check passes; a figure that is not a number passes none.

    before, after: of the weights that count, and of the new ones, on the same tasks with the same random numbers; the
        first suite is the one that must gain. start: of the weights before the first round.
    best: the highest pass@1 of each suite so far.
    seed: of the bootstrap over tasks.

    An update that changes nothing for better or worse gains, by chance, in (1 - confidence) / 2 of all cases.

    Raises:
        ValueError: before and after have no task in common.
    """
    checks = tuple(_checks(before, after, start, best, facts, config, seed))
    failed = [check for check in checks if not check.passed]
    reason = f"failed: {'; '.join(map(str, failed))}" if failed else f"passed: {checks[0]}"
    return Decision(promote=not failed, stop=facts.canaries_passed > 0, reason=reason, checks=checks)


def weights_are_finite(model: torch.nn.Module) -> bool:
    """Whether every number of the model's state is."""
    return all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())


@torch.no_grad()
def reload_difference(model: LanguageModel, reloaded: LanguageModel, probe: Tensor) -> float:
    """The largest difference of their logits for the tokens `probe` (B, T), in evaluation mode; 0.0 where the reloaded
    model is the same, NaN where logits are not finite. Their modes come back."""
    first, second = _logits(model, probe), _logits(reloaded, probe)
    return float((first - second).abs().max())


def _checks(
    before: Measurement,
    after: Measurement,
    start: Measurement,
    best: Mapping[str, float],
    facts: Evidence,
    config: GateConfig,
    seed: int,
) -> Iterator[Check]:
    learnt, *others = after.suites
    yield _gain(before, after, learnt, config, seed)
    yield _pass_at_k(before, after, learnt, config)
    for name in others:
        now, least = after.suites[name].pass_at_1, best[name] - config.max_domain_fall
        yield Check(f"pass@1 of {name}", now >= least, least, {"after": now, "best": best[name]})
    most = start.bits_per_byte * (1 + config.max_bpb_rise)
    rise = {"start": start.bits_per_byte, "before": before.bits_per_byte, "after": after.bits_per_byte}
    yield Check("bits per byte", after.bits_per_byte <= most, most, rise)
    least = start.entropy * config.min_entropy_share
    spread = {"start": start.entropy, "before": before.entropy, "after": after.entropy}
    yield Check("entropy", after.entropy >= least, least, spread)
    unique = {"start": start.unique_share, "before": before.unique_share, "after": after.unique_share}
    yield Check("unique share", after.unique_share >= config.min_unique_share, config.min_unique_share, unique)
    yield Check("canaries", facts.canaries_passed == 0, 0.0, {"passed": facts.canaries_passed})
    yield Check("finite weights", facts.finite, 1.0, {"finite": float(facts.finite)})
    yield Check("reload", facts.reload_difference == 0, 0.0, {"difference": facts.reload_difference})


def _gain(before: Measurement, after: Measurement, learnt: str, config: GateConfig, seed: int) -> Check:
    """Of pass@1, with its interval by a bootstrap over tasks, each of which keeps its before and after together: how
    hard the tasks are cancels out."""
    first, second = before.suites[learnt], after.suites[learnt]
    differences = gains(first, second)
    low, high = interval(differences, seed, config.confidence)
    evidence = {
        "before": first.pass_at_1,
        "after": second.pass_at_1,
        "gain": sum(differences) / max(1, len(differences)),
        "low": low,
        "high": high,
        "tasks": len(differences),
    }
    return Check(f"gain in pass@1 of {learnt}", low > config.min_gain, config.min_gain, evidence)


def _pass_at_k(before: Measurement, after: Measurement, learnt: str, config: GateConfig) -> Check:
    first, second = before.suites[learnt].pass_at_k, after.suites[learnt].pass_at_k
    least = first - config.max_pass_at_k_fall
    return Check(f"pass@{after.suites[learnt].samples}", second >= least, least, {"before": first, "after": second})


def _logits(model: LanguageModel, tokens: Tensor) -> Tensor:
    with evaluating(model):
        logits: Tensor = model(tokens)
    return logits
