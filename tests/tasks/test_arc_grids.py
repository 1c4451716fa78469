"""ARC grids on their canvas, and the copies of a task, against what the published code says in words."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from eco.tasks.puzzles.grids import colours
from eco.tasks.puzzles.grids.arc_canvas import corner, crop, draw, ends
from eco.tasks.puzzles.grids.arc_variants import PUBLISHED, Variants, canonical, choose, copy_name, undo
from eco.tasks.puzzles.grids.dihedral import dihedral

grids = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32), st.integers(1, 9)).map(
    lambda case: np.random.default_rng(case[2]).integers(0, case[3] + 1, case[:2], dtype=np.uint8)
)
permutations = st.permutations(range(1, 10)).map(lambda order: np.array([0, *order], np.uint8))


def slow_canvas(grid, size, top, left):
    """The canvas cell by cell: a grid, an end beside each row and below each column, padding."""
    canvas = np.zeros((size, size), np.uint8)
    rows, columns = grid.shape
    for r in range(size):
        for c in range(size):
            inside = 0 <= r - top < rows, 0 <= c - left < columns
            if all(inside):
                canvas[r, c] = grid[r - top, c - left] + 2
            elif (inside[0] and c == left + columns) or (inside[1] and r == top + rows):
                canvas[r, c] = 1
    return canvas


@given(grids, st.integers(0, 4), st.integers(0, 4))
def test_a_drawn_grid_is_found_again(grid, top, left):
    size = max(grid.shape[0] + top, grid.shape[1] + left)
    canvas = draw(grid[None], size, np.array([top]), np.array([left])).reshape(size, size)
    assert np.array_equal(canvas, slow_canvas(grid, size, top, left))
    assert corner(canvas) == (top, left)
    assert np.array_equal(crop(canvas, top, left), grid)
    assert ends(canvas, top, left, grid.shape)


def test_several_grids_are_drawn_each_at_its_place():
    generator = np.random.default_rng(0)
    several = generator.integers(0, 10, (5, 2, 3), dtype=np.uint8)
    tops, lefts = generator.integers(0, 4, 5), generator.integers(0, 3, 5)
    drawn = draw(several, 5, tops, lefts).reshape(5, 5, 5)
    for row, canvas in enumerate(drawn):
        assert np.array_equal(canvas, slow_canvas(several[row], 5, tops[row], lefts[row]))


@given(st.integers(0, 2**32))
def test_the_crop_is_the_largest_rectangle_of_colours(seed):
    canvas = np.random.default_rng(seed).choice(12, (5, 5), p=[0.1, 0.1] + [0.08] * 10).astype(np.uint8)
    found = crop(canvas)
    areas = {(r, c): r * c for r in range(1, 6) for c in range(1, 6) if (canvas[:r, :c] >= 2).all()}
    if not areas:
        assert found.shape == (0, 0)
    else:
        assert areas[found.shape] == max(areas.values())
        assert np.array_equal(found + 2, canvas[: found.shape[0], : found.shape[1]])


MEANT = {
    0: lambda g: g,
    1: lambda g: np.rot90(g),
    2: lambda g: np.rot90(g, 2),
    3: lambda g: np.rot90(g, 3),
    4: np.fliplr,
    5: np.flipud,
    6: np.transpose,
    7: lambda g: np.fliplr(np.rot90(g)),
}
"""What the published numbers mean (HRM, dataset/common.py)."""


@given(grids, permutations, st.sampled_from(range(8)))
def test_a_copys_name_undoes_it(grid, permutation, number):
    name = f"abc|||t{number}|||{''.join(map(str, permutation))}"
    assert copy_name("abc", PUBLISHED[number], permutation) == name
    original, back = undo(name, MEANT[number](permutation[grid]))
    assert original == "abc" and np.array_equal(back, grid)
    assert np.array_equal(colours.inverse(permutation)[permutation[grid]], grid)


@given(grids, grids, permutations, st.sampled_from(range(8)))
def test_equivalent_pairs_have_one_form(before, after, permutation, move):
    seen = tuple(dihedral(permutation[grid], move) for grid in (before, after))
    assert canonical(*seen) == canonical(before, after)


@given(st.integers(0, 2**32))
def test_pairs_of_one_form_are_equivalent(seed):
    generator = np.random.default_rng(seed)
    pairs = [tuple(generator.integers(0, 3, (2, 2), dtype=np.uint8) for _ in range(2)) for _ in range(2)]

    def renamed(one, other):
        """Whether a one-to-one renaming that keeps 0 makes one pair the other."""
        names = {
            *zip(np.concatenate(one).ravel().tolist(), np.concatenate(other).ravel().tolist(), strict=True),
            (0, 0),
        }
        return len(names) == len({a for a, _ in names}) == len({b for _, b in names})

    equivalent = any(renamed([dihedral(grid, move) for grid in pairs[0]], pairs[1]) for move in range(8))
    assert (canonical(*pairs[0]) == canonical(*pairs[1])) == equivalent


@given(st.lists(st.tuples(grids, grids), min_size=1, max_size=3), st.integers(0, 20), st.integers(0, 99))
def test_copies_differ_from_the_task_and_from_each_other(pairs, copies, seed):
    variants = choose(pairs, copies, np.random.default_rng(seed))
    assert variants.moves[0] == 0 and variants.colours[0].tolist() == list(range(10))
    assert len(variants) <= copies + 1
    assert (variants.colours[:, 0] == 0).all() and (np.sort(variants.colours) == range(10)).all()
    looks = set()
    for move, permutation in zip(variants.moves, variants.colours, strict=True):
        views = [tuple(dihedral(permutation[grid], move).tolist() for grid in pair) for pair in pairs]
        looks.add(str(sorted(views)))
    assert len(looks) == len(variants)
    asymmetric = any(len(np.unique(grid)) > 4 for pair in pairs for grid in pair)
    if asymmetric:
        assert len(variants) == copies + 1  # thousands of copies differ, five times as many are drawn


def test_views_go_by_move():
    generator = np.random.default_rng(0)
    variants = Variants(generator.integers(0, 8, 50), colours.permutations(50, generator))
    grid = generator.integers(0, 10, (2, 3), dtype=np.uint8)
    seen = {row: view for rows, views in variants.views(grid) for row, view in zip(rows.tolist(), views, strict=True)}
    assert sorted(seen) == list(range(50))
    for row, view in seen.items():
        assert np.array_equal(view, dihedral(variants.colours[row][grid], int(variants.moves[row])))


def test_a_grid_without_its_edge_has_not_ended():
    canvas = draw(np.zeros((1, 2, 2), np.uint8), 4, np.zeros(1, np.int64), np.zeros(1, np.int64)).reshape(4, 4)
    for cell in ((2, 0), (2, 1), (0, 2), (1, 2)):
        broken = canvas.copy()
        broken[cell] = 0
        assert not ends(broken, 0, 0, (2, 2)), cell
