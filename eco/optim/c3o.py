"""C3O, "Counterfactual Credit-Carrying Optimizer": damped Adam under a trust radius, its update shared out by credit.

The base is Adam (arXiv 1412.6980) with decoupled weight decay (arXiv 1711.05101) and, as in LAMB (arXiv 1904.00962), a
step of each tensor that is measured against the tensor:

    d = lr m / (sqrt(h) + damping),   m and h the bias-corrected means of gradients and of their squares
    d <- d min(1, trust_radius |p| / |d|)

The damping stands where Adam has its eps: it is a size of gradients, below which an element counts as noise and moves
in proportion to its gradient. Gradients are clipped to a norm of 1, of which an element of a model of millions has far
less than 1e-3: a damping of 1e-4 holds most of them back. Unlike LAMB's ratio the radius only shortens a step, and it
bounds what is really added, learning rate included; |p| counts as at least `REST` a weight, so that what starts at zero
can move.

Credit says for each block of a parameter (`eco.optim.parts.blocks`) by how many standard deviations z its last update
did more for a held-out loss than the others' did (`eco.training.credit` measures it). A block's update is multiplied by
clip(exp(gain z), min, max); then all those of a tensor are multiplied by the one number that gives the tensor's update
the norm it has without credit. So credit redistributes a step and never makes it longer or shorter: where the squares
of the scales are weighted by the blocks' shares of the update's squared norm, their mean is one. Without credit every
scale is 1, and no bit differs.

|p| is exact at each step: to read the weights in the first of the two passes too costs a tenth of the step's time.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from eco.config import setting
from eco.kernels.c3o import c3o_, change
from eco.kernels.c3o.layout import Layout, layout
from eco.kernels.c3o.rule import Rule
from eco.optim.contract import OptimizerConfig, decay_groups, dense_parameters
from eco.optim.parts.blocks import blocks_of

NARROW_FROM = 100_000_000
"""Trainable weights from which on `auto` keeps the means in bf16: in fp32 they would take 0.8 GB."""

MOMENTS = ("exp_avg", "exp_avg_sq")


class Config(OptimizerConfig):
    """Learning rate and weight decay mean what they mean for AdamW."""

    name: str = setting("c3o", "Optimizer: the name of a file in eco/optim.", flat="optimizer")
    beta1: float = setting(0.9, "Decay of the running mean of gradients, per step.", flat="c3o-beta1", ge=0, lt=1)
    beta2: float = setting(0.98, "Decay of the running mean of squares, per step.", flat="c3o-beta2", ge=0, lt=1)
    damping: float = setting(1e-6, "Added to the root of the mean of squares.", flat="c3o-damping", gt=0)
    trust_radius: float = setting(
        0.15, "Largest step of a tensor, in norms of the tensor.", flat="c3o-trust-radius", gt=0
    )
    block_size: int = setting(
        4096, "Elements of a block of a parameter that has neither heads nor experts.", flat="c3o-block-size", gt=0
    )
    credit_gain: float = setting(
        0.4, "Log of the scale of a block whose credit is a standard deviation.", flat="c3o-credit-gain", ge=0
    )
    credit_threshold: float = setting(
        0.01,
        "Mean size of the credit of a tensor's blocks, in standard deviations, below which it is left alone.",
        flat="c3o-credit-skip-threshold",
        ge=0,
    )
    scale_min: float = setting(0.6, "Least scale of a block.", flat="c3o-block-scale-min", gt=0, le=1)
    scale_max: float = setting(1.8, "Greatest scale of a block.", flat="c3o-block-scale-max", ge=1)
    state_dtype: Literal["auto", "fp32", "bf16"] = setting(
        "auto",
        "Dtype of the running means: bf16 halves their memory; auto takes it from 100 million weights on.",
        flat="c3o-state-dtype",
    )


def build(config: Config, model: nn.Module) -> "C3O":
    """C3O over the trainable parameters of `model`; a tied parameter counts once."""
    parameters = dense_parameters(model)
    elements = sum(parameter.numel() for parameter in parameters)
    narrow = config.state_dtype == "bf16" or (config.state_dtype == "auto" and elements >= NARROW_FROM)
    options = {
        "betas": (config.beta1, config.beta2),
        "damping": config.damping,
        "trust_radius": config.trust_radius,
        "credit_threshold": config.credit_threshold,
        "scale_limits": (config.scale_min, config.scale_max),
    }
    blocks = blocks_of(model, config.block_size)
    dtype = torch.bfloat16 if narrow else torch.float32
    return C3O(decay_groups(parameters, config, **options), blocks, config.credit_gain, dtype)


class C3O(torch.optim.Optimizer):
    """Steps every parameter that has a gradient.

    groups: as `build` makes them; parameters fp32 and contiguous.
    blocks: parameter with elements -> (blocks + 1,) int64, where its blocks begin, see `eco.optim.parts.blocks`.
    gain: log of the scale of a block with a credit of one; 0 sets all scales to 1 whatever their credit. A setting, not
        state: who changes it in a run sets it again after a resume.
    dtype: of the means, fp32 or bf16.
    """

    def __init__(
        self, groups: list[dict[str, Any]], blocks: Mapping[nn.Parameter, Tensor], gain: float, dtype: torch.dtype
    ) -> None:
        super().__init__(groups, {})
        self.blocks = blocks
        self._gain, self._dtype = gain, dtype
        self._wanted: dict[nn.Parameter, Tensor] = {}  # scales that gain and credit ask for, not yet evened
        self._layouts: dict[nn.Parameter, Layout] = {}
        self._moved: list[nn.Parameter] = []  # by the last step

    @property
    def gain(self) -> float:
        return self._gain

    @gain.setter
    def gain(self, gain: float) -> None:
        self._gain = gain
        self._wanted.clear()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates every parameter that has a gradient."""
        assert closure is None, "the gradients are there before the step"
        self._moved = []
        for number, (group, parameter) in enumerate(self._members()):
            if parameter.grad is None or not parameter.numel():
                continue
            state = self._state_of(parameter)
            state["step"] += 1
            if "credit" in state:
                state["scales"] = self._scales(parameter, group).clone()  # the step evens them
            moments, scales = (state["exp_avg"], state["exp_avg_sq"]), state.get("scales")
            at, rule = self._layout(parameter), _rule(group, state)
            state["outcome"] = c3o_(parameter, parameter.grad, *moments, scales, at, rule, number)
            self._moved.append(parameter)

    def set_credit(self, credit: Mapping[nn.Parameter, Tensor]) -> None:
        """Takes (blocks,) z-scores for each of the parameters given, for the steps to come; others keep theirs."""
        for parameter, scores in credit.items():
            assert scores.shape == (len(self.blocks[parameter]) - 1,), "one score a block"
            self._wanted.pop(parameter, None)
            self.state[parameter]["credit"] = scores.to(parameter.device, torch.float32)

    def forget_credit(self) -> None:
        """Steps from now on are as if no credit had ever been given."""
        self._wanted.clear()
        for state in self.state.values():
            state.pop("credit", None)
            state.pop("scales", None)

    @torch.no_grad()
    def last_update(self, parameter: nn.Parameter) -> Tensor:
        """What the last step added to `parameter`, weight decay apart: fp32, of its shape.

        Computed anew from the state, in which nothing of the size of the model is kept for it.
        """
        state, at = self.state[parameter], self._layout(parameter)
        rule = _rule(self._group(parameter), state)
        moments = state["exp_avg"], state["exp_avg_sq"]
        return change(*moments, state["outcome"][0], state.get("scales"), at, rule)

    @torch.no_grad()
    def curvature(self, parameter: nn.Parameter) -> Tensor:
        """The bias-corrected mean of squared gradients: fp32, of the shape of `parameter`."""
        state, beta2 = self.state[parameter], self._group(parameter)["betas"][1]
        square: Tensor = state["exp_avg_sq"].float() / (1 - beta2 ** int(state["step"]))
        return square

    def metrics(self) -> dict[str, float]:
        """Of the last step: mean and standard deviation of the blocks' scales, elements moved, norm of the whole
        update, tensors that credit scaled, tensors that the trust radius limited."""
        if not self._moved:
            return {}
        states = [self.state[parameter] for parameter in self._moved]
        _, norms, trust = torch.stack([state["outcome"] for state in states]).unbind(1)
        figures = [norms.square().sum().sqrt(), (trust < 1).sum()]
        blocks = sum(len(self.blocks[parameter]) - 1 for parameter in self._moved)
        scaled = [state["scales"] for state in states if "scales" in state]
        if scaled:
            off = torch.cat(scaled).double() - 1  # blocks of tensors without credit are off by nothing
            mean = off.sum() / blocks
            figures += [mean, (off.square().sum() / blocks - mean.square()).clamp(min=0).sqrt()]
            figures.append(torch.stack([(scales != 1).any() for scales in scaled]).sum())
        norm, limited, *rest = torch.stack([figure.double() for figure in figures]).tolist()
        mean_off, deviation, tensors = rest or (0.0, 0.0, 0.0)
        return {
            "c3o_block_scale_mean": 1 + mean_off,
            "c3o_block_scale_std": deviation,
            "c3o_step_elements": float(sum(parameter.numel() for parameter in self._moved)),
            "c3o_update_norm": norm,
            "c3o_block_scaling_batches": tensors,
            "c3o_trust_limited": limited,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Means of the other dtype are rounded or widened; credit of other blocks, of another block size, is left."""
        self._wanted.clear()
        # Torch would widen means in bf16 to the parameters' fp32.
        super().load_state_dict({**state_dict, "state": {}})
        saved = [number for group in state_dict["param_groups"] for number in group["params"]]
        for number, (_, parameter) in zip(saved, self._members(), strict=True):
            if number in state_dict["state"]:
                self.state[parameter] = self._restored(state_dict["state"][number], parameter)

    def _restored(self, saved: Mapping[str, Tensor], parameter: nn.Parameter) -> dict[str, Tensor]:
        state = {"step": saved["step"].float().cpu()} if "step" in saved else {}
        state |= {name: saved[name].to(parameter.device, self._dtype) for name in MOMENTS if name in saved}
        if "outcome" in saved:
            state["outcome"] = saved["outcome"].to(parameter.device)
        blocks = len(self.blocks[parameter]) - 1
        for name in ("credit", "scales"):
            if name in saved and len(saved[name]) == blocks:
                state[name] = saved[name].to(parameter.device)
        return state

    def _state_of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if "step" not in state:  # credit may have come first
            state["step"] = torch.zeros(())
            for name in MOMENTS:
                state[name] = torch.zeros_like(parameter, dtype=self._dtype)
        return state

    def _scales(self, parameter: nn.Parameter, group: dict[str, Any]) -> Tensor:
        """(blocks,) fp32, all of them 1 where the credit says too little."""
        if parameter not in self._wanted:
            credit = self.state[parameter]["credit"]
            scales = (self.gain * credit).exp().clamp(*group["scale_limits"])
            little = credit.abs().mean() < group["credit_threshold"]
            self._wanted[parameter] = torch.where(little, 1.0, scales)
        return self._wanted[parameter]

    def _layout(self, parameter: nn.Parameter) -> Layout:
        if parameter not in self._layouts:
            self._layouts[parameter] = layout(self.blocks[parameter], parameter.device)
        return self._layouts[parameter]

    def _group(self, parameter: nn.Parameter) -> dict[str, Any]:
        return next(group for group, member in self._members() if member is parameter)

    def _members(self) -> Iterator[tuple[dict[str, Any], nn.Parameter]]:
        return ((group, parameter) for group in self.param_groups for parameter in group["params"])


def _rule(group: dict[str, Any], state: Mapping[str, Tensor]) -> Rule:
    """Of the step that `state` counts."""
    beta1, beta2 = group["betas"]
    return Rule(
        group["lr"],
        beta1,
        beta2,
        group["damping"],
        group["weight_decay"],
        group["trust_radius"],
        int(state["step"]),
    )
