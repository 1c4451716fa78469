"""The recursive loop on a run's own model and text, for the jobs that call it."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from eco.improvement.config import ImproveConfig
from eco.improvement.learn.student import Student
from eco.improvement.loop import Loop
from eco.improvement.suites import open_suites
from eco.jobs.language import LanguageWork, language_model
from eco.recipe import Recipe
from eco.sandbox import Sandbox
from eco.training.precision import Precision

_FAR = 1 << 32
"""Windows of the corpus from this number on are the loop's: training never comes to them, so that what a round reads
does not depend on how long the training before it was."""


def open_loop(
    config: ImproveConfig,
    work: LanguageWork,
    recipe: Recipe,
    precision: Precision,
    folder: Path,
    closing: ExitStack,
    say: Callable[[str], None],
) -> Loop:
    """The loop whose files lie in `folder`; `closing` ends its sandbox.

    Raises:
        ValueError: the tasks or the sandbox cannot be had, or what lies in the folder is damaged.
    """
    if precision.scaler.is_enabled():
        raise ValueError("the loop does not scale its losses, which fp16 needs; take --precision bf16 or fp32")
    suites = open_suites(config, work.tokenizer, work.model.config.context)
    sandbox = closing.enter_context(Sandbox(config.sandbox))
    student = Student(
        model=work.model,
        tokenizer=work.tokenizer,
        precision=precision,
        optimizer=recipe.optimizer,
        corpus=lambda index, count: work.batch(_FAR + index, count),
        held_out=lambda: work.measure(recipe.train.batch_size, precision),
        rebuild=lambda: language_model(recipe, work.tokenizer, precision.device),
    )
    return Loop(config, student, suites, sandbox, folder, say)
