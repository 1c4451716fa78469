"""What search at test time brings: held-out accuracy by the number of paths."""

import torch

from eco.data.puzzles.stream import PuzzleExamples
from eco.evaluation.puzzles import batches
from eco.inference.search import Search, search
from eco.models.contract import IGNORE, RecursiveModel, evaluating
from eco.training.precision import Precision


def accuracy_by_paths(
    model: RecursiveModel, examples: PuzzleExamples, settings: Search, batch: int, precision: Precision
) -> dict[str, float]:
    """Exact accuracy over the held-out puzzles of the best of 1, 2, 4, ... paths, up to `settings.latent_num_paths`.

    The paths of a smaller number are the first of a larger one. batch: puzzles solved at a time.

    Raises:
        ValueError: there is no puzzle.
    """
    solved: dict[str, int] = {}
    puzzles = 0
    with evaluating(model):
        for _, rows in batches(examples, batch):
            tokens, targets, puzzle = (rows[name].to(precision.device) for name in ("tokens", "targets", "puzzle"))
            with torch.no_grad(), precision.autocast():
                found = search(model, tokens, puzzle, model.max_steps, settings)
            for paths, step in found.by_paths.items():
                right = ((step.answers == targets) | (targets == IGNORE)).all(1)
                solved[str(paths)] = solved.get(str(paths), 0) + int(right.sum())
            puzzles += len(tokens)
    if not puzzles:
        raise ValueError("there is no puzzle to measure on; give more puzzles, or a larger data.held_out_puzzles")
    return {paths: count / puzzles for paths, count in solved.items()}
