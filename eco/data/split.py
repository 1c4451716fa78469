"""Which documents are held out: by hash, and in proportion within each stratum where there are strata."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Sizes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def choose(hashes: Hashes, sizes: Sizes, strata: Sequence[str], share: float) -> Mask:
    """Which of n documents are held out; none where there is only one, which `split` cuts.

    hashes: (n,), random by content. sizes: (n,) bytes. strata: n names, all empty where the corpus has none.
    """
    if len(sizes) == 1:
        return np.zeros(1, dtype=np.bool_)
    if any(strata):
        held_out = _in_proportion(hashes, sizes, strata, share)
        if held_out.any():
            return held_out
    return _by_hash(hashes, sizes, share)


def _by_hash(hashes: Hashes, sizes: Sizes, share: float) -> Mask:
    """Each document on its own: the same one is on the same side whatever else the corpus holds."""
    held_out = hashes < np.uint64(share * 2.0**64)
    total = sizes.sum()
    if not 0 < sizes[held_out].sum() <= (1 + share) / 2 * total:
        nearest = np.lexsort((hashes, np.abs(sizes - share * total)))[0]
        held_out = np.arange(len(sizes)) == nearest
    return held_out


def _in_proportion(hashes: Hashes, sizes: Sizes, strata: Sequence[str], share: float) -> Mask:
    """Within each stratum whole documents, by hash, for as long as they bring its bytes nearer to its quota.

    What a quota is missed by, half a document at most, is carried over to the next stratum; so the total is met as
    closely as one stratum is. One document of each stratum always stays in training: what is held out of a stratum
    measures what was learnt from the rest of it. None is held out where each stratum has one document.
    """
    held_out = np.zeros(len(sizes), dtype=np.bool_)
    members: dict[str, list[int]] = {}
    for index, stratum in enumerate(strata):
        members.setdefault(stratum, []).append(index)
    owed = 0.0  # bytes
    for indices in members.values():
        owed += share * float(sizes[indices].sum())
        for index in sorted(indices, key=lambda index: int(hashes[index]))[:-1]:
            if owed <= sizes[index] / 2:
                break
            held_out[index] = True
            owed -= float(sizes[index])
    return held_out


def split(text: str, share: float) -> tuple[str, str]:
    """Cuts one text so that about `share` of it is held out: at the nearest line break, else between characters."""
    aim = max(1, round(len(text) * (1 - share)))
    breaks = [cut + 1 for cut in (text.rfind("\n", 0, aim), text.find("\n", aim)) if 0 <= cut < len(text) - 1]
    cut = min(breaks, key=lambda position: abs(position - aim), default=min(aim, len(text) - 1))
    return text[:cut], text[cut:]
