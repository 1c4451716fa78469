"""A result with its controls: the arms of a run, each beside the others, with intervals over the tasks they share."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from eco.evaluation.bootstrap import interval_over_runs
from eco.improvement.measure import Measurement, gains

RESULT = "result.json"


@dataclass(frozen=True)
class Gain:
    """A difference of pass@1 with its 95 % interval, as shares of 1; as text in points."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:+.1f} ({100 * self.low:+.1f} to {100 * self.high:+.1f})"


@dataclass(frozen=True)
class Arm:
    """One run of the loop: the method (`control` none) or a control, with one seed.

    before, after: measured on held-out tasks that no decision has seen.
    """

    folder: Path
    control: str
    objective: str
    seed: int
    rounds: int
    seconds: float
    before: Measurement
    after: Measurement

    @classmethod
    def read(cls, folder: Path) -> "Arm":
        """
        Raises:
            ValueError: the file is damaged.
        """
        try:
            found = json.loads((folder / RESULT).read_text("utf-8"))
            before, after = (Measurement.from_json(found[when]) for when in ("before", "after"))
            control, objective, seed = found["control"], found["objective"], found["seed"]
            return cls(folder, control, objective, seed, found["rounds"], found["seconds"], before, after)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{folder / RESULT} is damaged ({error!r}); remove it: `eco improve` with the settings of this arm "
                "measures it anew"
            ) from error

    @property
    def learnt(self) -> str:
        """The set whose gain decides."""
        return next(iter(self.after.suites))

    def pass_at_1(self, when: str) -> float:
        measured: Measurement = getattr(self, when)
        return measured.suites[self.learnt].pass_at_1


def read_arms(run: Path) -> list[Arm]:
    """The finished arms of a run directory, the method first, then its controls, each by seed."""
    arms = [Arm.read(path.parent) for path in sorted(run.glob(f"improve*/{RESULT}"))]
    return sorted(arms, key=lambda arm: (arm.control != "none", arm.control, arm.seed))


def gain(arms: Sequence[Arm]) -> Gain:
    """What the arms of one kind have gained, after against before, over the seeds and their tasks."""
    gained = _gain([(arm.before, arm.after, arm.learnt) for arm in arms])
    assert gained, "both are of the same tasks"
    return gained


def gain_over(arms: Sequence[Arm], controls: Sequence[Arm]) -> Gain | None:
    """After the one against after the other, on the same tasks, by the same objective and seed, after as many rounds;
    None where there are no two such arms."""
    beside = {_settings(control): control.after for control in controls}
    keys = [_settings(arm) for arm in arms]
    return _gain([(beside[key], arm.after, arm.learnt) for key, arm in zip(keys, arms, strict=True) if key in beside])


def _settings(arm: Arm) -> tuple[str, int, int, str]:
    """What two arms must have in common."""
    return arm.objective, arm.seed, arm.rounds, arm.learnt


def _gain(pairs: Sequence[tuple[Measurement, Measurement, str]]) -> Gain | None:
    both = [gains(before.suites[name], after.suites[name]) for before, after, name in pairs]
    runs = [differences for differences in both if differences]
    return Gain(mean(map(mean, runs)), *interval_over_runs(runs, seed=0)) if runs else None
