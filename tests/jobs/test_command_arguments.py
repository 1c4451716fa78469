"""What the commands make of their arguments, without a run."""

from types import SimpleNamespace

import pytest

from eco.cli import main
from eco.commands import generate


def test_asking_for_help_is_no_error(capsys):
    assert main(["resume", "--help"]) == 0
    assert main(["resume"]) == 2
    assert capsys.readouterr().out.count("usage: eco resume") == 2


@pytest.mark.parametrize("samples", [0, -2])
def test_the_engine_is_told_how_many_samples_even_if_that_is_none(monkeypatch, samples):
    asked = []

    def refuse(prompts, sampling, samples):
        asked.append(samples)
        raise ValueError("at least 1")

    engine = SimpleNamespace(generate=refuse, stream=lambda prompt, sampling: iter("text"))
    trained = SimpleNamespace(controlled=lambda control, guidance: engine)
    monkeypatch.setattr(generate, "load_language", lambda run, checkpoint: trained)
    assert main(["generate", "run", "--prompt", "a", "--samples", str(samples)]) == 1
    assert asked == [samples]
