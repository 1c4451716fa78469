"""What one C3O step does to a tensor: its constants, in the order in which both paths use them."""

import ctypes
from dataclasses import dataclass
from math import sqrt

REST = 0.01
"""The least root mean square that a tensor counts with when a step is measured against it, half of a usual initial
matrix: gates and biases that begin at zero can leave it."""


@dataclass(frozen=True)
class Rule:
    """How a step moves the weights; `count` steps have been taken with this one, from 1 on."""

    lr: float
    beta1: float
    beta2: float
    damping: float
    weight_decay: float
    radius: float
    count: int


class Factors(ctypes.Structure):
    """Of every element in fp32, of the whole tensor in float64, so that plain torch and the C++ compute alike."""

    _fields_ = (
        ("beta1", ctypes.c_float),
        ("one_less_beta1", ctypes.c_float),
        ("beta2", ctypes.c_float),
        ("one_less_beta2", ctypes.c_float),
        ("decay", ctypes.c_float),  # of the weight
        ("root", ctypes.c_float),  # turns the root of the square into that of the unbiased one
        ("damping", ctypes.c_float),
        ("key", ctypes.c_uint32),  # of the random bits
        ("size", ctypes.c_double),  # of the update, with the mean's bias taken out
        ("radius", ctypes.c_double),
        ("least_norm", ctypes.c_double),  # of the weight
    )


def factors(rule: Rule, key: int, elements: int) -> Factors:
    """The constants of a step of a tensor of so many elements, whose random bits are named by `key`."""
    return Factors(
        rule.beta1,
        1 - rule.beta1,
        rule.beta2,
        1 - rule.beta2,
        1 - rule.lr * rule.weight_decay,
        1 / sqrt(1 - rule.beta2**rule.count),
        rule.damping,
        key,
        rule.lr / (1 - rule.beta1**rule.count),
        rule.radius,
        REST * sqrt(elements),
    )
