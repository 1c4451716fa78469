"""Eco: trains, verifies, self-improves and ships small language and reasoning models on one machine.

Everything that a command does is one call here: `eco.train("demo", {"train.steps": 100})`,
`eco.load("runs/demo").generate("def ")`. Imports nothing until it is used.
"""

import importlib
import os
from typing import Any

__version__ = "0.1.0"

os.environ.setdefault("GOMP_SPINCOUNT", "10000")
"""How often a thread of torch looks for work before it sleeps; torch reads it as it is loaded. GNU OpenMP's own number
keeps a core busy for milliseconds, and where another process wants that core a step takes six times as long."""

_HOMES = {
    "train": "eco.jobs.train",
    "resume": "eco.jobs.train",
    "load": "eco.jobs.load",
    "evaluate": "eco.jobs.evaluate",
    "improve": "eco.jobs.improve",
    "prove": "eco.jobs.prove",
    "compare": "eco.jobs.compare",
    "pack": "eco.jobs.pack",
    "validate": "eco.jobs.validate",
    "pipeline": "eco.jobs.pipeline",
}
"""Public name -> the module that defines it."""

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'eco' has no attribute {name!r}")
