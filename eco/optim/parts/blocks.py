"""The blocks of a model's parameters: contiguous runs of elements that an optimizer may treat as units."""

from collections.abc import Iterable, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn


def blocks_of(model: nn.Module, size: int = 4096) -> dict[nn.Parameter, Tensor]:
    """Where the blocks of each trainable parameter begin, in its flattened elements: (blocks + 1,) int64, from 0 to n.

    A layer that knows its units tells the rows of each in `unit_rows`: the heads of an attention's queries, keys and
    values, the heads of a Mamba layer's input, the matrices of each expert. Each of them is a block, whatever its size.
    Elsewhere a block is as many whole rows as fit into `size` elements, or `size` elements where one row does not fit.
    A parameter without elements has no block and is left out.

    Raises:
        ValueError: `unit_rows` does not add up to the rows of the weight.
    """
    units: dict[nn.Parameter, Sequence[int]] = {}
    for name, module in model.named_modules():
        if rows := getattr(module, "unit_rows", ()):
            weight = module.get_parameter("weight")
            if sum(rows) != len(weight):
                raise ValueError(f"{name}.unit_rows is {rows}, but the weight has {len(weight)} rows")
            units[weight] = rows
    return {p: _offsets(p, units.get(p, ()), size) for p in model.parameters() if p.requires_grad and p.numel()}


def _offsets(parameter: nn.Parameter, unit_rows: Sequence[int], size: int) -> Tensor:
    count = parameter.numel()
    row = count // len(parameter) if parameter.ndim else 1
    if unit_rows:
        begins: Iterable[int] = accumulate((rows * row for rows in unit_rows), initial=0)
    else:
        begins = (*range(0, count, size // row * row or size), count)
    return torch.tensor(tuple(begins))
