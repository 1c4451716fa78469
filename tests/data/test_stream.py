"""The stream: every token a target once per epoch, the whole state one integer."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eco.data.order import Mixture, Permutation
from eco.data.prefetch import prefetch
from eco.data.store import Part
from eco.data.stream import IGNORE, Batch, Stream, Windows
from eco.data.tokenizer import Tokenizer


def part_of(targets: int, first: int = 100) -> Part:
    """A part whose target k is the id `first` + k, so that every target can be told apart."""
    tokens = np.concatenate([[0], np.arange(first, first + targets)]).astype(np.uint16)
    return Part(tokens, np.array([1, len(tokens)]), targets)


def equal(a: Batch, b: Batch) -> bool:
    return all(torch.equal(a[key], b[key]) for key in ("tokens", "targets"))


@given(st.integers(1, 3000), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_a_permutation_reaches_every_index_once(size: int, key: int) -> None:
    image = Permutation(size, (key, 1))(np.arange(size))
    assert sorted(image.tolist()) == list(range(size))


def test_a_permutation_shuffles_and_depends_on_its_key() -> None:
    size = 10_000
    images = [Permutation(size, (seed, 0))(np.arange(size)) for seed in range(3)]
    for image in images:
        assert abs(np.corrcoef(np.arange(size), image)[0, 1]) < 0.05
        assert (np.diff(image) == 1).mean() < 0.002, "neighbours must part"
    assert (images[0] == images[1]).mean() < 0.01 and (images[1] == images[2]).mean() < 0.01


@pytest.mark.parametrize("targets", [1, 7, 8, 9, 160, 163])
def test_every_target_occurs_once_per_epoch(tokenizer: Tokenizer, targets: int) -> None:
    part, window = part_of(targets), 8
    stream = Stream([part], window, tokenizer, seed=3)
    n = len(stream)
    assert n == -(-targets // window)
    orders = []
    for epoch in range(3):
        batch = stream.batch(epoch * n, n)
        assert batch["tokens"].shape == batch["targets"].shape == (n, window)
        assert batch["tokens"].dtype == batch["targets"].dtype == torch.int64
        seen = batch["targets"][batch["targets"] != IGNORE]
        assert sorted(seen.tolist()) == list(range(100, 100 + targets))
        assert (batch["targets"] == IGNORE).sum() == n * window - targets
        orders.append(batch["targets"][:, 0].tolist())
    if n > 5:
        assert orders[0] != orders[1] != orders[2], "every epoch has its own order"
        assert orders[0] != sorted(orders[0])


def test_targets_are_inputs_shifted_and_padding_is_padding(tokenizer: Tokenizer) -> None:
    batch = Stream([part_of(20)], 8, tokenizer, seed=0).batch(0, 3)
    for tokens, targets in zip(batch["tokens"].tolist(), batch["targets"].tolist(), strict=True):
        real = sum(target != IGNORE for target in targets)
        assert tokens[1:real] == targets[: real - 1]
        assert tokens[0] == (0 if targets[0] == 100 else targets[0] - 1)
        assert tokens[real:] == [tokenizer.pad] * (8 - real)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 500), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_a_sample_depends_on_its_index_alone(tokenizer: Tokenizer, cuts: list[int], start: int, seed: int) -> None:
    parts = [part_of(163), part_of(50, first=1000)]
    stream = Stream(parts, 8, tokenizer, seed, weights=(2.0, 1.0))
    whole = stream.batch(start, sum(cuts))
    again = Stream(parts, 8, tokenizer, seed, weights=(2.0, 1.0))
    pieces, index = [], start
    for count in cuts:  # as many ranks or steps would read them
        pieces.append(again.batch(index, count))
        index += count
    assert equal(whole, {key: torch.cat([piece[key] for piece in pieces]) for key in whole})


def test_the_seed_chooses_the_order(tokenizer: Tokenizer) -> None:
    one, two = (Stream([part_of(800)], 8, tokenizer, seed).batch(0, 100) for seed in (1, 2))
    assert not equal(one, two)


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 1.0), (0.7, 0.2, 0.1), (1, 2, 3, 0.01), (1 / 3, 1 / 3, 1 / 3)])
def test_a_mixture_is_exact_and_evenly_spread(weights: tuple[float, ...]) -> None:
    mixture = Mixture(weights)
    stores, turns = mixture(np.arange(3 * Mixture.PERIOD))
    for store, weight in enumerate(weights):
        mine = stores == store
        expected = 3 * Mixture.PERIOD * weight / sum(weights)
        assert abs(mine.sum() - expected) < 3 * 1.0
        assert turns[mine].tolist() == list(range(mine.sum())), "each store is read in its own order, without a gap"
        running = np.cumsum(mine) - np.arange(1, len(mine) + 1) * weight / sum(weights)
        assert np.abs(running).max() < len(weights) + 3, "at every moment near its share"


def test_a_weight_of_next_to_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="below a thousandth"):
        Mixture([1.0, 1e-6])


def test_each_store_of_a_mixture_has_its_own_epochs(tokenizer: Tokenizer) -> None:
    small, large = part_of(16), part_of(400, first=1000)  # 2 and 50 windows
    stream = Stream([small, large], 8, tokenizer, seed=0, weights=(1.0, 1.0))
    targets = stream.batch(0, 100)["targets"]
    assert sorted(targets[targets >= 1000].tolist()) == list(range(1000, 1400))
    assert torch.bincount(targets[targets < 1000] - 100).tolist() == [25] * 16


def test_a_corpus_smaller_than_a_batch_says_what_is_there_and_what_is_needed(tokenizer: Tokenizer) -> None:
    stream = Stream([part_of(100)], 8, tokenizer, seed=0)
    stream.check_batch(13)
    with pytest.raises(ValueError, match=r"14 samples of 8 tokens \(112 tokens\).* 100 tokens \(13 samples\)"):
        stream.check_batch(14)


def test_windows_cover_every_token_and_byte_once(tokenizer: Tokenizer) -> None:
    text = "def f(x):\n    return '☃' * x\n" * 9
    tokens = np.array([0, *tokenizer.encode(text), 0], dtype=np.uint16)
    windows = Windows(Part(tokens, np.array([1, len(tokens)]), len(text.encode())), 16, tokenizer)
    batches = [windows.batch(index, 4) for index in range(0, len(windows), 4)]
    targets = torch.cat([batch["targets"] for batch in batches]).flatten()
    assert targets[targets != IGNORE].tolist() == tokens[1:].tolist(), "in the order of the text"
    assert len(targets) == len(windows) * 16
    assert tokenizer.token_lengths[targets[targets != IGNORE].numpy()].sum() == len(text.encode())


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_number_of_workers_does_not_show(tokenizer: Tokenizer, workers: int) -> None:
    stream = Stream([part_of(500)], 8, tokenizer, seed=0)
    batches = prefetch(stream, start=5, count=4, stride=8, workers=workers, ahead=3)
    for step in range(30):
        assert equal(next(batches), stream.batch(5 + 8 * step, 4))
    batches.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_a_worker_arrives_at_its_batch(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    stream = Stream([part_of(500)], 8, tokenizer, seed=0)
    read = stream.batch

    def broken(index: int, count: int) -> Batch:
        if index == 8:
            raise OSError("the disk is gone")
        return read(index, count)

    monkeypatch.setattr(stream, "batch", broken)
    batches = prefetch(stream, 0, 4, workers=workers)
    next(batches), next(batches)
    with pytest.raises(OSError, match="disk is gone"):
        next(batches)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]
