"""The figures of the auxiliary heads: areas by counting pairs, the rest by counting answers."""

import numpy as np
import pytest
import torch
from torch import nn

from eco import plugins
from eco.data.concepts import CONCEPTS, STRIDE
from eco.evaluation.auxiliary import auroc, auxiliary_figures
from eco.models.contract import IGNORE, Batch, build_model
from eco.models.decoder import Config as Trunk
from eco.models.governance.objectives import AuxiliaryConfig, ComprehensiveTrainingLoss
from eco.models.layers.init import init_transformer
from eco.training.precision import Precision

CPU = Precision("fp32", torch.device("cpu"))
WIDTH, LENGTH = 16, 64


class Config(AuxiliaryConfig):
    family: str = "pupil"
    width: int = WIDTH


def slow_auroc(scores: np.ndarray, truth: np.ndarray) -> float:
    pairs = [(a > b) + (a == b) / 2 for a in scores[truth] for b in scores[~truth]]
    return sum(pairs) / len(pairs)


@pytest.mark.parametrize("distinct", [2, 7, 1000])
def test_the_area_is_the_share_of_pairs_in_order(distinct: int) -> None:
    dice = np.random.default_rng(distinct)
    truth = dice.random(80) < 0.3
    scores = dice.integers(0, distinct, 80) + truth * distinct / 4
    assert auroc(scores, truth) == pytest.approx(slow_auroc(scores, truth))
    assert auroc(truth * 1.0, truth) == 1 and auroc(-1.0 * truth, truth) == 0 and auroc(0.0 * truth, truth) == 0.5


def pupil(**weights: float) -> nn.Module:
    config = Trunk(vocab_size=40, context=LENGTH, width=WIDTH, layers=1, heads=2)
    model = build_model(plugins.find("models", "decoder").build, config, 0, torch.device("cpu"))
    model.objectives = ComprehensiveTrainingLoss(Config(**weights, books=5, genres=3))
    init_transformer(model.objectives, 1, torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in model.objectives.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return model.train()


def batch(rows: int, seed: int) -> Batch:
    g = torch.Generator().manual_seed(seed)
    text = torch.randint(40, (rows, LENGTH + 1), generator=g)
    targets = text[:, 1:].clone()
    targets[-1, 40:] = IGNORE
    labels = {
        "document": torch.randint(5, (rows,), generator=g),
        "place": torch.randint(4, (rows,), generator=g),
        "category": torch.randint(3, (rows,), generator=g),
    }
    for label in labels.values():
        label[0] = IGNORE
    prefix = torch.full((rows,), 12)
    prefix[0] = 0
    concepts = (torch.rand(rows, LENGTH // STRIDE, len(CONCEPTS), generator=g) < 0.3).float()
    concepts[..., 5], concepts[..., 6] = 0, 1  # a concept that never occurs, one that always does
    return {"tokens": text[:, :-1], "targets": targets, "concepts": concepts, "prefix": prefix, **labels}


ALL = dict.fromkeys(("concept_weight", "continuation_weight", "reference_weight", "genre_weight"), 1.0)


@torch.no_grad()
def test_figures_are_those_counted_one_by_one() -> None:
    model, batches = pupil(**ALL), [batch(6, 3), batch(4, 4)]
    found = auxiliary_figures(model, batches, CPU)
    assert model.training
    terms = model.eval().objectives.terms
    answers: dict[str, list[tuple[int, int]]] = {"book": [], "quarter": [], "genre": []}
    yes, truth, passages, chances = [], [], [], []
    for part in batches:
        hidden, embedded = model.hidden(part["tokens"]), model.embedding(part["tokens"])
        for b in range(len(hidden)):
            for p in range(LENGTH // STRIDE):
                if part["targets"][b, (p + 1) * STRIDE - 1] != IGNORE:
                    yes.append(terms["concepts"].head(hidden[b, (p + 1) * STRIDE - 1]).numpy())
                    truth.append(part["concepts"][b, p].numpy() > 0)
            if part["prefix"][b]:
                state = hidden[b, :12].mean(0)
                reference = terms["reference"].head(state)
                answers["book"].append((int(reference[:5].argmax()), int(part["document"][b])))
                answers["quarter"].append((int(reference[5:].argmax()), int(part["place"][b])))
                answers["genre"].append((int(terms["genre"].head(state).argmax()), int(part["category"][b])))
        keys = [(b, s) for b in range(len(hidden)) for s in (0, 1) if (b, s) != (len(hidden) - 1, 1)]
        for b in range(len(hidden) - 1):
            query = terms["continuation"].query(hidden[b, :32].mean(0))
            near = []
            for other, s in keys:
                key = terms["continuation"].key(embedded[other, 32 * s : 32 * s + 32].mean(0))
                near.append(torch.cosine_similarity(query, key, dim=0))
            passages.append(keys[int(torch.stack(near).argmax())] == (b, 1))
            chances.append(1 / len(keys))
    scores, spoken = np.stack(yes), np.stack(truth)
    mixed = [c for c in range(len(CONCEPTS)) if c not in (5, 6)]
    expected = {
        "val_concepts_auroc": np.mean([slow_auroc(scores[:, c], spoken[:, c]) for c in mixed]),
        "val_concepts_f1": np.mean(
            [2 * ((s := scores[:, c] > 0) & spoken[:, c]).sum() / (s.sum() + spoken[:, c].sum()) for c in mixed]
        ),
        "val_concepts_f1_always": np.mean([2 * spoken[:, c].mean() / (1 + spoken[:, c].mean()) for c in mixed]),
        "val_continuation_accuracy": np.mean(passages),
        "val_continuation_chance": np.mean(chances),
    }
    for name, pairs in answers.items():
        truths = [t for _, t in pairs]
        expected[f"val_{name}_accuracy"] = np.mean([a == t for a, t in pairs])
        expected[f"val_{name}_majority"] = max(truths.count(t) for t in truths) / len(truths)
    assert found == pytest.approx(expected)


def test_what_is_not_there_has_no_figure() -> None:
    plain = [{name: part[name] for name in ("tokens", "targets")} for part in [batch(4, 5)]]
    assert set(auxiliary_figures(pupil(**ALL), plain, CPU)) == {"val_continuation_accuracy", "val_continuation_chance"}
    assert auxiliary_figures(pupil(), [batch(4, 5)], CPU) == {}
    without = pupil()
    del without.objectives
    assert auxiliary_figures(without, [batch(4, 5)], CPU) == {}
    unknown = batch(4, 5)
    unknown["category"][:] = IGNORE
    assert auxiliary_figures(pupil(genre_weight=1.0), [unknown], CPU) == {}
