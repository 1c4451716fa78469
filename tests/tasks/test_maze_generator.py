"""Generated mazes: spanning trees against Kruskal, distances and ways against plain search, paths by brute force."""

from collections.abc import Iterator

import numpy as np
import pytest

from eco.tasks.puzzles.grids.maze_generator import _explore, _spanning_tree, draw
from eco.tasks.puzzles.grids.maze_tokens import FREE, GOAL, PATH, START, WALL, canonical

Place = tuple[int, int]


def neighbours(free: np.ndarray, place: Place) -> Iterator[Place]:
    row, column = place
    for other in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
        if all(0 <= part < len(free) for part in other) and free[other]:
            yield other


def simple_paths(free: np.ndarray, path: list[Place], goal: Place, longest: int) -> Iterator[list[Place]]:
    """Every way from the end of `path` to the goal that visits no cell twice, of at most `longest` cells."""
    if path[-1] == goal:
        yield path
    elif len(path) < longest:
        for place in neighbours(free, path[-1]):
            if place not in path:
                yield from simple_paths(free, [*path, place], goal, longest)


def the_only(grid: np.ndarray, token: int) -> Place:
    (place,) = np.argwhere(grid == token)
    return int(place[0]), int(place[1])


@pytest.mark.parametrize(("size", "loops", "min_path"), [(5, 0.0, 2), (6, 0.5, 5), (7, 0.3, 10), (9, 0.1, 18)])
def test_one_path_is_shortest_and_the_label_has_it(size: int, loops: float, min_path: int) -> None:
    questions, labels = draw(np.random.default_rng(1), size, loops, min_path)
    assert len(questions) > 20
    for question, label in zip(questions[:60], labels[:60], strict=True):
        maze, answer = question.reshape(size, size), label.reshape(size, size)
        start, goal = the_only(maze, START), the_only(maze, GOAL)
        marked = {(int(row), int(column)) for row, column in np.argwhere(answer == PATH)} | {start, goal}
        assert len(marked) >= min_path
        assert set(np.unique(maze)) <= {WALL, FREE, START, GOAL}
        np.testing.assert_array_equal(np.where(answer == PATH, FREE, answer), maze)
        (path,) = simple_paths(maze != WALL, [start], goal, len(marked))
        assert set(path) == marked


@pytest.mark.parametrize("size", [5, 8, 9])
def test_without_loops_a_maze_is_a_tree_of_all_rooms(size: int) -> None:
    questions, _ = draw(np.random.default_rng(2), size, 0.0, 2)
    side = (size + 1) // 2
    free = questions.reshape(-1, size, size) != WALL
    assert (free.sum(axis=(1, 2)) == 2 * side * side - 1).all()
    assert free[:, 0::2, 0::2].all()
    assert not free[:, 1::2, 1::2].any()


def test_all_walls_between_rooms_can_be_opened() -> None:
    questions, _ = draw(np.random.default_rng(3), 7, 1.0, 2)
    free = questions.reshape(-1, 7, 7) != WALL
    assert (free.sum(axis=(1, 2)) == 16 + 2 * 12).all()


def test_spanning_tree_is_the_one_of_kruskal() -> None:
    side = 5
    weights = np.random.default_rng(4).random((20, 2, side, side), dtype=np.float32)
    weights[:, 0, :, -1] = weights[:, 1, -1, :] = np.inf
    trees = _spanning_tree(weights)
    for weight, tree in zip(weights, trees, strict=True):
        part = {(row, column): {(row, column)} for row in range(side) for column in range(side)}
        expected = np.zeros_like(tree)
        for index in np.argsort(weight, axis=None)[: 2 * side * (side - 1)]:
            direction, row, column = (int(i) for i in np.unravel_index(index, weight.shape))
            other = (row, column + 1) if direction == 0 else (row + 1, column)
            if part[row, column] is not part[other]:
                expected[direction, row, column] = True
                union = part[row, column] | part[other]
                part.update(dict.fromkeys(union, union))
        np.testing.assert_array_equal(tree, expected)


def test_distances_and_ways_are_those_of_plain_search() -> None:
    size, rng = 7, np.random.default_rng(5)
    free = rng.random((40, size, size)) < 0.75
    starts = rng.integers(0, size, (40, 2))
    free[np.arange(40), starts[:, 0], starts[:, 1]] = True
    walled = np.pad(free, ((0, 0), (1, 1), (1, 1))).reshape(40, -1)
    distance, ways = _explore(walled, (starts[:, 0] + 1) * (size + 2) + starts[:, 1] + 1)
    cut = (slice(None), slice(1, -1), slice(1, -1))
    distance, ways = (part.reshape(40, size + 2, size + 2)[cut] for part in (distance, ways))
    for maze, start, steps, count in zip(free, starts, distance, ways, strict=True):
        layer, ring, seen = {(int(start[0]), int(start[1])): 1}, 0, set()
        expected_steps = np.where(maze, -1, -2)
        expected_count = np.zeros((size, size))
        while layer:
            following: dict[Place, int] = {}
            for place, number in layer.items():
                expected_steps[place], expected_count[place] = ring, min(number, 2)
                seen.add(place)
            for place, number in layer.items():
                for other in neighbours(maze, place):
                    if other not in seen:
                        following[other] = following.get(other, 0) + number
            layer, ring = following, ring + 1
        np.testing.assert_array_equal(steps, expected_steps)
        np.testing.assert_array_equal(count, expected_count)


def test_canonical_form_is_shared_by_symmetries_only() -> None:
    questions, _ = draw(np.random.default_rng(6), 5, 0.0, 10)
    images = [_images(question.reshape(5, 5)) for question in questions[:60]]
    forms = [canonical(question) for question in questions[:60]]
    for form, same in zip(forms, images, strict=True):
        assert len(same) == 16
        assert {canonical(np.frombuffer(image, dtype=np.uint8)) for image in same} == {form}
    for a in range(60):
        for b in range(a):
            assert (forms[a] == forms[b]) == bool(images[a] & images[b])


def _images(maze: np.ndarray) -> set[bytes]:
    """The maze turned and mirrored in all ways, with its ends as they are and exchanged."""
    turned = [np.rot90(maze, turns) for turns in range(4)]
    mirrored = turned + [image.T for image in turned]
    exchange = np.array([0, WALL, FREE, GOAL, START, PATH], dtype=np.uint8)
    return {image.tobytes() for image in mirrored} | {exchange[image].tobytes() for image in mirrored}
