"""The loss document by document: in sum that of `held_out_loss`, each that of a slow sum; the sign of a difference."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_library import prepared, small_library

from eco import plugins
from eco.evaluation import documents
from eco.evaluation.documents import DocumentLosses, document_losses, texts
from eco.evaluation.held_out import held_out_loss, spread
from eco.models.contract import build_model
from eco.training.precision import Precision

FP32, WINDOW = Precision("fp32", torch.device("cpu")), 32


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scripture")
    return prepared(small_library(folder), folder / "cache")


@pytest.fixture(scope="module")
def model(data):
    built = plugins.find("models", "decoder")
    config = built.Config(vocab_size=data.tokenizer.vocab_size, width=32, layers=1, heads=2, context=WINDOW)
    made = build_model(built.build, config, 0, torch.device("cpu"))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return made


def test_in_sum_it_is_the_held_out_loss_and_each_is_a_slow_sum(data, model, monkeypatch):
    monkeypatch.setattr(documents, "_TOKENS", 3 * WINDOW)  # several batches, the last one short
    part, tokenizer = data.stores[0].held_out, data.tokenizer
    found = document_losses(model, part, tokenizer, WINDOW, FP32)
    lengths = torch.from_numpy(tokenizer.token_lengths)
    whole = held_out_loss(model, spread(data.held_out(WINDOW), 4), lengths, FP32)
    assert found.bits_per_byte == pytest.approx(whole["val_bits_per_byte"], rel=1e-5)
    assert found.bits.sum() * np.log(2) / part.targets == pytest.approx(whole["val_loss"], rel=1e-5)
    assert found.bytes.tolist() == [len(text.encode()) for text in texts(part, tokenizer)]

    tokens, nll = torch.from_numpy(part.tokens.astype("int64")), []
    with torch.no_grad():
        for first in range(0, part.targets, WINDOW):
            targets = tokens[first + 1 : first + 1 + WINDOW]
            logits = model(tokens[first : first + len(targets)][None])[0]
            nll += F.cross_entropy(logits.double(), targets, reduction="none").tolist()
    ends = part.documents.tolist()
    slow = [sum(nll[place - 1] for place in range(a, b)) / np.log(2) for a, b in pairwise(ends)]
    np.testing.assert_allclose(found.bits, slow, rtol=1e-5)


def test_a_lower_loss_on_every_document_is_a_difference_below_zero():
    sizes = np.array([100, 300, 50, 80])
    worse = DocumentLosses(np.array([200.0, 700.0, 90.0, 170.0]), sizes)
    better = DocumentLosses(worse.bits - np.array([20.0, 40.0, 5.0, 30.0]), sizes)
    mean, (low, high) = better.over(worse, 0)
    assert mean == pytest.approx(better.bits_per_byte - worse.bits_per_byte)
    assert low <= mean <= high < 0
    back, (lowest, highest) = worse.over(better, 0)
    assert back == -mean and 0 < lowest <= highest
    assert worse.over(worse, 0) == (0.0, (0.0, 0.0))


def test_noise_on_both_sides_is_no_difference():
    bits = np.arange(100.0, 140.0)
    other = DocumentLosses(bits + np.where(np.arange(40) % 2, 3.0, -3.0), np.full(40, 50))
    _, (low, high) = other.over(DocumentLosses(bits, other.bytes), 0)
    assert low < 0 < high
