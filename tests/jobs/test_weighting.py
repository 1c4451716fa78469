"""`data.weighting: metadata`: each document weighs in the gradient as its metadata say, and in nothing else."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small_library import BOOKS, book_of, prepared, small_library
from small_run import TINY, read_rows

import eco as package
from eco import plugins
from eco.jobs import language
from eco.models.contract import build_model
from eco.models.governance.objectives import AuxiliaryConfig

GPT2 = TINY.replace("family: decoder", "family: gpt2").replace("name: muon", "name: adamw")


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    return small_library(tmp_path_factory.mktemp("scripture"))


def train(folder: Path, library: Path, name: str, recipe: str = GPT2, **settings):
    """The rows of a run of two steps."""
    path = folder / f"{name}.yaml"
    path.write_text(recipe + f"data: {{paths: ['library:{library}'], held_out: 0.2}}\n")
    package.train(str(path), {"train.steps": 2, "output_dir": str(folder / name), **settings})
    return read_rows(folder / name)


def test_an_epoch_of_gradients_is_that_of_the_weighted_mean_over_documents(library, tmp_path):
    """The sum of w_i nll_i over that of w_i ntok_i, written out in float64."""
    data, window = prepared(library, tmp_path), 32
    config = plugins.find("models", "gpt2").Config(
        vocab_size=data.tokenizer.vocab_size, width=32, layers=1, heads=2, context=window, dropout=0.0
    )
    model = build_model(plugins.find("models", "gpt2").build, config, 0, torch.device("cpu"))
    stream, count, rows = data.labelled_stream(window, frozenset(), "metadata"), len(data.stream(window)), 9
    total = 0.0
    for first in range(0, count, rows):
        batch = stream.batch(first, min(rows, count - first))
        output = model.training_step(batch)
        share = (batch["targets"] != -100).sum() / data.stream(window).targets
        (output.losses["lm"] * share).backward()
        total += output.losses["lm"].item() * share.item()
    found = {name: parameter.grad.double() for name, parameter in model.named_parameters()}

    model.zero_grad()
    model.double()
    part = data.stores[0].training
    tokens, ends = torch.from_numpy(part.tokens.astype("int64")), part.documents.tolist()
    books = [BOOKS[book_of(data.tokenizer.decode(tokens[a:b].tolist()))[0]] for a, b in pairwise(ends)]
    weights = [(1 + 0.1 * (book.alignment - 7)) * (1 + 0.05 * (book.quality - 8)) for book in books]
    losses = []
    for first in range(0, part.targets, window):
        targets = tokens[first + 1 : first + 1 + window]
        logits = model(tokens[first : first + len(targets)][None])[0]
        losses.append(F.cross_entropy(logits, targets, reduction="none"))
    nll = torch.cat(losses).split([b - a for a, b in pairwise(ends)])
    pairs = list(zip(weights, nll, strict=True))
    loss = sum(w * x.sum() for w, x in pairs) / sum(w * len(x) for w, x in pairs)
    loss.backward()
    assert total == pytest.approx(loss.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_held_out_loss_is_not_weighted_and_the_plain_loss_of_training_is_told(library, tmp_path):
    plain = train(tmp_path, library, "plain")
    weighted = train(tmp_path, library, "weighted", **{"data.weighting": "metadata"})
    assert weighted[0]["val_loss"] == plain[0]["val_loss"] and weighted[0]["val_tokens"] == plain[0]["val_tokens"]
    first, other = plain[1], weighted[1]
    assert other["lm_unweighted"] == pytest.approx(first["loss"], rel=1e-6), "the same weights and samples"
    assert other["loss"] != pytest.approx(first["loss"], rel=1e-4)
    assert "lm_unweighted" not in first
    parts = {"data.weighting": "metadata", "train.batch_size": 1, "train.accumulation": 4}
    accumulated = train(tmp_path, library, "parts", **parts)[1]
    assert accumulated["loss"] == pytest.approx(other["loss"], rel=1e-5)
    assert accumulated["lm_unweighted"] == pytest.approx(other["lm_unweighted"], rel=1e-5), "of all micro-batches"


def test_a_corpus_without_metadata_is_refused(corpus, tmp_path):
    path = tmp_path / "plain.yaml"
    path.write_text(GPT2 + f"data: {{paths: ['{corpus}'], weighting: metadata}}\n")
    with pytest.raises(ValueError, match=r"data\.weighting is metadata, but the corpus does not tell the quality"):
        package.train(str(path), {"output_dir": str(tmp_path / "run")})


class Heads(AuxiliaryConfig):
    """Of a model that tells two books apart."""

    family: str = "heads"
    books: int = 2


def test_heads_with_too_few_classes_are_refused(library, tmp_path):
    data = prepared(library, tmp_path)
    with pytest.raises(ValueError, match=r"model\.books is 2, but the library needs 3; raise it"):
        language._check_classes(Heads(), data, frozenset({"document", "category"}))
    language._check_classes(Heads(), data, frozenset({"category"}))
