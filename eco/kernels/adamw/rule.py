"""What one AdamW step does to every weight, and its constants in the order in which both paths use them."""

import ctypes
from dataclasses import dataclass
from math import sqrt


@dataclass(frozen=True)
class Rule:
    """How a step moves the weights; `count` steps have been taken with this one, from 1 on."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    count: int


class Factors(ctypes.Structure):
    """fp32, so that plain torch and the C++ multiply by the same numbers."""

    _fields_ = (
        ("beta1", ctypes.c_float),
        ("one_less_beta1", ctypes.c_float),
        ("beta2", ctypes.c_float),
        ("one_less_beta2", ctypes.c_float),
        ("decay", ctypes.c_float),  # of the weight
        ("root", ctypes.c_float),  # turns the root of the square into that of the unbiased one
        ("eps", ctypes.c_float),
        ("size", ctypes.c_float),  # of the update, with the mean's bias taken out
        ("key", ctypes.c_uint32),  # of the random bits
    )


def factors(rule: Rule, key: int) -> Factors:
    """The constants of a step whose random bits are named by `key`."""
    return Factors(
        rule.beta1,
        1 - rule.beta1,
        rule.beta2,
        1 - rule.beta2,
        1 - rule.lr * rule.weight_decay,
        1 / sqrt(1 - rule.beta2**rule.count),
        rule.eps,
        rule.lr / (1 - rule.beta1**rule.count),
        key,
    )
