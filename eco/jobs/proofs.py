"""What a proof found, as a table, a report and a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from eco.evaluation.intervals import student
from eco.files import replacing, write_json
from eco.observe.effects import Effect, draw_effects

BITS, SOLVED = "val_bits_per_byte", "val_exact_accuracy"

_CALLED = {BITS: "held-out bits per byte", SOLVED: "share of held-out puzzles solved"}

_LOWER_IS_BETTER = (BITS,)

COLUMNS = ("feature", "on", "off", "effect\n(95 %)", "cost", "counter\nevidence", "off\nexact")


UNEQUAL = 0.1
"""Share of the compute by which two runs may differ before it is remarked on; the pilot is rounded to 5 %."""


@dataclass(frozen=True)
class Proof:
    """One feature, on against off.

    on, off: the metric of each seed. time_ratio: seconds of a step, on over off. bytes_on, bytes_off: of memory, the
    most that a run of any seed held. calls: of the ledger's counter while on, in the seed with the fewest. evidence:
    its number at the end of the first seed. difference: how off differs from never having had the feature, "" not at
    all.
    """

    feature: str
    what: str
    metric: str
    on: tuple[float, ...]
    off: tuple[float, ...]
    steps_on: int
    steps_off: int
    time_ratio: float
    bytes_on: int
    bytes_off: int
    calls: int
    evidence: float | None
    difference: str

    @property
    def effect(self) -> Effect:
        """The mean of the differences of the seeds with its 95 % interval; positive is better."""
        sign = -1 if self.metric in _LOWER_IS_BETTER else 1
        differences = [sign * (one - other) for one, other in zip(self.on, self.off, strict=True)]
        return Effect(self.feature, mean(differences), *student(differences))

    @property
    def proved(self) -> bool:
        """Whether the feature acts while it is on, and not at all while it is off. What it brings is another matter."""
        return not self.complaints()

    def cells(self) -> tuple[str, ...]:
        """A row under COLUMNS; a cell may have several lines."""
        effect = self.effect
        evidence = "none" if self.evidence is None else f"{self.evidence:.3g}"
        return (
            f"{self.feature}\n{'proved' if self.proved else 'NOT PROVED'}",
            f"{mean(self.on):.4f}\n{self.steps_on} steps",
            f"{mean(self.off):.4f}\n{self.steps_off} steps",
            f"{effect.value:+.4f} {effect.verdict}\n{effect.low:+.4f} to {effect.high:+.4f}",
            f"time {self.time_ratio:.2f}x\nRAM {self.bytes_on / self.bytes_off:.2f}x",
            f"{self.calls}\n{evidence}",
            "no" if self.difference else "yes",
        )

    def complaints(self) -> list[str]:
        """Why it is not proved."""
        reasons = {
            "its counter is 0 while it is on": self.calls == 0,
            "it counts without evidence": self.calls > 0 and not self.evidence,
            f"off is not as if it had never been: {self.difference}": bool(self.difference),
        }
        return [f"{self.feature} is not proved: {reason}" for reason, holds in reasons.items() if holds]

    @property
    def spent(self) -> float:
        """Compute that the runs with the feature had, over that of those without."""
        return self.time_ratio * self.steps_on / self.steps_off

    def summary(self) -> dict[str, Any]:
        """The same as plain data for JSON."""
        effect = self.effect
        return {
            **vars(self), "effect": effect.value, "effect_low": effect.low, "effect_high": effect.high,
            "proved": self.proved, "spent": self.spent,
        }  # fmt: skip


@dataclass(frozen=True)
class Report:
    """The proofs of a recipe's features. folder: where the runs and the report are."""

    recipe: str
    seeds: int
    equal: str
    proofs: Sequence[Proof]
    folder: Path

    @property
    def proved(self) -> bool:
        return all(proof.proved for proof in self.proofs)

    def remarks(self) -> list[str]:
        """What is not proved and why, and where compute was not equal after all."""
        return [text for proof in self.proofs for text in proof.complaints()] + [
            f"{proof.feature}: the runs with it had {proof.spent:.2f} of the compute of those without, as it does "
            "something that the pilot was too short to see"
            for proof in self.proofs
            if self.equal == "compute" and abs(proof.spent - 1) > UNEQUAL
        ]

    def legend(self) -> str:
        """How the table is to be read."""
        metric = self.proofs[0].metric
        direction = "off minus on" if metric in _LOWER_IS_BETTER else "on minus off"
        return (
            f"{self.recipe}, {self.seeds} seeds, equal {self.equal}: {_CALLED[metric]}; the effect is {direction}, so "
            "that positive is better, with Student's interval over the seeds"
        )

    def summary(self) -> dict[str, Any]:
        """The same as plain data for JSON."""
        return {
            "recipe": self.recipe, "seeds": self.seeds, "equal": self.equal, "proved": self.proved,
            "features": [proof.summary() for proof in self.proofs],
        }  # fmt: skip


def write_report(report: Report) -> Report:
    """Writes report.md, report.json and report.png into the report's folder; returns the report."""
    write_json(report.folder / "report.json", report.summary())
    draw_effects([proof.effect for proof in report.proofs], report.legend(), report.folder / "report.png")
    with replacing(report.folder / "report.md") as stream:
        stream.write(as_markdown(report))
    return report


def as_markdown(report: Report) -> str:
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(proof.cells() for proof in report.proofs)]
    table = "\n".join(" | ".join(("", *row, "")).strip().replace("\n", "<br>") for row in rows)
    remarks = "".join(f"- {text}\n" for text in report.remarks())
    meanings = "".join(f"- `{proof.feature}`: {proof.what}\n" for proof in report.proofs)
    head = f"# Features of {report.recipe}\n\n{report.legend()}."
    return f"{head}\n\n{table}\n\n{remarks}\n{meanings}\n![effects](report.png)\n"
