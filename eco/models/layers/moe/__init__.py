"""Mixtures of experts."""

from eco.models.layers.moe.experts import SharedExpert
from eco.models.layers.moe.information import RibConfig
from eco.models.layers.moe.moe import Dispatch, MoE, Routing

__all__ = ["Dispatch", "MoE", "RibConfig", "Routing", "SharedExpert"]
