"""README.md of a bundle: the model card (Mitchell et al., arXiv 1810.03993), written from the facts alone."""

import shlex
from collections.abc import Mapping

from eco.ship.archive import SUFFIX
from eco.ship.bundle import HELD_OUT, HUGGINGFACE, Facts

_NOT_FOR = """\
It continues text in the manner of what it was trained on, and nothing checks what it says. Do not use it

- as a source of facts, quotations or references: it invents them, also chapter and verse, and they look right;
- for advice that people act on: on health, law, money, safety, faith;
- to judge, rank or decide about people;
- as the voice of a real person or body without saying that a model wrote it;
- to run code that it wrote anywhere but in a sandbox.

It was not tested for bias, and repeats what its data say about people."""


def card(facts: Facts, transformers: bool) -> str:
    """Markdown. transformers: the bundle holds the model in that format too."""
    averaged = ", the mean of its weights over the last steps" if facts.averaged else ""
    parts = [
        f"# {facts.name}",
        f"A language model of the family `{facts.family}` with {sum(facts.parameters.values()):,} parameters, a "
        f"vocabulary of {facts.vocabulary:,} tokens and a context of {facts.context:,}. It was trained by "
        f"Eco {facts.made_with['eco']} in {facts.made_with['precision']}; this is its checkpoint `{facts.checkpoint}`, "
        f"step {facts.step:,}{averaged}.",
        "## Sizes",
        _table(("component", "parameters"), {name: f"{count:,}" for name, count in facts.parameters.items()}),
        "## Data",
        _data(facts.data),
        "## Held-out figures",
        _table(("figure", "value"), {name: _number(value) for name, value in facts.held_out.items()}),
        f"`val_loss` is the mean cross-entropy in nats a token. {facts.held_out_source} The text behind it was never "
        f"trained on; its windows lie in `{HELD_OUT}`, so that `eco validate` can measure them again.",
        "## How to load it",
        _how_to_load(facts, transformers),
        "## What it must not be used for",
        _NOT_FOR,
        "## Licence",
        f"Of the data: {facts.data['licence'] or 'not stated by the run; ask where the data came from'}. The held-out "
        "windows in this bundle are such data. Who passes the model on answers for what their licence asks.",
    ]
    return "\n\n".join(parts) + "\n"


def _data(data: Mapping[str, object]) -> str:
    sizes = {name: f"{value:,}" for name, value in data.items() if isinstance(value, int)}
    sources = f" ({data['sources']})" if data["sources"] else ""
    return f"Trained on {data['names']}{sources}.\n\n" + _table(("what", "number"), sizes)


def _how_to_load(facts: Facts, transformers: bool) -> str:
    prompt = repr(facts.prompts[0])
    archive, bundle = shlex.quote(f"{facts.name}{SUFFIX}"), shlex.quote(facts.name)
    shell = f"```sh\neco validate {archive}\neco generate {bundle} --prompt TEXT\n```"
    python = f"```python\nimport eco\n\nprint(eco.load({facts.name!r}).generate({prompt}))\n```"
    theirs = (
        "\n\nWithout Eco:\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"model = AutoModelForCausalLM.from_pretrained({f'{facts.name}/{HUGGINGFACE}'!r})\n"
        f"tokenizer = AutoTokenizer.from_pretrained({f'{facts.name}/{HUGGINGFACE}'!r})\n```"
    )
    return f"{shell}\n\n{python}" + (theirs if transformers else "")


def _table(head: tuple[str, str], rows: Mapping[str, str]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---:|", *(f"| {name} | {value} |" for name, value in rows.items())]
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
