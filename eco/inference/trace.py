"""Looks on while a model reads a text: what surprised it, where each layer attended, which tokens mattered.

Nothing is trained and nothing changes: weights, buffers, random states and outputs stay bit for bit. It is the house's
trace head; saliency is the plain gradient times the input (Shrikumar et al., arXiv 1605.01713), not a prediction of it.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eco.data.concepts import CONCEPTS
from eco.inference.tokenizer import Tokenizer
from eco.models.contract import LanguageModel, evaluating
from eco.models.governance.objectives import ComprehensiveTrainingLoss
from eco.models.governance.terms import Concepts
from eco.models.layers.headed import HeadedModel

_SCORES = 1 << 22
"""Attention scores held at a time, 16 MB of fp32."""


class Attended(NamedTuple):
    """Where the T queries of one layer looked.

    entropy: (H, T) nats of each head's weights. positions: (T, top) int64 and weights: (T, top), the greatest weights,
    averaged over the heads, in falling order; those of the first queries, which see fewer keys than `top`, end in 0.
    """

    entropy: Tensor
    positions: Tensor
    weights: Tensor


def attended(q: Tensor, k: Tensor, scale: float, top: int) -> Attended:
    """Of softmax(scale q k^T), causal, in fp32. q: (H, T, D); k: (Hkv, T, D), where Hkv divides H.

    Queries are taken a few at a time, so that no (H, T, T) is ever held.
    """
    heads, count, _ = q.shape
    keys = k.float().repeat_interleave(heads // k.shape[0], 0).transpose(1, 2)
    columns = torch.arange(count, device=q.device)
    held = max(1, _SCORES // (heads * count))
    parts = []
    for first in range(0, count, held):
        rows = columns[first : first + held]
        scores = scale * q[:, rows].float() @ keys
        weights = scores.masked_fill(columns > rows[:, None], float("-inf")).softmax(-1)
        entropy = torch.special.entr(weights).sum(-1)
        values, places = weights.mean(0).topk(min(top, count), -1)
        parts.append(Attended(entropy, places, values))
    return Attended(
        torch.cat([part.entropy for part in parts], 1),
        torch.cat([part.positions for part in parts]),
        torch.cat([part.weights for part in parts]),
    )


def trace(
    model: LanguageModel, tokenizer: Tokenizer, text: str, layers: Sequence[int] | None = None, top: int = 5
) -> Iterator[dict[str, Any]]:
    """One object for each token of the text, ready for JSON.

    token, text, position: its id, what it stands for, its place in the text.
    surprisal: nats, by the tokens before it; None for the first of a window.
    importance: the sum over the width of |gradient of the window's total surprisal times the token's embedding|.
    layers: for each of `layers` (None: all) `entropy`, nats of each head's attention, and `attended`, the `top`
        positions with the greatest weights averaged over heads, with these; slots of memory are -1, -2, ...
    concepts: the `top` most probable concepts of the next sentences, where the model was trained to tell them.

    A text that is longer than the model's context is read in windows, which know nothing of each other.

    Raises:
        ValueError: the text is empty, there is no such layer, or the model's attention cannot be looked into.
    """
    tokens, chosen = tokenizer.encode(text), _chosen(model, layers)
    if not tokens:
        raise ValueError("there is no text to trace; give at least one character")
    if top < 1:
        raise ValueError(f"top is {top}; ask for at least 1 position")
    return _windows(model, tokenizer, tokens, chosen, top)


def _chosen(model: LanguageModel, layers: Sequence[int] | None) -> list[int]:
    blocks: Sequence[nn.Module] = list(model.blocks) if isinstance(model, HeadedModel) else []
    readable = [i for i, block in enumerate(blocks) if hasattr(getattr(block, "attention", None), "scores_inputs")]
    if not readable:
        raise ValueError(
            f"the attention of a {model.config.family} cannot be traced; that of gpt2, decoder or simone can"
        )
    for layer in layers or ():
        if layer not in readable:
            raise ValueError(f"layer {layer} cannot be traced; there is: {', '.join(map(str, readable))}")
    return readable if layers is None else sorted(set(layers))


def _windows(
    model: LanguageModel, tokenizer: Tokenizer, tokens: list[int], layers: list[int], top: int
) -> Iterator[dict[str, Any]]:
    context = model.config.context
    for first in range(0, len(tokens), context):
        part = tokens[first : first + context]
        with evaluating(model):
            seen = _read(model, torch.tensor([part], device=next(model.parameters()).device), layers, top)
        for place, token in enumerate(part):
            row: dict[str, Any] = {
                "token": token,
                "text": tokenizer.decode_bytes([token]).decode(errors="replace"),
                "position": first + place,
                "surprisal": seen.surprisal[place - 1] if place else None,
                "importance": seen.importance[place],
                "layers": {str(layer): _layer(seen.layers[layer], place, first) for layer in layers},
            }
            if seen.concepts is not None:
                values, which = seen.concepts[place].topk(min(top, len(CONCEPTS)))
                row["concepts"] = {CONCEPTS[i]: value for i, value in zip(which.tolist(), values.tolist(), strict=True)}
            yield row


def _layer(parts: list[Attended], place: int, first: int) -> dict[str, Any]:
    """What one layer says of one token; a model that reads by segments gives a part for each."""
    for part in parts:
        count = part.entropy.shape[1]
        if place < count:
            break
        place -= count
    where = [p + first if p >= 0 else p for p in part.positions[place].tolist()]
    pairs = zip(where, part.weights[place].tolist(), strict=True)
    return {"entropy": part.entropy[:, place].tolist(), "attended": [[p, weight] for p, weight in pairs if weight > 0]}


class _Seen(NamedTuple):
    """Of one window of T tokens. surprisal: T - 1 nats. importance: T. concepts: (T, C) probabilities."""

    surprisal: list[float]
    importance: list[float]
    layers: dict[int, list[Attended]]
    concepts: Tensor | None


def _read(model: LanguageModel, tokens: Tensor, layers: list[int], top: int) -> _Seen:
    """One forward and one backward pass over tokens (1, T)."""
    assert isinstance(model, HeadedModel)
    with torch.enable_grad():
        with _looking_on(model, layers, top) as (embedded, looked):
            hidden = model.hidden(tokens)
        logits = F.linear(hidden[0, :-1], model.head_weight).float()
        surprisal = F.cross_entropy(logits, tokens[0, 1:], reduction="none")
        # To the embeddings alone: the gradients of the weights are not touched. One token has nothing after it.
        (gradient,) = torch.autograd.grad(surprisal.sum(), embedded)
    importance = (gradient[0] * embedded[0].detach()[0]).abs().sum(-1)
    return _Seen(surprisal.tolist(), importance.tolist(), looked, _concepts(model, hidden[0].detach()))


@contextmanager
def _looking_on(
    model: HeadedModel, layers: list[int], top: int
) -> Iterator[tuple[list[Tensor], dict[int, list[Attended]]]]:
    """Collects the token embeddings (1, T, D), made a leaf of the graph, and where the layers look."""
    embedded: list[Tensor] = []
    looked: dict[int, list[Attended]] = {layer: [] for layer in layers}
    slots = getattr(model.config, "memory_slots", 0)

    def embed(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    def look(layer: int, module: Any, inputs: Any) -> None:
        before = sum(part.entropy.shape[1] for part in looked[layer])
        with torch.no_grad():
            q, k, scale = module.scores_inputs(*inputs[:2])
            entropy, positions, weights = attended(q[0], k[0], scale, top)
        places = torch.where(positions < slots, -1 - positions, positions - slots + before)
        looked[layer].append(Attended(entropy[:, slots:], places[slots:], weights[slots:]))

    with ExitStack() as hooks:
        hooks.enter_context(model.embedding.register_forward_hook(embed))
        for layer in layers:
            attention: Any = model.blocks[layer].attention
            hooks.enter_context(
                attention.register_forward_pre_hook(lambda module, inputs, layer=layer: look(layer, module, inputs))
            )
        yield embedded, looked


def _concepts(model: nn.Module, hidden: Tensor) -> Tensor | None:
    """(T, C) probabilities, where the model was trained to tell them."""
    objectives = getattr(model, "objectives", None)
    if not isinstance(objectives, ComprehensiveTrainingLoss) or "concepts" not in objectives.terms:
        return None
    term = objectives.terms["concepts"]
    assert isinstance(term, Concepts)
    return term.probabilities(hidden).detach()
