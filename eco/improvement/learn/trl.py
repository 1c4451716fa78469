"""A round of reinforcement by the trainers of TRL (the extra `hf`) instead of Eco's own, on the same weights.

Eco's engine draws the completions, so that they end where a task says and cost what they cost everywhere else; TRL
makes advantages, loss and steps of them. Every step learns from samples of its own, hence the ratio of new to old
probabilities is 1 and no clipping bound ever binds: such bounds are not asked for. An unjudged completion has the
reward None, counts in no mean, and moves nothing.
"""

import math
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from eco.improvement.learn.config import LearnConfig
from eco.improvement.learn.student import Student, hash_of
from eco.inference.engine import Engine
from eco.inference.sampling import Sampling
from eco.models.huggingface.causal_lm import EcoForCausalLM
from eco.models.huggingface.tokenizer import as_transformers
from eco.tasks.contract import Task
from eco.training.callbacks import Row

try:
    import trl
    from datasets import Dataset
    from transformers import PrinterCallback
    from transformers.utils import logging
except ImportError as error:
    raise ValueError("the backend trl needs packages that are not installed; pip install 'eco-lm[hf]'") from error

Rewards = Callable[[Sequence[tuple[Task, str]]], list[float | None]]
"""The rewards of completions, None where the check could not be done."""

LOSSES: dict[str, dict[str, Any]] = {
    "grpo": {"loss_type": "grpo"},
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "dapo": {"loss_type": "dapo"},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0},  # TRL's bound of the weight itself; its default is below 1
    "rloo": {},
}
"""Objective -> what TRL calls it. GRPO arXiv 2402.03300, Dr. GRPO 2503.20783, DAPO 2503.14476, GSPO 2507.18071, CISPO
2506.13585, RLOO 2402.14740."""

METRICS = {
    "reward": "reward",
    "reward_std": "reward_std",
    "frac_reward_zero_std": "sigma_rl_zero_std_fraction",
    "entropy": "sigma_rl_entropy",
    "kl": "sigma_rl_kl",
    "grad_norm": "sigma_rl_grad_norm",
    "loss": "loss",
}
"""TRL's name -> ours, each the mean over the steps."""


class Rollouts:
    """Draws what TRL asks for and remembers the texts until their rewards are asked for, which is next."""

    def __init__(self, engine: Engine, tasks: Sequence[Task], sampling: Sampling, rewards: Rewards) -> None:
        self.engine, self.tasks, self.sampling, self.rewards = engine, tasks, sampling, rewards
        self.stops = {task.prompt: task.stop for task in tasks}
        self.texts: list[str] = []
        self.tokens = 0
        self.unjudged = 0

    def draw(self, prompts: Sequence[str], trainer: Any) -> dict[str, Any]:
        """One completion for each of `prompts`, the tokens of both, and the log-probabilities in nats."""
        seed = hash_of((self.sampling.seed, trainer.state.global_step))
        drawn: dict[int, Any] = {}
        for stop in dict.fromkeys(self.stops[prompt] for prompt in prompts):
            rows = [row for row, prompt in enumerate(prompts) if self.stops[prompt] == stop]
            sampling = self.sampling.model_copy(update={"stop": stop, "seed": seed})
            groups = self.engine.generate([prompts[row] for row in rows], sampling)
            drawn |= {row: completion for row, (completion,) in zip(rows, groups, strict=True)}
        completions = [drawn[row] for row in range(len(prompts))]
        self.texts = [completion.text for completion in completions]
        self.tokens += sum(len(completion.tokens) for completion in completions)
        return {
            "prompt_ids": [completion.prompt for completion in completions],
            "completion_ids": [completion.tokens for completion in completions],
            "logprobs": [completion.logprobs for completion in completions],
        }

    def reward(self, prompts: Sequence[str], completions: Sequence[str], task: Sequence[int], **_: Any) -> list[Any]:
        """The rewards of the rows just drawn; TRL's own `completions` go beyond the stop text."""
        rewards = self.rewards([(self.tasks[index], text) for index, text in zip(task, self.texts, strict=True)])
        self.unjudged += sum(reward is None for reward in rewards)
        return rewards


