"""Decoding, 6 layers x 384, 6 heads, context 256, vocabulary 256, fp32, greedy: Eco beside its peers and the floor.

The floor is the time to read all weights once per token, as the faster of torch's matrix-vector products and sums over
the same matrices. `python -m benchmarks.decoding` prints the rows.
"""

import importlib.util
import statistics
from collections.abc import Callable, Sequence

import torch

from benchmarks.measure import Row, alternate, seconds
from eco.inference import Engine, Sampling
from eco.models import decoder, gpt2
from eco.models.contract import LanguageModel, build_model

LAYERS, WIDTH, HEADS, CONTEXT, VOCABULARY = 6, 384, 6, 256, 256
PROMPT, NEW_TOKENS = 16, 200
BATCH, BATCH_NEW_TOKENS = 32, 64
FLOOR = "reading the weights"

Generate = Callable[[int, int], object]
"""(rows, new tokens) -> the peer's own result."""


def rows(rounds: int = 5) -> list[Row]:
    """Medians in tokens/s over alternating rounds: one sequence of 200 new tokens, then 32 sequences of 64 at once."""
    engines: dict[str, Generate] = {f"eco {model.config.family}": _eco(model) for model in _models()}
    peers = _peers()
    everyone = engines | peers
    matrices = _matrices(_models()[0])
    single = {name: _speed(generate, 1, NEW_TOKENS) for name, generate in everyone.items()}
    floors = {"matrix-vector": lambda: 1 / _products(matrices), "sum": lambda: 1 / _sums(matrices)}
    samples = alternate(single | floors, rounds)
    floor = max(statistics.median(samples.pop(name)) for name in floors)
    batching = {name: generate for name, generate in everyone.items() if name != "litgpt"}
    batched = {name: _speed(generate, BATCH, BATCH_NEW_TOKENS) for name, generate in batching.items()}
    note = f"batch 1, prompt {PROMPT}, {NEW_TOKENS} new tokens"
    batch_note = f"batch {BATCH}, prompt {PROMPT}, {BATCH_NEW_TOKENS} new tokens each"
    return [
        *_rows("decode", samples, set(peers), floor, note),
        *_rows(f"decode x{BATCH}", alternate(batched, rounds), set(peers), None, batch_note),
    ]


def _rows(title: str, samples: dict[str, list[float]], peers: set[str], floor: float | None, note: str) -> list[Row]:
    speed = {name: statistics.median(values) for name, values in samples.items()}
    fastest = max((value for name, value in speed.items() if name in peers), default=None)
    return [
        Row(
            f"{title}: {name}",
            value,
            "tokens/s",
            limit_ratio=value / floor if floor else None,
            limit_name=FLOOR if floor else "",
            peer_ratio=value / fastest if fastest and name not in peers else None,
            note=note,
        )
        for name, value in speed.items()
    ]


def _speed(generate: Generate, count: int, new_tokens: int) -> Callable[[], float]:
    return lambda: count * new_tokens / seconds(lambda: generate(count, new_tokens))


def _matrices(model: LanguageModel) -> list[torch.Tensor]:
    """What one token must read: all but the embedding of positions (the head is the embedding of tokens)."""
    return [p.detach() for name, p in model.named_parameters() if p.ndim == 2 and not name.startswith("position")]


def _products(matrices: Sequence[torch.Tensor]) -> float:
    vectors = [torch.ones(matrix.shape[1]) for matrix in matrices]
    return _seconds_of_pass(lambda: [torch.mv(m, v) for m, v in zip(matrices, vectors, strict=True)])


def _sums(matrices: Sequence[torch.Tensor]) -> float:
    return _seconds_of_pass(lambda: [matrix.sum() for matrix in matrices])


def _seconds_of_pass(action: Callable[[], object], repeats: int = 100) -> float:
    def all_repeats() -> None:
        for _ in range(repeats):
            action()

    return seconds(all_repeats) / repeats


class _Bytes:
    """One token for each byte; none ends a document, so that all generate equally long."""

    eos = -1
    vocab_size = VOCABULARY

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return bytes(ids)


def _models() -> list[LanguageModel]:
    sizes = {"layers": LAYERS, "width": WIDTH, "heads": HEADS, "context": CONTEXT, "vocab_size": VOCABULARY}
    built = []
    for architecture in (gpt2, decoder):
        model = build_model(architecture.build, architecture.Config(**sizes), 0, torch.device("cpu")).eval()
        assert isinstance(model, LanguageModel)
        built.append(model)
    return built


def _eco(model: LanguageModel) -> Generate:
    engine = Engine(model, _Bytes())
    prompt = "x" * PROMPT

    def generate(count: int, new_tokens: int) -> object:
        return engine.generate([prompt], Sampling(temperature=0, max_new_tokens=new_tokens), samples=count)

    return generate


def _peers() -> dict[str, Generate]:
    """Those that are installed, each with a cache."""
    found: dict[str, Generate] = {}
    if importlib.util.find_spec("transformers"):
        found |= _transformers()
    if importlib.util.find_spec("litgpt"):
        found["litgpt"] = _litgpt()
    return found


def _transformers() -> dict[str, Generate]:
    from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = GPT2LMHeadModel(config).eval()

    def generate(count: int, new_tokens: int) -> object:
        prompt = torch.ones(count, PROMPT, dtype=torch.int64)
        return model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new_tokens, do_sample=False, pad_token_id=0
        )

    @torch.inference_mode()
    def loop(count: int, new_tokens: int) -> object:
        tokens, cache = torch.ones(count, PROMPT, dtype=torch.int64), DynamicCache(config=config)
        for _ in range(new_tokens):
            tokens = model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1).logits.argmax(-1)
        return tokens

    return {"transformers generate": generate, "transformers, own loop": loop}


def _litgpt() -> Generate:
    from litgpt import GPT, Config
    from litgpt.generate.base import generate as litgpt_generate

    config = Config(
        block_size=CONTEXT, vocab_size=VOCABULARY, padded_vocab_size=VOCABULARY, n_layer=LAYERS, n_head=HEADS,
        n_embd=WIDTH, bias=False,
    )  # fmt: skip
    model = GPT(config).eval()
    model.max_seq_length = PROMPT + NEW_TOKENS
    model.set_kv_cache(batch_size=1)

    @torch.inference_mode()
    def generate(count: int, new_tokens: int) -> object:
        assert count == 1
        prompt = torch.ones(PROMPT, dtype=torch.int64)
        return litgpt_generate(model, prompt, PROMPT + new_tokens, temperature=0.0, top_p=0.0)

    return generate


if __name__ == "__main__":
    for row in rows():
        limit = f"{row.limit_ratio:.2f} of {row.limit_name}" if row.limit_ratio else ""
        peer = f"{row.peer_ratio:.2f} of the best peer" if row.peer_ratio else ""
        print(f"{row.name:34} {row.value:8.0f} {row.unit}  {limit:30} {peer:22} {row.note}")
