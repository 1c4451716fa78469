"""What the harness is told, against scoring one token after the other; the harness itself where it is installed."""

import importlib
import importlib.util
import json
import sys
import types
from types import SimpleNamespace

import pytest
import torch

from eco.inference.engine import Engine
from eco.models import decoder
from eco.models.contract import build_model
from eco.training.precision import Precision

CONTEXT, EOS = 16, 256
INSTALLED = importlib.util.find_spec("lm_eval") is not None


class Bytes:
    """One token for each byte but for "ab", which is one; EOS is 256."""

    eos, vocab_size = EOS, 258

    def encode(self, text):
        return [257 if piece == 1 else piece for piece in text.replace("ab", "\1").encode()]

    def decode_bytes(self, ids):
        return b"".join(b"ab" if i == 257 else bytes([i]) for i in ids if i != EOS)


@pytest.fixture(scope="module")
def engine():
    config = decoder.Config(width=16, layers=2, heads=2, context=CONTEXT, vocab_size=264)
    return Engine(build_model(decoder.build, config, 0, torch.device("cpu")), Bytes())


@pytest.fixture
def adapter(engine, monkeypatch):
    if not INSTALLED:
        model = types.ModuleType("lm_eval.api.model")
        model.LM = object
        tasks = types.ModuleType("lm_eval.tasks")
        tasks.TaskManager = object
        package = types.ModuleType("lm_eval")
        package.simple_evaluate = None
        for module in (package, types.ModuleType("lm_eval.api"), model, tasks):
            monkeypatch.setitem(sys.modules, module.__name__, module)
    module = importlib.import_module("eco.evaluation.lm_eval")
    yield module.EcoLM(engine, Precision("fp32", torch.device("cpu")))
    if not INSTALLED:
        del sys.modules["eco.evaluation.lm_eval"]


def asked(*args):
    return SimpleNamespace(args=args)