def update_with_trl(
    student: Student,
    tasks: Sequence[Task],
    rewards: Rewards,
    objective: str,
    learn: LearnConfig,
    *,
    kl_weight: float,
    samples: int,
    sampling: Sampling,
    folder: Path,
) -> Row:
    """`learn.steps` steps on `learn.rows` completions each, rounded up to whole groups; changes `student.model`.

    Tasks whose prompt leaves no room in the context are left out. kl_weight: of the k3 estimate of the divergence from
    the weights at the start, a copy of which lies in `folder` meanwhile. sampling: length, temperature and seed. All
    random states are put back as they were, and the model's mode too.

    Raises:
        ValueError: an objective that TRL does not have, no task with room, fewer than two samples of a task, or a TRL
            that lacks what is needed.
    """
    if objective not in LOSSES:
        raise ValueError(
            f"TRL has no objective {objective!r}; it has {', '.join(LOSSES)}; or take improve.learn.backend internal"
        )
    model, tokenizer = student.model, student.tokenizer
    tasks = [task for task in tasks if 0 < len(tokenizer.encode(task.prompt)) < model.config.context]
    if not tasks:
        raise ValueError("no task's prompt leaves room in the model's context; train with a greater model.context")
    rollouts = Rollouts(Engine(model, tokenizer), tasks, sampling, rewards)
    groups = min(math.ceil(learn.rows / samples), len(tasks))
    with _fenced(student), TemporaryDirectory(dir=folder, prefix=".trl-") as scratch:
        wrapped = EcoForCausalLM.around(model, tokenizer)
        if kl_weight > 0:  # TRL loads the reference from where the config says the model came from
            wrapped.save_pretrained(scratch)
            wrapped.config._name_or_path = scratch
        settings = _settings(student, objective, learn, kl_weight, samples, groups, sampling, scratch)
        trainer_class, config_class = _trainer(objective, rollouts)
        try:
            arguments = config_class(**settings)
        except TypeError as error:
            raise ValueError(f"TRL {trl.__version__} does not fit ({error}); pip install 'eco-lm[hf]'") from error
        trainer = trainer_class(
            model=wrapped,
            reward_funcs=rollouts.reward,
            args=arguments,
            train_dataset=Dataset.from_list([{"prompt": t.prompt, "task": i} for i, t in enumerate(tasks)]),
            processing_class=as_transformers(tokenizer, model.config.context),
            optimizers=(student.new_optimizer(learn.lr), None),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return _row(trainer.state.log_history) | {
        "sigma_rl_updates": trainer.state.global_step,
        "sampled_tokens": rollouts.tokens,
        "unjudged": rollouts.unjudged,
    }


def _trainer(objective: str, rollouts: Rollouts) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """TRL's trainer of an objective, made to draw its completions from `rollouts`, and its class of settings."""
    if objective != "rloo":
        return lambda **arguments: trl.GRPOTrainer(rollout_func=rollouts.draw, **arguments), trl.GRPOConfig

    class RLOO(trl.RLOOTrainer):  # type: ignore[misc,unused-ignore]
        def _generate(self, prompts: list[str]) -> tuple[Any, Any, Any]:
            drawn = rollouts.draw(prompts, self)
            return drawn["prompt_ids"], drawn["completion_ids"], rollouts.texts

    return RLOO, trl.RLOOConfig


def _settings(
    student: Student,
    objective: str,
    learn: LearnConfig,
    kl_weight: float,
    samples: int,
    groups: int,
    sampling: Sampling,
    scratch: str,
) -> dict[str, Any]:
    """What TRL is told; a micro-batch is one task's group, a step `groups` of them."""
    return LOSSES[objective] | {
        "output_dir": scratch,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
        "seed": sampling.seed % 2**32,
        "use_cpu": student.precision.device.type == "cpu",
        "bf16": student.precision.name == "bf16",
        "fp16": student.precision.name == "fp16",
        "gradient_checkpointing": False,  # the model's own does it, where it is on
        "max_steps": learn.steps,
        "warmup_steps": min(learn.warmup, learn.steps),
        "max_grad_norm": 1.0,
        "per_device_train_batch_size": samples,
        "gradient_accumulation_steps": groups,
        "num_generations": samples,
        "max_completion_length": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "beta": kl_weight,
    }


def _row(log: Sequence[Row]) -> Row:
    """The means of TRL's figures over the steps that have them, under our names."""
    means: Row = {}
    for theirs, ours in METRICS.items():
        found = [entry[theirs] for entry in log if entry.get(theirs) is not None]  # None: nothing of it was judged
        values = [value for value in found if math.isfinite(value)]
        if values:
            means[ours] = sum(values) / len(values)
    return means


@contextmanager
def _fenced(student: Student) -> Iterator[None]:
    """TRL seeds every global random state, leaves gradients and talks; afterwards all is as it was, the mode too."""
    mode, own, numpys = student.model.training, random.getstate(), np.random.get_state()
    devices = [student.precision.device] if student.precision.device.type == "cuda" else []
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    with torch.random.fork_rng(devices), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You are using 'rollout_func', which is an experimental feature")
        warnings.simplefilter("ignore", FutureWarning)  # what TRL calls of transformers' is deprecated there
        try:
            yield
        finally:
            random.setstate(own)
            np.random.set_state(numpys)
            student.model.zero_grad(set_to_none=True)
            student.model.train(mode)
            if bars:
                logging.enable_progress_bar()
