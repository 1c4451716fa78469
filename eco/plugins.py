"""Finds the file that implements a name: `find("models", "gpt2")` is the module `eco.models.gpt2`.

A new architecture, optimizer or data source is one file in its room; nothing registers it. In each such room the file
`contract.py` and the sub-packages are shared ground and not plug-ins.
"""

import importlib
import pkgutil
from types import ModuleType

from eco.config import nearest


def names(room: str) -> list[str]:
    """The plug-ins of a room (`"models"`, `"data.sources"`), sorted."""
    package = importlib.import_module(f"eco.{room}")
    found = pkgutil.iter_modules(package.__path__)
    return sorted(m.name for m in found if not m.ispkg and m.name != "contract")


def find(room: str, name: str) -> ModuleType:
    """The module of one plug-in.

    Raises:
        ValueError: no file of that name; the message lists what there is.
    """
    known = names(room)
    if name not in known:
        raise ValueError(
            f"no {name!r} in eco/{room.replace('.', '/')}{nearest(name, known)}; there is: {', '.join(known)}"
        )
    return importlib.import_module(f"eco.{room}.{name}")
