"""Measurements: counted by hand, their entropy by a slow formula, equal for equal seeds, and whole after JSON."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from cribs import Crib, untrained
from hypothesis import given
from hypothesis import strategies as st

from eco.evaluation.pass_at_k import Checked
from eco.evaluation.tasks import Question, ask_and_check
from eco.improvement import measure as module
from eco.improvement.measure import Measurement, Suite, gains, measure
from eco.inference.sampling import Sampling
from eco.tasks.contract import Task
from eco.tasks.verdict import Verdict
from eco.training.precision import Precision

SAMPLING = Sampling(max_new_tokens=12, temperature=1.0, seed=3)
FP32 = Precision("fp32", torch.device("cpu"))


class Told(Task):
    """Judges a completion by its first word: `pass`, `fail` or `infrastructure`."""

    def __init__(self, name, length=3):
        self.name, self.prompt = name, f"{name}?".ljust(length)

    def examine(self, completion, sandbox):
        return Verdict(completion.split()[0], 0.0, "the wall fell over")

    def solution(self):
        return "pass"


class Vowels(Told):
    """Passes where the completion has an odd number of some characters: chance, for an untrained model."""

    def examine(self, completion, sandbox):
        return Verdict("pass" if sum(64 <= ord(c) < 192 for c in completion) % 2 else "fail", 0.0)


def answers(table):
    return Crib(lambda prompt, number, seed: table[prompt.rstrip(" ?")][number], context=20)


def of_crib(monkeypatch, table, suites, loss=2.0):
    monkeypatch.setattr(module, "mean_entropy", lambda *_: 0.5)
    engine = answers(table)
    engine.tokenizer.vocab_size = 7
    held_out = {"val_bits_per_byte": loss, "val_loss": 9.0}
    found = measure(engine, suites, SimpleNamespace(workers=2), SAMPLING, 3, lambda: held_out, FP32)
    return found, engine


def of_untrained(seed=3, workers=2, names="abcdefgh"):
    engine, sandbox = untrained(), SimpleNamespace(workers=workers)
    suites = {"vowels": [Vowels(name) for name in names]}
    sampling = SAMPLING.model_copy(update={"seed": seed})
    return measure(engine, suites, sandbox, sampling, 4, lambda: {"val_bits_per_byte": 1.5}, FP32)


def test_everything_is_counted_as_by_hand(monkeypatch):
    table = {
        "a": ["pass", "pass", "fail"],
        "b": ["fail 1", "fail 2", "fail"],
        "c": ["pass", "infrastructure", "fail"],
        "d": ["infrastructure"] * 3,
        "e": ["pass 1", "pass 2", "pass 3"],
    }
    suites = {"first": [Told(name) for name in "abcd"], "second": [Told("e"), Told("long", length=20)]}
    found, _ = of_crib(monkeypatch, table, suites)
    first, second = found.suites["first"], found.suites["second"]
    assert found.learnt == "first"
    assert first.tasks == {"a": (3, 2), "b": (3, 0), "c": (2, 1)}
    assert first.pass_at_1 == pytest.approx((2 / 3 + 0 + 1 / 2) / 3)
    assert first.pass_at_k == pytest.approx((1 + 0) / 2), "c has only two that were judged"
    assert second.tasks == {"e": (3, 3), "long": (3, 0)}, "a prompt without room is failed"
    assert found.unique_share == pytest.approx(8 / 15), "pass, fail, infrastructure, and five with a number, of 15"
    assert (found.entropy, found.bits_per_byte) == (0.5, 2.0)


def test_a_model_without_a_finite_loss_fails_and_is_asked_for_nothing(monkeypatch):
    found, engine = of_crib(monkeypatch, {}, {"set": [Told("a"), Told("b")]}, loss=math.nan)
    assert found.suites["set"].tasks == {"a": (3, 0), "b": (3, 0)}
    assert not engine.asked and math.isnan(found.bits_per_byte) and math.isnan(found.entropy)
    text = json.dumps(found.as_json(), allow_nan=False)
    assert math.isnan(Measurement.from_json(json.loads(text)).bits_per_byte)


def test_a_sandbox_that_judges_nothing_is_an_error_and_no_0(monkeypatch):
    with pytest.raises(ValueError, match=r"set could not be measured: the wall fell over"):
        of_crib(monkeypatch, {"a": ["infrastructure"] * 3}, {"set": [Told("a")]})


def test_the_same_seed_gives_the_same_figures_whatever_the_workers():
    found = of_untrained()
    assert of_untrained(workers=1) == found
    assert 0 < found.suites["vowels"].pass_at_1 < 1
    assert of_untrained(seed=4).suites != found.suites
    fewer = of_untrained(names="ceg").suites["vowels"].tasks
    assert fewer.items() <= found.suites["vowels"].tasks.items(), "a task's numbers are its own"


@torch.no_grad()
def test_the_entropy_is_that_of_a_slow_float64_formula():
    engine, tasks = untrained(), [Vowels(name) for name in "abcdefgh"]
    drawn = ask_and_check(engine, [Question(t, t.prompt) for t in tasks], SimpleNamespace(workers=1), SAMPLING, 4)
    entropies = []
    for sample in (one for of_task in drawn for one in of_task):
        whole = sample.completion.prompt + sample.completion.tokens
        logits = engine.model.eval()(torch.tensor([whole]))[0, len(sample.completion.prompt) - 1 : -1, :257].double()
        for row in logits:
            p = (row - row.max()).exp() / (row - row.max()).exp().sum()
            entropies.append(-sum(float(x * x.log()) for x in p if x > 0))
    assert of_untrained().entropy == pytest.approx(sum(entropies) / len(entropies), rel=1e-5)


CHECKED = st.integers(1, 9).flatmap(lambda n: st.integers(0, n).map(lambda passed: Checked(n, passed)))
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)
SUITES = st.builds(
    lambda tasks, whole: Suite(9, {**tasks, "whole": whole}),
    st.dictionaries(NAMES, CHECKED, max_size=5),
    st.integers(0, 9).map(lambda passed: Checked(9, passed)),
)
MEASUREMENTS = st.builds(
    Measurement, st.dictionaries(NAMES, SUITES, min_size=1, max_size=3), st.floats(0, 1), st.floats(0, 9),
    st.floats(0, 9),
)  # fmt: skip


@given(MEASUREMENTS)
def test_json_keeps_all_of_it_and_its_order(measurement):
    told = json.loads(json.dumps(measurement.as_json(), allow_nan=False))
    back = Measurement.from_json(told)
    assert back == measurement and back.learnt == measurement.learnt
    for name, suite in measurement.suites.items():
        figures = told["suites"][name]["pass_at_1"], told["suites"][name]["pass_at_k"]
        assert figures == (suite.pass_at_1, suite.pass_at_k)


def test_tasks_are_paired_by_name_and_not_by_place():
    before = Suite(4, {"a": Checked(4, 1), "b": Checked(4, 4), "gone": Checked(4, 4)})
    after = Suite(4, {"new": Checked(4, 4), "b": Checked(2, 1), "a": Checked(4, 4)})
    assert gains(before, after) == [0.75, -0.5]
