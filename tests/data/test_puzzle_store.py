"""Puzzle sets on disk: what is written is read, the published layout too, and damage is named."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eco.data.puzzles.store import BLANK, Group, open_set, write_set

LENGTH, VOCAB = 6, 9


def group(variants: int, examples: int, seed: int, names: tuple[str, ...] = ()) -> Group:
    rng = np.random.default_rng(seed)
    inputs, labels = rng.integers(0, VOCAB, (2, variants, examples, LENGTH), dtype=np.uint8)
    return Group(inputs, labels, names)


GROUPS = [group(3, 2, 0, ("a", "a|1", "a|2")), group(1, 1, 1, ("b",)), group(2, 4, 2, ("a", "c"))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_set(tmp_path / "train", iter(GROUPS), vocab_size=VOCAB, length=LENGTH)
    return tmp_path / "train"


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_is_written_is_read(folder: Path) -> None:
    puzzles = open_set(folder)
    assert (puzzles.vocab_size, puzzles.length) == (VOCAB, LENGTH)
    assert puzzles.inputs.tobytes() == b"".join(g.inputs.tobytes() for g in GROUPS)
    assert puzzles.labels.tobytes() == b"".join(g.labels.tobytes() for g in GROUPS)
    assert puzzles.group_indices.tolist() == [0, 3, 4, 6]
    assert puzzles.puzzle_indices.tolist() == [0, 2, 4, 6, 7, 11, 15]
    assert puzzles.identifiers == (BLANK, "a", "a|1", "a|2", "b", "c")
    assert [puzzles.identifiers[row] for row in puzzles.puzzle_identifiers] == ["a", "a|1", "a|2", "b", "a", "c"]


SHAPES = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3), st.booleans()), min_size=1, max_size=6)


@given(SHAPES, st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_any_groups_come_back(shapes: list[tuple[int, int, bool]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = []
    for variants, examples, named in shapes:
        names = tuple(f"n{rng.integers(9)}" for _ in range(variants)) if named else ()
        groups.append(group(variants, examples, int(rng.integers(2**32)), names))
    with TemporaryDirectory() as temporary:
        write_set(Path(temporary) / "set", groups, vocab_size=VOCAB, length=LENGTH)
        puzzles = open_set(Path(temporary) / "set")
        for number, each in enumerate(groups):
            variants, examples, _ = each.inputs.shape
            members = range(puzzles.group_indices[number], puzzles.group_indices[number + 1])
            assert len(members) == variants
            assert [puzzles.identifiers[puzzles.puzzle_identifiers[p]] for p in members] == list(
                each.names or [BLANK] * variants
            )
            rows = slice(puzzles.puzzle_indices[members[0]], puzzles.puzzle_indices[members[-1] + 1])
            assert np.array_equal(puzzles.inputs[rows].reshape(each.inputs.shape), each.inputs)
            assert np.array_equal(puzzles.labels[rows].reshape(each.labels.shape), each.labels)


def test_the_files_are_those_of_the_published_layout(folder: Path) -> None:
    about = json.loads((folder / "dataset.json").read_text())
    assert about == {
        "pad_id": 0, "ignore_label_id": 0, "blank_identifier_id": 0, "vocab_size": VOCAB, "seq_len": LENGTH,
        "num_puzzle_identifiers": 6, "total_groups": 3, "mean_puzzle_examples": 15 / 6, "total_puzzles": 6,
        "sets": ["all"],
    }  # fmt: skip
    inputs = np.load(folder / "all__inputs.npy")
    assert inputs.dtype == np.uint8 and inputs.shape == (15, LENGTH)
    assert not [path for path in folder.parent.iterdir() if path != folder]


def test_the_test_split_has_the_rows_of_the_training_split(folder: Path) -> None:
    train = open_set(folder)
    groups = [group(2, 1, 5, ("c", "new")), group(1, 1, 6)]
    write_set(folder.parent / "test", groups, vocab_size=VOCAB, length=LENGTH, identifiers=train.identifiers)
    test = open_set(folder.parent / "test")
    assert test.identifiers == (*train.identifiers, "new")
    assert test.puzzle_identifiers.tolist() == [5, 6, 0]


def test_sets_of_the_published_builders_are_read(folder: Path) -> None:
    """Theirs have the names one level up, other integers, and totals that Sudoku's builder counts differently."""
    ours = open_set(folder)
    folder = shutil.copytree(folder, folder.parent / "published" / "train")
    shutil.move(folder / "identifiers.json", folder.parent / "identifiers.json")
    for name in ("inputs", "labels"):
        np.save(folder / f"all__{name}.npy", np.load(folder / f"all__{name}.npy").astype(np.int64))
    for name in ("puzzle_indices", "group_indices"):
        np.save(folder / f"all__{name}.npy", np.load(folder / f"all__{name}.npy").astype(np.int32))
    rewrite(folder, total_puzzles=3)
    theirs = open_set(folder)
    assert theirs.identifiers == ours.identifiers
    for name in ("inputs", "labels", "puzzle_identifiers", "puzzle_indices", "group_indices"):
        assert np.array_equal(getattr(theirs, name), getattr(ours, name))
    (folder.parent / "identifiers.json").unlink()
    assert open_set(folder).identifiers == (BLANK, "1", "2", "3", "4", "5")


