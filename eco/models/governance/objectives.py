"""ComprehensiveTrainingLoss: what a language model is asked beside the next token, with answers that the text gives.

SIM-ONE's prototype had terms of these names, without targets. Here each has one: which concepts the next sentences
touch, which of many passages goes on, which book and genre this is, what a verse says when its reference is given. Each
term is a module in `terms` with a loss; its weight in the recipe decides whether there is one.
"""

from collections.abc import Callable

from torch import Tensor, nn

from eco.config import setting
from eco.models.contract import Batch, LanguageModelConfig
from eco.models.governance.terms import Concepts, Continuation, Genre, LogPartition, Recall, Reference, Term, View


class AuxiliaryConfig(LanguageModelConfig):
    """Base of the models with auxiliary losses: their weights beside the language model's loss; 0 leaves one out."""

    concept_weight: float = setting(0.0, "Which concepts do the next sentences touch?", flat="concept-weight", ge=0)
    continuation_weight: float = setting(0.0, "Which passage comes next?", flat="continuation-weight", ge=0)
    reference_weight: float = setting(0.0, "Which book is this, and which quarter?", flat="reference-weight", ge=0)
    genre_weight: float = setting(0.0, "Which genre is this?", flat="genre-weight", ge=0)
    recall_weight: float = setting(0.0, "How does the verse of this reference begin?", flat="recall-weight", ge=0)
    policy_weight: float = setting(0.0, "Keeps the policy's features small.", flat="policy-weight", ge=0)
    memory_weight: float = setting(0.0, "Keeps the memory's gates shut.", flat="memory-weight", ge=0)
    energy_weight: float = setting(0.0, "Keeps the logits' scale in place (z-loss).", flat="energy-weight", ge=0)
    books: int = setting(66, "Documents that the reference head tells apart.", gt=1)
    genres: int = setting(8, "Categories that the genre head tells apart.", gt=1)


class ComprehensiveTrainingLoss(nn.Module):
    """The auxiliary losses whose weight is above 0, and no parameter of any other.

    The losses `policy` and `memory` are computed by the parts of those names; here are only their weights.
    """

    def __init__(self, config: AuxiliaryConfig) -> None:
        super().__init__()
        width: int = config.width  # type: ignore[attr-defined]  # every architecture has one
        self.loss_weights = {
            "concepts": config.concept_weight,
            "continuation": config.continuation_weight,
            "reference": config.reference_weight,
            "genre": config.genre_weight,
            "recall": config.recall_weight,
            "energy": config.energy_weight,
            "policy": config.policy_weight,
            "memory": config.memory_weight,
        }
        build: dict[str, Callable[[], Term]] = {
            "concepts": lambda: Concepts(width),
            "continuation": lambda: Continuation(width),
            "reference": lambda: Reference(width, config.books),
            "genre": lambda: Genre(width, config.genres),
            "recall": Recall,
            "energy": LogPartition,
        }
        self.terms = nn.ModuleDict({name: make() for name, make in build.items() if self.loss_weights[name] > 0})

    @property
    def labels(self) -> frozenset[str]:
        """What the terms read of a batch beside its tokens and targets."""
        return frozenset().union(*(_labels(term) for term in self.terms.values()))

    def forward(
        self, hidden: Tensor, embedded: Tensor, batch: Batch, head_weight: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, float | Tensor]]:
        """The losses by name, not yet weighted, and the metrics.

        hidden: (B, T, D), what the head reads. embedded: (B, T, D), the embeddings of the tokens. head_weight: (V, D).
        A term whose labels the batch has not got is left out: a probe, or training on answers that have none. One whose
        labels name no answer in this batch is 0.
        """
        view = View(hidden, embedded, batch, head_weight)
        losses: dict[str, Tensor] = {}
        metrics: dict[str, float | Tensor] = {}
        for name, term in self.terms.items():
            if _labels(term) <= batch.keys():
                losses[name], of_term = term(view)
                metrics |= of_term
        return losses, metrics


def _labels(term: nn.Module) -> frozenset[str]:
    assert isinstance(term, Term)
    return term.labels
