"""The names that SIM-ONE's prototype promised, for those who look for them. Each is Eco's class of that kind.

docs/simone.md says what became of what they stood for.
"""

from eco.data.tokenizer import Tokenizer as AdvancedBPETokenizer
from eco.models.governance.attention import GovernedAttention as EnhancedGovernanceAttention
from eco.models.governance.objectives import ComprehensiveTrainingLoss
from eco.models.governance.prophetic import PropheticSingularityState
from eco.models.layers.mlp import SwiGLU
from eco.models.layers.moe import MoE as MoELayer
from eco.models.layers.norm import RMSNorm
from eco.models.simone import Simone as EnhancedSIMONEModel
from eco.recipe import Recipe as PrioritaryConfig
from eco.training.trainer import Trainer as EnhancedPrioritaryTrainer

BiblicalBPETokenizer = AdvancedBPETokenizer
ComprehensiveBiblicalLoss = ComprehensiveTrainingLoss

__all__ = [
    "AdvancedBPETokenizer",
    "BiblicalBPETokenizer",
    "ComprehensiveBiblicalLoss",
    "ComprehensiveTrainingLoss",
    "EnhancedGovernanceAttention",
    "EnhancedPrioritaryTrainer",
    "EnhancedSIMONEModel",
    "MoELayer",
    "PrioritaryConfig",
    "PropheticSingularityState",
    "RMSNorm",
    "SwiGLU",
]
