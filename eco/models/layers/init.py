"""How a language model's weights start: GPT-2's scheme."""

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from eco.models.layers.norm import LayerNorm, RMSNorm
from eco.models.layers.rotary import Rotary

STD = 0.02
RESIDUAL_PROJECTIONS = ("attention.output", "mixer.output", ".down")


@runtime_checkable
class Initialised(Protocol):
    """A module that knows how its own parameters and buffers start; those of its children are filled as usual."""

    def init_own(self, generator: torch.Generator) -> None:
        """Fills them, drawing only from `generator`, on the CPU."""
        ...


@torch.no_grad()
def init_transformer(model: nn.Module, layers: int, generator: torch.Generator) -> None:
    """Fills all parameters and buffers: matrices normal(0, 0.02), biases 0, norms 1.

    The two projections of each block that write into the residual stream are drawn smaller by sqrt(2 x layers), so that
    the stream's variance does not grow with depth (GPT-2, Radford et al. 2019, section 2.3).
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            depth_scale = math.sqrt(2 * layers) if name.endswith(RESIDUAL_PROJECTIONS) else 1.0
            _draw_normal(module.weight, STD / depth_scale, generator)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, LayerNorm):
            module.weight.fill_(1.0)
            module.bias.zero_()
        elif isinstance(module, RMSNorm):
            module.weight.fill_(1.0)
        elif isinstance(module, Rotary):
            module.fill_tables()
        elif isinstance(module, Initialised):
            module.init_own(generator)
        else:
            own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            assert not own, f"nobody initialises {name} ({type(module).__name__})"


def _draw_normal(weight: Tensor, std: float, generator: torch.Generator) -> None:
    weight.copy_(torch.empty(weight.shape, device="cpu").normal_(0.0, std, generator=generator))
