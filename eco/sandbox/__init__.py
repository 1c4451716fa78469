"""Runs untrusted code so that it can neither harm nor fool the process that asked."""

from eco.sandbox.launch import Level
from eco.sandbox.limits import Limits
from eco.sandbox.outcome import Call, Kind, Outcome
from eco.sandbox.sandbox import Sandbox

__all__ = ["Call", "Kind", "Level", "Limits", "Outcome", "Sandbox"]
