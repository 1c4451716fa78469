"""Each check passes for a sound model and fails for the one fault that it is there to find."""

from dataclasses import replace

import pytest
import torch

from eco.data.tokenizer import Tokenizer, TokenizerConfig
from eco.evaluation.held_out import held_out_loss
from eco.inference import Completion
from eco.models import decoder, gpt2
from eco.models.contract import IGNORE, build_model
from eco.ship.bundle import Facts
from eco.ship.checks import CHECKS, Packed, repeated_share
from eco.ship.probe import Probe, machine_kind
from eco.training.precision import Precision

WINDOW = 24


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["def alpha(x):\n    return x + 1\n"] * 3, TokenizerConfig(vocab_size=280))


@pytest.fixture(params=["gpt2", "decoder"])
def packed(request, tokenizer):
    """A sound one, of an untrained model, whose facts are measured by the code that training uses."""
    kind = {"gpt2": gpt2, "decoder": decoder}[request.param]
    sizes = {"vocab_size": tokenizer.vocab_size, "context": WINDOW, "width": 32, "layers": 2, "heads": 2}
    model = build_model(kind.build, kind.Config(**sizes), seed=1, device=torch.device("cpu")).eval()
    tokens = torch.randint(8, tokenizer.vocab_size, (3, WINDOW), generator=torch.Generator().manual_seed(0))
    targets = tokens.roll(-1, 1)
    targets[:, -5:] = IGNORE
    windows = {"tokens": tokens, "targets": targets}
    lengths = torch.from_numpy(tokenizer.token_lengths)
    facts = Facts(
        name="small",
        family=request.param,
        checkpoint="best",
        step=1,
        averaged=False,
        vocabulary=tokenizer.vocab_size,
        context=WINDOW,
        parameters=model.parameter_table(),
        held_out=held_out_loss(model, [windows], lengths, Precision("fp32", torch.device("cpu"))),
        held_out_source="",
        prompts=("def ", "return x", "alpha(", "x + 1", "\n    ", "é"),
        data={},
        made_with={"machine": machine_kind()},
    )
    return Packed(model, tokenizer, facts, Probe.of(model, tokens[:1]), windows)


def failed(packed):
    return [name for name, check in CHECKS.items() if not check(packed).passed]


def test_a_sound_model_passes(packed):
    checks = {name: check(packed) for name, check in CHECKS.items()}
    assert [check.detail for check in checks.values() if not check.passed] == []
    assert [check.name for check in checks.values()] == list(CHECKS)
    assert checks["logits"].figures["bit_equal"] is True
    assert checks["held_out_loss"].figures["difference"] < 1e-6
    assert "fused_difference" in checks["cache"].figures


def test_other_weights_are_found_by_probe_and_loss(packed):
    with torch.no_grad():
        for weight in packed.model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)))
    packed.model.weights_changed()
    assert failed(packed) == ["logits", "held_out_loss"]


def test_one_changed_weight_is_found_by_the_probe(packed):
    """The smallest change that matters: one number of the output matrix, of a token that the probe scores."""
    with torch.no_grad():
        packed.model.embedding.weight[200, 0] += 0.05
    packed.model.weights_changed()
    assert failed(packed) == ["logits"]


def test_another_machine_may_round_otherwise(packed):
    largest = max(1.0, float(packed.probe.logits.abs().max()))
    moved = replace(packed, probe=replace(packed.probe, logits=packed.probe.logits + 1e-3))
    assert failed(moved) == ["logits"]
    elsewhere = replace(moved, facts=replace(moved.facts, made_with={"machine": "another"}))
    assert failed(elsewhere) == []
    far = replace(elsewhere, probe=replace(packed.probe, logits=packed.probe.logits + 0.02 * largest))
    assert failed(far) == ["logits"]


