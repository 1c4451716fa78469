"""Counterfactual credit on a run's own model and held-out text, for the job that trains."""

import torch

from eco.jobs.language import LanguageWork
from eco.jobs.work import Work
from eco.models.contract import Batch
from eco.optim.c3o import C3O
from eco.optim.parts.roles import Role, roles
from eco.recipe import Recipe
from eco.training.credit import Credit
from eco.training.precision import Precision
from eco.training.probe import Probe


def open_credit(recipe: Recipe, work: Work, optimizer: torch.optim.Optimizer, precision: Precision) -> Credit:
    """The credit of the optimizer's blocks, measured on held-out windows that evaluation leaves.

    Embedding and head are not compared: how much of what the rows of a token learnt holds for other text is how often
    the token occurs there, and rare tokens would learn less.

    Raises:
        ValueError: the run is on puzzles or in fp16, evaluation leaves too few windows, or no tensor has two blocks.
    """
    if not isinstance(work, LanguageWork):
        raise ValueError("c3o credit is measured on text; set --no-c3o-credit-enabled for a model of puzzles")
    if precision.scaler.is_enabled():
        raise ValueError("c3o credit does not scale its loss, which fp16 needs; take --precision bf16 or fp32")
    assert isinstance(optimizer, C3O), "the recipe refuses credit for another"
    text = work.unmeasured(recipe.credit.windows)

    def windows(index: int, count: int) -> Batch:
        return {name: tensor.to(precision.device) for name, tensor in text.batch(index, count).items()}

    exact = Probe(work.model, Precision("fp32", precision.device), rows=1)
    compared = {p for p, role in roles(work.model).items() if role not in (Role.EMBEDDING, Role.HEAD)}
    return Credit(optimizer, exact, windows, compared, recipe.credit, recipe.train.seed)
