"""What one AdamW step does to every weight: its constants, in the order in which both paths use them, and its hash."""

import ctypes
from dataclasses import dataclass
from math import sqrt
from typing import TypeVar

from torch import Tensor

_Bits = TypeVar("_Bits", int, Tensor)


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


def mix(x: _Bits) -> _Bits:
    """32 bits, an int or each element of an int64 tensor, hashed to 32 bits: the finaliser of MurmurHash3."""
    x = (x ^ x >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    x = (x ^ x >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return x ^ x >> 16
