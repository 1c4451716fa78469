"""What a training run can be told: how long, how large, how precise, how often it saves and reports."""

from typing import Annotated, Literal

from pydantic import Field

from eco.config import Config, LocalPath, setting

Weight = Annotated[float, Field(ge=0)]


class TrainConfig(Config):
    """The loop: budget, batch, precision, learning-rate schedule, evaluation."""

    steps: int = setting(1000, "Optimizer steps in all.", flat="steps", gt=0)
    tokens: int | None = setting(
        None, "Stop after this many training tokens, if they come before `steps`.", flat="max-tokens", gt=0
    )
    minutes: float | None = setting(
        None,
        "Stop after this many minutes of training, resumed sessions included; the schedule counts steps.",
        flat="max-minutes",
        gt=0,
    )
    batch_size: int = setting(
        8,
        "Samples in one micro-batch; batch_size x accumulation make a step, shared by all processes.",
        flat="batch-size",
        gt=0,
    )
    accumulation: int = setting(1, "Micro-batches added up before a step.", flat="grad-accum", gt=0)
    device: Literal["auto", "cpu", "cuda"] = setting(
        "auto", "Where to train; auto takes CUDA if there is one.", flat="device"
    )
    require_cuda: bool = setting(False, "Stop at the start unless training runs on CUDA.", flat="require-cuda")
    require_triton: bool = setting(
        False, "Stop at the start unless the Triton kernels can be used.", flat="require-triton"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "auto",
        "Compute dtype; weights and optimizer state stay fp32. auto: bf16 where the machine is fast at it.",
        flat="precision",
    )
    grad_clip: float = setting(1.0, "Largest gradient norm; 0 does not clip.", flat="grad-clip", ge=0)
    schedule: Literal["cosine", "wsd", "constant"] = setting(
        "cosine",
        "Learning rate after warm-up: cosine decay, warm-up-stable-decay (arXiv 2404.06395), or constant.",
        flat="lr-schedule",
    )
    warmup: int = setting(0, "Steps over which the learning rate rises linearly from 0.", flat="warmup-steps", ge=0)
    final_lr: float = setting(0.1, "Learning rate at the end as a share of the peak.", flat="final-lr", ge=0, le=1)
    decay_share: float = setting(0.2, "wsd: share of the steps that decay.", flat="decay-share", gt=0, le=1)
    ema_decay: float = setting(
        0.0, "Decay of the averaged weights used for evaluation and generation; 0 is off.", flat="ema-decay", ge=0, lt=1
    )
    auxiliary_warmup: float = setting(
        0.1, "Share of the steps over which the weights of auxiliary losses rise linearly from 0.", ge=0, le=1
    )
    gradient_checkpointing: bool = setting(
        False, "Recompute activations in the backward pass to save memory.", flat="gradient-checkpointing"
    )
    compile: bool = setting(
        False, "Compile the training step with torch.compile (half a minute at the first step).", flat="torch-compile"
    )
    seed: int = setting(1337, "Seed of weights, data order and dropout.", flat="seed", ge=0)
    eval_every: int = setting(
        100,
        "Steps between evaluations on held-out samples; 0: only at the start and the end.",
        flat="eval-interval",
        ge=0,
    )
    eval_windows: int = setting(
        64,
        "Held-out samples (windows of text, or puzzles) in one evaluation; 0: all of them.",
        flat="eval-windows",
        ge=0,
    )
    patience: int = setting(
        0, "Stop after this many evaluations without a better held-out figure; 0: never.", flat="patience", ge=0
    )
    loss_weights: dict[str, Weight] = setting({}, "Weight of each named loss; 1 where none is given.")

    @property
    def samples_per_step(self) -> int:
        """Samples in the global batch of one optimizer step."""
        return self.batch_size * self.accumulation


class CheckpointConfig(Config):
    """When and where the state is saved."""

    every: int = setting(500, "Steps between checkpoints; 0: only at the end.", flat="save-interval", ge=0)
    seconds: float = setting(
        1800, "Save also when this many seconds have passed since the last save; 0: never.", flat="save-seconds", ge=0
    )
    keep: int = setting(3, "Newest checkpoints kept, beside the best one.", flat="max-checkpoints", gt=0)
    directory: LocalPath | None = setting(
        None, "Folder of the checkpoints; by default OUTPUT/checkpoints.", flat="checkpoint-dir"
    )


class LogConfig(Config):
    """What is shown and recorded while training; every step is a row of metrics.jsonl in any case."""

    every: int = setting(10, "Steps between console lines and updates of status.json.", flat="log-interval", gt=0)
    ema: float = setting(0.9, "Smoothing of loss_ema and tokens_per_s_ema.", flat="metrics-ema-beta", ge=0, lt=1)
    trackers: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = setting(
        (), "Also send the metrics to: tensorboard, trackio, wandb.", flat="trackers"
    )
    quiet: bool = setting(False, "No progress display.", flat="quiet")


class CreditConfig(Config):
    """Counterfactual credit of the blocks of an update, for the optimizer c3o: see `eco.training.credit`."""

    enabled: bool = setting(
        False, "Scale the blocks of c3o's update by what they did for a held-out loss.", flat="c3o-credit-enabled"
    )
    every: int = setting(8, "Steps between two measurements of credit.", flat="credit-interval", gt=0)
    audit_every: int = setting(
        200, "Steps between two audits, which really leave blocks of an update out.", flat="credit-audit-interval", gt=0
    )
    audit_blocks: int = setting(16, "Blocks that an audit leaves out, one after the other.", gt=2)
    ema_beta: float = setting(
        0.92, "Decay of the mean of a block's credit, per measurement.", flat="c3o-credit-ema-beta", ge=0.5, lt=1
    )
    clip: float = setting(
        2.0, "Largest credit, in standard deviations over the blocks.", flat="c3o-credit-clip-value", gt=0
    )
    windows: int = setting(8, "Held-out windows of text that the credit is measured on.", gt=0)
