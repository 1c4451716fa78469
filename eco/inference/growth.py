"""One batch of continuations, from the prompts to the last token."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from eco.inference.healing import only_continuing
from eco.inference.prefix_cache import PrefixCache
from eco.inference.row import Row
from eco.inference.sampling import Sampling, draw, log_probability
from eco.inference.tokenizer import Tokenizer
from eco.models.contract import Cache, LanguageModel


def grow(
    model: LanguageModel,
    tokenizer: Tokenizer,
    rows: list[Row],
    sampling: Sampling,
    prefix_cache: PrefixCache | None = None,
) -> Iterator[None]:
    """Adds tokens to all rows until each is finished; yields after every token but the last. Finished rows leave."""
    fused = model.fused_step()
    logits, cache = prefill(model, rows, fused is not None, prefix_cache)
    uniforms = pad_sequence([row.uniforms for row in rows], batch_first=True).to(logits.device)
    position = 0
    while True:
        logits = logits[:, : tokenizer.vocab_size]  # a model may have more rows than there are tokens
        choice = logits if position else only_continuing(logits, [row.taken_back for row in rows], tokenizer)
        tokens = draw(choice, uniforms[:, position], sampling)
        logprobs = log_probability(logits, tokens)
        for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
            row.add(token, logprob, None if token == tokenizer.eos else tokenizer.decode_bytes([token]))
        alive = [at for at, row in enumerate(rows) if row.finish is None]
        if not alive:
            return
        yield
        if len(alive) < len(rows):
            rows = [rows[at] for at in alive]
            kept = torch.tensor(alive, device=tokens.device)
            tokens, uniforms = tokens[kept], uniforms[kept]
            cache.keep(kept)
        logits = fused(tokens, cache) if fused else model(tokens[:, None], cache)[:, -1]
        position += 1


def prefill(
    model: LanguageModel, rows: list[Row], shared: bool, prefix_cache: PrefixCache | None = None
) -> tuple[Tensor, Cache]:
    """Logits (rows, V) of the first new token, and the cache. Samples of one prompt share its computation.

    shared: also its place in the cache, for the fused step.
    """
    number: dict[tuple[int, ...], int] = {}
    source = [number.setdefault(tuple(row.prompt), len(number)) for row in rows]
    longest = max(map(len, number))
    device = next(model.parameters()).device
    tokens = torch.tensor([(0,) * (longest - len(prompt)) + prompt for prompt in number], device=device)
    padding = torch.tensor([longest - len(prompt) for prompt in number], device=device)
    cache = model.new_cache(len(number), longest, padding if padding.any() else None)
    done = prefix_cache.restore(model, list(number), cache) if prefix_cache else 0
    logits = model(tokens[:, done:], cache, last_only=True)[:, -1]
    if prefix_cache:
        prefix_cache.keep(model, list(number), cache)
    of_rows = torch.tensor(source, device=device)
    cache.branch(of_rows, max(row.limit for row in rows), shared)
    return logits[of_rows], cache
