"""The puzzles' stream: every example slot of every group once per epoch, the whole state one integer."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eco.data.puzzles.store import PuzzleSet
from eco.data.puzzles.stream import PuzzleExamples, PuzzleStream
from eco.data.stream import IGNORE, Batch

Shape = tuple[int, int]


def puzzle_set(shapes: list[Shape]) -> PuzzleSet:
    """Groups of (variants, examples). An example's tokens are its group, variant and number; each puzzle has a row."""
    grids = [
        (g, v, n) for g, (variants, examples) in enumerate(shapes) for v in range(variants) for n in range(examples)
    ]
    sizes = [examples for variants, examples in shapes for _ in range(variants)]
    return PuzzleSet(
        vocab_size=256,
        inputs=np.array(grids, np.uint8),
        labels=np.array([(g, 0, n + 1) for g, _, n in grids], np.uint8),
        puzzle_identifiers=np.arange(1, len(sizes) + 1),
        puzzle_indices=np.cumsum([0, *sizes]),
        group_indices=np.cumsum([0, *(variants for variants, _ in shapes)]),
        identifiers=tuple(map(str, range(len(sizes) + 1))),
    )


def equal(a: Batch, b: Batch) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


SHAPES = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4)), min_size=1, max_size=12)


@given(SHAPES, st.integers(0, 2**40), st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_an_epoch_has_every_slot_of_every_group_once_from_one_variant(
    shapes: list[Shape], seed: int, epoch: int
) -> None:
    stream = PuzzleStream(puzzle_set(shapes), seed)
    assert len(stream) == sum(examples for _, examples in shapes)
    tokens = stream.batch(epoch * len(stream), len(stream))["tokens"].tolist()
    assert sorted((g, n) for g, _, n in tokens) == [(g, n) for g, (_, e) in enumerate(shapes) for n in range(e)]
    assert len({(g, v) for g, v, _ in tokens}) == len(shapes), "one variant of each group"
    assert all(v < shapes[g][0] for g, v, _ in tokens)
    order = [g for g, _, _ in tokens]
    assert order == sorted(order, key=order.index), "the examples of a group lie together"


@given(SHAPES, st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 500), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_a_sample_depends_on_its_index_alone(shapes: list[Shape], cuts: list[int], start: int, seed: int) -> None:
    puzzles = puzzle_set(shapes)
    whole = PuzzleStream(puzzles, seed).batch(start, sum(cuts))
    again = PuzzleStream(puzzles, seed)
    again.batch(17, 3)
    pieces, index = [], start
    for count in cuts:  # as many ranks or steps would read them
        pieces.append(again.batch(index, count))
        index += count
    assert equal(whole, {key: torch.cat([piece[key] for piece in pieces]) for key in whole})


def test_every_variant_has_its_turn_and_every_epoch_its_own_order() -> None:
    puzzles = puzzle_set([(4, 3)] * 50)
    stream = PuzzleStream(puzzles, seed=1)
    epochs = stream.batch(0, 200 * len(stream))["tokens"].view(200, len(stream), 3)
    drawn = Counter(epochs[:, ::3, 1].flatten().tolist())
    assert set(drawn) == {0, 1, 2, 3}
    assert all(abs(count - 2500) < 5 * (10_000 * 0.25 * 0.75) ** 0.5 for count in drawn.values())
    of_one_group = [int(epoch[epoch[:, 0] == 7][0, 1]) for epoch in epochs]
    assert all(abs(of_one_group.count(v) - 50) < 5 * (200 * 0.25 * 0.75) ** 0.5 for v in range(4))
    assert len({tuple(epoch[:, 0].tolist()) for epoch in epochs}) == 200
    assert len({tuple(epoch[epoch[:, 0] == 7][:, 2].tolist()) for epoch in epochs}) == 6, "all orders of three"


def test_the_seed_chooses_the_order() -> None:
    puzzles = puzzle_set([(3, 2)] * 40)
    one, two = (PuzzleStream(puzzles, seed).batch(0, 80) for seed in (1, 2))
    assert not equal(one, two)


def test_a_batch_has_what_a_model_of_puzzles_reads() -> None:
    puzzles = puzzle_set([(2, 2), (3, 1)])
    batch = PuzzleStream(puzzles, seed=0).batch(0, 3)
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
    rows = {(0, 0): 1, (0, 1): 2, (1, 0): 3, (1, 1): 4, (1, 2): 5}
    for (g, v, n), targets, row in zip(*(batch[key].tolist() for key in ("tokens", "targets", "puzzle")), strict=True):
        assert targets == [g or IGNORE, IGNORE, n + 1]
        assert row == rows[g, v]


def test_threads_may_share_a_stream() -> None:
    puzzles = puzzle_set([(3, 2)] * 20)
    alone, shared = PuzzleStream(puzzles, seed=0), PuzzleStream(puzzles, seed=0)
    starts = [37 * k % 1000 for k in range(200)]
    with ThreadPoolExecutor(8) as pool:
        batches = list(pool.map(lambda start: shared.batch(start, 16), starts))
    assert all(equal(batch, alone.batch(start, 16)) for start, batch in zip(starts, batches, strict=True))


def test_examples_lie_in_the_order_of_the_set() -> None:
    puzzles = puzzle_set([(2, 3), (1, 1), (3, 2)])
    examples = PuzzleExamples(puzzles)
    batch = examples.select(np.arange(13))
    assert torch.equal(batch["tokens"], torch.from_numpy(puzzles.inputs.astype(np.int64)))
    where = np.stack([examples.group, examples.variant, examples.example], axis=1)
    assert batch["tokens"].tolist() == where.tolist()
    assert batch["puzzle"].tolist() == [1, 1, 1, 2, 2, 2, 3, 4, 4, 5, 5, 6, 6]


def test_examples_can_be_selected() -> None:
    puzzles = puzzle_set([(2, 3), (1, 1), (3, 2)])
    examples = PuzzleExamples(puzzles)
    base = np.flatnonzero(examples.variant == 0)[::-1]
    batch = examples.select(base)
    assert batch["tokens"].tolist() == puzzles.inputs[base].tolist()
    assert batch["puzzle"].tolist() == [4, 4, 3, 1, 1, 1]
