"""Which of our tensors is which of theirs, read in both directions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Link:
    """Our tensor `ours` is `theirs`, stacked along the first dimension where there are several.

    rows: how many rows of ours each of theirs takes, where there are several.
    transposed: theirs is stored (in, out), as GPT-2's are.
    """

    ours: str
    theirs: tuple[str, ...]
    rows: tuple[int, ...] = ()
    transposed: bool = False


def in_block(number: int, prefix: str, links: Iterable[Link]) -> list[Link]:
    """The links of one block: ours under blocks.NUMBER, theirs under PREFIX.NUMBER."""
    return [
        Link(
            f"blocks.{number}.{link.ours}",
            tuple(f"{prefix}.{number}.{name}" for name in link.theirs),
            link.rows,
            link.transposed,
        )
        for link in links
    ]


def to_ours(links: Iterable[Link], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors under our names.

    Raises:
        ValueError: a tensor is missing, or one is left that no link names.
    """
    left = dict(tensors)
    ours: dict[str, Tensor] = {}
    for link in links:
        missing = [name for name in link.theirs if name not in left]
        if missing:
            raise ValueError(f"the weights lack {', '.join(missing)}, which config.json asks for")
        stacked = torch.cat([left.pop(name) for name in link.theirs])
        ours[link.ours] = stacked.mT if link.transposed else stacked
    if left:
        raise ValueError(f"the weights hold tensors that config.json does not account for: {', '.join(sorted(left))}")
    return ours


def to_theirs(links: Iterable[Link], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under their names, each with memory of its own (safetensors writes no views)."""
    theirs: dict[str, Tensor] = {}
    for link in links:
        tensor = tensors[link.ours].mT if link.transposed else tensors[link.ours]
        parts = torch.split(tensor, list(link.rows)) if link.rows else (tensor,)
        for name, part in zip(link.theirs, parts, strict=True):
            theirs[name] = part.clone(memory_format=torch.contiguous_format)
    return theirs


def required(config: Mapping[str, Any], name: str) -> Any:
    """A value of config.json. Raises ValueError where it is missing."""
    if name not in config:
        raise ValueError(f"config.json lacks {name}")
    return config[name]


def refuse_unless(config: Mapping[str, Any], name: str, supported: tuple[Any, ...]) -> None:
    """Raises ValueError where config.json sets `name` to something else than one of the supported values."""
    if name in config and config[name] not in supported:
        raise ValueError(f"config.json sets {name} to {config[name]!r}; supported: {', '.join(map(repr, supported))}")
