"""TEON (Zhang et al., arXiv 2601.23261): Muon that takes the same projection of two neighbouring layers as one matrix.

The gradients of queries, keys and values share their strongest input directions from layer to layer. The momenta of two
neighbours of a kind, (m, n) each, stand side by side as (m, 2n). Its orthogonal factor is cut in two again, and each
half scaled by what Muon takes for (m, n): where m <= n, a half has 1 / sqrt(2) of the size of Muon's update on average.
All other matrices, and the last of an odd number of layers, are Muon's.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from eco.config import setting
from eco.optim.muon import Muon
from eco.optim.parts.orthogonal import Matrix, OrthogonalConfig, scale, stacks
from eco.optim.parts.polar import orthogonalise

ALIGNMENT_EVERY = 100
"""Steps from one measurement of the alignment to the next; each reads every joint momentum 20 times."""

POWER_ITERATIONS = 10


class Config(OrthogonalConfig):
    """Muon's settings, and how far neighbours share an update."""

    name: str = setting("teon", "Optimizer: the name of a file in eco/optim.", flat="optimizer")
    coupling: float = setting(
        1.0,
        "Share of the joint update, the rest is each layer's own: 1 is TEON, 0 is Muon.",
        flat="muon-teon-coupling",
        ge=0,
        le=1,
    )


def build(config: Config, model: nn.Module) -> "TEON":
    """TEON for the attention inputs of `model`, Muon for its other hidden matrices, AdamW for the rest."""
    return TEON(config, model)


class TEON(Muon):
    """Adds the halves of joint orthogonal factors. State of the first of two parameters beside the momentum: how often
    it was stepped jointly, and the last measured alignment of its matrices."""

    def __init__(self, config: Config, model: nn.Module) -> None:
        super().__init__(config, model, coupling=config.coupling)
        self._pairs = neighbours(model, self._blocks) if config.coupling > 0 else []
        self._joint = 0  # pairs of matrices in the last step

    def metrics(self) -> dict[str, float]:
        """Beside Muon's: `teon_groups`, the pairs of matrices that the last step orthogonalised jointly;
        `teon_alignment`, the mean over them of |cos| of the top right singular vectors of the two momenta, measured at
        every hundredth step; 0 where there are none."""
        measured = [self.state[first]["alignment"] for first, _ in self._pairs if "alignment" in self.state[first]]
        alignment = float(torch.cat(measured).mean()) if measured else 0.0
        return {**super().metrics(), "teon_groups": float(self._joint), "teon_alignment": alignment}

    def _step_matrices(self, matrices: list[Matrix], group: dict[str, Any]) -> None:
        alone = {(matrix.parameter, matrix.block): matrix for matrix in matrices}
        pairs: list[tuple[Matrix, Matrix]] = []
        for first, second in self._pairs:
            if first.grad is not None and second.grad is not None:
                blocks = range(len(self._blocks[first]))
                pairs += [(alone.pop((first, block)), alone.pop((second, block))) for block in blocks]
        super()._step_matrices(list(alone.values()), group)
        self._joint = len(pairs)
        for shape, stack in stacks((_joint_shape(pair), pair[0].weight.device, pair) for pair in pairs):
            self._apply(stack, self._joint_factors(stack, *shape, group), group)
        self._measure()

    def _joint_factors(
        self, pairs: list[tuple[Matrix, Matrix]], shape: torch.Size, device: torch.device, group: dict[str, Any]
    ) -> Tensor:
        directions, coupling = self._directions(pairs, shape, device, group), group["coupling"]
        joint = orthogonalise(directions)
        if coupling == 1:
            return joint
        halves = torch.cat(directions.chunk(2, dim=2))
        for half in halves:
            scale(half, half.abs().amax())
        own = torch.cat(orthogonalise(halves).chunk(2), dim=2)
        return own.float().lerp(joint.float(), coupling)

    def _measure(self) -> None:
        for first, second in self._pairs:
            if first.grad is None or second.grad is None:
                continue
            state = self.state[first]
            count = state.get("joint_steps", 0)
            if count % ALIGNMENT_EVERY == 0:
                momenta = (self.state[p]["momentum"].split(self._blocks[first]) for p in (first, second))
                state["alignment"] = torch.stack([alignment(a, b) for a, b in zip(*momenta, strict=True)])
            state["joint_steps"] = count + 1


def neighbours(
    model: nn.Module, blocks: dict[nn.Parameter, tuple[int, ...]]
) -> list[tuple[nn.Parameter, nn.Parameter]]:
    """The weights of attention inputs, two by two of the same kind, in the order of the layers.

    A module names the layers that read its queries, keys and values in `attention_inputs`. Of a kind are weights under
    one name in modules of one class, of one shape, that stack the same matrices.
    """
    kinds: dict[tuple[Any, ...], list[nn.Parameter]] = {}
    left = dict(blocks)  # a weight that several modules share is there once
    for module in model.modules():
        for name in getattr(module, "attention_inputs", ()):
            weight = getattr(module, name).weight
            if weight in left:
                kinds.setdefault((type(module), name, weight.shape, left.pop(weight)), []).append(weight)
    return [pair for weights in kinds.values() for pair in list(pairwise(weights))[::2]]


def alignment(one: Tensor, other: Tensor) -> Tensor:
    """|cos| of the top right singular vectors of two matrices (m, n), by power iterations: a scalar."""
    return (_top_right(one) @ _top_right(other)).abs()


def _top_right(matrix: Tensor) -> Tensor:
    """(n,), of length 1."""
    vector = torch.randn(matrix.shape[1], generator=torch.Generator().manual_seed(0)).to(matrix.device)
    for _ in range(POWER_ITERATIONS):
        vector = torch.nn.functional.normalize(matrix.mT @ (matrix @ vector), dim=0, eps=1e-30)
    return vector


def _joint_shape(pair: tuple[Matrix, Matrix]) -> torch.Size:
    m, n = pair[0].weight.shape
    return torch.Size((m, 2 * n))
