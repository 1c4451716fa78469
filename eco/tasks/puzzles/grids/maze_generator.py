"""Random mazes with one shortest path: many at once, each array operation advancing all of them by a step.

Rooms lie on even rows and columns. A minimum spanning tree over random weights (Prim, 1957) joins them, some of the
walls that it left between rooms are opened, and breadth-first search finds ends that exactly one shortest path joins.
"""

from itertools import count

import numpy as np
from numpy.typing import NDArray

from eco.tasks.puzzles.grids.maze_tokens import FREE, GOAL, PATH, START, WALL

DRAWS = 256
"""Mazes drawn together. Part of the definition: with another number the same seed gives other mazes."""

BLOCKED, UNSEEN = -2, -1
"""In place of a distance: a wall; a free cell that the search has not reached."""


def draw(
    rng: np.random.Generator, size: int, loops: float, min_path: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Questions and answers (K, size * size), K <= DRAWS: the draws where a start got a goal that is far enough.

    loops: share of the walls between neighbouring rooms that is opened beyond the spanning tree.
    min_path: fewest cells of the shortest path, both ends counted.
    """
    free = _open_rooms(rng, DRAWS, size, loops)
    walled = np.pad(free, ((0, 0), (1, 1), (1, 1))).reshape(DRAWS, -1)
    starts = _pick(rng, walled)
    distance, ways = _explore(walled, starts)
    eligible = (distance >= max(min_path - 1, 1)) & (ways == 1)
    kept = eligible.any(axis=1)
    starts, goals, distance = starts[kept], _pick(rng, eligible[kept]), distance[kept]
    inputs = np.where(walled[kept], FREE, WALL).astype(np.uint8)
    labels = np.where(_trace(distance, goals), PATH, inputs).astype(np.uint8)
    rows = np.arange(len(inputs))
    for grids in (inputs, labels):
        grids[rows, starts], grids[rows, goals] = START, GOAL
    return _without_border(inputs, size), _without_border(labels, size)


def _without_border(grids: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    return grids.reshape(-1, size + 2, size + 2)[:, 1:-1, 1:-1].reshape(-1, size * size)


def _pick(rng: np.random.Generator, cells: NDArray[np.bool_]) -> NDArray[np.intp]:
    """One of the marked cells of each row of (N, M), all equally likely: (N,)."""
    lots = rng.random(cells.shape, dtype=np.float32)
    lots[~cells] = -1
    picked: NDArray[np.intp] = lots.argmax(axis=1)
    return picked


def _open_rooms(rng: np.random.Generator, mazes: int, size: int, loops: float) -> NDArray[np.bool_]:
    """Which cells are free, (N, size, size). The last row and column of an even size are walls."""
    side = (size + 1) // 2
    weights = rng.random((mazes, 2, side, side), dtype=np.float32)
    weights[:, 0, :, -1] = weights[:, 1, -1, :] = np.inf
    opened = _spanning_tree(weights)
    opened |= rng.random(opened.shape, dtype=np.float32) < loops
    free = np.zeros((mazes, size, size), dtype=bool)
    free[:, 0::2, 0::2] = True
    free[:, 0 : 2 * side - 1 : 2, 1 : 2 * side - 1 : 2] = opened[:, 0, :, :-1]
    free[:, 1 : 2 * side - 1 : 2, 0 : 2 * side - 1 : 2] = opened[:, 1, :-1, :]
    return free


def _spanning_tree(weights: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The edges of each minimum spanning tree, (N, 2, side, side).

    weights: (N, 2, side, side); [n, 0, r, c] of the edge from room (r, c) to the right, [n, 1, r, c] down; infinite
    where that leaves the maze.
    """
    mazes, _, side, _ = weights.shape
    rooms, rows = side * side, np.arange(mazes)
    room = np.arange(rooms).reshape(side, side)
    # Where each room's four edges lie in a flat row of weights, and the room behind each. Left and up are the right
    # and down of the room before, which wraps around at the border, onto an edge of infinite weight.
    left, up = np.roll(room, 1, axis=1), np.roll(room, 1, axis=0)
    edges = np.stack([room, left, rooms + room, rooms + up]).reshape(4, rooms)
    beyond = np.stack([np.roll(room, -1, axis=1), left, np.roll(room, -1, axis=0), up]).reshape(4, rooms)
    flat = weights.reshape(mazes, 2 * rooms)
    opened = np.zeros((mazes, 2 * rooms), dtype=bool)
    outside = np.ones((mazes, rooms), dtype=bool)
    cost = np.full((mazes, rooms), np.inf, dtype=np.float32)  # cheapest edge from the tree to each room outside it
    via = np.zeros((mazes, rooms), dtype=np.intp)
    joined = np.zeros(mazes, dtype=np.intp)
    for _ in range(rooms - 1):
        outside[rows, joined] = False
        cost[rows, joined] = np.inf
        for direction in range(4):
            edge, other = edges[direction, joined], beyond[direction, joined]
            better = (flat[rows, edge] < cost[rows, other]) & outside[rows, other]
            cost[rows[better], other[better]] = flat[rows[better], edge[better]]
            via[rows[better], other[better]] = edge[better]
        joined = cost.argmin(axis=1)
        opened[rows, via[rows, joined]] = True
    return opened.reshape(weights.shape)


def _explore(free: NDArray[np.bool_], starts: NDArray[np.intp]) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Steps from the start to every cell, and in how many shortest ways it is reached (2: two or more), both (N, M).

    free: (N, M), square grids with a border of walls, so that no step leads from one grid into the next.
    """
    mazes, cells = free.shape
    distance = np.where(free, UNSEEN, BLOCKED).astype(np.int16).ravel()
    ways = np.zeros(mazes * cells, dtype=np.uint8)
    frontier = np.arange(mazes) * cells + starts
    distance[frontier], ways[frontier] = 0, 1
    for steps in count(1):
        reached_first = []
        for move in _moves(cells):
            beyond = frontier + move
            seen = distance[beyond]
            arrived = (seen == UNSEEN) | (seen == steps)
            target = beyond[arrived]  # no cell twice: all came in the same direction
            ways[target] = np.minimum(ways[target] + ways[frontier[arrived]], 2)
            new = beyond[seen == UNSEEN]
            distance[new] = steps
            reached_first.append(new)
        frontier = np.concatenate(reached_first)
        if not len(frontier):
            break
    return distance.reshape(mazes, cells), ways.reshape(mazes, cells)


def _trace(distance: NDArray[np.int16], goals: NDArray[np.intp]) -> NDArray[np.bool_]:
    """The cells strictly between start and goal on a shortest path, (N, M): down the distances, one step at a time."""
    mazes, cells = distance.shape
    flat = distance.ravel()
    path = np.zeros(mazes * cells, dtype=bool)
    here = np.arange(mazes) * cells + goals
    while len(here := here[flat[here] > 1]):
        neighbours = here[:, None] + _moves(cells)
        nearer = (flat[neighbours] == flat[here][:, None] - 1).argmax(axis=1)
        here = neighbours[np.arange(len(here)), nearer]
        path[here] = True
    return path.reshape(mazes, cells)


def _moves(cells: int) -> NDArray[np.intp]:
    """Left, right, up and down as differences of the index into a square grid of so many cells."""
    side = round(cells**0.5)
    return np.array([-1, 1, -side, side])
