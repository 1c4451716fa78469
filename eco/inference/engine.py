"""Generates text with any language model: batched, cached, seeded for each row."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from eco import machine
from eco.inference.completion import Completion
from eco.inference.growth import grow
from eco.inference.healing import take_back
from eco.inference.prefix_cache import PrefixCache
from eco.inference.row import Row
from eco.inference.sampling import Sampling, uniforms
from eco.inference.text import GrowingText
from eco.inference.tokenizer import Tokenizer
from eco.models.contract import LanguageModel, evaluating

_END = object()


class Engine:
    """Continues prompts with `model`. It computes in fp32 on the CPU and under bf16 autocast on a GPU that has it.

    batch_tokens: most cache positions (rows x the longest row) of one batch; more rows are generated in several
        batches. A position costs 2 x layers x kv_heads x head size numbers.
    prefix_cache: keeps the beginnings of prompts for those that begin alike; None: each prompt is computed anew.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        batch_tokens: int = 32_768,
        prefix_cache: PrefixCache | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.batch_tokens = batch_tokens
        self.prefix_cache = prefix_cache

    def generate(self, prompts: Sequence[str], sampling: Sampling, samples: int = 1) -> list[list[Completion]]:
        """`samples` continuations of each prompt, in the order of the prompts.

        A continuation depends on the seed, its prompt and its sample number, not on the rest of the batch; a prompt
        that is given again counts on as further samples. (Matrix products of different batch sizes may differ in the
        last bit; where two tokens tie to within that, so may the text.) It ends early, with finish "length", where the
        model's context is full.

        Raises:
            ValueError: a prompt is empty or leaves no room for a token in the context; `samples` is below 1.
        """
        if samples < 1:
            raise ValueError(f"samples is {samples}; ask for at least 1")
        seen: Counter[str] = Counter()
        rows = []
        for prompt in prompts:
            tokens = self._encode(prompt)
            first = seen[prompt] * samples
            seen[prompt] += 1
            rows += [self._row(prompt, tokens, sampling, first + sample) for sample in range(samples)]
        with evaluating(self.model):
            for batch in self._batches(rows, sampling.max_new_tokens):
                with self._computing():
                    for _ in grow(self.model, self.tokenizer, batch, sampling, self.prefix_cache):
                        pass
        done = [row.completion() for row in rows]
        return [done[at : at + samples] for at in range(0, len(done), samples)]

    def stream(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        """The text of `generate([prompt], sampling)` in pieces, as soon as each is certain.

        A piece never ends inside a character or inside what may become a stop string. The model stays in evaluation
        mode until the iterator ends or is closed. Raises ValueError as `generate` does.
        """
        return self._pieces(self._row(prompt, self._encode(prompt), sampling, 0), sampling)

    def _pieces(self, row: Row, sampling: Sampling) -> Iterator[str]:
        with evaluating(self.model):
            steps = grow(self.model, self.tokenizer, [row], sampling, self.prefix_cache)
            while True:
                with self._computing():  # never held across a yield: the caller's code must not run under it
                    ended = next(steps, _END) is _END
                if piece := row.text.show(final=ended):
                    yield piece
                if ended:
                    return

    def _encode(self, prompt: str) -> list[int]:
        tokens = self.tokenizer.encode(prompt)
        context = self.model.config.context
        if not tokens:
            raise ValueError("a prompt is empty; give at least one character to continue")
        if len(tokens) >= context:
            raise ValueError(
                f"a prompt of {len(tokens)} tokens leaves no room in the model's context of {context}; "
                f"shorten it to at most {context - 1} tokens (it begins {prompt[:40]!r})"
            )
        return tokens

    def _row(self, prompt: str, tokens: list[int], sampling: Sampling, sample: int) -> Row:
        kept, taken_back = take_back(tokens, self.tokenizer)
        limit = min(sampling.max_new_tokens, self.model.config.context - len(kept))
        text = GrowingText(sampling.stop, known=len(taken_back))
        return Row(kept, taken_back, limit, uniforms(sampling.seed, prompt, sample, limit), text)

    def _batches(self, rows: list[Row], max_new_tokens: int) -> Iterator[list[Row]]:
        """Rows of similar length together, or of equal length for a model without left padding, within the bound on
        memory; a row too long for it goes alone."""
        batch: list[Row] = []
        for row in sorted(rows, key=lambda row: len(row.prompt), reverse=True):
            length = len((batch or [row])[0].prompt)
            full = (len(batch) + 1) * (length + max_new_tokens) > self.batch_tokens
            if batch and (full or not (self.model.left_padding or len(row.prompt) == length)):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """No gradients, and the dtype that decodes fastest on this device."""
        device = next(self.model.parameters()).device
        lower = machine.decoding_dtype(device.type).dtype == "bf16"
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=lower):
            yield
