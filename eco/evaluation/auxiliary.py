"""How well the heads of a model's auxiliary losses answer on held-out text, beside what an answer without looking gets.

A loss that falls shows that its head learnt something; these say how much of it reaches text that no training saw.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eco.models.contract import IGNORE, Batch, LanguageModel, evaluating
from eco.models.governance.objectives import ComprehensiveTrainingLoss
from eco.models.governance.terms import Concepts, Continuation, Genre, Reference, View
from eco.models.layers.headed import HeadedModel
from eco.training.precision import Precision

Floats = npt.NDArray[np.floating[Any]]

_Answers = Iterator[tuple[str, Tensor, Tensor]]


@torch.no_grad()
def auxiliary_figures(model: LanguageModel, batches: Iterable[Batch], precision: Precision) -> dict[str, float]:
    """The figures of the heads that `model.objectives` has and of whose labels the `batches` (on the CPU) have some; in
    evaluation mode, without control. A model without objectives has none.

    val_concepts_auroc: area under the ROC curve, mean over the concepts that occur; 0.5 is chance. val_concepts_f1: the
    same of F1, at even odds; val_concepts_f1_always: of whoever always says yes. val_continuation_accuracy: how often
    the true next passage scores highest among all of its batch; val_continuation_chance. val_{book,quarter,genre}
    _accuracy; val_{book,quarter,genre}_majority: of whoever always names the most frequent one.
    """
    objectives = getattr(model, "objectives", None)
    if not isinstance(objectives, ComprehensiveTrainingLoss):
        return {}
    assert isinstance(model, HeadedModel)
    answers: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    with evaluating(model):
        for batch in batches:
            on_device = {name: tensor.to(precision.device) for name, tensor in batch.items()}
            tokens = on_device["tokens"]
            with precision.autocast():
                view = View(model.hidden(tokens), model.embedding(tokens), on_device, model.head_weight)
                for name, scores, truth in _answers(objectives, view):
                    answers[name].append((scores.float().cpu(), truth.cpu()))
    figures: dict[str, float] = {}
    for name, parts in answers.items():
        scores, truth = map(torch.cat, zip(*parts, strict=True))
        if len(truth):
            figures |= _FIGURES[name](name, scores.numpy(), truth.numpy())
    return figures


def _answers(objectives: ComprehensiveTrainingLoss, view: View) -> _Answers:
    """(name, scores, truth) with a row for each question that has an answer."""
    for term in objectives.terms.values():
        if isinstance(term, Concepts) and term.labels <= view.batch.keys():
            logits, real = term.scores(view)
            yield "concepts", logits[real], view.batch["concepts"][real]
        elif isinstance(term, Continuation) and view.hidden.shape[1] >= term.segment:
            logits, targets = term.scores(view)
            known = targets != IGNORE
            right = logits.argmax(-1) == targets
            candidates = (logits > torch.finfo(logits.dtype).min).sum(-1)
            yield "continuation", 1 / candidates[known], right[known]
        elif isinstance(term, Reference) and term.labels <= view.batch.keys():
            for name, entry, logits in zip(("book", "quarter"), ("document", "place"), term.scores(view), strict=True):
                yield name, *_known(logits, view.batch[entry])
        elif isinstance(term, Genre) and term.labels <= view.batch.keys():
            yield "genre", *_known(term.scores(view), view.batch["category"])


def _known(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    known = targets != IGNORE
    return logits[known], targets[known]


def _of_concepts(name: str, scores: Floats, truth: Floats) -> dict[str, float]:
    mixed = (truth.min(0) == 0) & (truth.max(0) == 1)
    if not mixed.any():
        return {}
    scores, truth = scores[:, mixed], truth[:, mixed]
    areas = [auroc(*column) for column in zip(scores.T, truth.T > 0, strict=True)]
    claimed, rates = scores > 0, truth.mean(0)
    f1 = 2 * (claimed * truth).sum(0) / (claimed.sum(0) + truth.sum(0))
    return {
        f"val_{name}_auroc": float(np.mean(areas)),
        f"val_{name}_f1": float(f1.mean()),
        f"val_{name}_f1_always": float((2 * rates / (1 + rates)).mean()),
    }


def _of_continuation(name: str, chances: Floats, right: npt.NDArray[np.bool_]) -> dict[str, float]:
    return {f"val_{name}_accuracy": float(right.mean()), f"val_{name}_chance": float(chances.mean())}


def _of_classes(name: str, logits: Floats, truth: npt.NDArray[np.int64]) -> dict[str, float]:
    return {
        f"val_{name}_accuracy": float((logits.argmax(-1) == truth).mean()),
        f"val_{name}_majority": float(np.bincount(truth).max() / len(truth)),
    }


_FIGURES: dict[str, Any] = {
    "concepts": _of_concepts,
    "continuation": _of_continuation,
    "book": _of_classes,
    "quarter": _of_classes,
    "genre": _of_classes,
}


def auroc(scores: Floats, truth: npt.NDArray[np.bool_]) -> float:
    """The share of pairs (one true, one not) in which the true one scores higher, an equal score counting half.

    scores, truth: (n,), with both kinds in it. By the ranks (Mann and Whitney, 1947).
    """
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # of equal scores, the mean
    trues, others = int(truth.sum()), int((~truth).sum())
    return float((ranks[truth].sum() - trues * (trues + 1) / 2) / (trues * others))
