"""What a model can do, measured so that two measurements can be compared task by task."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eco.evaluation.pass_at_k import Checked, pass_at_k
from eco.evaluation.tasks import Question, Sample, ask_and_check
from eco.improvement.learn.policy import mean_entropy
from eco.inference.engine import Engine
from eco.inference.sampling import Sampling
from eco.observe.metrics import plain
from eco.sandbox import Sandbox
from eco.tasks.contract import Task
from eco.training.callbacks import Row
from eco.training.precision import Precision


@dataclass(frozen=True)
class Suite:
    """How the tasks of one set went.

    samples: completions that were drawn of each task, k.
    tasks: name -> how many of these were judged, and how many passed; only tasks of which one was judged.
    """

    samples: int
    tasks: Mapping[str, Checked]

    @property
    def rates(self) -> dict[str, float]:
        """The share of each task's judged completions that passed."""
        return {name: checked.passed / checked.samples for name, checked in self.tasks.items()}

    @property
    def pass_at_1(self) -> float:
        return _mean(list(self.rates.values()))

    @property
    def pass_at_k(self) -> float:
        """Over the tasks of which all k completions were judged."""
        whole = [checked for checked in self.tasks.values() if checked.samples == self.samples]
        return _mean([pass_at_k(checked.samples, checked.passed, self.samples) for checked in whole])


@dataclass(frozen=True)
class Measurement:
    """A model's figures at one moment; those that are not finite are null in JSON.

    suites: by the name of the set; the first is the one that is learnt.
    unique_share: different texts among the completions of all suites, by their number.
    entropy: nats a token, the mean of the model's whole distribution where those completions went through it.
    bits_per_byte: on held-out text.
    """

    suites: Mapping[str, Suite]
    unique_share: float
    entropy: float
    bits_per_byte: float

    @property
    def learnt(self) -> str:
        return next(iter(self.suites))

    def over(self, before: "Measurement") -> float:
        """How much higher pass@1 of the set that is learnt is than before."""
        return self.suites[self.learnt].pass_at_1 - before.suites[self.learnt].pass_at_1

    def __str__(self) -> str:
        figures = [f"{name} pass@1 {100 * suite.pass_at_1:.1f} %" for name, suite in self.suites.items()]
        return ", ".join([*figures, f"{self.bits_per_byte:.3f} bits per byte"])

    def as_json(self) -> dict[str, Any]:
        """With pass@1 and pass@k of each suite, which `from_json` computes anew."""
        suites = {
            name: {
                "samples": suite.samples,
                "pass_at_1": suite.pass_at_1,
                "pass_at_k": suite.pass_at_k,
                "tasks": {task: list(checked) for task, checked in suite.tasks.items()},
            }
            for name, suite in self.suites.items()
        }
        figures = ("unique_share", "entropy", "bits_per_byte")
        return {"suites": suites, **{name: plain(getattr(self, name)) for name in figures}}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Measurement":
        suites = {
            name: Suite(suite["samples"], {task: Checked(*counts) for task, counts in suite["tasks"].items()})
            for name, suite in found["suites"].items()
        }
        return cls(suites, *(_number(found[name]) for name in ("unique_share", "entropy", "bits_per_byte")))


def gains(before: Suite, after: Suite) -> list[float]:
    """The difference of the pass rates of each task that both have, after minus before."""
    first, second = before.rates, after.rates
    return [second[name] - first[name] for name in first if name in second]


def measure(
    engine: Engine,
    suites: Mapping[str, Sequence[Task]],
    sandbox: Sandbox,
    sampling: Sampling,
    samples: int,
    loss: Callable[[], Row],
    precision: Precision,
) -> Measurement:
    """Draws `samples` completions of each task, has them judged, and asks `loss` for `val_bits_per_byte`.

    The same `sampling.seed` gives each task the same random numbers whatever the weights are, so that two measurements
    differ by the weights alone. A task whose prompt fills the model's context counts as failed. A model without a
    finite loss has no distribution to draw from: it fails every task, and its other figures are not numbers.

    Raises:
        ValueError: the sandbox failed so often that no task of a suite has all its completions judged.
    """
    bits_per_byte = float(loss()["val_bits_per_byte"])
    if not math.isfinite(bits_per_byte):
        failed = {name: Suite(samples, {t.name: Checked(samples, 0) for t in tasks}) for name, tasks in suites.items()}
        return Measurement(failed, math.nan, math.nan, math.nan)
    drawn = {
        name: ask_and_check(engine, [Question(task, task.prompt) for task in tasks], sandbox, sampling, samples)
        for name, tasks in suites.items()
    }
    made = [one.completion for of_set in drawn.values() for of_task in of_set for one in of_task if one.completion]
    return Measurement(
        {name: _suite(name, of_set, samples) for name, of_set in drawn.items()},
        unique_share=len({completion.text for completion in made}) / max(1, len(made)),
        entropy=mean_entropy(engine.model, made, precision, engine.tokenizer.vocab_size),
        bits_per_byte=bits_per_byte,
    )


def _suite(name: str, drawn: Sequence[Sequence[Sample]], samples: int) -> Suite:
    counts: dict[str, Checked] = {}
    for of_task in drawn:
        outcomes = [one.verdict.outcome for one in of_task if one.verdict.outcome != "infrastructure"]
        if outcomes:
            counts[of_task[0].task.name] = Checked(len(outcomes), outcomes.count("pass"))
    if not any(checked.samples == samples for checked in counts.values()):
        reason = next((one.verdict.detail for of_task in drawn for one in of_task
                       if one.verdict.outcome == "infrastructure"), "it has no task")  # fmt: skip
        raise ValueError(f"{name} could not be measured: {reason}")
    return Suite(samples, counts)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _number(value: float | None) -> float:
    return math.nan if value is None else value
