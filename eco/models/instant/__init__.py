"""INSTANT: training without keeping all activations. docs/instant.md tells how it is used."""

from eco.models.instant.apply import apply_instant
from eco.models.instant.config import InstantConfig
from eco.models.instant.model import InstantModel

__all__ = ["InstantConfig", "InstantModel", "apply_instant"]
