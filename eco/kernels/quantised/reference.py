"""Stochastic rounding to the grid of a group written out, one number at a time, in float64."""

from math import floor

from torch import Tensor


def quantise(x: Tensor, bits: int, drawn: Tensor) -> tuple[list[int], float, float]:
    """Codes, low and step of one group; `drawn`: a number in [0, 1) for each of x.

    The ends of the grid are not rounded to bf16 here: step and low are exact.
    """
    numbers, levels = x.tolist(), 2**bits - 1
    low = min(numbers)
    span = max(numbers) - low
    whole = all(number == round(number) for number in numbers)
    step = 1.0 if whole and span <= levels else span / levels
    codes = [floor((number - low) / step + u) if step else 0 for number, u in zip(numbers, drawn.tolist(), strict=True)]
    return codes, low, step