@torch.no_grad()
def one_by_one(engine, tokens, first):
    """Each token from its own forward pass in float64, windows as lm-eval has them: (nats, greedy)."""
    model = engine.model.double()
    nats, greedy = 0.0, True
    for at in range(first, len(tokens)):
        last = min(first + (at - first) // CONTEXT * CONTEXT + CONTEXT, len(tokens))
        logits = model(torch.tensor([tokens[max(0, last - 1 - CONTEXT) : at]]))[0, -1, : Bytes.vocab_size]
        nats += float(logits.log_softmax(-1)[tokens[at]])
        greedy &= int(logits.argmax()) == tokens[at]
    model.float()
    return nats, greedy


def test_continuations_are_scored_as_one_token_after_the_other(adapter, engine):
    pairs = [("xyz", "uv"), ("x", "y"), ("", "start"), ("long " * 5, "tail"), ("q", "longer than the context is")]
    pairs += [("spaces ", " here"), ("\u00e9", "\u00fc")]
    scores = adapter.loglikelihood([asked(*pair) for pair in pairs])
    for (context, continuation), score in zip(pairs, scores, strict=True):
        tokens, first = list((context + continuation).encode()), len(context.encode())
        expected = one_by_one(engine, tokens, first) if first else one_by_one(engine, [EOS, *tokens], 1)
        assert score == (pytest.approx(expected[0], abs=1e-3), expected[1])


def test_a_token_that_spans_context_and_continuation_belongs_to_the_continuation(adapter, engine):
    ((nats, _),) = adapter.loglikelihood([asked("xa", "by")])
    assert nats == pytest.approx(one_by_one(engine, [ord("x"), 257, ord("y")], 1)[0], abs=1e-3)
    assert adapter.loglikelihood([asked("xa", "")]) == [(0.0, True)]


def test_the_greedy_continuation_is_told_as_such(adapter, engine):
    contexts, letters = [f"{a}{b}" for a in "cdefghij" for b in "klmnopqr"], [chr(code) for code in range(33, 127)]
    scores = adapter.loglikelihood([asked(context, letter) for context in contexts for letter in letters])
    told = [greedy for _, greedy in scores]
    with torch.no_grad():
        best = engine.model(torch.tensor([list(context.encode()) for context in contexts]))[:, -1, : Bytes.vocab_size]
    assert told == [ord(letter) == choice for choice in best.argmax(-1).tolist() for letter in letters]
    assert any(told)


@pytest.mark.parametrize("length", [1, 15, 16, 17, 40])
def test_every_token_of_a_document_counts_once(adapter, engine, length):
    text = "the quick brown fox jumps over the lazy dog"[:length]
    (nats,) = adapter.loglikelihood_rolling([asked(text)])
    assert nats == pytest.approx(one_by_one(engine, [EOS, *text.encode()], 1)[0], abs=2e-3)


def test_windows_are_those_of_the_harness(adapter):
    """The example of its documentation: ten tokens, a context of four."""
    module = sys.modules[type(adapter).__module__]
    cut = list(module.windows([EOS, *range(10)], 1, 4))
    assert [(window.tokens[:-1], window.tokens[-window.scored :]) for window in cut] == [
        ([EOS, 0, 1, 2], [0, 1, 2, 3]),
        ([3, 4, 5, 6], [4, 5, 6, 7]),
        ([5, 6, 7, 8], [8, 9]),
    ]


def test_generation_stops_where_the_task_says_and_long_prompts_lose_their_beginning(adapter, engine, monkeypatch):
    calls = []

    def generate(prompts, sampling, samples=1):
        calls.append((list(prompts), sampling))
        return [[SimpleNamespace(text=f"<{prompt}>")] for prompt in prompts]

    monkeypatch.setattr(engine, "generate", generate)
    answers = adapter.generate_until(
        [
            asked("one", {"until": ["\n", ""], "max_gen_toks": 4, "temperature": 0.7}),
            asked("abcdefghijklmnopqrstuvwxyz", {"until": "\n", "max_gen_toks": 4}),
            asked("three", {"do_sample": True, "temperature": 0.7, "top_p": 0.9}),
        ]
    )
    assert answers == ["<one>", "<opqrstuvwxyz>", "<three>"]
    (_, greedy), (_, drawn) = calls
    assert (greedy.stop, greedy.max_new_tokens, greedy.temperature) == (("\n",), 4, 0.0)
    assert (drawn.stop, drawn.max_new_tokens, drawn.temperature, drawn.top_p) == ((), 256, 0.7, 0.9)
    adapter.generate_until([asked("x" * 40, {"max_gen_toks": 100})])
    assert calls[-1][0] == ["x" * 8], "an answer longer than the context leaves half of it to the prompt"


@pytest.mark.skipif(INSTALLED, reason="lm-eval is installed")
def test_without_the_extra_the_message_says_how_to_get_it():
    with pytest.raises(ValueError, match=r"pip install 'eco-lm\[eval\]'"):
        importlib.import_module("eco.evaluation.lm_eval")


@pytest.mark.skipif(not INSTALLED, reason="lm-eval is not installed (the extra `eval`)")
def test_the_harness_runs_tasks_of_all_three_kinds(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    module = importlib.import_module("eco.evaluation.lm_eval")
    rows = [{"q": f"q{i}", "c": ["x", "yy"], "a": i % 2, "t": "some text " * i} for i in range(1, 5)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    kinds = {
        "eco_choose": 'output_type: multiple_choice\ndoc_to_text: "{{q}}"\ndoc_to_choice: "{{c}}"\n'
        'doc_to_target: "{{a}}"\nmetric_list: [{metric: acc}]\n',
        "eco_write": 'output_type: generate_until\ndoc_to_text: "{{q}}"\ndoc_to_target: "{{c[0]}}"\n'
        'generation_kwargs: {until: ["\\n"], max_gen_toks: 4}\nmetric_list: [{metric: exact_match}]\n',
        "eco_roll": 'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{t}}"\n'
        "metric_list: [{metric: bits_per_byte}]\n",
    }
    for name, kind in kinds.items():
        data = f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}\n"
        (tmp_path / f"{name}.yaml").write_text(f"{data}test_split: test\n{kind}")
    paths = [str(tmp_path / f"{name}.yaml") for name in kinds]
    precision = Precision("fp32", torch.device("cpu"))
    report = module.measure(engine, precision, paths, limit=3)
    texts = [row["t"] for row in rows[:3]]
    nats = sum(one_by_one(engine, [EOS, *text.encode()], 1)[0] for text in texts)
    bits = -nats / torch.tensor(2.0).log().item() / sum(map(len, texts))
    assert report["eco_roll"]["bits_per_byte,none"] == pytest.approx(bits, abs=1e-3)
    assert report["eco_choose"]["acc,none"] in (0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1)
    assert report["eco_write"]["exact_match,none"] == 0
    with pytest.raises(ValueError, match="lm-eval has no task nothing_like_it"):
        module.measure(engine, precision, ["nothing_like_it"])
