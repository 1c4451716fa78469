"""A language model of Eco for the tasks of lm-evaluation-harness (`lm-eval`, in the extra `eval`)."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eco.inference.engine import Engine
from eco.inference.sampling import Sampling
from eco.training.precision import Precision

try:
    from lm_eval import simple_evaluate
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager
except ImportError as error:
    raise ValueError("tasks of lm-eval need a package that is not installed; pip install 'eco-lm[eval]'") from error

_POSITIONS = 4096
"""Most positions (rows x the longest row) of a scored batch; each takes a row of logits."""

_MAX_NEW_TOKENS = 256
"""Where a task does not say how long an answer may be; lm-eval's own models take the same."""


class Window(NamedTuple):
    """Some tokens with those before them that the model can see. scored: how many of the last ones are asked for."""

    tokens: list[int]
    scored: int


class EcoLM(LM):  # type: ignore[misc,unused-ignore]
    """Answers the harness: log-likelihoods in nats, of the model's whole distribution, and continuations.

    The first token of a document is conditioned on the end of the document before, as in training. A text longer than
    the context is scored in windows, of which each but the first sees what is before it as far as the context reaches;
    a prompt longer than the context loses its beginning.
    """

    def __init__(self, engine: Engine, precision: Precision) -> None:
        super().__init__()
        engine.model.eval()
        self.engine = engine
        self.precision = precision

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """For each (context, continuation) the continuation's log-probability, and whether it is the greedy one.

        Scored are the tokens of the whole text from the first that the context alone does not have, so that a token
        which spans both belongs to the continuation.
        """
        return self._scores([self._pair(*request.args) for request in requests])

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each whole text; every token counts once."""
        eos = self.engine.tokenizer.eos
        documents = [([eos, *self._tokens(request.args[0])], 1) for request in requests]
        return [nats for nats, _ in self._scores(documents)]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The continuation of each (context, settings) up to one of `settings["until"]`."""
        answers = [""] * len(requests)
        by_sampling: dict[Sampling, list[int]] = {}
        for index, request in enumerate(requests):
            by_sampling.setdefault(_sampling(request.args[1]), []).append(index)
        for sampling, indices in by_sampling.items():
            prompts = [self._fitting(requests[index].args[0], sampling) for index in indices]
            for index, (completion,) in zip(indices, self.engine.generate(prompts, sampling), strict=True):
                answers[index] = completion.text
        return answers

    def _pair(self, context: str, continuation: str) -> tuple[list[int], int]:
        """The tokens of both together, and the number of the first one to score."""
        whole = self._tokens(context + continuation)
        alone = self._tokens(context)
        same = next((i for i, pair in enumerate(zip(alone, whole, strict=False)) if pair[0] != pair[1]), len(alone))
        return (whole, same) if same else ([self.engine.tokenizer.eos, *whole], 1)

    def _tokens(self, text: str) -> list[int]:
        return list(self.engine.tokenizer.encode(text))

    @torch.no_grad()
    def _scores(self, texts: Sequence[tuple[list[int], int]]) -> list[tuple[float, bool]]:
        """For each (tokens, first): the log-probability of the tokens from `first` on, and whether all are greedy."""
        context = self.engine.model.config.context
        cut = [(owner, window) for owner, text in enumerate(texts) for window in windows(*text, context)]
        cut.sort(key=lambda pair: len(pair[1].tokens), reverse=True)
        nats, greedy = [0.0] * len(texts), [True] * len(texts)
        rows = max(1, _POSITIONS // context)
        for first in range(0, len(cut), rows):
            owners, batch = zip(*cut[first : first + rows], strict=True)
            for owner, logits, window in zip(owners, self._logits(batch), batch, strict=True):
                targets = torch.tensor(window.tokens[-window.scored :], device=logits.device)
                chosen = logits.log_softmax(-1, dtype=torch.float32).gather(-1, targets[:, None])
                nats[owner] += float(chosen.double().sum())
                greedy[owner] &= bool((logits.argmax(-1) == targets).all())
        return list(zip(nats, greedy, strict=True))

    def _logits(self, batch: Sequence[Window]) -> Iterator[Tensor]:
        """For each window the logits (scored, V) of its scored tokens. Rows are padded behind, where no token looks."""
        model, device = self.engine.model, self.precision.device
        longest = max(len(window.tokens) for window in batch) - 1
        padded = [window.tokens[:-1] + [0] * (longest - len(window.tokens) + 1) for window in batch]
        with self.precision.autocast():
            logits = model(torch.tensor(padded, device=device))[..., : self.engine.tokenizer.vocab_size]
        for row, window in zip(logits, batch, strict=True):
            end = len(window.tokens) - 1
            yield row[end - window.scored : end]

    def _fitting(self, prompt: str, sampling: Sampling) -> str:
        """The end of a prompt that leaves room for the answer, or half of the context where that is more."""
        context = self.engine.model.config.context
        room = max(context - sampling.max_new_tokens, context // 2)
        tokens = self._tokens(prompt)
        if len(tokens) <= room:
            return prompt
        return self.engine.tokenizer.decode_bytes(tokens[-room:]).decode(errors="ignore")


def windows(tokens: list[int], first: int, context: int) -> Iterator[Window]:
    """Cuts a text so that each token from `first` on (at least 1) is scored once, with all the context there is room
    for in the last window of `context` inputs and one token more."""
    for begin in range(first, len(tokens), context):
        end = min(begin + context, len(tokens))
        yield Window(tokens[max(0, end - context - 1) : end], end - begin)


def measure(engine: Engine, precision: Precision, tasks: Sequence[str], limit: int = 0) -> dict[str, dict[str, float]]:
    """What lm-eval reports: task -> metric -> value, standard errors among the metrics.

    tasks: names that `lm_eval ls tasks` lists, or paths of YAML files. limit: questions of each, at most; 0: all.

    Raises:
        ValueError: lm-eval knows no such task.
    """
    manager = TaskManager()
    unknown = [name for name in tasks if not name.endswith(".yaml") and not manager.match_tasks([name])]
    if unknown:
        raise ValueError(f"lm-eval has no task {', '.join(unknown)}; `lm_eval ls tasks` lists them")
    report = simple_evaluate(
        EcoLM(engine, precision), tasks=list(tasks), limit=limit or None, task_manager=manager, log_samples=False
    )
    return {
        name: {metric: value for metric, value in figures.items() if isinstance(value, int | float)}
        for name, figures in report["results"].items()
    }


def _sampling(settings: dict[str, Any]) -> Sampling:
    """What a task asks of a generation; greedy unless it says `do_sample`."""
    until = settings.get("until") or []
    stop = tuple(filter(None, [until] if isinstance(until, str) else until))
    temperature = settings.get("temperature", 1.0) if settings.get("do_sample") else 0.0
    return Sampling(
        max_new_tokens=settings.get("max_gen_toks", _MAX_NEW_TOKENS),
        temperature=temperature,
        top_k=settings.get("top_k", 0),
        top_p=settings.get("top_p", 1.0),
        stop=stop,
    )
