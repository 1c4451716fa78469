"""Flags that are no settings of a recipe: other ways of writing one, and names whose feature is not built yet.

`recipes/interface.toml` lists them, so that a file of flags stays usable while features are still to come. A flag whose
feature is not built is accepted, kept as text in the recipe (`inactive_flags`) and shown when training starts.
"""

import shlex
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from eco.flags import FROM_PYTHON, SHIPPED, Flag, parse


class Interface(NamedTuple):
    """What `interface.toml` says; names are without leading dashes.

    aliases: name -> the words that it stands for. switches: name of an on/off flag -> the state in force. settings:
    name of a flag with a value -> the value in force, None if there is none.
    """

    aliases: Mapping[str, str]
    switches: Mapping[str, bool]
    settings: Mapping[str, str | None]

    def names(self) -> list[str]:
        """Every name that is not a setting."""
        return [*self.aliases, *self.switches, *self.settings]


@cache
def table() -> Interface:
    """What ships with the package."""
    read: dict[str, Any] = tomllib.loads((SHIPPED / "interface.toml").read_text(encoding="utf-8"))
    always = read["always"]
    return Interface(
        aliases=read["aliases"],
        switches={name: False for area in read["switches"].values() for name in area}
        | {name: state for name, state in always.items() if isinstance(state, bool)},
        settings={name: None for area in read["settings"].values() for name in area}
        | {name: value for name, value in always.items() if isinstance(value, str)},
    )


def split(flags: Sequence[Flag]) -> tuple[list[Flag], dict[str, str]]:
    """(the flags that set something, every flag's name -> its text if nothing is behind it, else an empty string).

    Of two flags of one name the later counts: its entry, empty or not, is what `inactive` puts over earlier ones.

    Raises:
        ValueError: a value is missing, or is given to an on/off flag.
    """
    active: list[Flag] = []
    wishes: dict[str, str] = {}
    for flag in map(_expanded, flags):
        words = _unfulfilled(flag)
        if words is None:
            active.append(flag)
        wishes[_key(flag.name)] = words or ""
    return active, wishes


def inactive(earlier: Sequence[str], wishes: Mapping[str, str]) -> tuple[str, ...]:
    """The texts of flags that have no effect: `earlier` ones, overridden name by name by `wishes` (of `split`)."""
    known = {_key(words.split()[0].removeprefix("--")): words for words in earlier}
    return tuple(words for words in {**known, **wishes}.values() if words)


def _expanded(flag: Flag) -> Flag:
    words = table().aliases.get(flag.name)
    if words is None:
        return flag
    (meant,) = parse(shlex.split(words), f"--{flag.name} on {flag.origin}")
    if meant.value is None:
        return Flag(meant.name, flag.value, flag.origin)
    if flag.value not in (None, True):
        raise ValueError(f"--{flag.name} on {flag.origin} takes no value; it stands for {words}")
    return meant


def _unfulfilled(flag: Flag) -> str | None:
    """The flag as text if its feature is not built, "" if it asks for what is in force anyway; None if it sets
    something."""
    known = table()
    if _key(flag.name) in known.switches:
        return _switch(flag, known.switches[_key(flag.name)])
    return _setting(flag, known.settings[flag.name]) if flag.name in known.settings else None


def _switch(flag: Flag, state: bool) -> str:
    if not (flag.value is None or isinstance(flag.value, bool)):
        raise ValueError(f"--{flag.name} on {flag.origin} takes no value; it is on or, with --no- before it, off")
    wanted = (flag.value is not False) != flag.name.startswith("no-")
    return "" if wanted == state else f"--{'' if wanted else 'no-'}{_key(flag.name)}"


def _setting(flag: Flag, in_force: str | None) -> str:
    if flag.value is None:
        raise ValueError(f"--{flag.name} on {flag.origin} needs a value")
    if in_force is None:
        return f"--{flag.name}"
    value = _value(flag)
    return "" if value == in_force else f"--{flag.name} {value}"


def _value(flag: Flag) -> str:
    return str(flag.value) if flag.origin == FROM_PYTHON else " ".join(flag.value or [])


def _key(name: str) -> str:
    """`no-x` and `x` name the same flag."""
    return name.removeprefix("no-")
