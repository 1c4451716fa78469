"""One optimizer step of a GPT-2 of 30 M parameters (8 x 512, vocabulary 8192): Eco's beside torch's own."""

from collections.abc import Callable
from statistics import median

import torch
from torch import nn

from benchmarks import limits
from benchmarks.measure import Row, alternate, seconds
from eco import machine
from eco.models import gpt2
from eco.models.contract import build_model
from eco.optim import adamw, muon

ADAM_BYTES = 7 * 4
"""Per parameter: read weight, gradient and two moments, write weight and moments, in fp32."""

ECO_MUON, TORCH_MUON = "eco muon", "torch.optim.Muon"
ECO_ADAMW, PEER_ADAMW = "eco adamw", ("torch AdamW fused", "torch AdamW foreach")


def rows(rounds: int = 5) -> list[Row]:
    """Milliseconds a step; Muon's limit is the arithmetic of its own products, AdamW's the memory it must touch."""
    bf16 = machine.training_dtype("cpu").dtype == "bf16"
    dtype = torch.bfloat16 if bf16 else torch.float32
    candidates = {
        ECO_MUON: _steps(lambda model: [muon.build(muon.Config(), model)]),
        TORCH_MUON: _steps(_torch_muon),
        ECO_ADAMW: _steps(lambda model: [adamw.build(adamw.Config(), model)]),
        PEER_ADAMW[0]: _steps(lambda model: [torch.optim.AdamW(model.parameters(), fused=True)]),
        PEER_ADAMW[1]: _steps(lambda model: [torch.optim.AdamW(model.parameters(), foreach=True)]),
    }
    matmul, copy = f"matmul {str(dtype)[6:]}", "copy"
    measured_limits = {matmul: lambda: limits.matmul(dtype), copy: limits.copy_bandwidth}
    samples = alternate(candidates | measured_limits, rounds)
    middle = {name: median(values) for name, values in samples.items()}
    model = _model()
    matrices = [(rows, weight.shape[1]) for weight, blocks in muon.hidden_matrices(model).items() for rows in blocks]
    adam_seconds = ADAM_BYTES * sum(p.numel() for p in model.parameters()) / middle[copy]
    floors = {
        ECO_MUON: (sum(_polar_flops(*shape) for shape in matrices) / middle[matmul], matmul),
        TORCH_MUON: (sum(_newton_schulz_flops(*shape) for shape in matrices) / middle[matmul], matmul),
    }
    peers = {ECO_MUON: middle[TORCH_MUON], ECO_ADAMW: min(middle[peer] for peer in PEER_ADAMW)}
    result = []
    for name in candidates:
        floor, limit_name = floors.get(name, (adam_seconds, copy))
        peer_ratio = peers[name] / middle[name] if name in peers else None
        result.append(
            Row(f"optimizer step: {name}", middle[name] * 1e3, "ms", floor / middle[name], limit_name, peer_ratio)
        )
    return result


def _model() -> nn.Module:
    config = gpt2.Config(width=512, layers=8, heads=8, vocab_size=8192)
    return build_model(gpt2.build, config, 0, torch.device("cpu"))


def _steps(build: Callable[[nn.Module], list[torch.optim.Optimizer]]) -> Callable[[], float]:
    model = _model()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator) * 1e-3
    optimizers = build(model)
    return lambda: seconds(lambda: [optimizer.step() for optimizer in optimizers])


def _torch_muon(model: nn.Module) -> list[torch.optim.Optimizer]:
    """torch's has no part for the other parameters, so AdamW comes beside it."""
    hidden = list(muon.hidden_matrices(model))
    others = [parameter for parameter in model.parameters() if all(parameter is not matrix for matrix in hidden)]
    return [torch.optim.Muon(hidden, adjust_lr_fn="match_rms_adamw"), torch.optim.AdamW(others, fused=True)]


def _polar_flops(rows: int, columns: int) -> float:
    """Of `eco.optim.parts.polar`: four steps, in two pairs where the matrix is long."""
    short, ratio = min(rows, columns), max(rows, columns) / min(rows, columns)
    return short**3 * (2 * (4 * ratio + 10) if ratio >= 1.5 else 4 * (4 * ratio + 2))


def _newton_schulz_flops(rows: int, columns: int) -> float:
    """Five steps of three products."""
    short, ratio = min(rows, columns), max(rows, columns) / min(rows, columns)
    return short**3 * 5 * (4 * ratio + 2)
