"""One optimizer step of a GPT-2 of 30 M parameters (8 x 512, vocabulary 8192): Eco's beside torch's own."""

from collections.abc import Callable
from statistics import median
from types import ModuleType

import torch
from torch import nn

from benchmarks import limits
from benchmarks.measure import Row, alternate, seconds
from eco import machine
from eco.models import gpt2
from eco.models.contract import build_model
from eco.optim import adam_atan2, adamuon, adamw, c3o, gnprox, muon, normuon, teon
from eco.optim.parts.roles import hidden_matrices

ORTHOGONAL: dict[str, ModuleType] = {"muon": muon, "normuon": normuon, "adamuon": adamuon, "teon": teon}
"""Their limit is the arithmetic of their own products."""
ELEMENTWISE: dict[str, ModuleType] = {"adamw": adamw, "adam_atan2": adam_atan2, "c3o": c3o, "gnprox": gnprox}
"""Their limit is the memory that AdamW must touch. A new optimizer is a line here or above, at its defaults."""

ADAM_BYTES = 7 * 4
"""Per parameter: read weight, gradient and two moments, write weight and moments, in fp32."""

SOAP = "eco gnprox, soap"
"""Its limit is the arithmetic of its products, in fp32; the median leaves out its bases' refresh, each tenth step."""

TORCH_MUON = "torch.optim.Muon"
TORCH_ADAMW = {"torch AdamW fused": {"fused": True}, "torch AdamW foreach": {"foreach": True}}

Optimizers = list[torch.optim.Optimizer]


def rows(rounds: int = 5) -> list[Row]:
    """Milliseconds a step."""
    bf16 = machine.training_dtype("cpu").dtype == "bf16"
    dtype = torch.bfloat16 if bf16 else torch.float32
    model = _model()
    optimizers: dict[str, Optimizers] = {
        f"eco {name}": [module.build(module.Config(), model)] for name, module in (ORTHOGONAL | ELEMENTWISE).items()
    }
    optimizers[SOAP] = [gnprox.build(gnprox.Config(gn_mode="soap"), model)]
    optimizers[TORCH_MUON] = _torch_muon(model)
    for name, options in TORCH_ADAMW.items():
        optimizers[name] = [torch.optim.AdamW(model.parameters(), **options)]
    matmul, exact, copy = f"matmul {str(dtype)[6:]}", "matmul float32", "copy"
    measured_limits = {
        matmul: lambda: limits.matmul(dtype),
        exact: lambda: limits.matmul(torch.float32),
        copy: limits.copy_bandwidth,
    }
    candidates = {name: _step(members) for name, members in optimizers.items()}
    samples = alternate(candidates | measured_limits, rounds)
    middle = {name: median(values) for name, values in samples.items()}
    floors = {name: (flops / middle[matmul], matmul) for name, flops in _flops(model).items()}
    floors[SOAP] = _soap_flops(model, gnprox.Config().soap_largest_side) / middle[exact], exact
    adam = ADAM_BYTES * sum(p.numel() for p in model.parameters()) / middle[copy], copy
    fastest = {"orthogonal": middle[TORCH_MUON], "elementwise": min(middle[name] for name in TORCH_ADAMW)}
    result = []
    for name in optimizers:
        floor, limit_name = floors.get(name, adam)
        kind = "orthogonal" if name in floors else "elementwise"
        peer = fastest[kind] / middle[name] if "eco" in name and name != SOAP else None  # torch has no SOAP
        ratio = floor / middle[name]
        result.append(Row(f"optimizer step: {name}", middle[name] * 1e3, "ms", ratio, limit_name, peer))
    return result


def _model() -> nn.Module:
    """With gradients. All candidates step the same weights: what they are makes no step slower."""
    config = gpt2.Config(width=512, layers=8, heads=8, vocab_size=8192)
    model = build_model(gpt2.build, config, 0, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator) * 1e-3
    return model


def _step(optimizers: Optimizers) -> Callable[[], float]:
    return lambda: seconds(lambda: [optimizer.step() for optimizer in optimizers])


def _torch_muon(model: nn.Module) -> Optimizers:
    """torch's has no part for the other parameters, so AdamW comes beside it."""
    hidden = list(hidden_matrices(model))
    others = [parameter for parameter in model.parameters() if all(parameter is not matrix for matrix in hidden)]
    return [torch.optim.Muon(hidden, adjust_lr_fn="match_rms_adamw"), torch.optim.AdamW(others, fused=True)]


def _flops(model: nn.Module) -> dict[str, float]:
    """Of the products in a step. torch's Muon takes stacked projections as one matrix, Eco's one by one."""
    blocks = hidden_matrices(model)
    matrices = [(rows, weight.shape[1]) for weight in blocks for rows in blocks[weight]]
    joint = [(rows, weight.shape[1]) for weight, _ in teon.neighbours(model, blocks) for rows in blocks[weight]]
    own = sum(_polar_flops(*shape) for shape in matrices)
    saved = sum(2 * _polar_flops(rows, columns) - _polar_flops(rows, 2 * columns) for rows, columns in joint)
    theirs = sum(_newton_schulz_flops(*weight.shape) for weight in blocks)
    return {f"eco {name}": own - (saved if name == "teon" else 0) for name in ORTHOGONAL} | {TORCH_MUON: theirs}


def _polar_flops(rows: int, columns: int) -> float:
    """Of `eco.optim.parts.polar`: four steps, in two pairs where the matrix is long; half of what is symmetric."""
    short, ratio = min(rows, columns), max(rows, columns) / min(rows, columns)
    return short**3 * (2 * (3 * ratio + 7) if ratio >= 1.5 else 4 * (3 * ratio + 1))


def _newton_schulz_flops(rows: int, columns: int) -> float:
    """Five steps of three products."""
    short, ratio = min(rows, columns), max(rows, columns) / min(rows, columns)
    return short**3 * 5 * (4 * ratio + 2)


def _soap_flops(model: nn.Module, largest_side: int) -> float:
    """Of each side that has a basis: its products, and the turning of the gradient and of the update."""
    return sum(
        6 * rows * weight.shape[1] * side
        for weight, blocks in hidden_matrices(model).items()
        for rows in blocks
        for side in (rows, weight.shape[1])
        if side <= largest_side
    )
