"""`eco generate --control` and `Trained.generate(control=...)` reach the model."""

import json
from pathlib import Path

import pytest
import torch

from eco.cli import main
from eco.commands import generate
from eco.data.tokenizer import Tokenizer, TokenizerConfig
from eco.inference import Engine, Sampling
from eco.inference.guidance import Guided
from eco.jobs.load import Trained
from eco.models import simone
from eco.models.contract import build_model
from eco.recipe import Recipe

GREEDY = {"temperature": 0.0, "max_new_tokens": 8}


@pytest.fixture
def trained(monkeypatch):
    """As if a run had been loaded, its weights away from where they start."""
    config = simone.Config(vocab_size=300, context=32, width=32, layers=1, heads=2, control=True)
    model = build_model(simone.build, config, 0, torch.device("cpu")).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    tokenizer = Tokenizer.train(["abc"], TokenizerConfig(vocab_size=300))
    made = Trained(Path("run"), Recipe.model_construct(), tokenizer, model, 1)
    monkeypatch.setattr(generate, "load_language", lambda run, checkpoint: made)
    return made


def test_from_python_and_on_the_command_line(trained, capsys):
    def expected(control, guidance):
        guided = Guided(trained.model, control, guidance)
        return Engine(guided, trained.tokenizer).generate(["abc"], Sampling(**GREEDY))[0][0].text

    control = "quality=1.0,priority=high"
    texts = [trained.generate("abc", **GREEDY), expected(control, 1.0), expected(control, 3.0)]
    assert len(set(texts)) == 3
    assert trained.generate("abc", control=control, **GREEDY) == texts[1]
    assert trained.generate("abc", control={"quality": 1, "priority": "high"}, guidance=3, **GREEDY) == texts[2]
    words = ["generate", "run", "--prompt", "abc", "--temperature", "0", "--max-new-tokens", "8", "--control", control]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["completions"][0]["text"] == texts[1]
    assert main([*words, "--guidance", "3"]) == 0
    assert capsys.readouterr().out == f"abc{texts[2]}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--control", "qualiti=1"], "no channel 'qualiti'; did you mean 'quality'"),
        (["--control", "quality=10"], "give a number from 0 to 1"),
        (["--control", "quality=1", "--guidance", "-2"], "guidance is -2.0"),
        (["--guidance", "2"], "has no control to strengthen"),
    ],
)
def test_what_does_not_fit_is_told(trained, capsys, words, message):
    assert main(["generate", "run", "--prompt", "abc", *words]) == 1
    assert message in capsys.readouterr().err
