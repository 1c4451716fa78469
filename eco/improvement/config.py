"""What the loop can be told. Each part owns the Config beside its code; this composes them."""

from typing import Literal, Self

from pydantic import model_validator

from eco.config import Config, setting
from eco.improvement.curriculum import CurriculumConfig
from eco.improvement.gate import GateConfig
from eco.improvement.learn.config import LearnConfig
from eco.improvement.learn.objectives import ObjectiveConfig
from eco.improvement.store.config import StoreConfig
from eco.inference.sampling import Sampling
from eco.sandbox import Level

Control = Literal["none", "random-reward", "more-pretraining", "frozen"]


class ImproveConfig(Config):
    """The loop: which tasks, how often, how many attempts, and the parts' own settings."""

    tasks: str = setting(
        "synthesis:1", "Sets of tasks to learn on, NAME[:LEVEL][@PATH], separated by commas.", flat="improve-tasks"
    )
    benchmarks: str = setting(
        "", "Published sets, NAME[@PATH], which nothing in the store may resemble, beside the held-out tasks."
    )
    domains: str = setting("", "Other sets, measured before and after so that none is unlearnt.", flat="domains")
    pool: int = setting(3000, "Training tasks of each set to choose from.", gt=0)
    start_after_steps: int = setting(0, "Training calls the loop from this step on.", flat="start-after-steps", ge=0)
    generation_interval: int = setting(
        0,
        "Training steps between two rounds of the loop; 0: training does not call it.",
        flat="generation-interval",
        ge=0,
    )
    rounds: int = setting(4, "Rounds of `eco improve`, those before a stop included.", flat="rounds", gt=0)
    minutes: float | None = setting(None, "`eco improve` begins no second or further round after this time.", gt=0)
    patience: int = setting(
        3, "`eco improve` begins no further round after this many in a row that were taken back; 0: it does.", ge=0
    )
    warmup_tasks: int = setting(
        0, "Tasks whose reference solutions are learnt before the first round.", flat="warmup-tasks", ge=0
    )
    warmup_steps: int = setting(0, "Steps of learning them.", flat="improve-warmup-steps", ge=0)
    tasks_per_round: int = setting(200, "Tasks of a round.", flat="tasks-per-round", gt=0)
    samples: int = setting(8, "Completions of each task (k).", flat="group-size", gt=0)
    max_retries: int = setting(
        0, "Further answers to a task that none has solved, each shown the last one's error.", flat="max-retries", ge=0
    )
    labels: Literal["tests", "majority"] = setting(
        "tests", "What decides: hidden tests, or a majority vote by behaviour (TTRL, arXiv 2504.16084).", flat="labels"
    )
    control: Control = setting("none", "A control of equal compute in place of the method.", flat="control")
    seed: int = setting(0, "Seed of tasks, sampling and order.", flat="improve-seed", ge=0)
    sandbox: Level | None = setting(
        None, "How untrusted programs are walled in; None: the best that can be had here.", flat="sandbox"
    )
    max_new_tokens: int = setting(96, "Longest completion in tokens.", gt=0)
    temperature: float = setting(1.0, "Of the attempts; at 1 the model's own distribution.", gt=0)
    top_k: int = setting(0, "Attempts are drawn among the k most probable tokens only; 0: among all.", ge=0)
    top_p: float = setting(1.0, "Attempts are drawn among the fewest tokens of this probability; 1: all.", gt=0, le=1)
    curriculum: CurriculumConfig = CurriculumConfig()
    store: StoreConfig = StoreConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    learn: LearnConfig = LearnConfig()
    gate: GateConfig = GateConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if bool(self.warmup_tasks) != bool(self.warmup_steps):
            raise ValueError(
                f"warmup_tasks is {self.warmup_tasks} and warmup_steps {self.warmup_steps}: a warm-up takes both; set "
                "both above 0, or leave both at 0"
            )
        if self.labels == "majority" and self.max_retries:
            raise ValueError("a majority shows no error to answer to; set max_retries to 0, or labels to tests")
        if self.objective.name != "expert" and self.samples < 2:
            raise ValueError("a group-relative objective compares the samples of a task; set samples to 2 or more")
        if self.learn.backend == "trl" and (self.labels == "majority" or self.max_retries):
            raise ValueError("the backend trl draws its own samples, without retries or votes; set backend to internal")
        return self

    def sampling(self, seed: int) -> Sampling:
        """How attempts are drawn; what ends them is added by their task."""
        return Sampling(
            max_new_tokens=self.max_new_tokens, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p,
            seed=seed,
        )  # fmt: skip
