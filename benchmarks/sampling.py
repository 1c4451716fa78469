"""Sampling for reinforcement: 64 tasks x 8 completions at the demo's size, Eco's engine beside `transformers.generate`.

Both sample at temperature 1 from the same weights until a stop string, EOS or 64 new tokens. The weights are random,
which makes tokens nearly equally likely: every 23rd has the stop string, about as many as a solution has
tokens. transformers pads on the left, and a batch of it goes on until its last row has ended; it takes the better of
fp32 and bf16, in batches of the size that was its best (64 rows of 512, 64, 16). `python -m benchmarks.sampling` prints
the rows.
"""

import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.measure import Row, alternate, seconds
from eco.data.sources import stdlib
from eco.data.sources.contract import SourceOptions
from eco.data.tokenizer import Tokenizer, TokenizerConfig
from eco.inference import Engine, Sampling
from eco.models import decoder, huggingface
from eco.models.contract import LanguageModel, build_model
from eco.tasks.sets import open_tasks

WIDTH, LAYERS, HEADS, CONTEXT, VOCABULARY = 192, 6, 3, 256, 2048
TASKS, SAMPLES, NEW_TOKENS = 64, 8, 64
STOP = ("_",)
PEER_TASKS = 8
"""Prompts, of similar length, that the peer samples at a time."""

Generate = Callable[[], int]
"""Samples all completions; returns how many tokens they have."""


def rows(rounds: int = 5) -> list[Row]:
    """Medians in completions/s over alternating rounds."""
    tokenizer, model = _tokenizer(), _model()
    prompts = _prompts(tokenizer)
    everyone = {"eco fp32": _eco(model, tokenizer, prompts)}
    everyone |= _transformers(model, tokenizer, prompts)
    lengths: dict[str, float] = {}

    def speed(name: str, generate: Generate) -> float:
        def counted() -> None:
            lengths[name] = generate() / (TASKS * SAMPLES)

        return TASKS * SAMPLES / seconds(counted)

    timed: dict[str, Callable[[], float]] = {
        name: partial(speed, name, generate) for name, generate in everyone.items()
    }
    medians = {name: statistics.median(values) for name, values in alternate(timed, rounds).items()}
    peer = max((value for name, value in medians.items() if not name.startswith("eco")), default=None)
    return [
        Row(
            f"sample x{TASKS * SAMPLES}: {name}",
            value,
            "completions/s",
            peer_ratio=value / peer if peer and name.startswith("eco") else None,
            note=f"{TASKS} prompts x {SAMPLES}, {lengths[name]:.1f} tokens each, at most {NEW_TOKENS}",
        )
        for name, value in medians.items()
    ]


def _tokenizer() -> Tokenizer:
    return Tokenizer.train(stdlib.documents("", SourceOptions()), TokenizerConfig(vocab_size=VOCABULARY))


def _prompts(tokenizer: Tokenizer) -> list[str]:
    """In the order of their length, each with room for all new tokens."""
    tasks = open_tasks("synthesis:1", "train", 2 * TASKS)
    fitting = [task.prompt for task in tasks if len(tokenizer.encode(task.prompt)) + NEW_TOKENS <= CONTEXT]
    return sorted(fitting[:TASKS], key=len)


def _model() -> LanguageModel:
    config = decoder.Config(width=WIDTH, layers=LAYERS, heads=HEADS, context=CONTEXT, vocab_size=VOCABULARY)
    model = build_model(decoder.build, config, 0, torch.device("cpu")).eval()
    assert isinstance(model, LanguageModel)
    return model


def _eco(model: LanguageModel, tokenizer: Tokenizer, prompts: Sequence[str]) -> Generate:
    engine = Engine(model, tokenizer)
    sampling = Sampling(temperature=1.0, max_new_tokens=NEW_TOKENS, stop=STOP)

    def generate() -> int:
        drawn = engine.generate(prompts, sampling, SAMPLES)
        return sum(len(completion.tokens) for of_prompt in drawn for completion in of_prompt)

    return generate


def _transformers(model: LanguageModel, tokenizer: Tokenizer, prompts: Sequence[str]) -> dict[str, Generate]:
    """The same weights in both precisions; none where it is not installed."""
    try:
        from transformers import AutoModelForCausalLM

        from eco.models.huggingface.tokenizer import as_transformers
    except (ImportError, ValueError):
        return {}

    theirs = as_transformers(tokenizer, CONTEXT)

    def peer(dtype: torch.dtype) -> Generate:
        with tempfile.TemporaryDirectory() as folder:
            huggingface.save(model, Path(folder), tokenizer.eos)
            loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()

        def generate() -> int:
            tokens = 0
            for first in range(0, len(prompts), PEER_TASKS):
                asked = theirs(list(prompts[first : first + PEER_TASKS]), return_tensors="pt", padding=True)
                drawn = loaded.generate(
                    input_ids=asked["input_ids"], attention_mask=asked["attention_mask"], do_sample=True,
                    temperature=1.0, top_k=0, max_new_tokens=NEW_TOKENS, num_return_sequences=SAMPLES,
                    stop_strings=list(STOP), tokenizer=theirs, pad_token_id=tokenizer.pad,
                )  # fmt: skip
                tokens += int((drawn[:, asked["input_ids"].shape[1] :] != tokenizer.pad).sum())
            return tokens

        return generate

    return {"transformers fp32": peer(torch.float32), "transformers bf16": peer(torch.bfloat16)}


if __name__ == "__main__":
    for row in rows():
        peer = f"{row.peer_ratio:.2f} of the best peer" if row.peer_ratio else ""
        print(f"{row.name:34} {row.value:8.1f} {row.unit}  {peer:22} {row.note}")
