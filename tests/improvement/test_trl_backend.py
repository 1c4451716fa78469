"""TRL's trainers on Eco's models: by themselves, and as the backend of a round."""

import copy
import math
import os
import random
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
transformers = pytest.importorskip("transformers")
transformers.logging.disable_progress_bar()

from eco.data.tokenizer import Tokenizer, TokenizerConfig  # noqa: E402
from eco.improvement.learn.config import LearnConfig  # noqa: E402
from eco.improvement.learn.student import Student, hash_of  # noqa: E402
from eco.improvement.learn.trl import LOSSES, update_with_trl  # noqa: E402
from eco.inference import Engine, Sampling  # noqa: E402
from eco.models import decoder, gpt2  # noqa: E402
from eco.models.contract import build_model  # noqa: E402
from eco.models.huggingface.causal_lm import EcoForCausalLM  # noqa: E402
from eco.models.huggingface.tokenizer import as_transformers  # noqa: E402
from eco.optim import adamw  # noqa: E402
from eco.tasks.contract import Task  # noqa: E402
from eco.training.precision import Precision  # noqa: E402

CPU = torch.device("cpu")
SAMPLING = Sampling(max_new_tokens=6, temperature=0.9, seed=5)


class Word(Task):
    """Its prompt is its name."""

    def __init__(self, prompt: str, stop: tuple[str, ...] = ()) -> None:
        self.name = self.prompt = prompt
        self.stop = stop

    def examine(self, completion, sandbox):
        raise NotImplementedError

    def solution(self):
        raise NotImplementedError


class Plain(Student):
    """Learns by plain gradient descent, so that a step shows the gradient."""

    def new_optimizer(self, lr: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.model.parameters(), lr=lr)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # between TRL and transformers
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["def double(x):\n    return x + x\n"] * 3, TokenizerConfig(vocab_size=264))


@pytest.fixture(params=["decoder", "gpt2"])
def family(request):
    return {"decoder": decoder, "gpt2": gpt2}[request.param]


@pytest.fixture
def make_student(tokenizer):
    def make(kind=Student, family=decoder, **settings):
        config = family.Config(vocab_size=tokenizer.vocab_size, context=48, width=32, layers=1, heads=2)
        model = build_model(family.build, config, 0, CPU)
        optimizer = adamw.Config(**{"lr": 0.01, "weight_decay": 0.0, **settings})
        return kind(model, tokenizer, Precision("fp32", CPU), optimizer, None, None, None)

    return make


def weights(student):
    return copy.deepcopy(student.model.state_dict())


def moved(student, before):
    return any(not torch.equal(tensor, before[name]) for name, tensor in student.model.state_dict().items())


def letters(answers):
    """The share of a text's characters that are lower-case letters."""
    return [sum("a" <= c <= "z" for c in text) / max(1, len(text)) for _, text in answers]


def step(student, tasks, rewards, folder, objective="grpo", **changes):
    learn = LearnConfig(**{"steps": 1, "rows": 4 * len(tasks), "lr": 0.02, "warmup": 0, **changes.pop("learn", {})})
    arguments = {"kl_weight": 0.0, "samples": 4, "sampling": SAMPLING} | changes
    return update_with_trl(student, tasks, rewards, objective, learn, folder=folder, **arguments)


def settings_of(config, folder, **own):
    return config(
        output_dir=str(folder), report_to="none", save_strategy="no", use_cpu=True, bf16=False, disable_tqdm=True,
        max_steps=3, learning_rate=1e-2, gradient_checkpointing=False, logging_steps=1, **own,
    )  # fmt: skip


def test_grpo_of_trl_runs_with_its_own_sampling(make_student, tokenizer, family, tmp_path):
    student = make_student(family=family)
    before = weights(student)
    trainer = trl.GRPOTrainer(
        model=EcoForCausalLM.around(student.model, tokenizer),
        reward_funcs=lambda completions, **_: letters([(None, text) for text in completions]),
        args=settings_of(
            trl.GRPOConfig, tmp_path, per_device_train_batch_size=4, num_generations=4, max_completion_length=6
        ),
        train_dataset=datasets.Dataset.from_list([{"prompt": p} for p in ("def", "x", "return x + x", "(")]),
        processing_class=as_transformers(tokenizer, 48),
    )
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == 3 and all(map(math.isfinite, losses))
    assert moved(student, before)


