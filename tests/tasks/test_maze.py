"""The family of mazes: splits, copies, the public files, what a check says, how a maze is drawn."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from eco.data.puzzles.store import Group
from eco.tasks.puzzles.grids.dihedral import dihedral, inverse
from eco.tasks.puzzles.grids.maze_tokens import CHARSET
from eco.tasks.puzzles.maze import Config, MazeTask, build


def grid(*rows: str) -> np.ndarray:
    """Tokens of rows with `.` as free cells."""
    return np.array([CHARSET.index(mark) + 1 for mark in "".join(rows).replace(".", " ")], dtype=np.uint8)


def mazes(task: MazeTask, split: str) -> list[Group]:
    return list(task.groups(split))  # type: ignore[arg-type]


def same(first: list[Group], second: list[Group]) -> bool:
    return len(first) == len(second) and all(
        np.array_equal(a.inputs, b.inputs) and np.array_equal(a.labels, b.labels)
        for a, b in zip(first, second, strict=True)
    )


TASK = build(Config(size=5, puzzles=60, held_out_puzzles=60, augmentations=7, min_path=8))


class TestGroups:
    def test_counts_and_shapes(self) -> None:
        train, test = mazes(TASK, "train"), mazes(TASK, "test")
        assert (len(train), len(test)) == (60, 60)
        assert all(group.inputs.shape == group.labels.shape == (8, 1, 25) for group in train)
        assert all(group.inputs.shape == group.labels.shape == (1, 1, 25) for group in test)
        assert (TASK.shape, TASK.vocab_size) == ((5, 5), 6)

    def test_no_two_mazes_are_equivalent(self) -> None:
        """By brute force: no image of a maze, nor of it with its ends exchanged, is another maze of either split."""
        bases = [group.inputs[0, 0].reshape(5, 5) for split in ("test", "train") for group in mazes(TASK, split)]
        exchange = np.array([0, 1, 2, 4, 3, 5], dtype=np.uint8)
        owner: dict[bytes, int] = {}
        for index, base in enumerate(bases):
            for move, maze in product(range(8), (base, exchange[base])):
                assert owner.setdefault(dihedral(maze, move).tobytes(), index) == index

    def test_only_settings_decide(self) -> None:
        again = build(Config(size=5, puzzles=60, held_out_puzzles=60, augmentations=7, min_path=8))
        other = build(Config(size=5, puzzles=60, held_out_puzzles=60, augmentations=7, min_path=8, seed=1))
        for split in ("train", "test"):
            assert same(mazes(TASK, split), mazes(again, split))
            assert not same(mazes(TASK, split), mazes(other, split))

    def test_more_training_mazes_change_neither_the_first_nor_the_held_out(self) -> None:
        more = build(Config(size=5, puzzles=90, held_out_puzzles=60, augmentations=7, min_path=8))
        assert same(mazes(TASK, "train"), mazes(more, "train")[:60])
        assert same(mazes(TASK, "test"), mazes(more, "test"))

    def test_copies_are_moves_of_the_base_and_every_label_is_right(self) -> None:
        plain = build(Config(size=5, puzzles=60, held_out_puzzles=60, min_path=8))
        for group, base in zip(mazes(TASK, "train"), mazes(plain, "train"), strict=True):
            np.testing.assert_array_equal(group.inputs[:1], base.inputs)
            for move in range(8):
                for grids in (group.inputs, group.labels):
                    copy = grids[move, 0].reshape(5, 5)
                    np.testing.assert_array_equal(dihedral(copy, inverse(move)), grids[0, 0].reshape(5, 5))
                assert TASK.check(group.inputs[move, 0], group.labels[move, 0]).outcome == "pass"

    def test_more_mazes_than_there_are(self) -> None:
        with pytest.raises(ValueError, match=r"data\.puzzles asks for 9000 different mazes, \d+ were found; lower it"):
            mazes(build(Config(size=5, puzzles=9000, held_out_puzzles=1, min_path=12)), "train")
        with pytest.raises(ValueError, match=r"data\.held_out_puzzles asks for 1 different mazes, 0 were found"):
            mazes(build(Config(size=5, puzzles=1, held_out_puzzles=1, min_path=20)), "test")

    def test_no_more_copies_than_symmetries(self) -> None:
        with pytest.raises(ValidationError):
            Config(augmentations=8)


QUESTION = ("S..#.", ".#.#.", ".#...", ".###.", "....G")
SHORTEST = ("S..#.", "o#.#.", "o#...", "o###.", "ooooG")
"""The other way round, by the right, is two steps longer."""


class TestCheck:
    @pytest.mark.parametrize(
        ("answer", "score", "detail"),
        [
            (SHORTEST, 1.0, ""),
            (QUESTION, 0.0, "breaks off at row 1, column 1"),
            (("S..#.", "o#.#.", "o#...", "o###.", ".oooG"), 3 / 8, "breaks off at row 4, column 1"),
            (("So.#.", "o#.#.", "o#...", "o###.", "ooooG"), 8 / 9, "1 cell marked beside the path"),
            (("Soo#o", "o#o#.", "o#...", "o###.", "ooooG"), 8 / 12, "4 cells marked beside the path"),
            (("S..#.", "o#.#.", "o#...", "oo##.", "ooooG"), 0.0, "changes '#' to 'o' at row 4, column 2"),
            (("...#.", "o#.#.", "o#...", "o###.", "ooooG"), 0.0, "changes 'S' to ' ' at row 1, column 1"),
            (("SSS#.", "o#.#.", "o#...", "o###.", "ooooG"), 0.0, "changes ' ' to 'S' at row 1, column 2"),
        ],
    )
    def test_by_the_rules(self, answer: tuple[str, ...], score: float, detail: str) -> None:
        verdict = TASK.check(grid(*QUESTION), grid(*answer))
        assert verdict.outcome == ("fail" if detail else "pass")
        assert (verdict.score, verdict.detail) == (pytest.approx(score), detail)

    def test_a_detour(self) -> None:
        question = grid("S....", ".###.", ".###.", ".###.", ".G...")
        round_about = grid("Soooo", ".###o", ".###o", ".###o", ".Gooo")
        verdict = TASK.check(question, round_about)
        assert (verdict.outcome, verdict.detail) == ("fail", "a path of 12 cells where 6 do")
        assert verdict.score == pytest.approx(5 / 11)

    def test_padding_is_no_answer(self) -> None:
        verdict = TASK.check(grid(*QUESTION), np.zeros(25, dtype=np.uint8))
        assert (verdict.outcome, verdict.detail) == ("fail", "changes 'S' to '?' at row 1, column 1")

    def test_with_a_label(self) -> None:
        question = grid("S....", ".###.", ".###.", ".###.", "....G")
        left, right = (
            grid("S....", "o###.", "o###.", "o###.", "ooooG"),
            grid("Soooo", ".###o", ".###o", ".###o", "....G"),
        )
        assert TASK.check(question, left, left).detail == ""
        assert TASK.check(question, left, left).score == 1.0
        other = TASK.check(question, right, left)
        assert (other.outcome, other.detail) == ("pass", "a shortest path, not the expected one")
        assert other.score == pytest.approx(11 / 25)
        wrong = TASK.check(question, question, left)
        assert (wrong.outcome, wrong.score) == ("fail", pytest.approx(18 / 25))

    def test_agrees_with_exact_match_where_the_path_is_unique(self) -> None:
        rng = np.random.default_rng(0)
        for group in mazes(TASK, "test"):
            question, label = group.inputs[0, 0], group.labels[0, 0]
            wrong = label.copy()
            wrong[rng.integers(25)] = rng.integers(6)
            assert (TASK.check(question, wrong).outcome == "pass") == np.array_equal(wrong, label)


def test_cells() -> None:
    question, answer = TASK.cells(grid(*QUESTION)), TASK.cells(grid(*QUESTION), grid(*SHORTEST))
    assert (len(answer), {len(row) for row in answer}) == (5, {5})
    assert [cell.text for cell in question[0]] == ["S", "", "", "", ""]
    assert (answer[0][0].text, answer[4][4].text, answer[1][0].text) == ("S", "G", "o")
    assert answer[0][0].given and not answer[1][0].given
    backgrounds = [answer[row][column].background for row, column in ((0, 0), (4, 4), (1, 0), (0, 1), (0, 3))]
    assert len(set(backgrounds)) == 5
    assert TASK.cells(np.zeros(25, dtype=np.uint8))[0][0].text == "?"


class TestFiles:
    """The published layout: source, q, a, rating; the characters `# SGo`."""

    def write(self, folder: Path, name: str, rows: list[tuple[str, str]], header: str = "source,q,a,rating") -> None:
        lines = [header, *(f"maze,{question},{answer},5" for question, answer in rows)]
        (folder / name).write_text("\n".join(lines) + "\n")

    def task(self, folder: Path, puzzles: int = 1, held_out: int = 1) -> MazeTask:
        return build(Config(size=5, path=str(folder), puzzles=puzzles, held_out_puzzles=held_out))

    def text(self, *rows: str) -> str:
        return "".join(rows).replace(".", " ")

    def test_rows_in_their_order_without_equivalent_ones(self, tmp_path: Path) -> None:
        first = (self.text(*QUESTION), self.text(*SHORTEST))
        mirrored = (self.text(*QUESTION)[::-1], self.text(*SHORTEST)[::-1])
        corridor = ("S.G..", "#####", "#####", "#####", "#####")
        second = (self.text(*corridor), self.text("SoG..", *corridor[1:]))
        self.write(tmp_path, "test.csv", [first])
        self.write(tmp_path, "train.csv", [mirrored, second])
        (test,), (train,) = mazes(self.task(tmp_path), "test"), mazes(self.task(tmp_path), "train")
        np.testing.assert_array_equal(test.inputs[0, 0], grid(*QUESTION))
        np.testing.assert_array_equal(test.labels[0, 0], grid(*SHORTEST))
        np.testing.assert_array_equal(train.inputs[0, 0], grid(*corridor))
        with pytest.raises(ValueError, match=r"data\.puzzles asks for 2 different mazes, 1 were found"):
            mazes(self.task(tmp_path, puzzles=2), "train")

    def test_absent(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"no file .*test\.csv.*sapientinc/maze-30x30-hard-1k.*data\.path=FOLDER"):
            mazes(self.task(tmp_path), "train")

    def test_header(self, tmp_path: Path) -> None:
        self.write(tmp_path, "test.csv", [], header="question,answer")
        with pytest.raises(ValueError, match="first line must name the columns q and a"):
            mazes(self.task(tmp_path), "test")

    def test_another_encoding(self, tmp_path: Path) -> None:
        (tmp_path / "test.csv").write_bytes(b"q,a\n\xff\xfe,x\n")
        with pytest.raises(ValueError, match=r"test\.csv, line 2: q has 2 characters"):
            mazes(self.task(tmp_path), "test")

    @pytest.mark.parametrize(
        ("question", "answer", "complaint"),
        [
            (QUESTION[:4], SHORTEST, r"q has 20 characters, 5 x 5 = 25 are expected$"),
            (QUESTION, ("." * 36,), r"a has 36 characters, .*; set data\.size=6"),
            (("x..#.", *QUESTION[1:]), SHORTEST, "q holds 'x'"),
            (("S..#S", *QUESTION[1:]), SHORTEST, "q has 2 cells S, one is expected"),
            ((*QUESTION[:4], "....."), SHORTEST, "q has 0 cells G, one is expected"),
            (SHORTEST, SHORTEST, "q holds 'o'"),
            (QUESTION, ("Soo..", *SHORTEST[1:]), "a is not q with 'o'"),
            (QUESTION, ("S..o.", *SHORTEST[1:]), "a is not q with 'o'"),
            (QUESTION, ("S...#", *SHORTEST[1:]), "a is not q with 'o'"),
            (QUESTION, QUESTION, "'o' of a do not lead from S to G"),
        ],
    )
    def test_malformed_row(
        self, tmp_path: Path, question: tuple[str, ...], answer: tuple[str, ...], complaint: str
    ) -> None:
        good = (self.text(*QUESTION), self.text(*SHORTEST))
        self.write(tmp_path, "test.csv", [good, (self.text(*question), self.text(*answer))])
        with pytest.raises(ValueError, match=r"test\.csv, line 3: .*" + complaint):
            mazes(self.task(tmp_path, held_out=2), "test")