def test_what_is_not_finite_or_not_repeatable_is_found(packed):
    packed.model.train()
    for module in packed.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    loose = CHECKS["logits"](packed) if isinstance(packed.model.config, gpt2.Config) else None
    assert loose is None or "not the same twice" in loose.detail
    packed.model.eval()
    with torch.no_grad():
        packed.model.norm.weight[0] = float("nan")
    packed.model.weights_changed()
    check = CHECKS["logits"](packed)
    assert not check.passed and check.detail.startswith("not finite")


@pytest.mark.parametrize(("change", "problem"), [(float("inf"), "not finite"), (1.0, "not the same twice")])
def test_logits_are_looked_at_where_the_probe_has_none(packed, monkeypatch, change, problem):
    whole, calls = type(packed.model).forward, []

    def forward(self, tokens):
        said = whole(self, tokens)
        said[0, 1] += change * len(calls)
        calls.append(tokens)
        return said

    assert 1 not in packed.probe.positions
    monkeypatch.setattr(type(packed.model), "forward", forward)
    calls += [0] if change == float("inf") else []
    check = CHECKS["logits"](packed)
    assert not check.passed and check.detail.startswith(problem) and check.figures["difference"] < 1e-5


def test_a_fused_step_that_says_something_else_is_found(packed, monkeypatch):
    step = packed.model.fused_step()
    monkeypatch.setattr(packed.model, "fused_step", lambda: lambda tokens, cache: step(tokens, cache) + 0.01)
    check = CHECKS["cache"](packed)
    assert not check.passed and check.figures["difference"] <= check.figures["allowed"]


def test_a_model_that_says_nothing_is_found(packed, monkeypatch):
    silent = [Completion("", [], [packed.tokenizer.eos], [], "eos")]
    spoken = [Completion("x", [], [9], [], "length")]
    for some, passes in ((3, True), (4, False)):
        rows = [silent] * some + [spoken] * (6 - some)
        monkeypatch.setattr("eco.ship.checks.Engine.generate", lambda *_, rows=rows: rows)
        check = CHECKS["generation"](packed)
        assert check.passed is passes and check.figures["empty"] == some


def test_a_cache_that_forgets_is_found(packed, monkeypatch):
    whole, calls = type(packed.model).forward, []

    def forgetful(self, tokens, cache=None, **rest):
        calls.append(cache)
        if cache is not None and cache.length:  # the last position before this one is lost
            cache = self.new_cache(1, tokens.shape[1] + 1)
            whole(self, tokens[:, :1], cache)
        return whole(self, tokens, cache, **rest)

    monkeypatch.setattr(type(packed.model), "forward", forgetful)
    check = CHECKS["cache"](packed)
    assert not check.passed and check.figures["difference"] > check.figures["allowed"]


def test_going_round_in_circles_is_found(packed):
    with torch.no_grad():  # every token follows itself with certainty
        for block in packed.model.blocks:
            for weight in block.parameters():
                weight.zero_()
        packed.model.embedding.weight.mul_(100)
    packed.model.weights_changed()
    check = CHECKS["generation"](packed)
    assert not check.passed and check.figures["repeated"] > 0.5


def test_other_parameters_and_vocabulary_are_named(packed):
    facts = replace(packed.facts, parameters={**packed.facts.parameters, "extra": 5}, vocabulary=100)
    other = replace(packed, facts=facts)
    assert CHECKS["parameters"](other).detail == "extra has 0 instead of 5"
    assert not CHECKS["tokenizer"](other).passed and not CHECKS["generation"](other).passed


def test_a_tokenizer_that_changes_texts_is_found(packed, monkeypatch):
    plain = packed.tokenizer.decode
    monkeypatch.setattr(packed.tokenizer, "decode", lambda ids: plain(ids).replace("\r\n", "\n"))
    check = CHECKS["tokenizer"](packed)
    assert not check.passed and "two lines" in check.detail


def test_the_share_of_repeated_4_grams():
    assert repeated_share([]) == repeated_share([1, 2, 3]) == repeated_share([1, 2, 3, 4]) == 0
    assert repeated_share([7] * 13) == 0.9  # ten 4-grams, one of them new
    assert repeated_share([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(0.2)