def test_dpo_of_trl_prefers_what_was_chosen(make_student, tokenizer, family, tmp_path):
    student = make_student(family=family)
    rows = [{"prompt": p, "chosen": " + x", "rejected": " 0"} for p in ("def", "x", "return x + x", "(")]
    trainer = trl.DPOTrainer(
        model=EcoForCausalLM.around(student.model, tokenizer),
        ref_model=EcoForCausalLM.around(copy.deepcopy(student.model), tokenizer),
        args=settings_of(trl.DPOConfig, tmp_path, per_device_train_batch_size=4),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=as_transformers(tokenizer, 48),
    )
    trainer.train()
    log = [row for row in trainer.state.log_history if "rewards/margins" in row]
    assert log[0]["loss"] == pytest.approx(math.log(2), abs=1e-5), "no preference before the first step"
    assert log[-1]["rewards/margins"] > 0.01 and log[-1]["loss"] < log[0]["loss"]


def gradient(student, objective, tasks, length):
    """By the formulas of the papers, from completions that the engine draws anew: name -> (...)."""
    sampling = SAMPLING.model_copy(update={"seed": hash_of((SAMPLING.seed, 0))})
    groups = Engine(student.model, student.tokenizer).generate([task.prompt for task in tasks], sampling, samples=4)
    tokens = sum(len(c.tokens) for group in groups for c in group)
    loss = torch.zeros(())
    for group in groups:
        rewards = torch.tensor(letters([(None, c.text) for c in group]))
        advantages = rewards - rewards.mean()
        if objective == "rloo":
            advantages = advantages * 4 / 3  # the mean of the other three as baseline
        elif objective != "dr_grpo":
            advantages = advantages / (rewards.std() + 1e-4)
        for advantage, completion in zip(advantages, group, strict=True):
            whole = torch.tensor([completion.prompt + completion.tokens])
            scores = (student.model(whole)[0, :-1] / SAMPLING.temperature).log_softmax(-1)
            count = len(completion.tokens)
            log_probs = scores.gather(1, whole[0, 1:, None])[-count:, 0]
            scale = {"grpo": 12 * count, "gspo": 12 * count, "dr_grpo": 12 * length, "rloo": 12}.get(objective, tokens)
            loss = loss - advantage * log_probs.sum() / scale
    student.model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in student.model.named_parameters()}


@pytest.mark.parametrize("objective", LOSSES)
def test_a_step_follows_the_gradient_of_its_objective(make_student, tmp_path, objective):
    student = make_student(Plain)
    tasks = [Word("def"), Word("return x"), Word("(x + ")]
    expected = gradient(student, objective, tasks, SAMPLING.max_new_tokens)
    norm = torch.stack([g.norm() for g in expected.values()]).norm()
    before = weights(student)
    row = step(student, tasks, letters, tmp_path, objective)
    assert row["sigma_rl_grad_norm"] == pytest.approx(float(norm), rel=1e-3)
    for name, parameter in student.model.named_parameters():
        found = (before[name] - parameter.detach()) / 0.02 * max(1.0, float(norm))
        torch.testing.assert_close(found, expected[name], atol=2e-5, rtol=1e-3, msg=name)


def test_rewards_rise(make_student, tmp_path):
    student = make_student()
    tasks = [Word("def"), Word("x"), Word("return")]

    def mean():
        sampling = SAMPLING.model_copy(update={"seed": 99})
        groups = Engine(student.model, student.tokenizer).generate([t.prompt for t in tasks], sampling, samples=40)
        return np.mean([letters([(None, c.text)]) for group in groups for c in group])

    start = mean()
    row = step(student, tasks, letters, tmp_path, "dapo", learn={"steps": 25, "rows": 24}, samples=8, kl_weight=0.01)
    assert mean() > start + 0.3
    assert row["sigma_rl_updates"] == 25 and row["sigma_rl_kl"] > 0 and 0 < row["reward"] < 1
    assert 25 * 24 < row["sampled_tokens"] <= 25 * 24 * 6


@pytest.mark.parametrize("objective", ["grpo", "rloo"])
def test_equal_and_missing_rewards_move_nothing(make_student, tmp_path, objective):
    student = make_student()
    before = weights(student)
    row = step(student, [Word("def"), Word("x")], lambda answers: [2.0] * len(answers), tmp_path, objective)
    assert not moved(student, before) and row["unjudged"] == 0
    row = step(student, [Word("def"), Word("x")], lambda answers: [None] * len(answers), tmp_path, objective)
    assert not moved(student, before) and row["unjudged"] == 8


def test_an_unjudged_completion_is_in_no_mean(make_student, tmp_path):
    """One judged and three unjudged leave nothing to compare, whatever the one is worth."""
    student = make_student()
    before = weights(student)
    step(student, [Word("def")], lambda answers: [2.0, None, None, None], tmp_path)
    assert not moved(student, before)


