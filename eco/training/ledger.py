"""Counts what each feature really did.

A feature's counter rises in the code that caused the effect, together with a number that shows it (a distance, a share,
a gradient norm). Nothing else may raise it, so a feature that is on but does nothing is seen to do nothing.
"""

import math
from typing import Any


class Ledger:
    """Feature name -> enabled, effective calls, latest evidence."""

    def __init__(self) -> None:
        self._calls: dict[str, int] = {}
        self._evidence: dict[str, float] = {}
        self._off: set[str] = set()

    def enable(self, name: str) -> None:
        """Declares that the recipe switched the feature on; its counter starts at 0."""
        self._calls.setdefault(name, 0)

    def disable(self, name: str) -> None:
        """Declares a feature that this run could have and does not, so that its rows say so."""
        self._off.add(name)

    def count(self, name: str, evidence: float) -> None:
        """One effective call. `evidence` measures the effect; zero or not finite is no effect and is not counted."""
        assert name in self._calls, f"feature {name} counts without being enabled"
        if math.isfinite(evidence) and evidence != 0:
            self._calls[name] += 1
            self._evidence[name] = evidence

    def row(self) -> dict[str, float]:
        """`feature_<name>_enabled`, `_effective_calls` and `_evidence` of every declared feature, for metrics.jsonl."""
        row: dict[str, float] = {f"feature_{name}_enabled": 0 for name in sorted(self._off)}
        for name, calls in self._calls.items():
            row[f"feature_{name}_enabled"] = 1
            row[f"feature_{name}_effective_calls"] = calls
            if name in self._evidence:
                row[f"feature_{name}_evidence"] = self._evidence[name]
        return row

    def state_dict(self) -> dict[str, Any]:
        return {"calls": dict(self._calls), "evidence": dict(self._evidence)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over the counts of the features that are still enabled."""
        for name in self._calls:
            self._calls[name] = state["calls"].get(name, 0)
            if name in state["evidence"]:
                self._evidence[name] = state["evidence"][name]
