"""The tokens of mazes, and when two mazes are the same one. Token 0 is padding."""

import numpy as np
from numpy.typing import NDArray

from eco.tasks.puzzles.grids.dihedral import MOVES, dihedral

CHARSET = "# SGo"
"""The published charset (Maze-Hard, arXiv 2506.21734): wall, free, start, goal and path are the tokens 1 to 5."""

WALL, FREE, START, GOAL, PATH = range(1, len(CHARSET) + 1)

VOCAB_SIZE = len(CHARSET) + 1

_TOKENS = np.array([CHARSET.find(chr(code)) + 1 for code in range(128)], dtype=np.uint8)


def encode(text: str) -> NDArray[np.uint8]:
    """The tokens of a text that holds only characters of CHARSET, (len(text),)."""
    return _TOKENS[np.frombuffer(text.encode("ascii"), dtype=np.uint8)]


def character(token: int) -> str:
    """The character of a token; `?` for padding, which stands for none."""
    return CHARSET[token - 1] if token else "?"


def canonical(inputs: NDArray[np.uint8]) -> bytes:
    """Equal for two questions (L,) on a square grid exactly if a symmetry of the square makes one of the other.

    Exchanging start and goal counts as a symmetry too: the path, and with it the whole answer, stays the same.
    """
    size = round(len(inputs) ** 0.5)
    ends_alike = np.where(inputs == GOAL, START, inputs).astype(np.uint8).reshape(size, size)
    return min(dihedral(ends_alike, move).tobytes() for move in range(MOVES))
