"""Puzzles as text and as pictures: what is drawn can be read back from the characters, the styles and the pixels."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread
from rich.console import Console

from eco.observe.drawing import Panel, as_text, chosen, draw_solution, rows_of

ORANGE = (230, 159, 0)


@dataclass(frozen=True)
class Cell:
    text: str
    colour: str = "#000000"
    background: str = "#ffffff"
    given: bool = False


WALL, FREE = Cell("", background="#2f3640", given=True), Cell("", given=True)
MAZE = [[WALL, Cell("S", "#ffffff", "#2e7d32", True), WALL], [WALL, FREE, Cell("o", "#8a6100", "#ffe082")]]


def shades(rows, columns, blue=200):
    """A grid in which no two cells are alike."""
    return [[Cell("7", background=f"#{20 * y:02x}{20 * x:02x}{blue:02x}") for x in range(columns)] for y in range(rows)]


def large():
    return [[Cell("")] * 30] * 30


def test_characters_alone_tell_the_cells_apart():
    assert rows_of(MAZE) == ["# S #", "# . o"]


def test_grids_stand_side_by_side_where_they_fit_and_else_one_under_the_other():
    panels = [Panel("maze", MAZE), Panel("the way", MAZE[:1])]
    beside = as_text(panels, 16, colour=False).plain
    assert [line.rstrip() for line in beside.split("\n")] == ["maze     the way", "# S #    # S #", "# . o"]
    assert as_text(panels, 15, colour=False).plain == "maze\n# S #\n# . o\n\nthe way\n# S #"


@pytest.mark.parametrize("colour", [True, False])
def test_the_largest_grids_fit_into_a_terminal(colour):
    panels = [Panel("puzzle", large()), Panel("answer", large())]
    for width, lines in ((80, 2 * 31 + 1), (130, 31)):
        drawn = as_text(panels, width, colour).plain.split("\n")
        assert len(drawn) == lines and max(map(len, drawn)) <= width


def test_with_colours_each_cell_has_its_own_and_what_was_given_is_bold():
    text = as_text([Panel("maze", MAZE)], 80, colour=True)
    assert text.plain.split("\n")[1:] == ["  S   ", "    o "]
    console, first = Console(), text.plain.index("\n") + 1
    for y, row in enumerate(MAZE):
        for x, cell in enumerate(row):
            for column in (0, 1):  # a cell takes two, so that it is about square
                style = text.get_style_at_offset(console, first + 7 * y + 2 * x + column)
                assert style.bgcolor.name == cell.background and style.color.name == cell.colour
                assert bool(style.bold) is cell.given


@given(st.integers(1, 300))
def test_of_many_steps_sixteen_at_even_distances_are_drawn(count):
    shown = chosen(count)
    assert len(shown) == min(count, 16) and shown[0] == 0 and shown[-1] == count - 1
    gaps = np.diff(shown)
    assert count == 1 or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)


def pixels(path):
    return (imread(path)[..., :3] * 255).round().astype(int)


def count(image, colour):
    return int((image == colour).all(-1).sum())


def test_the_picture_shows_every_cell_of_every_panel(tmp_path):
    puzzle, answer, steps = shades(3, 4, 100), shades(4, 3, 150), [shades(4, 4, 200), shades(4, 4, 250)]
    panels = [Panel(f"step {i}", cells) for i, cells in enumerate(steps)]
    path = draw_solution(tmp_path / "picture.png", Panel("puzzle", puzzle), Panel("answer", answer), panels)
    image = pixels(path)
    assert image.shape[0] == 1050
    for cells in (puzzle, answer, *steps):
        areas = [count(image, tuple(bytes.fromhex(cell.background[1:]))) for row in cells for cell in row]
        assert min(areas) > 2000 and max(areas) < 1.5 * min(areas)


def test_only_what_changed_since_the_step_before_is_framed(tmp_path):
    grid = [[Cell("1")] * 3 for _ in range(3)]
    other = [[Cell("2"), *grid[0][1:]], *grid[1:]]

    def orange(*steps):
        panels = [Panel("", cells) for cells in steps]
        path = draw_solution(tmp_path / "picture.png", Panel("", grid), Panel("", grid), panels)
        return count(pixels(path), ORANGE)

    assert orange(grid) == orange(other) == orange(grid, grid, grid) == 0
    once = orange(grid, other)
    assert once > 100
    assert 1.5 * once < orange(other, grid, other) < 2.5 * once


def test_grids_that_change_their_shape_or_have_no_cells_are_drawn(tmp_path):
    steps = [Panel("empty", []), Panel("small", shades(1, 2)), Panel("large", large()), Panel("empty", [])]
    path = draw_solution(tmp_path / "picture.png", Panel("puzzle", large()), Panel("answer", []), steps)
    assert count(pixels(path), ORANGE) > 100
    assert as_text([Panel("puzzle", MAZE), Panel("answer", [])], 80, colour=True).plain.startswith("puzzle    answer")


def test_the_same_puzzle_gives_the_same_file(tmp_path):
    panels = Panel("puzzle", MAZE), Panel("answer", MAZE), [Panel(f"step {i}", MAZE) for i in range(20)]
    one, other = (draw_solution(tmp_path / name, *panels).read_bytes() for name in ("a.png", "b.png"))
    assert one == other
