"""The task: its splits, what it reads, and its verdicts."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from eco.data.puzzles.store import Group
from eco.plugins import find
from eco.tasks.puzzles.grids.sudoku_board import BOARDS
from eco.tasks.puzzles.grids.sudoku_generator import Wanted, generate
from eco.tasks.puzzles.grids.sudoku_solver import solve
from eco.tasks.puzzles.grids.sudoku_symmetry import draw, invariant
from eco.tasks.puzzles.sudoku import Config, Sudokus, build

SMALL = {"size": 4, "most_clues": 12, "puzzles": 600, "held_out_puzzles": 100}
PUZZLE = "1.3.\n.4.2\n.1..\n4..."  # of 4x4, with one solution


def task(**changes: object) -> Sudokus:
    return build(Config(**changes))


def base(groups: list[Group]) -> tuple[np.ndarray, np.ndarray]:
    """Digits of the base puzzles and their solutions, (G, L) each."""
    return tuple(np.stack([array[0, 0] for array in arrays]) - np.uint8(1) for arrays in _columns(groups))


def _columns(groups: list[Group]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [group.inputs for group in groups], [group.labels for group in groups]


def all_images(puzzle: np.ndarray) -> set[bytes]:
    """Every 4x4 puzzle that the symmetries make of one, by hand: 2 x 8 x 8 moves and 24 names."""
    square = puzzle.reshape(4, 4)
    lines = [(*a, *b) for a, b in itertools.product([(0, 1), (1, 0)], [(2, 3), (3, 2)])]
    lines += [line[2:] + line[:2] for line in lines]
    names = np.array([(0, *names) for names in itertools.permutations(range(1, 5))], dtype=np.uint8)
    images: set[bytes] = set()
    for rows, columns in itertools.product(lines, lines):
        moved = square[np.ix_(rows, columns)]
        images |= {named.tobytes() for form in (moved, moved.T) for named in names[:, form]}
    return images


def test_it_is_found_by_name() -> None:
    assert find("tasks.puzzles", "sudoku").Config is Config
    sudokus = task(size=6)
    assert (sudokus.shape, sudokus.vocab_size, sudokus.attempts) == ((6, 6), 8, 1)
    assert task().vocab_size == 11


def test_no_held_out_small_puzzle_is_in_the_training_in_any_form() -> None:
    sudokus = task(**SMALL)
    train = {puzzle.tobytes() for puzzle in base([*sudokus.groups("train")])[0]}
    tests = base([*sudokus.groups("test")])[0]
    assert len(train) == 600
    assert len(tests) == 100
    seen: set[bytes] = set()
    for puzzle in tests:
        assert puzzle.tobytes() not in seen  # nor in the test twice
        seen |= all_images(puzzle)
    assert not seen & train


@pytest.mark.parametrize("size", [6, 9])
def test_splits_of_generated_puzzles(size: int) -> None:
    sudokus = task(size=size, puzzles=30, held_out_puzzles=20, clues=size * 3)
    train, test = base([*sudokus.groups("train")]), base([*sudokus.groups("test")])
    assert len(train[0]) == 30
    assert len(test[0]) == 20
    both = np.concatenate([train[0], test[0]])
    assert len(np.unique(invariant(both, BOARDS[size]))) == 50
    solutions = solve(both, BOARDS[size])
    assert (solutions.count == 1).all()
    np.testing.assert_array_equal(solutions.first, np.concatenate([train[1], test[1]]))
    assert (np.count_nonzero(both, axis=1) >= size * 3).all()


@pytest.mark.parametrize("settings", [SMALL, {"size": 6, "puzzles": 12, "held_out_puzzles": 5}])
def test_groups_are_the_same_each_time_and_others_for_another_seed(settings: dict[str, int]) -> None:
    sudokus = task(**settings, augmentations=3)
    first, again = [*sudokus.groups("train")], [*task(**settings, augmentations=3).groups("train")]
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.inputs, two.inputs)
        np.testing.assert_array_equal(one.labels, two.labels)
    plain = base([*task(**settings).groups("train")])
    np.testing.assert_array_equal(base(first)[0], plain[0])  # augmentation does not change what is augmented
    for split in ("train", "test"):
        other = base([*task(**settings, seed=1).groups(split)])[0]
        assert not np.array_equal(base([*sudokus.groups(split)])[0], other)


def test_augmented_copies_are_forms_of_the_base_puzzle() -> None:
    sudokus = task(size=4, most_clues=8, puzzles=20, held_out_puzzles=20, augmentations=40)
    for group in sudokus.groups("train"):
        assert group.inputs.shape == group.labels.shape == (41, 1, 16)
        assert group.inputs.dtype == group.labels.dtype == np.uint8
        assert group.names == ()
        images = all_images(group.inputs[0, 0] - np.uint8(1))
        assert all((variant[0] - np.uint8(1)).tobytes() in images for variant in group.inputs)
        assert len(np.unique(group.inputs, axis=0)) > 10
        for inputs, answer in zip(group.inputs[:, 0], group.labels[:, 0], strict=True):
            assert sudokus.check(inputs, answer).outcome == "pass"
    assert all(group.inputs.shape == (1, 1, 16) for group in sudokus.groups("test"))


def test_small_puzzles_have_all_numbers_of_clues() -> None:
    clues = np.count_nonzero(base([*task(**SMALL).groups("train")])[0], axis=1)
    assert set(clues.tolist()) == set(range(4, 13))
    assert np.bincount(clues).max() < 2 * np.median(np.bincount(clues)[6:12])
    few = np.count_nonzero(base([*task(**SMALL | {"most_clues": 6, "puzzles": 300}).groups("train")])[0], axis=1)
    assert set(few.tolist()) <= {4, 5, 6}


def test_more_puzzles_than_there_are() -> None:
    with pytest.raises(ValueError, match=r"1500 inequivalent 4x4 .* only 36 "):
        next(task(size=4).groups("train"))
    with pytest.raises(ValueError, match=r"5000 inequivalent 4x4 .* only 4708 "):
        next(task(size=4, most_clues=15, puzzles=4500).groups("test"))
    every = task(size=4, most_clues=15, puzzles=4700, held_out_puzzles=8)
    assert len([*every.groups("train")]) == 4700
    with pytest.raises(ValueError, match=r"500 inequivalent 6x6 .* only \d+ "):
        next(task(size=6, clues=35).groups("test"))
    with pytest.raises(ValueError, match="only 0 with"):
        next(task(size=4, most_clues=15, min_guesses=1).groups("test"))


@pytest.mark.parametrize(
    "wrong",
    [{"clues": 5, "most_clues": 4}, {"size": 4, "clues": 16}, {"size": 4, "path": "x"}, {"clues": 9, "path": "x"}],
)
def test_settings_that_do_not_go_together(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"clues|path"):
        Config(**wrong)


# What people write


def test_texts_of_one_puzzle_read_alike() -> None:
    decorated = "1 _ | 3 0\n. 4 | . 2\n----+----\n. 1 | . .\n4 . | . .\n"
    questions = [
        task(size=4).parse(text) for text in (PUZZLE, PUZZLE.replace("\n", ""), decorated, f"\n\n{PUZZLE}\n\n")
    ]
    for (question,) in questions:
        assert question.inputs.dtype == np.uint8
        assert question.inputs.tolist() == [2, 1, 4, 1, 1, 5, 1, 3, 1, 2, 1, 1, 5, 1, 1, 1]
        assert question.name == ""


def test_several_puzzles() -> None:
    sudokus = task(size=4)
    line = PUZZLE.replace("\n", "")
    for text in (f"{PUZZLE}\n\n{PUZZLE}", f"{line}\n{line}", f"{line}\n\n{PUZZLE}"):
        assert len(sudokus.parse(text)) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no Sudoku in the text: write 4 lines of 4"),
        ("123456\n" * 6, "line 1, character 5: '5' is neither a digit from 1 to 4"),
        ("......\n" * 6, "line 1 has 6 cells; a 4x4 Sudoku has 4, or all 16"),
        ("....\n.....\n", "line 2 has 5 cells; a 4x4 Sudoku has 4$"),
        ("....\n................\n", "line 2 has 16 cells"),
        ("\n12..\n34..\n", "starts in line 2 ends after 2 of 4 rows"),
        ("12..\n34x.\n", "line 2, character 3: 'x' is neither"),
        ("12..\n34².\n", "line 2, character 3"),
        ("1..1\n....\n....\n....", "digit 1 twice in row 1"),
        (".2..\n....\n....\n.2..", "digit 2 twice in column 2"),
        (f"{PUZZLE}\n\n....\n....\n..3.\n...3", "starts in line 6 has the digit 3 twice in box 4"),
        ("12..\n..3.\n..4.\n....", "starts in line 1 has no solution"),
        ("1...\n....\n....\n....", "starts in line 1 has several solutions"),
    ],
)
def test_texts_that_are_no_puzzle(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task(size=4).parse(text)


# Verdicts


@pytest.fixture
def small() -> tuple[Sudokus, np.ndarray, np.ndarray]:
    sudokus = task(size=4)
    inputs = sudokus.parse(PUZZLE)[0].inputs
    return sudokus, inputs, solve(inputs[None] - np.uint8(1), BOARDS[4]).first[0] + np.uint8(1)


def test_the_right_answer_passes(small: tuple[Sudokus, np.ndarray, np.ndarray]) -> None:
    sudokus, inputs, answer = small
    for label in (None, answer):
        verdict = sudokus.check(inputs, answer, label)
        assert (verdict.outcome, verdict.score, verdict.detail) == ("pass", 1.0, "")


def test_a_wrong_cell_counts_once_with_a_label_and_in_its_units_without(
    small: tuple[Sudokus, np.ndarray, np.ndarray],
) -> None:
    sudokus, inputs, answer = small
    for token in (0, 1, 5 if answer[1] != 5 else 4):  # padding, a blank, another digit
        wrong = answer.copy()
        wrong[1] = token
        labelled = sudokus.check(inputs, wrong, answer)
        assert (labelled.outcome, labelled.score) == ("fail", 15 / 16)
        assert labelled.detail == "1 of 16 cells are wrong"
        unlabelled = sudokus.check(inputs, wrong)
        assert (unlabelled.outcome, unlabelled.score) == ("fail", 9 / 12)
        assert unlabelled.detail.endswith("row 1, column 2, box 1")


def test_another_complete_grid_is_no_answer(small: tuple[Sudokus, np.ndarray, np.ndarray]) -> None:
    sudokus, inputs, answer = small
    renamed = np.array([0, 1, 3, 2, 5, 4], dtype=np.uint8)[answer]
    verdict = sudokus.check(inputs, renamed)
    assert verdict.outcome == "fail"
    assert verdict.score < 1


def test_cells_that_the_label_leaves_out_are_not_asked(small: tuple[Sudokus, np.ndarray, np.ndarray]) -> None:
    sudokus, inputs, answer = small
    label = answer.copy()
    label[:3] = 0
    wrong = answer.copy()
    wrong[2] = 1
    assert sudokus.check(inputs, wrong, label).outcome == "pass"


def test_cells_for_people(small: tuple[Sudokus, np.ndarray, np.ndarray]) -> None:
    sudokus, inputs, answer = small
    asked, solved = sudokus.cells(inputs), sudokus.cells(inputs, answer)
    assert ["".join(cell.text or "." for cell in row) for row in asked] == PUZZLE.split("\n")
    assert "".join(cell.text for row in solved for cell in row) == "".join(str(token - 1) for token in answer)
    for row, text in zip(solved, PUZZLE.split("\n"), strict=True):
        assert [cell.given for cell in row] == [character != "." for character in text]
    shades = [[cell.background for cell in row] for row in asked]
    assert shades[0][0] == shades[1][1] == shades[2][2] != shades[0][2] == shades[3][0]


# The public files


def write_csv(folder: Path, name: str, puzzles: np.ndarray, answers: np.ndarray, ratings: list[int]) -> None:
    rows = ["source,question,answer,rating"]
    for puzzle, answer, rating in zip(puzzles, answers, ratings, strict=True):
        texts = ["".join(map(str, grid.tolist())) for grid in (puzzle, answer)]
        rows.append(f"made,{texts[0].replace('0', '.')},{texts[1]},{rating}")
    (folder / name).write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def nines() -> tuple[np.ndarray, np.ndarray]:
    return generate([0], 0, 30, BOARDS[9], Wanted((30, 30)))


@pytest.fixture
def files(tmp_path: Path, nines: tuple[np.ndarray, np.ndarray]) -> Path:
    """10 test puzzles; 20 train puzzles, then forms of the first 5 of the test and of the first 5 of the train."""
    puzzles, answers = nines
    write_csv(tmp_path, "test.csv", puzzles[:10], answers[:10], [*range(10)])
    forms = draw(np.random.default_rng(0), 10, BOARDS[9])
    again = [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]
    train = [np.concatenate([grids[10:], forms(grids[again])]) for grids in nines]
    write_csv(tmp_path, "train.csv", *train, [0] * 10 + [5] * 20)
    return tmp_path


def test_the_files_are_read(files: Path, nines: tuple[np.ndarray, np.ndarray]) -> None:
    sudokus = task(path=str(files), puzzles=20, held_out_puzzles=10, augmentations=2)
    read = {
        (*puzzle, *answer)
        for puzzle, answer in zip(*(g.tolist() for g in base([*sudokus.groups("test")])), strict=True)
    }
    written = {(*puzzle, *answer) for puzzle, answer in zip(*(g[:10].tolist() for g in nines), strict=True)}
    assert len(read) == 10 and read == written
    groups = [*sudokus.groups("train")]
    hashes = invariant(base(groups)[0], BOARDS[9])
    assert set(hashes.tolist()) == set(invariant(nines[0][10:], BOARDS[9]).tolist())  # none of the test, none twice
    assert groups[0].inputs.shape == (3, 1, 81)
    assert all(sudokus.check(group.inputs[2, 0], group.labels[2, 0]).outcome == "pass" for group in groups)
    again = base([*task(path=str(files), puzzles=20, held_out_puzzles=10).groups("train")])[0]
    np.testing.assert_array_equal(again, base(groups)[0])
    other = base([*task(path=str(files), puzzles=20, held_out_puzzles=10, seed=1).groups("train")])[0]
    assert not np.array_equal(again, other)


def test_the_rating_chooses_rows(files: Path, nines: tuple[np.ndarray, np.ndarray]) -> None:
    sudokus = task(path=str(files), puzzles=10, held_out_puzzles=5, min_guesses=5)
    read = base([*sudokus.groups("test")])[0]
    assert sorted(read.tolist()) == sorted(nines[0][5:10].tolist())
    allowed = invariant(np.concatenate([nines[0][:5], nines[0][10:15], nines[0][20:]]), BOARDS[9])
    assert np.isin(invariant(base([*sudokus.groups("train")])[0], BOARDS[9]), allowed).all()


def test_too_few_rows(files: Path) -> None:
    with pytest.raises(ValueError, match=r"11 inequivalent 9x9 Sudokus are wanted, only 10 in .*were found"):
        next(task(path=str(files), held_out_puzzles=11).groups("test"))
    with pytest.raises(ValueError, match="21 inequivalent 9x9 Sudokus are wanted, only 20 "):
        [*task(path=str(files), puzzles=21, held_out_puzzles=10).groups("train")]


def test_absent_files_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no file .*test\.csv: data\.path .*Hugging Face .*sapientinc/sudoku-extreme"):
        next(task(path=str(tmp_path)).groups("test"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.rsplit(",", 1)[0], "3 columns instead of 4"),
        (lambda row: row[:-1] + "hard", "the rating 'hard' is not a whole number"),
        (lambda row: row.replace(".", "", 1), "the puzzle .* is not 81 characters"),
        (lambda row: row.replace(".", "x", 1), "the puzzle .* is not 81 characters"),
        (lambda row: row[:-3] + "." + row[-2:], "the answer does not hold every digit once"),
    ],
)
def test_malformed_rows_are_named(files: Path, change: object, message: str) -> None:
    rows = (files / "test.csv").read_text().splitlines()
    rows[3] = change(rows[3])
    (files / "test.csv").write_text("\n".join(rows))
    with pytest.raises(ValueError, match=rf"test\.csv, line 4: {message}"):
        [*task(path=str(files), held_out_puzzles=10).groups("test")]


def test_an_answer_to_another_puzzle_is_malformed(files: Path) -> None:
    rows = (files / "test.csv").read_text().splitlines()
    first, second = rows[1].split(","), rows[2].split(",")
    rows[1] = ",".join([first[0], first[1], second[2], first[3]])
    (files / "test.csv").write_text("\n".join(rows))
    with pytest.raises(ValueError, match="line 2: the answer contradicts the puzzle's clues"):
        [*task(path=str(files), held_out_puzzles=10).groups("test")]
