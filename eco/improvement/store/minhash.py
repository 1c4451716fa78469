"""MinHash (Broder, 1997): how much two texts have in common, from short signatures."""

import re

import numpy as np
import numpy.typing as npt
import xxhash

Signature = npt.NDArray[np.uint64]
"""(PERMUTATIONS,): for each of them the least hash of the text's shingles."""

PERMUTATIONS = 256
"""The estimate's standard deviation is sqrt(J (1 - J) / 256): 0.025 at a Jaccard index J of 0.8."""

_SHINGLE = 3
_TOKEN = re.compile(r"\w+|[^\w\s]")

_rng = np.random.default_rng(0)
_FACTORS = _rng.integers(1 << 63, size=PERMUTATIONS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_OFFSETS = _rng.integers(1 << 63, size=PERMUTATIONS, dtype=np.uint64)


def shingles(text: str) -> set[str]:
    """Every run of three tokens, words or signs; of a shorter text all of it."""
    words = _TOKEN.findall(text)
    return {" ".join(words[first : first + _SHINGLE]) for first in range(max(1, len(words) - _SHINGLE + 1))}


def signature(text: str) -> Signature:
    hashes = [xxhash.xxh3_64_intdigest(shingle.encode("utf-8", "surrogatepass")) for shingle in shingles(text)]
    permuted: Signature = np.array(hashes, np.uint64)[:, None] * _FACTORS + _OFFSETS  # modulo 2^64
    least: Signature = permuted.min(axis=0)
    return least


def similarity(one: Signature, other: Signature) -> float:
    """An unbiased estimate of the Jaccard index of two texts' shingles."""
    return float((one == other).mean())
