"""Which parameter has which role in a model: what decides who may orthogonalise it.

A role is told by the kind of module that owns a parameter and by the place of that module in its model, never by a part
of a name. What nothing here names is stepped element by element: norms, biases, gains, scales and Mamba's vectors of
each head, however many dimensions they have.
"""

from enum import Enum

from torch import nn

from eco.optim.contract import tables

HEADS = ("head", "halt_head")
"""Attributes under which a model keeps the layers that its answer is read from, by tokens or by yes and no."""


class Role(Enum):
    """What a parameter is."""

    MATRIX = "weight of a linear layer between embedding and head"
    EMBEDDING = "rows that tokens or positions look up, also where a head is tied to them"
    HEAD = "weight of a layer that an answer is read from"
    TABLE = "rows that puzzles look up, with sparse gradients"
    ELEMENTS = "anything else"


def roles(model: nn.Module) -> dict[nn.Parameter, Role]:
    """The role of every parameter of `model`. A router's scores are linear, if of few rows, and so a matrix."""
    found = dict.fromkeys(model.parameters(), Role.ELEMENTS)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            is_head = name.rpartition(".")[2] in HEADS
            found[module.get_parameter("weight")] = Role.HEAD if is_head else Role.MATRIX
    for module in model.modules():  # after the heads, which may be tied to one
        if isinstance(module, nn.Embedding):
            found[module.get_parameter("weight")] = Role.EMBEDDING
    return found | dict.fromkeys(tables(model), Role.TABLE)


def hidden_matrices(model: nn.Module, largest: int | None = None) -> dict[nn.Parameter, tuple[int, ...]]:
    """The trainable matrices of `model` with two or more rows and columns, each with the rows of those that it stacks.

    A module that computes several projections with one matrix, such as queries, keys and values, or the experts of a
    mixture, tells their rows in `row_blocks`; each block is a matrix by itself, so that none of them owes its update's
    size to the others' gradients.

    largest: leaves out what stacks a matrix with a longer side. None takes all.

    Raises:
        ValueError: `row_blocks` does not add up to the rows of the weight.
    """
    role = roles(model)
    found: dict[nn.Parameter, tuple[int, ...]] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        weight = module.get_parameter("weight")
        if role[weight] is not Role.MATRIX or not weight.requires_grad or min(weight.shape) < 2:
            continue
        blocks = tuple(getattr(module, "row_blocks", (len(weight),)))
        if sum(blocks) != len(weight):
            raise ValueError(f"{name}.row_blocks is {blocks}, but the weight has {len(weight)} rows")
        if largest is None or max(weight.shape[1], *blocks) <= largest:
            found[weight] = blocks
    return found
