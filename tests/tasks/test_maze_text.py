"""Mazes as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco.tasks.puzzles.grids.maze_text import parse
from eco.tasks.puzzles.grids.maze_tokens import character

MAZE = ("S.#..", "#.#.#", "....#", "#.##.", "....G")


def rows(maze: object) -> list[str]:
    """The tokens of a 5 x 5 maze as lines, free cells as dots."""
    text = "".join(character(int(token)) for token in maze).replace(" ", ".")  # type: ignore[attr-defined]
    return [text[start : start + 5] for start in range(0, 25, 5)]


def test_dots_and_spaces_are_the_same() -> None:
    dots = "\n".join(MAZE)
    for text in (dots, dots.replace(".", " "), dots + "\n\n", "\n\n" + dots, dots.replace("\n", "\r\n")):
        (maze,) = parse(text, 5)
        assert rows(maze) == list(MAZE)


def test_stripped_spaces_come_back() -> None:
    lines = ("S #", "# # #", "    #", "# ##", "    G")
    assert [rows(maze) for maze in parse("\n".join(lines), 5)] == [list(MAZE)]


def test_several_mazes() -> None:
    second = (".....", "S####", ".....", "####G", ".....")
    text = "\n".join([*MAZE, "", "  ", *second])
    assert [rows(maze) for maze in parse(text, 5)] == [list(MAZE), list(second)]
    assert [rows(maze) for maze in parse(text.replace(".", " "), 5)] == [list(MAZE), list(second)]


@given(st.lists(st.sampled_from("#."), min_size=25, max_size=25), st.permutations(range(25)))
def test_every_maze_is_read_back_or_has_no_way(marks: list[str], order: list[int]) -> None:
    marks[order[0]], marks[order[1]] = "S", "G"
    lines = ["".join(marks[start : start + 5]) for start in range(0, 25, 5)]
    try:
        (maze,) = parse("\n".join(lines), 5)
    except ValueError as error:
        assert "has no way from S to G" in str(error)
        assert abs(order[0] - order[1]) != 5  # one above the other
    else:
        assert rows(maze) == lines


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ((), "there is no maze"),
        (("", "   "), "there is no maze"),
        (MAZE[:4], r"the maze in lines 1 to 4 is not square: it has 4 rows and 5 columns; 5 x 5 is expected"),
        (("", "SG.", "...", "..."), r"the maze in lines 2 to 4 has 3 rows and 3 columns; 5 x 5 is expected"),
        (("S..G",), r"the maze in line 1 is not square: it has 1 rows and 4 columns"),
        ((*MAZE[:3], "", *MAZE[3:]), r"lines 1 to 3 is not square"),
        ((*MAZE[:2], "..x.#", *MAZE[3:]), r"line 3, column 3: 'x' has no meaning"),
        ((*MAZE[:2], "\t...#", *MAZE[3:]), r"line 3, column 1: '\\t' has no meaning"),
        ((*MAZE, "", *MAZE[:2], "..o.#", *MAZE[3:]), r"line 9, column 3: 'o' marks the path, which is the answer"),
        ((*MAZE[:2], "...#", *MAZE[3:]), r"line 3 has 4 characters, the others of its maze 5"),
        (("..#..", *MAZE[1:]), r"lines 1 to 5 has no cells S; exactly one is expected"),
        (("S.#.S", *MAZE[1:]), r"lines 1 to 5 has 2 cells S; exactly one is expected"),
        ((*MAZE[:4], "....."), r"lines 1 to 5 has no cells G; exactly one is expected"),
        ((*MAZE[:2], "#####", *MAZE[3:]), r"lines 1 to 5 has no way from S to G"),
    ],
)
def test_errors_name_what_and_where(lines: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse("\n".join(lines), 5)


def test_several_shortest_paths_are_accepted() -> None:
    assert len(parse("S....\n.###.\n.###.\n.###.\n....G", 5)) == 1
