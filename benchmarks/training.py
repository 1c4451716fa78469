"""A training step, 6 layers x 384, 6 heads, context 256, batch 8, vocabulary 256: Eco beside its peers and the limit.

Forward, backward, clipping at 1.0 and fused AdamW, in the dtype that Eco trains in on this machine. The share of the
limit is the model's FLOPs (6 per weight in a matrix product and token, plus 12 x layers x width x context per token;
PaLM's convention) per second over those of a 2048^3 product. `python -m benchmarks --only training` prints the rows.
"""

import importlib.util
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks import limits
from benchmarks.measure import Row, alternate, seconds
from eco import machine
from eco.models import decoder, gpt2
from eco.models.contract import build_model

LAYERS, WIDTH, HEADS, CONTEXT, BATCH, VOCABULARY = 6, 384, 6, 256, 8, 256
TOKENS = BATCH * CONTEXT
STEPS = 3
"""Timed in one sample, after one that is not."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""(tokens (B, T), the tokens after them (B, T)) -> the mean cross-entropy."""


@dataclass(frozen=True)
class Candidate:
    model: nn.Module
    loss: Loss
    is_peer: bool

    @property
    def flops(self) -> float:
        """Of one step. All matrices but tables of positions count; the embedding does where it is the head too."""
        parameters = dict(self.model.named_parameters())
        matrices = [
            (n, p) for n, p in parameters.items() if p.ndim == 2 and not n.endswith(("position.weight", "wpe.weight"))
        ]
        tables = [p.numel() for n, p in matrices if p.shape[0] == VOCABULARY]
        weights = sum(p.numel() for _, p in matrices) - (sum(tables) - tables[0])
        return TOKENS * (6.0 * weights + 12.0 * LAYERS * WIDTH * CONTEXT)


def rows(rounds: int = 5) -> list[Row]:
    """Medians in tokens/s over alternating rounds, each also as a share of the limit measured between them."""
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[machine.training_dtype("cpu").dtype]
    candidates = {name: candidate for group in (_eco(), _transformers(), _litgpt()) for name, candidate in group}
    limit = f"matmul {dtype}".replace("torch.", "")
    timed = {name: _speed(candidate, dtype) for name, candidate in candidates.items()}
    samples = alternate({**timed, limit: lambda: limits.matmul(dtype)}, rounds)
    median = {name: statistics.median(values) for name, values in samples.items()}
    fastest = max((median[name] for name, candidate in candidates.items() if candidate.is_peer), default=None)
    found = [
        Row(
            f"train 10M: {name}",
            median[name],
            "tokens/s",
            limit_ratio=candidate.flops * median[name] / TOKENS / median[limit],
            limit_name=limit,
            peer_ratio=median[name] / fastest if fastest and not candidate.is_peer else None,
            note=f"{TOKENS / median[name] * 1e3:.0f} ms a step",
        )
        for name, candidate in candidates.items()
    ]
    missing = [name for name in ("transformers", "litgpt") if not importlib.util.find_spec(name)]
    return found + [Row(f"train 10M: {name}", 0.0, "tokens/s", note="not installed") for name in missing]


def _speed(candidate: Candidate, dtype: torch.dtype) -> Callable[[], float]:
    """Measures tokens/s of some steps on one random batch."""
    generator = torch.Generator().manual_seed(0)
    sequences = torch.randint(VOCABULARY, (BATCH, CONTEXT + 1), generator=generator)
    tokens, targets = sequences[:, :-1].contiguous(), sequences[:, 1:].contiguous()
    parameters = list(candidate.model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = candidate.loss(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def measure() -> float:
        step()
        return STEPS * TOKENS / seconds(lambda: [step() for _ in range(STEPS)])

    return measure


def _eco() -> Iterator[tuple[str, Candidate]]:
    sizes = {"layers": LAYERS, "width": WIDTH, "heads": HEADS, "context": CONTEXT, "vocab_size": VOCABULARY}
    for name, architecture in (("decoder", decoder), ("gpt2", gpt2)):
        model = build_model(architecture.build, architecture.Config(**sizes), 0, torch.device("cpu"))

        def loss(tokens: Tensor, targets: Tensor, model: nn.Module = model) -> Tensor:
            return model.training_step({"tokens": tokens, "targets": targets}).losses["lm"]

        yield f"eco {name}", Candidate(model, loss, is_peer=False)


def _transformers() -> Iterator[tuple[str, Candidate]]:
    if not importlib.util.find_spec("transformers"):
        return
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    shape = {"n_positions": CONTEXT, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS}
    ends = {"bos_token_id": None, "eos_token_id": None, "use_cache": False, "attn_implementation": "sdpa"}
    gpt2_config = GPT2Config(vocab_size=VOCABULARY, **shape, **no_dropout, **ends)
    llama_config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=decoder.Config(width=WIDTH).resolved_feed_forward,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        **ends,
    )
    for name, model in (("GPT2", GPT2LMHeadModel(gpt2_config)), ("Llama", LlamaForCausalLM(llama_config))):
        model.train()
        yield (
            f"transformers {name}",
            Candidate(model, _of_logits(lambda tokens, m=model: m(tokens).logits), is_peer=True),
        )
        if machine.compiler():
            compiled = torch.compile(lambda tokens, m=model: m(tokens).logits)
            yield f"transformers {name}, compiled", Candidate(model, _of_logits(compiled), is_peer=True)


def _litgpt() -> Iterator[tuple[str, Candidate]]:
    if not importlib.util.find_spec("litgpt"):
        return
    from litgpt import GPT, Config

    config = Config(
        block_size=CONTEXT,
        vocab_size=VOCABULARY,
        padded_vocab_size=VOCABULARY,
        n_layer=LAYERS,
        n_head=HEADS,
        n_embd=WIDTH,
        bias=False,
    )
    model = GPT(config)
    yield "litgpt", Candidate(model, _of_logits(model), is_peer=True)
    if machine.compiler():
        yield "litgpt, compiled", Candidate(model, _of_logits(torch.compile(model)), is_peer=True)


def _of_logits(logits: Callable[[Tensor], Tensor]) -> Loss:
    def loss(tokens: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits(tokens).float().flatten(0, 1), targets.flatten())

    return loss