def test_texts_end_where_their_task_says(make_student, tmp_path):
    student = make_student()
    tasks = [Word("def"), Word("x", stop=("e", "a", "\n")), Word("print")]
    free = step(student, tasks, letters, tmp_path)
    seen = {}

    def rewards(answers):
        for task, text in answers:
            seen.setdefault(task.name, []).append(text)
        return letters(answers)

    every = tuple(map(chr, range(32, 127)))
    tasks[1].stop = every
    stopped = step(make_student(), tasks, rewards, tmp_path)
    assert {name: len(texts) for name, texts in seen.items()} == {"def": 4, "x": 4, "print": 4}
    assert not any(set(text) & set(every) for text in seen["x"])
    assert any(set(text) & set(every) for text in seen["def"])
    assert stopped["sampled_tokens"] < free["sampled_tokens"]


def test_the_same_seed_gives_the_same_weights_and_leaves_no_trace(make_student, tmp_path):
    student = make_student()
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    student.model.eval()
    step(student, [Word("def"), Word("x")], letters, tmp_path, kl_weight=0.1, learn={"steps": 2})
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert not student.model.training and all(p.grad is None for p in student.model.parameters())
    assert student.model.state_dict().keys() == make_student().model.state_dict().keys()
    assert list(tmp_path.iterdir()) == []
    twin = make_student()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    step(twin, [Word("def"), Word("x")], letters, tmp_path, kl_weight=0.1, learn={"steps": 2})
    assert not moved(student, twin.model.state_dict())
    other = make_student()
    step(other, [Word("def"), Word("x")], letters, tmp_path, sampling=SAMPLING.model_copy(update={"seed": 6}))
    assert moved(student, other.model.state_dict())


def test_the_divergence_holds_the_weights_back(make_student, tmp_path):
    changes = []
    for weight in (0.0, 20.0):
        student = make_student()
        before = weights(student)
        row = step(student, [Word("def"), Word("x")], letters, tmp_path, kl_weight=weight, learn={"steps": 12})
        assert ("sigma_rl_kl" in row) == (weight > 0)
        with torch.no_grad():
            probe = torch.tensor([student.tokenizer.encode("def")])
            after = student.model(probe).log_softmax(-1)
            student.model.load_state_dict(before)
            changes.append(float((student.model(probe).log_softmax(-1) - after).abs().mean()))
    assert changes[1] < changes[0] / 2


@pytest.mark.parametrize("objective", ["dispo", "igrpo", "mix", "expert"])
def test_objectives_that_trl_does_not_have_are_refused(make_student, tmp_path, objective):
    with pytest.raises(ValueError, match=f"no objective '{objective}'; it has grpo, .*rloo; .*backend internal"):
        step(make_student(), [Word("def")], letters, tmp_path, objective)


def test_prompts_without_room_are_left_out(make_student, tmp_path):
    long = Word("\u00e9" * 60)
    with pytest.raises(ValueError, match="no task's prompt leaves room"):
        step(make_student(), [long], letters, tmp_path)
    names = set()

    def rewards(answers):
        names.update(task.name for task, _ in answers)
        return letters(answers)

    step(make_student(), [long, Word("def")], rewards, tmp_path)
    assert names == {"def"}


def test_a_missing_trl_is_told_with_its_remedy():
    program = """
import sys
sys.modules["trl"] = None
try:
    import eco.improvement.learn.trl
except ValueError as error:
    assert "pip install 'eco-lm[hf]'" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_another_trl_is_told_with_its_remedy(make_student, tmp_path, monkeypatch):
    def older(**arguments):
        raise TypeError("got an unexpected keyword argument 'num_generations'")

    monkeypatch.setattr(trl, "GRPOConfig", older)
    with pytest.raises(ValueError, match=r"TRL .* does not fit .*num_generations.*pip install 'eco-lm\[hf\]'"):
        step(make_student(), [Word("def")], letters, tmp_path)


def test_grpo_of_trl_trains_adapters_alone(make_student, tokenizer, family, tmp_path):
    peft = pytest.importorskip("peft")
    student = make_student(family=family)
    before = weights(student)
    trainer = trl.GRPOTrainer(
        model=EcoForCausalLM.around(student.model, tokenizer),
        reward_funcs=lambda completions, **_: letters([(None, text) for text in completions]),
        args=settings_of(
            trl.GRPOConfig, tmp_path, per_device_train_batch_size=4, num_generations=4, max_completion_length=6
        ),
        train_dataset=datasets.Dataset.from_list([{"prompt": p} for p in ("def", "x", "return x + x", "(")]),
        processing_class=as_transformers(tokenizer, 48),
        peft_config=peft.LoraConfig(r=4, target_modules=["qkv", "down"], task_type="CAUSAL_LM"),
    )
    trainer.train()
    assert all(parameter.abs().sum() > 0 for name, parameter in trainer.model.named_parameters() if "lora_B" in name)
    trainer.model.unload()
    assert not moved(student, before)
    assert student.model.state_dict().keys() == before.keys()
