"""An Eco cache in the form in which `generate` of `transformers` carries a cache along."""

from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from eco.models.contract import Cache as ModelCache
from eco.models.contract import LanguageModel


class EcoCache(Cache):  # type: ignore[misc,unused-ignore]
    """Holds a model's own cache, which the first forward pass makes: only that knows the rows and their padding.

    capacity: positions of a row that it is made for, left padding included.
    """

    is_compileable = False
    is_croppable = False

    def __init__(self, capacity: int) -> None:
        super().__init__(layers=[])
        self.capacity = capacity
        self.kept: ModelCache | None = None

    def of(self, model: LanguageModel, tokens: Tensor, attention_mask: Tensor | None) -> ModelCache:
        """The model's cache for the rows of `tokens` (B, T); `attention_mask` (B, T) counts in the first call only.

        Raises:
            ValueError: the mask hides a token behind the first visible one, which a cache would show to later tokens;
                or it hides one at all, and the model takes no left padding.
        """
        if self.kept is None:
            padding = None if attention_mask is None else left_padding(attention_mask)
            if padding is not None and not padding.any():
                padding = None
            if padding is not None and not model.left_padding:
                raise ValueError(
                    "a model that reads in segments takes no padding; give prompts of equal length, or one at a time"
                )
            self.kept = model.new_cache(len(tokens), self.capacity, padding)
        return self.kept

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.kept.length if self.kept is not None else 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i goes on as what row `beam_idx[i]` was: beam search."""
        assert self.kept is not None
        self.kept.keep(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        self.reorder_cache(indices)

    def update(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("Eco's layers write into their own cache")


def left_padding(attention_mask: Tensor) -> Tensor:
    """(B,) int64, the hidden positions before each row's first visible one.

    Raises:
        ValueError: a row also hides a later position.
    """
    visible = attention_mask.bool()
    padding = visible.long().argmax(1)
    behind = torch.arange(visible.shape[1], device=visible.device) >= padding[:, None]
    if not torch.equal(visible, behind):
        raise ValueError("a prompt is padded on the right; to generate, pad on the left (padding_side='left')")
    return padding