def test_a_failed_writing_leaves_what_was_there(folder: Path) -> None:
    def groups() -> Iterator[Group]:
        yield GROUPS[1]
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write_set(folder, groups(), vocab_size=VOCAB, length=LENGTH)
    assert len(open_set(folder).inputs) == 15
    assert list(folder.parent.iterdir()) == [folder]
    write_set(folder, GROUPS[:1], vocab_size=VOCAB, length=LENGTH)
    assert len(open_set(folder).inputs) == 6


def test_no_puzzle_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no puzzle to write"):
        write_set(tmp_path / "train", [], vocab_size=VOCAB, length=LENGTH)
    assert not list(tmp_path.iterdir())


def cut_in_half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("name", ["inputs", "labels", "puzzle_identifiers", "puzzle_indices", "group_indices"])
def test_a_missing_or_cut_array_is_named(folder: Path, name: str) -> None:
    path = folder / f"all__{name}.npy"
    cut_in_half(path)
    with pytest.raises(ValueError, match=f"all__{name}.npy: it cannot be read"):
        open_set(folder)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=f"all__{name}.npy: it cannot be read"):
        open_set(folder)
    path.unlink()
    with pytest.raises(ValueError, match=f"all__{name}.npy: it cannot be read"):
        open_set(folder)


@pytest.mark.parametrize(
    ("name", "array", "fault"),
    [
        ("inputs", np.zeros((15, LENGTH)), "2 dimensions of float64"),
        ("inputs", np.zeros(15, np.uint8), "1 dimensions of uint8"),
        ("inputs", np.zeros((14, LENGTH), np.uint8), "labels.npy: its shape is"),
        ("labels", np.zeros((15, LENGTH + 1), np.uint8), r"labels.npy: its shape is \(15, 7\), not \(15, 6\)"),
        ("puzzle_indices", np.array([0, 2, 4, 6, 7, 11, 16]), "puzzle_indices.npy: it does not rise from 0 to 15"),
        ("puzzle_indices", np.array([0, 2, 2, 6, 7, 11, 15]), "puzzle_indices.npy: it does not rise"),
        ("puzzle_indices", np.array([0, 2, 4, 6, 7, 15]), "puzzle_indices.npy: it has 6 entries for 6 puzzles"),
        ("puzzle_indices", np.array([0, 1, 4, 6, 7, 11, 15]), "different numbers of examples"),
        ("group_indices", np.array([0, 3, 4, 7]), "group_indices.npy: it does not rise from 0 to 6"),
        ("group_indices", np.array([], np.int64), "group_indices.npy: it does not rise"),
        ("puzzle_identifiers", np.array([0, 1, 2, 3, 4, 6]), "rows outside of 0 to 5"),
        ("puzzle_identifiers", np.array([0, 1, 2, 3, 4, -1]), "rows outside of 0 to 5"),
    ],
)
def test_arrays_that_do_not_fit_are_named(folder: Path, name: str, array: Any, fault: str) -> None:
    np.save(folder / f"all__{name}.npy", array)
    with pytest.raises(ValueError, match=fault):
        open_set(folder)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"pad_id": 3}, "dataset.json: pad_id"),
        ({"ignore_label_id": None}, "dataset.json: ignore_label_id"),
        ({"seq_len": "long"}, "dataset.json: seq_len"),
        ({"sets": ["all", "more"]}, "dataset.json: sets"),
        ({"num_puzzle_identifiers": 7}, "identifiers.json: it is not a list of 7 names"),
    ],
)
def test_a_description_that_does_not_fit_is_named(folder: Path, changes: dict[str, Any], fault: str) -> None:
    rewrite(folder, **changes)
    with pytest.raises(ValueError, match=fault):
        open_set(folder)


def test_descriptions_that_are_no_json_or_missing_are_named(folder: Path) -> None:
    cut_in_half(folder / "identifiers.json")
    with pytest.raises(ValueError, match=r"identifiers\.json"):
        open_set(folder)
    cut_in_half(folder / "dataset.json")
    with pytest.raises(ValueError, match=r"dataset\.json: Invalid JSON"):
        open_set(folder)
    with pytest.raises(ValueError, match=r"dataset\.json: it cannot be read \(No such file"):
        open_set(folder.parent)
