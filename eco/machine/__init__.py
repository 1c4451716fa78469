"""The machine: what it has, the settings that heavy work needs on it, the dtype of each phase, and what is missing.

torch is imported inside the functions, so that commands which compute nothing start fast.
"""

from eco.machine.checks import Check, doctor
from eco.machine.dtypes import DtypeChoice, decoding_dtype, training_dtype
from eco.machine.hardware import Gpu, Machine, compiler, inspect, instruction_sets, usable_cores
from eco.machine.settings import Settings, cache_folder, malloc_keeps_memory, prepare

__all__ = [
    "Check", "DtypeChoice", "Gpu", "Machine", "Settings", "cache_folder", "compiler", "decoding_dtype", "doctor",
    "inspect", "instruction_sets", "malloc_keeps_memory", "prepare", "training_dtype", "usable_cores",
]  # fmt: skip
