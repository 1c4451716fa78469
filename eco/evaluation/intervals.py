"""How far off a measured share, or the mean of a few measurements, may be."""

from collections.abc import Sequence
from math import atan, cos, pi, sin, sqrt
from statistics import NormalDist, mean, stdev


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


def student(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Student's t interval (Biometrika 6, 1908) for the mean of which `values` are independent measurements.

    For paired measurements give the differences: what both share, such as the seed, is then no noise. It takes the
    differences for normal, which a handful of seeds can neither show nor refute.

    Raises:
        ValueError: there are fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"an interval needs two measurements at least, not {len(values)}")
    half = t_quantile(len(values) - 1, confidence) * stdev(values) / sqrt(len(values))
    return mean(values) - half, mean(values) + half


def t_quantile(freedom: int, confidence: float = 0.95) -> float:
    """The t that a variable of `freedom` degrees of freedom stays within, +-t, with probability `confidence`."""
    low, high = 0.0, 1.0
    while _within(high, freedom) < confidence:
        high *= 2
    for _ in range(64):  # halves the bracket down to the last bit
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < confidence else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """P(|T| <= t), the finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = atan(t / sqrt(freedom))
    term, total = (cos(angle), 0.0) if freedom % 2 else (1.0, 0.0)
    for k in range(1 + freedom % 2, freedom, 2):
        total += term
        term *= cos(angle) ** 2 * k / (k + 1)
    return 2 / pi * (angle + sin(angle) * total) if freedom % 2 else sin(angle) * total
