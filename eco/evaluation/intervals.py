"""How far off a measured share may be."""

from math import sqrt
from statistics import NormalDist


def wilson(successes: float, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (JASA 22, 1927) for the probability behind `successes` out of `trials`.

    Unlike the normal approximation it stays within 0 to 1 and says something at 0 and at all. `successes` may be a sum
    of shares from 0 to 1 instead of a count: these vary less than counts of the same mean, so the interval is too wide
    rather than too narrow.

    Raises:
        ValueError: there was no trial.
    """
    if trials < 1:
        raise ValueError("nothing was measured: an interval needs at least one trial")
    assert 0 <= successes <= trials
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / trials
    middle = share + z * z / (2 * trials)
    half = z * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    below, above = ((middle + sign * half) / (1 + z * z / trials) for sign in (-1, 1))
    return max(0.0, min(share, below)), min(1.0, max(share, above))  # rounding may put an end a bit beyond
