"""The speed family of metrics: seconds and tokens per step, the share of each phase, the bottleneck, the start-up."""

import time

from eco.observe.phases import Phases

STAGES = {"data": 1, "train": 2, "ttrl": 3, "meta": 4, "eval": 5, "checkpoint": 6, "metrics": 7}
"""The outermost phases, one of which is the bottleneck, and the number of each in `perf_bottleneck_stage_id`."""

_ALWAYS = ("data", "train", "forward", "backward", "opt_step", "zero_grad", "eval", "checkpoint", "metrics")
"""Phases reported even where they took no time, so that every row has the same columns; others once they were timed.

The train phase holds forward, backward, `opt_step` (clipping included) and `zero_grad`; its rest is `train_other`.
"""

_OCCASIONAL = ("eval", "checkpoint")
"""Phases that only some steps have: they count in the effective rate and not in `tokens_per_s`."""


class Ema:
    """Exponential moving average that starts at the first value. Its state is one number, for the checkpoint."""

    def __init__(self, beta: float = 0.9, value: float | None = None) -> None:
        self.beta = beta
        self.value = value

    def update(self, value: float) -> float:
        self.value = value if self.value is None else self.beta * self.value + (1 - self.beta) * value
        return self.value


class Speed:
    """Counts steps and tokens, and turns them and the phases into one row per logged interval.

    `started` is `time.perf_counter()` at the start of the job, `beta` smooths `tokens_per_s_ema`. Call `ready` when the
    loop is about to start, `batch` after each batch arrived, `step` after each optimizer step.

    `tokens_seen` counts the training tokens; a resumed run sets it to what the run has seen before. `milestones` are
    the events of the start-up so far, in seconds from `started`.
    """

    def __init__(self, phases: Phases, started: float, beta: float = 0.9) -> None:
        self.tokens_seen = 0
        self._phases = phases
        self._started = started
        self.milestones: dict[str, float] = {}
        self._seconds_per_token = Ema(beta)
        self._steps = self._tokens = 0
        self._interval_started = started
        self._cpu_started = time.process_time()

    def ready(self) -> None:
        """All is built: the first interval starts here and not at the imports."""
        self._mark("startup_init_s")
        self._phases.collect()
        self._interval_started = time.perf_counter()
        self._cpu_started = time.process_time()

    def batch(self) -> None:
        self._mark("time_to_first_batch_s")

    def step(self, tokens: int) -> None:
        """One optimizer step over `tokens` tokens (of all ranks) is done."""
        self._mark("time_to_first_step_s")
        self._steps += 1
        self._tokens += tokens
        self.tokens_seen += tokens

    def row(self) -> dict[str, float | str]:
        """The speed metrics of the interval since the last call, as means over its steps, and starts a new one.

        Three rates, by what they count: core (`core_step_time_s`, `core_tokens_per_s`) only data and train; plain
        (`step_time_s`, `tokens_per_s`) all but evaluation and checkpoints; effective all the time that passed.
        `tokens_per_s_ema` smooths the time per token, so that a few fast steps cannot outweigh a slow one that lasted
        longer. `perf_bottleneck_share` is the largest stage's part of all the time that passed. `step_cpu_s` is the
        time of the processors that all threads of this process had; others hardly change it. Times are in seconds.
        """
        assert self._steps > 0, "an interval without a step has no speed"
        now, cpu = time.perf_counter(), time.process_time()
        steps, tokens, elapsed = self._steps, self._tokens, now - self._interval_started
        worked = cpu - self._cpu_started
        self._steps = self._tokens = 0
        self._interval_started, self._cpu_started = now, cpu

        seconds = dict.fromkeys(_ALWAYS, 0.0) | self._phases.collect()
        core = max(seconds["data"] + seconds["train"], 1e-9)
        usual = max(elapsed - sum(seconds[name] for name in _OCCASIONAL), 1e-9)
        stage = max(STAGES, key=lambda name: seconds.get(name, 0.0))
        seconds["optim"] = seconds["backward"] + seconds["opt_step"] + seconds["zero_grad"]
        seconds["train_other"] = max(seconds["train"] - seconds["forward"] - seconds["optim"], 0.0)
        return {
            "tokens_seen_total": self.tokens_seen,
            "step_time_s": usual / steps,
            "core_step_time_s": core / steps,
            "effective_step_time_s": elapsed / steps,
            "step_cpu_s": worked / steps,
            "tokens_per_s": tokens / usual,
            "tokens_per_s_ema": 1 / self._seconds_per_token.update(usual / tokens),
            "core_tokens_per_s": tokens / core,
            "effective_tokens_per_s": tokens / elapsed,
            **{f"phase_{name}_s": value / steps for name, value in seconds.items()},
            "perf_bottleneck_stage": stage,
            "perf_bottleneck_stage_id": STAGES[stage],
            "perf_bottleneck_share": seconds[stage] / elapsed,
            **self.milestones,
        }

    def _mark(self, event: str) -> None:
        """Notes the seconds from the start of the job to the first time of an event."""
        if event not in self.milestones:
            self.milestones[event] = time.perf_counter() - self._started
